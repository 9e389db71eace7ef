"""Background jobs: commands of `python -m core` that outlive the page, and the app, that started
them.

A job is a folder `jobs/<pair>/<id>/` in the user's cache with `job.json`, `progress.json` (see
`core.progress`), `stdout`, `stderr` and, once over, `rc`. All that is known of a job is read from
there, so nothing is lost with the app.
"""

import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from pydantic import ValidationError

from core.config import Frozen
from core.errors import StitchLensError
from core.models.pairs import get_pair
from core.progress import STATUS_ENV
from core.workspace.artifacts import check_name
from core.workspace.disk import beside
from core.workspace.places import PRIVATE_ENV, PROJECT, user_cache
from core.workspace.store import Workspace

State = Literal["running", "paused", "done", "failed", "cancelled", "lost"]
CORE = (sys.executable, "-m", "core")
KEEP = 20
"""Finished jobs kept for a pair; older ones are removed when a new one starts."""

# Runs the command ("$@") and writes its exit code to the file $0, whole or not at all. It outlives
# SIGTERM to do so.
_WRAPPER = 'trap : TERM; "$@"; echo $? > "$0.part"; mv -f "$0.part" "$0"'
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Record(Frozen):
    """`job.json`: what was asked, and which process does it."""

    pair: str
    title: str
    command: tuple[str, ...]
    makes: str = ""
    """The artifact that the job puts into the workspace, or empty."""
    started: float
    """Seconds since the epoch."""
    pid: int | None = None
    """Of the process group too."""
    private: str | None = None
    """The folder of the person's private workspaces that it writes to, if any."""


