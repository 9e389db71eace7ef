"""The app in Chromium: links, clicks, jobs, both themes, desk and phone; no console error, no word
to the outside."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from core import jobs
from core.activations.sample import read_sample
from core.bench import open_pair
from core.models.pairs import get_pair
from core.text.corpus import load_corpus
from core.workspace.places import PROJECT
from core.workspace.store import Workspace
from tests.helpers.planted import PAIR, plant, plant_features
from tests.helpers.serving import borrow_models, running

pytestmark = pytest.mark.browser
SHIPPED = PROJECT / "cache"
expect.set_options(timeout=30_000)
DESK, PHONE = (1440, 900), (390, 844)
MOBILE = (
    "Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Mobile"
    " Safari/537.36"
)
JOB = ".st-key-job"
# On a link to a page, Streamlit's client first looks for its server below that page's address.
PROBES = re.compile(r"/_stcore/(health|host-config)$")


@contextmanager
def serving(workspaces: Path, cache: Path) -> Iterator[str]:
    """The app on a free port, for these workspaces; its address."""
    with running(workspaces, cache) as server:
        yield server.url


@contextmanager
def no_job_left() -> Iterator[None]:
    """A job outlives the app; here it does not outlive the test."""
    try:
        yield
    finally:
        for pair in (PAIR, "nano"):
            for job in jobs.jobs(pair):
                job.cancel()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("planted")
    plant_features(plant(root / "workspaces"), list(load_corpus().documents))
    return root


@pytest.fixture(scope="module")
def url(home: Path) -> Iterator[str]:
    with serving(home / "workspaces", home / "cache") as address:
        yield address


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a page and, when the test is over, finds that nothing was complained of and nobody else
    was asked."""
    faults: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error" and not PROBES.search(message.location.get("url", "")):
            faults.append(f"{message.text} {message.location}")

    def on_request(address: str) -> None:
        if not re.match(r"(http|ws)://127\.0\.0\.1[:/]|data:|blob:", address):
            faults.append(f"asked {address}")

    contexts = []

    def open_(
        address: str, size: tuple[int, int] = DESK, theme: str = "light", touch: bool = False
    ) -> Page:
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if theme == "dark" else "light",
            has_touch=touch,
            is_mobile=touch,
            user_agent=MOBILE if touch else None,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", on_console)
        page.on("pageerror", lambda e: faults.append(str(e)))
        page.on("request", lambda r: on_request(r.url))
        page.goto(address)
        settled(page)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert faults == []


def settled(page: Page) -> Page:
    """Wait until a page is drawn and its script rests."""
    page.wait_for_selector("h1")
    page.wait_for_timeout(300)
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
    page.wait_for_timeout(300)
    return page


def cell(page: Page, layer_a: int, layer_b: int, pair: str = PAIR) -> tuple[float, float]:
    """Where the heatmap shows a layer pair."""
    spec = get_pair(pair)
    plot = page.locator(".st-key-svcca .nsewdrag")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box
    across, up = (layer_a + 0.5) / spec.a.n_layers, (layer_b + 0.5) / spec.b.n_layers
    return box["x"] + across * box["width"], box["y"] + box["height"] * (1 - up)


def expect_picked(page: Page, *layers: str) -> None:
    for side, layer in zip("AB", layers, strict=True):
        expect(page.get_by_role("spinbutton", name=f"Layer of {side}")).to_have_value(layer)


def test_a_link_to_a_page_is_the_first_thing_a_server_hears(
    home: Path, visit: Callable[..., Page]
) -> None:
    """A server that has heard nothing yet knows its pages: the script lies where Streamlit finds no
    `pages/` folder of its own kind beside it."""
    with serving(home / "workspaces", home / "cache") as url:
        page = visit(f"{url}/stitches?stitch=L10-L9")
        expect(page.locator("h2")).to_have_text("L10-L9")
        assert page.get_by_role("link", name="Overview").count() == 1
        entries = page.locator("[data-testid=stSidebarNav] a").all_inner_texts()
        assert [entry.split("\n")[-1] for entry in entries] == [
            "Overview",
            "Stitches",
            "Features",
            "Functional features",
            "Steering",
            "Probes",
            "SAE training",
            "New pair",
        ]
        page.close()  # before its server goes


