"""From a source to directions of both models: the means of either side, and the vector that a side
learns by itself."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from core.errors import StitchLensError
from core.models.pairs import other
from core.steering.card import home
from core.steering.contexts import Reading, active_means, unheard
from core.steering.files import load_vector
from core.steering.keys import LaneKey, Side
from core.steering.levels import KnownLevels, known
from core.steering.sources import (
    Brought,
    Concept,
    ConceptFiles,
    Feature,
    Language,
    Source,
    VectorFile,
)
from core.steering.vectors import Levels, Means, Vector, along, diff_mean, means
from core.text.languages import LABELS
from core.text.reading import clean, lines, read_text
from core.workspace import demonstration
from core.workspace.places import named

if TYPE_CHECKING:
    from core.steering.studio import Studio

LONGEST = 5_000
"""Characters read of each text that a person gives for a concept."""


@dataclass(frozen=True)
class Directions:
    """What a source gives at a side and a layer. Side A's transferred vector was learned in B and
    came down; B's was learned in A and came up."""

    means: Callable[[Side, int], Levels]
    """Mean residual streams of that side before that layer."""
    own: Callable[[Side, int], Vector]
    """The vector that the side learns by itself; raises StitchLensError where it learns none."""
    sides: tuple[Side, ...] = ("a", "b")
    """Those that learn a vector by themselves."""
    layer: int | None = None
    """Of a vector that is on file: before it that side's own lane acts, unless other layers are
    chosen, and from it alone a stitch carries it."""
    origin: Callable[[Side, int], Vector] | None = None
    """The vector that a stitch carries, where it costs less than `own`: its z̄ is not known."""

    def carried(self, side: Side, layer: int) -> Vector:
        """What a stitch carries from that side; its z̄ means nothing on the other one."""
        return (self.origin or self.own)(side, layer)

    def has(self, key: LaneKey) -> bool:
        """Whether there is a vector for that lane: one that is carried was learned on the other
        side."""
        return key.learned_in is None or key.learned_in in self.sides


def directions(
    studio: "Studio",
    source: Source,
    reading: Reading = unheard,
) -> Directions:
    """`reading` hears of texts that have to be read before a lane can be steered. Raises
    StitchLensError that says what is wrong with the source."""
    match source:
        case Language(code):
            return of_language(studio, code)
        case Concept(positive, negative):
            return of_texts(studio, positive, negative)
        case ConceptFiles(positive, negative):
            demonstration.refuse("a file of this machine")
            return of_texts(studio, read_text(named(positive)), read_text(named(negative)))
        case Feature(sae, index):
            return of_feature(studio, sae, index, reading)
        case Brought(name):
            return of_vector(studio, brought(studio, name))
        case VectorFile(path, side, layer):
            demonstration.refuse("a file of this machine")
            return of_vector(studio, studio.open(named(path), side, layer))


@dataclass(frozen=True)
class Unknown:
    """Levels of a vector that is only carried."""

    layer: int

    def levels(self, v: Tensor) -> tuple[float, float]:
        return float("nan"), float("nan")


def from_means(found: Callable[[Side, int], Means]) -> Directions:
    """Where each side learns by DiffMean."""
    return Directions(found, lambda side, layer: diff_mean(found(side, layer)))


def of_language(studio: "Studio", code: str) -> Directions:
    """Positive: texts in that language (`fr`, or the corpus label `fra`); negative: English."""
    label = LABELS.get(code, code)
    if label == "eng":
        raise StitchLensError(
            "English against English", "another language", "English is the negative side"
        )
    return from_means(lambda side, layer: studio.means(side).of(label, layer))


