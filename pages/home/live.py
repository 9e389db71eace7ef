"""A beginning that a visitor types, gone on from by the lanes of the first page."""

from contextlib import closing
from functools import partial
from typing import Any

import streamlit as st

from core.models.libraries import importing
from core.steering import showcase
from core.steering import tables as steering_tables
from core.text.reading import clean
from core.workspace.store import Workspace
from pages.home import figures
from pages.shared import studios
from pages.shared.frame import ask
from pages.shared.words import plain


def latest(ws: Workspace) -> dict[str, Any] | None:
    """What was written last in this session, of this pair."""
    run = st.session_state.get("home-run")
    return run if run and run["pair"] == ws.pair else None


def stream(ws: Workspace, kept: dict[str, Any], beginning: str) -> None:
    """Write all lanes side by side, a token at a time; what there is stays when this is
    interrupted. The settings are those of the run that is kept."""
    words = st.empty()
    prompt = clean(beginning)
    with words, st.spinner("Opening the models, once", show_time=True):
        with importing():
            from core.config import check
            from core.steering.generate import Sampling

        crossing = studios.crossing(ws, kept["stitch"])
        sampling = check(Sampling, **showcase.SAMPLED)
        lanes = showcase.lanes(crossing, preset(ws, kept), partial(studios.studio, ws))
    words.empty()

    titles = showcase.titles(crossing, preset(ws, kept))
    run: dict[str, Any] = {"pair": ws.pair, "prompt": prompt, "lanes": []}
    boxes = {}
    for name, column in zip(lanes, st.columns(len(lanes), gap="medium"), strict=True):
        column.markdown(f"**{plain(titles[name])}**")
        boxes[name] = column.empty()

    st.session_state["home-run"] = run
    with closing(crossing.speak(prompt, lanes, sampling, studios.waiting(words))) as steps:
        for written in steps:
            words.empty()
            run["lanes"] = showcase.entries(lanes, titles, written)
            for lane in run["lanes"]:
                boxes[lane["lane"]].html(
                    figures.written(prompt, lane["text"], lane["side"], lane["carried"])
                )


def preset(ws: Workspace, kept: dict[str, Any]) -> dict[str, Any] | None:
    """How the steered lane of the run that is kept was steered."""
    presets = ask(steering_tables.presets, ws)
    return next((one for one in presets if one["language"] == kept["language"]), None)
