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
from typing import Any, Literal, NamedTuple

from filelock import FileLock
from pydantic import ValidationError

from core.config import Frozen
from core.errors import StitchLensError
from core.models.pairs import get_pair
from core.progress import STATUS_ENV
from core.workspace import demonstration
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
_BAR = re.compile(r"\d+%\||/s[],]")
"""What a line of a progress bar holds."""


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
            report = json.loads((self.folder / "progress.json").read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return report if isinstance(report, dict) else {}

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
        """Why it is over: the last sentence on stderr; empty for a job that runs or is done."""
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
                return self._last_sentence() or f"It ended with exit code {self.rc} and no message."

    def _last_sentence(self) -> str:
        text = _ESCAPES.sub("", _tail(self.folder / "stderr"))
        lines = [line.strip() for line in re.split(r"[\r\n]+", text)]
        sentences = [line for line in lines if line and not _BAR.search(line)]
        return sentences[-1] if sentences else ""

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
        record = self.record
        private = None if record.private is None else Path(record.private)
        return run(record.pair, record.command, record.title, record.makes, (), private)

    def forget(self) -> None:
        """Remove a job that is over. Raises StitchLensError while it runs."""
        if not self.over:
            raise StitchLensError(
                f"'{self.record.title}' running", "a job that is over", "cancel it first"
            )
        shutil.rmtree(self.folder, ignore_errors=True)


def run(
    pair: str,
    args: Sequence[str],
    title: str,
    makes: str = "",
    command: Sequence[str] = CORE,
    private: Path | None = None,
) -> Job:
    """Run `python -m core *args`, or another `command` with these arguments, in the background.

    With `private`, what it makes goes to that folder of one person's workspaces. Raises
    StitchLensError in a demonstration, and where a job of this pair runs: one fills all cores.
    """
    demonstration.refuse("a job")
    home = _home(pair)
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / ".lock", timeout=30):
        earlier = jobs(pair)
        if busy := next((job for job in earlier if not job.over), None):
            raise StitchLensError(
                f"'{busy.record.title}' running for '{pair}'",
                "one job of a pair at a time",
                "wait for it or cancel it",
            )
        for job in earlier[KEEP:]:
            job.forget()

        now = datetime.now(UTC)
        folder = home / f"{now:%Y%m%dT%H%M%S%f}-{secrets.token_hex(2)}"
        folder.mkdir()
        record = Record(
            pair=pair,
            title=title,
            command=(*command, *args),
            makes=makes,
            started=now.timestamp(),
            private=private and str(private),
        )
        record = record.model_copy(update={"pid": _spawned(folder, record)})
        _write(folder, record)
        return Job(folder, record)


def _spawned(folder: Path, record: Record) -> int:
    """Start a job's process, in a group of its own; its number."""
    env = os.environ | {STATUS_ENV: str(folder / "progress.json"), "PYTHONUNBUFFERED": "1"}
    if record.private:
        env[PRIVATE_ENV] = record.private

    with (
        (folder / "stdout").open("wb") as out,
        (folder / "stderr").open("wb") as err,
        (folder / "alive").open("wb") as alive,
    ):
        fcntl.flock(alive, fcntl.LOCK_EX)  # the job inherits it: see `_alive`
        _write(folder, record)
        process = subprocess.Popen(
            ["/bin/sh", "-c", _WRAPPER, str(folder / "rc"), *record.command],
            cwd=PROJECT,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            pass_fds=(alive.fileno(),),
            env=env,
        )

    threading.Thread(target=process.wait, daemon=True).start()  # so that it leaves no zombie
    return process.pid


def jobs(pair: str) -> list[Job]:
    """Those of a pair, newest first. A folder without a readable `job.json` is passed over."""
    known = []
    for folder in sorted(_home(pair).glob("*T*"), reverse=True):
        with suppress(OSError, ValidationError):
            record = Record.model_validate_json((folder / "job.json").read_bytes())
            known.append(Job(folder, record))
    return known


def latest(pair: str) -> Job | None:
    return next(iter(jobs(pair)), None)


class Command(NamedTuple):
    """A subcommand that may run in the background: what a person reads of it and the artifact that
    it ends as, both with options' names in braces; the options that it takes by their place; and
    whether it prints JSON."""

    title: str
    makes: str = ""
    by_place: tuple[str, ...] = ()
    prints: bool = False


COMMANDS = {
    "build": Command("Build {pair}"),
    "svcca": Command("Compare layers (SVCCA)", "svcca"),
    "stitch fit": Command("Fit {name}", "stitches/{name}", prints=True),
    "stitch import": Command("Import {name}", "stitches/{name}", ("file",), prints=True),
    "sae import": Command("Import SAE {name}", "saes/{name}", ("sae",), prints=True),
    "sae train": Command("Train SAEs {name}", "sae_training/{name}"),
    "features build": Command("Features of {sae}", "features/{sae}"),
}


def start(pair: str, command: str, private: Path | None = None, **options: Any) -> Job:
    """One of COMMANDS in the background, such as `start("nano", "stitch fit", layer_a=2, …)`: the
    command line's own options, None where one is not given. What is there and current is kept.

    With `private`, what it makes goes to that folder of one person's workspaces. Raises
    StitchLensError for a name that is taken or unfit for a file, a layer out of range, SAEs that
    cannot be or do not fit into memory, or a job already running.
    """
    chosen = COMMANDS[command]
    options = {name: value for name, value in options.items() if value is not None}
    _check(pair, chosen, options, private)
    if command == "sae train":
        options |= _training(pair, options)

    args = [*command.split(), pair, *(str(options[name]) for name in chosen.by_place)]
    for name, value in options.items():
        if name not in chosen.by_place:
            args += [f"--{name.replace('_', '-')}", _typed(value)]
    if chosen.prints:
        args.append("--json")

    words = options | {"pair": pair}
    title, makes = chosen.title.format(**words), chosen.makes.format(**words)
    return run(pair, args, title, makes, private=private)


def _check(pair: str, command: Command, options: Mapping[str, Any], private: Path | None) -> None:
    """Refuse at once what the command itself would refuse after loading two models."""
    spec = get_pair(pair)
    if "layer_a" in options:
        spec.check_layers(options["layer_a"], options["layer_b"])
    if "layer" in options:
        spec.check_layers(options["layer"], 0)
    if "name" in options:
        folder = command.makes.partition("/")[0]
        check_name(Workspace(pair, private=private), folder, options["name"])


def _training(pair: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a set of SAEs, checked: that they can be, and fit into memory."""
    from core.saes.settings import TrainingSet, check_fits, parsed_widths, training_set

    given = {name: value for name, value in options.items() if name in TrainingSet.model_fields}
    config = training_set(given | {"widths": parsed_widths(options["widths"])})

    active = int(Workspace(pair).entry(f"saes/{options['sae']}").makers.get("k", 1))
    for one in config.runs(active):
        check_fits(get_pair(pair).b.d_model, one)
    return {name: getattr(config, name) for name in given}


def _typed(value: Any) -> str:
    """As one types an option's value: lists with commas, numbers short."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return f"{value:.15g}" if isinstance(value, float) else str(value)


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
