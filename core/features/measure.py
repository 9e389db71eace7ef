"""What the feature explorer shows of an SAE of A and its transfer to B: from a stitch to tables
(3.1, 5.1, C, G, H)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.bench import Bench
from core.errors import StitchLensError
from core.features.attribution import extreme_tokens, measure_attribution
from core.features.examples import find_examples, lean, read_places, shared_places, short
from core.features.overlap import overlap
from core.features.reading import Read, read_text
from core.features.taxonomy import (
    REWRITES,
    TagRewriter,
    active_features,
    consistency,
    english_sentences,
)
from core.models.live import TURNS
from core.models.pairs import LayerPair, PairSpec, Side
from core.saes.crossing import Crossing, zero_shot
from core.saes.settings import ExploreConfig
from core.workspace import demonstration
from core.workspace.disk import fingerprint
from core.workspace.store import Workspace

if TYPE_CHECKING:
    from sae_lens import SAE


def stitch_of(ws: Workspace, sae_name: str) -> str:
    """The stitch that the features of an SAE were measured through. Raises StitchLensError where it
    was fitted again since."""
    makers = ws.entry(f"features/{sae_name}").makers
    name = makers["stitch_name"]
    if fingerprint(ws.entry(f"stitches/{name}").makers) != makers["stitch"]:
        raise StitchLensError(
            f"stitch {name} fitted again since",
            "the one that the features were measured through",
            f"run `python -m core features build {ws.pair} --stitch {name} --sae {sae_name}`",
        )
    return name


class Live:
    """Both models with an SAE of the workspace and its transfer at hand, to read texts that were
    typed in; takes turns with whatever else computes in this process.

    Raises StitchLensError where the stitch is not the one that the features were measured through.
    """

    def __init__(
        self,
        pair: PairSpec,
        sae_name: str,
        private: Path | None = None,
    ) -> None:
        bench = Bench(pair, private=private)
        crossing = Crossing(bench, sae_name, stitch_of(bench.workspace, sae_name))
        self._sides = {
            "a": (bench.a, crossing.sae, crossing.layers.a),
            "b": (bench.b, crossing.transferred, crossing.layers.b),
        }

    def read(self, text: str) -> dict[str, Read]:
        """Activations in A ('a') and, transferred, in B ('b')."""
        demonstration.admit(text)
        with TURNS.turn():
            return {
                side: read_text(model, sae, at, text)
                for side, (model, sae, at) in self._sides.items()
            }

    def peaks(self, text: str) -> dict[str, NDArray[np.float32]]:
        """The largest activation [f] of each feature in a text, in A ('a') and in B ('b')."""
        return {side: read.acts.amax(0).numpy() for side, read in self.read(text).items()}


def explore(
    bench: Bench,
    sae_name: str,
    stitch_name: str,
    config: ExploreConfig | None = None,
) -> None:
    """Measure an SAE of the workspace and its transfer through a stitch of the workspace, and keep
    the tables `sae_quality/`, `examples_a/` and `_b/`, `histograms_a/` and `_b/`, `together_a/` and
    `_b/`, `logits/` and `features/` of that SAE. Steps that are there and current are kept.

    Raises StitchLensError where SAE and stitch belong to different layers.
    """
    config = config or ExploreConfig()
    ws = bench.workspace
    crossing = Crossing(bench, sae_name, stitch_name)
    layers = crossing.layers
    measured = {"rewrites": REWRITES} | config.model_dump()
    makers = bench.makers | crossing.makers | measured
    saes = crossing.variants(config.seed)
    if not bench.current(f"sae_quality/{sae_name}", makers):
        ws.put_table(f"sae_quality/{sae_name}", zero_shot(crossing, saes, config), makers)
    documents = [*bench.corpus.split("held-out"), *bench.corpus.split("select")]
    sides = {
        "a": ("original", bench.a, bench.b, layers.a),
        "b": ("transferred", bench.b, bench.a, layers.b),
    }
    for side, (name, model, partner, layer) in sides.items():
        if not bench.current(f"examples_{side}/{sae_name}", makers):
            desc = f"examples in {side.upper()}"
            table, histogram = find_examples(model, partner, saes[name][1], documents, layer, desc)
            active = pd.DataFrame(
                {
                    "feature": np.arange(len(histogram)),
                    "histogram": list(histogram.astype(np.int32)),
                }
            )
            ws.put_table(f"histograms_{side}/{sae_name}", active, makers)
            ws.put_table(f"examples_{side}/{sae_name}", lean(table), makers)
    if not all(bench.current(f"together_{side}/{sae_name}", makers) for side in ("a", "b")):
        places = shared_places(
            ws.table(f"examples_a/{sae_name}"), ws.table(f"examples_b/{sae_name}")
        )
        for side, (name, model, partner, layer) in sides.items():
            desc = f"the same text in {side.upper()}"
            table = read_places(model, partner, saes[name][1], documents, layer, places, desc)
            ws.put_table(f"together_{side}/{sae_name}", table, makers)
    if not bench.current(f"logits/{sae_name}", makers):
        ws.put_table(f"logits/{sae_name}", _logits(bench, saes), makers)
    if not bench.current(f"features/{sae_name}", makers):
        ws.put_table(
            f"features/{sae_name}", _features(bench, saes, layers, sae_name, config), makers
        )


def _features(
    bench: Bench,
    saes: dict[str, tuple[Side, "SAE[Any]"]],
    layers: LayerPair,
    sae_name: str,
    config: ExploreConfig,
) -> pd.DataFrame:
    """One row a feature: the columns of `Attribution.table`; `random`, the correlation of a random
    SAE's feature, and `shuffled`, of the same feature through a stitch of shuffled pairs;
    `sentences`, `consistent`, `consistency`; `jaccard`, `rbo` of the top examples; `x`, `y` of a
    UMAP of decoder directions; `raises`, see `raised`."""
    ws, held_out = bench.workspace, bench.corpus.split("held-out")

    sides = {
        "correlation": ("original", "transferred"),
        "random": ("random SAE", "random SAE, transferred"),
        "shuffled": ("original", "shuffled-pair stitch"),
    }
    both = {column: (saes[one][1], saes[other][1]) for column, (one, other) in sides.items()}
    found = measure_attribution(
        bench.a, bench.b, both, held_out, layers, "Eq. 10", config.positions
    )
    table = found["correlation"].assign(
        random=found["random"].correlation, shuffled=found["shuffled"].correlation
    )
    rewrite = TagRewriter(bench.corpus.split("fit"), config.seed)
    sentences = english_sentences(held_out, config.sentences)
    stays = consistency(active_features(bench.a, saes["original"][1], layers.a), sentences, rewrite)
    tops = overlap(ws.table(f"examples_a/{sae_name}"), ws.table(f"examples_b/{sae_name}"))
    table = table.merge(stays, on="feature", how="left").merge(tops, on="feature", how="left")
    x, y = _map(saes["original"][1].W_dec.float().numpy(), config.seed)
    return table.assign(
        x=x,
        y=y,
        raises=raised(ws.table(f"logits/{sae_name}", side="a")).to_numpy(),
    )


def _logits(bench: Bench, saes: dict[str, tuple[Side, "SAE[Any]"]]) -> pd.DataFrame:
    """The tokens that each feature raises and lowers most: `feature`, `side` ('a', 'b'), `rank` (0
    upwards for raised ones, -1 downwards for lowered ones), `token` (its text), `weight` (its logit
    weight)."""
    parts = []
    for side, name, model in (("a", "original", bench.a), ("b", "transferred", bench.b)):
        weights, ids = extreme_tokens(model, saes[name][1].W_dec.float())
        known, where = np.unique(ids.numpy(), return_inverse=True)
        texts = np.array([model.tokenizer.decode([i]) for i in known.tolist()], dtype=object)
        f, k2 = ids.shape
        ranks = np.r_[np.arange(k2 // 2), -1 - np.arange(k2 // 2)]
        parts.append(
            pd.DataFrame(
                {
                    "feature": np.repeat(np.arange(f), k2),
                    "side": side,
                    "rank": np.tile(ranks, f),
                    "token": texts[where.reshape(-1)],
                    "weight": short(weights.numpy().reshape(-1)),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def raised(logits: pd.DataFrame, most: int = 5) -> pd.Series:
    """By feature, the tokens that it raises most, in one line."""
    tokens = logits.loc[(logits["rank"] >= 0) & (logits["rank"] < most)].sort_values(
        ["feature", "rank"], kind="stable"
    )
    shown = tokens.token.map({t: repr(t)[1:-1] for t in tokens.token.unique()})
    return shown.groupby(tokens.feature).agg(" ".join)


def _map(directions: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two UMAP coordinates of each direction, by cosine; fewer than four, too few for UMAP, stand
    in a row."""
    from umap import UMAP

    if len(directions) < 4:
        return np.arange(len(directions), dtype=np.float32), np.zeros(len(directions), np.float32)
    neighbours = min(15, len(directions) - 1)
    found = np.asarray(
        UMAP(
            n_neighbors=neighbours,
            metric="cosine",
            random_state=seed,
        ).fit_transform(directions)
    )
    return found[:, 0].astype(np.float32), found[:, 1].astype(np.float32)
