"""Processes that torchrun starts together: they wait for one another, and none waits for a dead
one.

Every rank leaves a sign of life in torchrun's store and looks at those of the others. Where one
stays away, or says that it failed, the rest end with a sentence; what all of them did is on disk,
and the same command goes on from there.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any

from core.activations.shards import Shard
from core.errors import StitchLensError

if TYPE_CHECKING:
    import torch.distributed as dist

BEAT = 3.0
"""Seconds between two signs of life."""
PATIENCE = 30.0
"""Seconds after which a rank that gives none is dead."""
GRACE = 15.0
"""Seconds that this process may take to end by itself, before it is ended."""
LONG = timedelta(days=30)
"""Ranks wait for the slowest of them, however long that takes."""
AGAIN = "the same command goes on from what is saved"


def together(environment: Mapping[str, str]) -> bool:
    """Whether torchrun started this process with others, which it can wait for."""
    return "RANK" in environment and "MASTER_ADDR" in environment


@dataclass
class Watch:
    """One rank among `shard.count`, and its eyes on the others."""

    shard: Shard
    store: "dist.Store"
    reason: str = ""
    """Why this rank is to end, once it is."""
    over: threading.Event = field(default_factory=threading.Event)

    def begin(self) -> None:
        self._leave("beat", "0")
        threading.Thread(target=self._run, daemon=True).start()

    def barrier(self) -> None:
        """Wait until every rank is here; from then on they need not live. Raises StitchLensError
        where one does not come."""
        import torch.distributed as dist

        try:
            dist.monitored_barrier(timeout=LONG)
        except RuntimeError as e:
            raise self.ended(f"a rank that did not come ({_line(e)})") from None
        self.over.set()

    def ended(self, otherwise: str) -> StitchLensError:
        """The sentence with which this rank ends."""
        return StitchLensError(
            f"{self.reason or otherwise} while rank {self.shard} was at work",
            "all ranks alive",
            AGAIN,
        )

    def failed(self, error: BaseException) -> None:
        """Tell the others that this rank ends."""
        self.over.set()
        with contextlib.suppress(RuntimeError):
            self._leave("failed", _line(error))

    def _leave(self, what: str, text: str) -> None:
        self.store.set(f"{what}/{self.shard.index}", text)

    def _run(self) -> None:
        """Give signs of life and look for those of others, until it is over."""
        others = [rank for rank in range(self.shard.count) if rank != self.shard.index]
        latest: dict[int, tuple[bytes, float]] = {}
        beat = 0
        while not self.over.wait(BEAT):
            beat += 1
            try:
                self._leave("beat", str(beat))
                self.reason = self._lost(others, latest)
            except RuntimeError as e:  # the store lives in torchrun, or in rank 0
                self.reason = f"torchrun's store gone ({_line(e)})"
            if self.reason and not self.over.is_set():
                self._end()
                return

    def _lost(
        self,
        others: list[int],
        latest: dict[int, tuple[bytes, float]],
    ) -> str:
        """Which of the others is dead; empty where all live."""
        now = time.monotonic()
        for rank in others:
            if self.store.check([f"failed/{rank}"]):
                return f"rank {rank} failed ({self.store.get(f'failed/{rank}').decode()})"

            key = f"beat/{rank}"
            sign = self.store.get(key) if self.store.check([key]) else b""
            if rank not in latest or latest[rank][0] != sign:
                latest[rank] = (sign, now)
            if now - latest[rank][1] > PATIENCE:
                return f"no sign of life from rank {rank} for {PATIENCE:.0f} s"
        return ""

    def _end(self) -> None:
        """Interrupt what this process computes; where that does not help, end it."""
        os.kill(os.getpid(), signal.SIGTERM)
        if not self.over.wait(GRACE):
            os.write(2, f"{self.ended('')}\n".encode())
            os._exit(2)


@contextlib.contextmanager
def watched(shard: Shard, environment: Mapping[str, str]) -> Iterator[Watch]:
    """Join the other ranks. Raises StitchLensError where they do not come together, and in the
    midst of what is computed where one of them dies or this one is told to stop."""
    import torch.distributed as dist

    if not _resolves():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        dist.init_process_group("gloo", rank=shard.index, world_size=shard.count, timeout=LONG)
    except (RuntimeError, ValueError) as e:
        raise StitchLensError(
            f"ranks that do not come together ({_line(e)})",
            f"{shard.count} processes that torchrun started",
            "see `python -m core launch --help`",
        ) from None

    watch = Watch(shard, _store(environment))

    def stop(number: int, frame: FrameType | None) -> None:
        # torchrun itself ends the ranks that are left where one has died.
        raise watch.ended("a request to stop, as when another rank has died,")

    before: Any = signal.signal(signal.SIGTERM, stop)
    try:
        watch.begin()
        yield watch
    except BaseException as e:
        watch.failed(e)
        raise
    finally:
        watch.over.set()
        signal.signal(signal.SIGTERM, before)
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


def _store(environment: Mapping[str, str]) -> "dist.Store":
    """A line of our own to the store: that of the process group may be waited on."""
    import torch.distributed as dist

    place = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    client = dist.TCPStore(*place, is_master=False, timeout=timedelta(seconds=PATIENCE))
    attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"stitchlens/{attempt}", client)


def _resolves() -> bool:
    """Whether the name of this machine leads to an address, by which others find it."""
    try:
        socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        return False
    return True


def _line(error: BaseException) -> str:
    """The first line of what went wrong."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
