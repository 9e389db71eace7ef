"""Rows as tables in Markdown, and what two models are called in them."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from core.cli.words import number, plain
from core.stitches import directions

Names = Mapping[str, str]
"""What models A and B are called, by 'a' and 'b'."""
Record = dict[str, Any]
"""A part of `core.report.report`."""


def short_names(title_a: str, title_b: str) -> Names:
    """Those of `core.stitches.directions.short_names`, as Markdown shows them."""
    short = directions.short_names(title_a, title_b)
    return {side: plain(name) for side, name in short.items()}


def interval(measured: Mapping[str, Any], key: str) -> str:
    value, low, high = (measured.get(f"{key}{end}", math.nan) for end in ("", "_low", "_high"))
    return number(value, low, high)


def records(table: pd.DataFrame) -> list[Record]:
    return table.to_dict("records")  # type: ignore[return-value]


def as_table(header: str, rows: Iterable[Sequence[str]]) -> list[str]:
    """One table, or none where there are no rows; `header` with | between its columns."""
    columns = header.removesuffix(" | ").split(" | ")
    lines = [columns, ["---"] * len(columns), *rows]
    return ["\n".join(f"| {' | '.join(cells)} |" for cells in lines)] if len(lines) > 2 else []


def with_names(label: str, names: Names) -> str:
    """A label with the models' names for A and B."""
    return re.sub(r"\b[AB]\b", lambda letter: names[letter[0].lower()], label)
