"""Functional features as tables for their page, and in a few numbers for the report (5.2, Fig. 5
and 16).

Changes are those of an ablation: what follows when a feature's contribution is taken out. Entropy
and loss are in nats.
"""

from typing import Any

import numpy as np
import pandas as pd

from core import statistics
from core.errors import StitchLensError
from core.features import tables as feature_tables
from core.statistics import spearman
from core.workspace import store
from core.workspace.store import Workspace

SHARES = (1, 2, 5)
"""Per cent of the singular values that count as the null space."""
STEP, PARTS = 200, 1_000
"""What tables hold shares and attention at single places in."""
SIDES = ("a", "b")


def scanned(ws: Workspace) -> list[str]:
    """The SAEs whose functional features were measured, by name."""
    return [n.split("/")[1] for n in ws.names(prefix="functional/") if n.endswith("/heads")]


def about(ws: Workspace, sae: str) -> dict[str, Any]:
    """`random` shares of a random SAE's features by side and per cent (5 %, 50 %, 95 %); `sink`,
    the share of the attention sink's direction ('a', 'transferred', 'b') by per cent; `documents`;
    how it was made."""
    name = f"functional/{sae}/about"
    return ws.record(name) | {"makers": store.makers(ws, name)}


def null_shares(
    ws: Workspace,
    sae: str,
    share: int = 2,
) -> pd.DataFrame:
    """Fig. 5a, one row a feature that fires in A: `feature`; `share_a` and `share_b`, of its norm
    in the null space (the bottom `share` per cent); `max_a` and `max_b`, its maximal activations;
    `candidate`, whether it was ablated as an entropy feature; `raises`."""
    if share not in SHARES:
        raise StitchLensError(
            f"a null space of {share} %", f"one of {', '.join(map(str, SHARES))}", "choose one"
        )
    table = feature_tables.features(ws, sae)[["feature", "max_a", "max_b", "raises"]]
    found = ws.table(f"functional/{sae}/null")
    for side in SIDES:
        table[f"share_{side}"] = found[f"{side}_{share}"].to_numpy(np.float32) / STEP
    tried = ablations(ws, sae)
    table["candidate"] = table.feature.isin(tried.feature[~tried.random])
    return table.loc[table.max_a > 0].reset_index(drop=True)


def ablations(ws: Workspace, sae: str) -> pd.DataFrame:
    """The causal check of entropy features and of matched random ones: see
    `core.functional.measure`."""
    return ws.table(f"functional/{sae}/ablation")


def heads(ws: Workspace, sae: str) -> pd.DataFrame:
    """Path patching, one row a side, feature and downstream head: see `core.functional.measure`."""
    return ws.table(f"functional/{sae}/heads")


def moved(ws: Workspace, sae: str) -> pd.DataFrame:
    """One row a side, feature and kind ('deactivation', 'activation'): the head it moves most that
    way, `change` with its interval, and `token`, `before`, `after` at some places, from the
    strongest activation to the weakest."""
    table = ws.table(f"functional/{sae}/tokens")
    for column in ("before", "after"):
        table[column] = [np.asarray(x) / PARTS for x in table[column]]
    return table


def clearest(table: pd.DataFrame) -> int:
    """Of `moved`: the candidate that deactivates a head in both models most clearly."""
    rows = table.loc[~table.random & (table.kind == "deactivation")]
    return int((-rows.change).groupby(rows.feature).min().idxmax())


