"""Files of rows, packed or not: CSV, JSON lines, JSON, Parquet, Arrow. One column of text is read
out of each.

Rows are streamed, so that memory does not grow with the file. Nothing is executed, cached or asked
of the network.
"""

import csv
import io
import itertools
import json
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.errors import StitchLensError
from core.text.columns import COLUMNS, NoRows, Rows, choose, is_named, listed, once, without
from core.text.packing import faults, form, seekable, unpacked, whole_text
from core.text.reading import LONGEST_LINE, clean, decode, stream
from core.workspace.untrusted import first_line

FORMS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".feather")
BATCH = 1000
SAMPLE = 100
"""Rows of a CSV that tell its columns of numbers from those of text."""
STATE, MOST_STATE = "state.json", 10_000_000
"""What `save_to_disk` of datasets writes beside its Arrow files, and the most bytes read of it."""


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


# CSV


def csv_rows(
    lines: Iterator[str],
    name: str,
    wanted: Collection[str] = COLUMNS,
    tabs: bool = False,
) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """(columns, (line, cells) of each row that is not blank) of a CSV whose cells are parted by
    commas, semicolons or tabs: by the one that finds most of the `wanted` columns in its first
    line, then most columns.

    Rows are as long as the first line. Raises StitchLensError that names the line where one is
    longer, or is no CSV.
    """
    csv.field_size_limit(LONGEST_LINE)
    first = next(lines, "")
    delimiters = "\t,;" if tabs else ",;\t"

    def parted(delimiter: str) -> tuple[int, int]:
        """(wanted columns, columns) in the first line."""
        with _csv_faults(name, lambda: 1):
            cells = next(csv.reader([first], delimiter=delimiter), [])
        names = {cell.strip().casefold() for cell in cells}
        return len(names & set(wanted)), len(cells)

    delimiter = max(delimiters, key=parted)  # of equals the first
    whole = itertools.chain([first], lines)
    reader = csv.reader(whole, delimiter=delimiter, strict=True)
    with _csv_faults(name, lambda: reader.line_num):
        columns = [cell.strip() for cell in next(reader, [])]
    while columns and not columns[-1]:
        columns.pop()

    def rows() -> Iterator[tuple[int, list[str]]]:
        with _csv_faults(name, lambda: reader.line_num):
            for cells in reader:
                beyond = cells[len(columns) :]
                if any(cell.strip() for cell in beyond):
                    raise StitchLensError(
                        f"line {reader.line_num} of {name} with {len(cells)} cells under"
                        f" {len(columns)} columns",
                        "as many cells as columns",
                        "put the text in double quotes",
                    )
                if cells:
                    filled = cells + [""] * len(columns)
                    yield reader.line_num, filled[: len(columns)]

    return columns, rows()


@contextmanager
def _csv_faults(name: str, line: Callable[[], int]) -> Generator[None]:
    try:
        yield
    except csv.Error as e:
        raise StitchLensError(
            f"line {line()} that is no CSV in {name} ({e})", "a CSV in UTF-8", "mend that line"
        ) from None


def _csv_texts(path: Path, name: str) -> Rows:
    lines = stream(unpacked(path, name), name)
    columns, rows = csv_rows(lines, name, tabs=form(path)[0] == ".tsv")
    first: list[tuple[int, list[str]]] = []
    is_text: dict[str, bool] = {}
    for column in columns:
        if any(is_named(column, wanted) for wanted in COLUMNS):
            is_text[column] = True

    if not is_text:
        first = list(itertools.islice(rows, SAMPLE))
        for i, column in enumerate(columns):
            is_text[column] = not _numbers(cells[i] for _, cells in first)

    column = choose(is_text, name)
    at = once(columns, column, name)
    texts = ((number, cells[at]) for number, cells in itertools.chain(first, rows))
    return Rows(column, without(columns, column), texts)


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
    lines = stream(unpacked(path, name), name)

    def rows() -> Iterator[tuple[int, Any]]:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, parse_line(line, number, name)

    return _json_rows(rows(), name)


def parse_line(
    line: str,
    number: int,
    name: str,
) -> Any:
    """What a line of JSON holds. Raises StitchLensError that names the line."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as e:
        raise _bad_row(f"line {number}", name, first_line(e)) from None


def _bad_row(
    row: str,
    name: str,
    why: str,
    column: str = COLUMNS[0],
) -> StitchLensError:
    return StitchLensError(
        f"{row} of {name} ({why})",
        f"JSON with a string under '{column}'",
        f"mend or remove that {row.split()[0]}",
    )


def _json_rows(
    rows: Iterator[tuple[int, Any]],
    name: str,
    unit: str = "line",
) -> Rows:
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
            text = row
            why = "no object"
            if isinstance(row, dict):
                if column not in row:
                    raise fault(number, f"no '{column}'")
                text = row[column]
                why = f"'{column}' is not a string"

            if text is not None and not isinstance(text, str):
                raise fault(number, why)
            if text:
                yield number, text

    return Rows(column, without(columns, column), texts())


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
        lists = [one for one in value.values() if _is_rows(one)]
        if not lists and not any(isinstance(value.get(column), str) for column in COLUMNS):
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


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


# Parquet and Arrow


def _parquet(path: Path, name: str) -> Rows:
    import pyarrow.parquet as pq

    with seekable(path, name) as file:
        schema = pq.ParquetFile(file).schema_arrow
    column = choose(_strings(schema), name)
    once(schema.names, column, name)

    def texts() -> Iterator[tuple[int, str]]:
        with seekable(path, name) as file:
            table = pq.ParquetFile(file)
            yield from _column(table.iter_batches(BATCH, columns=[column]), column)

    return Rows(column, without(schema.names, column), texts())


def _arrow(path: Path, name: str) -> Rows:
    with seekable(path, name) as file:
        schema = _arrow_batches(file)[0]
    column = choose(_strings(schema), name)
    once(schema.names, column, name)

    def texts() -> Iterator[tuple[int, str]]:
        with seekable(path, name) as file:
            yield from _column(_arrow_batches(file)[1], column)

    return Rows(column, without(schema.names, column), texts())


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
        index = batch.schema.get_field_index(column)
        for text in batch.column(index).to_pylist():
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
