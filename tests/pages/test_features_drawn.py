"""What is drawn on Features, in Chromium: figures that are saved, contexts that open, regions of
the map with names."""

import struct
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
from playwright.sync_api import Download, Page, expect

from core.text.corpus import load_corpus
from tests.helpers.looks import FAINT, themes
from tests.helpers.resting import PHONE, settled, still
from tests.pages.test_gestures import complaints, place_of

pytestmark = pytest.mark.browser
SVG = "{http://www.w3.org/2000/svg}"


def saved(page: Page, key: str, kind: str) -> Download:
    """A figure, by a click on its button."""
    figure = page.locator(f".st-key-{key} .js-plotly-plot")
    box = still(figure)
    page.mouse.move(box["x"] + 10, box["y"] + box["height"] / 2)
    with page.expect_download() as taken:
        figure.get_by_role("button", name=f"Save as {kind}").click()
    return taken.value


def test_a_figure_is_saved_as_png_and_svg(url: str, visit: Callable[..., Page]) -> None:
    page = visit(f"{url}/features?pair=nano&feature=391&tab=Map")
    box = still(page.locator(".st-key-map .js-plotly-plot"))
    picture = saved(page, "map", "PNG")
    assert picture.suggested_filename == "nano-L2-1024-map.png"
    content = picture.path().read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">2I", content[16:24]) == (
        2 * round(box["width"]),
        2 * round(box["height"]),
    )

    drawing = saved(page, "map", "SVG")
    assert drawing.suggested_filename == "nano-L2-1024-map.svg"
    root = ElementTree.fromstring(drawing.path().read_bytes())
    texts = {"".join(text.itertext()) for text in root.iter(f"{SVG}text")}
    assert root.tag == f"{SVG}svg" and {"semantic", "structural"} <= texts

    again = saved(page, "map", "PNG")
    assert again.path().read_bytes().startswith(b"\x89PNG"), "the first button is still the first"
    bars = saved(page, "bars", "SVG")
    assert bars.suggested_filename == "nano-L2-1024-feature-391-activations.svg"
    assert complaints(page) == []


def test_a_figure_is_saved_by_the_keyboard(url: str, visit: Callable[..., Page]) -> None:
    page = visit(f"{url}/stitches?pair=nano")
    page.locator(".st-key-svcca .modebar-btn").first.focus()
    page.keyboard.press("Tab")
    focused = page.locator(":focus")
    expect(focused).to_have_attribute("aria-label", "Save as SVG")
    with page.expect_download() as taken:
        page.keyboard.press("Enter")
    assert taken.value.suggested_filename.endswith("svcca.svg")
    ElementTree.fromstring(taken.value.path().read_bytes())


def test_a_context_opens_to_what_stands_around_it(url: str, visit: Callable[..., Page]) -> None:
    page = visit(f"{url}/features?feature=4")
    document = load_corpus().documents[0]
    fold = page.locator("details").first
    expect(fold).not_to_have_attribute("open", "")
    expect(fold.locator("p")).to_be_hidden()
    assert "Arabic" in fold.locator("summary").inner_text()

    fold.locator("summary").focus()
    page.keyboard.press("Enter")
    passage = fold.locator("p")
    expect(passage).to_be_visible()
    said = " ".join((passage.text_content() or "").replace("⏎", "").split())
    assert " ".join(document.text.split()) in said, "the whole document, and more"
    assert len(said) > len(document.text) + 300
    expect(fold.locator("small")).to_have_text(document.id)
    page.keyboard.press("Enter")
    expect(passage).to_be_hidden()

    page.get_by_role("radio", name="Contexts of each").click()
    settled(page)
    summaries = page.locator("details summary")
    assert summaries.count() >= 4
    summaries.nth(1).click()
    expect(page.locator("details").nth(1).locator("p")).to_be_visible()
    assert complaints(page) == []


@pytest.mark.parametrize("size", [(1440, 900), PHONE])
def test_regions_of_the_map_have_names_that_can_be_read_and_clicked_through(
    url: str, visit: Callable[..., Page], size: tuple[int, int]
) -> None:
    page = visit(f"{url}/features?pair=nano&feature=391&tab=Map", size)
    for _ in themes(page):
        names = page.locator(".st-key-map .annotation-text")
        assert names.count() >= 3
        boxes = [still(name) for name in names.all()]
        for k, one in enumerate(boxes):
            assert one["x"] >= 0 and one["x"] + one["width"] <= size[0], "in the window"
            for other in boxes[:k]:
                apart = (
                    one["x"] + one["width"] <= other["x"] + 1
                    or other["x"] + other["width"] <= one["x"] + 1
                    or one["y"] + one["height"] <= other["y"] + 1
                    or other["y"] + other["height"] <= one["y"] + 1
                )
                assert apart, "no name lies on another"
        words = set(names.all_inner_texts())
        assert not words & {text[:40] for text in page.evaluate(FAINT)}

    hidden = page.evaluate(
        """() => {
            const plot = document.querySelector('.st-key-map .js-plotly-plot');
            const {xaxis, yaxis} = plot._fullLayout, frame = plot.getBoundingClientRect();
            for (const name of plot.querySelectorAll('.annotation-text')) {
                const box = name.getBoundingClientRect();
                for (const trace of plot._fullData)
                    for (let i = 0; i < trace.x.length; i++) {
                        const x = frame.left + xaxis._offset + xaxis.d2p(trace.x[i]);
                        const y = frame.top + yaxis._offset + yaxis.d2p(trace.y[i]);
                        if (x > box.left + 2 && x < box.right - 2 && y > box.top + 2 && y < box.bottom - 2)
                            return trace.customdata[i][0];
                    }
            }
        }"""
    )
    page.mouse.click(*place_of(page, hidden))
    expect(page.locator("h2#feature")).not_to_have_text("Feature 391")
