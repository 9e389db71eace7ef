"""A film strip: each frame is what the lane alone writes at that strength; at 0, the plain model."""

from pathlib import Path

import pytest

from core.bench import open_pair
from core.errors import StitchLensError
from core.steering.generate import Written
from core.steering.keys import LaneKey, lane_key
from core.steering.runs import STRENGTHS, strip_lane
from core.steering.settings import Sampling, Setting
from core.steering.sources import Language
from core.steering.strip import strip
from core.steering.studio import Studio

SHORT = Sampling(tokens=8, seed=3)
PROMPT = "The house of my mother is"
CARRIED = LaneKey("b", "transferred")


@pytest.fixture(scope="module")
def studio(nano_home: Path) -> Studio:
    return Studio(open_pair("nano"), "L2-L3")


def alone(studio: Studio, lane: str, setting: Setting) -> str:
    source = studio.directions(Language("fr"))
    *_, written = studio.run(source, [lane_key(lane)], PROMPT, setting, SHORT)
    return written[lane_key(lane)].text


@pytest.mark.model
def test_each_frame_is_the_lane_alone_at_its_strength(studio: Studio) -> None:
    source, steps, frames = studio.directions(Language("fr")), [], list[Written]()
    for frames in strip(studio, source, CARRIED, PROMPT, Setting(strength=5), SHORT):
        steps.append([len(frame.ids) for frame in frames])
    texts = {s: frame.text for s, frame in zip(STRENGTHS, frames, strict=True)}
    assert steps[0] == [1] * len(STRENGTHS) and len(steps) == SHORT.tokens

    assert texts[0] == alone(studio, "b:none", Setting()), "strength 0 is the plain model"
    for strength in (-1.0, 1.0, 2.0, 3.0):
        setting = Setting(strength=strength)
        assert texts[strength] == alone(studio, "b:transferred", setting)
    assert len(set(texts.values())) > 2, "else these prove nothing"


@pytest.mark.model
def test_a_strip_of_nothing_is_refused(studio: Studio) -> None:
    with pytest.raises(StitchLensError, match="an empty prompt"):
        next(strip(studio, studio.directions(Language("fr")), CARRIED, "  ", Setting(), SHORT))


@pytest.mark.parametrize(
    ("lanes", "wanted"),
    [
        (["b:none", "b:own", "a:transferred"], "a:transferred"),
        (["b:none", "a:own"], "a:own"),
        (["b:none"], "b:transferred"),
    ],
)
def test_a_strip_is_of_what_was_carried(lanes: list[str], wanted: str) -> None:
    run = {"lanes": [{"lane": lane} for lane in lanes]}
    assert str(strip_lane(run)) == wanted
