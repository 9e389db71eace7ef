"""Pages as they look: text that can be read, and that fits the window, in both themes, on desk and
phone."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.helpers.looks import FAINT, WIDE, in_full, themes
from tests.helpers.resting import DESK, PHONE

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(
    ("link", "title"),
    [
        ("steering?pair=nano&lang=French", "French in nano-b · Steering"),
        ("steering?pair=nano&tab=Evaluation", "How often nano-b is steered · Steering"),
        ("stitches?pair=nano&stitch=L3-L4", "Stitch L3-L4 · Stitches"),
        ("probes?pair=nano&task=mean", "Mean over 10 datasets · Probes"),
        ("functional?pair=nano&feature=12", "Feature 12 of L2-1024 · Functional features"),
        ("crossing?pair=nano&text=One+two", "nano-a → nano-b: One two · Crossing"),
        ("features?pair=nano&feature=391", "Feature 391: in French · Features"),
    ],
)
def test_the_tab_names_what_is_shown(
    url: str, visit: Callable[..., Page], link: str, title: str
) -> None:
    expect(visit(f"{url}/{link}")).to_have_title(f"{title} · StitchLens")


@pytest.mark.parametrize("name", ["", "stitches", "features", "functional", "steering", "paper"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_a_page_fits_the_window_and_can_be_read(
    url: str, visit: Callable[..., Page], size: tuple[int, int], name: str, tmp_path: Path
) -> None:
    """Text, ticks and what is chosen, as drawn: 4.5 to 1 against what is behind it, on pages of
    each kind."""
    page = visit(f"{url}/{name}", size)
    for theme in themes(page):
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        assert page.evaluate(WIDE, size[0]) == []
        if name in ("", "stitches", "features"):
            drawn = ".js-plotly-plot .xtick" if name else ".st-key-tiles"
            expect(page.locator(drawn).first).to_be_attached()
            assert page.evaluate(FAINT) == [], theme
        in_full(page).screenshot(path=tmp_path / f"{name or 'home'}-{theme}-{size[0]}.png")
        page.set_viewport_size({"width": size[0], "height": size[1]})
