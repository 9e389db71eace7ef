"""One process's share of a pass over documents: which windows it reads, and what it saves on the
way."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from core.activations.shards import UNDIVIDED, Shard
from core.errors import StitchLensError
from core.workspace.disk import beside, put_once

CHECKPOINT = 16
"""Windows between two saves."""

T = TypeVar("T")


@runtime_checkable
class Accumulated(Protocol):
    """What a pass accumulates, in arrays."""

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """By name; what is written into them is accumulated."""
        ...

    def merge(self, other: Any) -> None: ...


@dataclass
class Share:
    """The share of one shard in one pass, and the folder and name under which it saves its state;
    without a folder nothing is saved."""

    shard: Shard = UNDIVIDED
    folder: Path | None = None
    name: str = ""
    steps: int = field(default=0, init=False)
    """Windows read so far."""

    def of(self, shard: Shard) -> "Share":
        """The share of another shard in the same pass."""
        return Share(shard, self.folder, self.name)

    @property
    def path(self) -> Path | None:
        if self.folder is None:
            return None
        of = f"{self.shard.index:02d}-of-{self.shard.count:02d}"
        return self.folder / f"{self.name}.{of}.safetensors"

    def begin(
        self,
        state: Accumulated,
        windows: Sequence[int],
    ) -> list[int]:
        """Which of the windows, that have these numbers in their texts, are left to read; what the
        others gave is in `state`."""
        own = [k for k, number in enumerate(windows) if self.shard.reads(number)]
        self.steps = 0
        if self.path and self.path.exists():
            self.steps = _load(self.path, state)
        return own[self.steps :]

    def agreed(
        self,
        what: str,
        make: Callable[[], T],
    ) -> T | None:
        """What all shards of a pass go by, made by the first of them; None where there is but one,
        which finds it as it reads."""
        if self.folder is None:
            return None
        note = self.folder / f"{self.name}.{what}.json"
        if not note.exists():
            put_once(note, json.dumps(make()))
        return json.loads(note.read_text("utf-8"))

    def enter(self, state: Accumulated) -> None:
        """Count a window; now and then, save."""
        self.steps += 1
        if self.path and self.steps % CHECKPOINT == 0:
            self._save(state)

    def finish(self, state: Accumulated) -> None:
        if self.path and self.steps % CHECKPOINT:
            self._save(state)

    def _save(self, state: Accumulated) -> None:
        assert self.path is not None
        with beside(self.path) as part:
            save_file(state.arrays, part, {"steps": str(self.steps)})


ALONE = Share()
"""All of the documents, nothing saved."""


def merged(
    share: Share,
    count: int,
    empty: Callable[[], Any],
) -> Any:
    """What `count` shards accumulated, added in the order of their numbers."""
    total = empty()
    for index in range(count):
        path = share.of(Shard(index, count)).path
        if path is None or not path.exists():  # a shard without a window
            continue
        state = empty()
        _load(path, state)
        total.merge(state)
    return total


def _load(
    path: Path,
    state: Accumulated,
) -> int:
    """Fill the arrays of a state from a file; how many windows it holds. Raises StitchLensError
    where the file is not such a one."""
    try:
        stored = load_file(path)
        for name, array in state.arrays.items():
            array[...] = stored[name]
        with safe_open(path, "np") as f:
            return int(f.metadata()["steps"])
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as e:
        raise StitchLensError(
            f"unreadable state in {path.name} ({e})",
            "what a shard wrote",
            f"delete {path} and run its shard again",
        ) from e
