"""Seconds to open the Features page, to brush its strip and to open a feature, in Chromium.

At the shipped size, and at `--features` features: the shipped tables repeated, each copy with its
own feature numbers. Opening is timed from the click on Features in the sidebar to the drawn strip
and the tinted text of the feature's card, in a fresh browser with a warm server, whose models are
open; once with one that just began. Brushing is timed from the end of the drag to the new count
above the list; a feature from the click on Next to its heading and its text; a search from Enter
behind a word to the heading and the text of the feature that it opens. The search itself, without a
page, is timed as well.
"""

import argparse
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pandas as pd
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks._measure import Benchmark, Line, percentile, say, seconds
from benchmarks.app import CHROMIUM_OPTIONS, HOME, chromium, painted, serving
from core.features import alike, search
from core.features import tables as feature_tables
from core.models.pairs import get_pair
from core.workspace.places import workspaces_dir
from core.workspace.store import Workspace
from pages.features.asking import MOST


def tables_of(ws: Workspace, sae: str) -> dict[str, pd.DataFrame]:
    """Every table with a row, or rows, for each feature of an SAE, by its artifact's name."""
    files = {name: ws.path(name) for name in ws.names() if name.partition("/")[2] == sae}
    tables = {name: ws.table(name) for name, path in files.items() if path.suffix == ".parquet"}
    return {name: table for name, table in tables.items() if "feature" in table}


