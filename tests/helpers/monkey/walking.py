"""One walk: a fresh window on a page, so many steps, and every fault that was seen on the way."""

import asyncio
import json
import random
import re
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Error,
    Page,
    Request,
    Response,
)

from tests.helpers.monkey import gestures
from tests.helpers.monkey.gestures import EVERYWHERE, WEIGHTS, Hand
from tests.helpers.monkey.looking import (
    DeadEndError,
    Survey,
    Target,
    Wire,
    differences,
    rested,
    survey,
)

SIZES: dict[str, dict[str, Any]] = {
    "desk": {"viewport": {"width": 1440, "height": 900}},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}
TURNED = {
    "desk": (
        {"width": 1440, "height": 900},
        {"width": 1024, "height": 768},
        {"width": 1920, "height": 1080},
    ),
    "phone": ({"width": 390, "height": 844}, {"width": 844, "height": 390}),
}
OPENING = {"steering": {"tokens": "8"}}
"""What a page's first address says besides the workspace: texts stay short."""
STARTS_A_JOB = re.compile(
    r"Fit|Import|Measure its features|Train|Compare them|Add and build|Build|Go on"
)
OPENS_MODELS = re.compile(r"Go|Read|Look|Probe|Add|Film strip")
FIRST = 6
"""Steps in which a walk looks around before it presses any of these."""
WORKS = {"button", "submit"}
ENDS_A_WALK = {"dead end", "server", "exception"}

PROBES = re.compile(r"/_stcore/(health|host-config)$")
"""On a link to a page, Streamlit's client first looks for its server below that page's address."""
INTERVENED = re.compile(r"^Ignored attempt to cancel a touch\w+ event with cancelable=false")
"""Chromium scrolls on under a finger that a widget of Streamlit's asks for too late: no fault."""
HERE = re.compile(r"(http|ws)://127\.0\.0\.1[:/]|data:|blob:|about:")
SENTENCE = re.compile(r"Found .+; wanted .+: .+\.|(failed|lost)\.", re.S)
"""A StitchLensError, or the end of a job with its last words."""
COMPLAINT = re.compile(
    r"Traceback \(most recent call last\)|Uncaught|\bERROR\b|\bCRITICAL\b|never retrieved"
)
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[│╭╰╮╯─❱]")
OURS = re.compile(r"((?:pages|core)/[\w/]+\.py|app\.py)\W+(?:line )?(\d+)")


@dataclass(frozen=True)
class Case:
    page: str
    """Its name in the address; empty for the first one."""
    workspace: str
    size: str

    @property
    def name(self) -> str:
        return "/".join((self.page or "overview", self.workspace, self.size))

    def address(self, url: str) -> str:
        query = ({"pair": self.workspace} if self.workspace else {}) | OPENING.get(self.page, {})
        return f"{url}/{self.page}?{urlencode(query)}"


@dataclass
class Fault:
    kind: str
    key: str
    """Faults of the same kind and key are one."""
    text: str
    seed: int = 0
    step: int = 0
    """After so many steps, the first is 1, it was seen."""
    first: int = 0
    """Steps before this one are not needed for it."""


@dataclass
class Walk:
    steps: int = 0
    longest: float = 0.0
    """Seconds until the page rested."""
    faults: list[Fault] = field(default_factory=list)


