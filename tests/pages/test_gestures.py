"""What a hand does with pages, in Chromium: links, clicks, drags, swipes, keys, Back; no console
error, no word to the outside."""

import re
import sys
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect

from core import jobs
from tests.helpers.planted import PAIR
from tests.helpers.resting import JOB, PHONE, cell, expect_picked, settled, still
from tests.helpers.serving import held

pytestmark = pytest.mark.browser


def test_a_link_to_a_page_is_the_first_thing_a_server_hears(
    url: str, first_heard: dict[str, str]
) -> None:
    """A server that has heard nothing yet knows its pages: the script lies where Streamlit finds no
    `pages/` folder of its own kind beside it."""
    assert first_heard["stitch"] == "L10-L9"
    for page in ("Stitches", "Features", "Functional features", "Steering", "Probes", "New pair"):
        assert page in first_heard["pages"]


def test_from_home_to_a_page_and_back(url: str, visit: Callable[..., Page]) -> None:
    page = visit(url)
    expect(page.locator("h1")).to_have_text("StitchLens")
    page.get_by_role("link", name="Stitches").first.click()
    settled(page)
    expect(page.locator("h2").first).to_have_text("L20-L9")
    expect_picked(page, "20", "9")
    page.go_back()
    settled(page)
    expect(page.locator("h1")).to_have_text("StitchLens")


def test_a_click_on_the_heatmap_picks_layers_and_stitches(
    url: str, visit: Callable[..., Page]
) -> None:
    page = visit(f"{url}/stitches")
    expect_picked(page, "20", "9")
    page.mouse.move(*cell(page, 5, 4))
    expect(page.locator(".hovertext")).to_contain_text(
        "SmolLM2 before layer 5, Gemma before layer 4"
    )
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


DOUBLE_CLICK = 600
"""Milliseconds after which Plotly no longer takes a second click, wherever it is, for a double
click, which lets go of what was chosen."""


def test_clicks_in_a_row_do_not_take_each_other_back(url: str, visit: Callable[..., Page]) -> None:
    """The second one is sent before the server has heard the first: it stays, and fields and
    address agree."""
    page = visit(f"{url}/stitches")
    places = [cell(page, 7, 12), cell(page, 11, 3)]
    with held(url):
        for place in places:
            page.mouse.click(*place)
            page.wait_for_timeout(DOUBLE_CLICK)
    page.wait_for_function("location.search.includes('layer_a=')")
    settled(page)
    address = parse_qs(urlsplit(page.evaluate("location.href")).query)
    assert (address["layer_a"], address["layer_b"]) == (["11"], ["3"])
    expect_picked(page, "11", "3")


def test_keys_and_rows_choose_too(url: str, visit: Callable[..., Page]) -> None:
    page = visit(f"{url}/stitches")
    layer = page.get_by_role("spinbutton", name="Layer of SmolLM2")
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
    box = still(page.locator("[data-testid=stDataFrame]").first)
    page.mouse.click(box["x"] + 15, box["y"] + 35 + 35 + 17)  # the second row's mark
    settled(page)
    expect(page.locator("h2")).to_have_text("L10-L9")


def test_a_feature_is_seen_on_both_sides_and_can_be_linked(
    url: str, visit: Callable[..., Page]
) -> None:
    page = visit(f"{url}/features?feature=4")
    expect(page.locator("h2").first).to_have_text("Feature 4")
    expect(page.get_by_text("Attribution correlation").first).to_be_visible()
    heats = page.locator("[data-testid=stHtml] div[dir=auto]")
    expect(heats).to_have_count(4)  # two contexts, in both models
    page.get_by_role("button", name="Next").click()
    expect(page.locator("h2").first).to_have_text("Feature 5")
    settled(page)
    assert "feature=5" in page.url
    again = visit(page.url)
    expect(again.locator("h2").first).to_have_text("Feature 5")


