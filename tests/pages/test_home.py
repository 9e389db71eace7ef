"""The first page, and the page of the paper's results, on a planted workspace without a browser."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from core.workspace.store import Workspace
from pages.home import figures
from pages.shared.words import NARROW
from tests.helpers.app import opened, text
from tests.helpers.looks import themes
from tests.helpers.planted import MAKERS, kinds, plant
from tests.helpers.resting import DESK, PHONE, settled

RUN = {
    "prompt": "The bridge",
    "stitch": "L20-L9",
    "lanes": [
        {"lane": "alone", "title": "B alone", "side": "b", "carried": False, "text": " is <b>old"},
        {"lane": "crossed", "title": "B thinking", "side": "b", "carried": True, "text": " fell"},
    ],
}


def typed(app: object) -> str:
    return "\n".join(str(part.proto.body) for part in app.get("html"))  # type: ignore[attr-defined]


@pytest.mark.model
def test_home_types_the_run_that_is_kept(ws: Workspace) -> None:
    ws.put_record("showcase", RUN, MAKERS)
    app = opened()
    assert not app.exception and not app.error
    assert "fell" in typed(app), "the crossed lane comes first"
    app.pills[0].select("B alone").run()
    assert "&lt;b&gt;old" in typed(app) and "<b>old" not in typed(app)


@pytest.mark.model
def test_home_without_a_run_names_the_command(ws: Workspace) -> None:
    app = opened()
    assert not app.exception and not app.error
    assert "python -m core showcase smollm2-gemma3" in text(app)


@pytest.mark.model
def test_home_quotes_crossing_on_the_text_that_both_read(ws: Workspace) -> None:
    ws.put_table("kinds/L20-L9", kinds(), MAKERS)
    words = text(opened()).replace(NARROW, " ")
    assert "+40 % loss" in words and "English" in words and "95 % of its positions" in words


def test_home_without_a_workspace_is_a_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STITCHLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(tmp_path / "none"))
    app = opened()
    assert not app.exception
    assert "python -m core build" in text(app)


def test_every_word_is_typed_in_turn_and_whole() -> None:
    html = figures.typed("A ", "b  c <i>", "b", True)
    delays = [int(part.split("ms")[0]) for part in html.split("animation-delay:")[1:]]
    assert delays == sorted(set(delays)) and len(delays) == 4
    assert "&lt;i&gt;" in html and "border-bottom" in html


def test_the_paper_s_results_stand_beside_ours_or_name_the_command(ws: Workspace) -> None:
    ws.put_table("kinds/L20-L9", kinds(), MAKERS)
    app = opened("paper")
    assert not app.exception and not app.error
    words = text(app).replace(NARROW, " ")
    assert "SmolLM2 to Gemma +40 %" in words
    assert "python -m core features build smollm2-gemma3" in words, "what is not measured yet"
    assert "Table 1" in words and "Figure 14" in words


def test_stitches_sets_the_pair_beside_others_and_the_paper(ws: Workspace) -> None:
    ws.put_table("kinds/L20-L9", kinds(), MAKERS)
    plant(ws.root.parent, "nano")
    app = opened("stitches")
    assert not app.exception and not app.error
    table = app.table[0].value
    assert table.shape == (6, 7)
    assert table.iloc[0, 3].replace(NARROW, " ") == "4.20 (+40 %)"
    assert table.index[0] == r"L20\-L9, English" and table.index[1] == r"L10\-L9, all text"
    assert table.index[2].startswith(r"nano\-a and nano\-b") and "paper" in table.index[3]
    assert "1.23 M characters" in text(app) and "576 wide" in text(app)


@pytest.mark.browser
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_the_run_types_itself_out_above_the_fold(
    url: str, visit: Callable[..., Page], size: tuple[int, int]
) -> None:
    """With chips to choose from and a field to write in, and without scrolling."""
    page = visit(f"{url}/?pair=nano", size)
    words = page.locator(".typed")
    for _ in themes(page):
        expect(words.last).to_have_css("opacity", "1")
        for part in (words.first, page.get_by_placeholder("Your beginning …")):
            box = part.bounding_box()
            assert box and box["y"] + box["height"] <= size[1]

    before = page.locator(".typed").all_inner_texts()
    page.get_by_text("nano-b alone").click()
    settled(page)
    assert page.locator(".typed").all_inner_texts() != before
    assert "hear=" in page.url, "a link shows the lane that its sender saw"


@pytest.mark.browser
@pytest.mark.model
def test_a_beginning_goes_live(url: str, visit: Callable[..., Page]) -> None:
    page = visit(f"{url}/?pair=nano")
    field = page.get_by_placeholder("Your beginning …")
    field.fill("The <b>house</b> of my")
    field.press("Enter")
    lanes = page.get_by_text("The <b>house</b> of my")
    expect(lanes).to_have_count(3, timeout=240_000)
    settled(page, 240)
    assert page.locator("[data-testid=stAlert]").count() == 0


@pytest.mark.browser
def test_home_fetches_ahead_what_other_pages_draw_with(
    url: str, visit: Callable[..., Page]
) -> None:
    """Once: the page that needs it does not fetch it again."""
    page = visit(f"{url}/?pair=nano", DESK)
    fetched = "kind => performance.getEntriesByType('resource').filter(e => e.name.includes(kind))"
    kinds_of_script = ("PlotlyChart", "DataFrame.", "StreamlitSyntaxHighlighter")
    for kind in kinds_of_script:
        page.wait_for_function(f"kind => ({fetched})(kind).length > 0", arg=kind)

    page.get_by_role("link", name="Stitches", exact=True).click()
    expect(page.locator(".js-plotly-plot").first).to_be_visible()
    settled(page)
    scripts = [page.evaluate(fetched, kind) for kind in kinds_of_script]
    names = [entry["name"] for entries in scripts for entry in entries]
    assert len(names) == len(set(names)) >= len(kinds_of_script)
