"""Files of rows, packed or not: CSV, JSON lines, JSON, Parquet, Arrow. One column of text is read
out of each.

Rows are streamed, so that memory does not grow with the file. Nothing is executed, cached or asked
of the network.
"""

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
import tempfile
import zlib
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from core.errors import StitchLensError
from core.text.reading import HEAD, LONGEST_LINE, check_fetched, clean, decode, stream
from core.workspace.untrusted import first_line

FORMS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".feather")
PACKED = (".gz", ".xz", ".bz2", ".zst")
COLUMNS = ("text", "content")
"""The column that holds the text, in the order of choice; else the only one of strings."""
BATCH = 1000
SAMPLE = 100
"""Rows of a CSV that tell its columns of numbers from those of text."""
WHOLE = 200_000_000
"""Bytes of what is not read row by row: JSON in one piece, and packed text."""
UNPACKED = 4_000_000_000
"""Bytes of a packed Parquet or Arrow file, which is unpacked to a temporary one."""
STATE, MOST_STATE = "state.json", 10_000_000
"""What `save_to_disk` of datasets writes beside its Arrow files, and the most bytes read of it."""


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


def form(path: Path) -> tuple[str, str]:
    """The ending that says what is in a file, and the one that says how it is packed: ('.jsonl',
    '.gz')."""
    endings = [x.lower() for x in path.suffixes]
    packing = endings.pop() if endings and endings[-1] in PACKED else ""
    return (endings[-1] if endings else ""), packing


def read_rows(path: Path, name: str) -> Rows:
    """Open a file of one of FORMS and choose its column.

    Raises StitchLensError where it is damaged, NoColumn where no column can be taken for the text.
    """
    with faults(name):
        match form(path)[0]:
            case ".csv" | ".tsv":
                rows = _csv_texts(path, name)
            case ".jsonl" | ".ndjson":
                rows = _json_lines(path, name)
            case ".json":
                rows = _json(path, name)
            case ".parquet":
                rows = _parquet(path, name)
            case _:
                rows = _arrow(path, name)
    return Rows(rows.column, rows.unused, _guarded(rows.texts, name))


def _guarded(texts: Iterator[tuple[int, str]], name: str) -> Iterator[tuple[int, str]]:
    with faults(name):
        for number, text in texts:
            yield number, clean(text)


@contextmanager
def faults(name: str) -> Generator[None]:
    """Raises StitchLensError for what the libraries raise on a damaged or unreadable file."""
    try:
        yield
    except StitchLensError:
        raise
    except FileNotFoundError:
        raise StitchLensError(
            f"no file {name}", "the whole data set", "fetch or save it again"
        ) from None
    except (
        OSError,
        EOFError,
        ValueError,
        zlib.error,
        lzma.LZMAError,
        MemoryError,
        NotImplementedError,
    ) as e:
        # ArrowInvalid is a ValueError, ArrowNotImplementedError a NotImplementedError,
        # UnicodeDecodeError a ValueError
        raise StitchLensError(
            f"{name} damaged or unreadable ({first_line(e)})",
            "a whole file",
            "fetch or save it again, or leave it out",
        ) from None


def choose(columns: Mapping[str, bool], name: str) -> str:
    """The column that holds the text; each of `columns` is said to be of strings or not. Raises
    NoColumn."""
    named = [
        (column, is_text)
        for wanted in COLUMNS
        for column, is_text in columns.items()
        if _is(column, wanted)
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


def _is(column: str, wanted: str) -> bool:
    return column.strip().casefold() == wanted


def listed(columns: Iterable[str]) -> str:
    """Names of columns, in short."""
    names = [column.strip()[:40] or "one without a name" for column in columns]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(names[:8]) or "none") + more


# packing


def unpacked(path: Path, name: str) -> io.BufferedIOBase:
    """A file as it was before it was packed, to be read from its beginning to its end."""
    with path.open("rb") as file:
        check_fetched(file.read(HEAD), name)
    match form(path)[1]:
        case ".gz":
            return gzip.open(path)
        case ".xz":
            return lzma.open(path)
        case ".bz2":
            return bz2.open(path)
        case ".zst":
            import pyarrow as pa

            return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"), HEAD)  # type: ignore[arg-type]
        case _:
            return path.open("rb")


def whole_text(path: Path, name: str) -> str:
    """A packed text, or JSON in one piece. Raises StitchLensError where it is over WHOLE bytes or
    not text."""
    with faults(name), unpacked(path, name) as file:
        raw = file.read(WHOLE + 1)
    if len(raw) > WHOLE:
        raise StitchLensError(
            f"{name} of over {WHOLE:,} bytes in one piece",
            "JSON lines or plain text",
            "write a row a line, as with `jq -c .[]`, and name it .jsonl",
        )
    return decode(raw, name)


