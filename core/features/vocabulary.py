"""Predicates as numbers: the value of each family at each paired position of a text."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse as sp

from core.features.firings import Text
from core.features.predicates import FAMILIES, Describer, pieces_of
from core.models.live import LiveModel
from core.progress import Progress

NAMES = tuple(FAMILIES)


class Vocabulary:
    """The values that occur in a training text, each with a number of its own. What another text
    adds has none."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, str], int] = {}

    @cached_property
    def values(self) -> list[tuple[int, str]]:
        """(number of the family, value) of each."""
        return list(self._numbers)

    @cached_property
    def family(self) -> NDArray[np.int64]:
        """[values] number of the family."""
        return np.array([family for family, _ in self.values], dtype=np.int64)

    def learn(
        self,
        text: Text,
        model: LiveModel,
    ) -> "Index":
        """The positions of the training text by their values, which are numbered on the way."""
        return self._index(text, model, grow=True)

    def read(
        self,
        text: Text,
        model: LiveModel,
    ) -> "Index":
        """The positions of another text."""
        return self._index(text, model, grow=False)

    def _index(
        self,
        text: Text,
        model: LiveModel,
        grow: bool,
    ) -> "Index":
        document, position, _ = text.places
        bounds = np.searchsorted(document, np.arange(len(text.documents) + 1))
        pieces = pieces_of(model, [d.text for d in text.documents])
        describer, numbers = Describer(), self._numbers
        columns: list[int] = []
        starts = [0]

        with Progress("describing places in words", text.n, "pos") as bar:
            for k, one in enumerate(text.documents):
                rows = position[bounds[k] : bounds[k + 1]].tolist()
                described = dict(describer.describe(one, pieces[k])) if rows else {}
                for number in rows:
                    values = described.get(number, {})
                    for family, name in enumerate(NAMES):
                        value = values.get(name)
                        if not value:
                            continue
                        key = (family, value)
                        known = numbers.get(key)
                        if known is None and grow:
                            known = numbers[key] = len(numbers)
                        if known is not None:
                            columns.append(known)
                    starts.append(len(columns))
                bar.advance(len(rows))

        at, shape = np.array(columns, dtype=np.int32), (text.n, len(numbers))
        data = np.ones(len(at), dtype=np.float32)
        return Index(sp.csr_matrix((data, at, np.array(starts)), shape=shape))


class Index:
    """Which predicates hold where: `matrix` [positions, values] of ones."""

    def __init__(
        self,
        matrix: sp.csr_matrix,
    ) -> None:
        self.matrix = matrix
        self.columns = matrix.tocsc()

    @property
    def n(self) -> int:
        return len(self.matrix.indptr) - 1

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """[values] at how many positions each holds."""
        return np.diff(self.columns.indptr).astype(np.int64)

    def where(
        self,
        values: Sequence[int],
    ) -> NDArray[np.int32]:
        """The positions of a set of values of one family, none twice."""
        starts = self.columns.indptr
        parts = [self.columns.indices[starts[v] : starts[v + 1]] for v in values]
        rows = np.concatenate([np.zeros(0, dtype=np.int32), *parts])
        return rows.astype(np.int32, copy=False)

    def both(
        self,
        first: Sequence[int],
        second: Sequence[int],
    ) -> NDArray[np.int32]:
        """The positions of one set and of another, of another family."""
        if not len(second):
            return self.where(first)
        return np.intersect1d(
            self.where(first),
            self.where(second),
            assume_unique=True,
        )

    def within(
        self,
        rows: NDArray[np.int32],
    ) -> NDArray[np.int32]:
        """The values at some positions, one after another."""
        starts = self.matrix.indptr
        lengths = np.diff(starts)[rows]
        ends = np.cumsum(lengths)
        offsets = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
        values = self.matrix.indices[np.repeat(starts[rows], lengths) + offsets]
        return values.astype(np.int32, copy=False)
