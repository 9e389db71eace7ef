"""Every task, method and number of features, measured with intervals and kept in the workspace
(Fig. 3a, 9, 10)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.probes.dataset import Dataset, one_against_rest
from core.probes.methods import METHODS, Arrays, Method, ProbeConfig, crossings, selected
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
    means: Curves = {}
    for method in many[0]:
        accuracies = [curves[method][0] for curves in many]
        aucs = [curves[method][1] for curves in many]
        means[method] = np.mean(accuracies, axis=0), np.mean(aucs, axis=0)
    return means


def _rows(curves: Curves, about: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for method, (accuracy, auc) in curves.items():
        row: dict[str, Any] = about | {"method": method.name, "k": method.k}
        row |= _interval("accuracy", "", accuracy)
        row |= _interval("auc", "auc_", auc)

        reference = curves.get(Method(REFERENCES.get(method.name, ""), method.k))
        if reference is not None:
            row |= _interval("gap", "gap_", accuracy - reference[0])
        rows.append(row)
    return rows


def _interval(
    name: str,
    prefix: str,
    values: NDArray[np.float64],
) -> dict[str, float]:
    value, low, high = drawn_interval(values)
    return {
        name: value,
        f"{prefix}low": low,
        f"{prefix}high": high,
    }


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
    known = {d.id: d for dataset in datasets for d in dataset.documents}
    ids = list(known)
    texts = [known[name].text for name in ids]
    place = {name: i for i, name in enumerate(ids)}
    x = _read(prober, ids, texts)

    tasks = [(dataset, label) for dataset in datasets for label in dataset.probed]
    splits = {}
    for dataset, label in tasks:
        train = one_against_rest(dataset.train, label, config.seed)
        test = one_against_rest(dataset.test, label, config.seed)
        splits[dataset.name, label] = train, test

    tested = [d.id for _, (documents, _) in splits.values() for d in documents]
    weights = draws(tested, config.resamples, config.seed)

    of_datasets: dict[str, list[Curves]] = {}
    rows, features = [], []
    with Progress("fitting probes", len(tasks), "tasks") as bar:
        for dataset, label in tasks:
            (train, y_train), (test, y_test) = splits[dataset.name, label]
            places = [place[d.id] for d in (*train, *test)]
            of_task = {name: values[places] for name, values in x.items()}
            y = np.r_[y_train, y_test]
            to_train = np.arange(len(train))
            to_test = len(train) + np.arange(len(test))

            often = np.stack([weights[d.id] for d in test], axis=1)
            curves: Curves = {}
            for method, scores in crossings(
                of_task,
                y,
                to_train,
                to_test,
                prober.crossing.stitch,
                prober.crossing.shuffled,
                config,
            ):
                outcome = Outcome(scores, y_test)
                curves[method] = outcome.accuracy(often), outcome.auc(often)
            of_datasets.setdefault(dataset.name, []).append(curves)

            about = {"dataset": dataset.name, "label": label}
            sizes = {"train": len(train), "test": len(test)}
            rows += _rows(curves, about | sizes)
            features.append(selected(of_task, y, to_train, config).assign(**about))
            bar.advance(1)

    means = {name: _mean(curves) for name, curves in of_datasets.items()}
    no_train: dict[str, Any] = {
        "train": 0,
        "test": 0,
        "label": "",
    }
    for name, curves in means.items():
        rows += _rows(curves, no_train | {"dataset": name})

    whole = no_train | {"test": len(set(tested)), "dataset": ""}
    rows += _rows(_mean(list(means.values())), whole)
    return pd.DataFrame(rows), pd.concat(features, ignore_index=True)


def _read(
    prober: Prober,
    ids: list[str],
    texts: list[str],
) -> Arrays:
    """Both models over the texts, kept under all that they are read with."""
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
    return prober.read(texts, kept=kept)


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
    config = config or ProbeConfig()
    bench = prober.bench
    if datasets is None:
        datasets = offline_datasets(bench.corpus, config.seed)

    name = prober.crossing.sae_name + ("-absolute" if config.absolute else "")
    texts = [(d.id, d.text) for dataset in datasets for d in dataset.documents]
    asked = {
        "own": prober.own_config.model_dump() | {"positions": prober.own_positions},
        "methods": METHODS,
        "datasets": {dataset.name: [dataset.title, dataset.says] for dataset in datasets},
        "texts": fingerprint(texts),
    }
    makers = bench.makers | prober.crossing.makers | config.model_dump(mode="json") | asked

    with only_one(bench.pair.key, "probes"):
        kinds = ("probes", "probe_features")
        if not all(bench.current(f"{kind}/{name}", makers) for kind in kinds):
            results, features = measure(prober, datasets, config)
            bench.workspace.put_table(f"probe_features/{name}", _lean(features), makers)
            bench.workspace.put_table(f"probes/{name}", _lean(results), makers)
    return name
