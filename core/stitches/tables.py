"""From a workspace's artifacts to tidy tables that a page draws as they are.

Losses are in nats per token of the model that comes last and is scored; relative losses, FUV and inversion errors are
fractions. Every function raises StitchLensError where an artifact is missing, damaged or lacks a column.
"""

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.errors import StitchLensError
from core.models.pairs import PAIRS, LayerPair, PairSpec, get_pair, known_pairs
from core.workspace.places import workspaces_dir
from core.workspace.store import Workspace, fingerprint


class Condition(NamedTuple):
    """One row of Table 1 or of its controls."""

    key: str
    label: str
    model: str
    """'a' or 'b': the model that comes last and is scored."""
    role: str
    """'unpatched', 'transferred' or 'control'."""
    says: str


CONDITIONS = (
    Condition("a", "A", "a", "unpatched", "model A as it is"),
    Condition("b_to_a", "B→A", "a", "transferred", "B's residual mapped down (Eq. 2), the rest of A after it"),
    Condition("a_to_b_to_a", "A→B→A", "a", "transferred", "A's residual up and down again, the rest of A after it"),
    Condition("shuffled_b_to_a", "B→A, shuffled", "a", "control", "a stitch fitted on shuffled pairs"),
    Condition("mean_ablated_a", "A, mean-ablated", "a", "control", "A's residual replaced by its mean"),
    Condition("b", "B", "b", "unpatched", "model B as it is"),
    Condition("a_to_b", "A→B", "b", "transferred", "A's residual mapped up (Eq. 1), the rest of B after it"),
    Condition("b_to_a_to_b", "B→A→B", "b", "transferred", "B's residual down and up again, the rest of B after it"),
    Condition("shuffled_a_to_b", "A→B, shuffled", "b", "control", "a stitch fitted on shuffled pairs"),
    Condition("mean_ablated_b", "B, mean-ablated", "b", "control", "B's residual replaced by its mean"),
)  # fmt: skip
BY_KEY = {c.key: c for c in CONDITIONS}
TABLE_1 = ("a", "b", "a_to_b", "b_to_a", "a_to_b_to_a", "b_to_a_to_b")
"""The columns of the paper's Table 1, in its order."""
STITCHED = TABLE_1[2:]
MEASURED = (
    "loss", "low", "high", "relative", "relative_low", "relative_high", "bits_per_byte", "loss_patched",
    "share_patched", "tokens", "documents",
)  # fmt: skip

WHAT = {
    "pair": "The pair, its corpus, its alignment",
    "svcca": "Which layers correspond (Fig. 6)",
    "study": "In which metric to measure Eq. 3",
    "alpha_sweep": "How strong inversion should be (Fig. 7)",
    "stitches": "Stitches (Eq. 1 to 3)",
    "downstream": "Downstream losses (Table 1)",
    "kinds": "Downstream losses by kind of text",
    "quality": "Variance unexplained, inversion errors",
    "controls": "Controls: stitches of shuffled pairs",
    "cards": "Report cards of imported stitches",
    "sae_cards": "Report cards of SAEs that were brought",
    "vectors": "Steering vectors that were brought",
    "vector_cards": "Their report cards",
    "saes": "Sparse autoencoders of A",
    "sae_quality": "SAEs before and after transfer (Table 2)",
    "features": "Features: Eq. 10, semantic or structural",
    "examples_a": "Top contexts of features in A",
    "examples_b": "Top contexts of features in B",
    "together_a": "The same contexts as A reads them",
    "together_b": "The same contexts as B reads them",
    "histograms_a": "Activation histograms in A",
    "histograms_b": "Activation histograms in B",
    "logits": "Tokens that features raise and lower",
    "functional": "Functional features: entropy, attention (Fig. 5)",
    "probes": "Probes of both models on every task (Fig. 3a, 9, 10)",
    "probe_features": "Features that were probed (Eq. 7)",
    "sae_training": "SAEs of B trained from several starts (Fig. 2, D)",
    "sae_curves": "Their curves: explained variance, dead features, FLOPs (Fig. 2a)",
    "sae_costs": "FLOPs of SAEs and stitches (Table 3)",
    "language_means": "Mean residual streams of each language",
    "steering": "Response languages under steering (Tables 5, 6)",
    "steering_choice": "Settings that the first half of the prompts chose from",
    "generations": "What was written under steering",
}
"""What each group of artifacts is."""
RESAMPLES = 200
"""Draws of a bootstrap."""
METHODS = {
    "exact": ("exact solves", "each map given the other is solved exactly from the moments, in turns, to convergence"),
    "adam": ("Adam, as in the paper", "Adam on both maps at once, 2 epochs (A)"),
    "lstsq": ("least squares", "each way by itself, without the inversion terms"),
}
"""Ways to minimise Eq. 3: a short and a longer word for each."""
METRICS = {
    "std": ("std", "every dimension at unit standard deviation"),
    "whiten": ("whitened", "by the inverse of each side's (shrunk) covariance"),
    "rms": ("rms", "each side at unit root mean square"),
    "raw": ("raw, as in the paper", "residual units as they are"),
}
"""Units in which the errors of Eq. 3 are measured: a short and a longer word for each."""


