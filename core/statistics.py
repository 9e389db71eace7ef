"""Intervals and effects: every bootstrap and exact interval of the project."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats

DRAWS = 1000
"""Of a bootstrap over documents."""


def document_interval(
    values: NDArray[Any], documents: NDArray[Any], seed: int = 0
) -> tuple[float, float, float]:
    """(mean, low, high) of values: 95 %, bootstrap over documents; NaN where there is none."""
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    _, which = np.unique(documents, return_inverse=True)
    sums, counts = np.bincount(which, weights=values), np.bincount(which)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=DRAWS)
    low, high = np.quantile((weights @ sums) / (weights @ counts), [0.025, 0.975])
    return float(sums.sum() / counts.sum()), float(low), float(high)


def spearman(x: Any, y: Any) -> float:
    """Rank correlation; NaN where one of them never varies."""
    return float(
        pd.Series(np.asarray(x, float)).corr(pd.Series(np.asarray(y, float)), method="spearman")
    )


RESAMPLES = 500
"""Draws of a bootstrap over documents."""


def draws(
    documents: Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Float[np.ndarray, " r"]]:
    """How often each document is drawn: once in the first place (the sample itself), then in each
    bootstrap. One set of draws for all tasks keeps what they share, and makes differences of
    methods paired."""
    names = sorted(set(documents))
    g = np.random.default_rng(seed)
    counts = g.multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)
    whole = np.vstack([np.ones(len(names)), counts]).astype(np.float64)
    return dict(zip(names, whole.T, strict=True))


def drawn_interval(values: Float[np.ndarray, " r"]) -> tuple[float, float, float]:
    """(value, low, high): of the sample itself, and the 95 % bootstrap interval from the other
    draws."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return float(values[0]), float(low), float(high)


Floats = NDArray[np.float64]


def half_width(x: Floats) -> float:
    """Of Student's 95 % interval of a mean; NaN for a single value."""
    if len(x) < 2:
        return float("nan")
    return float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))


EFFECT_RESAMPLES = 200
"""Draws of a bootstrap."""


def effect(
    values: NDArray[np.float64], control: NDArray[np.float64], seed: int = 0
) -> dict[str, float]:
    """How far `values` lie above `control`: `superiority`, the chance that one drawn from `values`
    exceeds one drawn from `control` (0.5: none; ties count half), and `median_difference`, each
    with `_low` and `_high` (95 %, bootstrap over features)."""
    g = np.random.default_rng(seed)

    def measure(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
        y = np.sort(y)
        below, upto = np.searchsorted(y, x, "left"), np.searchsorted(y, x, "right")
        return float((below + upto).mean() / (2 * len(y))), float(np.median(x) - np.median(y))

    drawn = [
        measure(g.choice(values, len(values)), g.choice(control, len(control)))
        for _ in range(EFFECT_RESAMPLES)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    out = {}
    for k, (name, value) in enumerate(
        zip(("superiority", "median_difference"), measure(values, control), strict=True)
    ):
        out |= {name: value, f"{name}_low": float(low[k]), f"{name}_high": float(high[k])}
    return out


def share_interval(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson: SciPy's exact interval of a share (F)."""
    from scipy.stats import binomtest

    found = binomtest(hits, n).proportion_ci(level, "exact")
    return float(found.low), float(found.high)
