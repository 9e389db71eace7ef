"""Labels with a score, without a language model: the predicate in words that best tells where a
feature fires.

Of every family the best small set of values, and of two families the best conjunction, are chosen
by F1 on a training text; the label is then scored on held-out text in A, and again in B with the
carried SAE. What a label keeps in B is a measure of transfer in words.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse as sp

from core.features.agreement import small
from core.features.firings import Firings, counts, features_of, strong
from core.features.predicates import FAMILIES, QUOTED
from core.features.vocabulary import NAMES, Index, Vocabulary
from core.progress import Progress

MOST = 8
"""Values of one family in a label."""
SUPPORT = 2
"""Strong firings at which a value has to hold to be considered."""
LEADING = 2
"""Families from which the first half of a conjunction comes, the best ones."""
MARGIN = 0.02
"""By which a conjunction has to beat a single predicate in F1."""
ROUNDS = 20
"""Of the search for a set, which ends far sooner."""
ESCAPED = str.maketrans(
    {
        "\\": "\\\\",
        '"': '\\"',
        "\n": "\\n",
        "\r": "\\r",
        "\t": "\\t",
    }
)
BLOCK = 512
"""Features counted at a time."""


class Sets(NamedTuple):
    """The best set of each group: `f1` [groups], and `picked`, the numbers of the entries in
    them, by group and within one by how much they add."""

    f1: NDArray[np.float64]
    picked: NDArray[np.int64]


def best_sets(
    group: NDArray[np.int64],
    hits: NDArray[np.float64],
    held: NDArray[np.float64],
    firings: NDArray[np.float64],
    most: int = MOST,
) -> Sets:
    """Of the entries of each group the set of at most `most` with the largest F1.

    An entry holds at `held` positions [m], at `hits` [m] of which the feature fires; `firings`
    [groups] is how often the feature of a group fires; entries of a group hold at no position
    together. Then F1 = 2 hits / (firings + held) over a set, and Dinkelbach's method finds its
    maximum exactly: for a guess f the best set holds the largest 2 hits - f held above 0, its F1 is
    the next guess, and guesses only rise.
    """
    f1 = np.zeros(len(firings))
    entries = np.flatnonzero(hits > 0)
    chosen = entries[:0]
    for _ in range(ROUNDS):
        gain = 2 * hits[entries] - f1[group[entries]] * held[entries]
        entries, gain = entries[gain > 0], gain[gain > 0]  # a higher guess takes none of them back
        order = np.lexsort((-gain, group[entries]))
        ordered = entries[order]
        rank = np.arange(len(ordered)) - np.searchsorted(group[ordered], group[ordered])
        chosen = ordered[rank < most]

        total = np.bincount(group[chosen], hits[chosen], len(firings))
        whole = firings + np.bincount(group[chosen], held[chosen], len(firings))
        better = np.divide(
            2 * total,
            whole,
            out=np.zeros(len(firings)),
            where=whole > 0,
        )
        if np.allclose(
            better,
            f1,
            rtol=0,
            atol=1e-12,
        ):
            break
        f1 = better
    return Sets(f1, chosen)


class Label(NamedTuple):
    """Sets of values, by their numbers in a vocabulary; `second` is empty but in a conjunction;
    `f1` on the training text."""

    first: tuple[int, ...] = ()
    second: tuple[int, ...] = ()
    f1: float = 0.0


def _singles(
    index: Index,
    family: NDArray[np.int64],
    firings: Firings,
) -> list[list[Label]]:
    """By feature, the best set of each family, the best first: of all features at once, by one
    sparse product of predicates and firings."""
    families, features = len(NAMES), features_of(firings)
    where = firings.copy()
    where.data = np.ones_like(firings.data)
    hits = sp.coo_matrix(index.matrix.T @ where)
    often = hits.data >= SUPPORT
    value, feature = hits.row[often].astype(np.int64), hits.col[often].astype(np.int64)
    group = feature * families + family[value]
    fires = np.repeat(counts(firings), families).astype(np.float64)
    held = index.counts[value].astype(np.float64)
    sets = best_sets(
        group,
        hits.data[often].astype(np.float64),
        held,
        fires,
    )

    labels: list[list[Label]] = [[] for _ in range(features)]
    if not len(sets.picked):
        return labels

    groups, begins = np.unique(group[sets.picked], return_index=True)
    for g, entries in zip(
        groups,
        np.split(sets.picked, begins[1:]),
        strict=True,
    ):
        values = tuple(value[entries].tolist())
        labels[g // families].append(Label(values, (), float(sets.f1[g])))
    return [sorted(one, key=lambda label: -label.f1) for one in labels]


def _conjunction(
    index: Index,
    family: NDArray[np.int64],
    first: Label,
    fires: NDArray[np.bool_],
    firings: int,
) -> Label:
    """The best set of another family where `first` holds; `fires` [positions] is the feature."""
    rows = index.where(first.first)
    hits = np.bincount(index.within(rows[fires[rows]]), minlength=len(family))
    held = np.bincount(index.within(rows), minlength=len(family))
    hits[family == family[first.first[0]]] = 0
    value = np.flatnonzero(hits >= SUPPORT)
    if not len(value):
        return Label()

    whole = np.full(len(NAMES), firings, dtype=np.float64)
    chosen = hits[value].astype(np.float64), held[value].astype(np.float64)
    sets = best_sets(family[value], *chosen, whole)
    best = int(sets.f1.argmax())
    second = value[sets.picked[family[value][sets.picked] == best]]
    return Label(
        first.first,
        tuple(second.tolist()),
        float(sets.f1[best]),
    )


def choose(
    index: Index,
    vocabulary: Vocabulary,
    firings: Firings,
    desc: str = "labels",
) -> list[Label]:
    """The label of each feature, from the text of `index`, in which it fires at `firings`; an empty
    one where nothing holds at SUPPORT of them."""
    family = vocabulary.family
    labels: list[Label] = []
    fires = np.zeros(index.n, dtype=bool)
    with Progress(desc, features_of(firings), "features") as bar:
        for begin in range(0, features_of(firings), BLOCK):
            block = firings[:, begin : begin + BLOCK]
            for k, singles in enumerate(_singles(index, family, block)):
                at = block.indices[block.indptr[k] : block.indptr[k + 1]]
                fires[at] = True
                pairs = [
                    _conjunction(
                        index,
                        family,
                        single,
                        fires,
                        len(at),
                    )
                    for single in singles[:LEADING]
                ]
                fires[at] = False

                best = max([Label(), *singles], key=lambda label: label.f1)
                pair = max([Label(), *pairs], key=lambda label: label.f1)
                labels.append(pair if pair.f1 > best.f1 + MARGIN else best)
            bar.advance(features_of(block))
    return labels


def score(
    labels: Sequence[Label],
    index: Index,
    firings: Firings,
) -> pd.DataFrame:
    """How well each label tells where its feature fires: `f1`, `precision`, `recall`, `firings`;
    NaN where the feature never fires."""
    fires = np.zeros(index.n, dtype=bool)
    rows = np.zeros((len(labels), 3))
    for k, label in enumerate(labels):
        at = firings.indices[firings.indptr[k] : firings.indptr[k + 1]]
        fires[at] = True
        held = index.both(label.first, label.second)
        rows[k] = fires[held].sum(), len(held), len(at)
        fires[at] = False

    hits, held, often = rows.T
    with np.errstate(invalid="ignore", divide="ignore"):
        never = np.where(often > 0, 1, np.nan)
        return pd.DataFrame(
            {
                "f1": never * 2 * hits / (held + often),
                "precision": never * np.where(held > 0, hits / held, 0),
                "recall": hits / often,
                "firings": often,
            }
        )


def spoken(
    family: str,
    values: Sequence[str],
) -> str:
    """A set of values of one family in words."""
    marks = {
        "beginning": '"{}…"',
        "end of": '"…{}"',
        "last three": '"…{}"',
    }
    mark = next((m for start, m in marks.items() if family.startswith(start)), '"{}"')
    shown = [mark.format(visible(v)) if family in QUOTED else v for v in values]
    joint = " " if family in QUOTED else " or "
    return FAMILIES[family].format(joint.join(shown))


def visible(piece: str) -> str:
    """A piece of text on one line, as it would stand between quotation marks in code."""
    return piece.translate(ESCAPED)


def _said(
    label: Label,
    vocabulary: Vocabulary,
) -> dict[str, object]:
    """The columns of a label in words."""
    words = []
    columns: dict[str, object] = {}
    for name, values in (("first", label.first), ("second", label.second)):
        chosen = [vocabulary.values[v] for v in values]
        family = NAMES[chosen[0][0]] if chosen else ""
        pieces = [value for _, value in chosen]
        columns[f"{name}_family"] = family
        columns[f"{name}_values"] = pieces
        if chosen:
            words.append(spoken(family, pieces))
    return {"label": " · ".join(words)} | columns


class LabelTexts(NamedTuple):
    """The text that labels are chosen on and the one that they are scored on, in predicates."""

    vocabulary: Vocabulary
    training: Index
    held_out: Index


def measure_labels(
    texts: LabelTexts,
    training: dict[str, Firings],
    held_out: dict[str, Firings],
    seed: int = 0,
) -> pd.DataFrame:
    """One row a feature. `training` holds the firings of 'original' and 'random SAE' in the text
    that labels are chosen on, `held_out` those and 'transferred' in the other.

    `feature`; `label` in words, and its parts `first_family`, `first_values`, `second_family`,
    `second_values`; `training_f1`; on held-out text `f1_a`, `precision_a`, `recall_a`, `firings_a`
    on strong firings of A and `f1_b` … on those of the carried feature in B, `all_a`, `all_b` the
    F1 on all firings; the controls `random` and `random_all`, the F1 of a random SAE's feature of
    that number with its own label, `random_firings`, and `shuffled`, the F1 of this feature with
    the label of another.
    """
    vocabulary, index = texts.vocabulary, texts.held_out
    labels = choose(
        texts.training,
        vocabulary,
        strong(training["original"]),
        "labels",
    )
    table = pd.DataFrame([_said(label, vocabulary) for label in labels])
    table.insert(0, "feature", np.arange(len(table)))
    table["training_f1"] = [label.f1 for label in labels]

    for side, name in (("a", "original"), ("b", "transferred")):
        scores = score(labels, index, strong(held_out[name]))
        for column in ("f1", "precision", "recall", "firings"):
            table[f"{column}_{side}"] = scores[column]
        table[f"all_{side}"] = score(labels, index, held_out[name]).f1

    order = np.random.default_rng(seed).permutation(len(labels))
    others = dict(
        zip(
            order.tolist(),
            np.roll(order, 1).tolist(),
            strict=True,
        )
    )
    exchanged = [labels[others[k]] for k in range(len(labels))]
    table["shuffled"] = score(exchanged, index, strong(held_out["original"])).f1

    chance = choose(
        texts.training,
        vocabulary,
        strong(training["random SAE"]),
        "random labels",
    )
    by_chance = score(chance, index, strong(held_out["random SAE"]))
    table["random"] = by_chance.f1
    table["random_firings"] = by_chance.firings
    table["random_all"] = score(chance, index, held_out["random SAE"]).f1
    return small(table)
