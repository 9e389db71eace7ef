"""What a page shows and offers, and when it rests."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from playwright.async_api import Error, Page, WebSocket
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

HERE = Path(__file__).parent
SURVEY, REST, MARKS = (
    (HERE / f"{name}.js").read_text("utf-8") for name in ("survey", "rest", "marks")
)
ENDS = (
    ForwardMsg.FINISHED_SUCCESSFULLY,
    ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY,
    ForwardMsg.FINISHED_WITH_COMPILE_ERROR,
)
"""How a run ends that no other one follows."""
GRACE = 0.2
"""Seconds after a gesture in which Streamlit's client may still hold it back."""


class DeadEndError(Exception):
    """The page does not come to rest, or there is no way on."""


@dataclass(frozen=True)
class Target:
    """Something that can be acted on."""

    kind: str
    label: str
    nth: int
    """Among those of the same kind and label, from 1."""
    number: int
    """Its place among all targets, which the element carries as `data-monkey`."""
    min: str | None = None
    max: str | None = None
    accept: str | None = None
    key: str = ""
    """Which the page's code gave it, if any."""

    @property
    def name(self) -> str:
        """The same on every visit, so that a replay finds it again."""
        return f"{self.kind} '{self.label}'" + (f" ({self.nth})" if self.nth > 1 else "")


@dataclass(frozen=True)
class Survey:
    """All that a page shows and offers at one moment."""

    targets: tuple[Target, ...]
    widgets: Mapping[str, str]
    """Values of the widgets outside forms, by label."""
    headings: Mapping[str, str]
    """Texts by level and anchor."""
    url: str
    exceptions: tuple[str, ...]
    errors: tuple[str, ...]
    dialogs: tuple[str, ...]
    traceback: bool
    empty: bool
    links: int
    """To pages, in the navigation."""
    drafts: tuple[str, ...] = ()
    """Widgets in which something stands that they do not take."""
    opening: bool = False
    """It says that models are being opened; what it shows of them comes by itself."""

    @property
    def place(self) -> str:
        """The page's name in the address."""
        return urlsplit(self.url).path.strip("/")

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.url).query, keep_blank_values=True)


class Wire:
    """What is said between a page and its server. The client shows that a script runs only once it
    began, which a busy server lets it wait for."""

    def __init__(self, page: Page) -> None:
        self.waiting = False
        """A run was asked for and has not ended."""
        page.on("websocket", self._opened)

    def _opened(self, socket: WebSocket) -> None:
        socket.on("framesent", self._sent)
        socket.on("framereceived", self._received)
        socket.on("close", self._closed)

    def _sent(self, frame: bytes | str) -> None:
        if (
            isinstance(frame, bytes)
            and BackMsg.FromString(frame).WhichOneof("type") == "rerun_script"
        ):
            self.waiting = True

    def _received(self, frame: bytes | str) -> None:
        if (
            not self.waiting or isinstance(frame, str) or len(frame) > 1000
        ):  # the end of a run is a short message
            return
        message = ForwardMsg.FromString(frame)
        if message.WhichOneof("type") == "script_finished" and message.script_finished in ENDS:
            self.waiting = False

    def _closed(self, _: WebSocket) -> None:
        self.waiting = False


async def survey(page: Page) -> Survey:
    seen: dict[str, Any] = await page.evaluate(SURVEY)
    for key in ("exceptions", "errors", "dialogs", "drafts"):
        seen[key] = tuple(seen[key])
    seen["targets"] = tuple(Target(**target) for target in seen["targets"])
    return Survey(**seen)


async def rested(page: Page, wire: Wire, limit: float) -> tuple[Survey, float]:
    """Wait until the script rests and two surveys agree: the survey, and seconds. Raises
    DeadEndError after `limit`."""
    start = time.monotonic()
    await asyncio.sleep(GRACE)
    before, quiet = None, 0
    while time.monotonic() - start < limit:
        try:
            quiet = quiet + 1 if await page.evaluate(REST) and not wire.waiting else 0
            now = await survey(page) if quiet >= 2 else None
        except Error as e:
            if page.is_closed():
                raise DeadEndError(f"the page is gone: {e}") from None
            quiet, now = 0, None  # it was being loaded anew
        if now is not None and now == before:
            return now, time.monotonic() - start
        before = now or before
        await asyncio.sleep(0.05)
    raise DeadEndError(f"the page does not come to rest within {limit:g} s")


def differences(before: Survey, after: Survey, worked: bool) -> list[str]:
    """What a page forgot while it was left and opened again. The results of a button (`worked`) may
    be gone, and what waited for models may have come; all else must stand in the address."""
    comes_and_goes = worked or before.opening or after.opening
    out = []
    if before.place != after.place:
        return [f"shows /{after.place}, not /{before.place}"]
    for key in sorted(before.query.keys() | after.query.keys()):
        was, is_ = (x.query.get(key, ["nothing"])[0] for x in (before, after))
        out += [f"address: {key} was {was[:60]!r}, is {is_[:60]!r}"] if was != is_ else []
    for what in ("headings", "widgets"):
        one, other = getattr(before, what), getattr(after, what)
        for key in sorted((one.keys() | other.keys()) - set(before.drafts)):
            if key in one and key in other:
                out += (
                    [f"{key}: was {one[key][:60]!r}, is {other[key][:60]!r}"]
                    if one[key] != other[key]
                    else []
                )
            elif not comes_and_goes:
                out += [f"{key}: " + ("is gone" if key in one else "was not there before")]
    return out