def test_from_the_overview_to_a_stitch_and_back(url: str, visit: Callable[..., Page]) -> None:
    page = visit(url)
    expect(page.locator("h1")).to_have_text("SmolLM2-135M-Instruct and Gemma-3-270M")
    assert page.title() == "Overview · StitchLens"
    page.get_by_role("link", name=re.compile("^.*L10-L9: A→B")).click()
    settled(page)
    expect(page.locator("h2")).to_have_text("L10-L9")
    assert "stitch=L10-L9" in page.url
    expect_picked(page, "10", "9")
    page.get_by_role("link", name="Overview").click()
    settled(page)
    expect(page.locator("h1")).to_have_text("SmolLM2-135M-Instruct and Gemma-3-270M")


def test_a_click_on_the_heatmap_picks_layers_and_stitches(
    url: str, visit: Callable[..., Page]
) -> None:
    page = visit(f"{url}/stitches")
    expect_picked(page, "20", "9")
    page.mouse.move(*cell(page, 5, 4))
    expect(page.locator(".hovertext")).to_contain_text("A before layer 5, B before layer 4")
    page.mouse.click(*cell(page, 7, 12))
    settled(page)
    expect_picked(page, "7", "12")
    page.get_by_text("Fit a stitch from layer 7 to layer 12").wait_for()
    page.mouse.click(*cell(page, 10, 9))  # where a stitch is marked, that stitch is shown
    settled(page)
    expect_picked(page, "10", "9")
    expect(page.locator("h2")).to_have_text("L10-L9")
    assert "stitch=L10-L9" in page.url
    page.reload()
    settled(page)
    expect(page.locator("h2")).to_have_text("L10-L9")


def test_keys_and_rows_choose_too(url: str, visit: Callable[..., Page]) -> None:
    page = visit(f"{url}/stitches")
    layer = page.get_by_role("spinbutton", name="Layer of A")
    layer.fill("11")
    layer.press("Enter")
    settled(page)
    page.get_by_text("Fit a stitch from layer 11 to layer 9").wait_for()
    chooser = page.get_by_role("combobox", name="Stitch shown")
    chooser.focus()
    chooser.press("ArrowDown")
    page.get_by_role("option", name="young").click()
    settled(page)
    expect(page.locator("h2")).to_have_text("young")
    table = page.locator("[data-testid=stDataFrame]").first
    table.scroll_into_view_if_needed()
    box = table.bounding_box()
    assert box
    page.mouse.click(box["x"] + 15, box["y"] + 35 + 35 + 17)  # the second row's mark
    settled(page)
    expect(page.locator("h2")).to_have_text("L10-L9")


def test_a_feature_is_seen_on_both_sides_and_can_be_linked(
    url: str, visit: Callable[..., Page]
) -> None:
    page = visit(f"{url}/features?feature=4")
    expect(page.locator("h2").first).to_have_text("Feature 4")
    assert (
        page.get_by_text("Attribution correlation").count() >= 1
        or page.get_by_text("Eq. 10").count() >= 1
    )
    heats = page.locator("[data-testid=stHtml] div[dir=auto]")
    expect(heats).to_have_count(4)  # two contexts on each side
    page.get_by_role("button", name="Next").click()
    expect(page.locator("h2").first).to_have_text("Feature 5")
    settled(page)
    assert "feature=5" in page.url
    again = visit(page.url)
    expect(again.locator("h2").first).to_have_text("Feature 5")


def place_of(page: Page, feature: int) -> tuple[float, float]:
    """Where the map shows a feature."""
    page.locator(".st-key-map .js-plotly-plot").scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    x, y = page.evaluate(
        """feature => {
            const plot = document.querySelector('.st-key-map .js-plotly-plot'), box = plot.getBoundingClientRect();
            const {xaxis, yaxis} = plot._fullLayout;
            for (const trace of plot._fullData)
                for (let i = 0; i < trace.x.length; i++)
                    if (trace.customdata[i][0] === feature)
                        return [box.left + xaxis._offset + xaxis.d2p(trace.x[i]),
                                box.top + yaxis._offset + yaxis.d2p(trace.y[i])];
        }""",
        feature,
    )
    return x, y


