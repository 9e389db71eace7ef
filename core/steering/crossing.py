"""A pair's workspace at hand for crossing: a text is read, and four lanes go on from it."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Int
from torch import Tensor

from core.errors import StitchLensError
from core.models.live import TURNS
from core.models.pairs import LayerPair, Side
from core.steering.generate import Written, generate
from core.steering.keys import LaneKey
from core.steering.lanes import Lane
from core.steering.settings import Sampling, Setting
from core.steering.sources import Source
from core.steering.studio import Studio
from core.steering.vocabulary import never_said
from core.stitches.directions import LANES, Direction, check
from core.stitches.lens import lens
from core.stitches.passage import Passage, read
from core.stitches.sink import load_two_piece
from core.stitches.stitch import random_stitch
from core.stitches.stitched import Stitched
from core.workspace import demonstration

Waiting = Callable[[int], None]
"""Hears how many are ahead."""


@dataclass
class TextCrossing:
    """Models are opened when they are first needed."""

    studio: Studio
    sink: bool = False
    """Whether first tokens and massive activations cross by a map of their own; controls cross as
    ever."""

    def stitched(
        self,
        direction: Direction,
        control: str | None = None,
    ) -> Stitched:
        """Raises StitchLensError where the stitch, or its control, does not lead that way."""
        bench = self.studio.bench
        name = self.studio.stitch_name
        check(bench.workspace, name, direction, control)

        layers = LayerPair(
            a=self.studio.stitched("a"),
            b=self.studio.stitched("b"),
        )
        stitch = self.studio.stitch(control == "shuffled")
        if control == "random":
            stitch = random_stitch(stitch)
        sink = self.sink and control is None
        if sink:
            stitch = self.studio.once("two pieces", lambda: load_two_piece(bench.workspace, name))
        return Stitched(
            bench.a,
            bench.b,
            layers,
            stitch,
            direction,
            first=sink,
        )

    def silent(self, side: Side) -> Int[Tensor, " n"]:
        """The tokens that a model never says in the pair's corpus; its special ones where that
        cannot be opened."""

        def make() -> Tensor:
            try:
                corpus = self.studio.bench.corpus
            except StitchLensError:
                corpus = None
            return never_said(self.studio.model(side), corpus)

        return self.studio.once(("silent", side), make)

    def read(
        self,
        text: str,
        direction: Direction = "a_to_b",
        controls: Sequence[str] = ("shuffled",),
        waiting: Waiting = lambda place: None,
    ) -> Passage:
        """What reading costs across the stitch and across each control."""
        demonstration.admit(text)
        stitched = self.stitched(direction)
        others = {name: self.stitched(direction, name) for name in controls}
        with TURNS.turn(waiting):
            return read(stitched, text, others)

    def lens(
        self,
        text: str,
        direction: Direction = "a_to_b",
    ) -> list[dict[str, Any]]:
        demonstration.admit(text)
        stitched = self.stitched(direction)
        with TURNS.turn():
            return lens(stitched, text)

    def lanes(
        self,
        names: Sequence[str],
        direction: Direction,
        control: str = "shuffled",
        all_tokens: bool = False,
        source: Source | None = None,
        strength: float = 1.0,
    ) -> dict[str, tuple[Side, Lane]]:
        """Lanes by name, and who speaks in each. A `source` of vectors steers
        the speaking model's lanes by the vector that was carried over, the other model's by its
        own. Raises StitchLensError for an unknown lane, or one that the stitch does not lead to."""
        studio, setting = self.studio, Setting(strength=strength)
        vectors = None if source is None else studio.directions(source)
        speaker: Side = "a" if direction.endswith("a") else "b"
        out = {}
        for name in names:
            if name not in LANES:
                raise StitchLensError(f"lane '{name}'", f"one of {', '.join(LANES)}", "choose one")
            lane, side = Lane(), speaker
            if name in ("a", "b"):
                side = "a" if name == "a" else "b"
            else:
                stitched = self.stitched(direction, control if name == "control" else None)
                lane = replace(lane, stitched=stitched)
            if vectors is not None:
                key = LaneKey(side, "transferred" if side == speaker else "own")
                if not vectors.has(key):
                    key = LaneKey(side, "own")
                carried = studio.vectors(vectors, key, setting) if vectors.has(key) else ()
                lane = replace(lane, vectors=carried, strength=strength)
            silent = None if all_tokens else self.silent(side)
            out[name] = (side, replace(lane, silent=silent))
        return out

    def speak(
        self,
        prompt: str,
        lanes: dict[str, tuple[Side, Lane]],
        sampling: Sampling,
        waiting: Waiting = lambda place: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Generator[dict[str, Written], None, None]:
        """After every token, what each lane has written; lanes that one model speaks share its
        passes. Raises StitchLensError where a demonstration does not admit the run."""
        demonstration.admit(prompt, tokens=sampling.tokens * len(lanes))
        with TURNS.turn(waiting):
            streams = []
            for side in ("a", "b"):
                names = [name for name, (speaker, _) in lanes.items() if speaker == side]
                if not names:
                    continue

                some = [lanes[name][1] for name in names]
                model = self.studio.model(side)
                stream = generate(model, prompt, some, sampling, stop)
                streams.append((names, stream))

            out: dict[str, Written] = {}
            while streams:
                for item in list(streams):
                    names, stream = item
                    written = next(stream, None)
                    if written is None:
                        streams.remove(item)
                    else:
                        out.update(zip(names, written, strict=True))
                if streams:
                    yield {name: out[name] for name in lanes if name in out}


def spoken_record(
    crossing: TextCrossing,
    lanes: dict[str, tuple[Side, Lane]],
    written: dict[str, Written],
) -> list[dict[str, Any]]:
    """Lanes as they are shown: who speaks, through which direction, and the text."""
    out = []
    for name, w in written.items():
        side, lane = lanes[name]
        out.append(
            {
                "lane": name,
                "model": crossing.studio.spec(side).key,
                "direction": lane.stitched.direction if lane.stitched else None,
                "text": w.text,
                "tokens": len(w.ids),
                "left_out": 0 if lane.silent is None else len(lane.silent),
            }
        )
    return out
