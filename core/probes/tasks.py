"""What is probed for: texts with a yes or a no, from the corpus, from templates, or from a file of
one's own (4, E).

A dataset has classes; one class against an equal number of the others is a task, as in SAEBench.
Training texts come from the fit split and test texts from the held-out split; templates keep their
words apart.
"""

import io
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.errors import StitchLensError
from core.text.columns import listed, once
from core.text.corpus import Corpus, Document
from core.text.languages import LANGUAGES
from core.text.reading import check_size, clean, lines, read_text, stream
from core.text.rows import csv_rows

MOST_TRAIN, MOST_TEST = 400, 150
"""Documents of a class that are used; SAEBench has 2,000 and 500."""
LEAST_TRAIN, LEAST_TEST = 16, 8
"""A class of the corpus with fewer is left out."""
Classes = Mapping[str, Sequence[Document]]


@dataclass(frozen=True)
class Dataset:
    """Texts of several classes, those to train on and those to test on apart."""

    name: str
    title: str
    says: str
    """What one class stands against, in a few words."""
    train: Classes
    test: Classes
    probed: tuple[str, ...]
    """The classes that are probed for, each against the others."""

    @property
    def documents(self) -> list[Document]:
        return [d for split in (self.train, self.test) for some in split.values() for d in some]


