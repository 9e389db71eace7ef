"""What is probed for offline: classes of the corpus, then of templates (4, E).

Training texts come from the fit split and test texts from the held-out split.
"""

from collections.abc import Callable, Iterable

from core.probes.dataset import (
    LEAST_TEST,
    LEAST_TRAIN,
    MOST_TEST,
    MOST_TRAIN,
    Dataset,
)
from core.probes.templates import template_datasets
from core.text.corpus import Corpus, Document
from core.text.languages import LANGUAGES

PROGRAMS = {
    "html": "HTML",
    "java": "Java",
    "c#": "C#",
    "rust": "Rust",
    "lua": "Lua",
}
TOPICS = {
    "history": "History",
    "philosophy": "Philosophy",
    "religion": "Religion",
    "jobs": "Occupations",
}


def _named(prefix: str, labels: Iterable[str]) -> dict[str, Callable[[str], bool]]:
    """Class name to the corpus labels that belong to it."""
    return {
        label: lambda x, whole=prefix + label: x == whole or x.startswith(whole + "/")
        for label in labels
    }


def _is_prose(label: str) -> bool:
    return label.split("/")[0] == "eng"


def _is_code(label: str) -> bool:
    return label.startswith("coding/") and label != "coding/math"


FROM_CORPUS: tuple[tuple[str, str, str, dict[str, Callable[[str], bool]], tuple[str, ...]], ...] = (
    (
        "language",
        "Language",
        "against English, French, German, Spanish and Dutch",
        _named("", ("eng", "fra", "deu", "spa", "nld")),
        (),
    ),
    (
        "nordic",
        "Nordic language",
        "against Danish, Norwegian and Swedish",
        _named("", ("dan", "nor", "swe")),
        (),
    ),
    (
        "programming",
        "Programming language",
        f"against {', '.join(PROGRAMS.values())}",
        _named("coding/", PROGRAMS),
        (),
    ),
    (
        "topic",
        "Topic of English text",
        f"against {', '.join(TOPICS.values()).lower()}",
        _named("eng/", TOPICS),
        (),
    ),
    (
        "code",
        "Code or prose",
        "code in 21 languages against English prose",
        {"code": _is_code, "prose": _is_prose},
        ("code",),
    ),
    (
        "mathematics",
        "Mathematics or prose",
        "mathematics in English against other English prose",
        {"mathematics": lambda label: label == "coding/math", "prose": _is_prose},
        ("mathematics",),
    ),
)
"""Name, title, what it is about, classes by corpus label, and those that are probed for (all where
none is named)."""


def class_title(label: str) -> str:
    """`fra` as French, `c#` as C#, others with a capital."""
    known = LANGUAGES.get(label, ("", ""))[1] or PROGRAMS.get(label) or TOPICS.get(label)
    return known or label.replace("_", " ").capitalize()


def corpus_datasets(corpus: Corpus) -> list[Dataset]:
    """Those for which the corpus has two classes with enough documents in both splits."""
    out = []
    for name, title, says, belongs, probed in FROM_CORPUS:
        splits: list[dict[str, list[Document]]] = []
        for split, most in (("fit", MOST_TRAIN), ("held-out", MOST_TEST)):
            some: dict[str, list[Document]] = {label: [] for label in belongs}
            for d in corpus.split(split):  # type: ignore[arg-type]
                for label, mine in belongs.items():
                    if mine(d.label) and len(some[label]) < most:
                        some[label].append(d)
            splits.append(some)
        train, test = splits
        kept = [x for x in belongs if len(train[x]) >= LEAST_TRAIN and len(test[x]) >= LEAST_TEST]
        wanted = tuple(x for x in probed or belongs if x in kept)
        if len(kept) > 1 and wanted:
            kept_train, kept_test = ({x: s[x] for x in kept} for s in (train, test))
            out.append(Dataset(name, title, says, kept_train, kept_test, wanted))
    return out


def offline_datasets(corpus: Corpus, seed: int = 0) -> list[Dataset]:
    """Everything that needs no network: from the corpus, then from templates."""
    return [*corpus_datasets(corpus), *template_datasets(seed)]
