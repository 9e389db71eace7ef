"""Which position of A has read exactly the text that a position of B has read."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.models.live import Encoded, Reader


def _readers(ends: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """(end, position) of the last token at each end: a character spelt by several tokens is read
    when all are."""
    usable = np.flatnonzero(ends >= 0)
    backwards = usable[::-1]  # `unique` gives the first of equals, and the last one is wanted
    values, first = np.unique(ends[backwards], return_index=True)
    return values, backwards[first]


def pair_positions(
    a: Encoded,
    b: Encoded,
    same_tokenizer: bool = False,
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Positions (i in A, j in B), both rising, that have read the same text.

    Two positions pair up where their tokens end at the same character. With the same tokenizer, and
    so the same tokens, all positions but the special ones pair up, those inside a character too.
    """
    if same_tokenizer and np.array_equal(a.ids, b.ids):
        both = np.flatnonzero(a.usable & b.usable)
        return both, both

    ends_a, at_a = _readers(a.ends)
    ends_b, at_b = _readers(b.ends)
    _, i, j = np.intersect1d(ends_a, ends_b, assume_unique=True, return_indices=True)
    return at_a[i], at_b[j]


class Aligned(NamedTuple):
    """Texts in the tokens of two models, `a` and `b`, and of each text the positions in both that
    pair up; see `pair_positions`."""

    a: list[Encoded]
    b: list[Encoded]
    paired: list[tuple[NDArray[np.intp], NDArray[np.intp]]]


def encode_both(
    a: Reader,
    b: Reader,
    texts: Sequence[str],
) -> Aligned:
    """Texts as both models read them; split into tokens once where these are the same for both."""
    tokens_a = a.encode(texts)
    tokens_b = tokens_a if a.reads_like(b) else b.encode(texts)

    same = a.tokenizer_hash == b.tokenizer_hash
    paired = [pair_positions(x, y, same) for x, y in zip(tokens_a, tokens_b, strict=True)]
    return Aligned(tokens_a, tokens_b, paired)


def with_first(at: NDArray[np.intp]) -> NDArray[np.intp]:
    """Paired positions of one model, and before them its first: it has read no text yet, and is
    where both models' heads rest."""
    return np.insert(at, 0, 0)