def one_against_rest(
    classes: Classes, label: str, seed: int = 0
) -> tuple[list[Document], NDArray[np.int64]]:
    """(documents, 1 for `label` and 0 for others): as many of one as of the other, the negatives
    drawn evenly from the other classes (SAEBench's rule)."""
    g = np.random.default_rng([seed, *label.encode()])
    others = {name: list(documents) for name, documents in classes.items() if name != label}
    share = -(-len(classes[label]) // len(others))
    drawn = [some[i] for some in others.values() for i in g.permutation(len(some))[:share]]
    n = min(len(classes[label]), len(drawn))
    positive = [classes[label][i] for i in g.permutation(len(classes[label]))[:n]]
    negative = [drawn[i] for i in g.permutation(len(drawn))[:n]]
    return [*positive, *negative], np.repeat([1, 0], n)


PROGRAMS = {"html": "HTML", "java": "Java", "c#": "C#", "rust": "Rust", "lua": "Lua"}
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


_WORDS = {
    "n": (
        "doctor teacher farmer painter soldier lawyer singer driver worker writer sailor miner"
        " hunter baker prince student neighbour engineer merchant gardener officer visitor player"
        " actor guard captain tailor partner banker porter"
    ),
    "o": (
        "garden bridge window letter wagon tunnel picture machine castle cottage harbour engine"
        " statue carpet ladder basket kitchen temple fountain tower lantern barrel mirror blanket"
        " canal chimney hammer ticket parcel curtain"
    ),
    "v": (
        "visit paint repair clean follow open watch cover protect wash inspect examine measure"
        " explore describe move close remove notice lift mention order check support present"
        " restore observe collect destroy decorate"
    ),
    "a": (
        "old wooden quiet narrow heavy strange modern yellow little empty distant ancient broken"
        " green famous"
    ),
    "w": (
        "near the river|with great care|without a word|before lunch|in the north|behind the"
        " church|after the storm|at the market|by the road|for a friend|during the winter|on the"
        " hill"
    ),
    "t": (
        "film book meal hotel concert journey lecture party garden story holiday lesson play museum"
        " album"
    ),
    "+": (
        "wonderful delightful excellent charming superb brilliant lovely pleasant impressive"
        " satisfying enjoyable splendid beautiful fantastic perfect helpful exciting inspiring"
        " generous memorable"
    ),
    "-": (
        "terrible dreadful awful dull poor boring disappointing unpleasant horrible ugly useless"
        " miserable annoying dirty tedious painful shabby depressing worthless ghastly"
    ),
}
"""By the sign that stands for one in a template: words, parted by blanks, or phrases, parted by
strokes."""
_TEMPLATES = {
    "question": (
        "Question or statement",
        "no question mark to see",
        {
            "question": [
                "did the {n} {v} the {a} {o} {w}",
                "why did the {n} {v} the {o} {w}",
                "has the {n} {v:ed} the {a} {o}",
                "when will the {n} {v} the {o} {w}",
            ],
            "statement": [
                "the {n} {v:ed} the {a} {o} {w}",
                "nobody knows why the {n} {v:ed} the {o} {w}",
                "the {n} has {v:ed} the {a} {o}",
                "the {n} will {v} the {o} {w}",
            ],
        },
    ),
    "tense": (
        "Tense",
        "past against present, the same words",
        {
            "past": [
                "the {n} {v:ed} the {a} {o} {w}",
                "the {a} {n} {v:ed} a {o}",
                "every {n} {v:ed} the {o} {w}",
            ],
            "present": [
                "the {n} {v:s} the {a} {o} {w}",
                "the {a} {n} {v:s} a {o}",
                "every {n} {v:s} the {o} {w}",
            ],
        },
    ),
    "number": (
        "Number of the subject",
        "plural against singular; objects are of either number",
        {
            "plural": [
                "the {n:s} {v:ed} the {a} {o} {w}",
                "the {a} {n:s} {v:ed} the {o:s}",
                "our {n:s} will {v} the {o} {w}",
                "the {n:s} {v:ed} the {o:s} {w}",
            ],
            "singular": [
                "the {n} {v:ed} the {a} {o} {w}",
                "the {a} {n} {v:ed} the {o:s}",
                "our {n} will {v} the {o} {w}",
                "the {n} {v:ed} the {o:s} {w}",
            ],
        },
    ),
    "sentiment": (
        "Sentiment",
        "praise against blame, in words that training has not seen",
        {
            "positive": [
                "the {t} was {+} and we talked about it all evening",
                "what a {+} {t} that was",
                "my sister called the {t} {+}",
                "we found the {t} {+} from beginning to end",
            ],
            "negative": [
                "the {t} was {-} and we talked about it all evening",
                "what a {-} {t} that was",
                "my sister called the {t} {-}",
                "we found the {t} {-} from beginning to end",
            ],
        },
    ),
}
"""Name to title, what it is about, and templates by class; the first class is the one that is
probed for."""


def _inflected(word: str, form: str) -> str:
    match form:
        case "ed":
            return word + ("d" if word.endswith("e") else "ed")
        case "s":
            return word + ("es" if word.endswith(("s", "sh", "ch", "x")) else "s")
        case _:
            return word


def _made(name: str, label: str, part: str, n: int, seed: int) -> list[Document]:
    """Sentences of one class from the words of one part ('train': two thirds of each list, 'test':
    the others)."""
    words = {k: x.split("|" if "|" in x else None) for k, x in _WORDS.items()}
    mine = {
        k: [w for i, w in enumerate(x) if (i % 3 == 2) == (part == "test")]
        for k, x in words.items()
    }
    g = np.random.default_rng([seed, *f"{name}/{label}/{part}".encode()])
    made: dict[str, None] = {}
    for _ in range(20 * n):  # repeats are drawn again
        if len(made) == n:
            break
        template = str(g.choice(_TEMPLATES[name][2][label]))
        text = re.sub(
            r"\{(.)(?::(\w+))?\}",
            lambda m: _inflected(str(g.choice(mine[m[1]])), m[2] or ""),
            template,
        )
        made.setdefault(text[0].upper() + text[1:])
    return [Document(f"{name}/{part}/{label}@{i}", label, text) for i, text in enumerate(made)]


def template_datasets(seed: int = 0) -> list[Dataset]:
    """English sentences that differ in one thing; no noun, verb, adjective or phrase is in both
    training and test."""
    out = []
    for name, (title, says, classes) in _TEMPLATES.items():
        train = {label: _made(name, label, "train", MOST_TRAIN, seed) for label in classes}
        test = {label: _made(name, label, "test", MOST_TEST, seed) for label in classes}
        out.append(Dataset(name, title, says, train, test, (next(iter(classes)),)))
    return out


def offline_datasets(corpus: Corpus, seed: int = 0) -> list[Dataset]:
    """Everything that needs no network: from the corpus, then from templates."""
    return [*corpus_datasets(corpus), *template_datasets(seed)]


MOST_ROWS, MOST_BYTES = 2_000, 20_000_000
"""Rows and bytes of a file of one's own."""
LONGEST = 2_000
"""Characters of a text that are read."""
LABELLED = ("text", "label")
"""Columns of a CSV of one's own."""
LEAST = 5
"""Texts of each label: one for each fold."""


class Given(list[tuple[str, str]]):
    """(text, label) of each row of a file of one's own."""

    unused: tuple[str, ...] = ()
    """Columns that were not read."""


@dataclass(frozen=True)
class Labelled:
    """Texts of one's own. `y` [n] is 1 for `positive`; `left_out` counts rows without text or
    label."""

    texts: tuple[str, ...]
    y: NDArray[np.int64]
    positive: str
    left_out: int = 0
    unused: tuple[str, ...] = ()
    """Columns of their file that were not read."""


def labelled(rows: Iterable[tuple[str, str]], positive: str | None = None) -> Labelled:
    """(text, label) rows as a task: `positive` against all other labels; of two labels the later by
    name if not given.

    Texts are cut at LONGEST characters. Raises StitchLensError for more than MOST_ROWS rows, for
    one label, for more than two where none is named positive, and for fewer than LEAST texts on a
    side.
    """
    texts, labels, left_out = [], [], 0
    for text, label in itertools.islice(rows, MOST_ROWS + 1):
        if text.strip() and label.strip():
            texts.append(text.strip()[:LONGEST])
            labels.append(label.strip()[:80])
        else:
            left_out += 1
    if len(texts) + left_out > MOST_ROWS:
        raise StitchLensError(
            f"more than {MOST_ROWS:,} rows",
            f"at most {MOST_ROWS:,}",
            "take a random sample of them",
        )
    counts = Counter(labels)
    if len(counts) < 2:
        found = (
            f"one label, '{next(iter(counts))}'" if counts else "no row with both text and label"
        )
        raise StitchLensError(found, "two labels", "add texts of another label")
    if positive is None and len(counts) > 2:
        some = ", ".join(f"'{x}'" for x in sorted(counts)[:5])
        raise StitchLensError(
            f"{len(counts)} labels ({some} …)", "two", "name the one that stands against the others"
        )
    positive = max(counts) if positive is None else positive
    if positive not in counts:
        raise StitchLensError(
            f"no label '{positive}'", f"one of {', '.join(sorted(counts)[:10])}", "choose one"
        )
    y = np.array([label == positive for label in labels], dtype=np.int64)
    few = min(int(y.sum()), int((1 - y).sum()))
    if few < LEAST:
        raise StitchLensError(
            f"{len(y)} texts with {few} on one side", f"{LEAST} or more on each", "add some"
        )
    return Labelled(
        tuple(texts), y, positive, left_out, rows.unused if isinstance(rows, Given) else ()
    )


def read_labels(files: Sequence[Path]) -> Given:
    """(text, label) from one CSV, or from two files with a text a line, 'yes' and 'no'. Raises
    StitchLensError."""
    match files:
        case [path]:
            try:
                with path.open("rb") as f:
                    return read_csv(f.read(MOST_BYTES + 1), path.name)
            except OSError as e:
                raise StitchLensError(
                    f"{path.name} unreadable ({e.strerror})", "a readable file", "check the path"
                ) from None
        case [yes, no]:
            return two_lists(read_text(yes, MOST_BYTES), read_text(no, MOST_BYTES))
        case _:
            raise StitchLensError(
                f"{len(files)} files", "a CSV, or two files with a text a line", "give one or two"
            )


def two_lists(yes: str, no: str) -> Given:
    """(text, label) of each line that is not blank, 'yes' or 'no'."""
    return Given(
        (line, label) for text, label in ((yes, "yes"), (no, "no")) for line in lines(text)
    )


def read_csv(raw: bytes, name: str = "the file") -> Given:
    """(text, label) of each row of a CSV with columns `text` and `label`, parted by commas,
    semicolons or tabs; at most MOST_ROWS + 1 rows are read.

    Raises StitchLensError where it is too large, not UTF-8, broken, or lacks a column.
    """
    check_size(raw, MOST_BYTES, name)
    columns, rows = csv_rows(
        stream(io.BytesIO(raw), name), name, LABELLED, Path(name).suffix.lower() == ".tsv"
    )
    heads = [column.casefold() for column in columns]
    if missing := [column for column in LABELLED if column not in heads]:
        raise StitchLensError(
            f"no column {' or '.join(missing)} (columns: {listed(columns)}) in {name}",
            "a CSV in UTF-8 with the columns text and label",
            "name them so in its first line",
        )
    text, label = (once(columns, column, name) for column in LABELLED)
    given = Given(
        (clean(cells[text]), clean(cells[label]))
        for _, cells in itertools.islice(rows, MOST_ROWS + 1)
    )
    given.unused = tuple(
        column or "one without a name" for i, column in enumerate(columns) if i not in (text, label)
    )
    return given
