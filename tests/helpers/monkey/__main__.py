"""Does a page bear whatever a hand does to it?

    python -m tests.helpers.monkey [--seconds 60] [--seed 0] [--page features] [--workspace nano]
    [--size phone] [--short]

Every page, with every workspace that is shipped, at a desk with a mouse and on a phone by touch:
the monkey clicks, drags, lassoes, types, picks, goes back and forward and opens the page anew. At
each step it looks for an exception on the page or in the server's log, an error in the console, a
request that failed or went elsewhere, a page that does not come to rest or leads nowhere, and,
whenever a page was left and opened again, for what the address did not keep.

The seconds are a page's, shared by its workspaces and sizes. They are spent on walks of 60 steps,
each in a fresh window and from a seed of its own, the one given and those after it; so `--seed 17
--steps 42` does one walk again. The app has a copy of the workspaces, renewed whenever a walk
changed it. With `--out` each case leaves a file, and a run that was interrupted goes on from there.
Exit status 1 where a fault was found.
"""

import argparse
import asyncio
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from playwright.async_api import Browser, async_playwright

from benchmarks._measure import Benchmark, Line
from core.jobs import Job, Record
from core.workspace.places import PROJECT
from tests.helpers.browser import find_chromium
from tests.helpers.malformed import good
from tests.helpers.monkey.walking import SIZES, Case, Fault, Walk, walk
from tests.helpers.serving import Server, borrow_models, running

ROUTER = (PROJECT / "pages" / "main.py").read_text("utf-8")
PAGES = sorted(
    "" if name == "overview" else name for name in re.findall(r'url_path="(\w+)"', ROUTER)
)
WORKSPACES = sorted(p.parent.name for p in (PROJECT / "cache").glob("*/manifest.json"))
LENGTH = 60
"""Steps of a walk."""
SHORT = 6
"""Steps of the one walk that a case has in the short form."""
LIMIT_S = 90.0
"""Seconds in which a page must rest; the first Go opens two models."""
TRIES = (1, 2, 4, 8)
"""How many of a walk's last steps are tried alone, to say from where it fails."""


@dataclass
class Result:
    """What came of a case."""

    case: str
    seed: int
    seconds: float
    walks: int = 0
    steps: int = 0
    longest: float = 0.0
    faults: list[Fault] = field(default_factory=list)

    def add(self, done: Walk) -> list[Fault]:
        """The faults of a walk that are new."""
        self.walks += 1
        self.steps += done.steps
        self.longest = max(self.longest, done.longest)
        known = {(fault.kind, fault.key) for fault in self.faults}
        new = [fault for fault in done.faults if (fault.kind, fault.key) not in known]
        self.faults += new
        return new

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False), "utf-8")


@dataclass
class Arena:
    """An app with workspaces of its own, to be spoilt."""

    server: Server
    root: Path
    before: tuple[tuple[str, int], ...] = ()

    def contents(self) -> tuple[tuple[str, int], ...]:
        files = [*self.root.glob("workspaces/*/*.json"), *self.root.glob("cache/jobs/*/*/job.json")]
        return tuple(sorted((str(p), p.stat().st_mtime_ns) for p in files))

    @property
    def spoilt(self) -> bool:
        return self.contents() != self.before


def stop_jobs(cache: Path) -> None:
    """A job outlives the app; here it does not outlive the walk."""
    for path in cache.glob("jobs/*/*/job.json"):
        with suppress(OSError, ValueError):
            Job(path.parent, Record.model_validate_json(path.read_text("utf-8"))).cancel()


@contextmanager
def arena(workspaces: Path, app: Path | None = None) -> Iterator[Arena]:
    with ExitStack() as stack:
        root = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="stitchlens-monkey-app-"))
        )
        shutil.copytree(workspaces, root / "workspaces")
        cache = borrow_models(root / "cache")
        stack.callback(stop_jobs, cache)
        server = stack.enter_context(running(root / "workspaces", cache, app))
        stack.callback(stop_jobs, cache)  # before the app ends, too
        out = Arena(server, root)
        out.before = out.contents()
        yield out


def bring(folder: Path) -> Path:
    """Small files to upload: good ones of every kind, and bad ones."""
    folder.mkdir()
    (folder / "made").mkdir()
    for case in good(folder / "made"):
        case.put(folder)
    shutil.rmtree(folder / "made")
    rows = [
        f"{text} {n},{label}"
        for text, label in (("a good day", "yes"), ("a bad day", "no"))
        for n in range(8)
    ]
    (folder / "labels.csv").write_text("\n".join(["text,label", *rows]), "utf-8")
    (folder / "one.csv").write_text("text,label\na,x\n", "utf-8")
    np.save(folder / "ones.npy", np.ones(128, np.float32))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as z:
        z.writestr("cfg.json", "{}")
    (folder / "bare.zip").write_bytes(archive.getvalue())
    for ending in ("zip", "csv", "json", "npy", "gguf", "safetensors", "pt", "npz", "txt"):
        (folder / f"wrong.{ending}").write_bytes(b"\x00\xffnothing that anyone reads")
    (folder / "empty.csv").write_bytes(b"")
    return folder