def pairs_with_workspace(root: Path | None = None) -> list[str]:
    """Keys of the pairs that have a workspace, and of those that a person added, in the registry's order."""
    return [key for key in known_pairs() if key not in PAIRS or Workspace(key, root or workspaces_dir()).exists]


def stamp(ws: Workspace) -> str:
    """Changes whenever an artifact does: hashes from the manifest, sizes and times from the disk."""
    files = []
    for name, artifact in ws.manifest().artifacts.items():
        path = ws.root / artifact.path
        stat = path.stat() if path.exists() else None
        files.append((name, artifact.sha256, stat and (stat.st_size, stat.st_mtime_ns)))
    return fingerprint(files)


def about(ws: Workspace) -> dict[str, Any]:
    """The record `pair`: both models, the corpus and its splits, the alignment, the default stitch."""
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
    """Whether a person fitted or brought a stitch, so that it may go: not one of the build, nor the default one."""
    default = None
    with suppress(StitchLensError):
        default = about(ws).get("default_stitch")
    why = makers(ws, f"stitches/{name}").get("why")
    return name != default and why in ("chosen by hand", "imported")


def made_through(ws: Workspace, name: str) -> list[str]:
    """What was measured through a stitch and would be left without it: 'features/L2-1024' and the like."""
    return [full for full, artifact in ws.manifest().artifacts.items() if artifact.makers.get("stitch_name") == name]


def stitches_from(ws: Workspace, sae: str) -> list[str]:
    """The stitches through which an SAE of A can cross: those from its layer, the default one first."""
    layer = makers(ws, f"saes/{sae}").get("layer_a")
    return [name for name in stitch_names(ws) if makers(ws, f"stitches/{name}").get("layer_a") == layer]


def stitches(ws: Workspace) -> pd.DataFrame:
    """One row a stitch, the default first: `name`, layers, `method`, `metric`, `alpha`, `positions`, `made`; the losses
    of Table 1 and `<condition>_relative`; `fuv_up`, `fuv_down`. What was not measured is NaN; so is what cannot be
    read, and `fault` says why.
    """
    artifacts = ws.manifest().artifacts
    rows = []
    for name in stitch_names(ws):
        entry = artifacts[f"stitches/{name}"]
        row: dict[str, Any] = {"name": name, "made": pd.Timestamp(entry.made) if entry.made else pd.NaT, "fault": ""}
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
    columns = ["name", "layer_a", "layer_b", "method", "metric", "alpha", "positions", "made", "fuv_up", "fuv_down"]
    columns += [*TABLE_1, *(f"{key}_relative" for key in TABLE_1), "fault"]
    return pd.DataFrame(rows).reindex(columns=columns)


