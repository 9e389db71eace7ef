"""Was an instruction followed? Deterministic checks of a response; light: no torch.

They say what IFEval's say, without its sentence splitter (a download) and its unseeded langdetect.
A text that is blank follows nothing; where an instruction forbids something, neither does one of
fewer than LEAST words, which would follow it by saying nothing.
"""

import json
import re
from collections.abc import Callable
from functools import partial

from core.errors import StitchLensError
from core.text.languages import detect

Checker = Callable[[str], bool]
"""A whole response to whether it follows."""
LEAST = 5
"""Words of a response at which the absence of something says anything."""
BULLETS = 2
"""Lines of a list."""
BRIEF = 15
"""Words of a short sentence."""
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_BULLET = re.compile(r"^\s*[*•-]\s+\S", re.MULTILINE)
_NUMBER = re.compile(r"^\s*\d+[.)]\s+\S", re.MULTILINE)
_END = re.compile(r"[.!?。！？]+(?=\W|$)")
_TITLE = re.compile(r"<<[^\S\n]*[^\s<>][^<>\n]*>>")
_POSTSCRIPT = re.compile(r"^\s*P\.\s?S\.:?\s*\S", re.MULTILINE)
_FENCE = re.compile(r"^```(?:json)?\s*\n(.*?)\n?```$", re.DOTALL | re.IGNORECASE)
_QUOTES = ('""', "“”", "«»")


def words(text: str) -> list[str]:
    """Runs of letters of any script."""
    return _WORD.findall(text)


def capitals(text: str) -> bool:
    """No small letter; LEAST words. Scripts without case follow nothing."""
    return len(words(text)) >= LEAST and text.isupper()


def lower_case(text: str) -> bool:
    """No capital letter; LEAST words. Scripts without case follow nothing."""
    return len(words(text)) >= LEAST and text.islower()


def no_commas(text: str) -> bool:
    """No comma, those of Chinese, Japanese and Arabic included; LEAST words."""
    return len(words(text)) >= LEAST and not any(comma in text for comma in ",，、،")


def bullets(text: str) -> bool:
    """BULLETS lines or more that begin with *, - or •."""
    return len(_BULLET.findall(text)) >= BULLETS


def numbered(text: str) -> bool:
    """BULLETS lines or more that begin with a number and a full stop or a bracket."""
    return len(_NUMBER.findall(text)) >= BULLETS


def quoted(text: str) -> bool:
    """The whole answer stands in double quotation marks, with something in between."""
    answer = text.strip()
    if len(answer) < 3 or answer[0] + answer[-1] not in _QUOTES:
        return False
    return bool(answer[1:-1].strip())


def is_json(text: str) -> bool:
    """An object or a list, alone or in one Markdown fence; a bare number or string is no answer in
    JSON."""
    answer = text.strip()
    fenced = _FENCE.match(answer)
    try:
        value = json.loads(fenced[1] if fenced else answer)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict | list) and bool(value)


def title(text: str) -> bool:
    """Something in <<double angular brackets>> on one line."""
    return _TITLE.search(text) is not None


def two_paragraphs(text: str) -> bool:
    """Two, apart by *** alone, neither of them empty."""
    parts = re.split(r"\s?\*\*\*\s?", text)
    return len(parts) == 2 and all(part.strip() for part in parts)


def postscript(text: str) -> bool:
    """A line that begins with P.S. and goes on, after an answer."""
    found = _POSTSCRIPT.search(text)
    return found is not None and bool(text[: found.start()].strip())


def brief(text: str) -> bool:
    """BRIEF words at most, in one sentence that ends."""
    answer = text.strip()
    ends = _END.findall(answer)
    return (
        0 < len(words(answer)) <= BRIEF and len(ends) == 1 and _END.search(answer[-2:]) is not None
    )


def with_word(text: str, word: str) -> bool:
    """The word as a whole, in any case."""
    return word.casefold() in map(str.casefold, words(text))


def without_word(text: str, word: str) -> bool:
    """The word nowhere as a whole, in any case; LEAST words."""
    return len(words(text)) >= LEAST and not with_word(text, word)


def in_language(text: str, code: str) -> bool:
    """langdetect, seeded, finds the language (a code such as 'fr')."""
    return detect(text)[0] == code


def opens_with(text: str, word: str) -> bool:
    """The first word, in any case, with something after it."""
    spoken = words(text)
    return len(spoken) > 1 and spoken[0].casefold() == word.casefold()


PLAIN: dict[str, Checker] = {
    "capitals": capitals,
    "lower_case": lower_case,
    "no_commas": no_commas,
    "bullets": bullets,
    "numbered": numbered,
    "quoted": quoted,
    "json": is_json,
    "title": title,
    "two_paragraphs": two_paragraphs,
    "postscript": postscript,
    "brief": brief,
}
"""By the name that a file of instructions gives."""
VALUED: dict[str, Callable[[str, str], bool]] = {
    "with_word": with_word,
    "without_word": without_word,
    "in_language": in_language,
    "opens_with": opens_with,
}
"""Those that need a value: a word, or a language's code."""


def checker(name: str, value: str = "") -> Checker:
    """Raises StitchLensError for a name that is not there, and for a value that is missing or too
    much."""
    if name in PLAIN and not value:
        return PLAIN[name]
    if name in VALUED and value.strip():
        check = VALUED[name]
        return partial(_valued, check, value)

    if name in PLAIN or name in VALUED:
        needs = "no value" if name in PLAIN else "a value, such as a word"
        raise StitchLensError(f"check '{name}' with value '{value}'", needs, "mend the file")
    known = ", ".join([*PLAIN, *VALUED])
    raise StitchLensError(f"check '{name}'", f"one of {known}", "mend the file")


def _valued(
    check: Callable[[str, str], bool],
    value: str,
    text: str,
) -> bool:
    return check(text, value)