@contextmanager
def _seekable(path: Path, name: str) -> Generator[io.BufferedIOBase]:
    """A packed file is unpacked to a temporary one, in the system's folder for them."""
    if not form(path)[1]:
        with unpacked(path, name) as file:
            yield file
        return
    with unpacked(path, name) as packed, tempfile.TemporaryFile(prefix="stitchlens-") as file:
        size = 0
        while piece := packed.read(2**20):
            size += len(piece)
            if size > UNPACKED:
                raise StitchLensError(
                    f"{name}, which unpacks to over {UNPACKED:,} bytes", "less", "split it"
                )
            file.write(piece)
        file.seek(0)
        yield cast("io.BufferedIOBase", file)


# CSV


def csv_rows(
    lines: Iterator[str], name: str, wanted: Collection[str] = COLUMNS, tabs: bool = False
) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """(columns, (line, cells) of each row that is not blank) of a CSV whose cells are parted by
    commas, semicolons or tabs: by the one that finds most of the `wanted` columns in its first
    line, then most columns.

    Rows are as long as the first line. Raises StitchLensError that names the line where one is
    longer, or is no CSV.
    """
    csv.field_size_limit(LONGEST_LINE)
    first = next(lines, "")
    parted: list[tuple[int, int, str]] = []
    for delimiter in "\t,;" if tabs else ",;\t":
        with _csv_faults(name, lambda: 1):
            cells = next(csv.reader([first], delimiter=delimiter), [])
        hits = len({cell.strip().casefold() for cell in cells} & set(wanted))
        parted.append((hits, len(cells), delimiter))
    delimiter = max(parted, key=lambda x: x[:2])[2]  # of equals the first
    reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
    with _csv_faults(name, lambda: reader.line_num):
        columns = [cell.strip() for cell in next(reader, [])]
    while columns and not columns[-1]:
        columns.pop()

    def rows() -> Iterator[tuple[int, list[str]]]:
        with _csv_faults(name, lambda: reader.line_num):
            for cells in reader:
                if any(cell.strip() for cell in cells[len(columns) :]):
                    raise StitchLensError(
                        f"line {reader.line_num} of {name} with {len(cells)} cells under"
                        f" {len(columns)} columns",
                        "as many cells as columns",
                        "put the text in double quotes",
                    )
                if cells:
                    yield reader.line_num, (cells + [""] * len(columns))[: len(columns)]

    return columns, rows()


@contextmanager
def _csv_faults(name: str, line: Callable[[], int]) -> Generator[None]:
    try:
        yield
    except csv.Error as e:
        raise StitchLensError(
            f"line {line()} that is no CSV in {name} ({e})", "a CSV in UTF-8", "mend that line"
        ) from None


def once(columns: Sequence[str], column: str, name: str) -> int:
    """The place of a column. Raises StitchLensError where there are two of that name."""
    places = [i for i, one in enumerate(columns) if one.casefold() == column.casefold()]
    if len(places) > 1:
        raise StitchLensError(
            f"column {column} twice in {name}", "each name once", "rename one of them"
        )
    return places[0]


def _csv_texts(path: Path, name: str) -> Rows:
    columns, rows = csv_rows(stream(unpacked(path, name), name), name, tabs=form(path)[0] == ".tsv")
    first = list[tuple[int, list[str]]]()
    is_text = {column: True for column in columns if any(_is(column, wanted) for wanted in COLUMNS)}
    if not is_text:
        first = list(itertools.islice(rows, SAMPLE))
        is_text = {
            column: not _numbers(cells[i] for _, cells in first) for i, column in enumerate(columns)
        }
    column = choose(is_text, name)
    at = once(columns, column, name)
    texts = ((number, cells[at]) for number, cells in itertools.chain(first, rows))
    return Rows(column, _but(columns, column), texts)


def _but(columns: Iterable[str], column: str) -> tuple[str, ...]:
    return tuple(c for c in columns if c != column)


def _numbers(cells: Iterable[str]) -> bool:
    """Are those that are not blank all numbers?"""
    try:
        for cell in cells:
            float(cell.replace(",", ".") if cell.strip() else "0")
    except ValueError:
        return False
    return True


# JSON


def _json_lines(path: Path, name: str) -> Rows:
    numbered = (
        (n, line) for n, line in enumerate(stream(unpacked(path, name), name), 1) if line.strip()
    )
    rows = ((n, parse_line(line, n, name)) for n, line in numbered)
    return _json_rows(rows, name)


