"""Does B know a feature of A by itself? Native twins: for every feature of A's SAE the feature of
B's own SAE that fires most alike on the same text, and back.

Nothing is carried here: both SAEs were trained on their own model, alike and on as much text. Two
features correlate above zero only where they fire together, so that the products are sparse and
features x features are never formed whole.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import sparse as sp
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from core.features.agreement import small
from core.features.firings import Firings, Text, counts, features_of, positions_of

FLOOR = 0.1
"""Pairs below this correlation are no candidates for the assignment."""
ALONE = 1e-6
"""What the assignment gives for a feature that stays without a twin."""
BLOCK = 1024
"""Features of A whose products are held at a time."""


class Pairs(NamedTuple):
    """Features that fire together: `a` and `b` [m], their numbers, and Pearson's `r` [m]."""

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    r: NDArray[np.float64]

    def turned(self) -> "Pairs":
        """The same, from B."""
        return Pairs(self.b, self.a, self.r)


class Best(NamedTuple):
    """Of each feature of one side its best partner [f], -1 where it fires with none, and r."""

    partner: NDArray[np.int64]
    r: NDArray[np.float64]


def _moments(firings: Firings) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each feature's activation, zeros counted."""
    n, features = positions_of(firings), features_of(firings)
    feature = np.repeat(np.arange(features), np.diff(firings.indptr))
    values = firings.data.astype(np.float64)
    mean = np.bincount(feature, values, features) / n
    square = np.bincount(feature, values**2, features) / n
    return mean, np.sqrt(np.maximum(square - mean**2, 0))


def blocks_of(a: Firings, b: Firings) -> Iterator[Pairs]:
    """Every pair of a feature of A and one of B that correlate above zero over positions [n], those
    of BLOCK features of A at a time."""
    n, rows = positions_of(a), b.tocsr()
    mean_a, deviation_a = _moments(a)
    mean_b, deviation_b = _moments(b)
    for begin in range(0, features_of(a), BLOCK):
        together = sp.coo_matrix(a[:, begin : begin + BLOCK].T @ rows)
        i = together.row.astype(np.int64) + begin
        j = together.col.astype(np.int64)
        covariance = together.data.astype(np.float64) / n - mean_a[i] * mean_b[j]
        scale = deviation_a[i] * deviation_b[j]
        r = np.divide(
            covariance,
            scale,
            out=np.zeros(len(i)),
            where=scale > 0,
        )
        above = r > 0
        yield Pairs(i[above], j[above], r[above])


class Scan(NamedTuple):
    """What is kept of all pairs: those of FLOOR or more, and the best one of each feature of A and
    of B."""

    near: Pairs
    best: Best
    back: Best


def scan(a: Firings, b: Firings) -> Scan:
    """The pairs of A's and B's features, in memory that does not grow with their product."""
    best, back = _alone(features_of(a)), _alone(features_of(b))
    near = []
    for pairs in blocks_of(a, b):
        best = _better(best, best_of(pairs, features_of(a)))
        back = _better(back, best_of(pairs.turned(), features_of(b)))
        close = pairs.r >= FLOOR
        near.append(Pairs(pairs.a[close], pairs.b[close], pairs.r[close]))
    joined = (np.concatenate(columns) for columns in zip(*near, strict=True))
    return Scan(Pairs(*joined), best, back)


def _alone(features: int) -> Best:
    return Best(np.full(features, -1), np.zeros(features))


def _better(one: Best, other: Best) -> Best:
    """Of each feature the better partner of two, the first of equals."""
    more = other.r > one.r
    partner = np.where(more, other.partner, one.partner)
    return Best(partner, np.where(more, other.r, one.r))


def best_of(
    pairs: Pairs,
    features: int,
) -> Best:
    """Of each of `features` of side A its best partner; the first of equals."""
    partner = np.full(features, -1)
    r = np.zeros(features)
    order = np.lexsort((pairs.b, -pairs.r, pairs.a))
    a = pairs.a[order]
    first = np.r_[True, a[1:] != a[:-1]] if len(a) else np.zeros(0, dtype=bool)
    chosen = order[first]
    partner[pairs.a[chosen]] = pairs.b[chosen]
    r[pairs.a[chosen]] = pairs.r[chosen]
    return Best(partner, r)


