"""Crossing in Chromium: a text is drawn, tokens are opened by mouse and keyboard, lanes stream."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.helpers.looks import FAINT, themes
from tests.helpers.resting import DESK, PHONE, settled

pytestmark = [pytest.mark.browser, pytest.mark.model]
OPENED = 240_000
"""Milliseconds that opening the models may take on a busy machine."""


@pytest.fixture
def crossing(url: str) -> str:
    """The page's address, for the shipped nano pair."""
    return f"{url}/crossing?pair=nano"


def drawn(page: Page) -> Page:
    expect(page.locator(".card").first).to_be_visible(timeout=OPENED)
    return settled(page)


def write(page: Page, text: str) -> Page:
    box = page.get_by_role("textbox", name="Text")
    box.fill(text)
    box.press("Control+Enter")
    return settled(page)


def test_tokens_open_by_mouse_and_keyboard_and_come_back_from_the_link(
    crossing: str, visit: Callable[..., Page]
) -> None:
    page = drawn(visit(crossing))
    cards = page.locator(".card")
    assert cards.count() > 15
    text = page.get_by_role("textbox", name="Text").input_value()
    words = cards.locator(".word").all_inner_texts()
    assert words[0] == "start" and words[1] == text.split()[0]
    assert cards.nth(0).get_attribute("class") == "card own start", "nothing crosses before it"

    cards.nth(3).click()
    lines = page.locator(".column .line")
    expect(lines).to_have_count(40)
    expect(page).to_have_url(re.compile("token=3"))
    page.keyboard.press("ArrowRight")
    expect(cards.nth(4)).to_have_attribute("aria-selected", "true")
    expect(cards.nth(4)).to_be_focused()
    page.keyboard.press("End")
    expect(page).to_have_url(re.compile(f"token={cards.count() - 1}"))
    shares = page.locator(".column").first.locator(".share").all_inner_texts()
    numbers = [float(s.strip("<\u202f%")) for s in shares]
    assert numbers == sorted(numbers, reverse=True) and sum(numbers) <= 101

    again = drawn(visit(page.url))
    expect(again.locator(".card").last).to_have_attribute("aria-selected", "true")
    expect(again.locator(".column .line")).to_have_count(40)
    again.close()
    page.close()


def test_switches_change_what_is_shown(crossing: str, visit: Callable[..., Page]) -> None:
    page = drawn(visit(crossing))
    before = page.locator(".card .guess").all_inner_texts()
    page.get_by_role("radio", name="nano-b → nano-a", exact=True).click()
    expect(page).to_have_url(re.compile("direction=b_to_a"))
    drawn(page)
    expect(page.locator(".legend")).to_contain_text("nano-b → nano-a expects")
    assert page.locator(".card .guess").all_inner_texts() != before
    page.get_by_role("button", name="Stitch, control, tint").click()
    page.get_by_role("radio", name="Random", exact=True).click()
    page.get_by_role("radio", name="KL", exact=True).click()
    expect(page).to_have_url(re.compile("tint=kl"))
    drawn(page)
    expect(page.locator(".legend")).to_contain_text("through a random stitch")
    page.get_by_text("Lens", exact=True).click()
    drawn(page)
    page.keyboard.press("Escape")
    page.locator(".card").nth(3).click()
    expect(page.locator(".column .line")).to_have_count(70)
    page.close()


@pytest.mark.parametrize(
    "text",
    [
        '<b>bold</b> & "quoted" `code`',
        "שלום עולם",
        "👩‍👩‍👧 🙂 fin",
        "def f(x):\n\treturn x",
        "a" * 10_000,
    ],
)
def test_any_text_crosses(crossing: str, visit: Callable[..., Page], text: str) -> None:
    page = write(drawn(visit(crossing)), text)
    drawn(page)
    shown = "".join(page.locator(".card .word").all_inner_texts())
    assert shown.startswith("start") and len(shown) > 6
    assert page.locator(".strip b").count() == 0, "escaped"
    if len(text) > 1000:
        expect(page.get_by_text("as much as it can at once")).to_be_visible()
    page.close()


def test_an_empty_text_leads_on(crossing: str, visit: Callable[..., Page]) -> None:
    page = write(drawn(visit(crossing)), " ")
    expect(page.get_by_text("Type or paste a text above")).to_be_visible()
    page.get_by_role("button", name="Code").click()
    drawn(page)
    expect(page.locator(".card .word").nth(1)).to_have_text("def")
    page.close()


def lanes(page: Page) -> list[str]:
    return page.locator(".st-key-lanes [data-testid=stHtml]").all_inner_texts()


def test_four_lanes_speak_and_stop(crossing: str, visit: Callable[..., Page]) -> None:
    beginning = "The+<i>old</i>+house"
    page = drawn(visit(f"{crossing}&text={beginning}&length=400"))
    page.locator(".st-key-speak button").first.click()
    page.wait_for_function(
        "() => [...document.querySelectorAll('.st-key-lanes [data-testid=stHtml]')]"
        ".filter(e => e.innerText.length > 26).length === 4",
        timeout=OPENED,
    )
    page.locator(".st-key-hush button:enabled").first.click()
    settled(page)
    stopped = lanes(page)
    assert len(stopped) == len(set(stopped)) == 4
    assert all(text.startswith("The <i>old</i> house") for text in stopped), "escaped"
    page.wait_for_timeout(1500)
    assert lanes(page) == stopped, "the text stays"
    page.close()


def test_a_link_may_begin_to_speak(crossing: str, visit: Callable[..., Page]) -> None:
    page = drawn(visit(f"{crossing}&text=The+house&length=3&speak=true"))
    expect(page.get_by_text("tokens/s")).to_be_visible(timeout=OPENED)
    assert len(lanes(page)) == 4
    assert "speak" not in page.url, "a reload does not begin again"
    page.close()


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_it_fits_the_window_and_can_be_read(
    crossing: str, visit: Callable[..., Page], size: tuple[int, int], tmp_path: Path
) -> None:
    page = drawn(visit(f"{crossing}&token=4", size))
    for theme in themes(page):
        drawn(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        for card in page.locator(".card").all():
            box = card.bounding_box()
            assert box and box["x"] + box["width"] <= size[0]
        assert page.evaluate(FAINT) == []
        page.screenshot(path=tmp_path / f"crossing-{theme}-{size[0]}.png")
    page.close()
