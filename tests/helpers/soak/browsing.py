"""25 people browse two workspaces for five minutes: errors, times, and whether the server's memory
stays flat.

They are sessions that speak Streamlit's protocol (see `session`), each with pauses of its own:
pages by the sidebar, by links and by Back, the workspace by its picker, stitches and features by
links, widgets and tabs opened anew. 25 windows of Chromium that draw on two cores without a GPU
would measure Chromium and not the app. One real Chromium, where there is one, goes along and
reports the errors of its console; its times are not counted.

Before they come, one person opens every page once and waits until the server rests: the first visit
to Steering opens that pair's B in the background, which takes the interpreter for seconds, once a
server.

A step's time is that from the request to the end of the script. Memory is the server's whole
resident set; medians over a quarter of a minute, after the first minute and at the end.
"""

import asyncio
import os
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psutil
from playwright.async_api import ConsoleMessage, Error, async_playwright
from streamlit.proto.WidgetStates_pb2 import WidgetState

from benchmarks._measure import Line, percentile, say
from core.features import tables as feature_tables
from core.stitches import tables as stitch_tables
from core.workspace.places import PROJECT
from core.workspace.store import Workspace
from tests.helpers.browser import find_chromium
from tests.helpers.serving import Server, borrow_models, running
from tests.helpers.soak.session import Run, Session, opened

PAIRS = ("nano", "smollm2-gemma3")
PAGES = {"": "StitchLens", "stitches": "Stitches", "features": "Features", "steering": "Steering"}
"""Page names in the address, and their titles."""
THINK = (3.0, 10.0)
"""Seconds between two steps of a person."""
FIRST = 60.0
"""Seconds after which memory must stay flat."""
SPAN = 15.0
"""Seconds over which a median of memory is taken."""


@dataclass
class Place:
    """What a person should be looking at."""

    pair: str
    page: str = ""
    stitch: str = ""
    feature: int = -1

    @property
    def query(self) -> str:
        said = {"pair": self.pair} | ({"stitch": self.stitch} if self.stitch else {})
        return urlencode(said | ({"feature": str(self.feature)} if self.feature >= 0 else {}))

    def missing(self, run: Run) -> list[str]:
        """Headings that should stand there and do not."""
        wanted = [PAGES[self.page]]
        if self.stitch:
            wanted.append(self.stitch)
        if self.feature >= 0:
            wanted.append(f"Feature {self.feature}")
        shown = {heading.replace("\\", "") for heading in run.headings()}
        return [f"no heading '{w}' but {sorted(shown)}" for w in wanted if w not in shown]


@dataclass
class Seen:
    """What all people met."""

    steps: list[tuple[float, str, str, float]] = field(default_factory=list)
    """When it began, seconds after the start; page; how it was reached; seconds it took."""
    faults: list[str] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    """Seconds after the start, bytes."""

    def note(self, who: str, place: Place, way: str, run: Run, at: float) -> None:
        self.steps.append((at, place.page or "home", way, run.seconds))
        for fault in run.faults + place.missing(run):
            self.faults.append(f"{who}, {way} to /{place.page}?{place.query}: {fault}")
            say(self.faults[-1])


class Guide:
    """What there is to be seen."""

    def __init__(self) -> None:
        spaces = {pair: Workspace(pair, PROJECT / "cache") for pair in PAIRS}
        self.stitches = {pair: stitch_tables.stitch_names(ws) for pair, ws in spaces.items()}
        self.features = {
            pair: len(feature_tables.features(ws, feature_tables.saes(ws)[0]))
            for pair, ws in spaces.items()
        }

    def anywhere(self, chance: random.Random) -> Place:
        """A link that somebody was given."""
        place = Place(chance.choice(PAIRS), chance.choice(list(PAGES)))
        if place.page == "stitches":
            place.stitch = chance.choice(self.stitches[place.pair])
        elif place.page == "features":
            place.feature = chance.randrange(self.features[place.pair])
        return place