class Watch:
    """What a window and the server complain of, between two looks."""

    def __init__(self, context: BrowserContext, log: Path) -> None:
        self.log, self.at = log, log.stat().st_size if log.exists() else 0
        self.seen: list[Fault] = []
        self.opened: list[tuple[Page, Wire]] = []
        context.on("console", self._console)
        context.on(
            "weberror", lambda e: self.note("page error", str(e.error).split("\n")[0], str(e.error))
        )
        context.on("request", self._request)
        context.on("requestfailed", self._failed)
        context.on("response", self._response)
        context.on("page", self._page)

    def note(self, kind: str, key: str, text: str = "") -> None:
        self.seen.append(
            Fault(
                kind,
                re.sub(r"127\.0\.0\.1:\d+|[0-9a-f]{16,}", "…", key)[:160],
                (text or key)[:3000],
            )
        )

    def _console(self, message: ConsoleMessage) -> None:
        address = message.location.get("url", "")
        expected = PROBES.search(address) or INTERVENED.search(message.text)
        if message.type == "error" and not expected:
            self.note("console error", message.text, f"{message.text} {address}")

    def _request(self, request: Request) -> None:
        if not HERE.match(request.url):
            self.note("asks outside", request.url)

    def _failed(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # what is given up when a page is left
            self.note("failed request", f"{request.failure} {request.url.split('?')[0]}")

    def _response(self, response: Response) -> None:
        if response.status >= 400 and not PROBES.search(response.url):
            self.note("failed request", f"{response.status} {response.url.split('?')[0]}")

    def _page(self, page: Page) -> None:
        self.opened.append((page, Wire(page)))
        page.on("dialog", self._dialog)
        page.on("crash", lambda _: self.note("dead end", "the window crashed"))

    async def _dialog(self, dialog: Any) -> None:
        if dialog.type != "beforeunload":
            self.note("script ran", f"{dialog.type} {dialog.message}")
        await dialog.dismiss()

    def server(self) -> None:
        """Note what was added to the server's log."""
        with self.log.open("rb") as f:
            f.seek(self.at)
            raw = f.read()
        self.at += len(raw)
        text = CODES.sub("", raw.decode("utf-8", "replace"))
        if not COMPLAINT.search(text):
            return
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        places = OURS.findall(text)
        where = ":".join(places[-1]) if places else ""
        what = next(
            (x for x in reversed(lines) if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", x)),
            lines[-1],
        )
        self.note("server", f"{what} {where}".strip(), "\n".join(lines[-60:]))

    def take(self) -> list[Fault]:
        taken, self.seen = self.seen, []
        return taken


def shown(now: Survey, links: int) -> list[Fault]:
    """Faults of a page at rest."""
    out = [Fault("exception", text[:80], text) for text in now.exceptions]
    if now.traceback:
        out.append(Fault("exception", "Traceback", "a traceback is on the page"))
    for text in now.errors:
        if not now.exceptions and not SENTENCE.search(text):
            out.append(Fault("no sentence", text[:80], text))
    for text in now.dialogs:
        if re.search(r"error|not found|lost|bad ", text, re.I):
            out.append(Fault("dialog", text[:80], text))
    if now.empty:
        out.append(Fault("dead end", "nothing is drawn", f"nothing is drawn at {now.url}"))
    if now.links != links:
        out.append(
            Fault(
                "dead end", "navigation", f"the navigation leads to {now.links} pages, not {links}"
            )
        )
    return out


def choose(case: Case, seed: int, step: int, weighted: Mapping[str, float]) -> str:
    """One of the names, by chance. Each draws a lot of its own, so that another one beside it
    rarely changes the choice (Efraimidis and Spirakis, 2006)."""
    lots = {
        n: random.Random(f"{seed}/{case.name}/{step}/{n}").random() ** (1 / w)
        for n, w in weighted.items()
    }
    return max(lots, key=lots.__getitem__)


def most(target: Target, step: int) -> float:
    """How often a walk presses it, up to this step."""
    if target.kind not in WORKS:
        return float("inf")
    if STARTS_A_JOB.fullmatch(target.label):
        return 1 if step > FIRST else 0
    if OPENS_MODELS.fullmatch(target.label) or target.key.startswith("preset-"):
        return 3 if step > FIRST else 0
    return float("inf")


def offered(
    now: Survey, step: int, pressed: Counter[str]
) -> tuple[dict[str, Target], dict[str, float]]:
    """Targets by name, and the weight of each and of what can be done anywhere."""
    targets = {t.name: t for t in now.targets if pressed[t.label] < most(t, step)}
    kinds = Counter(t.kind for t in targets.values())
    weights = {name: WEIGHTS[t.kind] / kinds[t.kind] for name, t in targets.items()}
    return targets, weights | EVERYWHERE


async def walk(
    browser: Browser,
    url: str,
    log: Path,
    files: Path,
    case: Case,
    seed: int,
    steps: int,
    first: int = 0,
    limit: float = 60.0,
    until: float = float("inf"),
    keep: Path | None = None,
) -> Walk:
    """Up to `steps` steps from `first` on, until a fault that ends it or the monotonic time
    `until`, but FIRST ones.

    `log` is the server's; `keep` gets a line a step (`steps.jsonl`) and a screenshot a fault.
    """
    done = Walk()
    context = await browser.new_context(
        **SIZES[case.size], color_scheme="light", accept_downloads=True
    )
    try:
        await _Walk(context, url, log, files, case, seed, limit, keep, done).run(
            first, steps, until
        )
    finally:
        with suppress(Error):
            await context.close()
    return done


class _Walk:
    def __init__(
        self,
        context: BrowserContext,
        url: str,
        log: Path,
        files: Path,
        case: Case,
        seed: int,
        limit: float,
        keep: Path | None,
        done: Walk,
    ) -> None:
        self.context, self.url, self.case, self.seed, self.done = context, url, case, seed, done
        self.limit, self.keep, self.files = limit, keep, files
        self.watch = Watch(context, log)
        self.pressed = Counter[str]()
        self.worked = False
        self.left: Survey | None = None
        """The page as it was left, while another one is shown."""

    async def run(self, first: int, steps: int, until: float) -> None:
        self.page = await self.context.new_page()
        self.wire = self.watch.opened[0][1]
        self.page.set_default_timeout(10_000)
        self.page.set_default_navigation_timeout(1000 * self.limit)
        touch = (
            await self.context.new_cdp_session(self.page)
            if SIZES[self.case.size].get("has_touch")
            else None
        )
        self.hand = Hand(self.page, touch, self.files)
        step = first
        try:
            await self.page.goto(self.case.address(self.url))
            now = await self.rest()
            self.links = now.links
            if self.noted(await self.faults(now), first, "opened", self.case.address(self.url)):
                return
            while step < steps and (time.monotonic() < until or step < first + FIRST):
                step += 1
                if (now := await self.step(step, now)) is None:
                    return
            if now.place == self.case.page:
                did, after, forgotten = await self.do("reload", None, now, random.Random())
                if await self.looked(forgotten, after, step, "reload", did):
                    return
            await self.lead_away(step)
        except (DeadEndError, Error) as e:
            self.watch.server()
            self.watch.note("dead end", str(e).splitlines()[0])
            self.noted(self.watch.take(), step, "waited", self.page.url)

    async def rest(self) -> Survey:
        now, seconds = await rested(self.page, self.wire, self.limit)
        self.done.longest = max(self.done.longest, seconds)
        return now

    async def step(self, step: int, now: Survey) -> Survey | None:
        """Do one thing and look; None where the walk is over."""
        r = random.Random(f"{self.seed}/{self.case.name}/{step}")
        if now.place == self.case.page:
            self.left = None
            targets, weights = offered(now, step, self.pressed)
        else:
            targets, weights = {}, {"back": 3.0, "home": 1.0}
        name = choose(self.case, self.seed, step, weights)
        start, forgotten = time.monotonic(), list[str]()
        try:
            did, after, forgotten = await self.do(name, targets.get(name), now, r)
        except Error as e:  # what was there is drawn anew, or lies elsewhere
            did, after = f"could not: {str(e).splitlines()[0][:120]}", await self.rest()
        if after.place != self.case.page and now.place == self.case.page:
            # one more Back leads further back, not here: that entry is not what was left
            self.left = None if name in ("back", "forward") else now
        self.done.steps += 1
        over = await self.looked(
            forgotten, after, step, name, did, round(time.monotonic() - start, 2)
        )
        return None if over else after

    async def looked(
        self,
        forgotten: list[str],
        after: Survey,
        step: int,
        name: str,
        did: str,
        seconds: float = 0,
    ) -> bool:
        """Note what is wrong after a gesture; whether the walk is over."""
        found = [
            Fault("forgets", line.split(":")[0], line) for line in forgotten
        ] + await self.faults(after)
        if found:
            await self.picture(step)
        return self.noted(found, step, name, did, seconds, after.url)

    async def do(
        self, name: str, target: Target | None, now: Survey, r: random.Random
    ) -> tuple[str, Survey, list[str]]:
        """Returns what was done, what is seen then, and what the page forgot."""
        page = self.page
        if target is not None:
            did = await gestures.act(self.hand, target, r)
            self.pressed[target.label] += 1
            self.worked |= target.kind in WORKS or did.endswith("Enter")
            return did, await self.rest(), []
        match name:
            case "reload":
                await page.reload()
                after = await self.rest()
                forgotten = differences(now, after, self.worked)
                self.worked = False
                return "opened anew", after, forgotten
            case "back" | "forward":
                await (page.go_back() if name == "back" else page.go_forward())
                if page.url == "about:blank":
                    await page.go_forward()
                    return "there was nothing before", await self.rest(), []
                after, left = await self.rest(), self.left
                if left is None or name == "forward" or after.place != self.case.page:
                    return page.url, after, []
                forgotten = [f"after Back {line}" for line in differences(left, after, self.worked)]
                self.worked = False
                return "back again", after, forgotten
            case "home":
                await page.goto(self.case.address(self.url))
                self.worked = False
                return page.url, await self.rest(), []
        did = await gestures.anywhere(self.hand, name, TURNED[self.case.size], r)
        self.worked |= "Enter" in did or "Space" in did
        return did, await self.rest(), []

    async def faults(self, now: Survey) -> list[Fault]:
        """What is wrong now, in windows that were opened too."""
        found = shown(now, self.links)
        while len(self.watch.opened) > 1:
            other, wire = self.watch.opened.pop()
            if not other.is_closed():
                there, _ = await rested(other, wire, self.limit)
                found += shown(there, there.links)
                await other.close()
        self.watch.server()
        return found + self.watch.take()

    async def lead_away(self, step: int) -> None:
        """The navigation must still lead to another page."""
        if self.links < 2:
            return
        page = self.page
        for _ in range(2):
            await page.keyboard.press("Escape")
        opener = page.locator("[data-testid=stExpandSidebarButton]:visible")
        if await opener.count():
            await opener.click()
            await asyncio.sleep(0.5)
        here = (await survey(page)).place
        try:
            other = page.locator("[data-testid=stSidebarNavLink]").nth(0 if here else 1)
            await (other.tap() if self.hand.touch else other.click())
        except Error as e:
            raise DeadEndError(f"the navigation cannot be used: {str(e).splitlines()[0]}") from None
        after = await self.rest()
        for _ in range(20):
            if after.place != here:
                break
            after = await self.rest()
        else:
            raise DeadEndError("the navigation does not lead away")
        self.noted(await self.faults(after), step, "left by the navigation", after.url)

    async def picture(self, step: int) -> None:
        if self.keep is not None:
            with suppress(Error):
                name = f"{self.case.name.replace('/', '-')}-{self.seed}-{step}.png"
                await self.page.screenshot(path=self.keep / name)

    def noted(
        self, found: list[Fault], step: int, name: str, did: str, seconds: float = 0, url: str = ""
    ) -> bool:
        """Keep the faults that are new to this walk, and write the log's line; whether they end the
        walk."""
        if any(fault.kind == "server" for fault in found):  # its message on the page says less
            found = [fault for fault in found if fault.kind != "exception"]
        known = {(fault.kind, fault.key) for fault in self.done.faults}
        new = {(f.kind, f.key): f for f in found if (f.kind, f.key) not in known}
        for fault in new.values():
            fault.seed, fault.step = self.seed, step
        self.done.faults += new.values()
        if self.keep is not None:
            line = {
                "case": self.case.name,
                "seed": self.seed,
                "step": step,
                "what": name,
                "did": did,
                "seconds": seconds,
                "url": url,
                "faults": [f"{f.kind}: {f.key}" for f in new.values()],
            }
            with (self.keep / "steps.jsonl").open("a") as f:
                f.write(json.dumps(line, ensure_ascii=False) + "\n")
        return any(fault.kind in ENDS_A_WALK for fault in new.values())
