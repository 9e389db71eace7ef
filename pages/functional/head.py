"""A look through one head at a text that was typed in, with the feature and without it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from core.models.libraries import importing
from core.models.pairs import PairSpec, get_pair
from core.text.reading import clean
from core.workspace import store
from core.workspace.store import Workspace
from pages.functional import figures
from pages.shared import address, frame, tokens
from pages.shared.figures import draw
from pages.shared.words import explained, number, plain, short_names

if TYPE_CHECKING:
    from core.functional import live as functional_live

LONGEST = 600
"""Characters of a text that is typed in."""


@st.cache_resource(max_entries=1, show_spinner=False)
def _live(
    pair: str,
    sae: str,
    private: Path | None,
    stamp: str,
) -> "functional_live.Live":
    with importing():
        from core.functional.live import Live

    return Live(get_pair(pair), sae, private)


def _other_side() -> None:
    """Layers and heads are those of a model: the clearest of the other one are shown."""
    address.forget("layer", "head")


def head(
    ws: Workspace,
    pair: PairSpec,
    sae: str,
    limits: Mapping[str, tuple[int, int]],
) -> None:
    """A head's pattern over a text, with the feature, without it, and the difference."""
    st.subheader("Look through a head", anchor="live", help=explained("path patching"))
    names = short_names(pair)
    side, text, layer, place, asked = form(names, limits)
    now = st.session_state
    if asked:
        now.pop("looked", None)
        text, feature = clean(text), int(now["feature"])
        with st.spinner("Looking; the first time, both models are opened"):
            at_hand = _live(ws.pair, sae, ws.private, store.stamp(ws))
            attended = at_hand.attend(text, side, feature, layer, place)
        about = (text, side, feature, f"Head {layer}.{place}")
        now["looked"] = (ws.pair, sae, about, attended)
    if "looked" not in now or now["looked"][:2] != (ws.pair, sae):
        st.caption(
            "Press Look: both models are opened once, which takes some seconds, and then look in a"
            " moment."
        )
        return

    _, _, (text, side, feature, title), attended = now["looked"]
    patterns(text, side, feature, title, attended, names)


def form(
    names: Mapping[str, str], limits: Mapping[str, tuple[int, int]]
) -> tuple[str, str, int, int, bool]:
    """Model, text, layer, head, and whether to look."""
    titles = {"a": f":blue[{plain(names['a'])}, original]"}
    titles["b"] = f":violet[{plain(names['b'])}, transferred]"
    side = str(
        st.segmented_control(
            "Model",
            list(titles),
            key="side",
            required=True,
            format_func=lambda choice: titles[choice],
            on_change=_other_side,
        )
    )
    with st.form("look", border=False):
        text = st.text_area(
            "Text",
            max_chars=LONGEST,
            key="text",
            help=(
                f"At most {LONGEST} characters. Until you type one, a text where the feature fires."
            ),
        )
        bar = st.container(horizontal=True, vertical_alignment="bottom")
        first, last = limits["layer"]
        behind = f"{first} to {last}: behind the features."
        layer = bar.number_input("Layer", first, last, key="layer", width=130, help=behind)
        place = bar.number_input(
            "Head", *limits["head"], key="head", width=130, help=explained("attention head")
        )
        asked = bar.form_submit_button("Look", type=frame.action())
    return side, text, int(layer), int(place), asked


def patterns(
    text: str,
    side: str,
    feature: int,
    title: str,
    attended: "functional_live.Attended",
    names: Mapping[str, str],
) -> None:
    """Where the tokens look, and how much at the first one."""
    starts = np.maximum.accumulate(np.r_[0, attended.ends[:-1].clip(min=0)])
    labels = [
        f"{k} {tokens.visible(text[begin:end]) if end >= 0 else 'first' if k == 0 else '·'}"
        for k, (begin, end) in enumerate(zip(starts, attended.ends, strict=True))
    ]
    on = attended.activation > 0
    if not on.any():
        st.markdown(
            f"Feature {feature} fires nowhere in this text, so taking it out changes nothing."
        )
    draw(
        figures.patterns(attended.before, attended.after, labels, side),
        f"{title} of {plain(names[side])} over this text: where each token (row) looks, then with"
        f" feature {feature} taken out of its input at the current token alone (path patching: all"
        " other tokens keep theirs), and the difference.",
        key="patterns",
        alt="Attention pattern before, after, and the difference",
    )

    to_first = pd.DataFrame(
        {
            "before": attended.before[:, 0],
            "after": attended.after[:, 0],
            "control": attended.control[:, 0],
            "activation": attended.activation,
        }
    )
    draw(
        figures.sink(to_first, labels, side),
        "Column 0 of the patterns: attention to the first token. Control: a random direction as"
        " long as the feature's, taken out at the same tokens."
        + mean_change(to_first.loc[on], len(on)),
        key="sink",
        alt="Attention to the first token with and without the feature, and a random control",
    )


def mean_change(firing: pd.DataFrame, n: int) -> str:
    """Where the feature fires; nothing where it does not."""
    if firing.empty:
        return ""
    change = firing[["after", "control"]].sub(firing.before, axis=0).mean()
    return (
        f" Mean change at the {len(firing)} of {n} tokens where the feature fires:"
        f" {number(change.after, sign=True)}, control {number(change.control, sign=True)}."
    )