def summary(ws: Workspace, sae: str) -> dict[str, Any]:
    """What `report --json` says. Changes are means over features of their means; `effect` compares
    candidates with matched random features, see `queries.effect`.

    `null_space`: median shares at the paper's 2 %, a random SAE's, and the rank correlation of A's
    with B's. `entropy`: by side, mean absolute changes of entropy and loss and their ratio.
    `attention`: by side, the mean largest fall (deactivation) and rise (activation) of attention to
    the first token over heads, the rank correlation of heuristic score and measured fall over all
    heads, and the clearest feature; `kept`, the rank correlation over features of their largest
    fall in A and in B. `sink`: shares of its direction.
    """
    known, shares, tried = about(ws, sae), null_shares(ws, sae), ablations(ws, sae)
    patched, single = heads(ws, sae), moved(ws, sae)
    makers = known["makers"]
    out: dict[str, Any] = {
        "sae": sae,
        "stitch": makers["stitch_name"],
        "layer_a": makers["layer_a"],
        "layer_b": makers["layer_b"],
        "documents": known["documents"],
        "null_space": {
            "share": 0.02,
            "a": float(shares.share_a.median()),
            "b": float(shares.share_b.median()),
            "random_a": known["random"]["a_2"][1],
            "random_b": known["random"]["b_2"][1],
            "spearman": spearman(shares.share_a, shares.share_b),
        },
        "sink": {k.removesuffix("_2"): v for k, v in known["sink"].items() if k.endswith("_2")},
        "entropy": {},
        "attention": {},
    }
    for side in SIDES:
        here = tried.loc[tried.side == side]
        both = here[["entropy_change", "loss_change"]].abs()
        sizes = {"candidates": both.loc[~here.random], "random": both.loc[here.random]}
        out["entropy"][side] = {
            k: {
                "features": len(x),
                "entropy": float(x.entropy_change.mean()),
                "loss": float(x.loss_change.mean()),
                "ratio": float(x.entropy_change.sum() / x.loss_change.sum()),
            }
            for k, x in sizes.items()
        } | {
            "effect": statistics.effect(
                *(sizes[k].entropy_change.to_numpy(np.float64) for k in sizes)
            )
        }
        rows, picked = patched[patched.side == side], single[single.side == side]
        best = picked.loc[
            (picked.feature == clearest(single)) & (picked.kind == "deactivation")
        ].iloc[0]
        kinds = picked.groupby(["kind", "random"]).change.mean()
        falls = [
            picked.loc[(picked.kind == "deactivation") & (picked.random == r), "change"]
            for r in (False, True)
        ]
        out["attention"][side] = {
            "candidates": {k: float(kinds[k, False]) for k in ("deactivation", "activation")},
            "random": {k: float(kinds[k, True]) for k in ("deactivation", "activation")},
            "spearman": spearman(rows.score, -rows.change),
            "heads": int(rows.groupby("feature").size().iloc[0]),
            "effect": statistics.effect(*(-x.to_numpy(np.float64) for x in falls)),
            "clearest": {
                k: float(best[k]) if k in ("change", "low", "high") else int(best[k])
                for k in ("feature", "layer", "head", "change", "low", "high", "places")
            },
        }
    wide = single[single.kind == "deactivation"].pivot_table(
        index="feature",
        columns="side",
        values="change",
    )
    out["attention"]["kept"] = spearman(wide.a, wide.b)
    return out


def as_text(found: dict[str, Any]) -> str:
    null, sink = found["null_space"], found["sink"]
    lines = [
        f"SAE {found['sae']} through {found['stitch']}, {found['documents']} documents",
        (
            f"share in the null space (2 %), median: A {null['a']:.2f} (random SAE"
            f" {null['random_a']:.2f}), B {null['b']:.2f} ({null['random_b']:.2f}); rank"
            f" correlation of A's with B's {null['spearman']:.2f}"
        ),
        (
            f"sink direction: A {sink['a']:.2f}, transferred {sink['transferred']:.2f}, B's own"
            f" {sink['b']:.2f}"
        ),
    ]
    for side in ("a", "b"):
        entropy, attention = found["entropy"][side], found["attention"][side]
        cells = [
            f"{k} {x['entropy']:.3f} and {x['loss']:.3f}"
            for k, x in entropy.items()
            if k in ("candidates", "random")
        ]
        lines.append(
            f"{side.upper()} ablated, |change| of entropy and loss in nats: {', '.join(cells)}"
        )
        best = attention["clearest"]
        lines.append(
            f"{side.upper()} attention to the first token falls by"
            f" {-attention['candidates']['deactivation']:.3f} (random"
            f" {-attention['random']['deactivation']:.3f}); clearest: feature {best['feature']},"
            f" head {best['layer']}.{best['head']}, {best['change']:+.3f} [{best['low']:+.3f},"
            f" {best['high']:+.3f}]; rank correlation of heuristic score and fall"
            f" {attention['spearman']:.2f}"
        )
    return "\n".join(
        [*lines, f"largest falls in A and in B, rank correlation {found['attention']['kept']:.2f}"]
    )