@dataclass(frozen=True)
class Job:
    folder: Path
    record: Record

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def rc(self) -> int | None:
        """Exit code; None while it runs, or where it died without one."""
        try:
            return int((self.folder / "rc").read_text())
        except (OSError, ValueError):
            return None

    @property
    def alive(self) -> bool:
        return _alive(self.folder)

    @property
    def state(self) -> State:
        rc = self.rc
        if rc is None:
            if self.alive:
                return "paused" if (self.folder / "paused").exists() else "running"
            rc = self.rc  # it may have ended just now
        if rc == 0:
            return "done"
        if (self.folder / "cancelled").exists():
            return "cancelled"
        return "lost" if rc is None else "failed"

    @property
    def over(self) -> bool:
        return self.state not in ("running", "paused")

    @property
    def progress(self) -> dict[str, Any]:
        """`step`, `done`, `total`, `unit`, `rate` (units/s), `seconds_left`; empty before the first
        report."""
        try:
            found = json.loads((self.folder / "progress.json").read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def seconds(self) -> float:
        """How long it has run, or ran."""
        return max(0.0, (self.ended if self.over else time.time()) - self.record.started)

    @property
    def ended(self) -> float:
        """When it was over, or last heard of, in seconds since the epoch."""
        for name in ("rc", "cancelled", "stderr"):
            with suppress(OSError):
                return (self.folder / name).stat().st_mtime
        return self.record.started

    @property
    def message(self) -> str:
        """Why it is over: the last sentence on stderr, progress bars left out; empty for a job that
        runs or is done."""
        match self.state:
            case "running" | "paused" | "done":
                return ""
            case "cancelled":
                return "Cancelled; what it had read so far is kept, and it goes on from there."
            case "lost":
                return (
                    "Its process is gone without a word (a restart, or too little memory); start it"
                    " again."
                )
            case "failed":
                lines = re.split(r"[\r\n]+", _ESCAPES.sub("", _tail(self.folder / "stderr")))
                said = [
                    line.strip()
                    for line in lines
                    if line.strip() and not re.search(r"\d+%\||/s[],]", line)
                ]
                return said[-1] if said else f"It ended with exit code {self.rc} and no message."

    @property
    def log(self) -> str:
        """The end of stderr, as a terminal would show it."""
        return re.sub(r"[^\n]*\r(?!\n)", "", _ESCAPES.sub("", _tail(self.folder / "stderr")))

    def cancel(self, grace: float = 5.0) -> State:
        """Ask the whole process group to stop, wait up to `grace` seconds, then kill it; returns
        the state then."""
        if self.rc is not None or self.record.pid is None or not self.alive:
            return self.state
        (self.folder / "cancelled").touch()
        self.go_on()
        for sign, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
            with suppress(ProcessLookupError):
                os.killpg(self.record.pid, sign)
            end = time.monotonic() + patience
            while time.monotonic() < end and self.alive:
                time.sleep(0.02)
            if not self.alive:
                break
        return self.state

    def pause(self) -> State:
        """Stop the whole process group where it is: its memory stays, its cores are free."""
        if self.state == "running" and self.record.pid is not None:
            (self.folder / "paused").touch()
            with suppress(ProcessLookupError):
                os.killpg(self.record.pid, signal.SIGSTOP)
        return self.state

    def go_on(self) -> State:
        """Let a paused job run again."""
        (self.folder / "paused").unlink(missing_ok=True)
        if self.record.pid is not None and self.alive:
            with suppress(ProcessLookupError):
                os.killpg(self.record.pid, signal.SIGCONT)
        return self.state

    def again(self) -> "Job":
        """The same command once more, for a job that is over; what it had kept is not made anew.
        Raises StitchLensError while it, or another of the pair, runs."""
        r = self.record
        return start(
            r.pair, r.command, r.title, r.makes, (), None if r.private is None else Path(r.private)
        )

    def forget(self) -> None:
        """Remove a job that is over. Raises StitchLensError while it runs."""
        if not self.over:
            raise StitchLensError(
                f"'{self.record.title}' running", "a job that is over", "cancel it first"
            )
        shutil.rmtree(self.folder, ignore_errors=True)


def start(
    pair: str,
    args: Sequence[str],
    title: str,
    makes: str = "",
    command: Sequence[str] = CORE,
    private: Path | None = None,
) -> Job:
    """Run `python -m core *args` in the background.

    `command` is the program that gets `args`: any executable, for what is not a subcommand of ours.
    With `private`, what it makes goes to that folder of one person's workspaces. Raises
    StitchLensError where a job of this pair is running: the models of one fit fill a laptop's
    cores.
    """
    home = _home(pair)
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / ".lock", timeout=30):
        earlier = jobs(pair)
        for job in earlier:
            if not job.over:
                raise StitchLensError(
                    f"'{job.record.title}' running for '{pair}'",
                    "one job of a pair at a time",
                    "wait for it or cancel it",
                )
        for job in earlier[KEEP:]:
            job.forget()
        now = datetime.now(UTC)
        folder = home / f"{now:%Y%m%dT%H%M%S%f}-{secrets.token_hex(2)}"
        folder.mkdir()
        full = (*command, *args)
        record = Record(
            pair=pair,
            title=title,
            command=full,
            makes=makes,
            started=now.timestamp(),
            private=private and str(private),
        )
        env = os.environ | {STATUS_ENV: str(folder / "progress.json"), "PYTHONUNBUFFERED": "1"}
        with (
            (folder / "stdout").open("wb") as out,
            (folder / "stderr").open("wb") as err,
            (folder / "alive").open("wb") as alive,
        ):
            fcntl.flock(alive, fcntl.LOCK_EX)
            _write(folder, record)
            process = subprocess.Popen(
                ["/bin/sh", "-c", _WRAPPER, str(folder / "rc"), *full],
                cwd=PROJECT,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                pass_fds=(alive.fileno(),),
                env=env | ({PRIVATE_ENV: str(private)} if private else {}),
            )
        record = record.model_copy(update={"pid": process.pid})
        _write(folder, record)
        threading.Thread(target=process.wait, daemon=True).start()  # so that it leaves no zombie
        return Job(folder, record)


def jobs(pair: str) -> list[Job]:
    """All jobs of a pair that are known, newest first. A folder without a readable `job.json` is
    passed over."""
    found = []
    for folder in sorted(_home(pair).glob("*T*"), reverse=True):
        with suppress(OSError, ValidationError):
            found.append(
                Job(folder, Record.model_validate_json((folder / "job.json").read_bytes()))
            )
    return found


def latest(pair: str) -> Job | None:
    return next(iter(jobs(pair)), None)


def start_fit(
    pair: str,
    layer_a: int,
    layer_b: int,
    *,
    method: str,
    metric: str,
    alpha: float,
    positions: int,
    name: str,
) -> Job:
    """Fit and evaluate a stitch in the background; it ends as artifact `stitches/<name>`.

    Raises StitchLensError for a name that is taken or unfit for a file, a layer out of range, or a
    job already running.
    """
    get_pair(pair).check_layers(layer_a, layer_b)
    check_name(Workspace(pair), "stitches", name)
    args = {
        "--layer-a": layer_a,
        "--layer-b": layer_b,
        "--method": method,
        "--metric": metric,
        "--alpha": f"{alpha:g}",
        "--positions": positions,
        "--name": name,
    }
    flat = [str(part) for item in args.items() for part in item]
    return start(
        pair, ["stitch", "fit", pair, *flat, "--json"], f"Fit {name}", makes=f"stitches/{name}"
    )


