"""What the feature explorer shows of an SAE of A and its transfer to B: from a stitch to tables (3.1, 5.1, C, G, H)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from core.activations.harvest import norm_limits, read_window, windows, within
from core.errors import StitchLensError
from core.features.attribution import extreme_tokens, measure_attribution
from core.features.examples import Read, find_examples, lean, overlap, read_places, read_text, shared_places, short
from core.features.taxonomy import REWRITES, TagRewriter, active_features, consistency, english_sentences
from core.models.pairs import Frozen, LayerPair, PairSpec
from core.saes.sae import SaeConfig, joined, kept_in, metadata, random_sae, reconstruction, sae_hash, sae_of, train_sae
from core.steering.generate import TURNS
from core.stitches import downstream
from core.stitches.fit import Stitch, load_stitch, random_stitch
from core.stitches.measure import Bench, BuildConfig
from core.stitches.transfer import save_sae, transfer_sae
from core.text.corpus import Document
from core.workspace.store import Workspace, fingerprint
from core.workspace.uploads import check_name, name_from

if TYPE_CHECKING:
    from sae_lens import SAE


class ExploreConfig(Frozen):
    """How much is measured. Tokens are of model B."""

    positions: int | None = None
    """Paired held-out positions for Eq. 10; None reads the split whole."""
    reconstruction_positions: int = 20_000
    tokens: int = 5_000
    """Scored for the losses with an SAE in place."""
    sentences: int = 300
    """Each with REWRITES rewrites."""
    seed: int = 0


def train(bench: Bench, layer: int, config: SaeConfig, positions: int | None = None) -> str:
    """The name of an SAE of A before `layer`, trained on the fit split at positions that pair up with one of B (so not
    on the bytes of scripts that A spells out), kept as `saes/<name>`."""
    bench.pair.check_layers(layer, 0)
    name = f"L{layer}-{config.width}"
    makers = {
        "pair": bench.pair.key, "a": bench.a.makers, "corpus": bench.corpus.fingerprint, "layer_a": layer,
        "hook_a": f"blocks.{layer}.hook_resid_pre", "positions": positions, **config.model_dump(),
    }  # fmt: skip
    if not bench.current(f"saes/{name}", makers):
        rows = bench.rows("a", layer, "fit", positions)
        about = metadata(bench.pair.a.key, layer)
        _keep(bench, name, train_sae(rows, "h", config, about, f"training SAE {name}"), makers)
    return name


def _keep(bench: Bench, name: str, sae: "SAE[Any]", makers: dict[str, Any]) -> None:
    """In half precision, as `saes/<name>`."""
    sae = sae.half()
    sae.cfg.dtype = "float16"
    bench.workspace.put_folder(f"saes/{name}", lambda folder: save_sae(sae, folder), "sae", makers)


def foreign_sae(
    bench: Bench, ref: str, layer: int | None = None, stitched: int | None = None, scale: float | None = None
) -> tuple["SAE[Any]", int]:
    """Someone else's SAE of A and the layer before which it reads; `layer` says what the SAE does not. See `sae_of`,
    also for what is refused."""
    return sae_of(bench, ref, "a", layer, stitched, scale)


def adopt(
    bench: Bench, ref: str, layer: int | None = None, name: str | None = None, stitched: int | None = None,
    scale: float | None = None,
) -> str:  # fmt: skip
    """The name of someone else's SAE of A, kept as `saes/<name>` as precise as it came; one that is there already is
    not kept again. Raises StitchLensError as `foreign_sae` does, and where the name is another one's."""
    sae, at = foreign_sae(bench, ref, layer, stitched, scale)
    if bench.workspace.exists and f"saes/{ref}" in bench.workspace.names():
        if scale is not None:
            raise StitchLensError(
                f"a scale beside SAE {ref} of the workspace", "one with its file",
                "bring the file again under another name with its scale",
            )  # fmt: skip
        return ref
    return keep_foreign(bench, sae, at, ref, name or name_from(ref))


