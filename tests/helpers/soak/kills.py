"""`kill -9` in a `nano` build, at random moments and inside writes: what is left is whole, and the
same command then ends as if nothing had been.

Every build is a process of its own, killed with its group. It is forked from one that has only
imported the modules (multiprocessing's forkserver), so that importing torch is not paid a hundred
times. Each computes on one thread: as many trials run side by side as there are cores, and sums
keep their order, so bits can be compared. Killed moments are drawn uniformly over the undisturbed
build's time. A write lasts milliseconds, which those would hardly meet, so further kills wait for
the k-th temporary file to appear.

Trials that are over are noted in `test-results/soak/`; a soak that was stopped goes on from there.
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from threading import Lock
from typing import Any

import pandas as pd
import torch
import transformer_lens.model_bridge.sources.transformers
import transformers.models.gpt_neox.modeling_gpt_neox
from safetensors import safe_open
from safetensors.numpy import load_file

from benchmarks._measure import Line, say
from core.activations import harvest
from core.cli import main as command_line
from core.config import Frozen
from core.stitches import measure as stitch_measure
from core.workspace.disk import fingerprint, sha256_path
from core.workspace.places import PROJECT
from core.workspace.store import Workspace

PRELOADED = (transformers, transformer_lens, stitch_measure)
"""What a build imports late: once, before the forks."""
PAIR = "nano"
COMMAND = ["build", PAIR, "--positions", "12000", "--tokens", "1", "--select-tokens", "1"]
WINDOW = 8
"""Documents read at a time, fewer than usual: a window is the least that is scored, and 12,000
positions take more windows than lie between two checkpoints."""
TIMES = {"seconds", "made"}
"""Fields that tell how long or when, and differ between any two builds."""
WRITES = 24
"""Temporary files of a build among which a placed kill chooses: moments, artifacts, and the
manifest after each."""
LEFT = PROJECT / "test-results" / "soak"
FORK = multiprocessing.get_context("forkserver")


class Trial(Frozen):
    """How one kill went."""

    name: str
    moment: float
    """Seconds after the build's start."""
    artifacts: int
    """What the manifest named at that moment."""
    inside: bool
    """A temporary file was left: something was being written."""
    faults: list[str]


def command(home: str, words: Sequence[str], window: int) -> None:
    """`python -m core WORDS` with folders of its own, that many documents at a time; in the forked
    process."""
    os.setsid()
    os.environ |= {
        "STITCHLENS_WORKSPACES": f"{home}/workspaces",
        "STITCHLENS_CACHE": f"{home}/cache",
    }
    torch.set_num_threads(1)
    harvest.WINDOW = window
    with Path(home, "log").open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    command_line.app(list(words))


def start(home: Path, words: Sequence[str] = COMMAND, window: int = WINDOW) -> Any:
    """That command in a process of its own; what it says goes to `home`/log."""
    home.mkdir(parents=True, exist_ok=True)
    process = FORK.Process(target=command, args=(str(home), words, window))
    process.start()
    return process


