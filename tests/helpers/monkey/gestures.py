"""What a hand does with each kind of target, with a mouse or by touch; every choice comes from the
generator given."""

import asyncio
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.async_api import CDPSession, Locator, Page

from tests.helpers.monkey.looking import MARKS, Target

Point = tuple[float, float]

WEIGHTS = {
    "chart": 9.0,
    "table": 5.0,
    "select": 5.0,
    "option": 6.0,
    "choice": 5.0,
    "slider": 4.0,
    "number": 4.0,
    "step": 3.0,
    "text": 3.0,
    "button": 4.0,
    "submit": 3.0,
    "expander": 3.0,
    "toggle": 2.0,
    "download": 2.0,
    "upload": 2.0,
    "link": 2.0,
    "nav": 1.5,
    "sidebar": 0.7,
    "menu": 0.5,
    "theme": 1.5,
    "toolbar": 0.7,
    "help": 0.3,
}
"""How often a kind is chosen, whatever the number of its targets."""
EVERYWHERE = {
    "reload": 2.0,
    "back": 1.0,
    "forward": 0.5,
    "keys": 1.5,
    "scroll": 0.8,
    "turn": 0.6,
    "theme": 0.4,
}
"""What can be done on any page."""

TEXTS = (
    "",
    " ",
    "x" * 2000,
    "مرحبا بالعالم שלום",
    "👩‍👩‍👧‍👦🏳️‍🌈 e\u0301",
    "a\u0001b\u200bc\ufeff␀",
    "<img src=x onerror=alert(1)><b>x</b>",
    "# h\n* **b** `c` $x^2$ :red[r] [a](javascript:alert(1))",
    "'\"`´\\{}%s",
    "%00%0A&pair=x#y",
    "../../etc/passwd",
    "-1",
    "nano-a",
    "nano-b",
    "8",
    "The old house by the river.",
    "1e309",
    "٣",
)
NUMBERS = ("", "-1", "0", "1", "2", "0.5", "7", "1e9", "1e-9", "abc")
FEW = {
    "Tokens": ("4", "8", "12"),
    "Positions": ("2000", "3000"),
    "Rows": ("2000", "3000"),
    "Seeds": ("1", "2"),
}
"""Numbers that cost time: only these are typed."""
KEYS = (
    "Tab",
    "Tab",
    "Shift+Tab",
    "Enter",
    "Escape",
    "Space",
    "Home",
    "ArrowDown",
    "ArrowUp",
    "ArrowLeft",
)
CHART = (
    *["mark"] * 3,
    "marks",
    "anywhere",
    "twice",
    "box",
    "box",
    "lasso",
    "swipe",
    "wheel",
    "legend",
)
"""What is done with a chart."""
LET_GO = "document.activeElement?.blur()"
"""What stands in a field counts once the field is left."""
STRIDE = ("ArrowRight", "ArrowLeft", "Home", "End", "PageUp", "PageDown")


@dataclass
class Hand:
    """A mouse and a keyboard, or a finger."""

    page: Page
    touch: CDPSession | None
    """Where a finger is moved; None for a mouse."""
    files: Path
    """Small files to upload, good and bad."""

    async def press(self, x: float, y: float) -> None:
        if self.touch is not None:
            await self.page.touchscreen.tap(x, y)
        else:
            await self.page.mouse.click(x, y)

    async def twice(self, x: float, y: float) -> None:
        if self.touch is not None:
            await self.press(x, y)
            await asyncio.sleep(0.08)
            await self.press(x, y)
        else:
            await self.page.mouse.dblclick(x, y)

    async def drag(self, points: Sequence[Point]) -> None:
        if self.touch is None:
            await self.page.mouse.move(*points[0])
            await self.page.mouse.down()
            for point in points[1:]:
                await self.page.mouse.move(*point, steps=3)
            await self.page.mouse.up()
            return
        for k, (x, y) in enumerate(points):
            event = {"type": "touchMove" if k else "touchStart", "touchPoints": [{"x": x, "y": y}]}
            await self.touch.send("Input.dispatchTouchEvent", event)
            await asyncio.sleep(0.016)
        await self.touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


async def box_of(where: Locator) -> tuple[float, float, float, float] | None:
    """Left, top, width, height in the window, after it was brought there; None where something lies
    over its middle."""
    await where.evaluate(
        "e => e.scrollIntoView({block: 'center', inline: 'nearest', behavior: 'instant'})"
    )
    await asyncio.sleep(0.05)
    return await where.evaluate("""e => {
        const b = e.getBoundingClientRect(), x = b.left + b.width / 2, y = b.top + b.height / 2;
        const top = document.elementFromPoint(x, y);
        return top && (e.contains(top) || top.contains(e))
          ? [b.left, b.top, b.width, b.height] : null;
    }""")


