"""Which features of A's SAE are worth steering B by: a search in two stages.

Each candidate steers B by the carried direction; that is what people do with it. A text shows the
feature where it bears its signs (`core.steering.signs`) and stays fluent. The first stage writes
few short texts for many candidates, each at a few strengths; the second writes more and longer ones
for the best of them, from other beginnings, beside the model as it is and a random direction that a
clamp moves as far. There A, steered by its own direction, is shown for comparison.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch

from core.bench import Bench
from core.config import Frozen
from core.models.live import LiveModel
from core.models.pairs import Side
from core.saes.crossing import Crossing
from core.steering import levels
from core.steering.candidates import candidates
from core.steering.curated import STEERED
from core.steering.generate import Written, respond_and_score, response_losses
from core.steering.keys import Kind, LaneKey
from core.steering.lanes import Lane
from core.steering.measure import REPEATS
from core.steering.settings import Sampling, Setting
from core.steering.signs import Signs, signs
from core.steering.sources import Feature
from core.steering.studio import Studio
from core.steering.vectors import random_like
from core.text.languages import LANGUAGES, by_language, prompts, repetition
from core.workspace.disk import fingerprint, kept_table, only_one
from core.workspace.places import user_cache

NATURAL = 4
"""Texts of a language whose beginnings tell how dear real text is to a model: a text that is dearer
is not fluent."""
BEGINNING = 64
"""Tokens read of each."""
OWN: dict[Side, Kind] = {"a": "own", "b": "transferred"}
"""The lane in which a feature of A steers a side."""
ENGLISH = "en"
TOGETHER = 8
"""Features that are written for together; what is finished of these survives a stop."""


class SearchConfig(Frozen):
    """How much is tried."""

    candidates: int = 24
    best: int = 12
    """Of the first stage, that the second one tries."""
    strengths: tuple[float, ...] = (1.0, 1.5, 2.0)
    prompts: int = 3
    """Of those that choose, in the first stage."""
    tokens: int = 16
    judging: int = 6
    """Prompts of the second stage, others than in the first."""
    seeds: int = 3
    """Texts for each of these."""
    longer: int = 32
    """Tokens of a text of the second stage."""
    temperature: float = 0.5
    repetition: float = 1.1


@dataclass(frozen=True)
class Stage:
    """What is written for each feature."""

    number: int
    openings: Sequence[str]
    seeds: int
    lanes: Sequence[str]
    sampling: Sampling


def search(
    bench: Bench,
    sae_name: str,
    stitch_name: str,
    config: SearchConfig | None = None,
) -> pd.DataFrame:
    """Puts `feature_steering/SAE`, a row a text: `stage` (1, 2), `feature`, `side`, `lane`
    ('plain', 'random', 'steered'), `strength`, `prompt` (its number among those of its stage),
    `seed`, `text`, `shown` (how much of it bears the feature's signs), `loss` (nats/token) and
    `bits` (bits/byte) under the unsteered model, `repetition`, `fluent`; and `label`, `agreement`,
    `f1` of the feature. Levels of the candidates are measured first where they are not known.

    Raises StitchLensError where agreement and labels were not measured yet.
    """
    config = config or SearchConfig()
    ws, crossing = bench.workspace, Crossing(bench, sae_name, stitch_name)
    name = f"feature_steering/{sae_name}"
    tables = {
        table: fingerprint(ws.entry(f"{table}/{sae_name}").makers)
        for table in ("agreement", "labels", "logits")
    }
    makers = bench.makers | levels.measured_from(ws, crossing) | tables
    makers |= config.model_dump(mode="json") | {
        "prompts_text": fingerprint(prompts()),
        "steered": STEERED,
    }
    if bench.current(name, makers):
        return ws.table(name)

    with only_one(bench.pair.key, "search"):
        chosen = candidates(ws, sae_name, config.candidates)
        levels.measure(bench, sae_name, stitch_name, chosen.feature.to_list())
        hunt = Hunt(Studio(bench, stitch_name), sae_name, fingerprint(makers))
        first, second = stages(config)

        tried = hunt.write(first, dict.fromkeys(chosen.feature, config.strengths), (STEERED,))
        best = strongest(tried, config.best)
        judged = hunt.write(second, {feature: (strength,) for feature, strength in best.items()})

        about = chosen[["feature", "label", "agreement", "f1"]]
        table = pd.concat([tried, judged], ignore_index=True).merge(about, on="feature")
        ws.put_table(name, table, makers)
    return table


def stages(config: SearchConfig) -> tuple[Stage, Stage]:
    """Few short texts; more and longer ones, from other beginnings, with the control."""
    choosing, judging = prompts()
    short = Sampling(
        tokens=config.tokens,
        temperature=config.temperature,
        repetition=config.repetition,
    )
    first = Stage(
        1,
        choosing[: config.prompts],
        1,
        ("steered",),
        short,
    )
    second = Stage(
        2,
        judging[: config.judging],
        config.seeds,
        ("steered", "random"),
        short.model_copy(update={"tokens": config.longer}),
    )
    return first, second


def strongest(
    tried: pd.DataFrame,
    most: int,
) -> dict[int, float]:
    """The features that show most above the unsteered texts in the model that is steered, the best
    first, each with the strength at which that is so."""
    shows = tried.assign(shows=tried.shown * tried.fluent).loc[tried.side == STEERED]
    plain = shows.loc[shows.lane == "plain"].groupby("feature").shows.mean()
    steered = shows.loc[shows.lane == "steered"]
    cells = steered.groupby(["feature", "strength"]).shows.mean()
    gain = cells.sub(plain, level="feature").rename("gain").reset_index()
    gain = gain.sort_values(["gain", "strength"], ascending=[False, True], kind="stable")
    best = gain.drop_duplicates("feature").head(most)
    return dict(zip(best.feature.astype(int), best.strength.astype(float), strict=True))


class Hunt:
    """What both models write under features of an SAE; each part that is done is kept in the user's
    cache until the table is written."""

    def __init__(
        self,
        studio: Studio,
        sae_name: str,
        key: str,
    ) -> None:
        self.studio, self.sae_name = studio, sae_name
        self.folder = user_cache() / "feature-steering" / key

    def write(
        self,
        stage: Stage,
        strengths: Mapping[int, Sequence[float]],
        sides: Sequence[Side] = get_args(Side),
    ) -> pd.DataFrame:
        """Of both models or one, judged: what they write unsteered, and under each feature at its
        `strengths`."""
        features, parts = list(strengths), []
        for side in sides:
            texts = [self._kept(stage, side, {})]
            for k in range(0, len(features), TOGETHER):
                some = features[k : k + TOGETHER]
                texts.append(self._kept(stage, side, {f: strengths[f] for f in some}))
            parts.append(self._judged(pd.concat(texts, ignore_index=True), side, features))
        return pd.concat(parts, ignore_index=True).assign(stage=stage.number)

    def _kept(
        self,
        stage: Stage,
        side: Side,
        strengths: Mapping[int, Sequence[float]],
    ) -> pd.DataFrame:
        """`_texts`, written once."""
        name = fingerprint(sorted(strengths.items())) if strengths else "plain"
        path = self.folder / f"{stage.number}-{side}-{name}.parquet"
        return kept_table(path, lambda: self._texts(stage, side, strengths))

    def _texts(
        self,
        stage: Stage,
        side: Side,
        strengths: Mapping[int, Sequence[float]],
    ) -> pd.DataFrame:
        """A row a text; unsteered ones where there is no feature."""
        model = self.studio.model(side)
        cells: list[tuple[dict[str, Any], Lane]] = []
        for feature, some in strengths.items():
            cells += self._lanes(feature, side, some, stage.lanes)
        if not strengths:
            plain = {
                "feature": -1,
                "lane": "plain",
                "strength": 0.0,
            }
            cells = [(plain, Lane())]

        rows, about = [], []
        for cell, lane in cells:
            for prompt, opening in enumerate(stage.openings):
                for seed in range(stage.seeds):
                    rows.append((opening, lane, seed))
                    about.append(cell | {"side": side, "prompt": prompt, "seed": seed})

        scored = respond_and_score(
            model,
            rows,
            stage.sampling,
            f"writing, {model.spec.title}",
        )
        texts = [
            one | measured(model, text, loss)
            for one, (text, loss) in zip(about, scored, strict=True)
        ]
        return pd.DataFrame(texts)

    def _lanes(
        self,
        feature: int,
        side: Side,
        strengths: Sequence[float],
        lanes: Sequence[str],
    ) -> list[tuple[dict[str, Any], Lane]]:
        """Steered and, as far along a random direction, the control."""
        directions = self.studio.directions(Feature(self.sae_name, int(feature)))
        (vector,) = self.studio.vectors(directions, LaneKey(side, OWN[side]), Setting())
        control = random_like(vector, directions.means(side, vector.layer))
        vectors = {
            "steered": vector,
            "random": control,
        }
        return [
            (
                {
                    "feature": feature,
                    "lane": lane,
                    "strength": strength,
                },
                Lane((vectors[lane],), strength=strength),
            )
            for strength in strengths
            for lane in lanes
        ]

    def _judged(
        self,
        texts: pd.DataFrame,
        side: Side,
        features: Sequence[int],
    ) -> pd.DataFrame:
        """Fluent or not, and how much each text shows the feature that it is for; what was written
        unsteered stands by every feature."""
        looked_for = signs(self.studio.bench.workspace, self.sae_name, features, side)
        natural = self._natural(side, looked_for.values())
        plain = texts.loc[texts.lane == "plain"]
        parts = []
        for feature in features:
            some = pd.concat([plain.assign(feature=feature), texts.loc[texts.feature == feature]])
            sought = looked_for[feature]
            limit = max(natural[language] for language in sought.languages or {ENGLISH})
            fluent = some.bits.le(limit) & some.repetition.le(REPEATS)
            parts.append(some.assign(shown=shown(some, sought), fluent=fluent))
        return pd.concat(parts, ignore_index=True).drop(columns="tokens")

    def _natural(
        self,
        side: Side,
        looked_for: Iterable[Signs],
    ) -> dict[str, float]:
        """By language, as langdetect calls it, the bits/byte of real text under the unsteered
        model: of English, and of each that is looked for. One of which there is no text is taken
        to be as dear as English; English, where there is none, as the first texts."""
        model = self.studio.model(side)
        held_out = self.studio.bench.corpus.split("held-out")
        by_code = {LANGUAGES[x][0]: texts for x, texts in by_language(held_out, NATURAL).items()}
        english = by_code.get(ENGLISH) or [document.text for document in held_out[:NATURAL]]

        wanted = {ENGLISH}.union(*(sought.languages for sought in looked_for))
        bits = dict.fromkeys(wanted, natural_bits(model, english))
        for code in wanted & set(by_code) - {ENGLISH}:
            bits[code] = natural_bits(model, by_code[code])
        return bits


def natural_bits(
    model: LiveModel,
    texts: Sequence[str],
) -> float:
    """The mean bits/byte of the beginnings of real texts."""
    ids = [torch.from_numpy(encoded.ids) for encoded in model.encode(texts, BEGINNING)]
    losses = response_losses(model, [x[:1] for x in ids], [x[1:].tolist() for x in ids])
    return float(
        np.mean(
            [
                bits_per_byte(model, x[1:].tolist(), loss)
                for x, loss in zip(ids, losses, strict=True)
            ]
        )
    )


def bits_per_byte(
    model: LiveModel,
    ids: Sequence[int],
    loss: float,
) -> float:
    """Of a text whose `loss` is given in nats/token."""
    text = model.tokenizer.decode(ids, skip_special_tokens=True)
    return loss * len(ids) / math.log(2) / max(len(text.encode()), 1)


def measured(
    model: LiveModel,
    text: Written,
    loss: float,
) -> dict[str, Any]:
    """What there is to say of a text whatever it was written for; `loss` in nats/token."""
    return {
        "text": text.text,
        "tokens": [model.tokenizer.decode([i]) for i in text.ids],
        "loss": loss,
        "bits": bits_per_byte(model, text.ids, loss),
        "repetition": repetition(text.text),
    }


def shown(
    texts: pd.DataFrame,
    looked_for: Signs,
) -> list[float]:
    """Of each text how much it bears those signs."""
    pairs = zip(texts.text, texts.tokens, strict=True)
    return [looked_for.shown(text, tokens) for text, tokens in pairs]