def enlarged(pair: str, features: int, into: Path) -> Path:
    """A folder of workspaces with that of `pair` whose SAE has `features` features."""
    source = Workspace(pair)
    shutil.copytree(source.root, into / pair)
    ws, sae = Workspace(pair, into), feature_tables.saes(source)[0]
    width = len(source.table(f"features/{sae}"))
    for name, table in tables_of(source, sae).items():
        copies = [
            table.assign(feature=table.feature + k * width) for k in range(-(-features // width))
        ]
        whole = pd.concat(copies, ignore_index=True)
        chosen = whole.loc[whole.feature < features].reset_index(drop=True)
        ws.put_table(name, chosen, source.entry(name).makers)
    search.index_of(ws, sae, get_pair(pair).corpus)  # which `features build` makes
    return into


CARD = "document.querySelector('.st-key-card')"
TINTED = f"[...({CARD}?.querySelectorAll('[dir=auto]') ?? [])].map(e => e.innerHTML).join()"
"""The text that the card shows, tinted by the feature."""
COUNT = (
    "[...document.querySelectorAll('[data-testid=stMain] p')].map(e => e.innerText)"
    ".find(t => /^[0-9,]+ of [0-9,]+ features/.test(t))"
)


def drawn(page: Page) -> None:
    """Wait for the strip's bars and the card's text."""
    page.wait_for_function(
        "() => !!document.querySelector('.st-key-strip .js-plotly-plot .barlayer .point path')"
        f" && {TINTED} !== ''",
        timeout=300_000,
        polling="raf",
    )


RESTS = (
    "() => document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'"
    " && !document.querySelector('[data-stale=true]')"
    f" && {CARD}?.querySelectorAll('h2').length === 1"
)


def rested(page: Page) -> Page:
    """The page once its script is over and nothing of an earlier run is left."""
    page.wait_for_timeout(500)
    page.wait_for_function(RESTS)
    return page


def opened(browser: Browser, address: str) -> tuple[float, Page]:
    """(seconds, page) of the Features page, opened from the first page of `address`."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(60_000)
    page.goto(address)
    painted(page, HOME)
    page.wait_for_timeout(1500)
    link = page.get_by_role("link", name="Features", exact=True)
    started = time.perf_counter()
    link.click()
    drawn(page)
    return time.perf_counter() - started, page


def brushed(page: Page, share: float) -> float:
    """Drags over the bars from the middle to `share` of the right half; seconds until the list's
    count changes."""
    plot = page.locator(".st-key-strip .nsewdrag").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box is not None
    before, y = page.evaluate(COUNT), box["y"] + box["height"] / 2
    assert before is not None, "nothing says how many features are listed"
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * (0.5 + share / 2), y, steps=5)
    started = time.perf_counter()
    page.mouse.up()
    page.wait_for_function(
        f"before => ![undefined, before].includes({COUNT})", arg=before, polling="raf"
    )
    return time.perf_counter() - started


def stepped(page: Page) -> float:
    """Seconds from the click on Next to the next feature's heading and text."""
    button = page.locator(".st-key-card").get_by_role("button", name="Next")
    button.scroll_into_view_if_needed()
    return another(page, button.click)


def asked(page: Page, word: str) -> float:
    """Seconds from Enter behind a word to the heading and text of the feature that it opens."""
    box = page.get_by_role("textbox", name="Ask for a feature")
    box.scroll_into_view_if_needed()
    box.fill(word)
    return another(page, lambda: box.press("Enter"))


def another(page: Page, act: Callable[[], None]) -> float:
    """Seconds from what is done to the heading and text of another feature."""
    heading = page.locator("h2#feature").inner_text()
    before = page.evaluate(TINTED)
    started = time.perf_counter()
    act()
    page.wait_for_function(
        "([heading, before]) => document.querySelector('h2#feature').innerText !== heading &&"
        f" {TINTED} !== before",
        arg=[heading, before],
        polling="raf",
    )
    return time.perf_counter() - started


def words_for(ws: Workspace, sae: str, n: int) -> list[str]:
    """Examples of the page, again from the first where there are too few; no two that open the same
    feature follow one another."""
    words = list(alike.examples(ws, sae).word)
    return list(islice(cycle(words), n))


def searched(pair: str, ws: Workspace, sae: str, word: str) -> float:
    """Seconds of a search, whose index the page has made."""
    corpus = get_pair(pair).corpus
    search.in_words(ws, sae, word, corpus, MOST)
    return seconds(lambda: search.in_words(ws, sae, word, corpus, MOST))


def measure(browser: Browser, pair: str, workspaces: Path, turns: int, targets: bool) -> list[Line]:
    sae = feature_tables.saes(Workspace(pair, workspaces))[0]
    what = f"{len(feature_tables.features(Workspace(pair, workspaces), sae)):,} features: "
    with serving(workspaces) as server:
        url = f"{server.address}/?pair={pair}"
        first, page = opened(browser, url)
        page.close()
        server.rest()
        opens, brushes, steps = [], [], []
        for _ in range(turns):
            took, page = opened(browser, url)
            opens.append(took)
            page.close()
        say(f"{what}opened")
        _, page = opened(browser, url)
        for turn in range(turns):
            brushes.append(brushed(rested(page), 0.3 + 0.6 * turn / turns))
        say(f"{what}brushed")
        for _ in range(turns):
            steps.append(stepped(rested(page)))
        page.close()
        _, page = opened(browser, url)  # nothing brushed
        words = words_for(Workspace(pair, workspaces), sae, turns)
        asks = [asked(rested(page), word) for word in words]
        say(f"{what}asked")
        page.close()
    searches = [searched(pair, Workspace(pair, workspaces), sae, word) for word in words]
    return [
        Line(
            what + "open, p95",
            percentile(opens, 0.95),
            "s",
            at_most=2 if targets else None,
            note=f"median {statistics.median(opens):.2f}",
        ),
        Line(what + "open, a server's first, beside models that open", first, "s"),
        Line.median(what + "brush", brushes, "s", at_most=1 if targets else None),
        Line.median(what + "feature view", steps, "s", at_most=1 if targets else None),
        Line.median(what + "a word to its feature", asks, "s", at_most=1 if targets else None),
        Line.median(
            what + "search without a page",
            searches,
            "s",
            at_most=0.15 if targets else None,
            note="its index is there",
        ),
    ]


def run(args: argparse.Namespace) -> tuple[dict[str, Any], list[Line]]:
    if not feature_tables.saes(Workspace(args.pair)):
        sys.exit(
            f"No features of {args.pair}: run `python -m core features build {args.pair}` first."
        )
    with (
        tempfile.TemporaryDirectory(prefix="stitchlens-page-") as scratch,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM_OPTIONS)
        lines = measure(browser, args.pair, workspaces_dir(), args.turns, False)
        lines += measure(
            browser, args.pair, enlarged(args.pair, args.features, Path(scratch)), args.turns, True
        )
        browser.close()
    return {"pair": args.pair, "turns": args.turns, "browser": Path(chromium()).name}, lines


def main() -> None:
    p = Benchmark("features_page", __doc__)
    p.add("--pair", default="smollm2-gemma3", help="a pair whose features were measured")
    p.add("--features", type=int, default=65_536, help="features of the enlarged SAE")
    p.add("--turns", type=int, default=10, help="repeats of each action")
    args = p.options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the app is ended too
    settings, lines = run(args)
    p.show("features_page: open, brush, open a feature", settings, lines)


if __name__ == "__main__":
    main()
