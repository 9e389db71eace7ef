"""Numbers, shares and others' text as words that a page may show."""

import math
import re

NARROW = "\u202f"
"""The narrow space before a per cent sign, at which no line is broken."""


def sentence(text: object) -> str:
    """Text from a file or an error as markdown that shows it as it is; `code` in backticks stays
    code."""
    parts = re.split(r"(`[^`]+`)", str(text))
    return "".join(part if i % 2 else plain(part) for i, part in enumerate(parts))


def plain(text: object) -> str:
    """Text with every sign of markdown, of Streamlit's directives and of HTML escaped."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|<>~:$&^=])", r"\\\1", str(text))


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
    x = 100 * x
    digits = _digits(x, 2)
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return f"{_fixed(x, digits, sign)}{NARROW}%"
    half = float(f"{50 * (high - low):.2g}")
    digits = max(_digits(half, 1), min(digits, _digits(half, 2))) if half else digits
    return (
        f"{_fixed(x, digits, sign)} [{_fixed(100 * low, digits, sign)},"
        f" {_fixed(100 * high, digits, sign)}]{NARROW}%"
    )


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


def _digits(x: float, significant: int) -> int:
    """Decimals that show `x` to so many significant digits."""
    return significant - 1 - math.floor(math.log10(abs(x))) if x else 0


def _fixed(x: float, digits: int, sign: bool) -> str:
    rounded = round(x, digits)
    text = f"{abs(rounded):.{max(digits, 0)}f}"
    return ("−" if rounded < 0 else "+" if sign and rounded else "") + text