def drag(page: Page, key: str, corners: list[tuple[float, float]]) -> None:
    """With the mouse, over a figure, from corner to corner in shares of its size."""
    plot = page.locator(f".st-key-{key} .js-plotly-plot")
    plot.scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    box = plot.bounding_box()
    assert box
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    page.mouse.move(*places[0])
    page.mouse.down()
    for at in places[1:]:
        page.mouse.move(*at, steps=5)
    page.mouse.up()
    page.wait_for_timeout(500)
    settled(page)


def complaints(page: Page) -> list[str]:
    return page.locator("[data-testid=stAlert], [data-testid=stException]").all_inner_texts()


def test_the_map_is_clicked_boxed_and_lassoed(url: str, visit: Callable[..., Page]) -> None:
    page = visit(f"{url}/features?feature=4")
    page.mouse.click(*place_of(page, 7))
    expect(page.locator("h2#feature")).to_have_text("Feature 7")
    settled(page)
    assert "feature=7" in page.url and complaints(page) == []
    listed = page.get_by_text(re.compile(r"^[\d,]+ of 12 features"))
    expect(listed).to_contain_text("12 of 12 features")
    around = [(0.02, 0.1), (0.98, 0.1), (0.98, 0.5), (0.02, 0.5), (0.02, 0.12)]
    for how, corners in (("Lasso", around), ("Box", [around[0], around[2]])):
        page.get_by_role("radio", name=how).click()
        settled(page)
        assert f"map-drag={how}" in page.url
        drag(page, "map", corners)
        expect(listed).to_contain_text(re.compile(r"^[2-9] of 12 features"))
        assert complaints(page) == []
    page.reload()
    settled(page)
    expect(page.get_by_role("radio", name="Box")).to_be_checked()
    expect(page.locator("h2#feature")).to_have_text("Feature 7")


def test_a_finger_taps_the_map_and_swipes_past_figures(
    url: str, visit: Callable[..., Page]
) -> None:
    page = visit(f"{url}/features?feature=4", PHONE, touch=True)
    page.touchscreen.tap(*place_of(page, 7))
    expect(page.locator("h2#feature")).to_have_text("Feature 7")
    settled(page)
    hand = page.context.new_cdp_session(page)
    top = "document.querySelector('[data-testid=stMain]').scrollTop"
    for key in ("map", "correlations", "classes"):
        plot = page.locator(f".st-key-{key} .js-plotly-plot")
        plot.scroll_into_view_if_needed()
        page.wait_for_timeout(300)
        box, before = plot.bounding_box(), page.evaluate(top)
        assert box
        x, y = box["x"] + box["width"] / 2, box["y"] + 0.8 * box["height"]
        hand.send(
            "Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]}
        )
        for k in range(1, 11):
            move = {"type": "touchMove", "touchPoints": [{"x": x, "y": y - 15 * k}]}
            hand.send("Input.dispatchTouchEvent", move)
        hand.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.wait_for_timeout(500)
        assert page.evaluate(top) > before + 50, f"{key} lets a swipe scroll the page"
    settled(page)
    assert complaints(page) == [] and "feature=7" in page.url


def test_back_forward_and_reload_keep_the_feature(url: str, visit: Callable[..., Page]) -> None:
    page = visit(f"{url}/features")
    expect(page.locator("h2#feature")).to_have_text("Feature 0")
    page.get_by_role("link", name="Stitches").first.click()
    settled(page)
    page.go_back()
    settled(page)
    expect(page.locator("h2#feature")).to_have_text("Feature 0")
    for _ in range(2):
        page.get_by_role("button", name="Next").click()
        settled(page)
    expect(page.locator("h2#feature")).to_have_text("Feature 2")
    page.get_by_role("link", name="Stitches").first.click()
    settled(page)
    page.go_back()
    settled(page)
    expect(page.locator("h2#feature")).to_have_text("Feature 2")
    page.go_back()
    expect(page.locator("h2#feature")).to_have_text("Feature 1")
    page.go_forward()
    expect(page.locator("h2#feature")).to_have_text("Feature 2")
    settled(page)
    address = page.url
    page.reload()
    settled(page)
    assert page.url == address
    page.get_by_role("link", name="Stitches").first.click()
    settled(page)
    page.get_by_role("link", name="Features", exact=True).click()
    expect(page.locator("h2#feature")).to_have_text("Feature 2")


