"""Models at hand for steering: opened once, kept, and written with into the lanes."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from core.errors import StitchLensError
from core.models.libraries import importing
from core.steering.keys import LaneKey
from core.steering.settings import Sampling, Setting
from core.steering.sources import Source, source_from
from core.text.reading import clean
from core.workspace.store import Workspace
from pages.shared import studios
from pages.shared.words import sentence
from pages.steering import lanes

if TYPE_CHECKING:
    from core.steering.directions import Directions

HISTORY = 8
"""Runs that a session keeps."""
OPENING = "Opening the models, once"
SAMPLING = ("tokens", "temperature", "top_p", "repetition", "seed")


def settings() -> tuple[Setting, Sampling]:
    """How the widgets say that lanes are steered and drawn. Raises StitchLensError where they go
    too far together."""
    with importing():
        from core.config import check

    now = st.session_state
    setting = check(
        Setting,
        operator=now["operator"],
        strength=now["strength"],
        prompt=now["on_prompt"],
        layers_a=(now["first_a"], now["last_a"]),
        layers_b=(now["first_b"], now["last_b"]),
    )
    return setting, check(Sampling, **{key: now[key] for key in SAMPLING})


def writable(
    directions: "Directions", asked: Sequence[LaneKey], names: Mapping[str, str]
) -> tuple[list[LaneKey], list[LaneKey]]:
    """Of the lanes that are asked for, those that have a vector, and the others. Raises
    StitchLensError where none has."""
    with_vector = [key for key in asked if directions.has(key)]
    if not with_vector:
        model = names["b" if directions.sides == ("b",) else "a"]
        raise StitchLensError(
            f"a vector of {model} alone",
            f"{model}'s own lane, or the other model's transferred one",
            "choose these",
        )
    return with_vector, [key for key in asked if key not in with_vector]


def stream(
    ws: Workspace,
    chosen: Mapping[str, Any],
    asked: Sequence[LaneKey],
    place: Any,
    names: Mapping[str, str],
) -> None:
    """Write, a token at a time, into a column a lane; what there is is kept whenever this is
    interrupted."""
    status = place.empty()
    with status, st.spinner(OPENING, show_time=True), importing():
        from core.steering.studio import run_record

    try:
        setting, sampling = settings()
        at_hand = studios.studio(ws, chosen["stitch"])
        source: Source = chosen["source"]
        directions, prompt = at_hand.directions(source), clean(st.session_state["prompt"])
        keys, left_out = writable(directions, asked, names)
        with status, st.spinner(OPENING, show_time=True):
            for key in keys:  # each of them once: it is kept
                at_hand.model(key.side)

        with place:
            if left_out:
                missing = ", ".join(lanes.name_of(lane, names) for lane in left_out)
                st.caption(f"Left out, there is no such vector here: {missing}.")
            boxes = lanes.columns(keys, names)

        record: dict[str, Any] | None = None
        written: dict[Any, Any] = {}
        began = time.perf_counter()
        about = (at_hand, source, prompt, setting, sampling)
        waiting = studios.waiting(status)
        with closing(at_hand.run(directions, keys, prompt, setting, sampling, waiting)) as texts:
            for written in texts:
                if record is None:
                    status.empty()
                    record = run_record(*about, written, {})
                    remember(record)

                for entry, (lane, text) in zip(record["lanes"], written.items(), strict=True):
                    entry["text"], entry["tokens"] = text.text, len(text.ids)
                    boxes[lane].html(lanes.text_html(prompt, text.text, lane))
                record["seconds"] = time.perf_counter() - began

        if record is not None:
            record.update(run_record(*about, written, at_hand.judge(prompt, written)))
    except StitchLensError as fault:
        status.error(sentence(fault), icon=":material/error:")
        return
    st.rerun()


def remember(record: dict[str, Any]) -> None:
    """Keep a run; the oldest goes."""
    runs = st.session_state.setdefault("runs", [])
    runs.append(record)
    del runs[:-HISTORY]


def exported(ws: Workspace, run: Mapping[str, Any], lane: LaneKey, ending: str) -> bytes:
    """The vector of a lane as a file."""
    with importing():
        from core.steering.files import export

    at_hand = studios.studio(ws, run["stitch"])
    directions = at_hand.directions(source_from(run["source"]))
    vector = at_hand.vectors(directions, lane, Setting.model_validate(run["setting"]))[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"vector.{ending}"
        export(vector, at_hand.spec(lane.side), f"{run['source']} {lane}", path)
        return path.read_bytes()