def assign(
    pairs: Pairs,
    features_a: int,
    features_b: int,
) -> Best:
    """The one-to-one assignment with the largest sum of r, as A sees it (SciPy). Each feature of A
    may stay alone: it has a place of its own beside B's features."""
    near = pairs.r >= FLOOR
    alone = np.arange(features_a)
    rows = np.r_[pairs.a[near], alone]
    columns = np.r_[pairs.b[near], features_b + alone]
    weights = np.r_[pairs.r[near], np.full(features_a, ALONE)]
    shape = (features_a, features_b + features_a)
    graph = sp.csr_matrix((weights, (rows, columns)), shape=shape)

    row, column = min_weight_full_bipartite_matching(graph, maximize=True)
    partner = np.full(features_a, -1)
    paired = column < features_b
    partner[row[paired]] = column[paired]
    known = dict(
        zip(
            zip(pairs.a[near], pairs.b[near], strict=True),
            pairs.r[near],
            strict=True,
        )
    )
    r = [known.get((k, j), 0.0) for k, j in enumerate(partner.tolist())]
    return Best(partner, np.array(r))


def cosines(
    carried: Float[np.ndarray, "f d"],
    native: Float[np.ndarray, "g d"],
    a: NDArray[np.int64],
    b: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Between decoder rows of A carried to B and B's own, for pairs of them; NaN for -1."""
    x, y = carried[a].astype(np.float64), native[b].astype(np.float64)
    scale = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    cosine = (x * y).sum(axis=1) / np.maximum(scale, 1e-30)
    return np.where((a < 0) | (b < 0), np.nan, cosine)


def _one_side(
    own: Firings,
    best: Best,
    back: Best,
    assigned: Best,
    chance: Mapping[str, NDArray[np.float64]],
) -> pd.DataFrame:
    features = np.arange(len(best.partner))
    mutual = (best.partner >= 0) & (back.partner[best.partner] == features)
    return pd.DataFrame(
        {
            "feature": features,
            "firings": counts(own).astype(np.float64),
            "twin": best.partner,
            "r": best.r,
            "mutual": mutual,
            "assigned": assigned.partner,
            "assigned_r": assigned.r,
            **chance,
        }
    )


def _turned(
    assigned: Best,
    features: int,
) -> Best:
    """An assignment as the other side sees it."""
    partner, r = np.full(features, -1), np.zeros(features)
    paired = np.flatnonzero(assigned.partner >= 0)
    partner[assigned.partner[paired]] = paired
    r[assigned.partner[paired]] = assigned.r[paired]
    return Best(partner, r)


def twins_of(
    firings: Mapping[str, Firings],
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """The twins of A's features ('a') and of B's ('b') on the positions of `firings`: of 'original'
    and 'random SAE' in A, of 'native' and 'random native' in B. See `measure_twins`."""
    a, b = firings["original"], firings["native"]
    order = np.random.default_rng(seed).permutation(positions_of(b))
    elsewhere = b.tocsr()[order].tocsc()
    native = scan(a, b)
    shuffled = scan(a, elsewhere)
    random = scan(firings["random SAE"], firings["random native"])

    f, g = features_of(a), features_of(b)
    best, back = native.best, native.back
    assigned = assign(native.near, f, g)
    chance_a = {"shuffled": shuffled.best.r, "random": random.best.r}
    chance_b = {"shuffled": shuffled.back.r, "random": random.back.r}
    return {
        "a": _one_side(
            a,
            best,
            back,
            assigned,
            chance_a,
        ),
        "b": _one_side(
            b,
            back,
            best,
            _turned(assigned, g),
            chance_b,
        ),
    }


def measure_twins(
    text: Text,
    firings: Mapping[str, Firings],
    carried: Float[np.ndarray, "f d"],
    native: Float[np.ndarray, "g d"],
    seed: int = 0,
) -> pd.DataFrame:
    """One row a feature of either SAE and kind of text: `side`, `kind`, `positions`, `feature`,
    `firings`; `twin`, the feature of the other SAE that correlates best with it (-1: it fires with
    none), at `r`; `mutual`, whether each is the other's best; `assigned` and `assigned_r` in the
    one-to-one assignment; `cosine` of the twins' decoder rows, A's `carried` through the stitch
    beside B's `native`; the controls `shuffled`, its best r over shuffled positions, and `random`,
    that of a random SAE's feature of this number with random features of the other model. Firings
    are those of `twins_of`."""
    parts = []
    for kind, rows in text.kinds.items():
        own = {name: matrix.tocsr()[rows].tocsc() for name, matrix in firings.items()}
        for side, part in twins_of(own, seed).items():
            ends = part.feature.to_numpy(), part.twin.to_numpy()
            a, b = ends if side == "a" else ends[::-1]
            part["cosine"] = cosines(
                carried,
                native,
                a,
                b,
            )
            part.insert(0, "positions", len(rows))
            part.insert(0, "kind", kind)
            part.insert(0, "side", side)
            parts.append(part)
    whole = dict.fromkeys(("firings", "twin", "assigned"), np.int32)
    return small(pd.concat(parts, ignore_index=True)).astype(whole)
