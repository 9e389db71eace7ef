"""Lanes side by side: their names and headings, what they wrote, and what can be said of it."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from core.steering.keys import LANE_KINDS, LaneKey, Side, lane_key
from core.text.languages import LANGUAGES
from pages.shared import address
from pages.shared.words import percent, plain

SIDES: tuple[Side, ...] = ("b", "a")
LANES = [LaneKey(side, kind) for side in SIDES for kind in ("none", "own", "transferred")]
CONTROLS = [LaneKey(side, kind) for side in SIDES for kind in ("random", "shuffled")]
DEFAULT = LANES[:3]
COLOURS = {"a": "blue", "b": "violet"}
TINTS = {"a": "66,133,244", "b": "154,92,214"}


def in_address(lane: LaneKey) -> str:
    """`B own vector`: so a link calls a lane, whatever its models are called."""
    return f"{lane.side.upper()} {LANE_KINDS[lane.kind][0]}"


def name_of(lane: LaneKey, names: Mapping[str, str]) -> str:
    """`Gemma own vector`; `names` of both models by side."""
    return f"{names[lane.side]} {LANE_KINDS[lane.kind][0]}"


def heading(lane: LaneKey, names: Mapping[str, str]) -> str:
    model = f":{COLOURS[lane.side]}[{plain(names[lane.side])}]"
    return f"**{model} {LANE_KINDS[lane.kind][0]}**"


def choose(names: Mapping[str, str]) -> list[LaneKey]:
    """The lanes that are chosen, as a row of pills; each is called by its model on screen, by A or
    B in the address."""
    by_word = {in_address(lane): lane for lane in (*LANES, *CONTROLS)}

    def parse(asked: list[str]) -> list[LaneKey]:
        known = [by_word[word] for word in dict.fromkeys(asked) if word in by_word]
        return known if known or asked == [""] else DEFAULT

    def words(lanes: list[LaneKey]) -> list[str]:
        return [in_address(lane) for lane in lanes] or [""]

    address.choices("lanes", by_word, "lane")
    address.settle("lanes", DEFAULT, parse, "", words=words, many=True)
    lanes = st.pills(
        "Lanes",
        [*LANES, *CONTROLS],
        selection_mode="multi",
        key="lanes",
        format_func=lambda lane: name_of(lane, names),
        help=(
            "Columns, left to right. Lanes of one model share every pass, so three cost little more"
            " than one. Random and shuffled are controls: a clamp as strong along a random"
            " direction, and the other model's vector through a stitch fitted on shuffled pairs."
        ),
    )
    return list(lanes)


def columns(lanes: Sequence[LaneKey], names: Mapping[str, str]) -> dict[LaneKey, Any]:
    """A heading and an empty box a lane."""
    boxes = {}
    for lane, column in zip(lanes, st.columns(len(lanes), gap="medium"), strict=True):
        column.markdown(heading(lane, names), help=LANE_KINDS[lane.kind][1])
        boxes[lane] = column.empty()
    return boxes


def text_html(prompt: str, text: str, lane: LaneKey) -> str:
    """Escaped: the prompt grey, what was written on a tint of its model."""
    look = "unicode-bidi:plaintext;white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.6;"
    tint = f"background-color:rgba({TINTS[lane.side]},0.16);border-radius:3px;"
    return (
        f'<div dir="auto" style="{look}">'
        f'<span style="opacity:0.62;">{html.escape(prompt)}</span>'
        f'<span style="{tint}">{html.escape(text)}</span>'
        "</div>"
    )


def show(run: Mapping[str, Any], place: Any, names: Mapping[str, str]) -> None:
    """A run as it ended, with what can be said of each text; laid out as writing lays it out, so
    that it takes its place."""
    place.empty()
    with place:
        lanes = [lane_key(entry["lane"]) for entry in run["lanes"]]
        boxes = columns(lanes, names)
        for lane, entry in zip(lanes, run["lanes"], strict=True):
            with boxes[lane].container():
                st.html(text_html(run["prompt"], entry["text"], lane))
                st.caption(verdict(entry, run.get("seconds")))


def verdict(lane: Mapping[str, Any], seconds: float | None) -> str:
    """Language, loss and repetition of a text, as far as they are known, and how fast it came."""
    parts = []
    if code := lane.get("language"):
        language = dict(LANGUAGES.values()).get(code, code)
        parts.append(f"**{plain(language)}** ({lane['probability']:.2f})")
    if lane.get("loss") is not None:
        parts.append(f"{lane['loss']:.2f} nats/token")
        parts.append(f"{percent(lane['repetition'], sign=False)} repeated")
    if seconds and lane.get("tokens"):
        parts.append(f"{lane['tokens'] / seconds:.1f} tokens/s")
    return " · ".join(parts)