def downstream(ws: Workspace, name: str) -> pd.DataFrame:
    """Table 1 and its controls for one stitch, in the order of CONDITIONS, with `label`, `role` and `says` beside the
    measured columns: `loss` with `low` and `high` (95 %), `relative` with its own, `bits_per_byte`, `loss_patched`,
    `share_patched`, `tokens`, `documents`.
    """
    table = ws.table(f"downstream/{name}")
    where = f"table 'downstream/{name}'"
    _need(table.columns, ("condition", *MEASURED), where)
    _need(table.condition, TABLE_1, where)
    table = table.set_index("condition").reindex([c.key for c in CONDITIONS if c.key in set(table.condition)])
    table = table.rename_axis("condition").reset_index()
    for field in ("label", "role", "model", "says"):
        table[field] = [getattr(BY_KEY[key], field) for key in table.condition]
    return table


def kinds(ws: Workspace, name: str) -> pd.DataFrame:
    """Table 1 for each kind of text apart, one row a kind: `kind`, `documents`, `bits_a` and `bits_b` (unpatched, bits
    a byte), and for each stitched condition `<condition>_relative`. Sorted by the loss of A in bits a byte.
    """
    table = ws.table(f"kinds/{name}")
    _need(table.columns, ("kind", "condition", *MEASURED), f"table 'kinds/{name}'")
    rows = []
    for kind, part in table.groupby("kind"):
        part = part.set_index("condition")
        _need(part.index, TABLE_1, f"kind '{kind}' of table 'kinds/{name}'")
        row = {"kind": str(kind), "documents": int(part.documents.max())}
        row |= {f"bits_{m}": float(part.bits_per_byte[m]) for m in ("a", "b")}
        rows.append(row | {f"{key}_relative": float(part.relative[key]) for key in STITCHED})
    return pd.DataFrame(rows).sort_values("bits_a").reset_index(drop=True)


def quality(ws: Workspace, name: str) -> dict[str, Any]:
    """FUV and inversion error of one stitch, each way, and Eq. 3, on the held-out split: fractions of variance."""
    return ws.record(f"quality/{name}")


def card(ws: Workspace, name: str) -> dict[str, Any]:
    """The report card of an imported stitch: see `core.stitches.card.report_card`."""
    return ws.record(f"cards/{name}")


def vectors(ws: Workspace) -> list[str]:
    """The steering vectors that were brought, by name."""
    return [n.removeprefix("vectors/") for n in ws.names(prefix="vectors/")]


def sae_card(ws: Workspace, name: str) -> dict[str, Any]:
    """The report card of an SAE that was brought: see `core.saes.card.sae_card`."""
    return ws.record(f"sae_cards/{name}")


def vector_card(ws: Workspace, name: str) -> dict[str, Any]:
    """The report card of a vector that was brought: see `core.steering.card.vector_card`."""
    return ws.record(f"vector_cards/{name}")


def cards_of_saes(ws: Workspace) -> list[str]:
    """The SAEs that were brought, by name."""
    return [n.removeprefix("sae_cards/") for n in ws.names(prefix="sae_cards/")]


def others(ws: Workspace) -> tuple[tuple[str, str], ...]:
    """(pair, stamp) of every other workspace beside this one that can be read."""
    found = []
    for key in pairs_with_workspace(ws.shared.root.parent):
        if key != ws.pair:
            with suppress(StitchLensError):
                found.append((key, stamp(Workspace(key, ws.shared.root.parent))))
    return tuple(found)


