"""Lanes side by side: which there are, what they are called, what they wrote and how fluently."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from core.models.pairs import other
from core.steering import tables as steering_tables
from core.steering.keys import LANE_KINDS, LaneKey, Side, lane_key
from core.steering.runs import source_of, strip_lane
from core.steering.sources import Brought, Concept, Feature, Language, Source
from core.text.languages import LANGUAGES
from pages.shared import address
from pages.shared.tokens import RGB
from pages.shared.words import loss, number, percent, plain

SIDES: tuple[Side, ...] = ("b", "a")
LANES = [LaneKey(side, kind) for side in SIDES for kind in ("none", "own", "transferred")]
CONTROLS = [LaneKey(side, kind) for side in SIDES for kind in ("random", "shuffled")]
DEFAULT = LANES[:3]
COLOURS = {"a": "blue", "b": "violet"}
GREY = (128, 134, 148)
MARKS = {"none": "○", "own": "●", "transferred": "◆"}
"""As figures mark them; a control is a square."""


def in_address(lane: LaneKey) -> str:
    """`B own vector`: so a link calls a lane, whatever its models are called."""
    return f"{lane.side.upper()} {LANE_KINDS[lane.kind][0]}"


def toward(source: Source) -> str:
    """What a run steers toward, in words that follow a model's name: `French`, `feature 12`."""
    match source:
        case Language(code):
            return dict(LANGUAGES.values()).get(code, code)
        case Feature(_, index):
            return f"feature {index}"
        case Brought(name):
            return f"vector {name}".strip()
    return "reading of the two texts"


def title(
    chosen: Sequence[LaneKey],
    names: Mapping[str, str],
    source: Source,
) -> str:
    """What a page of steering shows: `French in Gemma`."""
    models = " and ".join(dict.fromkeys(names[lane.side] for lane in chosen))
    what = "two texts" if isinstance(source, Concept) else toward(source)
    return what[:1].upper() + what[1:] + (f" in {models}" if models else "")


def name_of(
    lane: LaneKey,
    names: Mapping[str, str],
    what: str,
) -> str:
    """`Gemma with SmolLM2's French`; `names` of both models by side, `what` as `toward` has it."""
    model = names[lane.side]
    of_other = f"{names[other(lane.side)]}'s {what}"
    match lane.kind:
        case "none":
            return f"{model} alone"
        case "own":
            return f"{model} with its own {what}"
        case "transferred":
            return f"{model} with {of_other}"
        case "random":
            return f"{model} with a random vector"
    return f"{model} with {of_other}, stitch shuffled"


def heading(
    lane: LaneKey,
    names: Mapping[str, str],
    what: str,
) -> str:
    model, rest = names[lane.side], name_of(lane, names, what)[len(names[lane.side]) :]
    colour = COLOURS[lane.side] if lane.kind in MARKS else "gray"
    return f"**:{colour}[{MARKS.get(lane.kind, '■')} {plain(model)}]{plain(rest)}**"


def settled() -> list[LaneKey]:
    """The lanes that are chosen; each is called by its model on screen, by A or B in the
    address."""
    by_word = {in_address(lane): lane for lane in (*LANES, *CONTROLS)}

    def parse(asked: list[str]) -> list[LaneKey]:
        known = [by_word[word] for word in dict.fromkeys(asked) if word in by_word]
        return known if known or asked == [""] else DEFAULT

    def words(lanes: list[LaneKey]) -> list[str]:
        return [in_address(lane) for lane in lanes] or [""]

    address.choices("lanes", by_word, "lane")
    return list(address.settle("lanes", DEFAULT, parse, "", words=words, many=True))


def pills(names: Mapping[str, str], what: str) -> None:
    """Every lane there is, to be chosen."""
    st.pills(
        "Lanes",
        [*LANES, *CONTROLS],
        selection_mode="multi",
        key="lanes",
        format_func=lambda lane: name_of(lane, names, what),
        help=(
            "Columns, left to right. Lanes of one model share every pass, so three cost little more"
            " than one. Random and shuffled are controls: a clamp as strong along a random"
            " direction, and the other model's vector through a stitch fitted on shuffled pairs."
        ),
    )