FAINT = """() => {
    const parts = s => { const m = s.match(/[\\d.]+/g).map(Number); return m.length > 3 ? m : [...m, 1]; };
    const over = (c, under) => [0, 1, 2].map(i => c[i] * c[3] + under[i] * (1 - c[3]));
    const linear = x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
    const light = c => { const v = c.map(x => linear(x / 255));
                         return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
    const paper = e => { const all = []; for (; e; e = e.parentElement) all.push(getComputedStyle(e).backgroundColor);
                         return all.reverse().map(parts).reduce((under, c) => over(c, under), [255, 255, 255]); };
    const faint = [];
    for (const e of document.querySelectorAll('[data-testid=stApp] *')) {
        if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
        const box = e.getBoundingClientRect(), style = getComputedStyle(e);
        if (!box.width || style.visibility === 'hidden' || e.closest('[disabled], [data-disabled]')) continue;
        if (e.closest('[data-testid=stSliderThumbValue]')) continue;  // beside the thumb that it belongs to, not on it
        let opacity = 1;
        for (let p = e; p; p = p.parentElement) opacity *= parseFloat(getComputedStyle(p).opacity);
        if (opacity < 0.05) continue;  // shown on hover
        const ink = parts(e.namespaceURI.includes('svg') ? style.fill : style.color);
        const below = paper(e), [low, high] = [light(over([...ink.slice(0, 3), ink[3] * opacity], below)), light(below)]
            .sort((a, b) => a - b);
        if ((high + 0.05) / (low + 0.05) < 4.5) faint.push(`${e.textContent.trim().slice(0, 40)} ${style.color}`);
    }
    return faint;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_can_be_read(url: str, visit: Callable[..., Page], theme: str) -> None:
    """Text, ticks and what is chosen, as drawn: 4.5 to 1 against what is behind it."""
    for name in ("", "stitches", "features"):
        page = visit(f"{url}/{name}", theme=theme)
        expect(page.locator(".js-plotly-plot .xtick").first).to_be_attached()
        assert page.evaluate(FAINT) == [], name
        page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_pages_fit_the_window(
    url: str, visit: Callable[..., Page], size: tuple[int, int], theme: str, tmp_path: Path
) -> None:
    for name in ("", "stitches", "features", "functional", "steering"):
        page = visit(f"{url}/{name}", size, theme)
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        wide = page.evaluate(
            "w => [...document.querySelectorAll('[data-testid=stMain] p,"
            " .js-plotly-plot')].filter(e => e.getBoundingClientRect().right > w + 1 &&"
            " !e.closest('table')).map(e => e.outerHTML)",
            size[0],
        )
        assert wide == []
        height = page.evaluate(
            "document.querySelector('[data-testid=stMainBlockContainer]').scrollHeight"
        )
        page.set_viewport_size({"width": size[0], "height": height + 80})
        page.wait_for_timeout(500)
        page.screenshot(path=tmp_path / f"{name or 'overview'}-{theme}-{size[0]}.png")


def test_a_job_lives_through_a_reload_and_can_be_cancelled(
    url: str, home: Path, visit: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STITCHLENS_CACHE", str(home / "cache"))
    work = (
        "import time; from core.progress import Progress\nwith Progress('Reading', 60000) as bar:\n"
        "    for _ in range(600): time.sleep(0.1); bar.advance(100)"
    )
    job = jobs.start(PAIR, [work], "Fit slowly", command=(sys.executable, "-c"))
    with no_job_left():
        page = visit(f"{url}/stitches")
        expect(page.locator(JOB)).to_contain_text("Fit slowly")
        expect(page.locator(JOB)).to_contain_text(
            re.compile(r"Reading.* of 60 k tok.*tok/s.*left in this step")
        )
        page.reload()
        settled(page)
        page.get_by_text("Fit a stitch from").click()
        expect(page.get_by_role("button", name="Fit", exact=True)).to_be_disabled()
        page.locator(JOB).get_by_role("button", name="Cancel").click()
        expect(page.locator(JOB)).to_contain_text("Cancelled")
        assert job.state == "cancelled"
        page.get_by_role("button", name="Dismiss").click()
        expect(page.locator(JOB)).to_have_count(0)


@pytest.mark.model
@pytest.mark.parametrize("pair", [PAIR, "nano"])
def test_the_committed_workspaces_open(
    tmp_path: Path, visit: Callable[..., Page], pair: str
) -> None:
    """With nothing set up: every page, and a preset streams three lanes."""
    with serving(SHIPPED, borrow_models(tmp_path / "cache")) as url:
        for name in ("", "stitches", "features", "functional", "steering", "probes", "training"):
            page = visit(f"{url}/{name}?pair={pair}")
            assert page.locator("[data-testid=stAlert]").all_inner_texts() == []
            expect(page.locator(".js-plotly-plot").first).to_be_visible()
            page.screenshot(path=tmp_path / f"{name or 'overview'}.png")
            page.close()
        page = visit(f"{url}/steering?pair={pair}&tokens=12")
        page.locator("[class*=st-key-preset-] button").first.click()
        expect(page.locator(".st-key-columns")).to_contain_text("tokens/s", timeout=180_000)
        settled(page)
        assert len(lengths(page)) == 3
        page.screenshot(path=tmp_path / "preset.png")
        page.close()


@pytest.mark.model
def test_features_from_the_histogram_to_a_text_of_ones_own(
    visit: Callable[..., Page], tmp_path: Path
) -> None:
    """On the shipped nano pair: brush, open a row, both sides, its link, the same text, and a text
    typed in."""
    with serving(SHIPPED, tmp_path / "cache") as url:
        page = visit(f"{url}/features?pair=nano")
        listed = page.get_by_text(re.compile(r"^[\d,]+ of [\d,]+ features"))
        everything = listed.inner_text()
        plot = page.locator(".st-key-correlations .nsewdrag").first
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        assert box
        y = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + 0.55 * box["width"], y)
        page.mouse.down()
        page.mouse.move(box["x"] + 0.8 * box["width"], y, steps=5)
        page.mouse.up()
        expect(listed).to_contain_text(re.compile(r"with Eq\. 10 from 0[.\d]* to 0\.\d+"))
        assert listed.inner_text() != everything
        settled(page)
        before = page.locator("h2#feature").inner_text()
        table = page.locator("[data-testid=stDataFrame]").first
        table.scroll_into_view_if_needed()
        place = table.bounding_box()
        assert place
        page.mouse.click(place["x"] + 15, place["y"] + 35 + 35 + 17)  # the second row's mark
        expect(page.locator("h2#feature")).not_to_have_text(before)
        settled(page)
        heats = page.locator("[data-testid=stHtml] div[dir=auto]")
        sides = page.locator("h3[id^=side-]")
        expect(sides).to_have_count(2)
        assert heats.count() >= 2
        name = page.locator("h2#feature").inner_text()
        again = visit(page.url)
        expect(again.locator("h2#feature")).to_have_text(name)
        again.get_by_text("Same text", exact=True).click()
        expect(again.locator("h3#strongest-a")).to_be_visible()
        assert (
            "view=Same" in again.url
            and again.locator("[data-testid=stHtml] div[dir=auto]").count() % 2 == 0
        )
        again.get_by_text("Your own text", exact=True).click()
        box_of_text = again.get_by_role("textbox", name="Text")
        box_of_text.fill("<b>The house</b> & the garden of my mother.")
        again.get_by_role("button", name="Read", exact=True).click()
        expect(again.locator("h3#own-b")).to_be_visible(timeout=120_000)
        shown = again.locator("[data-testid=stHtml] div[dir=auto]")
        expect(shown).to_have_count(2)
        assert "<b>The house</b> & the garden of my mother." in shown.first.inner_text()
        page.close()
        again.close()


@pytest.mark.model
@pytest.mark.timeout(900)
def test_a_stitch_is_fitted_from_the_page(
    tmp_path: Path, visit: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the nano pair: pick layers, fit from 4,000 positions, see the row appear by itself with
    its losses."""
    shutil.copytree(SHIPPED / "nano", tmp_path / "workspaces" / "nano")
    cache = tmp_path / "cache"
    monkeypatch.setenv("STITCHLENS_CACHE", str(cache))
    with no_job_left(), serving(tmp_path / "workspaces", cache) as url:
        page = visit(f"{url}/stitches?pair=nano")
        page.mouse.click(*cell(page, 1, 2, "nano"))
        settled(page)
        page.get_by_text("Fit a stitch from layer 1 to layer 2").click()
        positions = page.get_by_role("spinbutton", name="Positions")
        positions.fill("4000")
        positions.press("Tab")
        page.get_by_role("textbox", name="Name").fill("from-the-page")
        page.get_by_role("textbox", name="Name").press("Tab")
        page.get_by_role("button", name="Fit", exact=True).click()
        expect(page.locator(JOB)).to_contain_text("Fit from-the-page")
        page.reload()
        settled(page)
        expect(page.locator("h2")).to_have_text("from-the-page", timeout=800_000)
        expect(page.locator(JOB)).to_contain_text("is done")
        settled(page)
        assert "stitch=from-the-page" in page.url
        expect_picked(page, "1", "2")
        expect(page.locator(".st-key-table-1 .js-plotly-plot")).to_contain_text("mean-ablated")
        page.screenshot(path=tmp_path / "fitted.png", full_page=True)
        page.close()


