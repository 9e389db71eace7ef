"""Probes of a person's own labels, and of one task, for files."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.errors import StitchLensError
from core.models.live import TURNS
from core.models.pairs import Side
from core.probes.dataset import Dataset, one_against_rest
from core.probes.labelled import Labelled
from core.probes.methods import Method, ProbeConfig, crossings, selected
from core.probes.probe import Outcome, Probe, fit, folds, moved, select
from core.probes.prober import Prober
from core.probes.tasks import offline_datasets
from core.statistics import share_interval
from core.workspace import demonstration
from core.workspace.disk import fingerprint

OWN_K = 10
"""Features of the sparse probe of one's own labels."""


@dataclass(frozen=True)
class OwnLabels:
    """What came of labels of one's own."""

    table: pd.DataFrame
    """A row a method: `method`, `k`, `accuracy` with its exact interval `low`, `high`, `auc`: each
    text judged by a probe that was fitted without it."""
    features: pd.DataFrame
    """`rank`, `feature`, `difference`, `difference_b` of those that Eq. 7 selects."""
    probes: dict[str, Probe]
    """Fitted on all texts: `a` and `b` dense, `a-sparse` and `b-sparse`; B's are A's, carried
    over."""
    n: int
    positive: str
    left_out: int
    unused: tuple[str, ...] = ()
    """Columns of the file that were not read."""


def own_labels(
    prober: Prober,
    given: Labelled,
    config: ProbeConfig | None = None,
) -> OwnLabels:
    """Probes of A from a person's texts, moved to B at once; accuracy on both by
    cross-validation. Raises StitchLensError where a demonstration does not admit the texts."""
    demonstration.admit(*given.texts)
    config = config or ProbeConfig(ks=(OWN_K,))
    with TURNS.turn():
        x = prober.read(given.texts, own=False)
    stitch, shuffled = prober.crossing.stitch, prober.crossing.shuffled
    y, scores = given.y, dict[Method, NDArray[np.float64]]()
    for train, test in folds(y, config.seed):
        for method, some in crossings(x, y, train, test, stitch, shuffled, config):
            scores.setdefault(method, np.zeros((len(some), len(y))))[:, test] = some
    rows, equal = [], np.ones((1, len(y)))
    for method, some in scores.items():
        outcome = Outcome(some, y)
        low, high = share_interval(round(float(outcome.right.sum())), len(y))
        accuracy, auc = float(outcome.right.mean()), float(outcome.auc(equal)[0])
        rows.append(
            {
                "method": method.name,
                "k": method.k,
                "accuracy": accuracy,
                "low": low,
                "high": high,
                "auc": auc,
            }
        )
    classes = {
        "classes": [0, 1],
        "class_names": ["not " + given.positive, given.positive],
        "texts": len(y),
    }
    dense = fit(x["dense_a"], y, **classes, **prober.about_probe("a", 0))
    best = select(x["source"], y, max(config.ks), config.absolute)
    sparse = fit(x["source"], y, best, **classes, **prober.about_probe("a", len(best)))
    probes = {"a": dense, "a-sparse": sparse} | {
        "b": _at_b(moved(dense, prober.crossing.stitch), prober, 0),
        "b-sparse": _at_b(sparse, prober, len(best)),
    }
    everything = np.arange(len(y))
    return OwnLabels(
        pd.DataFrame(rows),
        selected(x, y, everything, config),
        probes,
        len(y),
        given.positive,
        given.left_out,
        given.unused,
    )


def _at_b(
    probe: Probe,
    prober: Prober,
    k: int,
) -> Probe:
    about = dict(probe.about) | prober.about_probe("b", k) | {"fitted_on": prober.bench.pair.a.key}
    return Probe(probe.coef, probe.intercept, probe.features, about)


def task_probe(
    prober: Prober,
    task: str,
    side: Side,
    k: int = 0,
    fitted: Side = "a",
    offered: Sequence[Dataset] | None = None,
) -> Probe:
    """A probe of a task, `DATASET/CLASS` of those offered (the offline ones if not given), for one
    side, fitted on that or the other; `k` features, 0 for a dense one. Raises StitchLensError for a
    task that is not there, and for a probe of A fitted on B."""
    datasets = {
        d.name: d for d in (offline_datasets(prober.bench.corpus) if offered is None else offered)
    }
    name, _, label = task.partition("/")
    if name not in datasets or label not in datasets[name].probed:
        there = ", ".join(f"{d.name}/{c}" for d in datasets.values() for c in d.probed)
        raise StitchLensError(f"no task '{task}'", f"one of {there}", "choose one")
    if side == "a" and fitted == "b":
        raise StitchLensError(
            "a probe of B for A", "one of A for B, or of the model itself", "choose --fitted a"
        )
    documents, y = one_against_rest(datasets[name].train, label)
    x = prober.read(
        [d.text for d in documents],
        own=False,
        kept=fingerprint(
            [
                prober.bench.makers,
                prober.crossing.about,
                prober.crossing.stitched,
                [(d.id, d.text) for d in documents],
            ]
        ),
    )
    about = {
        "task": task,
        "class_names": ["other", label],
        "texts": len(y),
        "fitted_on": fitted,
    }
    dense, sparse = ("dense_b", "transferred") if fitted == "b" else ("dense_a", "source")
    best = select(x["source"], y, k) if k else None
    probe = fit(x[sparse if k else dense], y, best, **about, **prober.about_probe(fitted, k))
    if side == fitted:
        return probe
    return _at_b(probe if k else moved(probe, prober.crossing.stitch), prober, k)
