"""Which ways a stitch of a workspace leads, in words. Never imports torch."""

import re
from typing import Literal, NamedTuple, get_args

from core.errors import StitchLensError
from core.models.pairs import PairSpec
from core.workspace.store import Workspace, has, makers

Direction = Literal["a_to_b", "b_to_a", "a_to_b_to_a", "b_to_a_to_b"]
"""The columns of Table 1 that need a stitch: where the stream comes from, and who speaks."""
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
NEEDS: dict[str, tuple[str, ...]] = {
    "a_to_b": ("up",),
    "b_to_a": ("down",),
    "a_to_b_to_a": ("up", "down"),
    "b_to_a_to_b": ("up", "down"),
}
"""The maps that each direction takes."""
CONTROLS = {
    "shuffled": "a stitch fitted on shuffled pairs",
    "random": "a random stitch of the same size",
}
LANES = {
    "a": "model A alone",
    "b": "model B alone",
    "crossed": "the stitched model",
    "control": "the stitched model with the control's stitch",
}


class Refusal(NamedTuple):
    """The parts of a StitchLensError."""

    found: str
    wanted: str
    todo: str


def ways(ws: Workspace, name: str) -> tuple[str, ...]:
    """'up' (A to B), 'down' or both: one that was brought may lead one way only. Raises
    StitchLensError where there is no such stitch."""
    return tuple(makers(ws, f"stitches/{name}").get("ways", ("up", "down")))


def refused(
    ws: Workspace,
    name: str,
    direction: str,
    control: str | None = None,
) -> Refusal | None:
    """Why a stitch, or its control, cannot be crossed that way; None where it can."""
    if direction not in DIRECTIONS:
        return Refusal(f"direction '{direction}'", f"one of {', '.join(DIRECTIONS)}", "choose one")
    there = ways(ws, name)
    if any(way not in there for way in NEEDS[direction]):
        open_ways = [d for d in DIRECTIONS if all(way in there for way in NEEDS[d])]
        return Refusal(
            f"stitch {name}, which leads {' and '.join(there)} only",
            f"direction {' or '.join(open_ways)}",
            "choose another direction, or a stitch that leads both ways",
        )
    if control is not None and control not in CONTROLS:
        return Refusal(f"control '{control}'", f"one of {', '.join(CONTROLS)}", "choose one")
    if control == "shuffled" and not has(ws, f"controls/{name}"):
        return Refusal(
            f"stitch {name} without a stitch of shuffled pairs",
            "one in the workspace",
            "choose the random control",
        )
    return None


def check(
    ws: Workspace,
    name: str,
    direction: str,
    control: str | None = None,
) -> None:
    """Raises StitchLensError where `refused` says why."""
    if why := refused(ws, name, direction, control):
        raise StitchLensError(*why)


def names(pair: PairSpec) -> dict[str, str]:
    """Both models' names by side, as short as they still differ: SmolLM2 and Gemma, but nano-a."""
    return short_names(pair.a.title, pair.b.title)


def short_names(title_a: str, title_b: str) -> dict[str, str]:
    """Titles by side, without version and size; whole where they would be equal."""
    titles = {"a": title_a, "b": title_b}
    families = {side: re.split(r"[- ]\d", title)[0] for side, title in titles.items()}
    return families if families["a"].casefold() != families["b"].casefold() else titles


def title(pair: PairSpec, direction: str) -> str:
    """SmolLM2 → Gemma: the models that the stream passes through."""
    of = names(pair)
    return " → ".join(of[side] for side in direction.split("_to_"))