def keep_foreign(bench: Bench, sae: "SAE[Any]", at: int, ref: str, name: str) -> str:
    """The name of an SAE of A that came as `ref` and was admitted, kept as `saes/<name>` with its place in its own
    metadata. Raises StitchLensError where the name is another one's."""
    ws = bench.workspace
    makers = {
        "pair": bench.pair.key, "a": bench.a.makers, "layer_a": at, "hook_a": f"blocks.{at}.hook_resid_pre",
        "from": sae_hash(sae), "name": name, "brought": name_from(ref),
    }  # fmt: skip
    for key, value in metadata(bench.pair.a.key, at).items():
        if sae.cfg.metadata[key] is None:
            sae.cfg.metadata[key] = value
    if not bench.current(f"saes/{name}", makers):
        check_name(ws, "saes", name)
        ws.put_folder(f"saes/{name}", lambda folder: save_sae(sae, folder), "sae", makers)
    return name


def variants(sae: "SAE[Any]", stitch: Stitch, shuffled: Stitch, seed: int = 0) -> dict[str, tuple[str, "SAE[Any]"]]:
    """(model it is for, SAE) by name: the original and its transfer, and what they must beat."""
    control = random_sae(sae, seed)
    return {
        "original": ("a", sae),
        "random SAE": ("a", control),
        "transferred": ("b", transfer_sae(sae, stitch)),
        "shuffled-pair stitch": ("b", transfer_sae(sae, shuffled)),
        "random stitch": ("b", transfer_sae(sae, random_stitch(stitch, seed))),
        "random SAE, transferred": ("b", transfer_sae(control, stitch)),
    }


def stitch_of(ws: Workspace, sae_name: str) -> str:
    """The stitch that the features of an SAE were measured through. Raises StitchLensError where it was fitted again
    since."""
    makers = ws.entry(f"features/{sae_name}").makers
    name = makers["stitch_name"]
    if fingerprint(ws.entry(f"stitches/{name}").makers) != makers["stitch"]:
        raise StitchLensError(
            f"stitch {name} fitted again since", "the one that the features were measured through",
            f"run `python -m core features build {ws.pair} --stitch {name} --sae {sae_name}`",
        )  # fmt: skip
    return name


class Live:
    """Both models with an SAE of the workspace and its transfer at hand, to read texts that were typed in; takes
    turns with whatever else computes in this process.

    Raises StitchLensError where the stitch is not the one that the features were measured through.
    """

    def __init__(self, pair: PairSpec, sae_name: str, private: Path | None = None) -> None:
        bench = Bench(pair, BuildConfig(), private)
        ws = bench.workspace
        name, makers = stitch_of(ws, sae_name), ws.entry(f"features/{sae_name}").makers
        sae = kept_in(bench, sae_name, makers["layer_a"])
        moved = transfer_sae(sae, load_stitch(ws.path(f"stitches/{name}")))
        self._sides = {"a": (bench.a, sae, makers["layer_a"]), "b": (bench.b, moved, makers["layer_b"])}

    def read(self, text: str) -> dict[str, Read]:
        """Activations in A ('a') and, transferred, in B ('b')."""
        with TURNS.turn():
            return {side: read_text(model, sae, at, text) for side, (model, sae, at) in self._sides.items()}


