"""Every page in Chromium, of the app as it is shipped: it opens without complaint, draws its figures,
and calls models by their names. A and B are for equations and the command line."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from core.workspace.places import PROJECT
from tests.helpers.planted import PAIR
from tests.helpers.resting import settled
from tests.helpers.serving import running

PAGES = (
    "",
    "stitches",
    "features",
    "functional",
    "steering",
    "steering?tab=Evaluation",
    "probes",
    "training",
    "crossing",
    "paper",
    "pair",
    "glossary",
)
DRAWN = PAGES[1:4] + PAGES[5:8]
"""Those that open with a figure."""
BEFORE = r"(?<![\w.(/-])"
LETTERS = re.compile(
    rf"{BEFORE}B(?:'s)?(?![\w./-])"
    rf"|{BEFORE}A(?:'s|→|,| (?:in|of)\b|\.?$)"
    r"|\b(?:[Mm]odel|layer of|[Ss]cored by|SAEs? of|features in) [AB]\b"
    r"|→[AB]\b",
    re.MULTILINE,
)
NUMBERED = re.compile(r"^(?!\()[^(]*\bEq\. ?\d", re.MULTILINE)
"""An equation's number that stands as a name: outside of the brackets at a caption's end."""
ALLOWED = re.compile(r"L\(C\) (?:=|≈) A C\^−β")
QUOTED = re.compile(r'"[^"]*"')
"""Tokens in a feature's label."""
LOOKED_AT = """() => {
  // texts of models and corpora are others' words, code is the command line's
  for (const theirs of document.querySelectorAll(
    'code, pre, textarea, [dir="auto"], [data-testid="stCode"], svg [class*=katex]'
  )) theirs.remove();
  const main = document.querySelector('[data-testid="stMain"]');
  const drawn = [...main.querySelectorAll('svg text')].map(text => text.textContent);
  const cells = [...main.querySelectorAll('th, td, [role=gridcell], [role=columnheader]')];
  const spoken = [...main.querySelectorAll('[aria-label]')];
  return [
    main.innerText,
    ...drawn,
    ...cells.map(cell => cell.textContent),
    ...spoken.map(named => named.getAttribute('aria-label')),
  ].join("\\n");
}"""


def faults(text: str) -> list[str]:
    lines = dict.fromkeys(
        ALLOWED.sub("", QUOTED.sub("", line)).strip() for line in text.splitlines()
    )
    return [line[:160] for line in lines if LETTERS.search(line) or NUMBERED.search(line)]


@pytest.fixture(scope="module")
def shipped(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app as it is shipped."""
    cache = tmp_path_factory.mktemp("shipped")
    (cache / "models").symlink_to((home / "cache" / "models").resolve())
    with running(PROJECT / "cache", cache) as server:
        yield server.url


@pytest.mark.browser
@pytest.mark.model
@pytest.mark.parametrize("pair", [PAIR, "nano"])
def test_with_nothing_set_up_a_preset_streams_three_lanes(
    shipped: str, tmp_path: Path, visit: Callable[..., Page], pair: str
) -> None:
    page = visit(f"{shipped}/steering?pair={pair}&tokens=12")
    page.locator("[class*=st-key-preset-] button").first.click()
    expect(page.locator(".st-key-columns")).to_contain_text("tokens/s", timeout=180_000)
    settled(page)
    assert page.locator(".st-key-columns [data-testid=stHtml]").count() == 3
    page.screenshot(path=tmp_path / "preset.png")


@pytest.mark.browser
@pytest.mark.model
@pytest.mark.parametrize("pair", [PAIR, "nano"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_and_calls_no_model_by_a_letter(
    shipped: str, tmp_path: Path, visit: Callable[..., Page], name: str, pair: str
) -> None:
    page = visit(f"{shipped}/{name}{'&' if '?' in name else '?'}pair={pair}", seconds=240)
    alerts = page.locator("[data-testid=stAlert]")
    opening = alerts.filter(has_text="once a server")  # models; the page goes on by itself
    expect(opening).to_have_count(0, timeout=240_000)
    settled(page, 240)
    assert alerts.all_inner_texts() == []
    if name in DRAWN:
        expect(page.locator(".js-plotly-plot").first).to_be_visible()
    page.screenshot(path=tmp_path / "page.png")
    text = page.evaluate(LOOKED_AT)
    assert len(text) > 150
    assert faults(text) == []


@pytest.mark.parametrize(
    "line",
    [
        "A→B ↓",
        "B",
        "A",
        "Scored by A, nano-a",
        "layer of B, nano-b",
        "best layer of B (A.1)",
        "dense, of A, moved to B",
        "A's SAE in A",
        "Rows of B",
        "SAE of A, 1,024 features",
        "A, mean-ablated",
        "α of Eq. 3, strength of inversion",
        "Model A, the smaller",
    ],
)
def test_a_letter_would_be_seen(line: str) -> None:
    assert faults(line)


@pytest.mark.parametrize(
    "line",
    [
        "A stitch",
        "A linear probe that was fitted on nano-a",
        "Increase of the loss. (Table 1, Eq. 3)",
        "Which layers correspond (Fig. 6, A.1)",
        "SAEs of nano-b trained from several starts (Fig. 2, D)",
        "lines: L(C) = A C^−β, a factor and an exponent",
        "never fitted in nano-b (B.2)",
    ],
)
def test_what_is_no_name_is_let_through(line: str) -> None:
    assert faults(line) == []