def table_1(ws: Workspace, beside: Sequence[tuple[str, str]] = ()) -> pd.DataFrame:
    """Table 1 of this pair's stitches, of the default stitch of each workspace `beside` it (see `others`), and the
    paper's: `label`, `pair`, `family`, `source` ('this workspace', 'another workspace' or 'the paper'), for each of its
    columns the loss and `<condition>_relative`. The paper's relative losses follow from its rounded losses.
    """
    parts = [_measured(ws).assign(source="this workspace")]
    for pair, _ in beside:
        with suppress(StitchLensError):
            parts.append(_measured(Workspace(pair, ws.shared.root.parent)).head(1).assign(source="another workspace"))
    parts.append(pd.DataFrame([_paper(p) for p in PAIRS.values() if p.paper]).assign(source="the paper"))
    columns = ["label", "pair", "family", "source", *TABLE_1, *(f"{key}_relative" for key in TABLE_1)]
    return pd.concat([part.reindex(columns=columns) for part in parts if len(part)], ignore_index=True)


def _measured(ws: Workspace) -> pd.DataFrame:
    spec = get_pair(ws.pair)
    found = stitches(ws).dropna(subset=["a"]).rename(columns={"name": "label"})
    return found.assign(pair=spec.title, family=spec.family)


def _paper(pair: PairSpec) -> dict[str, Any]:
    row = pair.paper
    assert row is not None
    losses = {key: getattr(row, key) for key in TABLE_1}
    base = {"a": row.a, "b": row.b}
    return {"label": row.label, "pair": pair.title, "family": pair.family, **losses} | {
        f"{key}_relative": loss / base[BY_KEY[key].model] - 1 for key, loss in losses.items()
    }


def svcca(ws: Workspace) -> pd.DataFrame:
    """Every layer pair with its score (Fig. 6), `best` where it is the argmax for its layer of A (A.1), and `stitches`:
    the names of those fitted there, joined by commas.
    """
    table = ws.table("svcca")
    _need(table.columns, ("layer_a", "layer_b", "svcca", "n", "chance"), "table 'svcca'")
    table["best"] = table.svcca == table.groupby("layer_a").svcca.transform("max")
    fitted = stitches(ws).groupby(["layer_a", "layer_b"]).name.agg(", ".join) if stitch_names(ws) else {}
    table["stitches"] = [fitted.get((a, b), "") for a, b in zip(table.layer_a, table.layer_b, strict=True)]
    return table


def alpha_sweep(ws: Workspace, layer_a: int, layer_b: int) -> pd.DataFrame:
    """Fig. 7 for one layer pair, tidy: `metric`, `alpha`, `condition`, `label`, `model`, `loss`, `base` (the unpatched
    model's loss) and `relative`. Empty where this layer pair was not swept.
    """
    table = ws.table("alpha_sweep")
    _need(table.columns, ("stitch", "metric", "alpha", *TABLE_1), "table 'alpha_sweep'")
    table = table.loc[table.stitch == LayerPair(a=layer_a, b=layer_b).name].sort_values(["metric", "alpha"])
    tidy = table.melt(["metric", "alpha", "a", "b"], list(STITCHED), "condition", "loss")
    tidy["label"] = [BY_KEY[c].label for c in tidy.condition]
    tidy["model"] = [BY_KEY[c].model for c in tidy.condition]
    tidy["base"] = tidy.a.where(tidy.model == "a", tidy.b)
    return tidy.assign(relative=tidy.loss / tidy.base - 1).drop(columns=["a", "b"])


def study(ws: Workspace) -> pd.DataFrame:
    """The study on the select split that chose the default setting: relative losses beside the losses, least A→B first
    in each layer pair, `chosen` where the default stitch has that method, metric and α.
    """
    table = ws.table("study")
    _need(table.columns, ("layer_a", "layer_b", "method", "metric", "alpha", *TABLE_1), "table 'study'")
    for key in STITCHED:
        table[f"{key}_relative"] = table[key] / table[BY_KEY[key].model] - 1
    names = stitch_names(ws)
    makers = ws.entry(f"stitches/{names[0]}").makers if names else {}
    table["chosen"] = [
        all(makers.get(key) == row[key] for key in ("method", "metric", "alpha")) for row in table.to_dict("records")
    ]
    return table.sort_values(["layer_a", "layer_b", "a_to_b"]).reset_index(drop=True)


