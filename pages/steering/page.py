"""Steer live: one prompt, several lanes of both models side by side; below, how often it works."""

import streamlit as st

from core.models.pairs import get_pair
from core.stitches import tables as stitch_tables
from core.workspace import store
from pages.shared import frame, panels, studios
from pages.shared.frame import ask, section
from pages.shared.words import plain
from pages.steering.evaluation import evaluation
from pages.steering.live import live


def page() -> None:
    ws = frame.workspace()
    with section():
        pair = get_pair(ws.pair)
        st.title("Steering")
        st.markdown(
            f"One prompt, several lanes: :blue[{plain(pair.a.title)}] or"
            f" :violet[{plain(pair.b.title)}] by itself, under its own vector, and under one that"
            " was learned in the *other* model and carried through the stitch."
        )
        panels.refusal()
        stitches = ask(stitch_tables.stitch_names, ws) if ws.exists else []
        if not stitches:
            panels.door(
                f"**No stitch for {plain(pair.title)} yet.** Vectors cross through one.",
                f"python -m core build {ws.pair}",
            )
            return
        if not store.has(ws, "language_means/b"):
            panels.door(
                "**No language means yet.** Steering to a language needs the mean residual stream"
                " of each, in both models; the evaluation makes them and measures how often"
                " steering works.",
                f"python -m core steer eval {ws.pair}",
            )
        with section():
            live(ws, pair, stitches)
        if store.has(ws, "steering"):
            with section():
                evaluation(ws, pair)
        studios.opening(pair.key)  # last: importing torch beside it would slow the page


page()
