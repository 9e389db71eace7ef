"""Crossing in Chromium: a text is drawn, tokens are opened by mouse and keyboard, lanes stream."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from tests.pages.test_browser import DESK, PHONE, SHIPPED, serving, settled

from tests.helpers.serving import borrow_models
from tests.pages import test_browser

pytestmark = [pytest.mark.browser, pytest.mark.model]
visit = test_browser.visit
OPENED = 240_000
"""Milliseconds that opening the models may take on a busy machine."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(SHIPPED, borrow_models(tmp_path_factory.mktemp("home") / "cache")) as address:
        yield f"{address}/crossing?pair=nano"


def drawn(page: Page) -> Page:
    expect(page.locator(".card").first).to_be_visible(timeout=OPENED)
    return settled(page)


def write(page: Page, text: str) -> Page:
    box = page.get_by_role("textbox", name="Text")
    box.fill(text)
    box.press("Control+Enter")
    page.wait_for_timeout(500)
    return settled(page)


def test_tokens_open_by_mouse_and_keyboard_and_come_back_from_the_link(
    url: str, visit: Callable[..., Page]
) -> None:
    page = drawn(visit(url))
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


def test_switches_change_what_is_shown(url: str, visit: Callable[..., Page]) -> None:
    page = drawn(visit(url))
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
def test_any_text_crosses(url: str, visit: Callable[..., Page], text: str) -> None:
    page = write(drawn(visit(url)), text)
    drawn(page)
    shown = "".join(page.locator(".card .word").all_inner_texts())
    assert shown.startswith("start") and len(shown) > 6
    assert page.locator(".strip b").count() == 0, "escaped"
    if len(text) > 1000:
        expect(page.get_by_text("as much as it can at once")).to_be_visible()
    page.close()


def test_an_empty_text_leads_on(url: str, visit: Callable[..., Page]) -> None:
    page = write(drawn(visit(url)), " ")
    expect(page.get_by_text("Type or paste a text above")).to_be_visible()
    page.get_by_role("button", name="Code").click()
    drawn(page)
    expect(page.locator(".card .word").nth(1)).to_have_text("def")
    page.close()


def lanes(page: Page) -> list[str]:
    return page.locator(".st-key-lanes [data-testid=stHtml]").all_inner_texts()


def test_four_lanes_speak_and_stop(url: str, visit: Callable[..., Page]) -> None:
    beginning = "The+<i>old</i>+house"
    page = drawn(visit(f"{url}&text={beginning}&length=400&speak=true"))
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
    assert "speak" not in page.url
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_it_fits_the_window(
    url: str, visit: Callable[..., Page], size: tuple[int, int], theme: str, tmp_path: Path
) -> None:
    page = drawn(visit(f"{url}&token=4", size, theme))
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    for card in page.locator(".card").all():
        box = card.bounding_box()
        assert box and box["x"] + box["width"] <= size[0]
    assert page.evaluate(test_browser.FAINT) == []
    page.screenshot(path=tmp_path / f"crossing-{theme}-{size[0]}.png")
    page.close()
