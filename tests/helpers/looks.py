"""Pages as they look: what a person could not read, and what does not fit the window."""

from collections.abc import Iterator

from playwright.sync_api import Page

from tests.helpers.resting import settled

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
"""Texts, as drawn, with less than 4.5 to 1 against what is behind them."""
WIDE = """w => [...document.querySelectorAll('[data-testid=stMain] p, .js-plotly-plot')]
    .filter(e => e.getBoundingClientRect().right > w + 1 && !e.closest('table')).map(e => e.outerHTML)"""
"""Texts and figures that reach beyond the window's width."""
PAPER = "() => getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor"
"""The colour that everything stands on."""


def themes(page: Page) -> Iterator[str]:
    """Light, in which the page was opened, and dark, in which it is opened again."""
    yield "light"
    light = page.evaluate(PAPER)
    page.emulate_media(color_scheme="dark")
    page.reload()
    settled(page)
    assert page.evaluate(PAPER) != light, "the page follows the system's theme"
    yield "dark"


def in_full(page: Page) -> Page:
    """The page with all of it in the window, so that all of it is drawn."""
    size = page.viewport_size
    assert size is not None
    height = page.evaluate(
        "document.querySelector('[data-testid=stMainBlockContainer]').scrollHeight"
    )
    page.set_viewport_size({"width": size["width"], "height": height + 80})
    return settled(page)
