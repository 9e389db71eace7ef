"""A stitch that leads one way only says so, and names are as short as they still differ."""

from pathlib import Path

import pytest

from core.errors import StitchLensError
from core.models.pairs import PAIRS
from core.stitches import directions
from core.workspace.store import Workspace
from tests.helpers.planted import MAKERS, PAIR, put_stitch


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace(PAIR, tmp_path)
    makers = put_stitch(ws, "both", 20, 9, "rms")
    up = makers | {"ways": ["up"]}
    ws.put("stitches/up", lambda p: p.touch(), "stitch", ".safetensors", up)
    ws.put("controls/both", lambda p: p.touch(), "control", ".safetensors", MAKERS)
    return ws


def test_every_way_of_a_whole_stitch_is_open(ws: Workspace) -> None:
    for direction in directions.DIRECTIONS:
        for control in (None, *directions.CONTROLS):
            assert directions.refused(ws, "both", direction, control) is None


def test_a_stitch_of_one_way_says_what_it_leads_to(ws: Workspace) -> None:
    assert directions.refused(ws, "up", "a_to_b") is None
    for direction in directions.DIRECTIONS[1:]:
        with pytest.raises(StitchLensError, match="stitch up, which leads up only") as fault:
            directions.check(ws, "up", direction)
        assert "direction a_to_b" in str(fault.value)


@pytest.mark.parametrize(
    ("direction", "control", "says"),
    [
        ("sideways", None, "direction 'sideways'"),
        ("a_to_b", "mean", "control 'mean'"),
        ("a_to_b", "shuffled", "without a stitch of shuffled pairs"),
    ],
)
def test_what_is_not_there_is_said(
    ws: Workspace, direction: str, control: str | None, says: str
) -> None:
    with pytest.raises(StitchLensError, match=says):
        directions.check(ws, "up", direction, control)
    with pytest.raises(StitchLensError, match="'stitches/none'"):
        directions.check(ws, "none", "a_to_b")


def test_names_are_short_where_they_differ() -> None:
    assert directions.title(PAIRS[PAIR], "a_to_b_to_a") == "SmolLM2 → Gemma → SmolLM2"
    assert directions.title(PAIRS["nano"], "b_to_a") == "nano-b → nano-a"
    for pair in PAIRS.values():
        of = directions.names(pair)
        assert of["a"] != of["b"]
