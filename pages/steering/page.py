"""Steer live: one sentence, several lanes of both models side by side; in a tab of its own, how
often it works."""

import streamlit as st

from core.models.pairs import PairSpec, get_pair
from core.stitches import tables as stitch_tables
from core.workspace import store
from core.workspace.store import Workspace
from pages.shared import address, frame, panels, studios
from pages.shared.frame import ask, section
from pages.shared.words import plain
from pages.steering.evaluation import evaluation
from pages.steering.instructions import instructions
from pages.steering.live import live

LIVE, EVALUATION = "Live", "Evaluation"
OF_EVALUATION = (
    "way",
    "against",
    "cell_language",
    "cell_kind",
    "follows",
    "instruction",
    "condition",
)
"""What an address says of the evaluation; older links have no tab."""


def page() -> None:
    ws = frame.workspace()
    with section():
        pair = get_pair(ws.pair)
        st.title("Steering", anchor=False)
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
        tabs(ws, pair, stitches)
        studios.opening(pair.key)  # last: importing torch beside it would slow the page


def tabs(
    ws: Workspace,
    pair: PairSpec,
    stitches: list[str],
) -> None:
    """Each is drawn when it is opened."""
    asked = st.query_params
    if st.session_state.get("arrived") and "tab" not in asked and set(OF_EVALUATION) & set(asked):
        address.put("tab", EVALUATION)
    parse, limits, words = address.one_of([LIVE, EVALUATION], str)
    opened = address.settle("tab", LIVE, parse, "", limits, words=words)
    if opened == LIVE and set(OF_EVALUATION) & set(asked):
        address.keep("tab", LIVE)

    steering, measured = st.tabs([LIVE, EVALUATION], key="tab", on_change="rerun")
    if steering.open:
        with steering, section():
            live(ws, pair, stitches)
    if measured.open:
        with measured, section():
            evaluated(ws, pair)


def evaluated(ws: Workspace, pair: PairSpec) -> None:
    if store.has(ws, "steering"):
        evaluation(ws, pair)
    else:
        panels.door(
            "**Not measured yet.** How often vectors of either model steer the other one, language"
            " by language.",
            f"python -m core steer eval {ws.pair}",
        )
    with section():
        instructions(ws, pair)


page()
