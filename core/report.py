"""A workspace as one plain object, and the health of an installation: what the command line
prints."""

from typing import Any

from core.features import alike
from core.features import tables as feature_tables
from core.functional import tables as functional_tables
from core.models.pairs import PairSpec
from core.probes import tables as probe_tables
from core.saes import tables as sae_tables
from core.stitches.kinds import by_kind
from core.workspace import store
from core.workspace.store import Workspace

REPORTED = {"random SAE, transferred": "random", "shuffled-pair stitch": "shuffled"}
"""Short names of Table 2's controls."""


def report(pair: PairSpec) -> dict[str, Any]:
    """Everything measured of a pair. `stitches.<name>.downstream` holds losses in nats/token by
    condition; `downstream_by_kind_details` the rows of `core.stitches.kinds.by_kind`, that of
    `headline_kind` first."""
    w = Workspace(pair.key)
    out: dict[str, Any] = w.record("pair") | {"stitches": {}}
    for name in (n.removeprefix("stitches/") for n in w.names("stitch")):
        entry = w.entry(f"stitches/{name}")
        stitch: dict[str, Any] = {
            "layer_a": entry.makers["layer_a"],
            "layer_b": entry.makers["layer_b"],
            "made": entry.made,
            "method": entry.makers["method"],
            "metric": entry.makers["metric"],
            "alpha": entry.makers["alpha"],
        }
        known = w.manifest().artifacts
        if f"downstream/{name}" in known:
            table = w.table(f"downstream/{name}").set_index("condition")
            stitch["downstream"] = table.loss.to_dict()
            columns = [c for c in table.columns if c not in ("loss", "model")]
            stitch["downstream_details"] = {
                str(k): dict(row) for k, row in table[columns].iterrows()
            }
        if f"kinds/{name}" in known:
            for kind, rows in w.table(f"kinds/{name}").groupby("kind"):
                losses = {str(c): float(x) for c, x in zip(rows.condition, rows.loss, strict=True)}
                stitch.setdefault("downstream_by_kind", {})[str(kind)] = losses
            rows = by_kind(w, name).to_dict("records")
            stitch["headline_kind"] = rows[0]["kind"]
            stitch["downstream_by_kind_details"] = {row.pop("kind"): row for row in rows}
        if f"quality/{name}" in known:
            stitch["quality"] = w.record(f"quality/{name}")
        out["stitches"][name] = stitch
    if "alpha_sweep" in w.names("table"):
        out["alpha_sweep"] = w.table("alpha_sweep").to_dict("records")
    if "study" in w.names("table"):
        out["study"] = w.table("study").to_dict("records")
    measured = feature_tables.saes(w)
    if measured:
        rows = sae_tables.sae_quality(w, measured[0]).to_dict("records")
        out["sae"] = {"sae": measured[0]} | {
            REPORTED.get(str(r["name"]), str(r["name"])): r for r in rows
        }
        out["features"] = feature_tables.feature_counts(w, measured[0])
        out["features"] |= alike.report(w, measured[0])
    if found := functional_tables.scanned(w):
        out["functional"] = functional_tables.summary(w, found[0])
    if store.has(w, "steering"):
        out["steering"] = steering(w)
    if probed := probe_tables.evaluated(w):
        out["probes"] = {name: probe_tables.record(w, name) for name in probed}
    if trained := sae_tables.sets(w):
        out["sae_training"] = {name: sae_tables.record(w, name) for name in trained}
    return out


def steering(w: Workspace) -> dict[str, Any]:
    """`a_to_b` (B steered, transferred vectors from A) and `b_to_a`, by language code and kind of
    vector: `rate` of responses in the language with its interval `low`, `high`, `n`; `success`,
    those that are fluent besides; `fluency`, nats/token under the unsteered model, beside
    `natural`, that of real text; the setting; `gap` (Eq. 16)."""
    out: dict[str, Any] = {"a_to_b": {}, "b_to_a": {}}
    for row in w.table("steering").to_dict("records"):
        way = out["a_to_b" if row.pop("side") == "b" else "b_to_a"]
        fluency, gap = row.pop("loss"), row.pop("gap")
        cell = {k: v for k, v in row.items() if k not in ("label", "language", "name", "kind")} | {
            "fluency": fluency
        }
        if gap == gap:
            cell["gap"] = gap
        way.setdefault(row["language"], {})[row["kind"]] = cell
    return out
