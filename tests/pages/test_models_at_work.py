"""Pages with models at work, in Chromium: texts read and written, stitches and SAEs fitted and
brought."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page, expect

from core.activations.sample import read_sample
from core.bench import open_pair
from core.workspace.places import PROJECT
from core.workspace.store import Workspace
from tests.helpers.resting import JOB, cell, expect_picked, settled

pytestmark = pytest.mark.browser


@pytest.mark.model
def test_features_from_a_word_to_a_text_of_ones_own(url: str, visit: Callable[..., Page]) -> None:
    """On the shipped nano pair: ask for a word, go down the rows, brush, the table, both sides, a
    sentence and a text typed in."""
    page = visit(f"{url}/features?pair=nano")
    box = page.get_by_role("textbox", name="Ask for a feature")
    box.fill("French")
    box.press("Enter")
    rows = page.locator(".st-key-rows [role=radiogroup] input")
    expect(page.get_by_text(re.compile(r"found\. Bars"))).to_be_visible()
    settled(page)
    rows.nth(0).focus()
    for _ in range(2):
        page.keyboard.press("ArrowDown")
        settled(page)
    expect(rows.nth(2)).to_be_checked()
    name = page.locator("h2#feature").inner_text()
    heads = page.locator(".st-key-card").get_by_text("'s own", exact=False)
    expect(heads.first).to_be_visible()
    again = visit(page.url)
    expect(again.locator("h2#feature")).to_have_text(name)

    page.get_by_role("tab", name="Table").click()
    settled(page)
    table = page.locator("[data-testid=stDataFrame]").first
    table.scroll_into_view_if_needed()
    place = table.bounding_box()
    assert place
    page.mouse.click(place["x"] + 15, place["y"] + 35 + 35 + 17)  # the second row's mark
    expect(page.locator("h2#feature")).not_to_have_text(name)
    settled(page)
    again.get_by_text("Contexts of each", exact=True).click()
    expect(again.locator("h3[id^=side-]")).to_have_count(2)
    settled(again)
    assert "view=Contexts" in again.url
    again.get_by_text("Your own text", exact=True).click()
    box_of_text = again.get_by_role("textbox", name="Text")
    box_of_text.fill("<b>The house</b> & the garden of my mother.")
    again.get_by_role("button", name="Read", exact=True).click()
    expect(again.locator("h3#own-b")).to_be_visible(timeout=120_000)
    shown = again.locator("[data-testid=stHtml] div[dir=auto]")
    expect(shown).to_have_count(2)
    assert "<b>The house</b> & the garden of my mother." in shown.first.inner_text()

    again.get_by_text("Sentence", exact=True).click()
    settled(again)
    box = again.get_by_role("textbox", name="Ask for a feature")
    box.fill("Le président de la République")
    box.press("Enter")
    expect(again.get_by_text("score").first).to_be_visible(timeout=120_000)
    page.close()
    again.close()


@pytest.mark.model
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("no_job_left")
def test_a_stitch_is_fitted_from_the_page(
    url: str, tmp_path: Path, visit: Callable[..., Page]
) -> None:
    """On the nano pair: pick layers, fit from 4,000 positions, see the row appear by itself with
    its losses."""
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
    expect_picked(page, "1", "2", pair="nano")
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
    url: str, visit: Callable[..., Page]
) -> None:
    page = visit(f"{url}/steering?pair=nano&prompt=The+<b>old</b>+house&tokens=400&strength=1.5")
    page.locator(".st-key-go button").first.click()
    expect(page.locator(".st-key-columns")).to_contain_text("The <b>old</b> house")
    wait(lambda: len(lengths(page)) == 3, page)
    first = lengths(page)
    wait(lambda: grown(page, first), page)
    page.locator(".st-key-stop button").first.click()
    settled(page)
    stopped = lengths(page)
    assert len(stopped) == 3 and all(x > 20 for x in stopped), "the text stays"
    page.wait_for_timeout(700)
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
@pytest.mark.usefixtures("no_job_left")
def test_a_stitch_of_ones_own_gets_a_card_and_steers(
    url: str, home: Path, tmp_path: Path, visit: Callable[..., Page]
) -> None:
    """A script of torch alone trains two nn.Linear layers and saves them the ordinary way; the page
    takes the file to a report card, to a steered text, private to its browser until it is kept."""
    bench = open_pair("nano")
    rows = read_sample(bench.a, bench.b, bench.corpus.split("fit"), 8000)
    torch.save({"h_a": rows.h_a[2], "h_b": rows.h_b[3]}, tmp_path / "rows.pt")
    script = PROJECT / "examples" / "train_stitch.py"
    assert set(re.findall(r"^(?:import|from) (\w+)", script.read_text(), re.M)) == {"sys", "torch"}
    files = [str(tmp_path / "rows.pt"), str(tmp_path / "from-torch.pt")]
    subprocess.run(
        [sys.executable, str(script), *files], check=True, cwd=tmp_path, capture_output=True
    )
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
    assert "stitches/from-torch" in Workspace("nano", home / "workspaces").names()
    other.goto(f"{url}/stitches?pair=nano&stitch=from-torch")
    expect(other.locator("h2")).to_have_text("from-torch")
    other.close()
    page.close()


@pytest.mark.model
def test_functional_features_from_a_link_to_a_head_and_to_the_feature(
    url: str, visit: Callable[..., Page], tmp_path: Path
) -> None:
    """On the shipped nano pair: a link with a head that does not exist, a text of ones own in one
    model and the other, and the link to the feature's own view."""
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
    page.get_by_role("radio", name="nano-a, original").click()
    settled(page)
    page.get_by_role("button", name="Look", exact=True).click()
    expect(page.get_by_text(re.compile(r"^Head 2\.\d of nano-a over this text"))).to_be_visible(
        timeout=60_000
    )
    page.get_by_role("link", name="Feature 171 on the Features page").click()
    expect(page.locator("h1")).to_have_text("Features")
    settled(page)
    expect(page.locator("h2#feature")).to_have_text("Feature 171")
    page.close()