def lengths(page: Page) -> list[int]:
    """How much each lane shows."""
    return [
        len(text) for text in page.locator(".st-key-columns [data-testid=stHtml]").all_inner_texts()
    ]


def grown(page: Page, before: list[int]) -> bool:
    now = lengths(page)
    return len(now) == len(before) and all(x > y for x, y in zip(now, before, strict=True))


def wait(true: Callable[[], bool], page: Page, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, lengths(page)
        page.wait_for_timeout(100)


@pytest.mark.model
def test_three_lanes_grow_stop_and_come_back_from_the_link(
    visit: Callable[..., Page], tmp_path: Path
) -> None:
    with serving(SHIPPED, tmp_path / "cache") as url:
        page = visit(
            f"{url}/steering?pair=nano&prompt=The+<b>old</b>+house&tokens=400&strength=1.5"
        )
        page.locator(".st-key-go button").first.click()
        wait(lambda: len(lengths(page)) == 3, page)
        first = lengths(page)
        wait(lambda: grown(page, first), page)
        page.locator(".st-key-stop button").first.click()
        settled(page)
        stopped = lengths(page)
        assert len(stopped) == 3 and all(x > 20 for x in stopped), "the text stays"
        page.wait_for_timeout(1500)
        assert lengths(page) == stopped
        shown = page.locator(".st-key-columns [data-testid=stHtml]").first
        assert "The <b>old</b> house" in shown.inner_text() and shown.locator("b").count() == 0, (
            "escaped"
        )
        again = visit(page.url)
        expect(again.get_by_role("textbox", name="Prompt")).to_have_value("The <b>old</b> house")
        expect(again.get_by_role("slider", name="Strength")).to_have_value("1.5")
        again.locator(".st-key-go button").first.click()
        wait(lambda: len(lengths(again)) == 3 and grown(again, first), again)
        again.close()  # a tab closed while generating
        other = visit(f"{url}/steering?pair=nano&tokens=5")
        other.locator(".st-key-go button").first.click()
        expect(other.locator(".st-key-columns")).to_contain_text("tokens/s")
        other.close()
        page.close()


@pytest.mark.model
def test_a_stitch_of_ones_own_gets_a_card_and_steers(
    tmp_path: Path, visit: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script of torch alone trains two nn.Linear layers and saves them the ordinary way; the page
    takes the file to a report card, to a steered text, private to its browser until it is kept."""
    shutil.copytree(SHIPPED / "nano", tmp_path / "workspaces" / "nano")
    bench = open_pair("nano")
    rows = read_sample(bench.a, bench.b, bench.corpus.split("fit"), 8000)
    torch.save({"h_a": rows.h_a[2], "h_b": rows.h_b[3]}, tmp_path / "rows.pt")
    script = PROJECT / "examples" / "train_stitch.py"
    assert set(re.findall(r"^(?:import|from) (\w+)", script.read_text(), re.M)) == {"sys", "torch"}
    files = [str(tmp_path / "rows.pt"), str(tmp_path / "from-torch.pt")]
    subprocess.run(
        [sys.executable, str(script), *files], check=True, cwd=tmp_path, capture_output=True
    )
    monkeypatch.setenv("STITCHLENS_CACHE", str(tmp_path / "cache"))
    with no_job_left(), serving(tmp_path / "workspaces", tmp_path / "cache") as url:
        page = visit(f"{url}/stitches?pair=nano")
        page.get_by_text("Bring your own stitch").click()
        page.set_input_files("input[type=file]", str(tmp_path / "from-torch.pt"))
        page.get_by_text("from-torch.pt").first.wait_for()
        page.get_by_role("button", name="Import", exact=True).click()
        expect(page.locator("h3#card")).to_be_visible(timeout=180_000)
        expect(page.locator("h2")).to_have_text("from-torch")
        expect(page.get_by_text("Nothing looks wrong")).to_be_visible()
        settled(page)
        page.screenshot(path=tmp_path / "card.png", full_page=True)
        other = visit(f"{url}/stitches?pair=nano&stitch=from-torch")
        expect(other.get_by_text("No stitch named from-torch here")).to_be_visible()
        assert (
            other.get_by_text("Brought here").count() == 0
            and other.get_by_text("from-torch is done").count() == 0
        )
        page.goto(f"{url}/steering?pair=nano&through=from-torch&tokens=6")
        settled(page)
        page.locator(".st-key-go button").first.click()
        expect(page.locator(".st-key-columns")).to_contain_text("tokens/s", timeout=60_000)
        settled(page)
        assert len(lengths(page)) == 3
        page.get_by_text("Brought here (1)").click()
        expect(page.get_by_text("private to this browser")).to_be_visible()
        page.screenshot(path=tmp_path / "brought.png")
        page.get_by_role("button", name="Keep in workspace").click()
        expect(page.get_by_text("kept in the workspace")).to_be_visible()
        assert "stitches/from-torch" in Workspace("nano", tmp_path / "workspaces").names()
        other.goto(f"{url}/stitches?pair=nano&stitch=from-torch")
        expect(other.locator("h2")).to_have_text("from-torch")
        other.close()
        page.close()


@pytest.mark.model
def test_functional_features_from_a_link_to_a_head_and_to_the_feature(
    visit: Callable[..., Page], tmp_path: Path
) -> None:
    """On the shipped nano pair: a link with a head that does not exist, a text of ones own in one
    model and the other, and the link to the feature's own view."""
    with serving(SHIPPED, tmp_path / "cache") as url:
        page = visit(f"{url}/functional?pair=nano&feature=171&side=b&layer=4&head=9")
        expect(page.get_by_text("No head 9 here, they run from 0 to 3")).to_be_visible()
        expect(page.locator("h2#feature")).to_have_text("Feature 171")
        for key in ("null-space", "ablations", "heads", "places"):
            expect(page.locator(f".st-key-{key} .js-plotly-plot")).to_be_visible()
        for key in ("null-space", "ablations", "heads"):
            expect(page.locator(f".st-key-{key} .legend")).to_contain_text("random")
        page.get_by_role("textbox", name="Text").fill("print(<b>(1 + 2)</b> * 3);")
        page.get_by_role("button", name="Look", exact=True).click()
        expect(page.locator(".st-key-patterns .js-plotly-plot")).to_be_visible(timeout=120_000)
        expect(page.locator(".st-key-sink .legend")).to_contain_text("random direction")
        settled(page)
        page.screenshot(path=tmp_path / "head.png", full_page=True)
        page.get_by_role("radio", name="A, original").click()
        settled(page)
        page.get_by_role("button", name="Look", exact=True).click()
        expect(page.get_by_text(re.compile(r"^Head 2\.\d of A over this text"))).to_be_visible(
            timeout=60_000
        )
        page.get_by_role("link", name="Feature 171 on the Features page").click()
        expect(page.locator("h1")).to_have_text("Features")
        settled(page)
        expect(page.locator("h2#feature")).to_have_text("Feature 171")
        page.close()


@pytest.mark.model
def test_probes_of_ones_own_labels_lead_to_a_feature(
    visit: Callable[..., Page], tmp_path: Path
) -> None:
    """On the shipped nano pair: the figures, a task from the picker, one's own texts, and on to a
    feature."""
    with serving(SHIPPED, tmp_path / "cache") as url:
        page = visit(f"{url}/probes?pair=nano")
        expect(page.locator(".st-key-curves .js-plotly-plot")).to_be_visible()
        expect(page.locator(".st-key-grid .js-plotly-plot")).to_be_visible()
        page.get_by_role("combobox", name="Task").click()
        page.get_by_role("option", name="Language: French").click()
        expect(page.locator("h3#features")).to_be_visible()
        settled(page)
        again = visit(page.url)
        expect(again.locator("h3#features")).to_be_visible()
        again.close()
        for label, sentences in (
            (
                "Yes",
                [
                    f"Le {w} est dans la <b>maison</b>."
                    for w in ("chat", "roi", "pain", "livre", "chien")
                ],
            ),
            (
                "No",
                [
                    f"The {w} is in the <b>house</b>."
                    for w in ("cat", "king", "bread", "book", "dog")
                ],
            ),
        ):
            page.get_by_role("textbox", name=label).fill("\n".join(sentences))
        page.get_by_role("button", name="Probe", exact=True).click()
        expect(page.get_by_text("A, its own probe")).to_be_visible(timeout=180_000)
        settled(page)
        expect(page.get_by_text("10 texts")).to_be_visible()
        link = page.locator("a[href*='features?pair=nano']").last
        wanted = re.search(r"feature=(\d+)", link.get_attribute("href") or "")
        assert wanted
        with page.context.expect_page() as opened:
            link.click()
        feature = settled(opened.value)
        expect(feature.locator("h2#feature")).to_have_text(f"Feature {wanted[1]}", timeout=60_000)
        page.get_by_text("A CSV", exact=True).click()
        (tmp_path / "one.csv").write_text("text,label\na,x\nb,x\n")
        page.set_input_files("input[type=file]", str(tmp_path / "one.csv"))
        page.get_by_text("one.csv").first.wait_for()
        page.get_by_role("button", name="Probe", exact=True).click()
        expect(page.get_by_text("one label, 'x'")).to_be_visible()
        page.close()


@pytest.mark.model
@pytest.mark.timeout(900)
def test_training_an_sae_from_a_transferred_start(
    visit: Callable[..., Page], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a copy of the shipped nano pair: what was saved, another width, and runs of one's own that
    are watched."""
    shutil.copytree(SHIPPED / "nano", tmp_path / "workspaces" / "nano")
    monkeypatch.setenv("STITCHLENS_CACHE", str(tmp_path / "cache"))
    with no_job_left(), serving(tmp_path / "workspaces", tmp_path / "cache") as url:
        page = visit(f"{url}/training?pair=nano&width=2048&fitter=adam")
        for key in ("relative", "curves", "dead", "turning", "frontier"):
            expect(page.locator(f".st-key-{key} .js-plotly-plot")).to_be_visible()
        expect(page.get_by_text("To reach 90% of the final explained variance")).to_be_visible()
        expect(page.get_by_role("radio", name="2048")).to_be_checked()
        page.get_by_role("radio", name="1024").click()
        settled(page)
        assert "width=1024" in page.url
        page.get_by_role("radio", name="with", exact=True).click()
        settled(page)
        expect(page.locator(".st-key-turning")).to_have_count(0)
        assert page.locator("[data-testid=stAlert]").all_inner_texts() == []
        page.get_by_role("spinbutton", name="Rows of B").fill("6000")
        page.get_by_role("textbox", name="Features").fill("8")
        page.get_by_role("button", name="Train", exact=True).click()
        expect(page.locator("[data-testid=stAlert]")).to_contain_text("k = 16 of 8 features")
        page.get_by_role("textbox", name="Features").fill("1024")
        page.get_by_role("textbox", name="Name").fill("short")
        page.get_by_role("button", name="Train", exact=True).click()
        expect(page.locator(".st-key-job")).to_contain_text("Train SAEs short", timeout=30_000)
        expect(page.locator(".st-key-live .js-plotly-plot")).to_be_visible(timeout=240_000)
        expect(page.locator(".st-key-job")).to_contain_text("is done", timeout=240_000)
        expect(page.get_by_text(re.compile(r"^Table 3: .* 6,000 rows once"))).to_be_visible()
        expect(page.get_by_text(re.compile(r"To reach 90% .* at 1,024 features"))).to_be_visible()
        page.close()