def makers(ws: Workspace, name: str) -> dict[str, Any]:
    """What an artifact was made from."""
    return ws.entry(name).makers


def texts(corpus: str) -> dict[str, str]:
    """The documents of a corpus by id: what example pointers point at."""
    from core.text.corpus import load_corpus

    return {d.id: d.text for d in load_corpus(corpus).documents}


def saes(ws: Workspace) -> list[str]:
    """The SAEs of A whose features were measured, by name."""
    return [n.removeprefix("features/") for n in ws.names(prefix="features/")]


def features(ws: Workspace, sae: str) -> pd.DataFrame:
    """One row a feature of an SAE: Eq. 10 before and after transfer with its interval and controls, densities, activity
    in rewritten sentences, overlap of the top examples, place on the map, and the tokens it raises most in A (see
    `core.features.measure`)."""
    table = ws.table(f"features/{sae}")
    columns = (
        "feature", "correlation", "low", "high", "joint", "density_a", "density_b", "random", "shuffled", "consistency",
        "sentences", "reliable", "raises",
    )  # fmt: skip
    _need(table.columns, columns, f"table 'features/{sae}'")
    return table


def kinds_of_features(table: pd.DataFrame, threshold: float = 0.5, least: int = 3) -> pd.Series:
    """Of `features`: 'dead' where never active in A; 'unseen' where active in fewer than `least` of the rewritten
    sentences; 'structural' where it stays active in all versions of a share `threshold` of them or more; 'semantic'."""
    kind = table.consistency.ge(threshold).map({True: "structural", False: "semantic"})
    kind = kind.mask(~table.sentences.ge(least), "unseen")
    return kind.mask(table.density_a == 0, "dead").rename("kind")


def structural_share(table: pd.DataFrame, bins: int = 20) -> pd.DataFrame:
    """Fig. 4b, counted: of `features` with their `kind`, the semantic and structural ones in each of `bins` equal parts
    of Eq. 10 from -1 to 1, both ends in: `low`, `high`, `structural`, `n` of both, `share` (NaN where n is 0)."""
    edges = np.linspace(-1, 1, bins + 1)
    counts = {
        kind: np.histogram(table.correlation[table.kind == kind].dropna(), edges)[0]
        for kind in ("semantic", "structural")
    }
    n = counts["semantic"] + counts["structural"]
    share = np.where(n > 0, counts["structural"] / np.maximum(n, 1), np.nan)
    return pd.DataFrame(
        {"low": edges[:-1], "high": edges[1:], "structural": counts["structural"], "n": n, "share": share}
    )


def feature_examples(ws: Workspace, sae: str, side: str, feature: int) -> pd.DataFrame:
    """The contexts of one feature in A ('a') or, transferred, in B ('b'), those that can be shown: see
    `core.features.examples.Examples.table` and `unpacked`."""
    table = ws.table(f"examples_{side}/{sae}", feature=feature)
    return unpacked(table.loc[table.heat.str.len() > 0].reset_index(drop=True))


def same_text(ws: Workspace, sae: str, feature: int) -> pd.DataFrame:
    """The top contexts of one feature on either side, as both models read them, a row a context: `document`, `found`
    (the side on whose list it is), and for each side `<side>_ends`, `_heat`, `_peak`, `_activation`."""
    parts = []
    for side in ("a", "b"):
        part = unpacked(ws.table(f"together_{side}/{sae}", feature=feature)).drop(columns="feature")
        parts.append(part.set_index(["document", "found"]).add_prefix(f"{side}_"))
    return pd.concat(parts, axis=1, join="inner").reset_index()


def unpacked(table: pd.DataFrame) -> pd.DataFrame:
    """A table with `activation` and the columns of `core.features.examples.packed`: `ends` [n + 1] in the place of `begin` and
    `lengths`, `heat` [n] in activations."""
    ends = [begin + np.cumsum([0, *lengths]) for begin, lengths in zip(table.begin, table.lengths, strict=True)]
    heat = [np.asarray(h) * (scale / 255) for h, scale in zip(table.heat, table.activation, strict=True)]
    return table.drop(columns=["begin", "lengths"]).assign(ends=ends, heat=heat)


