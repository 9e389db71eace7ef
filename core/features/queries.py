"""What is typed, as terms that are looked up, and what a hit says of a feature.

Nothing typed is an operator: each word and each sign is a term of its own, in any script, without
case and accents.
"""

import re
import tomllib
import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal

from core.errors import StitchLensError

LONGEST = 200
"""Characters of a query in words."""
SPACELESS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
"""Scripts that write no spaces: each letter is a term."""
ACCENTS = re.compile("[\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670]")
"""Marks of Latin, Greek, Cyrillic, Hebrew and Arabic letters that a search leaves out; elsewhere
marks are vowels."""
CONCEPTS = Path(__file__).with_name("concepts.toml")

Place = Literal["label", "explanation", "peak", "context", "beginning"]
"""Where a word was found: `beginning` is that of a longer word, anywhere."""
FITS: dict[Place, str] = {
    "label": "named so",
    "explanation": "explained so",
    "peak": "fires on it",
    "context": "fires near it",
    "beginning": "on or near a longer word",
}
"""What it says of a feature that a word was found there."""


class _Letters(dict[int, str]):
    """What stands for each character in a text of terms."""

    def __missing__(
        self,
        code: int,
    ) -> str:
        letter = chr(code)
        category = unicodedata.category(letter)
        if category[0] in "CZ":
            term = " "
        elif ACCENTS.match(letter):
            term = ""
        elif category[0] in "PS" or unicodedata.name(letter, "").startswith(SPACELESS):
            term = f" {letter} "
        else:
            term = letter
        self[code] = term
        return term


LETTERS = _Letters()


def normalised(text: str) -> str:
    """A text as terms with a space between: small letters without accents, each sign and each
    letter of a script without spaces by itself."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return " ".join(plain.translate(LETTERS).split())


def quoted(terms: str) -> str:
    """Terms in a row as a string of FTS5, in which nothing is an operator."""
    doubled = terms.replace('"', '""')
    return f'"{doubled}"'


@cache
def concepts() -> dict[str, list[str]]:
    """By the name of a kind of token, as `normalised` writes it, tokens of that kind."""
    kinds = tomllib.loads(CONCEPTS.read_text("utf-8"))
    return {normalised(name): [normalised(token) for token in kinds[name]] for name in kinds}


def expressions(query: str) -> list[tuple[Place, str]]:
    """What to look for and what a hit is, the surest first. A label was scored, an explanation
    says why a feature fires, a peak is where it does, a context may hold any word: in each of them
    all words in a row, then all of them anywhere; before the contexts the tokens that the query
    names the kind of; at the end the last word only begun. The terms of a word always stand in a
    row.

    Raises StitchLensError for more than a few words; none where there is no term.
    """
    if len(query) > LONGEST:
        raise StitchLensError(
            f"a query of {len(query):,} characters",
            f"a word or a few, at most {LONGEST} characters",
            "let both models read it as a sentence: --sentence",
        )
    words = [word for word in map(normalised, query.split()) if word]
    if not words:
        return []

    row = quoted(" ".join(words))
    apart = " AND ".join(map(quoted, words))
    whole = [row, apart] if len(words) > 1 else [row]
    kind = [token for token in concepts().get(" ".join(words), []) if token]
    named = [" OR ".join(map(quoted, kind))] if kind else []
    begun = f"{apart} *"
    return [
        *[("label", _in("label", one)) for one in whole],
        *[("explanation", _in("explanations", one)) for one in whole],
        *[("peak", _in("peaks", one)) for one in [*named, *whole]],
        *[("label", _in("label", one)) for one in named],
        *[("context", one) for one in whole],
        ("beginning", _in("label", begun)),
        ("beginning", _in("peaks", begun)),
        ("beginning", begun),
    ]


def _in(
    column: str,
    asked: str,
) -> str:
    """An expression as of one column."""
    return f"{column} : ({asked})"


def share_of_label(label: str, query: str) -> float:
    """How much of a label, as `normalised` writes it, words are: 1 of "in French", a sixth of six
    languages or six tokens."""
    words = set(normalised(query).split())
    shares = [0.0]
    for part in label.split(" · "):
        if words <= set(part.split()):
            named = max(1 + part.count(" or "), part.count('"') // 2)
            shares.append(1 / named)
    return max(shares)


def caution(found: Iterable[Place]) -> str:
    """A sentence where a word was only found around what features fire on; else empty."""
    places = set(found)
    if not places or places & {"label", "explanation", "peak"}:
        return ""
    if "context" in places:
        return "No feature is known for it or fires on it: these fire near it."
    return "No feature has this word: these have one that begins so."
