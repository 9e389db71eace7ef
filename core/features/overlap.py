"""How alike the top contexts of a feature are on both sides (H)."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    pass

PERSISTENCE = 0.9
"""p of rank-biased overlap: how fast the weight of lower ranks falls."""


def jaccard(one: Iterable[str], other: Iterable[str]) -> float:
    """Shared documents among all of two lists, in [0, 1]; 0 where both are empty."""
    x, y = set(one), set(other)
    return len(x & y) / len(x | y) if x | y else 0.0


def rank_biased_overlap(one: Sequence[str], other: Sequence[str], p: float = PERSISTENCE) -> float:
    """Extrapolated rank-biased overlap of two ranked lists in [0, 1] (Webber, Moffat and Zobel,
    2010, Eq. 32)."""
    short, long = sorted((list(one), list(other)), key=len)
    if not short:
        return 0.0
    overlap = [len(set(short[:d]) & set(long[:d])) for d in range(1, len(long) + 1)]
    s, n = len(short), len(long)
    total = sum(overlap[d - 1] / d * p**d for d in range(1, n + 1))
    total += sum(overlap[s - 1] * (d - s) / (s * d) * p**d for d in range(s + 1, n + 1))
    return (1 - p) / p * total + ((overlap[n - 1] - overlap[s - 1]) / n + overlap[s - 1] / s) * p**n


def overlap(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """How alike the top lists of each feature are in two tables of examples: `feature`, `jaccard`,
    `rbo`, both over documents; features that are active in neither are left out."""
    tops = [
        t.query("group == 'top'")
        .sort_values(["feature", "rank"])
        .groupby("feature")
        .document.agg(list)
        for t in (a, b)
    ]
    features = sorted(set(tops[0].index) | set(tops[1].index))
    rows = []
    for f in features:
        one, other = (t.get(f, []) for t in tops)
        rows.append((f, jaccard(one, other), rank_biased_overlap(one, other)))
    return pd.DataFrame(rows, columns=["feature", "jaccard", "rbo"])
