"""Text: seeded, fingerprinted documents in disjoint fit / select / held-out splits.

A document is a piece of at most `PIECE` characters of a source text, cut at line, sentence or word
ends. Splits are drawn by sections of neighbouring documents, so that two halves of one paragraph
never sit on both sides.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from core.errors import StitchLensError
from core.text.folder import LocalText, Reading, spelled
from core.text.sources import read_hub, read_wheel
from core.workspace.places import named

Split = Literal["fit", "select", "held-out"]
SPLITS: tuple[Split, ...] = ("fit", "select", "held-out")
SHARES = {
    "fit": 0.80,
    "select": 0.08,
    "held-out": 0.12,
}
PIECE = 480
SECTION = 8
ENOUGH = 400_000
"""Characters of which, drawn in sections, each split has some but in one case of thousands."""


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

    def split(
        self,
        name: Split,
        seed: int = 0,
    ) -> list[Document]:
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


def of_kinds(documents: Sequence[Document], kinds: Sequence[str]) -> list[Document]:
    """The documents of these kinds, in their order. Raises StitchLensError for a kind that none of
    them is of."""
    known = {document.kind for document in documents}
    if unknown := sorted(set(kinds) - known):
        raise StitchLensError(
            f"no text of the kind {' or '.join(map(repr, unknown))}",
            f"of the kinds in this corpus ({', '.join(sorted(known))})",
            "name some of those, with commas",
        )
    return [document for document in documents if document.kind in kinds]


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
            documents.append(
                Document(
                    id=f"{source}@{k}+{offset}",
                    label=label,
                    text=body,
                )
            )
    if not documents:
        raise NoText(
            f"no text of 40 characters or more in corpus '{name}'",
            "some text",
            "name a corpus that holds text",
        )
    return Corpus(name, tuple(documents))


def load_corpus(where: str = "wheel") -> Corpus:
    """A corpus from the wheel (`wheel`, or parts of it: `wheel:eng,fra,coding`), from a hub dataset
    (`hf:NAME`), or from a folder or file: text, and one column of tables (CSV, JSON lines, JSON,
    Parquet, Arrow, packed or not), of which the first STREAM_CHARACTERS are read. What lies beside
    data to describe them, such as a README, is not read.

    Raises StitchLensError where the place is missing, without text, binary or not UTF-8.
    """
    if where == "wheel":
        return build_corpus(where, read_wheel())
    if where.startswith("wheel:"):
        return build_corpus(where, read_wheel(where.removeprefix("wheel:").split(",")))
    if where.startswith("hf:"):
        return build_corpus(where, read_hub(where.removeprefix("hf:")))
    root = named(where)
    if not (root.is_file() or root.is_dir()):
        raise StitchLensError(
            f"no corpus at '{where}'", "'wheel', 'hf:NAME', a folder or a file", "check the path"
        )
    local = LocalText(root)
    name = spelled(Path(root.name or root.resolve().name))
    try:
        corpus = build_corpus(name, local.sources())
    except NoText as e:
        reason = f"{e.found} ({local.reading})" if str(local.reading) else e.found
        raise StitchLensError(reason, e.wanted, e.todo) from None
    return replace(corpus, reading=local.reading)
