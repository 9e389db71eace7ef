"""A film strip: one lane, one seed, at strengths side by side; at 0 it is the plain model."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

from core.models.live import TURNS
from core.steering.directions import Directions
from core.steering.generate import Written, generate
from core.steering.keys import LaneKey
from core.steering.runs import STRENGTHS
from core.steering.settings import Sampling, Setting
from core.steering.studio import Studio


def strip(
    studio: Studio,
    source: Directions,
    lane: LaneKey,
    prompt: str,
    setting: Setting,
    sampling: Sampling,
    strengths: Sequence[float] = STRENGTHS,
    waiting: Callable[[int], None] = lambda place: None,
) -> Generator[list[Written], None, None]:
    """After every token, what is written at each of the `strengths`; each is what the lane alone
    writes at that strength. Others wait meanwhile, and `waiting` hears how many are ahead."""
    with TURNS.turn(waiting):
        steered = studio.lane(source, lane, setting)
        frames = [replace(steered, strength=strength) for strength in strengths]
        yield from generate(studio.model(lane.side), prompt, frames, sampling)
