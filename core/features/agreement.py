"""Do a feature and the one that it became fire at the same places? Agreement of activations on the
same text.

Attribution correlation (Eq. 10) weighs each firing by its part in the next token, which for early
features is noise. Agreement asks less: read the same text with both models, and correlate the
feature's activation in A with that of the carried feature in B, over paired positions. The sums
behind it are sparse: they cost as much as features fire.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from core.features.firings import WHOLE, Firings, Text, features_of

BLOCKS = 64
"""Groups of documents between which the bootstrap draws."""
BOOTSTRAPS = 400
LEAST = 20
"""A feature that fires less often in either model is not ranked."""
NEAR = 101
"""Random features of about the same density whose median stands for chance."""
PART = 4_096
"""Features whose blocks are held at a time."""
MEASURES = ("x", "y", "xx", "yy", "xy", "in_a", "in_b", "joint")
"""Activation in A and in B, their squares and product; firings in A, in B, in both."""


class Sums(NamedTuple):
    """What agreement needs of each group of positions: `n` [g], and `sums` [g, MEASURES, f]."""

    n: Float[np.ndarray, " g"]
    sums: Float[np.ndarray, "g m f"]

    def joined(self) -> "Sums":
        """All groups as one."""
        return Sums(self.n.sum(keepdims=True), self.sums.sum(axis=0, keepdims=True))


def sums(
    a: Firings,
    b: Firings,
    groups: NDArray[np.integer],
    size: int,
) -> Sums:
    """Of firings in A and in B [n, f], by group of positions [n], below `size`."""
    features = features_of(a)
    both = a.multiply(b).tocsc()
    columns = {
        "x": (a, a.data),
        "y": (b, b.data),
        "xx": (a, np.square(a.data, dtype=np.float64)),
        "yy": (b, np.square(b.data, dtype=np.float64)),
        "xy": (both, both.data),
        "in_a": (a, None),
        "in_b": (b, None),
        "joint": (both, None),
    }
    total = np.zeros((size, len(MEASURES), features))
    for m, name in enumerate(MEASURES):
        matrix, values = columns[name]
        feature = np.repeat(np.arange(features), np.diff(matrix.indptr))
        cell = groups[matrix.indices].astype(np.int64) * features + feature
        total[:, m] = np.bincount(cell, values, size * features).reshape(size, features)
    return Sums(np.bincount(groups, minlength=size).astype(np.float64), total)


def pearson(
    n: NDArray[np.float64] | float,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    xx: NDArray[np.float64],
    yy: NDArray[np.float64],
    xy: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Pearson's r from sums; NaN where a variance is zero."""
    covariance = n * xy - x * y
    var_x = np.maximum(n * xx - x * x, 0)
    var_y = np.maximum(n * yy - y * y, 0)
    scale = np.sqrt(var_x * var_y)
    floor = 1e-12 * n * np.sqrt(xx * yy)
    varies = scale > np.maximum(floor, 1e-300)
    return np.divide(
        covariance,
        scale,
        out=np.full(scale.shape, np.nan),
        where=varies,
    )


def ratio(
    part: NDArray[np.float64],
    whole: NDArray[np.float64],
) -> NDArray[np.float64]:
    """A share; NaN of nothing."""
    return np.divide(
        part,
        whole,
        out=np.full(np.shape(whole), np.nan),
        where=whole > 0,
    )


def _measures(
    group: Sums,
    g: int,
) -> dict[str, NDArray[np.float64]]:
    """Of one group: firings, agreement, and how well a firing in B tells one in A."""
    named = dict(zip(MEASURES, group.sums[g], strict=True))
    in_a, in_b, joint = named["in_a"], named["in_b"], named["joint"]
    return {
        "firings_a": in_a,
        "firings_b": in_b,
        "joint": joint,
        "agreement": pearson(group.n[g], *group.sums[g, :5]),
        "precision": ratio(joint, in_b),
        "recall": ratio(joint, in_a),
        "f1": ratio(2 * joint, in_a + in_b),
    }


