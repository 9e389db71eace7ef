"""Texts of several classes; one class against as many of the others is a task, as in SAEBench
(4, E)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.text.corpus import Document

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
    classes: Classes,
    label: str,
    seed: int = 0,
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
