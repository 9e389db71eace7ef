"""Explanations of features from Neuronpedia's exports: JSON lines of its table Explanation, read in
a stream and within bounds, kept beside our labels (`core.features.explained`)."""

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from core.errors import StitchLensError, printable
from core.features.explained import IMPORTED, as_table, keep
from core.progress import Progress
from core.workspace import demonstration
from core.workspace.store import Workspace
from core.workspace.untrusted import MB, first_line

ENDINGS = (".jsonl", ".jsonl.gz")
LARGEST_FILE = 4_000 * MB
"""Bytes of a file, packed and unpacked."""
LONGEST_LINE = MB
"""Bytes; an embedding of 256 numbers takes some thousands."""
MOST_LINES = 5_000_000
"""Of all files of an import."""
LONGEST = 1_000
"""Letters of an explanation that are kept."""
NAMED = 5
"""Indexes or fields that a message names."""
HARMLESS = frozenset(
    {
        "activationsV1",
        "author",
        "authorId",
        "createdAt",
        "embedding",
        "id",
        "notes",
        "triggeredByUserId",
        "umap_cluster",
        "umap_log_feature_sparsity",
        "umap_x",
        "umap_y",
        "updatedAt",
        "votes",
    }
)
"""Fields of an export that say nothing of when a feature fires."""
USED = frozenset(
    {
        "modelId",
        "layer",
        "index",
        "description",
        "typeName",
        "explanationModelName",
        "scores",
        "scoreV1",
        "scoreV2",
    }
)
PROGRESS = MB
"""Bytes between two signs of life."""
INDEX = re.compile(r"\d{1,9}")


Place = tuple[str, int]
"""(file's name, line), which only a refusal puts into words."""


class Import(NamedTuple):
    """What files hold: `table`, see `core.features.explained.of_sae`, and `warnings`, each a
    sentence."""

    table: pd.DataFrame
    warnings: list[str]


def read_exports(
    files: Sequence[Path],
    names: Collection[str],
    sae: str,
    width: int,
) -> Import:
    """The explanations in files of Neuronpedia's export, a JSON object a line, plain or packed by
    gzip. `names` are what the SAE may be called there, MODEL/SOURCE; `width`, its features.

    Raises StitchLensError for a file of another SAE, a line that is no explanation, and for more
    than LARGEST_FILE, LONGEST_LINE or MOST_LINES.
    """
    reading = _Reading(names, sae, width)
    sizes = [_size(path) for path in files]
    with Progress("reading explanations", sum(sizes), "B") as bar:
        for path in files:
            before = 0
            for number, line, position in _lines(path):
                reading.add(line, (path.name, number))
                if position - before > PROGRESS:
                    bar.advance(position - before)
                    before = position
    return reading.result()


class _Reading:
    """Gathers the explanations of files, and what is wrong with them."""

    def __init__(self, names: Collection[str], sae: str, width: int) -> None:
        self.names, self.sae, self.width = names, sae, width
        self.rows: dict[tuple[int, str, str, str], tuple[float, str]] = {}
        self.lines = 0
        self.beyond: Counter[int] = Counter()
        self.unknown: Counter[str] = Counter()
        self.empty = self.cut = 0

    def add(self, line: bytes, at: Place) -> None:
        """One line, which is `at` a place. Raises StitchLensError for what is no explanation of
        this SAE."""
        if not line.strip():
            return
        self.lines += 1
        if self.lines > MOST_LINES:
            raise StitchLensError(
                f"more than {MOST_LINES:,} explanations",
                "no more than that at once",
                "bring the files of one SAE alone",
            )

        record = _record(line, at)
        self._check_name(record, at)
        feature = _index(record, at)
        if feature >= self.width:
            self.beyond[feature] += 1
            return
        for field in record.keys() - USED - HARMLESS:
            self.unknown[field if len(self.unknown) < 100 else "others"] += 1

        text = _word(record, "description", at)
        if not text.strip():
            self.empty += 1
            return
        self.cut += len(text) > LONGEST
        about = (_short(text, LONGEST), _source(record, at), _word(record, "typeName", at))
        self.rows[feature, about[0], about[1], _short(about[2], 80)] = _claimed(record)

    def _check_name(self, record: dict[str, Any], at: Place) -> None:
        name = f"{record.get('modelId')}/{record.get('layer')}"
        if name in self.names:
            return
        known = " or ".join(sorted(self.names)) or "no name of it there is known"
        raise StitchLensError(
            f"an explanation of {name} at {_words(at)}",
            f"those of SAE {self.sae} ({known})",
            "choose the file of this SAE; where it is one, say what it is called there with --of",
        )

    def result(self) -> Import:
        if self.beyond:
            indexes = sorted(self.beyond)
            listed = ", ".join(map(str, indexes[:NAMED])) + (", …" * (len(indexes) > NAMED))
            raise StitchLensError(
                f"{len(indexes):,} features out of range ({listed})",
                f"0 to {self.width - 1} of SAE {self.sae}",
                "choose the file of this SAE: that one is of a wider one",
            )
        if not self.rows:
            raise StitchLensError(
                "no explanation in these files",
                "a JSON object with modelId, layer, index and description on each line",
                "choose files of the folder explanations/ of Neuronpedia's export",
            )

        rows = []
        for (feature, text, source, kind), (claimed, claimed_by) in self.rows.items():
            scores = (np.nan, np.nan, 0, 0, claimed, claimed_by)
            rows.append((feature, text, source, kind, IMPORTED, *scores))
        table = as_table(rows).sort_values("feature", kind="stable", ignore_index=True)
        return Import(table, self._warnings())

    def _warnings(self) -> list[str]:
        parts = []
        if self.unknown:
            common = self.unknown.most_common(NAMED)
            listed = ", ".join(f"{printable(field, 40)} ({n:,} lines)" for field, n in common)
            more = f" and {len(self.unknown) - NAMED} more" if len(self.unknown) > NAMED else ""
            parts.append(f"fields that are not known and were not used: {listed}{more}")
        if self.empty:
            parts.append(f"{self.empty:,} lines without a text left out")
        if self.cut:
            parts.append(f"{self.cut:,} texts cut after {LONGEST:,} letters")
        twice = self.lines - self.empty - len(self.rows)
        if twice:
            parts.append(f"{twice:,} lines that say the same again left out")
        return [f"Note: {'; '.join(parts)}."] if parts else []