def interval(
    a: Firings,
    b: Firings,
    documents: NDArray[np.integer],
    seed: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(low, high) of each feature's agreement: 95 %, bootstrap over BLOCKS groups of documents."""
    even = np.full(BLOCKS, 1 / BLOCKS)
    drawn_blocks = np.random.default_rng(seed).multinomial(BLOCKS, even, size=BOOTSTRAPS)
    draws = drawn_blocks.astype(np.float64)
    lows, highs = [], []
    for begin in range(0, features_of(a), PART):
        part = slice(begin, begin + PART)
        blocks = sums(
            a[:, part],
            b[:, part],
            documents % BLOCKS,
            BLOCKS,
        )
        drawn = (np.tensordot(draws, blocks.sums[:, m], axes=1) for m in range(5))
        r = pearson((draws @ blocks.n)[:, None], *drawn)

        never = np.isnan(r).all(axis=0)
        quantiles = np.nanquantile(np.where(never, 0, r), [0.025, 0.975], axis=0)
        quantiles[:, never] = np.nan
        lows.append(quantiles[0])
        highs.append(quantiles[1])
    return np.concatenate(lows), np.concatenate(highs)


def above_chance(table: pd.DataFrame) -> NDArray[np.float64]:
    """Agreement above the median of the NEAR random features that fire about as often in A: a
    feature that fires everywhere agrees with anything. NaN for features below LEAST firings.

    `table` has `agreement`, `firings_a`, `firings_b`, `random`, `random_firings`.
    """
    usual = (table.random_firings >= LEAST) & table.random.notna()
    random = table.loc[usual].sort_values("random_firings", kind="stable")
    chance = np.zeros(len(table))
    if len(random):
        least = min(len(random), NEAR // 2)
        medians = random.random.rolling(NEAR, center=True, min_periods=least).median()
        density = np.log(random.random_firings.to_numpy(float))
        chance = np.interp(
            np.log(table.firings_a.clip(lower=1)),
            density,
            medians.to_numpy(),
        )

    often = (table.firings_a >= LEAST) & (table.firings_b >= LEAST)
    return np.where(often, table.agreement - chance, np.nan)


def measure_agreement(
    text: Text,
    firings: Mapping[str, Firings],
    seed: int = 0,
) -> pd.DataFrame:
    """One row a feature and kind of text, WHOLE first.

    `firings` in A are those of 'original' and 'random SAE', in B of 'transferred', 'shuffled-pair
    stitch' and 'random SAE, transferred'. `feature`, `kind`, `positions` that crossed;
    `firings_a`, `firings_b`, `joint`; `agreement` (Pearson's r) with `low`, `high` over all text;
    with a firing in B as a guess at one in A, at the SAE's own threshold, `precision`, `recall`,
    `f1`; the controls `random` and `random_f1` of a random SAE's feature of that number, with its
    `random_firings` in A, `shuffled` and `shuffled_f1` of this feature through a stitch of shuffled
    pairs; `above`, see `above_chance`.
    """
    kinds = list(text.kinds)
    groups = np.zeros(text.n, dtype=np.int64)
    for g, name in enumerate(kinds[1:]):
        groups[text.kinds[name]] = g

    def by_kind(
        one: str,
        other: str,
    ) -> Sums:
        apart = sums(
            firings[one],
            firings[other],
            groups,
            len(kinds) - 1,
        )
        whole = apart.joined()
        return Sums(np.r_[whole.n, apart.n], np.concatenate([whole.sums, apart.sums]))

    carried = by_kind("original", "transferred")
    random = by_kind("random SAE", "random SAE, transferred")
    shuffled = by_kind("original", "shuffled-pair stitch")
    low, high = interval(
        firings["original"],
        firings["transferred"],
        text.places[0],
        seed,
    )

    parts = []
    for g, kind in enumerate(kinds):
        by_chance, of_shuffled = _measures(random, g), _measures(shuffled, g)
        part = pd.DataFrame(_measures(carried, g)).assign(
            random=by_chance["agreement"],
            random_f1=by_chance["f1"],
            random_firings=by_chance["firings_a"],
            shuffled=of_shuffled["agreement"],
            shuffled_f1=of_shuffled["f1"],
            low=low if kind == WHOLE else np.nan,
            high=high if kind == WHOLE else np.nan,
        )
        part["above"] = above_chance(part)
        part.insert(0, "positions", int(carried.n[g]))
        part.insert(0, "kind", kind)
        part.insert(0, "feature", np.arange(len(part)))
        parts.append(part)
    return small(pd.concat(parts, ignore_index=True))


def small(table: pd.DataFrame) -> pd.DataFrame:
    """Counts as whole numbers and everything else in single precision, as a table is kept."""
    counts = ("feature", "positions", "firings_a", "firings_b", "joint", "random_firings")
    whole = {name: np.int32 for name in counts if name in table}
    single = {name: np.float32 for name in table.select_dtypes("float64") if name not in whole}
    return table.astype(whole | single)
