"""Background jobs: commands of `python -m core` that outlive the page, and the app, that started them.

A job is a folder `jobs/<pair>/<id>/` in the user's cache with `job.json`, `progress.json` (see `core.progress`),
`stdout`, `stderr` and, once over, `rc`. All that is known of a job is read from there, so nothing is lost with the app.
"""

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
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil
from filelock import FileLock
from pydantic import ValidationError

from core.errors import StitchLensError
from core.pairs import Frozen, get_pair
from core.progress import STATUS_ENV
from core.store import PROJECT, STALE_SECONDS, Workspace, beside, user_cache

State = Literal["running", "done", "failed", "cancelled", "lost"]
CORE = (sys.executable, "-m", "core")
KEEP = 20
"""Finished jobs kept for a pair; older ones are removed when a new one starts."""
START_GRACE = 10.0
"""Seconds in which a job may have no process yet."""

# Runs the command ("$@") and writes its exit code to the file $0, whole or not at all. It outlives SIGTERM to do so.
_WRAPPER = 'trap : TERM; "$@"; echo $? > "$0.part"; mv -f "$0.part" "$0"'
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


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
    pid_started: float | None = None
    """Start time of that process, so that a reused pid is not taken for the job."""


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
        return bool(_processes(self.record))

    @property
    def state(self) -> State:
        rc = self.rc
        if rc is None:
            starting = self.record.pid is None and time.time() - self.record.started < START_GRACE
            if starting or self.alive:
                return "running"
            rc = self.rc  # it may have ended just now
        if rc == 0:
            return "done"
        if (self.folder / "cancelled").exists():
            return "cancelled"
        return "lost" if rc is None else "failed"

    @property
    def progress(self) -> dict[str, Any]:
        """`step`, `done`, `total`, `unit`, `rate` (units/s), `seconds_left`; empty before the first report."""
        try:
            found = json.loads((self.folder / "progress.json").read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def seconds(self) -> float:
        """How long it has run, or ran."""
        return max(0.0, (time.time() if self.state == "running" else self.ended) - self.record.started)

    @property
    def ended(self) -> float:
        """When it was over, or last heard of, in seconds since the epoch."""
        for name in ("rc", "cancelled", "stderr"):
            with suppress(OSError):
                return (self.folder / name).stat().st_mtime
        return self.record.started

    @property
    def message(self) -> str:
        """Why it is over: the last sentence on stderr, progress bars left out; empty for a job that runs or is done."""
        match self.state:
            case "running" | "done":
                return ""
            case "cancelled":
                return "Cancelled; what it had read so far is kept."
            case "lost":
                return "Its process is gone without a word (a restart, or too little memory); start it again."
            case "failed":
                lines = re.split(r"[\r\n]+", _ESCAPES.sub("", _tail(self.folder / "stderr")))
                said = [line.strip() for line in lines if line.strip() and not re.search(r"\d+%\||/s[],]", line)]
                return said[-1] if said else f"It ended with exit code {self.rc} and no message."

    @property
    def log(self) -> str:
        """The end of stderr, as a terminal would show it."""
        return re.sub(r"[^\n]*\r(?!\n)", "", _ESCAPES.sub("", _tail(self.folder / "stderr")))

    def cancel(self, grace: float = 5.0) -> State:
        """Ask the whole process group to stop, wait up to `grace` seconds, then kill it; returns the state then."""
        if self.rc is not None or self.record.pid is None or not self.alive:
            return self.state
        (self.folder / "cancelled").touch()
        for sign, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
            with suppress(ProcessLookupError):
                os.killpg(self.record.pid, sign)
            end = time.monotonic() + patience
            while time.monotonic() < end and self.alive:
                time.sleep(0.02)
            if not self.alive:
                break
        return self.state

    def forget(self) -> None:
        """Remove a job that is over. Raises StitchLensError while it runs."""
        if self.state == "running":
            raise StitchLensError(f"'{self.record.title}' running", "a job that is over", "cancel it first")
        shutil.rmtree(self.folder, ignore_errors=True)


def start(pair: str, args: Sequence[str], title: str, makes: str = "", command: Sequence[str] = CORE) -> Job:
    """Run `python -m core *args` in the background.

    `command` is the program that gets `args`: any executable, for what is not a subcommand of ours.
    Raises StitchLensError where a job of this pair is running: the models of one fit fill a laptop's cores.
    """
    home = _home(pair)
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / ".lock", timeout=30):
        earlier = jobs(pair)
        for job in earlier:
            if job.state == "running":
                raise StitchLensError(
                    f"'{job.record.title}' running for '{pair}'", "one job of a pair at a time",
                    "wait for it or cancel it",
                )  # fmt: skip
        for job in earlier[KEEP:]:
            job.forget()
        now = datetime.now(UTC)
        folder = home / f"{now:%Y%m%dT%H%M%S%f}-{secrets.token_hex(2)}"
        folder.mkdir()
        full = (*command, *args)
        record = Record(pair=pair, title=title, command=full, makes=makes, started=now.timestamp())
        _write(folder, record)
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            process = subprocess.Popen(
                ["/bin/sh", "-c", _WRAPPER, str(folder / "rc"), *full], cwd=PROJECT, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                env=os.environ | {STATUS_ENV: str(folder / "progress.json"), "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        with suppress(psutil.NoSuchProcess):
            record = record.model_copy(
                update={"pid": process.pid, "pid_started": psutil.Process(process.pid).create_time()}
            )
        _write(folder, record)
        threading.Thread(target=process.wait, daemon=True).start()  # so that it leaves no zombie
        return Job(folder, record)


def jobs(pair: str) -> list[Job]:
    """All jobs of a pair that are known, newest first. A folder without a readable `job.json` is passed over."""
    found = []
    for folder in sorted(_home(pair).glob("*T*"), reverse=True):
        with suppress(OSError, ValidationError):
            found.append(Job(folder, Record.model_validate_json((folder / "job.json").read_bytes())))
    return found


def latest(pair: str) -> Job | None:
    return next(iter(jobs(pair)), None)


def start_fit(
    pair: str, layer_a: int, layer_b: int, *, method: str, metric: str, alpha: float, positions: int, name: str
) -> Job:
    """Fit and evaluate a stitch in the background; it ends as artifact `stitches/<name>`.

    Raises StitchLensError for a name that is taken or unfit for a file, a layer out of range, or a job already running.
    """
    get_pair(pair).check_layers(layer_a, layer_b)
    _free(pair, name)
    args = {
        "--layer-a": layer_a, "--layer-b": layer_b, "--method": method, "--metric": metric,
        "--alpha": f"{alpha:g}", "--positions": positions, "--name": name,
    }  # fmt: skip
    flat = [str(part) for item in args.items() for part in item]
    return start(pair, ["stitch", "fit", pair, *flat, "--json"], f"Fit {name}", makes=f"stitches/{name}")


def start_import(pair: str, file: Path, layer_a: int, layer_b: int, name: str, orientation: str | None = None) -> Job:
    """Bring a stitch from a file in the background; it ends as artifact `stitches/<name>` with its report card.

    Raises StitchLensError for a name that is taken or unfit for a file, a layer out of range, or a job already running.
    """
    get_pair(pair).check_layers(layer_a, layer_b)
    _free(pair, name)
    args = ["stitch", "import", pair, str(file), "--layer-a", str(layer_a), "--layer-b", str(layer_b), "--name", name]
    if orientation:
        args += ["--orientation", orientation]
    return start(pair, [*args, "--json"], f"Import {name}", makes=f"stitches/{name}")


def uploaded(name: str, content: bytes) -> Path:
    """Where an uploaded file is kept for a job: in the user's cache, under its own name with odd signs taken out."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).name).strip("-.")[-80:] or "upload"
    home = user_cache() / "uploads"
    for old in home.glob("*"):
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(old)
    folder = home / secrets.token_hex(6)
    folder.mkdir(parents=True)
    with beside(folder / stem) as part:
        part.write_bytes(content)
    return folder / stem


def _free(pair: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise StitchLensError(
            f"the name '{name}'", "up to 64 letters, digits, '.', '_' and '-', the first a letter or digit",
            "choose another name",
        )  # fmt: skip
    workspace = Workspace(pair)
    if workspace.exists and f"stitches/{name}" in workspace.manifest().artifacts:
        raise StitchLensError(f"a stitch named '{name}'", "a name that is free", "choose another name")


def start_build(pair: str) -> Job:
    return start(pair, ["build", pair], f"Build {pair}")


def start_svcca(pair: str) -> Job:
    return start(pair, ["svcca", pair], "Compare layers (SVCCA)", makes="svcca")


def _home(pair: str) -> Path:
    return user_cache() / "jobs" / get_pair(pair).key


def _write(folder: Path, record: Record) -> None:
    with beside(folder / "job.json") as part:
        part.write_text(record.model_dump_json(indent=1), "utf-8")


def _processes(record: Record) -> list[psutil.Process]:
    """The job's processes that live: the first one, or, where only that was killed, what is left of its group.

    A zombie is over, and another process that got the same pid later is not the job.
    """
    if record.pid is None or record.pid_started is None:
        return []
    with suppress(psutil.Error):
        first = psutil.Process(record.pid)
        if abs(first.create_time() - record.pid_started) > 2:
            return []
        if first.status() != psutil.STATUS_ZOMBIE:
            return [first]
    left = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            mine = os.getpgid(process.pid) == record.pid and process.create_time() > record.pid_started - 2
            if mine and process.status() != psutil.STATUS_ZOMBIE:
                left.append(process)
    return left


def _tail(path: Path, size: int = 20_000) -> str:
    try:
        with path.open("rb") as f:
            f.seek(max(0, path.stat().st_size - size))
            return f.read().decode("utf-8", "replace")
    except OSError:
        return ""
