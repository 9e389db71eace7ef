"""Which features of an SAE are worth steering by: a search over candidates, in both models.

Each candidate steers A by its own direction and B by the carried one, at a few strengths, on
neutral prompts; beside it a random direction that a clamp moves as far, and the model as it is. A
text shows the feature where the unsteered model that reads it is active at more of its tokens, or
says more of the words that its contexts turn on; it counts where it stays fluent.
"""

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch

from core.activations.harvest import record
from core.bench import Bench
from core.config import Frozen
from core.models.pairs import Side
from core.saes.crossing import Crossing
from core.steering import levels
from core.steering.candidates import candidates
from core.steering.generate import Written, encode_prompt, respond, response_losses
from core.steering.keys import Kind, LaneKey
from core.steering.lanes import Lane
from core.steering.measure import REPEATS
from core.steering.settings import Sampling, Setting
from core.steering.sources import Feature
from core.steering.studio import Studio
from core.steering.vectors import random_like
from core.text.languages import prompts, repetition
from core.workspace.disk import fingerprint, only_one

DEARER = 1.5
"""Nats/token above the unsteered text, under the unsteered model, from which on a text is not
fluent."""
OWN: dict[Side, Kind] = {"a": "own", "b": "transferred"}
"""The lane in which a feature of A steers a side."""


class SearchConfig(Frozen):
    """How much is tried."""

    candidates: int = 8
    strengths: tuple[float, ...] = (1.0, 2.0)
    prompts: int = 4
    """Of those that choose."""
    tokens: int = 24
    temperature: float = 0.5
    repetition: float = 1.1
    seed: int = 0

    @property
    def sampling(self) -> Sampling:
        return Sampling(
            tokens=self.tokens,
            temperature=self.temperature,
            repetition=self.repetition,
        )


def search(
    bench: Bench,
    sae_name: str,
    stitch_name: str,
    config: SearchConfig | None = None,
) -> pd.DataFrame:
    """Puts `feature_steering/SAE`, a row a text: `feature`, `side`, `lane` ('plain', 'random',
    'steered'), `strength`, `prompt` (its number), `text`, `active` (share of its tokens at which
    the feature is), `said` (share of its words that are the feature's), `loss` (nats/token,
    unsteered model), `repetition`, `fluent`; and `words`, `correlation` of the feature. Levels of
    the candidates are measured first where they are not known."""
    config = config or SearchConfig()
    ws, crossing = bench.workspace, Crossing(bench, sae_name, stitch_name)
    name = f"feature_steering/{sae_name}"
    makers = bench.makers | levels.measured_from(ws, crossing) | config.model_dump(mode="json")
    makers |= {"prompts_text": fingerprint(prompts())}
    if bench.current(name, makers):
        return ws.table(name)

    with only_one(bench.pair.key, "search"):
        texts = {document.id: document.text for document in bench.corpus.documents}
        chosen = candidates(ws, sae_name, texts, config.candidates)
        levels.measure(bench, sae_name, stitch_name, chosen.feature.to_list())
        studio = Studio(bench, stitch_name)
        parts = [_side(studio, sae_name, side, chosen, config) for side in get_args(Side)]
        table = pd.concat(parts, ignore_index=True)
        ws.put_table(name, table, makers)
    return table


def _side(
    studio: Studio,
    sae_name: str,
    side: Side,
    chosen: pd.DataFrame,
    config: SearchConfig,
) -> pd.DataFrame:
    """What one model writes, judged."""
    model, openings = studio.model(side), prompts()[0][: config.prompts]
    cells: list[tuple[dict[str, Any], Lane]] = [({"lane": "plain", "strength": 0.0}, Lane())]
    for feature in chosen.feature:
        cells += _lanes(studio, Feature(sae_name, int(feature)), side, config.strengths)

    rows = [(text, lane, config.seed + k) for _, lane in cells for k, text in enumerate(openings)]
    written = respond(model, rows, config.sampling, f"writing, {model.spec.title}")
    ids = [encode_prompt(model, text, 1) for text in openings] * len(cells)
    losses = response_losses(model, ids, [w.ids for w in written])
    plain = losses[: len(openings)]

    out = []
    activations = _activations(studio, sae_name, side, written, chosen.feature.to_list())
    for i, (w, loss) in enumerate(zip(written, losses, strict=True)):
        cell, k = cells[i // len(openings)][0], i % len(openings)
        repeats = repetition(w.text)
        fluent = bool(loss <= plain[k] + DEARER and repeats <= REPEATS)
        judged = {
            "loss": loss,
            "repetition": repeats,
            "fluent": fluent,
        }
        for j, row in enumerate(chosen.to_dict("records")):
            feature, words = row["feature"], row["words"]
            if cell.get("feature", feature) != feature:
                continue
            about = {
                "feature": feature,
                "side": side,
                "prompt": k,
                "text": w.text,
            }
            shown = {"active": activations[i][j], "said": said(w.text, words)}
            known = {"words": " ".join(words), "correlation": row["correlation"]}
            out.append(cell | about | judged | shown | known)
    return pd.DataFrame(out)


def _lanes(
    studio: Studio,
    source: Feature,
    side: Side,
    strengths: Sequence[float],
) -> list[tuple[dict[str, Any], Lane]]:
    """Steered and, as far along a random direction, the control."""
    found = studio.directions(source)
    (vector,) = studio.vectors(found, LaneKey(side, OWN[side]), Setting())
    control = random_like(vector, found.means(side, vector.layer))
    return [
        (
            {
                "feature": source.index,
                "lane": lane,
                "strength": strength,
            },
            Lane((steers,), strength=strength),
        )
        for strength in strengths
        for lane, steers in (("steered", vector), ("random", control))
    ]


def _activations(
    studio: Studio,
    sae_name: str,
    side: Side,
    written: Sequence[Written],
    features: Sequence[int],
) -> list[np.ndarray]:
    """Of each text the share of its tokens [features] at which they are active, as the unsteered
    model reads the text alone."""
    crossing, model = studio.crossing(sae_name), studio.model(side)
    sae = crossing.sae if side == "a" else crossing.transferred
    layer = studio.stitched(side)
    encoded = model.encode([w.text or " " for w in written])
    positions = [np.flatnonzero(text.usable) for text in encoded]
    h = record(model, encoded, positions, [layer])[layer].float()
    with torch.inference_mode():
        on = sae.encode(h)[:, list(features)] > 0
    parts = on.double().split([len(at) for at in positions])
    return [part.mean(0).nan_to_num(0).numpy() for part in parts]


def said(text: str, words: Sequence[str]) -> float:
    """Share of the words of a text that are among `words`."""
    spoken = ["".join(c for c in word if c.isalpha()).lower() for word in text.split()]
    spoken = [word for word in spoken if word]
    return sum(word in set(words) for word in spoken) / max(len(spoken), 1)
