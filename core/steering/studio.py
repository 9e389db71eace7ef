"""From a source of vectors to lanes of both models: a language, two texts, an SAE feature or a
file, through a stitch.

Side A's transferred vector was learned in B and came down; B's was learned in A and came up.
"""

import re
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from pydantic import Field

from core.bench import Bench
from core.config import Frozen
from core.errors import StitchLensError
from core.models.live import TURNS, LiveModel
from core.models.pairs import ModelSpec
from core.saes.sae import kept_in
from core.steering.card import Side, home
from core.steering.files import load_vector, open_vector
from core.steering.generate import (
    Sampling,
    Written,
    encode_prompt,
    generate,
    response_losses,
)
from core.steering.lanes import STRONGEST, Lane
from core.steering.vectors import (
    LanguageMeans,
    Means,
    Vector,
    along,
    diff_mean,
    load_means,
    mean_residuals,
    means,
    moved,
    random_like,
)
from core.stitches.stitch import Stitch, load_stitch
from core.text.languages import LABELS, LANGUAGES, detect, repetition
from core.text.reading import clean, lines, read_text
from core.workspace.places import named

Kind = Literal["none", "own", "transferred", "random", "shuffled"]
OTHER: dict[Side, Side] = {"a": "b", "b": "a"}
SPEAKS = 5_000
"""Characters read of each text that a person gives for a concept."""


@dataclass(frozen=True)
class Source:
    """Where a direction comes from: the means of both sides at a layer, and the vector that a side
    learns by itself."""

    title: str
    found: Callable[[Side, int], Means]
    own: Callable[[Side, int], Vector]
    sides: tuple[Side, ...] = ("a", "b")
    """Those that learn a vector by themselves."""
    layer: int | None = None
    """Of a vector that is on file: before it that side's own lane acts, unless other layers are
    chosen, and from it alone a stitch carries it."""

    def has(self, key: "LaneKey") -> bool:
        """Whether there is a vector for that lane: one that is carried was learned on the other
        side."""
        return (
            key.kind == "none" or (key.side if key.kind == "own" else OTHER[key.side]) in self.sides
        )


class Setting(Frozen):
    """How every lane of a run is steered."""

    operator: str = "clamp"
    strength: float = Field(default=1.0, ge=-STRONGEST, le=STRONGEST)
    """Multiplies c of Eq. 8."""
    prompt: bool = True
    """Also the prompt's tokens; else only what is generated."""
    layers_a: tuple[int, int] | None = None
    """First and last layer steered in A; None is the stitch's."""
    layers_b: tuple[int, int] | None = None


@dataclass
class Judged:
    """What can be said of a finished text."""

    language: str
    probability: float
    loss: float
    """Nats/token after the prompt under the unsteered model."""
    repetition: float


@dataclass(frozen=True)
class LaneKey:
    """`b:transferred` and the like."""

    side: Side
    kind: Kind

    def __str__(self) -> str:
        return f"{self.side}:{self.kind}"


def lane_key(text: str) -> LaneKey:
    """Raises StitchLensError for anything but SIDE:KIND."""
    side, _, kind = text.strip().partition(":")
    if side not in get_args(Side) or kind not in get_args(Kind):
        raise StitchLensError(
            f"lane '{text}'",
            f"a or b, a colon, and one of {', '.join(get_args(Kind))}",
            "such as b:transferred",
        )
    return LaneKey(side, kind)  # type: ignore[arg-type]