@pytest.mark.model
def test_probes_of_ones_own_labels_lead_to_a_feature(
    url: str, visit: Callable[..., Page], tmp_path: Path
) -> None:
    """On the shipped nano pair: the figures, a task from the picker, one's own texts, and on to a
    feature."""
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
            [f"The {w} is in the <b>house</b>." for w in ("cat", "king", "bread", "book", "dog")],
        ),
    ):
        page.get_by_role("textbox", name=label).fill("\n".join(sentences))
    page.get_by_role("button", name="Probe", exact=True).click()
    expect(page.get_by_text("nano-a, its own probe")).to_be_visible(timeout=180_000)
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
@pytest.mark.usefixtures("no_job_left")
def test_training_an_sae_from_a_transferred_start(url: str, visit: Callable[..., Page]) -> None:
    """On a copy of the shipped nano pair: what was saved, another width, and runs of one's own that
    are watched."""
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
    page.get_by_role("spinbutton", name="Rows").fill("6000")
    page.get_by_role("textbox", name="Features").fill("8")
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.locator("[data-testid=stAlert]")).to_contain_text("k = 16 of 8 features")
    page.get_by_role("textbox", name="Features").fill("1024")
    page.get_by_role("textbox", name="Name").fill("short")
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.locator(".st-key-job")).to_contain_text("Train SAEs short", timeout=30_000)
    expect(page.locator(".st-key-live .js-plotly-plot")).to_be_visible(timeout=240_000)
    expect(page.locator(".st-key-job")).to_contain_text("is done", timeout=240_000)
    expect(page.get_by_text(re.compile(r"SAEs see 6,000 rows once"))).to_be_visible()
    expect(page.get_by_text(re.compile(r"To reach 90% .* at 1,024 features"))).to_be_visible()
    page.close()
