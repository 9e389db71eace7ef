"""The Steering page under a hand, in Chromium: the sentence, its run, whoever opens the link, the film
strip, the picture."""

import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect

from core.models.pairs import get_pair
from core.steering import runs
from core.workspace.store import Workspace
from tests.helpers.resting import DESK, PHONE, settled

pytestmark = [pytest.mark.browser, pytest.mark.model]

LANES = ".st-key-columns [data-testid=stHtml]"


def go(page: Page) -> Page:
    """Press Go and wait until what was written is kept."""
    page.locator(".st-key-go button").first.click()
    expect(page.locator(".st-key-taken")).to_be_visible(timeout=180_000)
    return settled(page)


def texts(page: Page) -> list[str]:
    return page.locator(LANES).all_inner_texts()


def choose(page: Page, box: str, option: str) -> None:
    page.get_by_role("combobox", name=box).click()
    page.get_by_role("option", name=option, exact=True).click()
    settled(page)


def prompt(page: Page) -> Locator:
    return page.get_by_role("textbox", name="Prompt")


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_the_sentence_drives_a_run(
    url: str, visit: Callable[..., Page], size: tuple[int, int], tmp_path: Path
) -> None:
    page = visit(f"{url}/steering?pair=nano&tokens=10", size, touch=size == PHONE)
    sentence = page.locator(".st-key-sentence, .st-key-beginning")
    words = re.sub(r"\s+", " ", " ".join(sentence.all_inner_texts()))
    assert re.search(r"Steer .*toward .*at strength .*from", words)
    prompt(page).fill("My <b>own</b> beginning")
    prompt(page).press("Control+Enter")
    settled(page)
    choose(page, "Steer toward", "French")
    expect(prompt(page)).to_have_value("My <b>own</b> beginning")
    expect(page).to_have_title("French in nano-b · Steering · StitchLens")

    go(page)
    assert len(texts(page)) == 3 and all("My <b>own</b> beginning" in x for x in texts(page))
    expect(page.locator(".st-key-columns")).to_contain_text("nano-b with nano-a's French")
    assert "lang=French" in page.url and re.search(r"run=[a-z2-7]{8}", page.url)
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= size[0]

    fluency = page.locator(f"{LANES} details").first
    assert "nats/token" in (fluency.get_attribute("title") or "")
    fluency.locator("summary").click()
    expect(fluency.get_by_text("nats/token under nano-b unsteered")).to_be_visible()

    choose(page, "Model to steer", "nano-a")
    go(page)
    expect(page.locator(".st-key-columns")).to_contain_text("nano-a with nano-b's French")
    page.screenshot(path=tmp_path / "run.png", full_page=True)


def test_words_of_what_is_waited_for_are_there_within_a_second(
    url: str, visit: Callable[..., Page]
) -> None:
    page = visit(f"{url}/steering?pair=nano&tokens=30")
    page.locator(".st-key-go button").first.click()
    waiting = page.get_by_text(re.compile("Opening|Reading|Judging|before you"))
    waiting.or_(
        page.locator(f"{LANES}").get_by_text(re.compile("bread fresh is.+"))
    ).first.wait_for(timeout=5000)
    expect(page.locator(".st-key-taken")).to_be_visible(timeout=180_000)
    settled(page)
    expect(waiting).to_have_count(0)


def test_with_the_keyboard_alone(url: str, visit: Callable[..., Page]) -> None:
    page = visit(f"{url}/steering?pair=nano&tokens=6")

    def tab_to(wanted: Locator) -> None:
        for _ in range(60):
            if wanted.evaluate("e => e === document.activeElement"):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"{wanted} is not reached")

    tab_to(page.get_by_role("combobox", name="Steer toward"))
    page.keyboard.type("Germ")
    expect(page.get_by_role("option", name="German")).to_be_visible()
    page.keyboard.press("Enter")
    settled(page)
    tab_to(page.get_by_role("slider", name="Strength"))
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    settled(page)
    tab_to(prompt(page))
    page.keyboard.press("Control+a")
    page.keyboard.type("The old bridge")
    page.keyboard.press("Control+Enter")
    settled(page)
    tab_to(page.locator(".st-key-go button").first)
    page.keyboard.press("Enter")
    expect(page.locator(".st-key-taken")).to_be_visible(timeout=180_000)
    settled(page)
    assert "lang=German" in page.url and "strength=1.5" in page.url
    assert all(text.startswith("The old bridge") for text in texts(page))