async def act(hand: Hand, target: Target, r: random.Random) -> str:
    """Do something with a target; returns what was done, or why nothing could be."""
    page, where = hand.page, hand.page.locator(f'[data-monkey="{target.number}"]')
    if await where.count() != 1:
        return "it is gone"
    if target.kind == "upload":
        return await _upload(hand, where, target, r)
    if target.kind == "toolbar":  # shows itself to whoever points at what it belongs to
        owner = where.locator("xpath=ancestor::*[@data-testid='stElementContainer'][1]")
        await owner.scroll_into_view_if_needed()
        await (owner.tap(force=True) if hand.touch else owner.hover(force=True))
        await asyncio.sleep(0.2)
    box = await box_of(where)
    if box is None:
        return "something lies over it"
    left, top, width, height = box
    x, y = left + width / 2, top + height / 2
    match target.kind:
        case "chart":
            return await _chart(hand, where, (left, top, width, height), r)
        case "table":
            return await _table(hand, (left, top, width, height), r)
        case "slider":
            return await _slide(hand, where, (left, top, width, height), r)
        case "number":
            few = FEW.get(target.label)
            ends = [n for n in (target.min, target.max) if n is not None]
            between = (
                [str(r.randint(int(float(ends[0])), int(float(ends[1]))))] if len(ends) == 2 else []
            )
            return await _type(hand, (x, y), r.choice(few or (*NUMBERS, *ends, *between * 6)), r)
        case "text":
            return await _type(hand, (x, y), r.choice(TEXTS), r)
        case "select":
            await hand.press(x, y)
            if r.random() < 0.2:
                filtered = r.choice(("e", "zz", "<b>", "L"))
                await page.keyboard.type(filtered)
            await asyncio.sleep(0.25)
            options = page.locator("[role=option]:visible")
            if (n := await options.count()) == 0:
                await page.keyboard.press("Escape")
                return "opened, nothing to choose"
            chosen = options.nth(r.randrange(n))
            words = await chosen.inner_text()
            await (chosen.tap() if hand.touch else chosen.click())
            return f"chose {words[:60]!r}"
        case "download":
            async with page.expect_download(timeout=60_000) as coming:
                await hand.press(x, y)
            file = await (await coming.value).path()
            return (
                f"downloaded {(await coming.value).suggested_filename!r}, {file.stat().st_size:,}"
                " bytes"
            )
        case "help":
            await (hand.press(x, y) if hand.touch else page.mouse.move(x, y))
            return "asked for help"
    await hand.press(x, y)
    return "pressed"


async def _type(hand: Hand, at: Point, words: str, r: random.Random) -> str:
    await hand.press(*at)
    await hand.page.keyboard.press("ControlOrMeta+a")
    await hand.page.keyboard.press("Delete")
    await hand.page.keyboard.insert_text(words)
    end = r.choice(("Enter", "Tab", "Tab", "ControlOrMeta+Enter"))
    await hand.page.keyboard.press(end)
    await hand.page.evaluate(LET_GO)
    return f"typed {words[:60]!r} and {end}"


async def _upload(hand: Hand, where: Locator, target: Target, r: random.Random) -> str:
    endings = [e for e in (target.accept or "").split(",") if e.startswith(".")]
    files = sorted(p for p in hand.files.iterdir() if not endings or p.suffix in endings)
    if not files or r.random() < 0.15:
        files = [hand.files / "wrong.txt"]
    file = r.choice(files)
    await where.set_input_files(file)
    return f"uploaded {file.name}"


async def _slide(
    hand: Hand, where: Locator, box: tuple[float, float, float, float], r: random.Random
) -> str:
    left, _, width, _ = box
    thumb = where.locator("input").first
    if r.random() < 0.5:
        key, times = r.choice(STRIDE), r.randint(1, 6)
        await thumb.focus()
        for _ in range(times):
            await hand.page.keyboard.press(key)
        return f"{key}, {times} times"
    at = await thumb.evaluate("""e => {
        const b = e.parentElement.parentElement.getBoundingClientRect();
        return [b.left + b.width / 2, b.top + b.height / 2];
    }""")
    to = r.uniform(-0.1, 1.1)
    await hand.drag(
        [tuple(at), (left + to * width, at[1]), (left + to * width, at[1] + r.uniform(-20, 20))]
    )
    return f"dragged to {to:.2f}"


