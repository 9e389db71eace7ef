"""The sentence that the page opens with: which model, toward what, how strongly, from which
beginning."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from core.models.pairs import PairSpec
from core.steering import curated
from core.steering import tables as steering_tables
from core.steering.keys import LaneKey
from core.workspace.store import Workspace
from pages.shared import address
from pages.shared.address import bound
from pages.shared.frame import ask
from pages.shared.words import percent, plain
from pages.steering import lanes
from pages.steering.sources import given, target

PROMPT = "The best way to keep bread fresh is"
LONGEST = 20_000
"""Characters of a prompt."""
BOTH = "both"
OF_MODEL = {"b": lanes.LANES[:3], "a": lanes.LANES[3:], BOTH: lanes.LANES}
"""The lanes that a choice of the model brings."""
OF_FEATURE = [LaneKey("b", "none"), LaneKey("b", "transferred"), LaneKey("a", "own")]
"""The lanes that a feature of A shows in."""


def sentence(
    ws: Workspace,
    pair: PairSpec,
    chosen: list[LaneKey],
    names: Mapping[str, str],
) -> dict[str, Any]:
    """What is steered toward: `kind` and `source`, and of a feature its `sae`."""
    row = st.container(horizontal=True, vertical_alignment="center", key="sentence")
    below = st.container()
    with row:
        word("Steer")
        model(chosen, names)
        word(
            "toward",
            "A language (texts in it against English), two texts of yours, the decoder direction of"
            " a feature, or a vector on file.",
        )
        kind = target(ws)
    steered = {"kind": kind} | given(ws, pair, kind, row, below)
    with row:
        word(
            "at strength",
            "Multiplies how far the component along the vector is moved: 1 sets it to its mean"
            " where the target is on, as in the paper (Eq. 8); 0 changes nothing. Moving it writes"
            " again and keeps the text before.",
        )
        strength()

    with st.container(horizontal=True, vertical_alignment="center", key="beginning"):
        word(
            "from",
            "What every lane goes on from. Both models are base or lightly tuned ones: give the"
            " beginning of a text.",
        )
        prompt()
    return steered


def word(text: str, help: str | None = None) -> None:
    st.markdown(text, width="content", help=help)


def model(chosen: list[LaneKey], names: Mapping[str, str]) -> None:
    """Which model is steered, as the lanes say."""
    sides = {lane.side for lane in chosen}
    shown = BOTH if len(sides) == 2 else next(iter(sides), "b")
    if st.session_state.get("steered") != shown:
        st.session_state["steered"] = shown
    st.selectbox(
        "Model to steer",
        list(OF_MODEL),
        key="steered",
        format_func=lambda side: "both models" if side == BOTH else names[side],
        on_change=steer,
        label_visibility="collapsed",
        width=150,
    )


def steer() -> None:
    """Another model was chosen: its lanes. A browser may still send the name of a model of the
    workspace that was left; that chooses nothing."""
    steered = st.session_state["steered"]
    if steered in OF_MODEL:
        address.put("lanes", OF_MODEL[steered])


def strength() -> None:
    bound(
        st.slider,
        "Strength",
        -5.0,
        5.0,
        step=0.1,
        key="strength",
        usual=1.0,
        width=200,
        on_change=again,
        label_visibility="collapsed",
    )


def prompt() -> None:
    bound(
        st.text_area,
        "Prompt",
        key="prompt",
        usual=PROMPT,
        height=68,
        max_chars=LONGEST,
        label_visibility="collapsed",
    )


def again() -> None:
    """The dial writes again where something has been written."""
    if st.session_state.get("runs"):
        st.session_state["again"] = True


def presets(
    ws: Workspace,
    names: Mapping[str, str],
    kind: str,
) -> None:
    """Settings that worked, a button each: features where one is steered toward, else languages."""
    languages = ask(steering_tables.presets, ws)
    features = ask(curated.feature_presets, ws)
    settings = features if kind == "feature" else languages
    if not settings:
        return

    ours = [PROMPT, *(preset["prompt"] for preset in (*languages, *features))]
    st.markdown(":small[Try]", width="content")
    for preset in settings:
        of_feature = kind == "feature"
        st.button(
            plain(preset["name"]),
            key=f"preset-{preset['feature' if of_feature else 'language']}",
            on_click=choose,
            args=(preset, ours),
            help=feature_help(preset, names) if of_feature else language_help(preset, names),
        )


def language_help(preset: Mapping[str, Any], names: Mapping[str, str]) -> str:
    return (
        f"Steer {names['b']} to {preset['name']} as it worked best: stitch"
        f" {preset['stitch']}, strength {preset['strength']:g}, from"
        f' "{preset["prompt"]}" unless you have typed a beginning.'
    )


def feature_help(preset: Mapping[str, Any], names: Mapping[str, str]) -> str:
    shares = []
    for side in ("b", "a"):
        shown, alone, drawn = (percent(x, sign=False) for x in preset["shown"][side].values())
        shares.append(
            f"{shown} of what {names[side]} wrote in the search ({alone} alone, {drawn} under a"
            " random vector)"
        )
    return (
        f"Feature {preset['feature']}, labelled: {plain(preset['label'])}. At strength"
        f" {preset['strength']:g} it showed in {' and '.join(shares)}."
    )


def choose(preset: dict[str, Any], ours: list[str]) -> None:
    """A preset's whole setting, and go; a prompt that the visitor typed stays."""
    setting = {
        "through": preset["stitch"],
        "first_b": preset["first"],
        "last_b": preset["last"],
        "strength": preset["strength"],
    }
    if "feature" in preset:
        setting |= {
            "source": "feature",
            "steer_sae": preset["sae"],
            "steer_feature": preset["feature"],
            "lanes": OF_FEATURE,
        }
    else:
        setting |= {"source": "lang", "lang": preset["language"], "lanes": lanes.DEFAULT}
    if st.session_state.get("prompt") in ours:
        setting["prompt"] = preset["prompt"]
    for key, value in setting.items():
        address.put(key, value)
    st.session_state["again"] = True
