"""One prompt, several lanes: what is steered and how, and what the lanes write."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from core.models.pairs import PairSpec
from core.steering import tables as steering_tables
from core.steering.settings import USUAL
from core.workspace import store
from core.workspace.store import Workspace
from pages.shared import address, frame
from pages.shared.address import bound
from pages.shared.frame import ask
from pages.shared.words import short_names
from pages.steering import lanes, runs
from pages.steering.sources import SOURCES, fitting, given
from pages.steering.studio import stream

PROMPT = "The best way to keep bread fresh is"
LONGEST = 20_000
"""Characters of a prompt."""


def live(ws: Workspace, pair: PairSpec, stitches: list[str]) -> None:
    now, names = st.session_state, short_names(pair)
    presets(ws, names)
    bound(
        st.text_area,
        "Prompt",
        key="prompt",
        usual=PROMPT,
        height=80,
        max_chars=LONGEST,
        help=(
            "What every lane goes on from. Both models are base or lightly tuned ones: give the"
            " beginning of a text."
        ),
    )
    chosen = lanes.choose(names)
    with st.expander("Vector, strength, layers, sampling", icon=":material/tune:", key="options"):
        steered = options(ws, pair, stitches)
    go = buttons("stitch" in steered)

    place = st.container(key="columns")
    if go and not chosen:
        place.warning("No lane is chosen: choose at least one above.")
        go = False
    if go:
        address.write()  # not only when the text is whole
        stream(ws, steered, chosen, place, names)

    written: list[dict[str, Any]] = [run for run in now.get("runs", []) if run["pair"] == ws.pair]
    if not go and written:
        lanes.show(written[-1], place, names)
    elif not go:
        runs.example(ws, place, names)
    runs.after(ws, written, names)


def buttons(ready: bool) -> bool:
    """The dial, Go and Stop: whether to write now."""
    bar = st.container(horizontal=True, vertical_alignment="bottom")
    bound(
        bar.slider,
        "Strength",
        -5.0,
        5.0,
        step=0.1,
        key="strength",
        usual=1.0,
        width=320,
        on_change=again,
        help=(
            "Multiplies c of Eq. 8: 1 sets the component along v to z̄, as in the paper; 0 changes"
            " nothing. Moving it writes again and keeps the text before."
        ),
    )
    pressed = bar.button(
        "Go", type=frame.action(), icon=":material/play_arrow:", key="go", disabled=not ready
    )
    go = (st.session_state.pop("again", False) or pressed) and ready
    bar.button(
        "Stop",
        icon=":material/stop:",
        disabled=not go,
        key="stop",
        help="Stops within a token; the text stays.",
    )
    return bool(go)


def again() -> None:
    """The dial writes again where something has been written."""
    if st.session_state.get("runs"):
        st.session_state["again"] = True


def presets(ws: Workspace, names: Mapping[str, str]) -> None:
    """Settings that worked, a button each."""
    settings = ask(steering_tables.presets, ws)
    if not settings:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(":small[Try]")
        for preset in settings:
            st.button(
                preset["name"],
                key=f"preset-{preset['language']}",
                on_click=choose,
                args=(preset,),
                help=(
                    f'Steer {names["b"]} to {preset["name"]}: "{preset["prompt"]}", stitch'
                    f" {preset['stitch']}, strength {preset['strength']:g}."
                ),
            )


def choose(preset: dict[str, Any]) -> None:
    """A preset's whole setting, and go."""
    setting = {
        "prompt": preset["prompt"],
        "source": "lang",
        "lang": preset["language"],
        "lanes": lanes.DEFAULT,
        "through": preset["stitch"],
        "first_b": preset["first"],
        "last_b": preset["last"],
        "strength": preset["strength"],
    }
    for key, value in setting.items():
        address.put(key, value)
    st.session_state["again"] = True


def options(ws: Workspace, pair: PairSpec, stitches: list[str]) -> dict[str, Any]:
    """What is steered and how: `kind` and `source`, what that needs besides, and `stitch` where one
    fits."""
    left, middle, right = st.columns(3, gap="large")
    with left:
        st.markdown("**Vector**")
        kind = bound(
            st.segmented_control,
            "From",
            list(SOURCES),
            required=True,
            key="source",
            what="source of vectors",
            format_func=lambda source: SOURCES[source],
            help="DiffMean of texts (4), a decoder direction, or a file.",
        )
        steered = {"kind": kind} | given(ws, pair, str(kind))
    with middle:
        st.markdown("**Where**")
        fits = fitting(ws, pair, steered["sae"]) if kind == "feature" else stitches
        if not fits:
            return steered
        steered["stitch"] = where(ws, pair, fits)
    with right:
        st.markdown("**Sampling**")
        sampling()
    return steered


def where(ws: Workspace, pair: PairSpec, stitches: list[str]) -> str:
    """The stitch, the layers and the operator; returns the stitch."""
    stitch = str(
        bound(
            st.selectbox,
            "Stitch",
            stitches,
            key="through",  # "stitch" is Stitches'; links there would lose it
            help="Carries the vector across by v P, without the bias, renormalised (4).",
        )
    )
    layers(ws, pair, stitch)
    operators = steering_tables.OPERATORS
    bound(
        st.segmented_control,
        "Operator",
        list(operators),
        required=True,
        key="operator",
        help="  \n".join(f"{name}: {formula}." for name, formula in operators.items()),
    )
    bound(
        st.checkbox,
        "Steer the prompt too",
        key="on_prompt",
        usual=True,
        what="way with the prompt",
        help="Special tokens are never steered. Off: only what is generated.",
    )
    return stitch


def layers(ws: Workspace, pair: PairSpec, stitch: str) -> None:
    """First and last steered layer of both models; another stitch brings its own."""
    names = short_names(pair)
    makers = ask(store.makers, ws, f"stitches/{stitch}")
    for side, spec in (("a", pair.a), ("b", pair.b)):
        joined = int(makers[f"layer_{side}"])
        for end, column in zip(("first", "last"), st.columns(2), strict=True):
            bound(
                column.number_input,
                f"{end.capitalize()} layer of {names[side]}",
                0,
                spec.n_layers - 1,
                key=f"{end}_{side}",
                usual=joined,
                whose=(ws.pair, stitch),
                what=f"{end} layer of {names[side]}",
                help=(
                    "Steered before each layer from first to last; z̄ is measured at each. The"
                    f" stitch joins {joined}."
                ),
            )


def sampling() -> None:
    number("Tokens", "tokens", (1, 400), USUAL.tokens, 1, "Most tokens that a lane writes.")
    number(
        "Temperature",
        "temperature",
        (0.0, 5.0),
        USUAL.temperature,
        0.1,
        "0 takes the likeliest token.",
    )
    drawn_from = "The smallest set with this probability is drawn from."
    number("Top p", "top_p", (0.05, 1.0), USUAL.top_p, 0.05, drawn_from)
    penalty = "Divides logits of used tokens."
    number("Repetition penalty", "repetition", (0.5, 3.0), USUAL.repetition, 0.05, penalty)
    same = "The same seed writes the same text in a lane, whichever others run."
    number("Seed", "seed", (0, 2**31), USUAL.seed, 1, same)


def number(
    label: str, key: str, limits: tuple[Any, Any], usual: Any, step: Any, words: str
) -> None:
    bound(st.number_input, label, *limits, key=key, usual=usual, step=step, help=words)
