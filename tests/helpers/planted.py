"""A small workspace with known numbers: data for the tests of queries and pages, put there through
the store."""

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from core.models.pairs import get_pair
from core.stitches.conditions import CONDITIONS
from core.text.corpus import Document
from core.workspace.store import Workspace

PAIR = "smollm2-gemma3"
MAKERS: dict[str, Any] = {
    "pair": PAIR,
    "corpus": {"name": "planted", "fingerprint": "00ff00ff00ff00ff"},
}
LOSSES = {
    "a": 4.0,
    "b": 3.0,
    "a_to_b": 3.6,
    "b_to_a": 4.4,
    "a_to_b_to_a": 4.04,
    "b_to_a_to_b": 3.09,
    "mean_ablated_a": 8.0,
    "mean_ablated_b": 9.0,
    "shuffled_a_to_b": 8.7,
    "shuffled_b_to_a": 7.6,
}
ALPHAS = (0.0, 0.1, 1.0, 10.0)


def plant(root: Path, key: str = PAIR) -> Workspace:
    """Two measured stitches ('L20-L9', the default, and 'L10-L9') and one that is not measured
    ('young'); a copy of one that is written once a process."""
    shutil.copytree(_written(key), root / key)
    return Workspace(key, root)


@cache
def _written(key: str) -> Path:
    """The folder of such a workspace."""
    root = Path(tempfile.mkdtemp(prefix="stitchlens-planted-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    pair, ws = get_pair(key), Workspace(key, root)
    sides = {
        name: spec.model_dump(include={"title", "n_layers", "d_model"})
        for name, spec in (("a", pair.a), ("b", pair.b))
    }
    ws.put_record(
        "pair",
        sides
        | {
            "pair": key,
            "title": pair.title,
            "family": pair.family,
            "corpus": (
                MAKERS["corpus"]
                | {
                    "documents": 100,
                    "characters": 1_234_567,
                    "splits": {"fit": 80, "select": 10, "held-out": 10},
                }
            ),
            "alignment": {
                "tokens_a": 2000,
                "tokens_b": 1000,
                "paired": 900,
                "share_a": 0.45,
                "share_b": 0.9,
            },
            "default_stitch": "L20-L9",
        },
        MAKERS,
    )
    grid = [
        (a, b, 1 - abs(a / 29 - b / 17), 8192, 300, 400, 0.22) for a in range(30) for b in range(18)
    ]
    columns = ["layer_a", "layer_b", "svcca", "n", "k_a", "k_b", "chance"]
    ws.put_table("svcca", pd.DataFrame(grid, columns=columns), MAKERS)
    for name, layer_a, metric in (("L20-L9", 20, "std"), ("L10-L9", 10, "raw")):
        makers = put_stitch(ws, name, layer_a, 9, metric)
        ws.put_table(f"downstream/{name}", losses(), makers)
        ws.put_record(
            f"quality/{name}",
            {
                "eq3": 0.31,
                "eq3_fit": 0.3,
                "fuv_up": 0.34,
                "fuv_down": 0.29,
                "inversion_a": 0.013,
                "inversion_b": 0.041,
                "n_fit": 5000,
                "n_held_out": 1200,
                "dropped": 7,
            },
            makers,
        )
    put_stitch(ws, "young", 5, 3, "std")
    table_1 = {k: LOSSES[k] for k in ("a", "b", "a_to_b", "b_to_a", "a_to_b_to_a", "b_to_a_to_b")}
    ws.put_table(
        "alpha_sweep",
        pd.DataFrame(
            [
                table_1
                | {
                    "stitch": "L20-L9",
                    "metric": "std",
                    "alpha": x,
                    "a_to_b": 3.6 + 0.01 * x,
                }
                for x in ALPHAS
            ]
        ),
        MAKERS,
    )
    ws.put_table(
        "study",
        pd.DataFrame(
            [
                table_1
                | {
                    "layer_a": 20,
                    "layer_b": 9,
                    "method": "exact",
                    "metric": metric,
                    "alpha": 1.0,
                    "a_to_b": loss,
                }
                for metric, loss in (("raw", 3.9), ("std", 3.6), ("rms", 3.7))
            ]
        ),
        MAKERS,
    )
    return ws.root


def losses() -> pd.DataFrame:
    """A `downstream` table in another order than the page's, each loss with an interval of
    ±0.05."""
    rows = []
    for c in reversed(CONDITIONS):
        loss, base = LOSSES[c.key], LOSSES[c.model]
        relative = loss / base - 1
        half = 0 if c.role == "unpatched" else 0.01
        rows.append(
            {
                "condition": c.key,
                "model": c.model,
                "loss": loss,
                "low": loss - 0.05,
                "high": loss + 0.05,
                "relative": relative,
                "relative_low": relative - half,
                "relative_high": relative + half,
                "bits_per_byte": loss / 4,
                "loss_patched": loss + 0.01,
                "tokens": 4321,
                "share_patched": 0.9,
                "documents": 10,
            }
        )
    return pd.DataFrame(rows)


def kinds() -> pd.DataFrame:
    """A `kinds` table: English, which both models read well and nearly all of which crosses;
    Greek, of which A crosses a tenth and so loses little."""
    parts = []
    for kind, bits, shares, dear in (
        ("Greek", {"a": 3.0, "b": 1.5}, {"a": 0.1, "b": 0.95}, 0.1),
        ("English", {"a": 1.0, "b": 0.9}, {"a": 0.9, "b": 0.95}, 2.0),
    ):
        table = losses().assign(kind=kind)
        base = table.model.map({side: LOSSES[side] for side in ("a", "b")})
        table["loss"] = base + dear * (table.loss - base)
        table["relative"] = table.loss / base - 1
        table["share_patched"] = table.model.map(shares)
        table["loss_patched"] = base + (table.loss - base) / table.share_patched
        table["bits_per_byte"] = table.model.map(bits)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def put_stitch(ws: Workspace, name: str, layer_a: int, layer_b: int, metric: str) -> dict[str, Any]:
    """A stitch's entry and makers; its file is not read by any query."""
    makers = MAKERS | {
        "layer_a": layer_a,
        "layer_b": layer_b,
        "hook_a": f"blocks.{layer_a}.hook_resid_pre",
        "hook_b": f"blocks.{layer_b}.hook_resid_pre",
        "method": "exact",
        "metric": metric,
        "alpha": 1.0,
        "positions": None,
        "n_fit": 5000,
        "a": {"model": "A", "weights": "aa"},
        "b": {"model": "B", "weights": "bb"},
    }
    ws.put(f"stitches/{name}", lambda p: p.touch(), "stitch", ".safetensors", makers)
    return makers


def plant_features(
    ws: Workspace, documents: list[Document], sae: str = "L20-12", n: int = 12
) -> None:
    """Features of one SAE: even ones structural, odd ones semantic, the last dead, the one before
    it too rare; each with three contexts at the heads of `documents`, five characters a token."""
    makers = MAKERS | {"stitch_name": "L20-L9", "sentences": 50, "rewrites": 5}
    config = {"d_sae": n, "metadata": {"neuronpedia_id": "planted/20-sae"}}

    def write(folder: Path) -> None:
        (folder / "cfg.json").write_text(json.dumps(config))
        decoder = np.random.default_rng(0).standard_normal((n, 8), np.float32)
        save_file({"W_dec": decoder}, folder / "sae_weights.safetensors")

    ws.put_folder(f"saes/{sae}", write, "sae", makers)
    f = np.arange(n)
    dead = f == n - 1
    correlation = np.where(dead, np.nan, 0.9 - 0.1 * (f % 7))
    ws.put_table(
        f"features/{sae}",
        pd.DataFrame(
            {
                "feature": f,
                "correlation": correlation,
                "low": correlation - 0.1,
                "high": correlation + 0.05,
                "joint": np.where(f >= n - 2, 3, 100 + f),
                "density_a": np.where(dead, 0, 0.01),
                "density_b": 0.02,
                "max_a": 4.0,
                "max_b": 8.0,
                "reliable": f < n - 2,
                "random": 0.01 * (f % 3),
                "shuffled": -0.02 * (f % 3),
                "sentences": np.where(dead, 0, 10),
                "consistent": np.where(f % 2, 1, 9),
                "consistency": np.where(dead, np.nan, np.where(f % 2, 0.1, 0.9)),
                "jaccard": 0.5,
                "rbo": 0.6,
                "x": np.cos(f),
                "y": np.sin(f),
                "raises": [f"<b>a0 <i>{k}" for k in f],
            }
        ),
        makers,
    )
    tokens = pd.DataFrame(
        [(k, s, r, f"<b>{s}{r}", 1.0 - 0.1 * r) for k in f for s in "ab" for r in (0, 1, -1, -2)],
        columns=["feature", "side", "rank", "token", "weight"],
    )
    ws.put_table(f"logits/{sae}", tokens, makers)
    for side, top in (("a", 4.0), ("b", 8.0)):
        rows = []
        for k in f[~dead]:
            for rank, d in enumerate(documents[:3]):
                heat = (255 / (1 + np.abs(np.arange(8) - 1))).astype(np.uint8)
                window = (0, 1, np.full(8, 5, dtype=np.uint16), heat)
                rows.append(
                    (k, "top" if rank < 2 else "q1", rank % 2, d.id, 1, top - rank, *window)
                )
        columns = [
            "feature",
            "group",
            "rank",
            "document",
            "position",
            "activation",
            "begin",
            "peak",
            "lengths",
            "heat",
        ]
        table = pd.DataFrame(rows, columns=columns)
        ws.put_table(f"examples_{side}/{sae}", table, makers)
        together = (
            table.query("group == 'top'")
            .drop(columns=["group", "rank", "position"])
            .assign(found="a")
        )
        ws.put_table(f"together_{side}/{sae}", together, makers)
        bars = [
            np.where((np.arange(60) >= 18) & (np.arange(60) < 24) & (k != n - 1), 7, 0) for k in f
        ]
        ws.put_table(
            f"histograms_{side}/{sae}", pd.DataFrame({"feature": f, "histogram": bars}), makers
        )
    names = (
        "original",
        "random SAE",
        "transferred",
        "shuffled-pair stitch",
        "random stitch",
        "random SAE, transferred",
    )
    ws.put_table(
        f"sae_quality/{sae}",
        pd.DataFrame(
            [
                {
                    "name": name,
                    "model": "a" if k < 2 else "b",
                    "l0": 8.0,
                    "fuv": 0.2 + 0.1 * k,
                    "cossim": 0.9,
                    "l2_ratio": 0.95,
                    "dead": 0.01,
                    "delta_loss": 0.1 * k,
                    "ce_loss_score": 0.9,
                    "rank": 12,
                    "loss": 4.0,
                    "loss_clean": 3.9,
                    "loss_ablated": 8.0,
                }
                for k, name in enumerate(names)
            ]
        ),
        makers,
    )
