"""Numbers and others' text as words in Markdown: one way to write a number, here and on pages."""

import math
import re

NARROW = "\u202f"
"""The narrow space before a per cent sign, at which no line is broken."""


def plain(text: object) -> str:
    """Text that somebody chose, as Markdown that shows it as it is, on one line."""
    escaped = str(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
    return " ".join(re.sub(r"([\\`*_\[\]])", r"\\\1", escaped).split())


def fixed(
    x: float | None,
    low: float = math.nan,
    high: float = math.nan,
) -> str:
    """Two decimals, as the paper writes losses and shares of responses."""
    if x is None or math.isnan(x):
        return "–"
    return f"{x:.2f}" + ("" if math.isnan(low + high) else f" [{low:.2f}, {high:.2f}]")


def number(
    x: float,
    low: float = math.nan,
    high: float = math.nan,
    sign: bool = False,
    none: str = "–",
) -> str:
    """Two significant digits; with an interval as many as its half width supports, one at least."""
    if math.isnan(x):
        return none
    decimals = _decimals(x, 2)
    if math.isnan(low + high):
        return rounded(x, decimals, sign)
    half = float(f"{(high - low) / 2:.2g}")
    if half:
        decimals = max(_decimals(half, 1), min(decimals, _decimals(half, 2)))
    value, *ends = (rounded(y, decimals, sign) for y in (x, low, high))
    return f"{value} [{', '.join(ends)}]"


def percent(
    x: float,
    low: float = math.nan,
    high: float = math.nan,
    sign: bool = False,
) -> str:
    """A fraction as a percentage, see `number`."""
    return f"{number(100 * x, 100 * low, 100 * high, sign)}{NARROW}%"


def _decimals(x: float, significant: int) -> int:
    """Decimals that show `x` to so many significant digits."""
    return significant - 1 - math.floor(math.log10(abs(x))) if x else 0


def rounded(
    x: float,
    decimals: int,
    sign: bool = False,
) -> str:
    """With a true minus sign; with a plus where `sign` asks for one."""
    value = round(x, decimals)
    text = f"{abs(value):.{max(decimals, 0)}f}"
    return ("−" if value < 0 else "+" if sign and value else "") + text
