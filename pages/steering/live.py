"""Steer live: the sentence, what stands behind its gear, and what the lanes write."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from core.models.pairs import PairSpec
from core.steering.runs import source_of, strip_lane
from core.steering.sources import Brought
from core.workspace.store import Workspace
from pages.shared import address, frame
from pages.shared.words import plain, short_names
from pages.steering import lanes, runs, studio
from pages.steering.options import options
from pages.steering.sentence import presets, sentence
from pages.steering.sources import fitting


def live(
    ws: Workspace,
    pair: PairSpec,
    stitches: list[str],
) -> None:
    names = short_names(pair)
    shown = runs.shown(ws)
    chosen = lanes.settled()
    steered = sentence(ws, pair, chosen, names)
    feature = steered["kind"] == "feature"
    fits = fitting(ws, pair, steered["sae"]) if feature else stitches
    frame.titled(lanes.title(chosen, names, steered.get("source", Brought(""))), "Steering")

    bar = st.container(horizontal=True, vertical_alignment="center", key="bar")
    with st.expander("Stitch, layers, lanes, sampling", icon=":material/settings:", key="options"):
        what = lanes.toward(steered.get("source", Brought("")))
        stitch = options(ws, pair, fits, names, what)
    with bar:
        go = buttons(stitch is not None)
        presets(ws, names, steered["kind"])

    place = st.container(key="columns")
    if go and not chosen:
        place.warning("No lane is chosen: choose at least one behind the gear.")
        go = False
    if go:
        address.write()  # not only when the text is whole
        studio.stream(ws, steered | {"stitch": stitch}, chosen, place, names)
    elif shown is None:
        runs.example(ws, place, names)
    else:
        lanes.show(shown, place, names)
        place.caption(plain(runs.in_words(shown)))
        strip(ws, shown, names)
        runs.after(ws, shown, names)
    runs.earlier(ws, shown, names)


def buttons(ready: bool) -> bool:
    """Go and Stop: whether to write now."""
    now = st.session_state
    pressed = st.button(
        "Go", type=frame.action(), icon=":material/play_arrow:", key="go", disabled=not ready
    )
    go = (now.pop("again", False) or pressed) and ready
    st.button(
        "Stop",
        icon=":material/stop:",
        disabled=not (go or now.get("film", False)),
        key="stop",
        help="Stops within a token; the text stays.",
    )
    return bool(go)


def strip(
    ws: Workspace,
    run: Mapping[str, Any],
    names: Mapping[str, str],
) -> None:
    """The film strip of a run: written, or a button that writes it."""
    place = st.container(key="strip")
    if st.session_state.pop("film", False):
        address.write()
        studio.film(ws, run, place, names)
        return

    lane = lanes.name_of(strip_lane(run), names, lanes.toward(source_of(run)))
    if run.get("strip"):
        place.markdown(f"**{plain(lane)}**, seed {run['sampling']['seed']}, at five strengths")
        place.html(lanes.strip_html(run))
    else:
        place.button(
            "Film strip",
            icon=":material/view_column:",
            key="film-strip",
            on_click=st.session_state.__setitem__,
            args=("film", True),
            help=f"{lane}, from the same seed, at strengths -1, 0, 1, 2 and 3.",
        )