class Stage:
    """A worker's arena: opened when it is needed, renewed when it was spoilt."""

    def __init__(self, workspaces: Path, app: Path | None = None) -> None:
        self.workspaces, self.app = workspaces, app
        self.stack = ExitStack()
        self.now: Arena | None = None

    async def ready(self) -> Server:
        if self.now is not None and not self.now.spoilt:
            return self.now.server
        await self.close()
        opening = asyncio.create_task(
            asyncio.to_thread(self.stack.enter_context, arena(self.workspaces, self.app))
        )
        try:
            self.now = now = await asyncio.shield(opening)
        except asyncio.CancelledError:
            await opening  # else it would be left behind
            raise
        return now.server

    async def close(self) -> None:
        self.now = None
        await asyncio.to_thread(self.stack.close)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    args = ["--disable-gpu", "--disable-background-networking"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        args.append("--no-sandbox")  # Chromium refuses to run as root with it
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find_chromium(), args=args)
        yield browser
        await browser.close()


async def play(
    browser: Browser,
    stage: Stage,
    files: Path,
    case: Case,
    seed: int,
    seconds: float,
    keep: Path,
    steps: int | None = None,
    first: int = 0,
    limit: float = LIMIT_S,
    shrink: bool = True,
) -> Result:
    """Walks until `seconds` are over, or one of `steps`; each new fault is shrunk to the last steps
    that show it."""
    out, server = Result(case.name, seed, seconds), await stage.ready()
    until = time.monotonic() + seconds
    while steps is not None or time.monotonic() < until:
        server = await stage.ready()
        end = float("inf") if steps is not None else until
        at, most = seed + out.walks, LENGTH if steps is None else steps
        done = await walk(
            browser, server.url, server.log, files, case, at, most, first, limit, end, keep
        )
        for fault in out.add(done):
            if not shrink or fault.kind == "dead end" or len(out.faults) > 8:
                continue  # a dead end takes the whole limit each time
            for last in (n for n in TRIES if n < fault.step - first):
                server = await stage.ready()
                since = fault.step - last
                part = await walk(
                    browser, server.url, server.log, files, case, at, fault.step, since, limit
                )
                if (fault.kind, fault.key) in {(f.kind, f.key) for f in part.faults}:
                    fault.first = since
                    break
        if steps is not None:
            break
    return out


def again(case: str, fault: Fault) -> str:
    """The command that shows a fault again."""
    page, workspace, size = case.split("/")
    first = f" FROM={fault.first}" if fault.first else ""
    return (
        f"make monkey PAGE={page} WORKSPACE={workspace} SIZE={size} SEED={fault.seed}"
        f" STEPS={fault.step}{first}"
    )


def table(results: Sequence[Result], limit: float) -> str:
    """A line a case, then the targets."""
    rows = [("page", "workspace", "size", "walks", "steps", "faults", "longest wait")]
    whole = Result("all//", 0, 0, longest=max((r.longest for r in results), default=0.0))
    whole.walks, whole.steps = sum(r.walks for r in results), sum(r.steps for r in results)
    whole.faults = [fault for r in results for fault in r.faults]
    rows += [
        (
            *r.case.split("/"),
            f"{r.walks:,}",
            f"{r.steps:,}",
            f"{len(r.faults):,}",
            f"{r.longest:.1f} s",
        )
        for r in (*results, whole)
    ]
    rows += [("target", "", "", "", "", "0", f"≤ {limit:g} s")]
    return "\n".join(
        f"{a:12} {b:16} {c:6} {d:>6} {e:>7} {f:>7} {g:>13}" for a, b, c, d, e, f, g in rows
    )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def tell(result: Result) -> None:
    """The faults of a case, each with the command that shows it again."""
    for fault in result.faults:
        say(f"FAULT {result.case} {fault.kind}: {fault.key}\n      {again(result.case, fault)}")


def stored(path: Path, seed: int, seconds: float) -> Result | None:
    """What an earlier run with the same settings left of a case."""
    try:
        found = json.loads(path.read_text("utf-8"))
        out = Result(**found | {"faults": [Fault(**fault) for fault in found["faults"]]})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return out if (out.seed, out.seconds) == (seed, seconds) else None