def kill(process: Any) -> None:
    """SIGKILL to the whole group, or to the process where it has not made its group yet."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def parts(home: Path) -> Iterator[str]:
    for folder, _, names in os.walk(home):
        yield from (f"{folder}/{name}" for name in names if name.endswith(".part"))


def at(moment: float, process: Any, home: Path) -> bool:
    """Waits for a moment; False where the build ended before."""
    process.join(moment)
    return process.exitcode is None


def inside(count: int, process: Any, home: Path) -> bool:
    """Waits for the `count`-th temporary file; False where the build ended before."""
    seen: set[str] = set()
    while process.exitcode is None:
        seen.update(parts(home))
        if len(seen) >= count:
            return True
    return False


def strip(value: Any) -> Any:
    """Without the fields that are times."""
    if isinstance(value, dict):
        return {k: strip(v) for k, v in value.items() if k not in TIMES}
    return [strip(x) for x in value] if isinstance(value, list) else value


def header(path: Path) -> dict[str, Any]:
    with safe_open(path, "np") as f:
        return {
            k: strip(json.loads(v)) if v[:1] in "{[" else v for k, v in (f.metadata() or {}).items()
        }


def makers(ws: Workspace, name: str) -> dict[str, Any]:
    """An artifact's makers without times, also where they name the stitch by a fingerprint that its
    time is part of."""
    artifacts = ws.manifest().artifacts
    found = artifacts[name].makers
    stitch = artifacts.get(f"stitches/{name.rpartition('/')[2]}")
    if stitch is not None and found.get("stitch") == fingerprint(stitch.makers):
        found = found | {"stitch": "the one here"}
    return strip(found)


def differences(one: Workspace, other: Workspace) -> list[str]:
    """Where two workspaces differ: names, makers, tensors by their bits, tables and records by
    value; not in times."""
    mine, theirs = one.manifest().artifacts, other.manifest().artifacts
    found = [f"only one has {name}" for name in sorted(mine.keys() ^ theirs.keys())]
    for name in sorted(mine.keys() & theirs.keys()):
        a, b = one.path(name), other.path(name)
        if makers(one, name) != makers(other, name) or mine[name].kind != theirs[name].kind:
            found.append(f"{name}: other makers")
        match a.suffix:
            case ".safetensors":
                x, y = load_file(a), load_file(b)
                bits = [
                    {k: (v.dtype.str, v.shape, v.tobytes()) for k, v in t.items()} for t in (x, y)
                ]
                same = bits[0] == bits[1] and header(a) == header(b)
            case ".parquet":
                x, y = (pd.read_parquet(p).drop(columns=[*TIMES], errors="ignore") for p in (a, b))
                same = x.equals(y) and list(x) == list(y)
            case ".json":
                same = strip(one.record(name)) == strip(other.record(name))
            case _:
                same = sha256_path(a) == sha256_path(b)
        if not same:
            found.append(f"{name} differs")
    return found


def workspace(home: Path) -> Workspace:
    return Workspace(PAIR, home / "workspaces")


def left(home: Path) -> list[str]:
    """Faults of what a killed build left."""
    ws = workspace(home)
    return (
        [f"after the kill, {name}: {fault}" for name, fault in ws.verify().items()]
        if ws.exists
        else []
    )


def trial(
    name: str,
    home: Path,
    moments: Callable[[int], Callable[[Any, Path], bool]],
    reference: Callable[[], Path],
) -> Trial:
    """One build killed, looked at, and taken to its end. `moments(n)` is the n-th try to meet it
    alive."""
    moment = 0.0
    for attempt in range(10):
        shutil.rmtree(home, ignore_errors=True)
        process, began = start(home), time.monotonic()
        alive = moments(attempt)(process, home)
        moment = time.monotonic() - began
        kill(process)
        if alive:
            break
    else:
        return Trial(
            name=name, moment=moment, artifacts=0, inside=False, faults=["ended before every kill"]
        )
    faults, ws, writing = left(home), workspace(home), any(parts(home))
    artifacts = len(ws.manifest().artifacts) if ws.exists and not faults else 0
    process = start(home)
    process.join()
    if process.exitcode != 0:
        faults.append(
            f"went on to exit status {process.exitcode}: {(home / 'log').read_text()[-300:]}"
        )
    else:
        faults += [f"at its end, {k}: {v}" for k, v in ws.verify().items()]
        faults += differences(workspace(reference()), ws)
    if not faults:
        shutil.rmtree(home)
    return Trial(name=name, moment=moment, artifacts=artifacts, inside=writing, faults=faults)


def run(short: bool, seed: int) -> tuple[dict[str, Any], list[Line]]:
    """The table's first line: 50 random moments and 10 writes; short, 4 and 1."""
    count, placed = (4, 1) if short else (50, 10)
    sources = [*sorted((PROJECT / "core").rglob("*.py")), Path(__file__)]
    home = LEFT / f"kills-{fingerprint([COMMAND, count, placed, seed, *map(sha256_path, sources)])}"
    home.mkdir(parents=True, exist_ok=True)
    notes, lock, draw = home / "trials.jsonl", Lock(), random.Random(seed)
    known = (
        [Trial.model_validate_json(line) for line in notes.read_text().splitlines()]
        if notes.exists()
        else []
    )
    done = {t.name: t for t in known if not t.faults}
    workers = os.cpu_count() or 1
    begin()

    def reference() -> float:
        """Seconds of the undisturbed build, which the others are compared with."""
        note, place = home / "undisturbed.json", home / "undisturbed"
        if not note.exists():
            shutil.rmtree(place, ignore_errors=True)
            began = time.monotonic()
            process = start(place)
            process.join()
            if process.exitcode != 0 or workspace(place).verify():
                sys.exit(f"The undisturbed build failed: {(place / 'log').read_text()[-2000:]}")
            note.write_text(json.dumps({"seconds": time.monotonic() - began}))
        return json.loads(note.read_text())["seconds"]

    with ThreadPoolExecutor(workers) as pool:
        undisturbed: Future[float] = pool.submit(reference)

        def compared() -> Path:
            undisturbed.result()
            return home / "undisturbed"

        def go(name: str, moments: Callable[[int], Callable[[Any, Path], bool]]) -> Trial:
            if name not in done:
                found = trial(name, home / name, moments, compared)
                with lock, notes.open("a") as f:
                    f.write(found.model_dump_json() + "\n")
                    done[name] = found
            found = done[name]
            where = "inside a write" if found.inside else "between writes"
            verdict = "; ".join(found.faults) or "resumed to equal artifacts"
            say(
                f"{name}: killed {found.moment:.1f} s in, {where}, {found.artifacts} artifacts"
                f" there: {verdict}"
            )
            return found

        def random_moment(share: float, attempt: int) -> Callable[[Any, Path], bool]:
            return partial(at, share * 0.9**attempt * undisturbed.result())

        def random_write(n: int, attempt: int) -> Callable[[Any, Path], bool]:
            return partial(inside, max(1, n - attempt))

        writes = [draw.randint(1, WRITES) for _ in range(placed)]
        shares = [draw.random() for _ in range(count)]
        tasks = [
            pool.submit(go, f"write-{k:02}", partial(random_write, n)) for k, n in enumerate(writes)
        ]
        tasks += [
            pool.submit(go, f"kill-{k:02}", partial(random_moment, x)) for k, x in enumerate(shares)
        ]
        trials = [task.result() for task in tasks]
    seconds = undisturbed.result()
    good = [t for t in trials if not t.faults]
    lines = [
        Line(
            "random kills that left a whole workspace and resumed to equal artifacts",
            sum(t.name.startswith("kill") for t in good),
            f"of {count}",
            at_least=count,
        ),
        Line(
            "kills placed in a write that did",
            sum(t.name.startswith("write") for t in good),
            f"of {placed}",
            at_least=placed,
            note=f"{sum(t.inside for t in trials)} of all kills left a half-written file",
        ),
    ]
    if len(good) == len(trials):
        shutil.rmtree(home)  # the next soak starts anew; faults stay to be looked at
    return {"undisturbed build": f"{seconds:.0f} s", "side by side": workers}, lines


def begin() -> None:
    """Starts the process that builds are forked from: one thread for every library, and no word
    about the semaphores that a killed process leaves."""
    wanted = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore:resource_tracker"}
    before = {key: os.environ.get(key) for key in wanted}
    os.environ |= wanted
    FORK.set_forkserver_preload([__name__])
    forkserver.ensure_running()
    for key, value in before.items():
        if value is None:
            del os.environ[key]
        else:
            os.environ[key] = value
