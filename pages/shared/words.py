"""Numbers, shares and others' text as words that a page may show."""

import math
import re
from collections.abc import Mapping

from core.cli import words
from core.stitches import directions
from pages.shared import glossary

NARROW = words.NARROW


def sentence(text: object) -> str:
    """Text from a file or an error as markdown that shows it as it is; `code` in backticks stays
    code."""
    parts = re.split(r"(`[^`]+`)", str(text))
    return "".join(part if i % 2 else plain(part) for i, part in enumerate(parts))


def plain(text: object) -> str:
    """Text with every sign of markdown, of Streamlit's directives and of HTML escaped."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|<>~:$&^=])", r"\\\1", str(text))


short_names = directions.names
"""What both models of a pair are called on screen, by side."""


LETTER = re.compile(
    r"(?<![\w(.-])"  # within no word, and no appendix of the paper: (A)
    r"(?:[Mm]odel )?([AB])"
    r"(?!\w|\.\d)"
)
ARTICLE = re.compile(r"(^|[.:] )A(?= [a-z])")


def named(text: str, names: Mapping[str, str]) -> str:
    """What core says of models A and B, with their `names` on screen in the place of the letters,
    by side. `B→A` becomes `Gemma → SmolLM2`; the article that a sentence begins with stays."""
    text = ARTICLE.sub("\\1\0", text)
    text = re.sub(r"(?<=[AB])→(?=[AB])", " → ", text)
    text = LETTER.sub(lambda letter: names[letter[1].lower()], text)
    return text.replace("\0", "A")


def explained(label: str) -> str | None:
    """The glossary's line on what a label names, for its help; None for an everyday word."""
    text = re.sub(r":\w+\[(.*?)\]", r"\1", label).replace("\\", "")
    term = glossary.find(text)
    return None if term is None else term.line


def loss(x: float, low: float | None = None, high: float | None = None) -> str:
    """Nats per token, two decimals as in the paper; with its interval where that is given."""
    if x is None or math.isnan(x):
        return "–"
    return f"{x:.2f}" + ("" if low is None or high is None else f" [{low:.2f}, {high:.2f}]")


def percent(
    x: float, low: float | None = None, high: float | None = None, sign: bool = True
) -> str:
    """A fraction as a percentage with two significant digits; with its interval, as many as that
    supports."""
    if x is None or math.isnan(x):
        return "–"
    ends = (math.nan, math.nan) if low is None or high is None else (low, high)
    return words.percent(float(x), *ends, sign=sign)


def number(x: float, low: float = math.nan, high: float = math.nan, sign: bool = False) -> str:
    """Two significant digits, with an interval as many as that supports: correlations, accuracies,
    cosines, ratios; of tables and models too."""
    return words.number(float(x), float(low), float(high), sign)


def supported(x: float, low: float, high: float) -> str:
    """`percent` of a fraction that stands without its interval, with no more digits than that
    supports: one number is written one way."""
    return re.sub(r" \[.*\]", "", percent(x, low, high))


def count(n: float) -> str:
    """A number of things, short: 4.8 M, 60 k, 411."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(n) >= size:
            return f"{n / size:.3g}"[:4].rstrip(".") + unit
    return f"{n:.3g}"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
