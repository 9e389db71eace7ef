"""What stands around a document in its source: documents are short pieces, read one by one."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from core.text.languages import LANGUAGES

POINTER = re.compile(r"(?P<source>.+)@(?P<number>\d+)\+(?P<offset>\d+)", re.S)
"""What the id of a document says, see `core.text.corpus.build_corpus`."""
LONGEST = 700
"""Characters on either side."""
PARAGRAPH = 3
"""Characters of blanks from which a gap between two pieces is more than a line's end."""


class Surroundings(NamedTuple):
    """A document's neighbours in its source, as text."""

    before: str
    after: str
    begins: bool
    """Whether `before` begins where the source does."""
    ends: bool


class _Place(NamedTuple):
    source: str
    number: int
    offset: int


def _place(document: str) -> _Place | None:
    pointer = POINTER.fullmatch(document)
    if pointer is None:
        return None
    return _Place(pointer["source"], int(pointer["number"]), int(pointer["offset"]))


class Neighbours:
    """Finds the documents before and after one."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        """`texts` are a corpus's documents by id."""
        self._texts = texts
        self._ids: dict[tuple[str, int], str] = {}
        for document in texts:
            if place := _place(document):
                self._ids[place.source, place.number] = document

    def around(
        self,
        document: str,
        most: int = LONGEST,
    ) -> Surroundings:
        """What stands around a document, at most so many characters on either side, cut between
        words. Pieces lie without the blanks between them: as many as there were say whether a line
        or a paragraph ends."""
        before, begins = self._walk(document, -1, most)
        after, ends = self._walk(document, 1, most)
        return Surroundings(before, after, begins, ends)

    def _walk(
        self,
        document: str,
        by: int,
        most: int,
    ) -> tuple[str, bool]:
        """(text on one side, whether it reaches the source's end)."""
        text = ""
        while len(text) < most:
            near = self._next(document, by)
            if near is None:
                return text, True
            first, second = (near, document) if by < 0 else (document, near)
            gap = self._gap(first, second)
            text = self._texts[near] + gap + text if by < 0 else text + gap + self._texts[near]
            document = near

        if len(text) == most:
            return text, self._next(document, by) is None
        if by < 0:
            return re.sub(r"^\S*\s", "", text[-most:], count=1), False
        return re.sub(r"\s\S*$", "", text[:most], count=1), False

    def _next(
        self,
        document: str,
        by: int,
    ) -> str | None:
        place = _place(document)
        return place and self._ids.get((place.source, place.number + by))

    def _gap(
        self,
        first: str,
        second: str,
    ) -> str:
        """What stood between two neighbours: nothing, a blank, a line's end or a paragraph's."""
        one, other = _place(first), _place(second)
        assert one and other
        blanks = other.offset - one.offset - len(self._texts[first])
        return "\n\n" if blanks >= PARAGRAPH else ("", " ", "\n")[max(0, blanks)]


def titled(document: str) -> str:
    """What a document is, in words, by the source that its id names: 'English, history', 'code,
    python', 'French'; of another corpus the source's own name."""
    place = _place(document)
    source = place.source if place else document
    head, *rest = source.split("/")
    if head == "coding":
        return ", ".join(["code", *rest[:1]])
    if head not in LANGUAGES:
        return source
    return ", ".join([LANGUAGES[head][1], *(part for part in rest if part != head)])
