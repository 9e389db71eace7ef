"""Explanations of features in words of others, beside our labels: the table `explanations/` of an
SAE.

Whether a free text tells where a feature fires cannot be found out without a model that reads it:
what was imported (`core.features.explanations`) has no score of ours (NaN); what an explainer wrote
was scored (`core.features.explain`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from core.workspace.disk import fingerprint
from core.workspace.store import Workspace, has

GROUP = "explanations"
IMPORTED, EXPLAINED = "Neuronpedia", "explainer"
"""Where an explanation comes from, as `origin` has it."""
COLUMNS = (
    "feature",
    "text",
    "source",
    "type",
    "origin",
    "f1_a",
    "f1_b",
    "n_a",
    "n_b",
    "claimed",
    "claimed_by",
)


def of_sae(ws: Workspace, sae: str) -> pd.DataFrame:
    """Every explanation of an SAE's features, by feature: `feature`, `text`; `source`, who said it;
    `type`, by which method; `origin` (IMPORTED or EXPLAINED); `f1_a`, `f1_b`, how well a reader who
    knows the text alone tells held-out passages in which the feature fires in A, and carried over
    in B, from others (NaN: not scored), of `n_a`, `n_b` passages; `claimed`, the score that a file
    gives it, `claimed_by` which one. None where there are none, or where they are of an SAE that
    had this name before."""
    return ws.table(f"{GROUP}/{sae}") if _current(ws, sae) else as_table([])


def of_feature(
    ws: Workspace,
    sae: str,
    feature: int,
) -> pd.DataFrame:
    """Those of one feature, see `of_sae`, the best scored first."""
    if not _current(ws, sae):
        return as_table([])
    table = ws.table(f"{GROUP}/{sae}", feature=feature)
    return table.sort_values(
        "f1_a",
        ascending=False,
        kind="stable",
        na_position="last",
        ignore_index=True,
    )


def of_another(ws: Workspace, sae: str) -> int:
    """How many are kept of an SAE that had this name before, and so are not shown."""
    name = f"{GROUP}/{sae}"
    if not has(ws, name) or _current(ws, sae):
        return 0
    return len(ws.table(name, ["feature"]))


def _current(ws: Workspace, sae: str) -> bool:
    """Whether there are any, of the SAE that is there now."""
    name = f"{GROUP}/{sae}"
    return has(ws, name) and ws.entry(name).makers.get("sae") == _hash(ws, sae)


def _hash(ws: Workspace, sae: str) -> str:
    return fingerprint(ws.entry(f"saes/{sae}").makers)


def keep(
    ws: Workspace,
    sae: str,
    table: pd.DataFrame,
    by_feature: bool = False,
) -> pd.DataFrame:
    """Add explanations to those of an SAE; what the same sources said before goes, all of it or,
    `by_feature`, only of the features of `table`. Returns all that there are now."""
    before = of_sae(ws, sae)
    again = before.source.isin(table.source.unique())
    if by_feature:
        replaced = set(zip(table.source, table.feature, strict=True))
        pairs = zip(before.source, before.feature, strict=True)
        again = pd.Series([pair in replaced for pair in pairs], before.index, dtype=bool)

    parts = [part for part in (before.loc[~again], table) if len(part)]
    whole = pd.concat(parts).sort_values("feature", kind="stable", ignore_index=True)
    makers = {
        "pair": ws.pair,
        "sae_name": sae,
        "sae": _hash(ws, sae),
        "brought": True,  # nothing here can make them again
        "sources": sorted(whole.source.unique().tolist()),
    }
    ws.put_table(f"{GROUP}/{sae}", whole, makers)
    return whole


def as_table(rows: Sequence[Sequence[Any]]) -> pd.DataFrame:
    """Rows in the order of COLUMNS."""
    table = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    numbers = dict.fromkeys(("f1_a", "f1_b", "claimed"), np.float32)
    whole = dict.fromkeys(("feature", "n_a", "n_b"), np.int32)
    words = dict.fromkeys(("text", "source", "type", "origin", "claimed_by"), object)
    return table.astype(numbers | whole | words)


def scored(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Records with `feature`, `text`, `source`, `type`, `origin` and, where they were scored, the
    other columns of `of_sae`."""
    unscored = {"f1_a": np.nan, "f1_b": np.nan, "n_a": 0, "n_b": 0}
    blank = unscored | {"claimed": np.nan, "claimed_by": ""}
    return as_table([[(blank | row)[column] for column in COLUMNS] for row in rows])
