"""What crossing costs for each kind of text apart: a mean over kinds hides how few of a model's
positions crossed in some of them.

SmolLM2 spells other scripts byte by byte, so half of its positions there pair up with none of
Gemma's and keep their own residual stream: a loss that hardly rises says little of the stitch.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pandas as pd

from core.errors import StitchLensError
from core.models.pairs import get_pair
from core.stitches.conditions import BY_KEY, MEASURED, STITCHED, TABLE_1
from core.stitches.tables import _need, stitch_names, stitches, table_1
from core.workspace.store import Workspace


def by_kind(ws: Workspace, name: str) -> pd.DataFrame:
    """Table 1 of one stitch a kind of text, a row each, the kind that both models read best first:
    the least of the two models' larger losses, in bits a byte, unpatched.

    `kind`, `documents`; of each model `bits_a`, `bits_b` (unpatched, bits a byte), `crossed_a`,
    `crossed_b` (the share of its positions that are replaced); of each condition of Table 1 its
    loss (nats/token) and, where it is stitched, `<condition>_relative` and
    `<condition>_crossed`, its increase over all positions and over those that crossed alone.

    Raises StitchLensError where it was not measured or lacks a column.
    """
    where = f"table 'kinds/{name}'"
    table = ws.table(f"kinds/{name}")
    _need(table.columns, ("kind", "condition", *MEASURED), where)

    rows = []
    for kind, part in table.groupby("kind"):
        losses = part.set_index("condition")
        _need(losses.index, TABLE_1, f"kind '{kind}' of {where}")
        row = {"kind": str(kind), "documents": int(losses.documents.max())}

        for side in ("a", "b"):
            row[f"bits_{side}"] = float(losses.bits_per_byte[side])
            row[f"crossed_{side}"] = float(losses.share_patched[side])
        for condition in TABLE_1:
            row[condition] = float(losses.loss[condition])
        for condition in STITCHED:
            alone = losses.loss_patched
            unpatched = alone[BY_KEY[condition].model]
            row[f"{condition}_relative"] = float(losses.relative[condition])
            row[f"{condition}_crossed"] = float(alone[condition] / unpatched - 1)
        rows.append(row)

    kinds = pd.DataFrame(rows)
    order = kinds[["bits_a", "bits_b"]].max(axis=1).sort_values(kind="stable").index
    return kinds.loc[order].reset_index(drop=True)


def headline(ws: Workspace, name: str) -> dict[str, Any] | None:
    """The first row of `by_kind`: the text that both models read best, whose figures stand for the
    stitch. None where kinds were not measured."""
    with suppress(StitchLensError):
        return dict(by_kind(ws, name).iloc[0])
    return None


def headlines(ws: Workspace) -> pd.DataFrame:
    """The headline row of every stitch, by `name`, in the order of `stitch_names`; NaN where kinds
    were not measured, `kind` empty."""
    rows = []
    for name in stitch_names(ws):
        measured = headline(ws, name) or {}
        rows.append({"name": name, "kind": ""} | measured)

    relative = [f"{key}_relative" for key in STITCHED]
    columns = [
        "name",
        "kind",
        *TABLE_1,
        *relative,
        "crossed_a",
        "crossed_b",
    ]
    return pd.DataFrame(rows).reindex(columns=columns)


def beside_the_paper(ws: Workspace, others: Sequence[tuple[str, str]] = ()) -> pd.DataFrame:
    """Table 1 on the text that both models read best, a row a stitch of this pair, one of each
    workspace beside it (see `core.stitches.tables.others`), and the paper's rows: the columns of
    `core.stitches.tables.table_1` and `kind`, empty in the paper's."""
    parts = [_headline_rows(ws).assign(source="this workspace")]
    for pair, _ in others:
        with suppress(StitchLensError):
            other = Workspace(pair, ws.shared.root.parent)
            parts.append(_headline_rows(other).head(1).assign(source="another workspace"))

    whole = table_1(ws)
    parts.append(whole.loc[whole.source == "the paper"].assign(kind=""))
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def _headline_rows(ws: Workspace) -> pd.DataFrame:
    """`headlines` of the stitches that were measured; those whose kinds were not, on all text."""
    columns = [*TABLE_1, *(f"{key}_relative" for key in STITCHED)]
    rows = headlines(ws).set_index("name")
    whole = stitches(ws).set_index("name").assign(kind="all text")
    apart = rows.a.notna()
    rows = pd.concat([rows.loc[apart], whole.loc[~apart.reindex(whole.index), rows.columns[:1]]])
    rows[columns] = rows[columns].fillna(whole[columns])

    spec = get_pair(ws.pair)
    unpatched = {f"{key}_relative": 0.0 for key in ("a", "b")}
    measured = rows.dropna(subset=["a"]).rename_axis("label").reset_index()
    return measured.assign(pair=spec.title, family=spec.family, **unpatched)