def of_texts(
    studio: "Studio",
    positive: str,
    negative: str,
) -> Directions:
    """Two texts, an example a line; both models read them when they are first steered."""
    demonstration.check_texts(positive, negative)
    plus, minus = (lines(clean(text)[:LONGEST]) for text in (positive, negative))
    for examples, which in ((plus, "positive"), (minus, "negative")):
        if not examples:
            raise StitchLensError(
                f"an empty {which} text", "a few sentences, one a line", "fill in both boxes"
            )
    if plus == minus:
        raise StitchLensError(
            "the same text in both boxes", "two that differ", "change one of them"
        )

    def read(side: Side, layer: int) -> Means:
        key = ("concept", side, layer, tuple(plus), tuple(minus))
        return studio.once(key, lambda: means(studio.model(side), plus, minus, layer))

    return from_means(read)


def of_feature(
    studio: "Studio",
    sae_name: str,
    index: int,
    reading: Reading = unheard,
) -> Directions:
    """The decoder direction of a feature of A; positive are the tokens at which it is active in
    its top contexts on the steered side, negative the others there. B has no vector of its own.

    Where the workspace knows z̄ (`core.steering.levels`) no text is read."""
    crossing = studio.crossing(sae_name)
    sae = crossing.sae
    if not 0 <= index < sae.cfg.d_sae:
        raise StitchLensError(
            f"feature {index}", f"0 to {sae.cfg.d_sae - 1} of SAE {sae_name}", "choose one"
        )

    def read(side: Side, layer: int) -> Means:
        first = min(layer, studio.stitched(side))
        span = range(first, layer + 1)
        key = ("feature", sae_name, index, side)
        means = studio.once(key, dict[int, Means])
        if layer not in means:
            means |= active_means(studio, sae_name, index, side, span, reading)
        return means[layer]

    def means(side: Side, layer: int) -> KnownLevels:
        along_which = []
        if layer == studio.stitched(side):
            key = ("levels", sae_name, index, side)
            along_which = studio.once(key, lambda: known(crossing, index, side))
        return KnownLevels(layer, along_which, lambda: read(side, layer))

    def own(side: Side, layer: int) -> Vector:
        if side == "b":
            raise StitchLensError(
                "an SAE of A", "a vector of B's own", "choose the transferred lane of B"
            )
        return along(direction, means(side, layer), makers)

    def origin(side: Side, layer: int) -> Vector:
        if side == "b":
            return own(side, layer)
        return along(direction, Unknown(layer), makers)

    direction = sae.W_dec[index].float()
    makers = {
        "learned": "SAE decoder direction",
        "sae": sae_name,
        "feature": index,
    }
    return Directions(means, own, ("a",), origin=origin)


def brought(studio: "Studio", name: str) -> Vector:
    """A vector that was brought to the workspace, with the makers that its file said."""
    if not name:
        raise StitchLensError("no vector", "one of your own", "bring one, or choose another source")
    workspace = studio.bench.workspace
    makers = workspace.entry(f"vectors/{name}").makers
    vector = load_vector(workspace.path(f"vectors/{name}"))
    return replace(vector, makers=dict(vector.makers) | makers["of"])


def of_vector(studio: "Studio", vector: Vector) -> Directions:
    """A vector on file; on the other side z̄ is where the stitch takes A's or B's mean English
    residual stream with the component along v put to z̄."""
    home_side = home(studio.bench.pair, vector)

    def put(side: Side, layer: int) -> Means:
        if side == home_side:
            english = studio.means(side).of("eng", layer).negative
            base = english + (vector.base - english @ vector.v) * vector.v
            return Means(layer, base + (vector.mean - vector.base) * vector.v, base)

        origin = put(other(side), studio.stitched(other(side)))
        across = studio.stitch().up if side == "b" else studio.stitch().down
        return Means(layer, across(origin.positive), across(origin.negative))

    def own(side: Side, layer: int) -> Vector:
        if side != home_side:
            raise StitchLensError(
                f"a vector of {studio.spec(home_side).key}",
                f"one of {side.upper()}'s own",
                "choose the transferred lane",
            )
        return Vector(layer, vector.v, vector.mean, vector.base, vector.makers)

    return Directions(put, own, (home_side,), vector.layer)
