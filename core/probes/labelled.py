"""Texts with labels of a person's own, from a CSV or two lists."""

import io
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.errors import StitchLensError
from core.text.columns import listed, once
from core.text.reading import check_size, clean, lines, read_text, stream
from core.text.rows import csv_rows

MOST_ROWS, MOST_BYTES = 2_000, 20_000_000
"""Rows and bytes of a file of one's own."""
LONGEST = 2_000
"""Characters of a text that are read."""
LABELLED = ("text", "label")
"""Columns of a CSV of one's own."""
LEAST = 5
"""Texts of each label: one for each fold."""


class Given(list[tuple[str, str]]):
    """(text, label) of each row of a file of one's own."""

    unused: tuple[str, ...] = ()
    """Columns that were not read."""


@dataclass(frozen=True)
class Labelled:
    """Texts of one's own. `y` [n] is 1 for `positive`; `left_out` counts rows without text or
    label."""

    texts: tuple[str, ...]
    y: NDArray[np.int64]
    positive: str
    left_out: int = 0
    unused: tuple[str, ...] = ()
    """Columns of their file that were not read."""


def labelled(rows: Iterable[tuple[str, str]], positive: str | None = None) -> Labelled:
    """(text, label) rows as a task: `positive` against all other labels; of two labels the later by
    name if not given.

    Texts are cut at LONGEST characters. Raises StitchLensError for more than MOST_ROWS rows, for
    one label, for more than two where none is named positive, and for fewer than LEAST texts on a
    side.
    """
    texts, labels, left_out = [], [], 0
    for text, label in itertools.islice(rows, MOST_ROWS + 1):
        if text.strip() and label.strip():
            texts.append(text.strip()[:LONGEST])
            labels.append(label.strip()[:80])
        else:
            left_out += 1
    if len(texts) + left_out > MOST_ROWS:
        raise StitchLensError(
            f"more than {MOST_ROWS:,} rows",
            f"at most {MOST_ROWS:,}",
            "take a random sample of them",
        )
    counts = Counter(labels)
    if len(counts) < 2:
        found = (
            f"one label, '{next(iter(counts))}'" if counts else "no row with both text and label"
        )
        raise StitchLensError(found, "two labels", "add texts of another label")
    if positive is None and len(counts) > 2:
        some = ", ".join(f"'{x}'" for x in sorted(counts)[:5])
        raise StitchLensError(
            f"{len(counts)} labels ({some} …)",
            "two",
            "name the one that stands against the others (--positive)",
        )
    positive = max(counts) if positive is None else positive
    if positive not in counts:
        raise StitchLensError(
            f"no label '{positive}'", f"one of {', '.join(sorted(counts)[:10])}", "choose one"
        )
    y = np.array([label == positive for label in labels], dtype=np.int64)
    few = min(int(y.sum()), int((1 - y).sum()))
    if few < LEAST:
        raise StitchLensError(
            f"{len(y)} texts with {few} on one side", f"{LEAST} or more on each", "add some"
        )
    return Labelled(
        tuple(texts), y, positive, left_out, rows.unused if isinstance(rows, Given) else ()
    )


def read_labels(files: Sequence[Path]) -> Given:
    """(text, label) from one CSV, or from two files with a text a line, 'yes' and 'no'. Raises
    StitchLensError."""
    match files:
        case [path]:
            try:
                with path.open("rb") as f:
                    return read_csv(f.read(MOST_BYTES + 1), path.name)
            except OSError as e:
                raise StitchLensError(
                    f"{path.name} unreadable ({e.strerror})", "a readable file", "check the path"
                ) from None
        case [yes, no]:
            return two_lists(read_text(yes, MOST_BYTES), read_text(no, MOST_BYTES))
        case _:
            raise StitchLensError(
                f"{len(files)} files", "a CSV, or two files with a text a line", "give one or two"
            )


def two_lists(yes: str, no: str) -> Given:
    """(text, label) of each line that is not blank, 'yes' or 'no'."""
    return Given(
        (line, label) for text, label in ((yes, "yes"), (no, "no")) for line in lines(text)
    )


def read_csv(raw: bytes, name: str = "the file") -> Given:
    """(text, label) of each row of a CSV with columns `text` and `label`, parted by commas,
    semicolons or tabs; at most MOST_ROWS + 1 rows are read.

    Raises StitchLensError where it is too large, not UTF-8, broken, or lacks a column.
    """
    check_size(raw, MOST_BYTES, name)
    columns, rows = csv_rows(
        stream(io.BytesIO(raw), name), name, LABELLED, Path(name).suffix.lower() == ".tsv"
    )
    heads = [column.casefold() for column in columns]
    if missing := [column for column in LABELLED if column not in heads]:
        raise StitchLensError(
            f"no column {' or '.join(missing)} (columns: {listed(columns)}) in {name}",
            "a CSV in UTF-8 with the columns text and label",
            "name them so in its first line",
        )
    text, label = (once(columns, column, name) for column in LABELLED)
    given = Given(
        (clean(cells[text]), clean(cells[label]))
        for _, cells in itertools.islice(rows, MOST_ROWS + 1)
    )
    given.unused = tuple(
        column or "one without a name" for i, column in enumerate(columns) if i not in (text, label)
    )
    return given