async def step(
    tab: Session, place: Place, guide: Guide, chance: random.Random
) -> tuple[Place, str, Run]:
    """Something that a person does next: the sidebar, Back, the picker, or another stitch or
    feature."""
    match chance.choice(("sidebar", "back", "picker", "choose", "choose")):
        case "sidebar":
            there = Place(place.pair, chance.choice([p for p in PAGES if p != place.page]))
            return there, "sidebar", await tab.ask(there.page, urlencode({"pair": place.pair}))
        case "picker" if picker := tab.last.widget("selectbox", "Workspace"):
            other = PAIRS[1 - PAIRS.index(place.pair)]
            address = replace(
                place, pair=other
            ).query  # Streamlit's client changes the address first
            change = WidgetState(id=picker.id, string_value=other)
            return (
                Place(other, place.page),
                "picker",
                await tab.ask(query=address, widgets=[change]),
            )
        case "choose" if chooser := tab.last.widget("selectbox", "Stitch shown"):
            there = Place(place.pair, "stitches", chance.choice(guide.stitches[place.pair]))
            change = WidgetState(id=chooser.id, string_value=there.stitch)
            return there, "widget", await tab.ask(query=there.query, widgets=[change])
        case "choose" if number := tab.last.widget("number_input", "Feature"):
            there = Place(
                place.pair, "features", feature=chance.randrange(guide.features[place.pair])
            )
            change = WidgetState(id=number.id, double_value=there.feature)
            return there, "widget", await tab.ask(query=there.query, widgets=[change])
    there = guide.anywhere(chance)
    return there, "back", await tab.ask(there.page, there.query, back=True)


async def person(
    who: str, url: str, guide: Guide, chance: random.Random, began: float, until: float, seen: Seen
) -> None:
    """Opens a tab, looks around, and after a while opens another one."""
    clock: Callable[[], float] = lambda: time.monotonic() - began  # noqa: E731
    await asyncio.sleep(chance.uniform(0, THINK[0]))
    while clock() < until:
        async with opened(url) as tab:
            place, at = guide.anywhere(chance), clock()
            seen.note(who, place, "link", await tab.ask(place.page, place.query), at)
            for _ in range(chance.randint(3, 15)):
                await asyncio.sleep(chance.uniform(*THINK))
                if clock() >= until:
                    return
                at = clock()
                place, way, run = await step(tab, place, guide, chance)
                seen.note(who, place, way, run, at)


def is_fault(message: ConsoleMessage) -> bool:
    """On a link to a page, Streamlit's client first looks for its server below that page's
    address."""
    probe = re.search(r"/_stcore/(health|host-config)$", message.location.get("url", ""))
    return message.type == "error" and not probe


async def window(
    url: str, guide: Guide, chance: random.Random, began: float, until: float, seen: Seen
) -> int:
    """A person in Chromium, by links; how many pages it opened, or -1 where there is none."""
    if (program := find_chromium()) is None:
        return -1
    opened_pages = 0

    def complain(text: str) -> None:
        seen.faults.append(f"Chromium: {text}")
        say(seen.faults[-1])

    async with async_playwright() as playwright:
        options = ["--disable-gpu", "--disable-background-networking"] + ["--no-sandbox"] * (
            os.geteuid() == 0
        )
        browser = await playwright.chromium.launch(executable_path=program, args=options)
        page = await browser.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda e: complain(str(e)))
        page.on("console", lambda m: complain(f"{m.text} {m.location}") if is_fault(m) else None)
        while time.monotonic() - began < until:
            place = guide.anywhere(chance)
            try:
                await page.goto(f"{url}/{place.page}?{place.query}")
                await page.wait_for_selector("h1")
                await page.wait_for_selector(
                    "[data-testid=stApp][data-test-script-state=notRunning]"
                )
                for text in await page.locator(
                    "[data-testid=stException], [data-testid=stAlert]"
                ).all_inner_texts():
                    complain(f"/{place.page}?{place.query} shows {text}")
                opened_pages += 1
            except Error as e:
                complain(f"/{place.page}?{place.query}: {str(e).splitlines()[0]}")
            await asyncio.sleep(chance.uniform(*THINK))
        await page.goto("about:blank")  # before its server goes
        await browser.close()
    return opened_pages


async def watch(process: psutil.Process, began: float, seen: Seen) -> None:
    while True:
        seen.memory.append((time.monotonic() - began, process.memory_info().rss))
        await asyncio.sleep(0.5)


@contextmanager
def serving(home: Path) -> Iterator[Server]:
    """The app with the shipped workspaces, as `make app` starts it, and a cache of its own."""
    with running(PROJECT / "cache", borrow_models(home / "cache")) as server:
        yield server


