"""Every task, method and number of features, measured with intervals and kept in the workspace
(Fig. 3a, 9, 10)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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
from core.workspace.disk import fingerprint, kept_table
from core.workspace.places import user_cache
from core.workspace.units import share

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
    reading = _reading(prober, ids, texts)
    prober.own  # noqa: B018 - trained before anything is read
    x = prober.read(texts, kept=reading)

    place = {name: i for i, name in enumerate(ids)}
    tasks = [
        _task(dataset, label, config.seed, place)
        for dataset in datasets
        for label in dataset.probed
    ]
    tested = [name for task in tasks for name in task.tested]
    weights = draws(tested, config.resamples, config.seed)
    fits = _fitted(tasks, x, weights, prober, config, reading)

    of_datasets: dict[str, list[Curves]] = {}
    rows, features = [], []
    for task, (curves, chosen) in zip(tasks, fits, strict=True):
        of_datasets.setdefault(task.dataset, []).append(curves)
        about = {"dataset": task.dataset, "label": task.label}
        sizes = {"train": len(task.train), "test": len(task.test)}
        rows += _rows(curves, about | sizes)
        features.append(chosen.assign(**about))

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


def _reading(
    prober: Prober,
    ids: list[str],
    texts: list[str],
) -> str:
    """All that texts are read with, as the name under which their rows are kept."""
    return fingerprint(
        [
            prober.bench.makers,
            prober.crossing.about,
            prober.crossing.stitched,
            prober.own_makers,
            BLOCK,
            fingerprint([ids, texts]),
        ]
    )


@dataclass(frozen=True)
class Task:
    """One class against the rest of its dataset."""

    dataset: str
    label: str
    places: NDArray[np.intp]
    """Rows of the texts, those to train on first."""
    y: NDArray[np.int64]
    train: NDArray[np.intp]
    """Of `places`."""
    test: NDArray[np.intp]
    tested: list[str]
    """Documents to test on."""

    @property
    def key(self) -> str:
        """Which texts it is about, and what they are said to be."""
        return fingerprint([self.dataset, self.label, self.places.tolist(), self.y.tolist()])


def _task(
    dataset: Dataset,
    label: str,
    seed: int,
    place: Mapping[str, int],
) -> Task:
    """`place` says which row of the texts a document is."""
    train, y_train = one_against_rest(dataset.train, label, seed)
    test, y_test = one_against_rest(dataset.test, label, seed)
    return Task(
        dataset.name,
        label,
        np.array([place[d.id] for d in (*train, *test)]),
        np.r_[y_train, y_test],
        np.arange(len(train)),
        len(train) + np.arange(len(test)),
        [d.id for d in test],
    )


def _fitted(
    tasks: Sequence[Task],
    x: Arrays,
    weights: Mapping[str, NDArray[Any]],
    prober: Prober,
    config: ProbeConfig,
    reading: str,
) -> list[tuple[Curves, pd.DataFrame]]:
    """Of each task its curves and the features that Eq. 7 selects; processes with the same settings
    share the tasks."""
    asked = [reading, config.model_dump(mode="json"), METHODS, list(weights)]
    folder = user_cache() / "probes" / fingerprint(asked)
    crossing = prober.crossing
    with Progress("fitting probes", len(tasks), "tasks") as bar:

        def fit(task: Task) -> tuple[Curves, pd.DataFrame]:
            of_task = {name: values[task.places] for name, values in x.items()}

            def curves() -> pd.DataFrame:
                often = np.stack([weights[name] for name in task.tested], axis=1)
                stitches = crossing.stitch, crossing.shuffled
                scored = crossings(of_task, task.y, task.train, task.test, *stitches, config)
                return _table(scored, task.y[task.test], often)

            def features() -> pd.DataFrame:
                return selected(of_task, task.y, task.train, config)

            table = kept_table(folder / f"{task.key}.parquet", curves)
            chosen = kept_table(folder / f"{task.key}-features.parquet", features)
            bar.advance(1)
            return _curves(table), chosen

        fits = share(folder, {task.key: partial(fit, task) for task in tasks})
    return list(fits.values())


def _table(
    scored: Iterable[tuple[Method, NDArray[np.float64]]],
    y: NDArray[np.int64],
    often: NDArray[Any],
) -> pd.DataFrame:
    """Curves as they are kept: `method`, `k`, and of the sample and each draw `accuracy`, `auc`."""
    parts = []
    for method, scores in scored:
        outcome = Outcome(scores, y)
        measures = {"accuracy": outcome.accuracy(often), "auc": outcome.auc(often)}
        parts.append(pd.DataFrame({"method": method.name, "k": method.k} | measures))
    return pd.concat(parts, ignore_index=True)


def _curves(table: pd.DataFrame) -> Curves:
    by_method = table.groupby(["method", "k"], sort=False)
    return {
        Method(str(some.method.iloc[0]), int(some.k.iloc[0])): (
            some.accuracy.to_numpy(),
            some.auc.to_numpy(),
        )
        for _, some in by_method
    }


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
    current is not made again, and processes with the same settings share the work. `datasets` are
    the offline ones if not given."""
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

    kinds = ("probes", "probe_features")
    if not all(bench.current(f"{kind}/{name}", makers) for kind in kinds):
        results, features = measure(prober, datasets, config)
        tables = {f"probe_features/{name}": _lean(features), f"probes/{name}": _lean(results)}
        bench.put_tables(tables, makers)
    return name