async def play_all(
    cases: Iterable[Case], given: argparse.Namespace, each: float, keep: Path
) -> list[Result]:
    waiting, results = list(cases), dict[str, Result]()
    order = [case.name for case in waiting]
    if (
        this := asyncio.current_task()
    ) is not None and sys.platform != "win32":  # apps and jobs are ended then, too
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)

    async def work(browser: Browser, files: Path) -> None:
        stage = Stage(PROJECT / "cache")
        try:
            while waiting:
                case = waiting.pop(0)
                path = keep / f"{case.name.replace('/', '-')}.json"
                result = stored(path, given.seed, each) if given.steps is None else None
                if result is None:
                    result = await play(
                        browser,
                        stage,
                        files,
                        case,
                        given.seed,
                        each,
                        keep,
                        given.steps,
                        given.first,
                        given.limit,
                    )
                    result.write(path)
                    if not given.short:
                        await stage.close()
                results[case.name] = result
                say(f"{case.name}: {result.steps} steps, {len(result.faults)} faults")
                tell(result)
        finally:
            await stage.close()

    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="stitchlens-monkey-files-"))
        files = bring(Path(folder) / "files")
        browser = await stack.enter_async_context(chromium())
        async with asyncio.TaskGroup() as group:
            for _ in range(min(given.workers, len(waiting))):
                group.create_task(work(browser, files))
    return [results[name] for name in order]


def chosen(given: argparse.Namespace) -> list[Case]:
    pages = ["" if p == "overview" else p for p in given.page] or PAGES
    workspaces, sizes = given.workspace or WORKSPACES, given.size or list(SIZES)
    cases = [
        Case(page, workspace, size) for page in pages for workspace in workspaces for size in sizes
    ]
    if given.short:  # each page with each workspace, once at a desk and once on a phone
        spot = {
            (p, w): (pages.index(p) + workspaces.index(w)) % len(sizes)
            for p in pages
            for w in workspaces
        }
        cases = [c for c in cases if sizes.index(c.size) == spot[c.page, c.workspace]]
    return cases


def lines(results: list[Result], limit: float) -> list[Line]:
    """What was found, in all and by page, beside the targets."""
    pages: dict[str, list[Result]] = {}
    for result in results:
        pages.setdefault(result.case.split("/")[0], []).append(result)
    return [
        Line("faults", sum(len(r.faults) for r in results), at_most=0),
        Line("steps", sum(r.steps for r in results)),
        Line("longest until a page rested", max(r.longest for r in results), "s", at_most=limit),
        *(
            Line(
                f"{page}, faults",
                sum(len(r.faults) for r in some),
                note=f"{sum(r.steps for r in some):,} steps",
            )
            for page, some in pages.items()
        ),
    ]


def main() -> int:
    p = Benchmark(
        "monkey",
        (__doc__ or "").split("\n", 1)[0],
        command="make monkey SECONDS=600",
        documented={"seconds": 600},
    )
    p.add(
        "--seconds",
        type=float,
        default=60,
        help="for each page, shared by its workspaces and sizes",
    )
    p.add(
        "--short", action="store_true", help=f"{SHORT} steps a page and workspace, a minute in all"
    )
    p.add("--seed", type=int, default=0, help="of the first walk; the next one takes the next")
    p.add("--steps", type=int, help="do one walk of so many steps again")
    p.add(
        "--from",
        type=int,
        default=0,
        dest="first",
        metavar="STEP",
        help="leave out the steps before",
    )
    p.add("--page", action="append", default=[], choices=[p or "overview" for p in PAGES])
    p.add("--workspace", action="append", default=[], choices=WORKSPACES)
    p.add("--size", action="append", default=[], choices=list(SIZES))
    p.add("--workers", type=int, default=2, help="cases at a time, each with an app of its own")
    p.add("--limit", type=float, default=LIMIT_S, help="seconds in which a page must come to rest")
    p.add(
        "--out", type=Path, help="folder for results, steps and pictures; cases done there are kept"
    )
    given = p.options()
    if find_chromium() is None:
        say("No Chromium found; STITCHLENS_CHROMIUM can name one. Skipped.")
        return 0
    os.environ.setdefault(
        "HF_HUB_OFFLINE", "1"
    )  # what the hub would say must not depend on the day
    os.environ.setdefault("COLUMNS", "200")  # a traceback's lines stay whole
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // given.workers)))
    if given.short and given.steps is None:
        given.steps = SHORT
    cases = chosen(given)
    variants = max(1, len(cases) // len({case.page for case in cases}))
    keep = given.out or Path(tempfile.mkdtemp(prefix="stitchlens-monkey-"))
    keep.mkdir(parents=True, exist_ok=True)
    try:
        results = asyncio.run(play_all(cases, given, given.seconds / variants, keep))
    except (KeyboardInterrupt, asyncio.CancelledError):
        say(f"Stopped; what is done lies in {keep}")
        return 130
    settings = {"walks": sum(r.walks for r in results)}
    title = "monkey: everything that pages offer, done by chance"
    p.show(title, settings, lines(results, given.limit), printed=table(results, given.limit))
    faults = sum(len(r.faults) for r in results)
    if faults:
        for result in results:  # once more: the end of a log is what is read
            tell(result)
        say(f"Every step and a picture of each fault: {keep}")
    elif given.out is None:
        shutil.rmtree(keep)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