def place_of(page: Page, feature: int) -> tuple[float, float]:
    """Where the map shows a feature."""
    still(page.locator(".st-key-map .js-plotly-plot"))
    x, y = page.evaluate(
        """feature => {
            const plot = document.querySelector('.st-key-map .js-plotly-plot');
            const box = plot.getBoundingClientRect();
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
    box = still(page.locator(f".st-key-{key} .js-plotly-plot"))
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    page.mouse.move(*places[0])
    page.mouse.down()
    for at in places[1:]:
        page.mouse.move(*at, steps=5)
    page.mouse.up()
    settled(page)


def complaints(page: Page) -> list[str]:
    return page.locator("[data-testid=stAlert], [data-testid=stException]").all_inner_texts()


def test_the_map_is_clicked_boxed_and_lassoed(url: str, visit: Callable[..., Page]) -> None:
    page = visit(f"{url}/features?feature=4&tab=Map")
    page.mouse.click(*place_of(page, 7))
    expect(page.locator("h2#feature")).to_have_text("Feature 7")
    expect(page.locator("h2#feature")).to_be_in_viewport()
    settled(page)
    assert "feature=7" in page.url and complaints(page) == []
    around = [(0.02, 0.1), (0.98, 0.1), (0.98, 0.5), (0.02, 0.5), (0.02, 0.12)]
    for how, corners in (("Lasso", around), ("Box", [around[0], around[2]])):
        page.get_by_role("radio", name=how).click()
        settled(page)
        assert f"map-drag={how}" in page.url
        drag(page, "map", corners)
        page.wait_for_function("location.search.includes('marked=')")
        page.get_by_role("tab", name="List", exact=True).click()
        listed = page.get_by_text(re.compile(r"^[2-9] of 12 features"))
        expect(listed).to_be_visible()
        page.get_by_role("button", name="All features").click()
        settled(page)
        page.get_by_role("tab", name="Map").click()
        settled(page)
        assert complaints(page) == []
    page.reload()
    settled(page)
    expect(page.get_by_role("radio", name="Box")).to_be_checked()
    expect(page.locator("h2#feature")).to_have_text("Feature 7")


def test_a_finger_taps_the_map_and_swipes_past_figures(
    url: str, visit: Callable[..., Page]
) -> None:
    page = visit(f"{url}/features?feature=4&tab=Map", PHONE, touch=True)
    page.touchscreen.tap(*place_of(page, 7))
    expect(page.locator("h2#feature")).to_have_text("Feature 7")
    settled(page)
    hand = page.context.new_cdp_session(page)
    top = "document.querySelector('[data-testid=stMain]').scrollTop"
    for key in ("map", "correlations", "classes"):
        if key == "correlations":
            page.get_by_role("tab", name="Histograms").tap()
            settled(page)
        box = still(page.locator(f".st-key-{key} .js-plotly-plot"))
        before = page.evaluate(top)
        x, y = box["x"] + box["width"] / 2, box["y"] + 0.8 * box["height"]
        hand.send(
            "Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]}
        )
        for k in range(1, 11):
            move = {"type": "touchMove", "touchPoints": [{"x": x, "y": y - 15 * k}]}
            hand.send("Input.dispatchTouchEvent", move)
        hand.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.wait_for_function(f"{top} > {before + 50}")  # it lets a swipe scroll the page
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


def test_a_job_lives_through_a_reload_and_can_be_cancelled(
    url: str, visit: Callable[..., Page], no_job_left: None
) -> None:
    work = (
        "import time; from core.progress import Progress\nwith Progress('Reading', 60000) as bar:\n"
        "    for _ in range(600): time.sleep(0.1); bar.advance(100)"
    )
    job = jobs.run(PAIR, [work], "Fit slowly", command=(sys.executable, "-c"))
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


def test_back_from_another_page_finds_everything_as_it_was(
    url: str, visit: Callable[..., Page]
) -> None:
    """Streamlit by itself takes a page's choices out of the address before it leaves the page."""
    page = visit(f"{url}/features?feature=4&tab=Histograms")
    page.get_by_role("slider", name="At least so many sentences").press("Home")
    settled(page)
    page.get_by_role("radio", name="Contexts of each").click()
    settled(page)
    address = page.url
    assert "sentences=1" in address and "view=Contexts" in address and "feature=4" in address
    page.get_by_role("link", name="Stitches").first.click()
    settled(page)
    page.go_back()
    settled(page)
    assert page.url == address
    expect(page.get_by_role("radio", name="Contexts of each")).to_be_checked()
    expect(page.get_by_role("slider", name="At least so many sentences")).to_have_value("1")
    expect(page.locator("h2#feature")).to_have_text("Feature 4")
    assert complaints(page) == []


def test_who_opens_a_link_sees_what_was_brushed(url: str, visit: Callable[..., Page]) -> None:
    page = visit(f"{url}/features?tab=Histograms")
    drag(page, "correlations", [(0.5, 0.5), (0.97, 0.6)])
    page.wait_for_function("location.search.includes('brush=')")
    page.get_by_role("tab", name="List", exact=True).click()
    listed = page.get_by_text(re.compile(r"^[\d,]+ of 12 features"))
    expect(listed).to_be_visible()
    expect(listed).not_to_contain_text("12 of 12 features")
    page.wait_for_function("!location.search.includes('tab=')")
    other = visit(page.evaluate("location.href"))
    again = other.get_by_text(re.compile(r"^[\d,]+ of 12 features"))
    expect(again).to_have_text(listed.inner_text())
    other.get_by_role("button", name="All features").click()
    settled(other)
    expect(again).to_contain_text("12 of 12 features")
    assert "brush=" not in other.url


def test_rows_are_chosen_by_arrow_keys_and_steered_with(
    url: str, visit: Callable[..., Page]
) -> None:
    """A row by the keyboard; its link in another browser; Steering and Back."""
    page = visit(f"{url}/features")
    rows = page.locator(".st-key-rows [role=radiogroup] input")
    expect(rows).to_have_count(12)
    rows.nth(0).focus()
    for _ in range(2):
        page.keyboard.press("ArrowDown")
        settled(page)
    expect(rows.nth(2)).to_be_checked()
    name = page.locator("h2#feature").inner_text()
    assert name != "Feature 0" and name.removeprefix("Feature ") in page.url
    expect(page.locator("h2#feature")).to_be_in_viewport()

    other = visit(page.url)
    expect(other.locator("h2#feature")).to_have_text(name)
    page.get_by_role("link", name="Steer with it").click()
    settled(page)
    assert "steer_feature=" in page.url
    page.go_back()
    settled(page)
    expect(page.locator("h2#feature")).to_have_text(name)
    row = page.locator(".st-key-rows [role=radiogroup] > div").nth(4)
    box = still(row)
    page.mouse.click(box["x"] + box["width"] - 8, box["y"] + box["height"] - 6)  # far from its mark
    expect(rows.nth(4)).to_be_checked()
    assert complaints(page) == []


def test_an_embedded_card_stands_alone(url: str, visit: Callable[..., Page]) -> None:
    page = visit(f"{url}/features?feature=5")
    page.goto(f"{url}/features?feature=4&embed=true")
    expect(page.locator("h2#feature")).to_have_text("Feature 4")
    expect(page.locator("h1")).to_have_count(0)
    expect(page.get_by_role("textbox")).to_have_count(0)
    assert complaints(page) == []


def test_a_list_is_made_opened_and_taken_along(url: str, visit: Callable[..., Page]) -> None:
    page = visit(f"{url}/features?feature=4")
    page.get_by_role("button", name="Add to list").click()
    page.get_by_role("textbox", name="Note").fill("<b>odd</b> | one")
    page.get_by_role("textbox", name="Note").press("Tab")
    settled(page)
    page.get_by_role("button", name="Add", exact=True).click()
    settled(page)
    expect(page.get_by_role("tab", name="My lists")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_text("Note at 4: <b>odd</b> | one")).to_be_visible()
    assert "list=p-" in page.url
    with page.expect_download() as taken:
        page.get_by_role("button", name="CSV", exact=True).click()
    assert "<b>odd</b> | one" in taken.value.path().read_text("utf-8")
    page.get_by_role("button", name="Take 4 out").click()
    expect(page.get_by_text("Nothing in it yet.")).to_be_visible()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete it").click()
    settled(page)
    assert complaints(page) == [] and "list=" not in page.url


def test_the_strip_filters_the_list(url: str, visit: Callable[..., Page]) -> None:
    page = visit(f"{url}/features")
    drag(page, "strip", [(0.5, 0.5), (0.97, 0.6)])
    page.wait_for_function("location.search.includes('brush=')")
    listed = page.get_by_text(re.compile(r"^[\d,]+ of 12 features"))
    expect(listed).to_be_visible()
    expect(listed).not_to_contain_text("12 of 12 features")
    assert complaints(page) == []