async def _table(hand: Hand, box: tuple[float, float, float, float], r: random.Random) -> str:
    left, top, width, height = box
    row = 17 + 35 * r.randrange(max(1, min(8, int(height // 35))))
    x, y = (
        left + (15 if r.random() < 0.4 else r.uniform(5, max(6, width - 5))),
        top + min(row, height - 4),
    )
    match r.choice(("press", "press", "press", "head", "twice", "keys", "drag")):
        case "press":
            await hand.press(x, y)
            return f"pressed at ({x - left:.0f}, {y - top:.0f})"
        case "head":
            await hand.press(x, top + 17)
            return f"pressed the head at {x - left:.0f}"
        case "twice":
            await hand.twice(x, y)
            return f"pressed twice at ({x - left:.0f}, {y - top:.0f})"
        case "keys":
            await hand.press(x, y)
            keys = [r.choice(KEYS) for _ in range(4)]
            for key in keys:
                await hand.page.keyboard.press(key)
            await hand.page.keyboard.press("Escape")
            return "pressed keys " + " ".join(keys)
    await hand.drag([(x, y), (left + r.random() * width, top + r.random() * height)])
    return "dragged over it"


async def _chart(
    hand: Hand, where: Locator, box: tuple[float, float, float, float], r: random.Random
) -> str:
    left, top, width, height = box

    def somewhere(margin: float = 0.1) -> Point:
        return (
            left + r.uniform(margin, 1 - margin) * width,
            top + r.uniform(margin, 1 - margin) * height,
        )

    what = r.choice(CHART)
    match what:
        case "mark" | "marks":
            marks = await where.evaluate(f"e => ({MARKS})(e, 200)")
            inside = [
                (x, y) for x, y in marks if left <= x <= left + width and top <= y <= top + height
            ]
            if inside:
                for x, y in (r.choice(inside) for _ in range(1 if what == "mark" else 3)):
                    await hand.press(x, y)
                    await asyncio.sleep(0.05)
                return f"pressed {what}"
            await hand.press(*somewhere())
            return "has no marks, pressed anywhere"
        case "anywhere":
            await hand.press(*somewhere(0.0))
        case "twice":
            await hand.twice(*somewhere())
        case "box":
            await hand.drag([somewhere(), somewhere(), somewhere()])
        case "lasso":
            (x, y), size = somewhere(0.3), r.uniform(0.05, 0.3)
            turns = [2 * math.pi * k / 12 for k in range(13)]
            await hand.drag(
                [(x + size * width * math.cos(a), y + size * height * math.sin(a)) for a in turns]
            )
        case "swipe":
            (x, y), way = somewhere(), r.choice((-1, 1))
            await hand.drag([(x + r.uniform(-8, 8), y + way * k * 25) for k in range(8)])
        case "wheel":
            await _wheel(hand, somewhere(), r)
        case "legend":
            names = where.locator(".legendtoggle")
            if (n := await names.count()) == 0:
                return "has no legend"
            at = await box_of(names.nth(r.randrange(n)))
            if at is not None:
                await hand.press(at[0] + at[2] / 2, at[1] + at[3] / 2)
    return what


async def _wheel(hand: Hand, at: Point, r: random.Random) -> None:
    if hand.touch is not None:
        way = r.choice((-1, 1))
        await hand.drag([(at[0], at[1] + way * k * 30) for k in range(6)])
        return
    await hand.page.mouse.move(*at)
    await hand.page.mouse.wheel(0, r.choice((-400, -100, 100, 400)))


async def anywhere(hand: Hand, what: str, sizes: Sequence[dict[str, Any]], r: random.Random) -> str:
    """Do what can be done on any page, but for going from it and opening it anew."""
    page = hand.page
    match what:
        case "keys":
            keys = [r.choice(KEYS) for _ in range(r.randint(1, 6))]
            for key in keys:
                await page.keyboard.press(key)
            await page.evaluate(LET_GO)
            return " ".join(keys)
        case "scroll":
            size = page.viewport_size or {"width": 800, "height": 600}
            await _wheel(
                hand, (size["width"] * r.uniform(0.2, 0.8), size["height"] * r.uniform(0.3, 0.7)), r
            )
            return "scrolled"
        case "turn":
            size = r.choice(sizes)
            await page.set_viewport_size(size)  # type: ignore[arg-type]
            return f"{size['width']} by {size['height']}"
        case _:
            scheme = r.choice(("dark", "light"))
            await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            return scheme
