"""Intervals and effects: every bootstrap and exact interval of the project."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

DRAWS = 1000
"""Of a bootstrap over documents."""
MEANS = 2000
"""Draws of a bootstrap of a plain mean."""


def bounds(drawn: Any) -> Any:
    """(low, high) along the first axis of a bootstrap's draws: between them lie 95 %."""
    return np.quantile(drawn, [0.025, 0.975], axis=0)


def mean_interval(
    values: NDArray[Any],
    rng: np.random.Generator,
) -> tuple[float, float, float]:
    """(mean, low, high) of values: 95 %, bootstrap over them."""
    drawn = rng.choice(values, (MEANS, len(values)))
    low, high = bounds(drawn.mean(1))
    return float(values.mean()), float(low), float(high)


def document_interval(
    values: NDArray[Any],
    documents: NDArray[Any],
    seed: int = 0,
) -> tuple[float, float, float]:
    """(mean, low, high) of values: 95 %, bootstrap over documents; NaN where there is none."""
    return ratio_interval(values, np.ones(len(values)), documents, seed)


def ratio_interval(
    above: NDArray[Any],
    below: NDArray[Any],
    documents: NDArray[Any],
    seed: int = 0,
) -> tuple[float, float, float]:
    """(ratio, low, high) of the sum of `above` to that of `below`: 95 %, bootstrap over documents;
    NaN where there is no value, or `below` sums to nothing."""
    if not len(above):
        return float("nan"), float("nan"), float("nan")

    _, which = np.unique(documents, return_inverse=True)
    sums = np.bincount(which, weights=above)
    counts = np.bincount(which, weights=below)

    n = len(sums)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = (weights @ sums) / (weights @ counts)
        ratio = sums.sum() / counts.sum()
    low, high = bounds(ratios)
    return float(ratio), float(low), float(high)


def spearman(x: Any, y: Any) -> float:
    """Rank correlation, ties sharing their mean rank, over places where both are known; NaN where
    one of them never varies."""
    pairs = pd.DataFrame({"x": np.asarray(x, float), "y": np.asarray(y, float)}).dropna()
    ranks = pairs.rank()  # pandas' own "spearman" imports `scipy.stats`, most of a second
    return float(ranks.x.corr(ranks.y))


RESAMPLES = 500
"""Draws of a bootstrap over documents."""


def draws(
    documents: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Float[np.ndarray, " r"]]:
    """How often each document is drawn: once in the first place (the sample itself), then in each
    bootstrap. One set of draws for all tasks keeps what they share, and makes differences of
    methods paired."""
    names = sorted(set(documents))
    n = len(names)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n, np.full(n, 1 / n), resamples)

    times = np.vstack([np.ones(n), counts]).astype(np.float64)
    return dict(zip(names, times.T, strict=True))


def drawn_interval(values: Float[np.ndarray, " r"]) -> tuple[float, float, float]:
    """(value, low, high): of the sample itself, and the 95 % bootstrap interval from the other
    draws."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return float(values[0]), float(low), float(high)


Floats = NDArray[np.float64]


def half_width(x: Floats) -> float:
    """Of Student's 95 % interval of a mean; NaN for a single value."""
    from scipy.special import stdtrit  # `scipy.stats` takes most of a second to import

    if len(x) < 2:
        return float("nan")

    n = len(x)
    quantile = stdtrit(n - 1, 0.975)
    return float(quantile * x.std(ddof=1) / np.sqrt(n))


EFFECT_RESAMPLES = 200
"""Draws of a bootstrap."""


def effect(
    values: Floats,
    control: Floats,
    seed: int = 0,
) -> dict[str, float]:
    """How far `values` lie above `control`: `superiority`, the chance that one drawn from `values`
    exceeds one drawn from `control` (0.5: none; ties count half), and `median_difference`, each
    with `_low` and `_high` (95 %, bootstrap over features)."""
    rng = np.random.default_rng(seed)

    def measure(x: Floats, y: Floats) -> tuple[float, float]:
        ordered = np.sort(y)
        below = np.searchsorted(ordered, x, "left")
        up_to = np.searchsorted(ordered, x, "right")
        superiority = float((below + up_to).mean() / (2 * len(y)))
        return superiority, float(np.median(x) - np.median(y))

    drawn = []
    for _ in range(EFFECT_RESAMPLES):
        redrawn = rng.choice(values, len(values))
        drawn.append(measure(redrawn, rng.choice(control, len(control))))
    lows, highs = bounds(drawn)

    effects: dict[str, float] = {}
    names = ("superiority", "median_difference")
    for name, value, low, high in zip(names, measure(values, control), lows, highs, strict=True):
        effects[name] = value
        effects[f"{name}_low"] = float(low)
        effects[f"{name}_high"] = float(high)
    return effects


def share_interval(
    hits: int,
    n: int,
    level: float = 0.95,
) -> tuple[float, float]:
    """Clopper-Pearson: the exact interval of a share (F), by quantiles of beta distributions."""
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    misses = n - hits
    low = betaincinv(hits, misses + 1, tail) if hits else 0
    high = betaincinv(hits + 1, misses, 1 - tail) if misses else 1
    return float(low), float(high)