def feature_logits(ws: Workspace, sae: str, side: str, feature: int) -> pd.DataFrame:
    """The tokens that one feature raises (`rank` 0 and up) and lowers (-1 and down) most: `rank`, `token`, `weight`."""
    return ws.table(f"logits/{sae}", feature=feature, side=side).loc[:, ["rank", "token", "weight"]]


def feature_histogram(ws: Workspace, sae: str, side: str, feature: int) -> pd.DataFrame:
    """How often one feature was active, by half octave: `low`, `high` of the activation, `tokens`."""
    (counts,) = ws.table(f"histograms_{side}/{sae}", feature=feature).histogram
    lows = [2.0 ** (k / 2 - 10) for k in range(len(counts) + 1)]
    return pd.DataFrame({"low": lows[:-1], "high": lows[1:], "tokens": counts})


def neuronpedia(ws: Workspace, sae: str, feature: int) -> str | None:
    """The feature's page on Neuronpedia, for an SAE of a release that has one there."""
    config = json.loads((ws.path(f"saes/{sae}") / "cfg.json").read_text("utf-8"))
    known = (config.get("metadata") or {}).get("neuronpedia_id")
    if not isinstance(known, str) or not re.fullmatch(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+", known):
        return None
    return f"https://www.neuronpedia.org/{known}/{feature}"


def feature_record(ws: Workspace, sae: str, feature: int) -> dict[str, Any]:
    """All that is known of one feature, for a file: its measures, tokens, histograms and contexts (as pointers)."""
    (row,) = ws.table(f"features/{sae}", feature=feature).to_dict("records")
    record: dict[str, Any] = {
        "pair": ws.pair, "sae": sae, "makers": makers(ws, f"features/{sae}"),
        "feature": {k: None if v != v else v for k, v in row.items()},
    }  # fmt: skip
    for side in ("a", "b"):
        bars = feature_histogram(ws, sae, side, feature)
        tables = {
            "logits": feature_logits(ws, sae, side, feature), "histogram": bars[bars.tokens > 0],
            "contexts": feature_examples(ws, sae, side, feature),
        }  # fmt: skip
        record[side] = {what: json.loads(table.to_json(orient="records")) for what, table in tables.items()}
    return record


def sae_quality(ws: Workspace, sae: str) -> pd.DataFrame:
    """Table 2 with its controls, one row a variant: see `core.features.measure.zero_shot`."""
    table = ws.table(f"sae_quality/{sae}")
    _need(table.columns, ("name", "model", "fuv", "l0", "dead", "delta_loss", "ce_loss_score"),
          f"table 'sae_quality/{sae}'")  # fmt: skip
    return table


def feature_counts(ws: Workspace, sae: str) -> dict[str, Any]:
    """What `report --json` says of an SAE's features: `counts` by kind; `correlation` of transferred, random and
    shuffled (mean, median, q05, q95) over the features with enough joint activations; `effect` of the transfer against
    each control, see `effect`; `median_by_kind` of Eq. 10."""
    table = ws.table(f"features/{sae}")
    table["kind"] = kinds_of_features(table)
    found = table.kind.tolist()
    kinds = ("semantic", "structural", "unseen", "dead")
    values = {
        name: table.loc[table.reliable, column].dropna().to_numpy()
        for name, column in (("transferred", "correlation"), ("random", "random"), ("shuffled", "shuffled"))
    }
    correlation = {}
    for name, x in values.items():
        if len(x):
            q05, median, q95 = (float(np.quantile(x, q)) for q in (0.05, 0.5, 0.95))
            correlation[name] = {"mean": float(x.mean()), "median": median, "q05": q05, "q95": q95}
    against = {c: effect(values["transferred"], values[c]) for c in ("random", "shuffled") if len(values[c])}
    by_kind = table.loc[table.reliable].groupby("kind").correlation.median()
    return {
        "counts": {k: found.count(k) for k in kinds}, "correlation": correlation, "effect": against,
        "median_by_kind": {str(k): float(x) for k, x in by_kind.items()},
    }  # fmt: skip


def effect(values: NDArray[np.float64], control: NDArray[np.float64], seed: int = 0) -> dict[str, float]:
    """How far `values` lie above `control`: `superiority`, the chance that one drawn from `values` exceeds one drawn
    from `control` (0.5: none; ties count half), and `median_difference`, each with `_low` and `_high` (95 %, bootstrap
    over features)."""
    g = np.random.default_rng(seed)

    def measure(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
        y = np.sort(y)
        below, upto = np.searchsorted(y, x, "left"), np.searchsorted(y, x, "right")
        return float((below + upto).mean() / (2 * len(y))), float(np.median(x) - np.median(y))

    drawn = [measure(g.choice(values, len(values)), g.choice(control, len(control))) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    out = {}
    for k, (name, value) in enumerate(zip(("superiority", "median_difference"), measure(values, control), strict=True)):
        out |= {name: value, f"{name}_low": float(low[k]), f"{name}_high": float(high[k])}
    return out


def provenance(ws: Workspace, name: str) -> pd.DataFrame:
    """What a stitch was made from: `what`, `value`; nested makers as dotted names, then file, hash, date, versions."""
    entry = ws.entry(f"stitches/{name}")
    rows = [*_flat(entry.makers), ("file", entry.path), ("sha256", entry.sha256), ("bytes", f"{entry.bytes:,}"),
            ("made", entry.made), *_flat(entry.versions, "versions.")]  # fmt: skip
    return pd.DataFrame(rows, columns=["what", "value"])


def computed(ws: Workspace) -> pd.DataFrame:
    """What the workspace holds, a row a kind: `group`, `what`, `files`, `made` (the latest, UTC), `megabytes`."""
    rows = [
        (name.split("/")[0], pd.Timestamp(a.made) if a.made else pd.NaT, a.bytes / 1e6)
        for name, a in ws.manifest().artifacts.items()
    ]
    table = pd.DataFrame(rows, columns=["group", "made", "megabytes"]).groupby("group", as_index=False).agg(
        files=("made", "size"), made=("made", "max"), megabytes=("megabytes", "sum")
    )  # fmt: skip
    order = {group: i for i, group in enumerate(WHAT)}
    table["what"] = [WHAT.get(group, group) for group in table.group]
    return table.sort_values("group", key=lambda s: s.map(order)).reset_index(drop=True)


def has(ws: Workspace, name: str) -> bool:
    return name in ws.manifest().artifacts


def least_positions(pair: PairSpec) -> int:
    """Paired positions below which Eq. 3 is not determined well: twice both widths."""
    return 2 * (pair.a.d_model + pair.b.d_model)


def free_name(ws: Workspace, layer_a: int, layer_b: int, method: str, metric: str, alpha: float) -> str:
    """A name for a new stitch that says how it is made and is not taken."""
    base = f"{LayerPair(a=layer_a, b=layer_b).name}-{method}-{metric}" + (f"-{alpha:g}" if method != "lstsq" else "")
    taken = set(ws.names(prefix="stitches/")) if ws.exists else set()
    tries = (base if i == 1 else f"{base}-{i}" for i in range(1, len(taken) + 2))
    return next(name for name in tries if f"stitches/{name}" not in taken)


def _need(found: Iterable[Any], wanted: Iterable[str], where: str) -> None:
    found = list(found)
    if lacking := [name for name in wanted if name not in found]:
        raise StitchLensError(
            f"{where} without {', '.join(lacking)}", "what this version of StitchLens writes", "rebuild the workspace"
        )


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, item in value.items():
        rows += _flat(item, f"{prefix}{key}.") if isinstance(item, dict) else [(f"{prefix}{key}", str(item))]
    return rows
