"""Which column of a file of rows holds its text."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from core.errors import StitchLensError

COLUMNS = ("text", "content")
"""The column that holds the text, in the order of choice; else the only one of strings."""


class NoColumn(StitchLensError):
    """A sound file of rows without a column that can be taken for its text."""


class NoRows(NoColumn):
    """Sound JSON that is no rows at all: a configuration, or a description of data."""


@dataclass(frozen=True)
class Rows:
    """One column of a file."""

    column: str
    unused: tuple[str, ...]
    """The other columns."""
    texts: Iterator[tuple[int, str]]
    """(number of the line or row, from 1; its text, cleaned); rows without a text are left out."""


def choose(columns: Mapping[str, bool], name: str) -> str:
    """The column that holds the text; each of `columns` is said to be of strings or not. Raises
    NoColumn."""
    named = [
        (column, is_text)
        for wanted in COLUMNS
        for column, is_text in columns.items()
        if is_named(column, wanted)
    ]
    for column, is_text in named:
        if is_text:
            return column
    strings = [column for column, is_text in columns.items() if is_text]
    if len(strings) == 1 and not named:
        return strings[0]
    if named:
        raise NoColumn(
            f"no strings in column '{named[0][0]}' of {name} (columns: {listed(columns)})",
            "a column of strings named text or content",
            "rename the one that holds the text to 'text'",
        )
    raise NoColumn(
        f"no column 'text' in {name} (columns: {listed(columns)})",
        "a column of strings named text or content, or one column of strings alone",
        "rename the one that holds the text to 'text'",
    )


def is_named(column: str, wanted: str) -> bool:
    return column.strip().casefold() == wanted


def listed(columns: Iterable[str]) -> str:
    """Names of columns, in short."""
    names = [column.strip()[:40] or "one without a name" for column in columns]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(names[:8]) or "none") + more


def once(
    columns: Sequence[str],
    column: str,
    name: str,
) -> int:
    """The place of a column. Raises StitchLensError where there are two of that name."""
    places = [i for i, one in enumerate(columns) if one.casefold() == column.casefold()]
    if len(places) > 1:
        raise StitchLensError(
            f"column {column} twice in {name}", "each name once", "rename one of them"
        )
    return places[0]


def without(columns: Iterable[str], column: str) -> tuple[str, ...]:
    return tuple(c for c in columns if c != column)
