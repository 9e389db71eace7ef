"""A pair's workspace at hand for steering: lanes of both models, and what they write."""

import threading
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from core.bench import Bench
from core.errors import StitchLensError
from core.models.live import TURNS, LiveModel
from core.models.pairs import ModelSpec, other
from core.saes.crossing import Crossing
from core.steering.contexts import Reading, unheard
from core.steering.directions import Directions, directions
from core.steering.files import open_vector
from core.steering.generate import Written, encode_prompt, generate, response_losses
from core.steering.keys import LaneKey, Side
from core.steering.lanes import Lane
from core.steering.settings import Sampling, Setting
from core.steering.sources import Source
from core.steering.vectors import LanguageMeans, Vector, load_means, moved, random_like
from core.stitches.stitch import Stitch, load_stitch
from core.text.languages import detect, repetition
from core.workspace import demonstration

REMEMBERED = 500
"""Means and weights that a studio holds, before it forgets them all."""


@dataclass
class Judged:
    """What can be said of a finished text."""

    language: str
    probability: float
    loss: float
    """Nats/token after the prompt under the unsteered model."""
    repetition: float


UNJUDGED = Judged("", 0.0, float("nan"), 0.0)


@dataclass
class Studio:
    """A pair's workspace at hand for steering; models are opened when they are first needed."""

    bench: Bench
    stitch_name: str
    _memory: dict[Hashable, Any] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.RLock)

    def model(self, side: Side) -> LiveModel:
        return self.bench.a if side == "a" else self.bench.b

    def spec(self, side: Side) -> ModelSpec:
        return self.bench.pair.a if side == "a" else self.bench.pair.b

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` returned when that key was first asked for."""
        with self._lock:
            if key not in self._memory:
                if len(self._memory) > REMEMBERED:
                    self._memory.clear()
                self._memory[key] = make()
            return self._memory[key]

    def stitch(self, shuffled: bool = False) -> Stitch:
        kind = "controls" if shuffled else "stitches"
        path = self.bench.workspace.path
        return self.once(kind, lambda: load_stitch(path(f"{kind}/{self.stitch_name}")))

    def stitched(self, side: Side) -> int:
        """The layer of that side that the stitch joins."""
        return int(self.stitch().makers[f"layer_{side}"])

    def means(self, side: Side) -> LanguageMeans:
        """Raises StitchLensError where the workspace has none."""
        workspace, name = self.bench.workspace, f"language_means/{side}"
        if not (workspace.exists and name in workspace.names()):
            raise StitchLensError(
                f"no language means in workspace '{self.bench.pair.key}'",
                "those of both models",
                f"run `python -m core steer eval {self.bench.pair.key}`, which begins with them",
            )
        return self.once(("means", side), lambda: load_means(workspace.path(name)))

    def crossing(self, sae: str) -> Crossing:
        """An SAE of the workspace with this stitch. Raises StitchLensError where they belong to
        different layers."""
        return self.once(("sae", sae), lambda: Crossing(self.bench, sae, self.stitch_name))

    def directions(self, source: Source, reading: Reading = unheard) -> Directions:
        """`reading` hears how many texts were read, and of how many, where a lane cannot be
        steered before. Raises StitchLensError that says what is wrong with the source."""
        return directions(self, source, reading)

    def open(
        self,
        path: Path,
        side: Side | None = None,
        layer: int | None = None,
    ) -> Vector:
        """A vector's file; `side` and `layer` where it does not say its model and layer itself."""
        return open_vector(path, side and self.spec(side).key, layer)

    # lanes

    def layers(
        self,
        side: Side,
        setting: Setting,
        usual: int | None = None,
    ) -> range:
        """Those chosen, else the `usual` one, else the stitch's. Raises StitchLensError where they
        are not layers of that side."""
        usual = self.stitched(side) if usual is None else usual
        first, last = setting.layers(side) or (usual, usual)
        n_layers = self.spec(side).n_layers
        if not 0 <= first <= last < n_layers:
            raise StitchLensError(
                f"layers {first} to {last} of {side.upper()}",
                f"0 to {n_layers - 1}",
                "choose a range there",
            )
        return range(first, last + 1)

    def vectors(
        self,
        source: Directions,
        key: LaneKey,
        setting: Setting,
    ) -> tuple[Vector, ...]:
        """What steers a lane: before each of the layers, with z̄ measured there. Raises
        StitchLensError where the source has no such vector."""
        side = key.side
        layers = self.layers(side, setting, source.layer if key.kind == "own" else None)
        match key.kind:
            case "none":
                return ()
            case "own":
                own = {layer: source.own(side, layer) for layer in reversed(layers)}
                return tuple(own[layer] for layer in layers)

        origin = self._before_crossing(source, key)
        stitch = self.stitch(shuffled=key.kind == "shuffled")
        direction = "up" if side == "b" else "down"
        means = {layer: source.means(side, layer) for layer in reversed(layers)}
        carried = [moved(origin, stitch, direction, means[layer]) for layer in reversed(layers)]
        carried.reverse()
        if key.kind == "random":
            return tuple(random_like(vector, means[vector.layer]) for vector in carried)
        return tuple(carried)

    def _before_crossing(self, source: Directions, key: LaneKey) -> Vector:
        """The other side's own vector, at the layer that the stitch leads from."""
        origin = other(key.side)
        leads_from = self.stitched(origin)
        if source.layer not in (None, leads_from) and source.has(key):
            raise StitchLensError(
                f"a vector before layer {source.layer} of {origin.upper()}, stitch"
                f" {self.stitch_name} at {leads_from}",
                "the same layer",
                "choose a stitch from the vector's layer, or its own model's lane",
            )
        return source.carried(origin, leads_from)

    def lane(
        self,
        source: Directions,
        key: LaneKey,
        setting: Setting,
    ) -> Lane:
        vectors = self.vectors(source, key, setting)
        return Lane(vectors, setting.operator, setting.strength, setting.prompt)

    def run(
        self,
        source: Directions,
        lanes: Sequence[LaneKey],
        prompt: str,
        setting: Setting,
        sampling: Sampling,
        waiting: Callable[[int], None] = lambda place: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Generator[dict[LaneKey, Written], None, None]:
        """After every token, what each lane has written. Both models go on in turns; others wait
        meanwhile, and `waiting` hears how many are ahead. Raises StitchLensError where a
        demonstration does not admit the run."""
        demonstration.admit(prompt, tokens=sampling.tokens * len(lanes))
        with TURNS.turn(waiting):
            streams = []
            for side in get_args(Side):
                keys = [key for key in lanes if key.side == side]
                if keys:
                    steered = [self.lane(source, key, setting) for key in keys]
                    stream = generate(self.model(side), prompt, steered, sampling, stop)
                    streams.append((keys, stream))

            texts: dict[LaneKey, Written] = {}
            while streams:
                for keys, stream in list(streams):
                    written = next(stream, None)
                    if written is None:
                        streams.remove((keys, stream))
                    else:
                        texts.update(zip(keys, written, strict=True))
                if streams:
                    yield {key: texts[key] for key in lanes if key in texts}

    def judge(self, prompt: str, written: Mapping[LaneKey, Written]) -> dict[LaneKey, Judged]:
        """Language, fluency and repetition of what was written."""
        judged: dict[LaneKey, Judged] = {}
        with TURNS.turn():
            for side in get_args(Side):
                texts = {key: w for key, w in written.items() if key.side == side and w.ids}
                if not texts:
                    continue

                model = self.model(side)
                prompts = [encode_prompt(model, prompt, 1)] * len(texts)
                losses = response_losses(model, prompts, [w.ids for w in texts.values()])
                for (key, w), loss in zip(texts.items(), losses, strict=True):
                    judged[key] = Judged(*detect(w.text), loss, repetition(w.text))
        return judged


def run_record(
    studio: Studio,
    source: Source,
    prompt: str,
    setting: Setting,
    sampling: Sampling,
    written: Mapping[LaneKey, Written],
    judged: Mapping[LaneKey, Judged],
) -> dict[str, Any]:
    """A run as one JSON object; a text that was not judged has no loss."""
    lanes = []
    for key, w in written.items():
        judgement = judged.get(key, UNJUDGED)
        lane = {
            "lane": str(key),
            "text": w.text,
            "tokens": len(w.ids),
        } | vars(judgement)
        if lane["loss"] != lane["loss"]:
            lane["loss"] = None
        lanes.append(lane)

    pair = studio.bench.pair
    return {
        "pair": pair.key,
        "a": pair.a.key,
        "b": pair.b.key,
        "stitch": studio.stitch_name,
        "source": str(source),
        "prompt": prompt,
        "setting": setting.model_dump(),
        "sampling": sampling.model_dump(),
        "lanes": lanes,
    }
