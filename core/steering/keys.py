"""Lanes of a steering run by name: which model writes, and under whose vector. Light: no torch."""

from dataclasses import dataclass
from typing import Literal, get_args

from core.errors import StitchLensError
from core.models.pairs import Side, other

Kind = Literal["none", "own", "transferred", "random", "shuffled"]
LANE_KINDS: dict[Kind, tuple[str, str]] = {
    "none": ("no vector", "the model as it is"),
    "own": ("own vector", "DiffMean of the steered model itself"),
    "transferred": (
        "transferred vector",
        "DiffMean of the other model, carried through the stitch",
    ),
    "random": (
        "random vector",
        "a random direction; the clamp moves as far as with the transferred vector",
    ),
    "shuffled": (
        "shuffled stitch",
        "the other model's vector through a stitch fitted on shuffled pairs",
    ),
}
"""A short name of each kind of lane, and what it is."""


@dataclass(frozen=True)
class LaneKey:
    """The model that writes, and what steers it; `b:transferred` and the like in links and on the
    command line."""

    side: Side
    kind: Kind

    def __str__(self) -> str:
        return f"{self.side}:{self.kind}"

    @property
    def learned_in(self) -> Side | None:
        """The side that learned the vector; None without one."""
        match self.kind:
            case "none":
                return None
            case "own":
                return self.side
            case _:
                return other(self.side)


def lane_key(text: str) -> LaneKey:
    """Raises StitchLensError for anything but SIDE:KIND."""
    for side in get_args(Side):
        for kind in get_args(Kind):
            key = LaneKey(side, kind)
            if text.strip() == str(key):
                return key

    raise StitchLensError(
        f"lane '{text}'",
        f"a or b, a colon, and one of {', '.join(get_args(Kind))}",
        "such as b:transferred",
    )
