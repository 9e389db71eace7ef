"""What stands in the lanes' place before anything is written, downloads, and the runs before."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import streamlit as st

from core.steering import tables as steering_tables
from core.steering.keys import LaneKey, lane_key
from core.steering.sources import Concept
from core.workspace.store import Workspace
from pages.shared.frame import ask
from pages.shared.words import plain
from pages.steering.lanes import DEFAULT, name_of, show
from pages.steering.studio import exported

FILES = {
    "safetensors": ("Vector", "opens here again."),
    "gguf": ("GGUF", "a control vector for llama.cpp."),
    "json": ("Neuronpedia", "the form of Neuronpedia's vector upload."),
}
"""Of a vector, by ending: its name, and what it is good for."""


def example(ws: Workspace, place: Any, names: Mapping[str, str]) -> None:
    """Before anything was written: a preset as the evaluation wrote it."""
    presets = ask(steering_tables.presets, ws)
    if not presets:
        place.caption(
            "Press Go: both models are opened once, which takes some seconds, and then write at"
            " once."
        )
        return

    preset, lanes = presets[0], []
    for lane in DEFAULT:
        table = ask(steering_tables.generations, ws, lane.side, preset["language"], lane.kind)
        row = table.loc[table.prompt == preset["prompt"]].iloc[0]
        lanes.append(
            {
                "lane": str(lane),
                "text": row.text,
                "language": row.detected,
                "probability": row.probability,
                "loss": row.loss,
                "repetition": row.repetition,
            }
        )
    show({"prompt": preset["prompt"], "lanes": lanes}, place, names)
    place.caption(
        f"As the evaluation wrote it, steering to {preset['name']}; press a language above, or Go,"
        " to write anew. nats/token: the loss of the text under the unsteered model (lower is more"
        " fluent)."
    )


def after(ws: Workspace, runs: list[dict[str, Any]], names: Mapping[str, str]) -> None:
    """Downloads of the last run, and the runs before it."""
    if not runs:
        return
    last, earlier = runs[-1], runs[-2::-1]

    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            "Run",
            json.dumps(last, indent=1, ensure_ascii=False),
            "run.json",
            "application/json",
            on_click="ignore",
            icon=":material/download:",
            help="Texts, settings and figures of the run above, as JSON.",
        )
        if last["source"] != str(Concept("", "")):  # a record does not hold its two texts
            vectors(ws, last, names)

    if earlier:
        alike = same_but_strength(last, earlier[0])
        with st.expander(f"Earlier runs ({len(earlier)})", expanded=alike, key="earlier"):
            for run in earlier:
                st.markdown(f":small[{plain(in_words(run))}]")
                show(run, st.container(), names)


def vectors(ws: Workspace, run: dict[str, Any], names: Mapping[str, str]) -> None:
    """Downloads of the first vector of a run."""
    lanes = (lane_key(entry["lane"]) for entry in run["lanes"])
    lane = next((lane for lane in lanes if lane.kind != "none"), LaneKey("b", "transferred"))
    for ending, (label, use) in FILES.items():
        st.download_button(
            label,
            partial(exported, ws, run, lane, ending),
            f"{lane.side}-{lane.kind}.{ending}",
            on_click="ignore",
            icon=":material/download:",
            key=f"export-{ending}",
            help=f"{name_of(lane, names)}: {use}",
        )


def in_words(run: Mapping[str, Any]) -> str:
    """How a run was steered."""
    setting = run["setting"]
    return (
        f"{run['source']}, strength {setting['strength']:g}, {setting['operator']}, stitch"
        f" {run['stitch']}, seed {run['sampling']['seed']}"
    )


def same_but_strength(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two runs differ in strength alone, so that they are to be compared."""

    def strip(run: Mapping[str, Any]) -> dict[str, Any]:
        setting = {key: value for key, value in run["setting"].items() if key != "strength"}
        return setting | {"source": run["source"], "prompt": run["prompt"]}

    return strip(one) == strip(other) and one["setting"] != other["setting"]
