"""Probes as tidy tables for their page: tasks, ways to probe, and the features that were probed
(Fig. 3a, 9, 10).

Accuracy and AUC are fractions; intervals are 95 %, from a bootstrap over documents.
"""

from typing import Any, NamedTuple

import pandas as pd

from core.features import tables as feature_tables
from core.probes.tasks import class_title
from core.workspace import store
from core.workspace.store import Workspace


class Way(NamedTuple):
    """One way to probe."""

    label: str
    says: str
    role: str
    """'unpatched' (a model's own), 'transferred' or 'control'."""
    model: str


WAYS = {
    "own": Way(
        "B's own SAE", "features of an SAE trained on B, probe fitted in B", "unpatched", "b"
    ),
    "retrained": Way(
        "transferred, retrained", "A's features in B, probe fitted in B", "transferred", "b"
    ),
    "reused": Way(
        "transferred, reused", "A's features in B, A's probe as it is", "transferred", "b"
    ),
    "source": Way(
        "A's SAE in A",
        "where features were chosen and the reused probe was fitted",
        "unpatched",
        "a",
    ),
    "random": Way(
        "random features", "transferred features drawn at random, probe fitted in B", "control", "b"
    ),
    "shuffled": Way(
        "shuffled stitch", "A's probe through a stitch of shuffled pairs", "control", "b"
    ),
    "dense_own": Way(
        "dense, of B", "the residual stream of B, probe fitted in B", "unpatched", "b"
    ),
    "dense_moved": Way(
        "dense, of A, moved to B", "w P_down\u1d40, never fitted in B (B.2)", "transferred", "b"
    ),
    "dense_centred": Way(
        "dense, of A, moved and centred",
        "its threshold shifted by unlabelled texts",
        "transferred",
        "b",
    ),
    "dense_source": Way("dense, of A, in A", "the residual stream of A", "unpatched", "a"),
    "dense_shuffled": Way(
        "dense, shuffled stitch", "A's probe through a stitch of shuffled pairs", "control", "b"
    ),
}
"""In the order of their legend."""


def evaluated(ws: Workspace) -> list[str]:
    """What was evaluated: an SAE's name, with `-absolute` where features were chosen by size."""
    return [n.removeprefix("probes/") for n in ws.names(prefix="probes/")] if ws.exists else []


def results(ws: Workspace, name: str) -> pd.DataFrame:
    """See `core.probes.measure.measure`; dataset '' is the mean over datasets, label '' that over
    classes."""
    return ws.table(f"probes/{name}")


def setup(ws: Workspace, name: str) -> dict[str, Any]:
    """What the tables were made from: `stitch_name`, `sae_name`, layers, `datasets` (title and what
    it is about), `own` (how B's own SAE was trained) and so on."""
    return ws.entry(f"probes/{name}").makers


def curve(
    ws: Workspace,
    name: str,
    dataset: str = "",
    label: str = "",
) -> pd.DataFrame:
    """The rows of one task, or of a mean, each with its `way`, `role` and `model`."""
    table = results(ws, name)
    rows = table.loc[(table.dataset == dataset) & (table.label == label)]
    words = pd.DataFrame(
        [(k, w.label, w.says, w.role, w.model) for k, w in WAYS.items()],
        columns=["method", "way", "says", "role", "model"],
    )
    return words.merge(rows, on="method").sort_values("k", kind="stable").reset_index(drop=True)


def ks(ws: Workspace, name: str) -> list[int]:
    """Numbers of features that were measured."""
    return sorted(int(k) for k in results(ws, name).k.unique() if k)


def picker(ws: Workspace, name: str) -> pd.DataFrame:
    """One row a choice of the picker: `dataset`, `label`, `title`; first the mean, then each
    dataset (its mean, where it has several classes) and its classes."""
    table, titles = results(ws, name), setup(ws, name)["datasets"]
    rows = [("", "", f"Mean over {len(titles)} datasets")]
    for dataset, (title, _) in titles.items():
        labels = [x for x in table.loc[table.dataset == dataset, "label"].unique() if x]
        if len(labels) == 1:
            rows.append((dataset, labels[0], title))
        else:
            rows.append((dataset, "", f"{title}: mean over {len(labels)}"))
            rows += [(dataset, x, f"{title}: {class_title(x)}") for x in labels]
    return pd.DataFrame(rows, columns=["dataset", "label", "title"])


def probed(
    ws: Workspace,
    name: str,
    dataset: str,
    label: str,
    k: int,
) -> pd.DataFrame:
    """The k features of A's SAE for one task: `rank`, `feature`, `difference` of means in A (Eq. 7)
    and in B after transfer; `raises` and Eq. 10's `correlation` of the feature explorer."""
    table = ws.table(f"probe_features/{name}")
    rows = table.loc[(table.dataset == dataset) & (table.label == label) & (table["rank"] < k)]
    rows = described(ws, setup(ws, name)["sae_name"], rows.drop(columns=["dataset", "label"]))
    return rows.sort_values("rank").reset_index(drop=True)


def described(
    ws: Workspace,
    sae: str,
    rows: pd.DataFrame,
) -> pd.DataFrame:
    """Rows with a `feature` of A's SAE, beside what the feature explorer knows of it, where it was
    measured: `raises` and Eq. 10's `correlation`."""
    if not store.has(ws, f"features/{sae}"):
        return rows
    return rows.merge(
        feature_tables.features(ws, sae)[["feature", "raises", "correlation"]],
        on="feature",
        how="left",
    )


MEASURED = ("accuracy", "low", "high", "auc", "auc_low", "auc_high", "gap", "gap_low", "gap_high")


def record(ws: Workspace, name: str) -> dict[str, Any]:
    """For the report: `mean` and `datasets` by method and k (dense probes: k = 0), with what was
    probed."""
    table, about = results(ws, name), setup(ws, name)

    def by_method(rows: pd.DataFrame) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for row in rows.to_dict("records"):
            measured = {x: round(float(row[x]), 4) for x in MEASURED if row[x] == row[x]}
            out.setdefault(row["method"], {})[str(row["k"])] = measured
        return out

    means = table.loc[table.label == ""]
    return {
        "sae": about["sae_name"],
        "stitch": about["stitch_name"],
        "absolute": about["absolute"],
        "tasks": int((table.label != "").groupby([table.dataset, table.label]).any().sum()),
        "test_documents": int(means.loc[means.dataset == "", "test"].max()),
        "mean": by_method(means.loc[means.dataset == ""]),
        "datasets": {d: by_method(means.loc[means.dataset == d]) for d in about["datasets"]},
    }


def as_text(name: str, found: dict[str, Any]) -> str:
    lines = [
        f"probes {name}, stitch {found['stitch']}: accuracy, mean over {found['tasks']} tasks (95 %"
        " interval)"
    ]
    for method, by_k in found["mean"].items():
        cells = [
            f"{'' if k == '0' else f'k={k} '}{x['accuracy']:.3f} ({x['low']:.3f}, {x['high']:.3f})"
            for k, x in by_k.items()
        ]
        lines.append(f"  {method:14} " + "  ".join(cells))
    return "\n".join(lines)
