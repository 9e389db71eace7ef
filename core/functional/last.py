"""Where entropy features would live: SAEs of a model's last layers, each of whose features is tried
by `core.functional.criterion`, beside controls and planted features (5.2)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import Tensor

from core.bench import Bench
from core.config import Frozen
from core.errors import StitchLensError
from core.functional import ablation, entropy, planted
from core.functional.criterion import is_entropy_feature
from core.functional.entropy import Clean
from core.functional.measure import read_whole
from core.functional.planted import Unembedding
from core.functional.sides import lean
from core.models.live import LiveModel, runtime
from core.models.loading import load
from core.models.pairs import SIDES, PairSpec, Side
from core.progress import Progress
from core.saes.sae import random_sae, reconstruction
from core.saes.settings import SaeConfig
from core.saes.train import kept_sae, sae_makers
from core.workspace.disk import fingerprint

if TYPE_CHECKING:
    from sae_lens import SAE

LEAST = 8
"""Places at which a feature must fire to be tried."""
DENSE = 0.1
"""Share of positions at which a dense feature fires; none is left out for it."""
DEPTH = 4
"""Blocks to one last layer, of which there are at most LAYERS."""
LAYERS = 3


class LastConfig(Frozen):
    """The SAE of a last layer, and how much of it is measured."""

    width: int = Field(default=1024, ge=8)
    k: int = Field(default=32, ge=1)
    epochs: int = Field(default=3, ge=1)
    lr: float = Field(default=2e-3, gt=0, le=1)
    positions: int | None = Field(default=200_000, ge=1)
    """Rows of the fit split that it is trained on; None is all of it."""
    documents: int = Field(default=240, ge=16)
    """Held-out documents in which features are looked for."""
    each: int = Field(default=16, ge=4)
    """Documents in which one is taken out, those where it fires most strongly."""
    places: int = Field(default=4, ge=1)
    """In each of them, the strongest."""
    controls: int = Field(default=64, ge=1)
    """Random directions, and features of a random SAE."""
    plants: int = Field(default=20, ge=1)
    """Of each kind, size and number of documents."""
    seed: int = 0

    @property
    def sae(self) -> SaeConfig:
        return SaeConfig(
            width=self.width,
            k=self.k,
            epochs=self.epochs,
            lr=self.lr,
            seed=self.seed,
        )


def chosen_layers(
    pair: PairSpec,
    side: str | None = None,
    layer: int | None = None,
) -> list[tuple[Side, int]]:
    """(side, layer) of what is to be measured: without a layer the last three of a deep model, the
    last one of a shallow one; without a side both models. Raises StitchLensError for a side that is
    none, a layer that the model has not, or a layer without a side."""
    if side is not None and side not in SIDES:
        raise StitchLensError(f"side '{side}'", "a or b", "choose one of them")
    if layer is not None and side is None:
        raise StitchLensError(
            f"layer {layer} of no model in particular", "a side", "give --side as well"
        )

    chosen: list[tuple[Side, int]] = []
    for one in SIDES:
        if side not in (None, one):
            continue
        if layer is not None:
            pair.check_layers(*((layer, 0) if one == "a" else (0, layer)))
            chosen.append((one, layer))
            continue
        blocks = (pair.a if one == "a" else pair.b).n_layers
        last = min(LAYERS, max(1, blocks // DEPTH))
        for at in range(blocks - last, blocks):
            chosen.append((one, at))
    return chosen


def measure(
    bench: Bench,
    side: Side,
    layer: int,
    config: LastConfig | None = None,
) -> str:
    """Train an SAE of one model before `layer`, try its features, and keep
    `entropy_last/<name>/features`, `/planted` and `/about`; the name, such as `a-L29`, comes back.
    Steps that are there and current are kept, and so is the SAE, in the user's cache."""
    config = config or LastConfig()
    if config.k > config.width:
        raise StitchLensError(
            f"k = {config.k} of {config.width} features",
            "k at most the width",
            "choose a larger --width, or a smaller --k",
        )
    name = f"{side}-L{layer}"
    spec = bench.pair.a if side == "a" else bench.pair.b

    # Differences of predictions are small: whatever the models run in otherwise, here in float32.
    model = load(spec, replace(runtime(), dtype=torch.float32))
    trained = sae_makers(bench, side, layer, config.sae, config.positions)
    makers = {
        "pair": bench.pair.key,
        "model": model.makers,
        "corpus": bench.corpus.fingerprint,
        "sae": fingerprint(trained),
        "side": side,
        "layer": layer,
        **config.model_dump(),
    }
    steps = ("planted", "features", "about")
    names = {step: f"entropy_last/{name}/{step}" for step in steps}
    if all(bench.current(full, makers) for full in names.values()):
        return name

    sae = kept_sae(bench, side, layer, config.sae, config.positions)
    held_out = bench.corpus.split("held-out")
    documents = read_whole(held_out, [model], config.documents, config.seed)
    texts = entropy.read_clean(model, layer, documents)
    unembedding = Unembedding.of(model)

    ws = bench.workspace
    if not bench.current(names["planted"], makers):
        plants = planted.plants(
            model, texts, unembedding, config.plants, config.places, config.seed
        )
        ws.put_table(names["planted"], lean(plants), makers)

    fired = {
        "feature": _firing(model, sae, layer, documents, "where features fire"),
        "random SAE": _firing(
            model,
            random_sae(sae, config.seed),
            layer,
            documents,
            "where those of a random SAE fire",
        ),
    }
    tried = _tried(model, layer, sae, texts, fired, unembedding, config)
    ws.put_table(names["features"], lean(tried), makers)
    ws.put_record(names["about"], _about(sae, texts, fired["feature"], tried, unembedding), makers)
    return name


