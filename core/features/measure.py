"""What the feature explorer shows of an SAE of A and its transfer to B: from a stitch to tables
(3.1, 5.1, C, G, H)."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from core.activations.shards import UNDIVIDED, Shard
from core.bench import Bench
from core.errors import StitchLensError
from core.features.attribution import Attributions, SaePairs, gather_attribution
from core.features.examples import Examples, lean, shared_places, short
from core.features.firings import read_both
from core.features.overlap import overlap
from core.features.reading import Read, read_text
from core.features.recorded import Recorded
from core.features.shares import ALONE, Share
from core.features.taxonomy import (
    REWRITES,
    TagRewriter,
    active_features,
    consistency,
    english_sentences,
)
from core.features.unembedding import extreme_tokens
from core.models.live import TURNS
from core.models.pairs import SIDES, PairSpec, Side
from core.saes.crossing import Crossing, zero_shot
from core.saes.settings import ExploreConfig
from core.text.corpus import Document, Split
from core.workspace import demonstration
from core.workspace.disk import fingerprint
from core.workspace.store import Workspace

if TYPE_CHECKING:
    from sae_lens import SAE

SPLITS: tuple[Split, Split] = ("held-out", "select")
"""From which contexts of features are taken."""


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


class Passes:
    """The passes over text that exploring an SAE takes, each over a share of the documents."""

    def __init__(
        self,
        bench: Bench,
        sae_name: str,
        stitch_name: str,
        config: ExploreConfig,
    ) -> None:
        self.bench, self.config = bench, config
        self.crossing = Crossing(bench, sae_name, stitch_name)
        self.saes = self.crossing.variants(config.seed)

    @property
    def makers(self) -> dict[str, Any]:
        """What decides their outcome."""
        measured = {"rewrites": REWRITES} | self.config.model_dump()
        return self.bench.makers | self.crossing.makers | measured

    @property
    def documents(self) -> list[Document]:
        """From which contexts are taken."""
        return [document for split in SPLITS for document in self.bench.corpus.split(split)]

    @property
    def sides(self) -> "dict[Side, SAE[Any]]":
        """The SAE of each model."""
        return {"a": self.saes["original"][1], "b": self.saes["transferred"][1]}

    @property
    def compared(self) -> SaePairs:
        """The SAEs whose attributions are correlated, by the column that they fill."""
        names = {
            "correlation": ("original", "transferred"),
            "random": ("random SAE", "random SAE, transferred"),
            "shuffled": ("original", "shuffled-pair stitch"),
        }
        return {k: (self.saes[one][1], self.saes[other][1]) for k, (one, other) in names.items()}

    def recorded(
        self,
        side: Side,
        shard: Shard = UNDIVIDED,
    ) -> Recorded:
        """The documents as one model reads them: once for all that is asked of them."""
        read = partial(read_both, self.bench, self.crossing.layers, shard=shard)
        return Recorded([read(split) for split in SPLITS], side)

    def examples(
        self,
        side: Side,
        share: Share = ALONE,
    ) -> Examples:
        """The contexts of every feature in one model."""
        sae = self.sides[side]
        recorded = self.recorded(side, share.shard)
        return recorded.examples(sae, f"examples in {side.upper()}", share)

    def attribution(self, share: Share = ALONE) -> Attributions:
        """What Eq. 10 and its controls need."""
        return gather_attribution(
            self.bench.a,
            self.bench.b,
            self.compared,
            self.bench.corpus.split("held-out"),
            self.crossing.layers,
            "Eq. 10",
            self.config.positions,
            share,
            read_both(self.bench, self.crossing.layers, "held-out", shard=share.shard),
        )


def explore(
    bench: Bench,
    sae_name: str,
    stitch_name: str,
    config: ExploreConfig | None = None,
    passes: Passes | None = None,
) -> None:
    """Measure an SAE of the workspace and its transfer through a stitch of the workspace, and keep
    the tables `sae_quality/`, `examples_a/` and `_b/`, `histograms_a/` and `_b/`, `together_a/` and
    `_b/`, `logits/` and `features/` of that SAE. Steps that are there and current are kept.
    `passes` are those of this very SAE, where others have read the text.

    Raises StitchLensError where SAE and stitch belong to different layers.
    """
    ws = bench.workspace
    passes = passes or Passes(bench, sae_name, stitch_name, config or ExploreConfig())
    makers, saes, documents = passes.makers, passes.saes, passes.documents
    if not bench.current(f"sae_quality/{sae_name}", makers):
        quality = zero_shot(passes.crossing, saes, passes.config)
        ws.put_table(f"sae_quality/{sae_name}", quality, makers)
    for side in SIDES:
        if not bench.current(f"examples_{side}/{sae_name}", makers):
            examples = passes.examples(side)
            histogram = examples.histogram
            active = pd.DataFrame(
                {
                    "feature": np.arange(len(histogram)),
                    "histogram": list(histogram.astype(np.int32)),
                }
            )
            ws.put_table(f"histograms_{side}/{sae_name}", active, makers)
            ws.put_table(f"examples_{side}/{sae_name}", lean(examples.table(documents)), makers)
    if not all(bench.current(f"together_{side}/{sae_name}", makers) for side in ("a", "b")):
        places = shared_places(
            ws.table(f"examples_a/{sae_name}"), ws.table(f"examples_b/{sae_name}")
        )
        for side, sae in passes.sides.items():
            desc = f"the same text in {side.upper()}"
            table = passes.recorded(side).places(sae, places, desc)
            ws.put_table(f"together_{side}/{sae_name}", table, makers)
    if not bench.current(f"logits/{sae_name}", makers):
        ws.put_table(f"logits/{sae_name}", _logits(bench, saes), makers)
    if not bench.current(f"features/{sae_name}", makers):
        ws.put_table(f"features/{sae_name}", _features(passes, sae_name), makers)


def _features(
    passes: Passes,
    sae_name: str,
) -> pd.DataFrame:
    """One row a feature: the columns of `Attribution.table`; `random`, the correlation of a random
    SAE's feature, and `shuffled`, of the same feature through a stitch of shuffled pairs;
    `sentences`, `consistent`, `consistency`; `jaccard`, `rbo` of the top examples; `x`, `y` of a
    UMAP of decoder directions; `raises`, see `raised`."""
    bench, config = passes.bench, passes.config
    ws, held_out = bench.workspace, bench.corpus.split("held-out")
    sae, layer = passes.sides["a"], passes.crossing.layers.a

    tables = passes.attribution().tables()
    table = tables["correlation"].assign(
        random=tables["random"].correlation, shuffled=tables["shuffled"].correlation
    )
    rewrite = TagRewriter(bench.corpus.split("fit"), config.seed)
    sentences = english_sentences(held_out, config.sentences)
    stays = consistency(active_features(bench.a, sae, layer), sentences, rewrite)
    tops = overlap(ws.table(f"examples_a/{sae_name}"), ws.table(f"examples_b/{sae_name}"))
    table = table.merge(stays, on="feature", how="left").merge(tops, on="feature", how="left")
    x, y = _map(sae.W_dec.float().numpy(), config.seed)
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
    if len(directions) < 4:
        return np.arange(len(directions), dtype=np.float32), np.zeros(len(directions), np.float32)
    # numba gives the whole process a thread for each core, whatever it was told before: passes of
    # small models then take ten times the processor time.
    threads = torch.get_num_threads()
    try:
        from umap import UMAP

        mapper = UMAP(
            n_neighbors=min(15, len(directions) - 1),
            metric="cosine",
            random_state=seed,
        )
        places = np.asarray(mapper.fit_transform(directions))
    finally:
        torch.set_num_threads(threads)
    return places[:, 0].astype(np.float32), places[:, 1].astype(np.float32)
