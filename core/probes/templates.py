"""Sentences from templates that differ in one thing, with other words in training and test (E)."""

import re

import numpy as np

from core.probes.dataset import MOST_TEST, MOST_TRAIN, Dataset
from core.text.corpus import Document

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


def _made(
    name: str,
    label: str,
    part: str,
    n: int,
    seed: int,
) -> list[Document]:
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