def parse_line(line: str, number: int, name: str) -> Any:
    """What a line of JSON holds. Raises StitchLensError that names the line."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as e:
        raise _bad_row(f"line {number}", name, first_line(e)) from None


def _bad_row(row: str, name: str, why: str, column: str = COLUMNS[0]) -> StitchLensError:
    return StitchLensError(
        f"{row} of {name} ({why})",
        f"JSON with a string under '{column}'",
        f"mend or remove that {row.split()[0]}",
    )


def _json_rows(rows: Iterator[tuple[int, Any]], name: str, unit: str = "line") -> Rows:
    """Of objects or strings; the first SAMPLE rows say which column is taken."""
    first = list(itertools.islice(rows, SAMPLE))
    columns: dict[str, bool] = {}
    for _, row in first:
        for key, value in row.items() if isinstance(row, dict) else ():
            columns[key] = columns.get(key, False) or isinstance(value, str)
    column = choose(columns, name) if columns else COLUMNS[0]

    def fault(number: int, why: str) -> StitchLensError:
        return _bad_row(f"{unit} {number}", name, why, column)

    def texts() -> Iterator[tuple[int, str]]:
        for number, row in itertools.chain(first, rows):
            if isinstance(row, dict) and column not in row:
                raise fault(number, f"no '{column}'")
            text = row[column] if isinstance(row, dict) else row
            if text is not None and not isinstance(text, str):
                raise fault(
                    number, f"'{column}' is not a string" if isinstance(row, dict) else "no object"
                )
            if text:
                yield number, text

    return Rows(column, _but(columns, column), texts())


def _json(path: Path, name: str) -> Rows:
    """JSON lines, a list of rows, an object that holds one list of rows, or one row that has a
    text."""
    filled = (line for line in stream(unpacked(path, name), name) if line.strip())
    begins = list(itertools.islice(filled, 2))
    filled.close()
    if len(begins) == 2 and _is_json(begins[0]):
        return _json_lines(path, name)
    if not begins:
        return Rows(COLUMNS[0], (), iter(()))
    try:
        value = json.loads(whole_text(path, name))
    except (ValueError, RecursionError) as e:
        raise StitchLensError(
            f"{name} that is no JSON ({first_line(e)})", "JSON", "mend or remove it"
        ) from None
    if isinstance(value, dict):
        lists = [x for x in value.values() if isinstance(x, list) and x and isinstance(x[0], dict)]
        if not lists and not any(isinstance(value.get(c), str) for c in COLUMNS):
            raise NoRows(
                f"one object without a text in {name}",
                "rows",
                "write JSON lines with a string under 'text'",
            )
        value = lists[0] if len(lists) == 1 else [value]
    if not isinstance(value, list):
        raise NoRows(
            f"no rows in {name}", "a list of rows", "write JSON lines with a string under 'text'"
        )
    return _json_rows(enumerate(value, 1), name, "row")


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


# Parquet and Arrow


def _parquet(path: Path, name: str) -> Rows:
    import pyarrow.parquet as pq

    with _seekable(path, name) as file:
        schema = pq.ParquetFile(file).schema_arrow
    column = choose(_strings(schema), name)
    once(schema.names, column, name)

    def texts() -> Iterator[tuple[int, str]]:
        with _seekable(path, name) as file:
            table = pq.ParquetFile(file)
            yield from _column(table.iter_batches(BATCH, columns=[column]), column)

    return Rows(column, _but(schema.names, column), texts())


def _arrow(path: Path, name: str) -> Rows:
    with _seekable(path, name) as file:
        schema = _arrow_batches(file)[0]
    column = choose(_strings(schema), name)
    once(schema.names, column, name)

    def texts() -> Iterator[tuple[int, str]]:
        with _seekable(path, name) as file:
            yield from _column(_arrow_batches(file)[1], column)

    return Rows(column, _but(schema.names, column), texts())


def _arrow_batches(file: io.BufferedIOBase) -> tuple[Any, Iterable[Any]]:
    """(schema, batches) of either of Arrow's forms; `datasets` writes the one for streams."""
    import pyarrow as pa

    if file.read(6) == b"ARROW1":
        whole = pa.ipc.open_file(file)
        return whole.schema, (whole.get_batch(i) for i in range(whole.num_record_batches))
    file.seek(0)
    reader = pa.ipc.open_stream(file)
    return reader.schema, reader


def _strings(schema: Any) -> dict[str, bool]:
    import pyarrow as pa

    def is_text(kind: Any) -> bool:
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        return (
            pa.types.is_string(kind)
            or pa.types.is_large_string(kind)
            or pa.types.is_string_view(kind)
        )

    return {field.name: is_text(field.type) for field in schema}


def _column(batches: Iterable[Any], column: str) -> Iterator[tuple[int, str]]:
    number = 0
    for batch in batches:
        for text in batch.column(batch.schema.get_field_index(column)).to_pylist():
            number += 1
            if text:
                yield number, text


def saved_files(folder: Path) -> set[str] | None:
    """The Arrow files that a folder written by `save_to_disk` of datasets consists of; None for any
    other folder.

    What else lies there is a cache. Raises StitchLensError where one of them is missing.
    """
    try:
        with (folder / STATE).open("rb") as file:
            value = json.loads(decode(file.read(MOST_STATE), STATE))
        names = {str(one["filename"]) for one in value["_data_files"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError, StitchLensError):
        return None
    if missing := sorted(name for name in names if not (folder / name).is_file()):
        raise StitchLensError(
            f"no {listed(missing)} in {folder.name}, which its {STATE} names",
            "the whole data set",
            "copy it again",
        )
    return names
