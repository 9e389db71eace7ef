"""What can be said in words of a place in a text: of the token that ends there and of what stands
around it.

Each family of predicates gives a place at most one value (a family "language" says French or
Spanish, never both), so a set of values is a predicate too, and its counts are the sum of theirs.
A place is named by the tokens of A; in B the same place has read the same text.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from core.features.speech import GROUPS, TAGS, tagger
from core.features.taxonomy import WORD
from core.models.live import LiveModel
from core.text.corpus import Document
from core.text.languages import LANGUAGES, script

FAMILIES: dict[str, str] = {
    "token": "{}",
    "word piece": "{} in any case",
    "word so far": "the word {}",
    "beginning of two": "{}",
    "beginning of three": "{}",
    "end of one": "{}",
    "end of two": "{}",
    "end of three": "{}",
    "last three letters": "the letters {}",
    "token before": "after {}",
    "token before that": "two after {}",
    "token after": "before {}",
    "word before": "after the word {}",
    "start of the line": "in a line that begins {}",
    "part of speech": "{}",
    "kind of word": "{}",
    "part of speech before": "after {}",
    "script": "{} script",
    "language": "in {}",
    "kind of document": "in {}",
    "kind of text": "in {}",
    "shape": "{}",
    "shape before": "after {}",
    "place in the word": "{}",
    "letters of the word": "{} of the word",
    "place in the line": "{} of the line",
    "place in the sentence": "{} of the sentence",
    "place in the document": "{} of the text",
    "inside": "inside {}",
    "seen": "{}",
}
"""By family how its values are said."""
QUOTED = frozenset(
    name
    for name in FAMILIES
    if name.startswith(("token", "word ", "beginning", "end of", "last three", "start of"))
)
"""Families whose values are pieces of text, shown in quotation marks."""
BRACKETS = {
    "(": "brackets",
    "[": "square brackets",
    "{": "braces",
    "<": "angle brackets",
}
CLOSING = {
    ")": "(",
    "]": "[",
    "}": "{",
    ">": "<",
}
MARKS = {'"': "quotation marks", "`": "backquotes"}
COMMENT = re.compile(r"#|//|--|/\*|%")
LETTERS = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+")
SENTENCE_END = re.compile(r"[.!?。！？।؟]['\"”»)]*\s+|\n")


class Piece(NamedTuple):
    """A token as a piece of its text, from character `begin` up to `end`."""

    begin: int
    end: int


def pieces_of(
    model: LiveModel,
    texts: Sequence[str],
) -> list[dict[int, Piece]]:
    """Of each text its tokens that read up to a character, by their number. Several tokens that
    spell one character are each that character."""
    out = []
    for encoded in model.encode(texts):
        pieces: dict[int, Piece] = {}
        begin = last = 0
        for number, end in enumerate(encoded.ends.tolist()):
            if end < 0:
                continue
            if end > last:
                begin, last = last, end
            pieces[number] = Piece(begin, end)
        out.append(pieces)
    return out


@lru_cache(maxsize=65_536)
def folded(piece: str) -> str:
    """Without the space around it and in small letters; a piece of nothing but space as it is."""
    return piece.strip().casefold() or piece


@lru_cache(maxsize=65_536)
def shape(piece: str) -> str:
    """How a piece of text looks: its case, digits, signs or space."""
    word = piece.strip()
    if not word:
        return "a line break" if "\n" in piece else "space"
    if word.isdigit():
        return "a number"
    if not any(c.isalpha() for c in word):
        return "signs and digits" if any(c.isdigit() for c in word) else "signs"
    if not word.isalpha():
        return "letters and signs"
    if word.islower():
        return "small letters"
    if word.isupper():
        return "a capital letter" if len(word) == 1 else "capital letters"
    return "a capitalised piece" if word[1:].islower() else "letters without case or mixed"


def insides(
    text: str,
    code: bool,
) -> list[str]:
    """Of each character what it stands inside of: brackets, quotation marks, a comment; empty
    where nothing is open."""
    marks = {**MARKS, "'": "quotation marks"} if code else MARKS
    brackets = {k: v for k, v in BRACKETS.items() if code or k != "<"}
    open_signs: list[str] = []
    out = []
    for letter in text:
        if letter in marks:
            if open_signs and open_signs[-1] == letter:
                open_signs.pop()
            else:
                open_signs.append(letter)
        elif letter in brackets:
            open_signs.append(letter)
        elif open_signs:
            closes = open_signs[-1] == CLOSING.get(letter)
            ends = letter == "\n" and open_signs[-1] in marks
            if closes or ends:
                open_signs.pop()
        out.append((marks | brackets)[open_signs[-1]] if open_signs else "")
    return out


SEEN = {
    (False, False): "new in the text",
    (False, True): "seen before in the text",
    (True, True): "seen after the same token before",
}
"""By whether the pair of a token and the one before it has been seen, and the token itself."""


def ordinal(k: int) -> str:
    """A place counted from 0, in words that grow coarser."""
    names = ("the first token", "the second token", "the third token", "the fourth token")
    if k < len(names):
        return names[k]
    if k < 8:
        return "the fifth to eighth token"
    return "the ninth to 16th token" if k < 16 else "later tokens"


def language(document: Document) -> str:
    """In which a document is written, a programming language or one that people speak; its label
    where that is neither."""
    head, _, rest = document.label.partition("/")
    if head == "coding":
        return rest
    return LANGUAGES[head][1] if head in LANGUAGES else document.label


class _Passage:
    """A document with what its tokens are described by: words, sentences, tags, what is open."""

    def __init__(
        self,
        document: Document,
        tags: "Tags",
    ) -> None:
        self.text = document.text
        self.code = document.kind == "code"
        self.inside = insides(self.text, self.code)
        self.words = [m.span() for m in LETTERS.finditer(self.text)]
        self.word_begins = [begin for begin, _ in self.words]
        self.sentences = [0, *(m.end() for m in SENTENCE_END.finditer(self.text))]
        self.tag_begins, self.tags = tags

    def word(
        self,
        last: int,
    ) -> tuple[int, bool]:
        """(number of the last word that has begun by a character, whether that is part of it)."""
        number = bisect_right(self.word_begins, last) - 1
        return number, number >= 0 and last < self.words[number][1]

    def of_word(
        self,
        piece: Piece,
        fold: str,
    ) -> dict[str, str]:
        """What is said of the word that a token is part of, and of the one before."""
        last = max(piece.end - 1, 0)
        number, within = self.word(last)
        before = number - 1 if within else number
        values: dict[str, str] = {"word so far": fold}
        if before >= 0:
            values["word before"] = self.text[slice(*self.words[before])].casefold()
        if not within:
            return values

        begin, end = self.words[number]
        word = self.text[begin : piece.end].casefold()
        values |= {
            "word so far": word,
            "beginning of two": word[:2],
            "beginning of three": word[:3],
            "end of one": word[-1:],
            "end of two": word[-2:],
            "end of three": word[-3:],
            "letters of the word": LENGTHS[min(len(word), len(LENGTHS)) - 1],
            "place in the word": PARTS[piece.begin <= begin, piece.end >= end],
            "script": script(self.text[last]),
        }
        return values

    def of_speech(
        self,
        last: int,
    ) -> dict[str, str]:
        """The part of speech at a character and before."""
        number = bisect_right(self.tag_begins, last) - 1
        if number < 0:
            return {}
        tag = self.tags[number]
        values = {"part of speech": TAGS.get(tag, tag), "kind of word": GROUPS.get(tag[:2], "")}
        if number > 0:
            before = self.tags[number - 1]
            values["part of speech before"] = TAGS.get(before, before)
        return values

    def line(
        self,
        last: int,
    ) -> int:
        """Where the line of a character begins."""
        return self.text.rfind("\n", 0, last) + 1

    def sentence(
        self,
        last: int,
    ) -> int:
        """The number of the sentence of a character."""
        return bisect_right(self.sentences, last) - 1

    def within(
        self,
        last: int,
    ) -> str:
        """What a character stands inside of."""
        if self.code and COMMENT.search(self.text, self.line(last), last):
            return "a comment"
        return self.inside[last] if self.inside else ""


LENGTHS = (
    "one letter",
    "two letters",
    "three letters",
    "four letters",
    "five letters",
    "six letters",
    "seven letters",
    "eight letters or more",
)
Tags = tuple[list[int], list[str]]
"""(where each word begins, its CLAWS-5 tag)."""
PARTS = {
    (True, True): "a whole word",
    (True, False): "beginning of a word",
    (False, True): "end of a word",
    (False, False): "middle of a word",
}
"""By whether a token begins where a word does and ends where it does."""


class _Counter:
    """How many tokens there have been since a place changed."""

    def __init__(self) -> None:
        self.place, self.tokens = -1, 0

    def at(
        self,
        place: int,
    ) -> int:
        """Tokens before this one at the same place."""
        self.tokens = self.tokens + 1 if place == self.place else 0
        self.place = place
        return self.tokens


class Describer:
    """Says of every token of a document the value of each family."""

    def tags(
        self,
        document: Document,
    ) -> Tags:
        """Of an English document; none of others."""
        words = list(WORD.finditer(document.text)) if document.kind == "English" else []
        if not words:
            return [], []
        tags = tagger().tag_sent([m.group() for m in words], taglevel=0)
        return [m.start() for m in words], [str(tag) for tag in tags]

    def describe(
        self,
        document: Document,
        pieces: dict[int, Piece],
    ) -> Iterator[tuple[int, dict[str, str]]]:
        """(number of the token, its value in each family that has one)."""
        text = document.text
        passage = _Passage(document, self.tags(document))
        about = {
            "language": language(document),
            "kind of document": document.label,
            "kind of text": document.kind,
        }
        tokens = [text[piece.begin : piece.end] for piece in pieces.values()]
        folds = [folded(token) for token in tokens]
        in_line, in_sentence = _Counter(), _Counter()
        line_start = ""
        tokens_before: set[str] = set()
        pairs_before: set[tuple[str, str]] = set()

        for k, (number, piece) in enumerate(pieces.items()):
            last = max(piece.end - 1, 0)
            fold = folds[k]
            line = in_line.at(passage.line(last))
            line_start = line_start if line else fold
            pair = (folds[k - 1] if k else "", fold)
            again = fold in tokens_before

            values = about | passage.of_word(piece, fold) | passage.of_speech(last)
            values |= {
                "token": tokens[k],
                "word piece": fold,
                "last three letters": text[max(piece.end - 3, 0) : piece.end].casefold(),
                "shape": shape(tokens[k]),
                "inside": passage.within(last),
                "start of the line": line_start,
                "place in the line": ordinal(line),
                "place in the sentence": ordinal(in_sentence.at(passage.sentence(last))),
                "place in the document": ordinal(k),
                "seen": SEEN[pair in pairs_before, again],
            }
            if k > 0:
                values |= {"token before": folds[k - 1], "shape before": shape(tokens[k - 1])}
            if k > 1:
                values["token before that"] = folds[k - 2]
            if k + 1 < len(folds):
                values["token after"] = folds[k + 1]

            tokens_before.add(fold)
            pairs_before.add(pair)
            yield number, values
