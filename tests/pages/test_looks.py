"""Pages as they look: text that can be read, and that fits the window, in both themes, on desk and
phone."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.helpers.resting import DESK, PHONE, settled

pytestmark = pytest.mark.browser

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
        drawn = ".js-plotly-plot .xtick" if name else ".st-key-tiles"
        expect(page.locator(drawn).first).to_be_attached()
        assert page.evaluate(FAINT) == [], name
        page.close()


@pytest.mark.parametrize(
    ("link", "title"),
    [
        ("steering?pair=nano&lang=French", "French in nano-b · Steering"),
        ("steering?pair=nano&tab=Evaluation", "How often nano-b is steered · Steering"),
        ("stitches?pair=nano&stitch=L3-L4", "Stitch L3-L4 · Stitches"),
        ("probes?pair=nano&task=mean", "Mean over all datasets · Probes"),
        ("functional?pair=nano&feature=12", "Feature 12 of L2-1024 · Functional features"),
        ("crossing?pair=nano&text=One+two", "nano-a → nano-b: One two · Crossing"),
    ],
)
def test_the_tab_names_what_is_shown(
    url: str, visit: Callable[..., Page], link: str, title: str
) -> None:
    expect(visit(f"{url}/{link}")).to_have_title(f"{title} · StitchLens")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_pages_fit_the_window(
    url: str, visit: Callable[..., Page], size: tuple[int, int], theme: str, tmp_path: Path
) -> None:
    for name in ("", "stitches", "features", "functional", "steering", "paper"):
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
        settled(page)
        page.screenshot(path=tmp_path / f"{name or 'home'}-{theme}-{size[0]}.png")
