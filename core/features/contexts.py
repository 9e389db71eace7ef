"""The contexts of every feature that come first by some key, in arrays that do not grow."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

BEFORE, AFTER = 14, 6
"""Tokens kept around the strongest one, with their activations."""
Numbers = NDArray[np.int64]
"""Features, documents (by number), token positions or slots."""
WINDOW = BEFORE + 1 + AFTER


class Contexts:
    """For every feature the `size` contexts with the largest key, merged window by window."""

    def __init__(self, features: int, size: int) -> None:
        self.size = size
        slots = (features, size)
        self.columns: dict[str, NDArray[Any]] = {
            "key": np.full(slots, -np.inf),
            "activation": np.zeros(slots, dtype=np.float32),
            "document": np.full(slots, -1, dtype=np.int64),
            "position": np.full(slots, -1, dtype=np.int64),
            "spans": np.zeros((*slots, WINDOW + 1), dtype=np.int32),
            "heat": np.zeros((*slots, WINDOW), dtype=np.float16),
        }

    @property
    def filled(self) -> NDArray[np.bool_]:
        return self.columns["document"] >= 0

    def wants(self, feature: Numbers, key: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which candidates exceed the least key that their feature keeps; all where it has room."""
        least = self.columns["key"].min(axis=1)
        return key > least[feature]

    def add(self, feature: Numbers, new: dict[str, NDArray[Any]]) -> None:
        """Candidates, at most one a feature and document; equal keys go to the lower document."""
        order = np.lexsort((new["document"], -new["key"], feature))
        feature = feature[order]

        # No more than `size` of a feature's candidates can stay.
        first_of_feature = np.searchsorted(feature, feature)
        rank = np.arange(len(feature)) - first_of_feature
        near = rank < self.size
        candidates = order[near]

        touched, row = np.unique(feature[near], return_inverse=True)
        slot = rank[near]
        both = {}
        for name, column in self.columns.items():
            old = column[touched]
            more = np.full_like(old, _EMPTY.get(name, 0))
            more[row, slot] = new[name][candidates]
            both[name] = np.concatenate([old, more], axis=1)

        falling = np.argsort(-both["key"], axis=1, kind="stable")
        best = falling[:, : self.size]
        for name, values in both.items():
            picked = best[..., None] if values.ndim == 3 else best
            self.columns[name][touched] = np.take_along_axis(values, picked, axis=1)

    def merge(self, other: "Contexts") -> None:
        """Add those of other documents: what is left is the same as if all had been added here."""
        both = {
            name: np.concatenate([column, other.columns[name]], axis=1)
            for name, column in self.columns.items()
        }
        first = np.lexsort((both["document"], -both["key"]), axis=1)[:, : self.size]
        for name, values in both.items():
            picked = first[..., None] if values.ndim == 3 else first
            self.columns[name] = np.take_along_axis(values, picked, axis=1)


_EMPTY = {"key": -np.inf, "document": -1}
"""What a slot without a context holds; zero in the other columns."""


def chance(
    feature: Numbers,
    document: Numbers,
    seed: int,
) -> NDArray[np.float64]:
    """A uniform number in [0, 1) for each context, from its feature and document alone: whoever
    reads a document, and when, draws the same (the mixer of SplitMix64)."""
    with np.errstate(over="ignore"):
        x = feature.astype(np.uint64) << np.uint64(32)
        x ^= document.astype(np.uint64)
        x += np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) / 2**53
