"""Seconds to open the Features page, to brush its histogram and to open a feature, in Chromium.

At the shipped size, and at `--features` features: the shipped tables repeated, each copy with its
own feature numbers. Opening is timed from the click on Features in the sidebar to the drawn
histogram and a feature's contexts, in a fresh session of a warm server; brushing from the end of
the drag to the new count under the table; a feature from the click on Next to its contexts.
"""

import argparse
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks._measure import Line, parser, percentile, say, show
from benchmarks.app import CHROMIUM_OPTIONS, chromium, serving
from core.features import tables as feature_tables
from core.workspace.places import workspaces_dir
from core.workspace.store import Workspace, has

TABLES = (
    "features",
    "logits",
    "examples_a",
    "examples_b",
    "together_a",
    "together_b",
    "histograms_a",
    "histograms_b",
    "labels",
    "agreement",
    "twins",
    "together_own",
)


def enlarged(pair: str, features: int, into: Path) -> Path:
    """A folder of workspaces with that of `pair` whose SAE has `features` features."""
    source = Workspace(pair)
    shutil.copytree(source.root, into / pair)
    ws, sae = Workspace(pair, into), feature_tables.saes(source)[0]
    width = len(source.table(f"features/{sae}"))
    for name in TABLES:
        if not has(source, f"{name}/{sae}"):
            continue
        table, makers = source.table(f"{name}/{sae}"), source.entry(f"{name}/{sae}").makers
        copies = [
            table.assign(feature=table.feature + k * width) for k in range(-(-features // width))
        ]
        whole = pd.concat(copies, ignore_index=True)
        ws.put_table(
            f"{name}/{sae}", whole.loc[whole.feature < features].reset_index(drop=True), makers
        )
    return into


def painted(page: Page) -> None:
    page.wait_for_function(
        "() => { const bars = document.querySelector('.st-key-strip .js-plotly-plot"
        " .barlayer .point path'); const heat = document.querySelector('[data-testid=stHtml]"
        " div[dir=auto]'); return !!bars && !!heat; }",
        timeout=300_000,
        polling="raf",
    )


def opened(browser: Browser, address: str) -> tuple[float, Page]:
    """(seconds, page) of the Features page, opened from the first page of `address`."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(60_000)
    page.goto(address)
    page.wait_for_selector("h1")
    page.wait_for_timeout(1500)
    link = page.get_by_role("link", name="Features", exact=True)
    started = time.perf_counter()
    link.click()
    painted(page)
    return time.perf_counter() - started, page


def brushed(page: Page, share: float) -> float:
    """Drags over the bars from the middle to `share` of the right half; seconds until the table's
    count changes."""
    plot = page.locator(".st-key-strip .nsewdrag").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box is not None
    count = (
        "[...document.querySelectorAll('[data-testid=stMarkdownContainer]')].map(e => e.innerText)"
    )
    count += ".find(t => /^[0-9,]+ of [0-9,]+ features/.test(t))"
    before, y = page.evaluate(count), box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * (0.5 + share / 2), y, steps=5)
    started = time.perf_counter()
    page.mouse.up()
    page.wait_for_function(f"before => {count} !== before", arg=before, polling="raf")
    return time.perf_counter() - started


def stepped(page: Page) -> float:
    """Seconds from the click on Next to the next feature's contexts."""
    heading = page.locator("h2#feature").inner_text()
    contexts = "document.querySelector('[data-testid=stHtml] div[dir=auto]')?.innerHTML"
    before = page.evaluate(contexts)
    button = page.get_by_role("button", name="Next")
    button.scroll_into_view_if_needed()
    started = time.perf_counter()
    button.click()
    page.wait_for_function(
        "([heading, before]) => document.querySelector('h2#feature').innerText !== heading &&"
        f" {contexts} !== before",
        arg=[heading, before],
        polling="raf",
    )
    return time.perf_counter() - started


def measure(browser: Browser, pair: str, workspaces: Path, turns: int, targets: bool) -> list[Line]:
    sae = feature_tables.saes(Workspace(pair, workspaces))[0]
    what = f"{len(feature_tables.features(Workspace(pair, workspaces), sae)):,} features: "
    with serving(workspaces) as (address, _):
        url = f"{address}/?pair={pair}"
        opened(browser, url)[1].close()
        opens, brushes, steps = [], [], []
        for _ in range(turns):
            took, page = opened(browser, url)
            opens.append(took)
            page.close()
        say(f"{what}opened")
        _, page = opened(browser, url)
        page.wait_for_timeout(2000)
        for turn in range(turns):
            brushes.append(brushed(page, 0.3 + 0.6 * turn / turns))
            page.wait_for_timeout(500)
        say(f"{what}brushed")
        for _ in range(turns):
            steps.append(stepped(page))
            page.wait_for_timeout(500)
        page.close()
    return [
        Line(
            what + "open, p95",
            percentile(opens, 0.95),
            "s",
            at_most=2 if targets else None,
            note=f"median {statistics.median(opens):.2f}",
        ),
        Line(
            what + "brush, median",
            statistics.median(brushes),
            "s",
            at_most=1 if targets else None,
            note=f"slowest {max(brushes):.2f}",
        ),
        Line(
            what + "feature view, median",
            statistics.median(steps),
            "s",
            at_most=1 if targets else None,
            note=f"slowest {max(steps):.2f}",
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
    p = parser(__doc__)
    p.add_argument("--pair", default="smollm2-gemma3", help="a pair whose features were measured")
    p.add_argument("--features", type=int, default=65_536, help="features of the enlarged SAE")
    p.add_argument("--turns", type=int, default=10, help="repeats of each action")
    args = p.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the app is ended too
    settings, lines = run(args)
    show("features_page: open, brush, open a feature", settings, lines, args.json)


if __name__ == "__main__":
    main()