def _firing(
    model: LiveModel,
    sae: "SAE[Any]",
    layer: int,
    documents: Sequence[Any],
    desc: str,
) -> dict[int, pd.DataFrame]:
    """See `ablation.firing`: the rows of each feature that fires at LEAST places."""
    rows = ablation.firing(model, sae, layer, documents, range(sae.cfg.d_sae), desc)
    counts = rows.feature.value_counts()
    often = rows.loc[rows.feature.isin(counts.index[counts >= LEAST])]
    return {int(str(feature)): one for feature, one in often.groupby("feature")}


def _tried(
    model: LiveModel,
    layer: int,
    sae: "SAE[Any]",
    texts: Sequence[Clean],
    fired: Mapping[str, Mapping[int, pd.DataFrame]],
    unembedding: Unembedding,
    config: LastConfig,
) -> pd.DataFrame:
    """Every feature, and the controls: for some of them a random direction as long at the same
    places, and some features of a random SAE at their own. A row each: `kind`, `feature`,
    `density`, `activation` (its largest), the columns of `entropy.judged`, `share`, `reading`,
    whether the criterion has `found` it, and of those found the `total` effect."""
    rng = np.random.default_rng(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    positions = sum(len(text.ids) for text in texts)
    decoders = {
        "feature": sae.W_dec.float(),
        "random SAE": random_sae(sae, config.seed).W_dec.float(),
    }

    def drawn(kind: str) -> list[int]:
        known = sorted(fired[kind])
        some = rng.choice(known, min(config.controls, len(known)), replace=False)
        return sorted(some.tolist())

    work: list[tuple[str, str, int]] = [("feature", "feature", f) for f in sorted(fired["feature"])]
    work += [("random direction", "feature", f) for f in drawn("feature")]
    work += [("random SAE", "random SAE", f) for f in drawn("random SAE")]

    rows = []
    with Progress("taking features out", len(work), "feature") as bar:
        for kind, of, feature in work:
            direction = decoders[of][feature]
            if kind == "random direction":
                direction = _random_like(direction, generator)

            rows_of = fired[of][feature]
            places = entropy.measured_places(rows_of, texts, config.each, config.places)
            bar.advance(1)
            if len(places) < LEAST:
                continue

            effects = entropy.taken_out(model, layer, texts, rows_of, places, direction)
            about = {k: x[0] for k, x in unembedding.about(direction[None]).items()}
            row = entropy.judged(effects, config.seed) | about
            row["found"] = is_entropy_feature(row)
            if row["found"]:
                whole = entropy.taken_out(
                    model, layer, texts, rows_of, places, direction, total=True
                )
                row |= _total(entropy.judged(whole, config.seed))
            known = {
                "kind": kind,
                "feature": feature,
                "density": len(rows_of) / positions,
                "activation": float(rows_of.activation.max()),
            }
            rows.append(known | row)

    if not rows:
        raise StitchLensError(
            f"no feature that fires {LEAST} times in {len(texts)} documents",
            "one at least",
            "read more documents (--documents) or train on more text (--positions)",
        )
    return pd.DataFrame(rows)


def _total(row: Mapping[str, float]) -> dict[str, float]:
    """Of `entropy.judged`: the change of the entropy with the blocks between free, as `total`."""
    return {f"total{end}": row[f"free{end}"] for end in ("", "_low", "_high")}


def _random_like(direction: Tensor, generator: torch.Generator) -> Tensor:
    random = torch.randn(len(direction), generator=generator)
    return random * (direction.norm() / random.norm())


def _about(
    sae: "SAE[Any]",
    texts: Sequence[Clean],
    fired: Mapping[int, pd.DataFrame],
    tried: pd.DataFrame,
    unembedding: Unembedding,
) -> dict[str, Any]:
    """What the SAE is like on the held-out text (first tokens left out), how many of its features
    were tried, and of these how many are dense; and `floor`, how strongly the unembedding reads its
    own null space."""
    features = tried.loc[tried.kind == "feature"]
    return {
        "sae": reconstruction(sae, [text.before[1:] for text in texts if len(text.ids) > 1]),
        "floor": unembedding.floor,
        "documents": len(texts),
        "tokens": sum(len(text.ids) for text in texts),
        "features": sae.cfg.d_sae,
        "fire": len(fired),
        "tried": len(features),
        "dense": int((features.density >= DENSE).sum()),
    }
