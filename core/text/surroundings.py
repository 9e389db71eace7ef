"""What stands around a document in its source: documents are short pieces, read one by one."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from core.text.corpus import PIECE
from core.text.languages import LANGUAGES

POINTER = re.compile(r"(?P<source>.+)@(?P<number>\d+)\+(?P<offset>\d+)", re.S)
"""What the id of a document says, see `core.text.corpus.build_corpus`."""
LONGEST = 700
"""Characters on either side."""
PARAGRAPH = 3
"""Characters of blanks from which a gap between two pieces is more than a line's end."""

MISSING = 40
"""Characters from which a gap is text: no shorter piece is a document."""


class Surroundings(NamedTuple):
    """A document's neighbours in its source, as text."""

    before: str
    after: str
    begins: bool
    """Whether `before` begins with the source's first document."""
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
        self._last: dict[str, int] = {}
        for document in texts:
            if place := _place(document):
                self._ids[place.source, place.number] = document
                last = self._last.get(place.source, 0)
                self._last[place.source] = max(last, place.number)

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
        """The nearest document of the source on one side: repeats and short pieces are none."""
        place = _place(document)
        if place is None:
            return None
        number = place.number + by
        while 0 <= number <= self._last[place.source]:
            if near := self._ids.get((place.source, number)):
                return near
            number += by
        return None

    def _gap(
        self,
        first: str,
        second: str,
    ) -> str:
        """What stood between two pieces: nothing, a blank, the end of a line or of a paragraph; or
        text that is no document."""
        one, other = _place(first), _place(second)
        assert one and other
        blanks = other.offset - one.offset - len(self._texts[first])
        if blanks >= MISSING:
            return "\n…\n"
        if blanks >= PARAGRAPH:
            return "\n\n"
        # A piece that holds the end of a line was cut at the last one in it.
        of_lines = "\n" in self._texts[first][PIECE // 3 :]
        return "\n" if blanks == 2 or (blanks == 1 and of_lines) else " " * (blanks > 0)


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
