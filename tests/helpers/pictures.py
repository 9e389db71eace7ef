"""The pictures of README and docs/, from the running app with the shipped workspaces.

`python -m tests.helpers.pictures [home feature steering]` takes them again. The app gets a cache of
its own, so that a picture does not depend on what a person did before.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Browser, Page, sync_playwright

from core.workspace.places import PROJECT
from tests.helpers.browser import find_chromium
from tests.helpers.resting import listen, settled
from tests.helpers.serving import borrow_models, running

PAIR = "smollm2-gemma3"
LARGEST = 300_000
"""Bytes of a picture."""
PATIENCE = 300
"""Seconds until a page rests, also beside other work."""
FIRST = {
    "features": ".st-key-card [dir=auto]",
    "steering": "[data-testid=stMain] [dir=auto]",
    "": ".st-key-tiles [data-testid=stPageLink]",
}
"""What a page must show before a picture of it is taken."""


@dataclass(frozen=True)
class Picture:
    """A page, what its link asks for, and the window that it is seen in."""

    page: str
    query: dict[str, str]
    size: tuple[int, int]


PICTURES = {
    "home": Picture("", {}, (1280, 800)),
    "feature": Picture("features", {"feature": "2326", "q": "French"}, (1440, 1000)),
    "steering": Picture("steering", {}, (1440, 900)),
}


def take(browser: Browser, url: str, picture: Picture) -> bytes:
    """A picture as PNG, its animations at their end."""
    width, height = picture.size
    page: Page = browser.new_page(viewport={"width": width, "height": height})
    listen(page)
    page.goto(f"{url}/{picture.page}?{urlencode({'pair': PAIR} | picture.query)}")
    settled(page, PATIENCE)
    page.wait_for_selector(FIRST[picture.page], timeout=1000 * PATIENCE)
    page.mouse.move(width - 1, height - 1)
    png = settled(page, PATIENCE).screenshot(animations="disabled")
    page.close()
    return png


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PICTURES))
    names = parser.parse_args().names or list(PICTURES)
    if unknown := set(names) - PICTURES.keys():
        parser.error(f"{', '.join(sorted(unknown))}: choose among {', '.join(PICTURES)}")
    chromium = find_chromium()
    if chromium is None:
        sys.exit("No Chromium found; STITCHLENS_CHROMIUM can name one.")

    with tempfile.TemporaryDirectory(prefix="stitchlens-pictures-") as scratch:
        cache = borrow_models(Path(scratch) / "cache")
        with running(PROJECT / "cache", cache) as server, sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
            )
            for name in names:
                png = take(browser, server.url, PICTURES[name])
                assert len(png) < LARGEST, f"{name}: {len(png):,} bytes"
                (PROJECT / "docs" / f"{name}.png").write_bytes(png)
                print(f"docs/{name}.png: {len(png):,} bytes")
            browser.close()


if __name__ == "__main__":
    main()