def start_import(
    pair: str,
    file: Path,
    layer_a: int,
    layer_b: int,
    name: str,
    orientation: str | None = None,
    private: Path | None = None,
) -> Job:
    """Bring a stitch from a file in the background; it ends as artifact `stitches/<name>` with its
    report card.

    Raises StitchLensError for a name that is taken or unfit for a file, a layer out of range, or a
    job already running.
    """
    get_pair(pair).check_layers(layer_a, layer_b)
    check_name(Workspace(pair, private=private), "stitches", name)
    args = [
        "stitch",
        "import",
        pair,
        str(file),
        "--layer-a",
        str(layer_a),
        "--layer-b",
        str(layer_b),
        "--name",
        name,
    ]
    if orientation:
        args += ["--orientation", orientation]
    return start(
        pair, [*args, "--json"], f"Import {name}", makes=f"stitches/{name}", private=private
    )


def start_sae_import(
    pair: str,
    ref: str,
    name: str,
    layer: int | None = None,
    private: Path | None = None,
    scale: float | None = None,
) -> Job:
    """Bring an SAE of A from a zip or RELEASE:ID in the background; it ends as artifact
    `saes/<name>` with its report card. `scale` is the factor by which its training scaled
    activations, where it is known.

    Raises StitchLensError for a name that is taken or unfit for a file, a layer out of range, or a
    job already running.
    """
    if layer is not None:
        get_pair(pair).check_layers(layer, 0)
    check_name(Workspace(pair, private=private), "saes", name)
    args = ["sae", "import", pair, ref, "--name", name] + (
        [] if layer is None else ["--layer", str(layer)]
    )
    args += [] if scale is None else ["--scale", str(scale)]
    return start(
        pair, [*args, "--json"], f"Import SAE {name}", makes=f"saes/{name}", private=private
    )


def start_features(pair: str, sae: str, stitch: str, private: Path | None = None) -> Job:
    """Measure every feature of an SAE of the workspace before and after transfer through a stitch,
    in the background."""
    args = ["features", "build", pair, "--sae", sae, "--stitch", stitch]
    return start(pair, args, f"Features of {sae}", makes=f"features/{sae}", private=private)


def start_sae_training(
    pair: str, sae: str, stitch: str, name: str, given: Mapping[str, Any]
) -> Job:
    """Train SAEs of B from several starts in the background; they end as the set
    `sae_training/<name>`. `given` are settings of `TrainingSet`, `widths` as text with commas.

    Raises StitchLensError for a name that is taken or unfit for a file, settings that cannot be,
    widths that do not fit into memory, or a job already running.
    """
    from core.saes.settings import check_fits, parsed_widths, training_set

    check_name(Workspace(pair), "sae_training", name)
    config = training_set(dict(given) | {"widths": parsed_widths(given["widths"])})
    for run in config.runs(int(Workspace(pair).entry(f"saes/{sae}").makers.get("k", 1))):
        check_fits(get_pair(pair).b.d_model, run)
    args = {
        "--widths": ",".join(map(str, config.widths)),
        "--starts": ",".join(config.starts),
        "--seeds": config.seeds,
        "--positions": config.positions,
        "--lr": f"{config.lr:g}",
        "--auxiliary": f"{config.auxiliary:g}",
        "--sae": sae,
        "--stitch": stitch,
        "--name": name,
    }
    flat = [str(part) for item in args.items() for part in item]
    return start(
        pair, ["sae", "train", pair, *flat], f"Train SAEs {name}", makes=f"sae_training/{name}"
    )


def start_build(pair: str, positions: int | None = None) -> Job:
    """The whole workspace of a pair in the background; what is there and current is kept."""
    few = [] if positions is None else ["--positions", str(positions)]
    return start(pair, ["build", pair, *few], f"Build {pair}")


def start_svcca(pair: str) -> Job:
    return start(pair, ["svcca", pair], "Compare layers (SVCCA)", makes="svcca")


def _home(pair: str) -> Path:
    return user_cache() / "jobs" / get_pair(pair).key


def _write(folder: Path, record: Record) -> None:
    with beside(folder / "job.json") as part:
        part.write_text(record.model_dump_json(indent=1), "utf-8")


def _alive(folder: Path) -> bool:
    """Whether a process of the job lives: the first one and all that it starts share a lock on the
    file `alive`, which the system lets go with the last of them. Neither a reused pid nor a clock
    that jumps can deceive it."""
    try:
        with (folder / "alive").open("rb") as f:
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


def _tail(path: Path, size: int = 20_000) -> str:
    try:
        with path.open("rb") as f:
            f.seek(max(0, path.stat().st_size - size))
            return f.read().decode("utf-8", "replace")
    except OSError:
        return ""
