"""Languages: what they are called, the prompts that name none, and what a response came out as (4,
F)."""

import threading
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from core.text.corpus import Document
from core.text.reading import lines, read_text

PROMPTS = Path(__file__).with_name("prompts.txt")
LANGUAGES = {
    "ara": ("ar", "Arabic"),
    "ben": ("bn", "Bengali"),
    "bul": ("bg", "Bulgarian"),
    "ces": ("cs", "Czech"),
    "dan": ("da", "Danish"),
    "deu": ("de", "German"),
    "ell": ("el", "Greek"),
    "eng": ("en", "English"),
    "est": ("et", "Estonian"),
    "fin": ("fi", "Finnish"),
    "fra": ("fr", "French"),
    "heb": ("he", "Hebrew"),
    "hin": ("hi", "Hindi"),
    "hrv": ("hr", "Croatian"),
    "hun": ("hu", "Hungarian"),
    "ind": ("id", "Indonesian"),
    "ita": ("it", "Italian"),
    "jpn": ("ja", "Japanese"),
    "kor": ("ko", "Korean"),
    "lav": ("lv", "Latvian"),
    "lit": ("lt", "Lithuanian"),
    "nld": ("nl", "Dutch"),
    "nor": ("no", "Norwegian"),
    "pol": ("pl", "Polish"),
    "por": ("pt", "Portuguese"),
    "ron": ("ro", "Romanian"),
    "rus": ("ru", "Russian"),
    "slk": ("sk", "Slovak"),
    "slv": ("sl", "Slovene"),
    "spa": ("es", "Spanish"),
    "srp": ("sr", "Serbian"),
    "swa": ("sw", "Swahili"),
    "swe": ("sv", "Swedish"),
    "tha": ("th", "Thai"),
    "tur": ("tr", "Turkish"),
    "ukr": ("uk", "Ukrainian"),
    "vie": ("vi", "Vietnamese"),
    "zho": ("zh", "Chinese"),
}
"""Labels of the corpus wheel: the code that langdetect gives, and the name. langdetect knows no
Serbian."""
LABELS = {code: label for label, (code, _) in LANGUAGES.items()}
_LOADING = threading.Lock()
UNKNOWN = ("srp",)
"""Labels of languages that langdetect does not tell."""


def by_language(documents: Sequence[Document], most: int) -> dict[str, list[str]]:
    """The first `most` texts of each language of LANGUAGES, by label, in order of appearance."""
    out: dict[str, list[str]] = {}
    for d in documents:
        label = d.label.split("/")[0]
        if label in LANGUAGES and len(out.setdefault(label, [])) < most:
            out[label].append(d.text)
    return out


@lru_cache(maxsize=65_536)
def script(letter: str) -> str:
    """Of a letter, by the first word of its Unicode name; empty for a sign."""
    if not letter.isalpha():
        return ""
    return unicodedata.name(letter, "").split(" ")[0].split("-")[0].capitalize()


def prompts() -> tuple[list[str], list[str]]:
    """(those that choose, those that figures come from): neutral English openings, written for
    this."""
    openings = lines(read_text(PROMPTS))
    return openings[0::2], openings[1::2]


def detect(text: str) -> tuple[str, float]:
    """langdetect's first guess, seeded ('en', 'fr', 'zh' …) and its probability, or ('', 0) for no
    words."""
    from langdetect import DetectorFactory, LangDetectException, detect_langs
    from langdetect.detector_factory import init_factory

    with _LOADING:  # the first call reads the profiles; another thread would meet half of them
        init_factory()
    DetectorFactory.seed = 0
    try:
        best = detect_langs(text)[0]
    except LangDetectException:
        return "", 0.0
    return str(best.lang).split("-")[0], float(best.prob)


def repetition(text: str) -> float:
    """Share of runs of 4 words (of 8 characters, where a script writes no spaces) that have
    occurred before: 0 to 1."""
    words = text.split()
    n, parts = (4, words) if len(words) > len(text) / 20 else (8, list(text))
    runs = [tuple(parts[i : i + n]) for i in range(len(parts) - n + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def transfer_gap(transferred: float, own: float) -> float:
    """Eq. 16: transferred over own performance, clipped to [0, 1]; 0/0 is 0, and anything over 0 is
    1."""
    if own == 0:
        return float(transferred > 0)
    return min(max(transferred / own, 0.0), 1.0)