def _size(path: Path) -> int:
    """Bytes of a file that may be one. Raises StitchLensError."""
    if not path.name.lower().endswith(ENDINGS):
        raise StitchLensError(
            f"'{path.name}'",
            f"a name that ends with {' or '.join(ENDINGS)}",
            "choose files of the folder explanations/ of Neuronpedia's export",
        )
    try:
        size = path.stat().st_size if path.is_file() else -1
    except (OSError, ValueError) as e:
        raise _unreadable(path, e) from None
    if size < 0:
        raise StitchLensError(f"no file at {path}", "one", "check the path")
    if size > LARGEST_FILE:
        raise _too_large(path)
    return size


def _too_large(path: Path) -> StitchLensError:
    return StitchLensError(
        f"more than {LARGEST_FILE:,} bytes in {path.name}",
        "no more than that",
        "bring it in parts, all in one command",
    )


def _unreadable(path: Path, e: BaseException) -> StitchLensError:
    return StitchLensError(
        f"{path.name} unreadable ({first_line(e)})",
        "a whole file of JSON lines, plain or packed by gzip",
        "fetch it again",
    )


def _lines(path: Path) -> Iterator[tuple[int, bytes, int]]:
    """(number, line, bytes of the file that were read) of each line. Raises StitchLensError."""
    total = 0
    try:
        with path.open("rb") as raw:
            is_packed = path.name.lower().endswith(".gz")
            stream = gzip.GzipFile(fileobj=raw) if is_packed else raw
            number = 0
            while line := stream.readline(LONGEST_LINE + 1):
                number += 1
                total += len(line)
                if len(line) > LONGEST_LINE:
                    raise StitchLensError(
                        f"line {number:,} of {path.name} longer than {LONGEST_LINE:,} bytes",
                        "an explanation on each line",
                        "choose files of the folder explanations/ of Neuronpedia's export",
                    )
                if total > LARGEST_FILE:
                    raise _too_large(path)
                yield number, line, raw.tell()
    except (OSError, EOFError, zlib.error, ValueError) as e:
        raise _unreadable(path, e) from None


def _record(line: bytes, at: Place) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise _wrong(f"no JSON at {_words(at)} ({first_line(e)})") from None
    if not isinstance(record, dict):
        raise _wrong(f"a JSON {type(record).__name__}, no object, at {_words(at)}")
    return record


def _words(at: Place) -> str:
    name, number = at
    return f"line {number:,} of {name}"


def _wrong(what: str) -> StitchLensError:
    return StitchLensError(
        what,
        "a JSON object with modelId, layer, index and description",
        "choose files of the folder explanations/ of Neuronpedia's export",
    )


def _index(record: dict[str, Any], at: Place) -> int:
    """A number, or its digits as text."""
    index = record.get("index")
    if isinstance(index, bool) or not INDEX.fullmatch(str(index)):
        raise _wrong(f"index {printable(repr(index), 40)} at {_words(at)}")
    return int(index)  # type: ignore[arg-type]


def _word(record: dict[str, Any], field: str, at: Place) -> str:
    """A text, empty where there is none."""
    value = record.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _wrong(f"a {type(value).__name__} as {field} at {_words(at)}")
    return value


def _short(text: str, most: int) -> str:
    """On one line, without what cannot be printed."""
    text = text.strip()
    return text if len(text) <= most and text.isprintable() else printable(text, most).strip()


def _source(record: dict[str, Any], at: Place) -> str:
    """Who said it: a model, or one that is not named, such as a person."""
    model = _short(_word(record, "explanationModelName", at), 80)
    return f"{IMPORTED}, {model}" if model else f"{IMPORTED}, no model named"


def _claimed(record: dict[str, Any]) -> tuple[float, str]:
    """The score that the file gives it, and which one: the first of `scores`, or an older one."""
    scores = record.get("scores")
    first = scores[0] if isinstance(scores, list) and scores else None
    if isinstance(first, dict) and _is_number(first.get("value")):
        kind = first.get("explanationScoreTypeName")
        return float(first["value"]), _short(kind, 80) if isinstance(kind, str) else "scores"
    for field in ("scoreV2", "scoreV1"):
        value = record.get(field)
        if _is_number(value) and value:  # 0 is what the database has where nobody scored
            return float(value), field
    return float("nan"), ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def bring(
    ws: Workspace,
    sae: str,
    files: Sequence[Path],
    names: Collection[str],
) -> Import:
    """Read files and keep their explanations; those of the same sources are replaced. Raises
    StitchLensError, in a demonstration too."""
    demonstration.refuse("an import of explanations")
    width = len(ws.table(f"features/{sae}"))
    brought = read_exports(files, names, sae, width)
    keep(ws, sae, brought.table)
    return brought
