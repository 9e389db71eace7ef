"""Every task, method and number of features, measured with intervals and kept in the workspace
(Fig. 3a, 9, 10)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.probes.dataset import Dataset, one_against_rest
from core.probes.methods import METHODS, Method, ProbeConfig, crossings, selected
from core.probes.probe import Outcome
from core.probes.prober import BLOCK, Prober
from core.probes.tasks import offline_datasets
from core.progress import Progress
from core.statistics import drawn_interval, draws
from core.workspace.disk import fingerprint, only_one

REFERENCES = {
    "reused": "own",
    "retrained": "own",
    "random": "own",
    "shuffled": "own",
    "dense_moved": "dense_own",
    "dense_centred": "dense_own",
    "dense_shuffled": "dense_own",
}
"""What a method's `gap` is measured against, at the same k."""
Curves = dict[Method, tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Accuracy and AUC of each method: of the sample itself, and of each draw of the bootstrap."""


def _mean(many: Sequence[Curves]) -> Curves:
    return {m: tuple(np.mean([c[m][i] for c in many], axis=0) for i in (0, 1)) for m in many[0]}  # type: ignore[misc]


def _rows(curves: Curves, about: dict[str, Any]) -> list[dict[str, Any]]:
    out = []
    for method, (accuracy, auc) in curves.items():
        row: dict[str, Any] = about | {"method": method.name, "k": method.k}
        reference = curves.get(Method(REFERENCES.get(method.name, ""), method.k))
        measured = {"": accuracy, "auc_": auc} | (
            {} if reference is None else {"gap_": accuracy - reference[0]}
        )
        for prefix, values in measured.items():
            named = (
                {"": "accuracy", "auc_": "auc", "gap_": "gap"}[prefix],
                f"{prefix}low",
                f"{prefix}high",
            )
            row |= dict(zip(named, drawn_interval(values), strict=True))
        out.append(row)
    return out


def measure(
    prober: Prober,
    datasets: Sequence[Dataset],
    config: ProbeConfig,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(results, features).

    Results, a row a dataset, class and method: `dataset`, `label`, `method`, `k`; `accuracy` with
    `low`, `high`; `auc` with `auc_low`, `auc_high`; `gap`, the accuracy less that of the reference
    (REFERENCES), with `gap_low`, `gap_high`; `train`, `test` texts. Label '' is the mean over a
    dataset's classes, dataset '' the mean over datasets. Features, a row a task and rank: those of
    A's SAE that Eq. 7 selects, with the `difference` in A and, transferred, in B.
    """
    known = {d.id: d for some in datasets for d in some.documents}
    ids = list(known)
    at = {name: i for i, name in enumerate(ids)}
    texts = [known[name].text for name in ids]
    kept = fingerprint(
        [
            prober.bench.makers,
            prober.crossing.about,
            prober.crossing.stitched,
            prober.own_makers,
            BLOCK,
            fingerprint([ids, texts]),
        ]
    )
    prober.own  # noqa: B018 - trained before anything is read
    x = prober.read(texts, kept=kept)
    tasks = [(some, label) for some in datasets for label in some.probed]
    pairs = {
        (some.name, label): [
            one_against_rest(split, label, config.seed) for split in (some.train, some.test)
        ]
        for some, label in tasks
    }
    tested = [d.id for split in pairs.values() for d in split[1][0]]
    weights = draws(tested, config.resamples, config.seed)
    found: dict[str, list[Curves]] = {}
    rows, features = [], []
    with Progress("fitting probes", len(tasks), "tasks") as bar:
        for some, label in tasks:
            (one, y_train), (two, y_test) = pairs[some.name, label]
            here = {n: v[[at[d.id] for d in (*one, *two)]] for n, v in x.items()}
            y, split = np.r_[y_train, y_test], (np.arange(len(one)), len(one) + np.arange(len(two)))
            w = np.stack([weights[d.id] for d in two], axis=1)
            curves: Curves = {}
            for method, scores in crossings(
                here, y, *split, prober.crossing.stitch, prober.crossing.shuffled, config
            ):
                outcome = Outcome(scores, y_test)
                curves[method] = outcome.accuracy(w), outcome.auc(w)
            found.setdefault(some.name, []).append(curves)
            rows += _rows(
                curves, {"dataset": some.name, "label": label, "train": len(one), "test": len(two)}
            )
            features.append(
                selected(here, y, split[0], config).assign(dataset=some.name, label=label)
            )
            bar.advance(1)
    sizes = {"train": 0, "test": len(set(tested))}
    means = {name: _mean(curves) for name, curves in found.items()}
    for name, curves in means.items():
        rows += _rows(curves, sizes | {"dataset": name, "label": "", "test": 0})
    rows += _rows(_mean(list(means.values())), sizes | {"dataset": "", "label": ""})
    return pd.DataFrame(rows), pd.concat(features, ignore_index=True)


def _lean(table: pd.DataFrame) -> pd.DataFrame:
    """Four decimals in single precision: what the figures need, in a third of the space."""
    floats = table.select_dtypes("float64").columns
    small = table[floats].round(4).astype(np.float32)
    whole = dict.fromkeys(table.select_dtypes("int64").columns, np.int32)
    return table.assign(**{str(c): small[c] for c in floats}).astype(whole)


def evaluate(
    prober: Prober,
    config: ProbeConfig | None = None,
    datasets: Sequence[Dataset] | None = None,
) -> str:
    """The name under which `probes/` and `probe_features/` are kept in the workspace; what is
    current is not made again. `datasets` are the offline ones if not given."""
    config, bench = config or ProbeConfig(), prober.bench
    datasets = offline_datasets(bench.corpus, config.seed) if datasets is None else datasets
    name = prober.crossing.sae_name + ("-absolute" if config.absolute else "")
    makers = (
        bench.makers
        | prober.crossing.makers
        | config.model_dump(mode="json")
        | {
            "own": prober.own_config.model_dump() | {"positions": prober.own_positions},
            "methods": METHODS,
            "datasets": {d.name: [d.title, d.says] for d in datasets},
            "texts": fingerprint([(d.id, d.text) for some in datasets for d in some.documents]),
        }
    )
    with only_one(bench.pair.key, "probes"):
        if not all(
            bench.current(f"{kind}/{name}", makers) for kind in ("probes", "probe_features")
        ):
            results, features = measure(prober, datasets, config)
            bench.workspace.put_table(f"probe_features/{name}", _lean(features), makers)
            bench.workspace.put_table(f"probes/{name}", _lean(results), makers)
    return name
