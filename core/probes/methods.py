"""What is fitted and what crosses: probes of A in A, carried over to B, fitted in B, and their
controls (4, Eq. 7, B.2)."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.config import Frozen
from core.probes.probe import (
    KS,
    Probe,
    centred,
    differences,
    fit,
    live_features,
    moved,
    random_features,
    select,
)
from core.statistics import RESAMPLES
from core.stitches.stitch import Stitch

METHODS = (
    "dense_source",
    "dense_moved",
    "dense_centred",
    "dense_shuffled",
    "dense_own",
    "source",
    "reused",
    "shuffled",
    "retrained",
    "random",
    "own",
)
"""See `crossings`."""
Arrays = dict[str, NDArray[np.float32]]
"""Of n texts, [n, d] or [n, features]: `dense_a`, `source` (A's SAE in A), `dense_b`,
`transferred`, `shuffled` (A's SAE in B through the stitch and through one of shuffled pairs) and
`own` (B's SAE in B)."""


class ProbeConfig(Frozen):
    """What is fitted and how it is measured."""

    ks: tuple[int, ...] = KS
    absolute: bool = False
    """Select features by the size of the difference in means, as SAEBench does; Eq. 7 takes the
    largest."""
    draws: int = 5
    """Sets of random features."""
    resamples: int = RESAMPLES
    seed: int = 0


class Method(NamedTuple):
    """One way to probe; `k` features, 0 for a dense probe."""

    name: str
    k: int


def crossings(
    x: Arrays,
    y: NDArray[np.int64],
    train: NDArray[np.intp],
    test: NDArray[np.intp],
    stitch: Stitch,
    shuffled: Stitch,
    config: ProbeConfig,
) -> Iterator[tuple[Method, NDArray[np.float64]]]:
    """(method, scores [draws, test texts]); `x` and `y` cover all texts. Only the training texts
    are fitted on, and features selected by.

    Sparse, for each k: `source` A's SAE in A; `reused` that very probe on transferred features in
    B; `retrained` the same features with a probe fitted in B; `shuffled` the reused probe through a
    stitch of shuffled pairs; `random` transferred features drawn from those that are active, with a
    probe fitted in B; `own` B's SAE. Dense: `dense_source` in A, `dense_moved` the same carried to
    B (B.2), `dense_centred` that one with its threshold moved by the training texts without their
    labels (`centred`), `dense_shuffled`, and `dense_own` in B.
    """

    def one(probe: Probe, name: str) -> NDArray[np.float64]:
        return probe.score(x[name][test])[None]

    z = y[train]
    source = fit(x["dense_a"][train], z)
    yield Method("dense_source", 0), one(source, "dense_a")
    across = moved(source, stitch)
    yield Method("dense_moved", 0), one(across, "dense_b")
    yield (
        Method("dense_centred", 0),
        one(centred(across, x["dense_b"][train], source, x["dense_a"][train]), "dense_b"),
    )
    yield Method("dense_shuffled", 0), one(moved(source, shuffled), "dense_b")
    yield Method("dense_own", 0), one(fit(x["dense_b"][train], z), "dense_b")
    most = max(config.ks)
    best = select(x["source"][train], z, most, config.absolute)
    mine = select(x["own"][train], z, most, config.absolute) if "own" in x else None
    alive = np.flatnonzero(live_features(x["transferred"][train]))
    for k in config.ks:
        probe = fit(x["source"][train], z, best[:k])
        yield Method("source", k), one(probe, "source")
        yield Method("reused", k), one(probe, "transferred")
        yield Method("shuffled", k), one(probe, "shuffled")
        yield Method("retrained", k), one(fit(x["transferred"][train], z, best[:k]), "transferred")
        picked = [
            alive[random_features(len(alive), k, config.seed + d)] for d in range(config.draws)
        ]
        drawn = [one(fit(x["transferred"][train], z, some), "transferred") for some in picked]
        yield Method("random", k), np.concatenate(drawn)
        if mine is not None:
            yield Method("own", k), one(fit(x["own"][train], z, mine[:k]), "own")


def selected(
    x: Arrays,
    y: NDArray[np.int64],
    train: NDArray[np.intp],
    config: ProbeConfig,
) -> pd.DataFrame:
    """The features of A's SAE that Eq. 7 selects: `rank`, `feature`, the `difference` of means in A
    and, transferred to B, `difference_b`."""
    best = select(x["source"][train], y[train], max(config.ks), config.absolute)
    here, there = (
        differences(x[name][train], y[train])[best] for name in ("source", "transferred")
    )
    return pd.DataFrame(
        {
            "rank": np.arange(len(best)),
            "feature": best,
            "difference": here,
            "difference_b": there,
        }
    )
