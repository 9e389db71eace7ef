"""A page in a browser: when it rests, told by its script's state and what it says to its server, and
where it shows what."""

import time
from typing import Any
from weakref import WeakKeyDictionary

from playwright.sync_api import Locator, Page, expect

from core.models.pairs import get_pair
from pages.shared.words import short_names
from tests.helpers.monkey.looking import GRACE, REST, Wire
from tests.helpers.planted import PAIR

DESK, PHONE = (1440, 900), (390, 844)
WIRES: "WeakKeyDictionary[Page, Wire]" = WeakKeyDictionary()
"""What pages and their server say to one another, from a page's first request on."""
JOB = ".st-key-job"
LOOK = 50
"""Milliseconds between two looks at a page."""


def listen(page: Any) -> None:
    """Hear what a page and its server say, so that `settled` knows when a run is over."""
    WIRES[page] = Wire(page)


def settled(page: Page, seconds: float = 60) -> Page:
    """Wait until a page is drawn, its script rests, and no run that it asked for is to come."""
    page.wait_for_selector("h1")
    page.wait_for_timeout(1000 * GRACE)  # the client may still hold a gesture back
    end, quiet = time.monotonic() + seconds, 0
    while quiet < 2:
        assert time.monotonic() < end, f"{page.url} does not come to rest"
        quiet = quiet + 1 if page.evaluate(REST) and not WIRES[page].waiting else 0
        page.wait_for_timeout(LOOK)
    return page


def still(where: Locator) -> dict[str, float]:
    """The box of what is drawn, in the window, once it no longer moves."""
    where.scroll_into_view_if_needed()
    before = None
    while (box := where.bounding_box()) is None or box != before:
        before = box
        where.page.wait_for_timeout(LOOK)
    return dict(box)  # type: ignore[arg-type]


def cell(page: Page, layer_a: int, layer_b: int, pair: str = PAIR) -> tuple[float, float]:
    """Where the heatmap shows a layer pair."""
    spec = get_pair(pair)
    box = still(page.locator(".st-key-svcca .nsewdrag"))
    across, up = (layer_a + 0.5) / spec.a.n_layers, (layer_b + 0.5) / spec.b.n_layers
    return box["x"] + across * box["width"], box["y"] + box["height"] * (1 - up)


def expect_picked(page: Page, *layers: str, pair: str = PAIR) -> None:
    """A layer of each model stands in its field."""
    names = short_names(get_pair(pair)).values()
    for name, layer in zip(names, layers, strict=True):
        field = page.get_by_role("spinbutton", name=f"Layer of {name}")
        expect(field).to_have_value(layer)