@dataclass
class Studio:
    """A pair's workspace at hand for steering; models are opened when they are first needed."""

    bench: Bench
    stitch_name: str
    _memory: dict[Any, Any] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.RLock)

    def model(self, side: Side) -> LiveModel:
        return self.bench.a if side == "a" else self.bench.b

    def spec(self, side: Side) -> ModelSpec:
        return self.bench.pair.a if side == "a" else self.bench.pair.b

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gave the first time for that key."""
        with self._lock:
            if key not in self._memory:
                if len(self._memory) > 500:
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
        ws = self.bench.workspace
        if f"language_means/{side}" not in (ws.names() if ws.exists else []):
            raise StitchLensError(
                f"no language means in workspace '{self.bench.pair.key}'",
                "those of both models",
                f"run `python -m core steer eval {self.bench.pair.key}`, which begins with them",
            )
        return self.once(("means", side), lambda: load_means(ws.path(f"language_means/{side}")))

    # sources

    def source(self, text: str) -> Source:
        """`lang:fr`, `feature:SAE/INDEX`, `vector:NAME` (one that was brought to the workspace),
        `file:PATH` (`file:PATH@b:13` where the file does not say that it is for B's layer 13) or
        `concept:POSITIVE.txt,NEGATIVE.txt` (files of text).

        Raises StitchLensError that says what is possible.
        """
        kind, _, rest = text.partition(":")
        match kind:
            case "lang":
                return self.language(rest)
            case "feature":
                sae, _, index = rest.rpartition("/")
                if not index.isdecimal():
                    raise StitchLensError(
                        f"feature '{rest}'", "SAE/INDEX, such as L15-4096/12", "name one"
                    )
                return self.feature(sae, int(index))
            case "file":
                if said := re.fullmatch(r"(.+)@([ab]):(\d{1,4})", rest):
                    side: Side = "a" if said[2] == "a" else "b"
                    return self.file(self.open(named(said[1]), side, int(said[3])))
                return self.file(self.open(named(rest)))
            case "vector":
                if not rest:
                    raise StitchLensError(
                        "no vector", "one of your own", "bring one, or choose another source"
                    )
                makers = self.bench.workspace.entry(f"vectors/{rest}").makers
                vector = load_vector(self.bench.workspace.path(f"vectors/{rest}"))
                return self.file(replace(vector, makers=dict(vector.makers) | makers["of"]))
            case "concept":
                paths = [named(p) for p in rest.split(",")]
                if len(paths) != 2:
                    raise StitchLensError(
                        f"{len(paths)} files", "POSITIVE.txt,NEGATIVE.txt", "give both"
                    )
                return self.concept(*(read_text(p) for p in paths))
        raise StitchLensError(
            f"source '{text}'", "lang:, feature:, vector:, file: or concept:", "such as lang:fr"
        )

    def language(self, code: str) -> Source:
        """Positive: texts in that language (`fr`, or the corpus label `fra`); negative: English."""
        label = LABELS.get(code, code)
        title = LANGUAGES.get(label, (label, label))[1]
        if label == "eng":
            raise StitchLensError(
                "English against English", "another language", "English is the negative side"
            )

        def found(side: Side, layer: int) -> Means:
            return self.means(side).of(label, layer)

        return Source(title, found, lambda side, layer: diff_mean(found(side, layer)))

    def concept(self, positive: str, negative: str) -> Source:
        """Two texts, an example a line; both models read them when they are first steered."""
        plus, minus = (lines(clean(text)[:SPEAKS]) for text in (positive, negative))
        for examples, what in ((plus, "positive"), (minus, "negative")):
            if not examples:
                raise StitchLensError(
                    f"an empty {what} text", "a few sentences, one a line", "fill in both boxes"
                )
        if plus == minus:
            raise StitchLensError(
                "the same text in both boxes", "two that differ", "change one of them"
            )

        def found(side: Side, layer: int) -> Means:
            key = ("concept", side, layer, tuple(plus), tuple(minus))
            return self.once(key, lambda: means(self.model(side), plus, minus, layer))

        return Source("concept", found, lambda side, layer: diff_mean(found(side, layer)))

    def feature(self, sae_name: str, index: int) -> Source:
        """The decoder direction of a feature of A; positive are the tokens at which it is active in
        its top contexts on the steered side, negative the others there. B has no vector of its
        own."""
        ws = self.bench.workspace
        at = int(ws.entry(f"saes/{sae_name}").makers["layer_a"])
        sae = self.once(("sae", sae_name), lambda: kept_in(self.bench, sae_name, at))
        if not 0 <= index < sae.cfg.d_sae:
            raise StitchLensError(
                f"feature {index}", f"0 to {sae.cfg.d_sae - 1} of SAE {sae_name}", "choose one"
            )
        if at != self.stitched("a"):
            raise StitchLensError(
                f"SAE {sae_name} before layer {at} of A, stitch {self.stitch_name} at"
                f" {self.stitched('a')}",
                "the same layer",
                "choose a stitch from the SAE's layer",
            )

        def found(side: Side, layer: int) -> Means:
            return self.once(
                ("feature", sae_name, index, side, layer),
                lambda: self._active(sae_name, index, side, layer),
            )

        def own(side: Side, layer: int) -> Vector:
            if side == "b":
                raise StitchLensError(
                    "an SAE of A", "a vector of B's own", "choose the transferred lane of B"
                )
            makers = {"learned": "SAE decoder direction", "sae": sae_name, "feature": index}
            return along(sae.W_dec[index].float(), found(side, layer), makers)

        return Source(f"feature {index}", found, own, ("a",))

    def _active(self, sae_name: str, index: int, side: Side, layer: int) -> Means:
        table = self.bench.workspace.table(f"examples_{side}/{sae_name}", feature=index)
        if not len(table):
            raise StitchLensError(
                f"feature {index} never active in {side.upper()}",
                "one with contexts",
                "choose another",
            )
        texts = {d.id: d.text for d in self.bench.corpus.documents}
        active: dict[str, set[int]] = {}
        for row in table.to_dict("records"):
            if row["document"] in texts:
                ends = row["begin"] + np.cumsum(row["lengths"])
                active.setdefault(row["document"], set()).update(
                    ends[np.asarray(row["heat"]) > 0].tolist()
                )
        if not active:
            raise StitchLensError(
                "contexts that this corpus does not hold",
                "the corpus they came from",
                f"run `python -m core features build {self.bench.pair.key} --sae {sae_name}"
                f" --stitch {self.stitch_name}`, which finds contexts in the text that is here",
            )
        model = self.model(side)
        encoded = model.encode([texts[d] for d in active])
        on = [
            np.isin(e.ends, list(ends)) & e.usable
            for e, ends in zip(encoded, active.values(), strict=True)
        ]
        sides = [
            mean_residuals(model, encoded, [np.flatnonzero(x) for x in at], [layer])[0][layer]
            for at in (on, [e.usable & ~x for e, x in zip(encoded, on, strict=True)])
        ]
        return Means(layer, sides[0], sides[1], model.makers | {"contexts": len(active)})

    def open(self, path: Path, side: Side | None = None, layer: int | None = None) -> Vector:
        """A vector's file; `side` and `layer` where it does not say its model and layer itself."""
        return open_vector(path, side and self.spec(side).key, layer)

    def file(self, vector: Vector) -> Source:
        """A vector on file; on the other side z̄ is where the stitch takes A's or B's mean English
        residual stream with the component along v put to z̄."""
        at = home(self.bench.pair, vector)

        def found(side: Side, layer: int) -> Means:
            if side == at:
                base = self.means(side).of("eng", layer).negative
                base = base + (vector.base - base @ vector.v) * vector.v
                return Means(layer, base + (vector.mean - vector.base) * vector.v, base)
            here = found(OTHER[side], self.stitched(OTHER[side]))
            across = self.stitch().up if side == "b" else self.stitch().down
            return Means(layer, across(here.positive), across(here.negative))

        def own(side: Side, layer: int) -> Vector:
            if side != at:
                raise StitchLensError(
                    f"a vector of {self.spec(at).key}",
                    f"one of {'AB'[side == 'b']}'s own",
                    "choose the transferred lane",
                )
            return Vector(layer, vector.v, vector.mean, vector.base, vector.makers)

        return Source("vector on file", found, own, (at,), vector.layer)

    # lanes

    def layers(self, side: Side, setting: Setting, usual: int | None = None) -> range:
        """Those chosen, else the `usual` one, else the stitch's. Raises StitchLensError where they
        are not layers of that side."""
        chosen = setting.layers_a if side == "a" else setting.layers_b
        usual = self.stitched(side) if usual is None else usual
        first, last = chosen or (usual, usual)
        n = self.spec(side).n_layers
        if not 0 <= first <= last < n:
            raise StitchLensError(
                f"layers {first} to {last} of {side.upper()}",
                f"0 to {n - 1}",
                "choose a range there",
            )
        return range(first, last + 1)

    def vectors(self, source: Source, key: LaneKey, setting: Setting) -> tuple[Vector, ...]:
        """What steers a lane: before each of the layers, with z̄ measured there. Raises
        StitchLensError where the source has no such vector."""
        side = key.side
        layers = self.layers(side, setting, source.layer if key.kind == "own" else None)
        match key.kind:
            case "none":
                return ()
            case "own":
                return tuple(source.own(side, layer) for layer in layers)
        leads_from = self.stitched(OTHER[side])
        if source.layer not in (None, leads_from) and source.has(key):
            raise StitchLensError(
                f"a vector before layer {source.layer} of {OTHER[side].upper()}, stitch"
                f" {self.stitch_name} at {leads_from}",
                "the same layer",
                "choose a stitch from the vector's layer, or its own model's lane",
            )
        there = source.own(OTHER[side], leads_from)
        stitch, direction = self.stitch(key.kind == "shuffled"), "up" if side == "b" else "down"
        found = {layer: source.found(side, layer) for layer in layers}
        carried = tuple(moved(there, stitch, direction, found[layer]) for layer in layers)
        if key.kind == "random":
            return tuple(random_like(v, found[v.layer]) for v in carried)
        return carried

    def lane(self, source: Source, key: LaneKey, setting: Setting) -> Lane:
        return Lane(
            self.vectors(source, key, setting), setting.operator, setting.strength, setting.prompt
        )

    def run(
        self,
        source: Source,
        lanes: Sequence[LaneKey],
        prompt: str,
        setting: Setting,
        sampling: Sampling,
        waiting: Callable[[int], None] = lambda place: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Generator[dict[LaneKey, Written], None, None]:
        """After every token, what each lane has written. Both models go on in turns; others wait
        meanwhile, and `waiting` hears how many are ahead."""
        with TURNS.turn(waiting):
            streams = []
            for side in get_args(Side):
                keys = [key for key in lanes if key.side == side]
                if keys:
                    made = [self.lane(source, key, setting) for key in keys]
                    streams.append((keys, generate(self.model(side), prompt, made, sampling, stop)))
            out: dict[LaneKey, Written] = {}
            while streams:
                for item in list(streams):
                    keys, stream = item
                    written = next(stream, None)
                    if written is None:
                        streams.remove(item)
                    else:
                        out.update(zip(keys, written, strict=True))
                if streams:
                    yield {key: out[key] for key in lanes if key in out}

    def judge(self, prompt: str, written: Mapping[LaneKey, Written]) -> dict[LaneKey, Judged]:
        """Language, fluency and repetition of what was written."""
        out = {}
        with TURNS.turn():
            for side in get_args(Side):
                some = [(key, w) for key, w in written.items() if key.side == side and w.ids]
                if some:
                    model = self.model(side)
                    ids = encode_prompt(model, prompt, 1)
                    losses = response_losses(model, [ids] * len(some), [w.ids for _, w in some])
                    for (key, w), loss in zip(some, losses, strict=True):
                        out[key] = Judged(*detect(w.text), loss, repetition(w.text))
        return out


def run_record(
    studio: Studio,
    source: str,
    prompt: str,
    setting: Setting,
    sampling: Sampling,
    written: Mapping[LaneKey, Written],
    judged: Mapping[LaneKey, Judged],
) -> dict[str, Any]:
    """A run as one JSON object."""
    lanes = []
    for key, w in written.items():
        said = judged.get(key, Judged("", 0.0, float("nan"), 0.0))
        loss = None if said.loss != said.loss else said.loss
        lanes.append(
            {"lane": str(key), "text": w.text, "tokens": len(w.ids)} | vars(said) | {"loss": loss}
        )
    pair = studio.bench.pair
    return {
        "pair": pair.key,
        "a": pair.a.key,
        "b": pair.b.key,
        "stitch": studio.stitch_name,
        "source": source,
        "prompt": prompt,
        "setting": setting.model_dump(),
        "sampling": sampling.model_dump(),
        "lanes": lanes,
    }
