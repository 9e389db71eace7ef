"""A workspace as one plain object, and the health of an installation: what the command line
prints."""

from typing import Any

from core.features import alike
from core.features import tables as feature_tables
from core.functional import last_tables, sink_tables
from core.functional import tables as functional_tables
from core.models.pairs import PairSpec
from core.probes import tables as probe_tables
from core.saes import start_tables
from core.saes import tables as sae_tables
from core.steering import tables as steering_tables
from core.stitches import refined_tables
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
    names = [artifact.removeprefix("stitches/") for artifact in w.names("stitch")]
    out: dict[str, Any] = w.record("pair")
    out["stitches"] = {name: _stitch(w, name) for name in names}

    for name in ("alpha_sweep", "study"):
        if name in w.names("table"):
            out[name] = w.table(name).to_dict("records")

    if refined := refined_tables.refined_names(w):
        out["refine"] = {name: refined_tables.record(w, name) for name in refined}

    if measured := feature_tables.saes(w):
        name = measured[0]
        out["sae"] = _sae(w, name)
        out["features"] = feature_tables.feature_counts(w, name) | alike.report(w, name)

    if scanned := functional_tables.scanned(w):
        out["functional"] = functional_tables.summary(w, scanned[0])

    if crossed := sink_tables.sinks(w):
        out["sink"] = {name: sink_tables.summary(w, name) for name in crossed}
    if last := last_tables.measured(w):
        out["entropy_last"] = {name: last_tables.summary(w, name) for name in last}

    if store.has(w, "steering"):
        out["steering"] = steering(w)
    if followed := steering_tables.followed_report(w):
        out.setdefault("steering", {})["instructions"] = followed

    if probed := probe_tables.evaluated(w):
        out["probes"] = {name: probe_tables.record(w, name) for name in probed}

    if trained := sae_tables.sets(w):
        out["sae_training"] = {name: sae_tables.record(w, name) for name in trained}
    if studied := start_tables.sets(w):
        ablations = {name: start_tables.record(w, name) for name in studied}
        out.setdefault("sae_training", {})[sae_tables.ABLATIONS] = ablations
    return out


def _stitch(w: Workspace, name: str) -> dict[str, Any]:
    """What a stitch was made from and everything measured of it."""
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
        stitch |= _downstream(w, name)
    if f"kinds/{name}" in known:
        stitch |= _kinds(w, name)
    if f"quality/{name}" in known:
        stitch["quality"] = w.record(f"quality/{name}")
    return stitch


def _downstream(w: Workspace, name: str) -> dict[str, Any]:
    table = w.table(f"downstream/{name}").set_index("condition")
    details = table.drop(columns=["loss", "model"], errors="ignore")
    return {
        "downstream": table.loss.to_dict(),
        "downstream_details": {str(condition): dict(row) for condition, row in details.iterrows()},
    }


def _kinds(w: Workspace, name: str) -> dict[str, Any]:
    losses: dict[str, dict[str, float]] = {}
    for kind, rows in w.table(f"kinds/{name}").groupby("kind"):
        by_condition = zip(rows.condition, rows.loss, strict=True)
        losses[str(kind)] = {str(condition): float(loss) for condition, loss in by_condition}

    details = by_kind(w, name).to_dict("records")
    return {
        "downstream_by_kind": losses,
        "headline_kind": details[0]["kind"],
        "downstream_by_kind_details": {row.pop("kind"): row for row in details},
    }


def _sae(w: Workspace, name: str) -> dict[str, Any]:
    quality: dict[str, Any] = {"sae": name}
    for row in sae_tables.sae_quality(w, name).to_dict("records"):
        title = str(row["name"])
        quality[REPORTED.get(title, title)] = row
    return quality


def steering(w: Workspace) -> dict[str, Any]:
    """`a_to_b` (B steered, transferred vectors from A) and `b_to_a`, by language code and kind of
    vector: `rate` of responses in the language with its interval `low`, `high`, `n`; `success`,
    those that are fluent besides; `fluency`, nats/token under the unsteered model, beside
    `natural`, that of real text; the setting; `gap` (Eq. 16)."""
    out: dict[str, Any] = {"a_to_b": {}, "b_to_a": {}}
    for row in w.table("steering").to_dict("records"):
        way = out["a_to_b" if row.pop("side") == "b" else "b_to_a"]
        by_vector = way.setdefault(row.pop("language"), {})
        kind = row.pop("kind")
        fluency = row.pop("loss")
        gap = row.pop("gap")

        cell = {k: v for k, v in row.items() if k not in ("label", "name")}
        cell["fluency"] = fluency
        if gap == gap:
            cell["gap"] = gap
        by_vector[kind] = cell
    return out