async def first(server: Server, seen: Seen) -> tuple[float, float]:
    """One person opens each page of each workspace: seconds of the slowest, and until the server
    rests afterwards."""
    waited, began = 0.0, 0.0
    for place in (Place(pair, page) for pair in PAIRS for page in PAGES):
        async with opened(server.url) as tab:
            run = await tab.ask(place.page, place.query)
            waited, began = max(waited, run.seconds), time.monotonic()
            seen.faults += run.faults + place.missing(run)
    process = psutil.Process(server.pid)
    for _ in range(180):
        before = sum(process.cpu_times()[:2])
        await asyncio.sleep(1)
        if sum(process.cpu_times()[:2]) - before < 0.05:
            break
    return waited, time.monotonic() - began


async def browse(server: Server, people: int, seconds: float, seed: int, seen: Seen) -> int:
    """Everyone at once; how many pages Chromium opened."""
    guide, began, process = Guide(), time.monotonic(), psutil.Process(server.pid)
    watching = asyncio.create_task(watch(process, began, seen))
    chances = [random.Random(seed * 1000 + k) for k in range(people)]
    everyone = [
        person(f"person {k}", server.url, guide, c, began, seconds, seen)
        for k, c in enumerate(chances[1:])
    ]
    real = asyncio.create_task(window(server.url, guide, chances[0], began, seconds, seen))
    await asyncio.gather(real, *everyone)
    pages = real.result()
    if pages < 0:
        say("No Chromium: its part was skipped")
    await asyncio.sleep(0.5)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    return pages


def growth(memory: list[tuple[float, int]], end: float) -> float:
    """Percent from just after the first minute to the end; of less than that, from the middle
    on."""
    first = FIRST if end >= FIRST + 2 * SPAN else end / 2
    span = min(SPAN, end / 8)
    early = statistics.median(m for t, m in memory if first <= t <= first + span)
    return 100 * (statistics.median(m for t, m in memory if t >= end - span) / early - 1)


def broken(server: Server, seen: Seen) -> None:
    """Adds what the server's log complains of, and shows its end where anything went wrong."""
    log = server.log.read_text("utf-8", "replace")
    seen.faults += ["a traceback in the server's log"] * log.count(
        "Traceback (most recent call last)"
    )
    if seen.faults:
        say(log[-3000:])


def run(short: bool, seed: int) -> tuple[dict[str, Any], list[Line]]:
    """The table's second line."""
    people, seconds = (8, 40.0) if short else (25, 300.0)
    seen = Seen()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as server:
        process = psutil.Process(server.pid)
        waited, warming = asyncio.run(first(server, seen))
        before = sum(process.cpu_times()[:2])
        pages = asyncio.run(browse(server, people, seconds, seed, seen))
        processor = sum(process.cpu_times()[:2]) - before
        broken(server, seen)
    times = [t for *_, t in seen.steps]
    minute = [t for at, *_, t in seen.steps if at >= FIRST]
    grown = growth(seen.memory, seconds)
    last = max(m for _, m in seen.memory) / 2**20
    each = {
        page or "home": [t for _, p, _, t in seen.steps if p == (page or "home")] for page in PAGES
    }
    lines = [
        Line(
            "errors while browsing",
            len(seen.faults),
            at_most=0,
            note="; ".join(seen.faults[:3])[:300],
        ),
        Line(
            "step, p95",
            percentile(times, 0.95),
            "s",
            at_most=None if short else 3,
            note=f"{len(times)} steps",
        ),
        Line("step, p50", percentile(times, 0.5), "s"),
        Line(
            (
                "memory since the first minute"
                if minute and not short
                else "memory since the middle, too short to judge"
            ),
            grown,
            "%",
            at_most=None if short else 10,
            note=f"at most {last:,.0f} MB",
        ),
        *(
            Line(
                f"{name}, p50",
                percentile(ts, 0.5),
                "s",
                note=f"p95 {percentile(ts, 0.95):.2f}, {len(ts)} steps",
            )
            for name, ts in each.items()
            if ts
        ),
        Line(
            "first view of a page, slowest, nobody else there",
            waited,
            "s",
            note=f"then {warming:.0f} s until the models were open",
        ),
        Line("server's processor time a step", processor / (len(times) + max(pages, 0)), "s"),
    ]
    if minute and not short:
        lines.insert(3, Line("step after the first minute, p95", percentile(minute, 0.95), "s"))
    return {
        "people": people,
        "seconds": f"{seconds:.0f}",
        "pages in Chromium": max(pages, 0),
    }, lines