def columns(
    lanes: Sequence[LaneKey],
    names: Mapping[str, str],
    what: str,
) -> dict[LaneKey, Any]:
    """A heading and an empty box a lane."""
    boxes = {}
    for lane, column in zip(lanes, st.columns(len(lanes), gap="medium"), strict=True):
        column.markdown(heading(lane, names, what), help=LANE_KINDS[lane.kind][1])
        boxes[lane] = column.empty()
    return boxes


def look(lane: LaneKey) -> tuple[str, str]:
    """The tint of what a lane wrote and the edge of its box, as styles: a control is grey, what
    was carried across has a rim in the colour of the model that learned it."""
    r, g, b = RGB[lane.side] if lane.kind in MARKS else GREY
    tint = f"background-color:rgba({r},{g},{b},0.16);border-radius:3px;"
    if lane.kind != "transferred":
        return tint, ""
    r, g, b = RGB[other(lane.side)]
    return tint, f"border-left:4px solid rgb({r},{g},{b});padding-left:0.6rem;"


def text_html(
    prompt: str,
    text: str,
    lane: LaneKey,
    below: str = "",
) -> str:
    """Escaped: the prompt grey, what was written on a tint of its model; `below` is HTML that
    follows."""
    tint, edge = look(lane)
    style = "unicode-bidi:plaintext;white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.6;"
    return (
        f'<div dir="auto" style="{style}{edge}">'
        f'<span style="opacity:0.75;">{html.escape(prompt)}</span>'
        f'<span style="{tint}">{html.escape(text)}</span>'
        f"</div>{below}"
    )


def show(
    run: Mapping[str, Any],
    place: Any,
    names: Mapping[str, str],
) -> None:
    """A run as it ended, with what can be said of each text; laid out as writing lays it out, so
    that it takes its place."""
    place.empty()
    with place:
        lanes = [lane_key(entry["lane"]) for entry in run["lanes"]]
        boxes = columns(lanes, names, toward(source_of(run)))
        for lane, entry in zip(lanes, run["lanes"], strict=True):
            boxes[lane].html(text_html(run["prompt"], entry["text"], lane, judged(entry, names)))


def judged(entry: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """HTML: the language of a text and its fluency as a bar; the numbers on hover, and by a
    press. Nothing where the text was not judged."""
    if entry.get("loss") is None or math.isnan(entry["loss"]):
        return ""

    fluency = steering_tables.fluency(entry["loss"], entry["repetition"])
    model = names[lane_key(entry["lane"]).side]
    numbers = (
        f"Fluency {number(fluency)}: {loss(entry['loss'])} nats/token under {model} unsteered,"
        f" {percent(entry['repetition'], sign=False)} repeated."
    )
    language = ""
    if code := entry.get("language"):
        name = dict(LANGUAGES.values()).get(code, str(code))
        language = f"<b>{html.escape(name)}</b> · "
        certain = percent(entry["probability"], sign=False)
        numbers += f" {name}, says langdetect, {certain} sure."

    bar = (
        '<span style="display:inline-block;width:5rem;height:0.5rem;border-radius:3px;'
        'background-color:rgba(128,134,148,0.3);">'
        f'<span style="display:block;width:{100 * fluency:.0f}%;height:100%;border-radius:3px;'
        'background-color:currentColor;"></span></span>'
    )
    return (
        f'<details title="{html.escape(numbers)}" style="font-size:0.85rem;margin-top:0.4rem;">'
        f'<summary style="cursor:pointer;">{language}fluency {bar}</summary>'
        f"{html.escape(numbers)}</details>"
    )


def strip_html(run: Mapping[str, Any]) -> str:
    """HTML: a film strip of the lane at several strengths, a frame each; wider than a phone, so it
    scrolls by itself."""
    lane, frames = strip_lane(run), []
    for frame in run["strip"]:
        plain_model = frame["strength"] == 0
        title = f"strength {frame['strength']:g}" + (", as it is" if plain_model else "")
        shown = LaneKey(lane.side, "none") if plain_model else lane
        frames.append(
            '<div style="flex:1 0 11rem;min-width:0;border:1px solid rgba(128,134,148,0.5);'
            'border-radius:0.4rem;padding:0.5rem;font-size:0.85rem;">'
            f"<b>{title}</b>{text_html(run['prompt'], frame['text'], shown)}</div>"
        )
    return (
        '<div role="group" aria-label="Film strip" style="display:flex;gap:0.5rem;'
        f'overflow-x:auto;">{"".join(frames)}</div>'
    )
