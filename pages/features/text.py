"""A text that was typed in, read by both models now."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from core.models.pairs import PairSpec
from core.text.reading import clean
from core.workspace.store import Workspace
from pages.features.asking import live
from pages.features.selection import open_row
from pages.shared import frame, tokens
from pages.shared.words import short_names

SAMPLE = "The committee will meet in Paris on Monday, and nobody knows whether they will agree."
LONGEST = 2000
"""Characters of a text that is typed in."""
MARKS = (
    "Tint: activation over the largest in that model; underlined: the strongest token, dotted: the"
    " next one, which it helps predict. Hover for values."
)


def own(
    ws: Workspace,
    pair: PairSpec,
    sae: str,
    index: int,
    scale: Mapping[str, float],
    table: pd.DataFrame,
    titles: Mapping[str, str],
) -> None:
    """One feature in a text that was typed in, and the features that are strongest there."""
    with st.form("own-text", border=False):
        text = st.text_area(
            "Text",
            max_chars=LONGEST,
            key="text",
            help=f"At most {LONGEST:,} characters. Both models read it up to the stitched layers.",
        )
        asked = st.form_submit_button("Read", type=frame.action())

    now = st.session_state
    if asked:
        with st.spinner("Reading; the first time, both models are opened"):
            text = clean(text)
            activations = live(ws, sae).read(text)
            now["read"] = (ws.pair, sae, text, activations)
    if "read" not in now or now["read"][:2] != (ws.pair, sae):
        st.caption(
            "Press Read: both models are opened once, which takes some seconds, and then read in a"
            " moment."
        )
        return

    _, _, text, activations = now["read"]
    for side, column in zip(titles, st.columns(2, gap="large"), strict=True):
        values = activations[side].acts[:, index].tolist()
        strongest = max(range(len(values)), key=values.__getitem__)
        peak = strongest if values[strongest] > 0 else -2
        ends = [0, *activations[side].ends.tolist()]
        column.subheader(titles[side], anchor=f"own-{side}")
        column.html(tokens.tokens(text, ends, values, peak, scale[side], side))
    active(text, activations, table, short_names(pair))


def active(
    text: str, activations: Mapping[str, Any], table: pd.DataFrame, names: Mapping[str, str]
) -> None:
    """Every feature that is active in the text, in either model."""
    strongest = {side: activations[side].acts.max(0).values for side in names}
    view = table[["feature", "kind", "correlation", "raises"]].assign(**strongest)
    view = view.loc[(view.a > 0) | (view.b > 0)].sort_values("a", ascending=False)
    number, key = st.column_config.NumberColumn, f"own-{hash(text)}"
    st.dataframe(
        view,
        hide_index=True,
        key=key,
        height=280,
        alt="Features active in this text",
        selection_mode="single-row",
        on_select=partial(open_row, key, view.feature.tolist()),
        column_order=["feature", "a", "b", "kind", "correlation", "raises"],
        column_config={
            "feature": number("Feature"),
            "a": number(f"Max here, {names['a']}", format="%.3g"),
            "b": number(f"Max here, {names['b']}", format="%.3g"),
            "kind": "Class",
            "raises": f"Raises in {names['a']}",
            "correlation": number("Attribution correlation ↑", format="%.2f"),
        },
    )
    st.caption(f"Every feature that is active in this text; choose a row to open it. {MARKS}")