def zero_shot(
    bench: Bench, saes: dict[str, tuple[str, "SAE[Any]"]], layers: LayerPair, config: ExploreConfig,
    documents: Sequence[Document] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """On the held-out split, or on `documents` of it: Table 2 with controls, a row a variant: `name`, `model`; the
    measures of `core.saes.sae.reconstruction`; `rank` of the decoder; and with the reconstruction in the residual stream's
    place at paired positions, nats/token of that model:
    `loss`, `loss_clean`, `loss_ablated` (zeros in its place), `delta_loss` (loss - loss_clean) and `ce_loss_score`,
    (loss_ablated - loss) / (loss_ablated - loss_clean)."""
    documents = bench.corpus.split("held-out") if documents is None else documents
    kept: dict[str, list[Tensor]] = {"a": [], "b": []}
    limits: dict[str, float] = {}
    for docs in windows(documents):
        chunk = read_window(bench.a, bench.b, docs, [layers.a], [layers.b])
        limits = limits or norm_limits(chunk)
        keep = within(chunk, limits, layers)
        kept["a"].append(chunk.h_a[layers.a][keep].float())
        kept["b"].append(chunk.h_b[layers.b][keep].float())
        if sum(map(len, kept["a"])) >= config.reconstruction_positions:
            break
    conditions = downstream.unpatched()
    for side in ("a", "b"):
        conditions.append(downstream.Condition(f"zeros {side}", side, _in_place(side, torch.zeros_like)))
    for name, (side, sae) in saes.items():
        conditions.append(downstream.Condition(name, side, _in_place(side, sae)))
    measured = downstream.measure(
        bench.a, bench.b, documents, layers, conditions, "losses with SAEs in place", config.tokens
    )
    loss = downstream.mean_losses(measured)
    rows = []
    for name, (side, sae) in saes.items():
        clean, ablated, mine = loss[side], loss[f"zeros {side}"], loss[name]
        rows.append({
            "name": name, "model": side, **reconstruction(sae, kept[side]),
            "rank": rank(sae.W_dec), "loss": mine, "loss_clean": clean,
            "loss_ablated": ablated, "delta_loss": mine - clean,
            "ce_loss_score": (ablated - mine) / (ablated - clean),
        })  # fmt: skip
    return pd.DataFrame(rows)


def rank(weights: Tensor) -> int:
    """Singular values above float32's rounding of the largest: what a product with a narrower map leaves."""
    rounding = max(weights.shape) * torch.finfo(torch.float32).eps
    return int(torch.linalg.matrix_rank(weights.double(), rtol=rounding))


def _in_place(side: str, new: Any) -> downstream.Rows:
    """Rows of that side's own residual stream, handed through `new`."""

    def rows(x: Tensor, y: Tensor) -> Tensor:
        with torch.inference_mode():
            return new(x if side == "a" else y)

    return rows


def explore(bench: Bench, sae_name: str, stitch_name: str, config: ExploreConfig | None = None) -> None:
    """Measure an SAE of the workspace and its transfer through a stitch of the workspace, and keep the tables
    `sae_quality/`, `examples_a/` and `_b/`, `histograms_a/` and `_b/`, `together_a/` and `_b/`, `logits/` and
    `features/` of that SAE. Steps that are there and current are kept.

    Raises StitchLensError where SAE and stitch belong to different layers.
    """
    config = config or ExploreConfig()
    ws = bench.workspace
    about, stitched, layers = joined(ws, sae_name, stitch_name)
    sae = kept_in(bench, sae_name, layers.a)
    stitch, shuffled = load_stitch(ws.path(f"stitches/{stitch_name}")), load_stitch(ws.path(f"controls/{stitch_name}"))
    makers = bench.makers | {
        "sae": fingerprint(about), "stitch": fingerprint(stitched), "sae_name": sae_name, "stitch_name": stitch_name,
        "layer_a": layers.a, "layer_b": layers.b, "rewrites": REWRITES, **config.model_dump(),
    }  # fmt: skip
    saes = variants(sae, stitch, shuffled, config.seed)
    if not bench.current(f"sae_quality/{sae_name}", makers):
        ws.put_table(f"sae_quality/{sae_name}", zero_shot(bench, saes, layers, config), makers)
    documents = [*bench.corpus.split("held-out"), *bench.corpus.split("select")]
    sides = {"a": ("original", bench.a, bench.b, layers.a), "b": ("transferred", bench.b, bench.a, layers.b)}
    for side, (name, model, partner, layer) in sides.items():
        if not bench.current(f"examples_{side}/{sae_name}", makers):
            desc = f"examples in {side.upper()}"
            table, histogram = find_examples(model, partner, saes[name][1], documents, layer, desc)
            active = pd.DataFrame({"feature": np.arange(len(histogram)), "histogram": list(histogram.astype(np.int32))})
            ws.put_table(f"histograms_{side}/{sae_name}", active, makers)
            ws.put_table(f"examples_{side}/{sae_name}", lean(table), makers)
    if not all(bench.current(f"together_{side}/{sae_name}", makers) for side in ("a", "b")):
        places = shared_places(ws.table(f"examples_a/{sae_name}"), ws.table(f"examples_b/{sae_name}"))
        for side, (name, model, partner, layer) in sides.items():
            desc = f"the same text in {side.upper()}"
            table = read_places(model, partner, saes[name][1], documents, layer, places, desc)
            ws.put_table(f"together_{side}/{sae_name}", table, makers)
    if not bench.current(f"logits/{sae_name}", makers):
        ws.put_table(f"logits/{sae_name}", _logits(bench, saes), makers)
    if not bench.current(f"features/{sae_name}", makers):
        ws.put_table(f"features/{sae_name}", _features(bench, saes, layers, sae_name, config), makers)


def _features(
    bench: Bench, saes: dict[str, tuple[str, "SAE[Any]"]], layers: LayerPair, sae_name: str, config: ExploreConfig
) -> pd.DataFrame:
    """One row a feature: the columns of `Attribution.table`; `random`, the correlation of a random SAE's feature, and
    `shuffled`, of the same feature through a stitch of shuffled pairs; `sentences`, `consistent`, `consistency`;
    `jaccard`, `rbo` of the top examples; `x`, `y` of a UMAP of decoder directions; `raises`, see `raised`."""
    ws, held_out = bench.workspace, bench.corpus.split("held-out")

    sides = {
        "correlation": ("original", "transferred"), "random": ("random SAE", "random SAE, transferred"),
        "shuffled": ("original", "shuffled-pair stitch"),
    }  # fmt: skip
    both = {column: (saes[one][1], saes[other][1]) for column, (one, other) in sides.items()}
    found = measure_attribution(bench.a, bench.b, both, held_out, layers, "Eq. 10", config.positions)
    table = found["correlation"].assign(random=found["random"].correlation, shuffled=found["shuffled"].correlation)
    rewrite = TagRewriter(bench.corpus.split("fit"), config.seed)
    sentences = english_sentences(held_out, config.sentences)
    stays = consistency(active_features(bench.a, saes["original"][1], layers.a), sentences, rewrite)
    tops = overlap(ws.table(f"examples_a/{sae_name}"), ws.table(f"examples_b/{sae_name}"))
    table = table.merge(stays, on="feature", how="left").merge(tops, on="feature", how="left")
    x, y = _map(saes["original"][1].W_dec.float().numpy(), config.seed)
    return table.assign(x=x, y=y, raises=raised(ws.table(f"logits/{sae_name}", side="a")).to_numpy())


def _logits(bench: Bench, saes: dict[str, tuple[str, "SAE[Any]"]]) -> pd.DataFrame:
    """The tokens that each feature raises and lowers most: `feature`, `side` ('a', 'b'), `rank` (0 upwards for raised
    ones, -1 downwards for lowered ones), `token` (its text), `weight` (its logit weight)."""
    parts = []
    for side, name, model in (("a", "original", bench.a), ("b", "transferred", bench.b)):
        weights, ids = extreme_tokens(model, saes[name][1].W_dec.float())
        known, where = np.unique(ids.numpy(), return_inverse=True)
        texts = np.array([model.tokenizer.decode([i]) for i in known.tolist()], dtype=object)
        f, k2 = ids.shape
        ranks = np.r_[np.arange(k2 // 2), -1 - np.arange(k2 // 2)]
        parts.append(pd.DataFrame({
            "feature": np.repeat(np.arange(f), k2), "side": side, "rank": np.tile(ranks, f),
            "token": texts[where.reshape(-1)], "weight": short(weights.numpy().reshape(-1)),
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def raised(logits: pd.DataFrame, most: int = 5) -> pd.Series:
    """By feature, the tokens that it raises most, in one line."""
    tokens = logits.loc[(logits["rank"] >= 0) & (logits["rank"] < most)].sort_values(["feature", "rank"], kind="stable")
    shown = tokens.token.map({t: repr(t)[1:-1] for t in tokens.token.unique()})
    return shown.groupby(tokens.feature).agg(" ".join)


def _map(directions: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two UMAP coordinates of each direction, by cosine; fewer than four, too few for UMAP, stand in a row."""
    from umap import UMAP

    if len(directions) < 4:
        return np.arange(len(directions), dtype=np.float32), np.zeros(len(directions), np.float32)
    neighbours = min(15, len(directions) - 1)
    found = np.asarray(UMAP(n_neighbors=neighbours, metric="cosine", random_state=seed).fit_transform(directions))
    return found[:, 0].astype(np.float32), found[:, 1].astype(np.float32)