def test_a_link_shows_the_run_to_whoever_opens_it(
    url: str, home: Path, visit: Callable[..., Page]
) -> None:
    page = visit(
        f"{url}/steering?pair=nano&tokens=10&prompt=שלום+🙂&source=Texts&plus=good&minus=bad"
    )
    go(page)
    page.locator(".st-key-link button").first.click()
    link = page.locator("[data-testid=stCode]").last.inner_text().replace("\n", "")
    run_id = re.search(r"run=([a-z2-7]{8})", link)
    assert link.startswith(url) and run_id

    for address in (link, f"{url}/steering?pair=nano&run={run_id[1]}"):
        other = visit(address)
        assert texts(other) == texts(page)
        expect(prompt(other)).to_have_value("שלום 🙂")
        expect(other.get_by_role("textbox", name="More of this")).to_have_value("good")
        assert other.locator("[data-testid=stAlert]").count() == 0
        other.close()

    (home / "workspaces" / "nano" / "runs" / f"{run_id[1]}.json").unlink()
    late = visit(link)
    expect(late.locator("[data-testid=stAlert]")).to_contain_text(f"no run {run_id[1]}")
    expect(prompt(late)).to_have_value("שלום 🙂")
    go(late)
    expect(late.locator("[data-testid=stAlert]")).to_have_count(0)
    assert texts(late) == texts(page), "the settings of the link write the same again"


def test_a_private_run_is_not_shown_to_another_browser(
    url: str, home: Path, visit: Callable[..., Page], tmp_path: Path
) -> None:
    width = get_pair("nano").b.d_model
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).normal(size=width))
    page = visit(f"{url}/steering?pair=nano&tokens=6&source=Your+own")
    page.get_by_text("Bring a vector").click()
    page.set_input_files("input[type=file]", str(tmp_path / "mine.npy"))
    page.get_by_text("mine.npy").first.wait_for()
    page.get_by_role("radio", name="nano-b").click()
    layer = page.get_by_role("spinbutton", name="Before layer, if it does not say")
    layer.fill("3")
    layer.press("Tab")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_role("combobox", name="Vector")).to_be_visible(timeout=120_000)
    settled(page)
    go(page)
    run_id = re.search(r"run=(p-[a-z2-7]{8})", page.url)
    assert run_id and "mine" in page.locator(".st-key-columns").inner_text()
    page.reload()
    settled(page)
    assert len(texts(page)) == 2, "its own browser sees it"

    other = visit(f"{url}/steering?pair=nano&run={run_id[1]}")
    expect(other.locator("[data-testid=stAlert]")).to_contain_text("private to another browser")
    assert "mine" not in other.locator(".st-key-columns").inner_text()
    assert not list((home / "workspaces" / "nano" / "runs").glob(f"*{run_id[1][2:]}*"))


def test_a_film_strip_and_a_picture(url: str, visit: Callable[..., Page], tmp_path: Path) -> None:
    page = visit(f"{url}/steering?pair=nano&tokens=8&prompt=A+<i>house</i>+%26+שלום")
    go(page)
    before = page.url
    page.locator(".st-key-film-strip button").first.click()
    frames = page.locator("[aria-label='Film strip'] > div")
    expect(frames).to_have_count(5, timeout=120_000)
    expect(page.locator(".st-key-film-strip")).to_have_count(0)
    settled(page)
    assert page.url != before, "a link shows it, too"
    plain = page.locator(f"{LANES} div[dir=auto]").first.inner_text()
    assert frames.nth(1).locator("div[dir=auto]").inner_text() == plain

    pictures = []
    for theme in ("light", "dark"):
        other = visit(page.url, theme=theme)
        expect(other.locator("[aria-label='Film strip'] > div")).to_have_count(5)
        with other.expect_download() as coming:
            other.locator(".st-key-picture button").first.click()
        coming.value.save_as(tmp_path / "steering.svg")
        pictures.append((tmp_path / "steering.svg").read_text("utf-8"))
        words = " ".join(ElementTree.fromstring(pictures[-1]).itertext())
        assert "A <i>house</i> & שלום" in words and "nano-b with nano-a's" in words
        other.close()
    assert pictures[0] != pictures[1], "each in the colours of its theme"


def test_a_tab_closed_half_way_leaves_no_half_run(
    url: str, home: Path, visit: Callable[..., Page]
) -> None:
    page = visit(f"{url}/steering?pair=nano&tokens=400&prompt=Half+way")
    page.locator(".st-key-go button").first.click()
    expect(page.locator(LANES)).to_have_count(3, timeout=60_000)
    page.close()
    other = visit(f"{url}/steering?pair=nano&tokens=4&prompt=Whole")
    go(other)
    folder = home / "workspaces" / "nano" / "runs"
    ws = Workspace("nano", home / "workspaces")
    prompts = [runs.read(ws, path.stem)["prompt"] for path in folder.glob("*.json")]
    assert "Whole" in prompts and "Half way" not in prompts
