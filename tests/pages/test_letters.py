"""Every page in Chromium, on both workspaces: what it shows calls models by their names. A and B are
for equations and the command line."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page

from tests.helpers.planted import PAIR

pytestmark = pytest.mark.browser

PAGES = (
    "",
    "crossing",
    "stitches",
    "features",
    "functional",
    "steering",
    "probes",
    "training",
    "paper",
    "pair",
    "glossary",
)
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
    lines = dict.fromkeys(ALLOWED.sub("", line).strip() for line in text.splitlines())
    return [line[:160] for line in lines if LETTERS.search(line) or NUMBERED.search(line)]


@pytest.mark.parametrize("pair", ["nano", PAIR])
@pytest.mark.parametrize("name", PAGES)
def test_no_page_calls_a_model_by_a_letter(
    url: str, visit: Callable[..., Page], name: str, pair: str
) -> None:
    page = visit(f"{url}/{name}?pair={pair}")
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
