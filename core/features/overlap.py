"""How alike the top contexts of a feature are on both sides (H)."""

from collections.abc import Iterable, Sequence

import pandas as pd

PERSISTENCE = 0.9
"""p of rank-biased overlap: how fast the weight of lower ranks falls."""


def jaccard(one: Iterable[str], other: Iterable[str]) -> float:
    """Shared documents among all of two lists, in [0, 1]; 0 where both are empty."""
    x, y = set(one), set(other)
    union = x | y
    if not union:
        return 0.0
    return len(x & y) / len(union)


def rank_biased_overlap(
    one: Sequence[str],
    other: Sequence[str],
    p: float = PERSISTENCE,
) -> float:
    """Extrapolated rank-biased overlap of two ranked lists in [0, 1] (Webber, Moffat and Zobel,
    2010, Eq. 32)."""
    short, long = sorted((list(one), list(other)), key=len)
    if not short:
        return 0.0

    s, n = len(short), len(long)
    depths = range(1, n + 1)
    overlap = [len(set(short[:d]) & set(long[:d])) for d in depths]
    in_both, at_end = overlap[s - 1], overlap[n - 1]

    # Behind the shorter list's end its share of hits is taken to go on.
    total = sum(overlap[d - 1] / d * p**d for d in depths)
    beyond = range(s + 1, n + 1)
    total += sum(in_both * (d - s) / (s * d) * p**d for d in beyond)

    extrapolated = (at_end - in_both) / n + in_both / s
    return (1 - p) / p * total + extrapolated * p**n


def overlap(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """How alike the top lists of each feature are in two tables of examples: `feature`, `jaccard`,
    `rbo`, both over documents; features that are active in neither are left out."""
    tops_a, tops_b = _tops(a), _tops(b)
    features = sorted({*tops_a, *tops_b})

    rows = []
    for feature in features:
        one = tops_a.get(feature, [])
        other = tops_b.get(feature, [])
        rows.append(
            {
                "feature": feature,
                "jaccard": jaccard(one, other),
                "rbo": rank_biased_overlap(one, other),
            }
        )
    return pd.DataFrame(rows, columns=["feature", "jaccard", "rbo"])


def _tops(table: pd.DataFrame) -> dict[int, list[str]]:
    """By feature, the documents of its top contexts from the strongest."""
    top = table.query("group == 'top'")
    ordered = top.sort_values(["feature", "rank"])
    return ordered.groupby("feature").document.agg(list).to_dict()
