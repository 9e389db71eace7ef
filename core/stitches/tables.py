"""From a workspace's artifacts to tidy tables that a page draws as they are.

Losses are in nats per token of the model that comes last and is scored; relative losses, FUV and
inversion errors are fractions. Every function raises StitchLensError where an artifact is missing,
damaged or lacks a column.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd

from core.config import POSITIONS, check
from core.errors import StitchLensError
from core.models.pairs import PAIRS, LayerPair, PairSpec, get_pair, pairs_with_workspace
from core.statistics import share_interval
from core.stitches.conditions import BY_KEY, CONDITIONS, MEASURED, STITCHED, TABLE_1
from core.stitches.settings import FitConfig
from core.workspace.store import Workspace, makers, stamp


def about(ws: Workspace) -> dict[str, Any]:
    """The record `pair`: both models, the corpus and its splits, the alignment, the default
    stitch."""
    record = ws.record("pair")
    _need(record, ("title", "a", "b", "corpus", "alignment"), "record 'pair'")
    return record


def stitch_names(ws: Workspace) -> list[str]:
    """The stitches that were fitted, the default one first."""
    names = [n.removeprefix("stitches/") for n in ws.names(prefix="stitches/")]
    default = None
    with suppress(StitchLensError):  # no record, or a damaged one, which `about` reports
        default = about(ws).get("default_stitch")
    return sorted(names, key=lambda n: (n != default, n))


def by_hand(ws: Workspace, name: str) -> bool:
    """Whether a person fitted, refined or brought a stitch, so that it may go: not one of the
    build, nor the default one."""
    default = None
    with suppress(StitchLensError):
        default = about(ws).get("default_stitch")
    why = makers(ws, f"stitches/{name}").get("why")
    return name != default and why in ("chosen by hand", "imported", "refined")


def made_through(ws: Workspace, name: str) -> list[str]:
    """What was measured through a stitch and would be left without it: 'features/L2-1024' and the
    like."""
    return [
        full
        for full, artifact in ws.manifest().artifacts.items()
        if artifact.makers.get("stitch_name") == name
    ]


def stitches_from(ws: Workspace, sae: str) -> list[str]:
    """The stitches through which an SAE of A can cross: those from its layer, the default one
    first."""
    layer = makers(ws, f"saes/{sae}").get("layer_a")
    return [
        name for name in stitch_names(ws) if makers(ws, f"stitches/{name}").get("layer_a") == layer
    ]


def stitches(ws: Workspace) -> pd.DataFrame:
    """One row a stitch, the default first: `name`, layers, `method`, `metric`, `alpha`,
    `positions`, `made`; the losses of Table 1 and `<condition>_relative`; `fuv_up`, `fuv_down`.
    What was not measured is NaN; so is what cannot be read, and `fault` says why.
    """
    artifacts = ws.manifest().artifacts
    rows = []
    for name in stitch_names(ws):
        entry = artifacts[f"stitches/{name}"]
        row: dict[str, Any] = {
            "name": name,
            "made": pd.Timestamp(entry.made) if entry.made else pd.NaT,
            "fault": "",
        }
        row |= {k: entry.makers.get(k) for k in ("layer_a", "layer_b", "method", "metric", "alpha")}
        if row["method"] == "imported":
            row["alpha"] = np.nan
        row["positions"] = entry.makers.get("n_fit") or entry.makers.get("positions")
        try:
            if f"downstream/{name}" in artifacts:
                losses = downstream(ws, name).set_index("condition")
                for key in TABLE_1:
                    row[key], row[f"{key}_relative"] = losses.loc[key, ["loss", "relative"]]
            if f"quality/{name}" in artifacts:
                row |= {k: quality(ws, name).get(k) for k in ("fuv_up", "fuv_down")}
        except StitchLensError as e:
            row["fault"] = str(e)
        rows.append(row)
    columns = [
        "name",
        "layer_a",
        "layer_b",
        "method",
        "metric",
        "alpha",
        "positions",
        "made",
        "fuv_up",
        "fuv_down",
    ]
    columns += [*TABLE_1, *(f"{key}_relative" for key in TABLE_1), "fault"]
    return pd.DataFrame(rows).reindex(columns=columns)


def downstream(ws: Workspace, name: str) -> pd.DataFrame:
    """Table 1 and its controls for one stitch, in the order of CONDITIONS, with `label`, `role` and
    `says` beside the measured columns: `loss` with `low` and `high` (95 %), `relative` with its
    own, `bits_per_byte`, `loss_patched`, `share_patched`, `tokens`, `documents`.
    """
    table = ws.table(f"downstream/{name}")
    where = f"table 'downstream/{name}'"
    _need(table.columns, ("condition", *MEASURED), where)
    _need(table.condition, TABLE_1, where)
    table = table.set_index("condition").reindex(
        [c.key for c in CONDITIONS if c.key in set(table.condition)]
    )
    table = table.rename_axis("condition").reset_index()
    for field in ("label", "role", "model", "says"):
        table[field] = [getattr(BY_KEY[key], field) for key in table.condition]
    return table


def quality(ws: Workspace, name: str) -> dict[str, Any]:
    """FUV and inversion error of one stitch, each way, and Eq. 3, on the held-out split: fractions
    of variance."""
    return ws.record(f"quality/{name}")


def card(ws: Workspace, name: str) -> dict[str, Any]:
    """The report card of an imported stitch: see `core.stitches.card.report_card`."""
    return ws.record(f"cards/{name}")


def others(ws: Workspace) -> tuple[tuple[str, str], ...]:
    """(pair, stamp) of every other workspace beside this one that can be read."""
    readable = []
    for key in pairs_with_workspace(ws.shared.root.parent):
        if key != ws.pair:
            with suppress(StitchLensError):
                readable.append((key, stamp(Workspace(key, ws.shared.root.parent))))
    return tuple(readable)


def table_1(ws: Workspace, beside: Sequence[tuple[str, str]] = ()) -> pd.DataFrame:
    """Table 1 of this pair's stitches, of the default stitch of each workspace `beside` it (see
    `others`), and the paper's: `label`, `pair`, `family`, `source` ('this workspace', 'another
    workspace' or 'the paper'), for each of its columns the loss and `<condition>_relative`. The
    paper's relative losses follow from its rounded losses.
    """
    parts = [_measured(ws).assign(source="this workspace")]
    for pair, _ in beside:
        with suppress(StitchLensError):
            parts.append(
                _measured(Workspace(pair, ws.shared.root.parent))
                .head(1)
                .assign(source="another workspace")
            )
    parts.append(
        pd.DataFrame([_paper(p) for p in PAIRS.values() if p.paper]).assign(source="the paper")
    )
    columns = [
        "label",
        "pair",
        "family",
        "source",
        *TABLE_1,
        *(f"{key}_relative" for key in TABLE_1),
    ]
    return pd.concat(
        [part.reindex(columns=columns) for part in parts if len(part)], ignore_index=True
    )


def _measured(ws: Workspace) -> pd.DataFrame:
    spec = get_pair(ws.pair)
    table = stitches(ws).dropna(subset=["a"]).rename(columns={"name": "label"})
    return table.assign(pair=spec.title, family=spec.family)


def _paper(pair: PairSpec) -> dict[str, Any]:
    printed = pair.paper
    assert printed is not None
    row: dict[str, Any] = {
        "label": printed.label,
        "pair": pair.title,
        "family": pair.family,
    }
    unpatched = {"a": printed.a, "b": printed.b}
    for key in TABLE_1:
        loss = getattr(printed, key)
        row[key] = loss
        row[f"{key}_relative"] = loss / unpatched[BY_KEY[key].model] - 1
    return row


def svcca(ws: Workspace) -> pd.DataFrame:
    """Every layer pair with its score (Fig. 6), `best` where it is the argmax for its layer of A
    (A.1), and `stitches`: the names of those fitted there, joined by commas.
    """
    table = ws.table("svcca")
    _need(table.columns, ("layer_a", "layer_b", "svcca", "n", "chance"), "table 'svcca'")
    table["best"] = table.svcca == table.groupby("layer_a").svcca.transform("max")

    fitted: Any = {}
    if stitch_names(ws):
        fitted = stitches(ws).groupby(["layer_a", "layer_b"]).name.agg(", ".join)
    places = zip(table.layer_a, table.layer_b, strict=True)
    table["stitches"] = [fitted.get(place, "") for place in places]
    return table


def opposite(
    ws: Workspace,
    pair: PairSpec,
    layer_a: int,
) -> int:
    """The layer of B that a stitch from a layer of A would lead to: SVCCA's pick where the
    workspace has it, else the one at the same share of the depth."""
    if ws.exists and "svcca" in ws.names():
        table = ws.table("svcca")
        row = table[table.layer_a == layer_a]
        return int(row.loc[row.svcca.idxmax(), "layer_b"])
    return min(round(layer_a * pair.b.n_layers / pair.a.n_layers), pair.b.n_layers - 1)


def alpha_sweep(
    ws: Workspace,
    layer_a: int,
    layer_b: int,
) -> pd.DataFrame:
    """Fig. 7 for one layer pair, tidy: `metric`, `alpha`, `condition`, `label`, `model`, `loss`,
    `base` (the unpatched model's loss) and `relative`. Empty where this layer pair was not swept.
    """
    table = ws.table("alpha_sweep")
    _need(table.columns, ("stitch", "metric", "alpha", *TABLE_1), "table 'alpha_sweep'")
    table = table.loc[table.stitch == LayerPair(a=layer_a, b=layer_b).name].sort_values(
        ["metric", "alpha"]
    )
    tidy = table.melt(["metric", "alpha", "a", "b"], list(STITCHED), "condition", "loss")
    tidy["label"] = [BY_KEY[c].label for c in tidy.condition]
    tidy["model"] = [BY_KEY[c].model for c in tidy.condition]
    tidy["base"] = tidy.a.where(tidy.model == "a", tidy.b)
    return tidy.assign(relative=tidy.loss / tidy.base - 1).drop(columns=["a", "b"])


def study(ws: Workspace) -> pd.DataFrame:
    """The study on the select split that chose the default setting: relative losses beside the
    losses, least A→B first in each layer pair, `chosen` where the default stitch has that method,
    metric and α.
    """
    table = ws.table("study")
    _need(
        table.columns,
        ("layer_a", "layer_b", "method", "metric", "alpha", *TABLE_1),
        "table 'study'",
    )
    for key in STITCHED:
        table[f"{key}_relative"] = table[key] / table[BY_KEY[key].model] - 1
    names = stitch_names(ws)
    makers = ws.entry(f"stitches/{names[0]}").makers if names else {}
    table["chosen"] = [
        all(makers.get(key) == row[key] for key in ("method", "metric", "alpha"))
        for row in table.to_dict("records")
    ]
    return table.sort_values(["layer_a", "layer_b", "a_to_b"]).reset_index(drop=True)


def structural_share(table: pd.DataFrame, bins: int = 20) -> pd.DataFrame:
    """Fig. 4b, counted: of `features` with their `kind`, the semantic and structural ones in each
    of `bins` equal parts of Eq. 10 from -1 to 1, both ends in: `low`, `high`, `structural`, `n` of
    both, `share` with its 95 % interval `share_low`, `share_high` (NaN where n is 0)."""
    edges = np.linspace(-1, 1, bins + 1)

    def counted(kind: str) -> Any:
        correlations = table.correlation[table.kind == kind].dropna()
        return np.histogram(correlations, edges)[0]

    structural = counted("structural")
    n = structural + counted("semantic")
    unknown = (np.nan, np.nan)
    intervals = [
        share_interval(int(hits), int(of)) if of else unknown
        for hits, of in zip(structural, n, strict=True)
    ]
    return pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "structural": structural,
            "n": n,
            "share": np.where(n > 0, structural / np.maximum(n, 1), np.nan),
            "share_low": [low for low, _ in intervals],
            "share_high": [high for _, high in intervals],
        }
    )


def least_positions(pair: PairSpec) -> int:
    """Paired positions below which Eq. 3 is not determined well: twice both widths."""
    return 2 * (pair.a.d_model + pair.b.d_model)


def default_name(
    layers: LayerPair,
    config: FitConfig,
    positions: int | None = POSITIONS,
) -> str:
    """How a stitch is called that nobody named: L20-L9-exact-std-1, and the number of pairs of
    positions, or that it was all, where it was not fitted on as many as usual."""
    parts = [layers.name, config.method, config.metric]
    if config.method != "lstsq":
        parts.append(f"{config.alpha:g}")
    if positions != POSITIONS:
        parts.append(str(positions or "all"))
    return "-".join(parts)


def free_name(
    ws: Workspace,
    layer_a: int,
    layer_b: int,
    method: str,
    metric: str,
    alpha: float,
) -> str:
    """A name for a new stitch that says how it is made and is not taken."""
    config = check(
        FitConfig,
        method=method,
        metric=metric,
        alpha=alpha,
    )
    base = default_name(LayerPair(a=layer_a, b=layer_b), config)
    taken = set(ws.names(prefix="stitches/")) if ws.exists else set()
    name = base
    number = 1
    while f"stitches/{name}" in taken:
        number += 1
        name = f"{base}-{number}"
    return name


def _need(
    names: Iterable[Any],
    wanted: Iterable[str],
    where: str,
) -> None:
    names = list(names)
    if lacking := [name for name in wanted if name not in names]:
        raise StitchLensError(
            f"{where} without {', '.join(lacking)}",
            "what this version of StitchLens writes",
            "rebuild the workspace",
        )


def as_text(name: str, stitch: dict[str, Any]) -> str:
    """What `stitch fit` prints, from the report's entry of a stitch."""
    lines = [f"{name}: {stitch['method']}, metric {stitch['metric']}, alpha {stitch['alpha']:g}"]
    for condition, loss in stitch.get("downstream", {}).items():
        details = stitch["downstream_details"][condition]
        lines.append(
            f"  {condition:16} {loss:6.3f} nats/token"
            f" [{details['low']:.3f}, {details['high']:.3f}] "
            f" {details['relative']:+7.1%}"
            f"  {details['bits_per_byte']:.3f} bits/byte"
            f"  patched {details['share_patched']:.0%}"
        )

    for kind, losses in stitch.get("downstream_by_kind", {}).items():
        up = losses["a_to_b"] / losses["b"] - 1
        down = losses["b_to_a"] / losses["a"] - 1
        lines.append(f"  {kind}: A→B {up:+.1%}, B→A {down:+.1%}")

    errors = stitch.get("quality", {})
    if errors:
        lines.append(f"  FUV up {errors['fuv_up']:.3f}, down {errors['fuv_down']:.3f}")
        lines.append(
            f"  inversion error A {errors['inversion_a']:.4f}, B {errors['inversion_b']:.4f}"
        )
    return "\n".join(lines)
