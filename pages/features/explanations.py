"""What others say of a feature: imported explanations and those of an explainer, with their scores,
under our label."""

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from core.features import explained
from core.workspace.store import Workspace
from pages.features.contexts import SIDES, Row
from pages.shared.frame import ask
from pages.shared.words import number, plain

MOST = 3
"""Explanations in view; the others open."""


def by_others(
    ws: Workspace,
    sae: str,
    feature: int,
    names: Mapping[str, str],
) -> None:
    """The best scored first; nothing where there is none."""
    if hidden := ask(explained.of_another, ws, sae):
        st.caption(
            f"{hidden:,} explanations here are of an SAE that had this name before, and are not"
            " shown. Bring those of this one:"
            f" `python -m core features explanations {ws.pair} {sae} FILE`"
        )
    rows = ask(explained.of_feature, ws, sae, feature).to_dict("records")
    for row in rows[:MOST]:
        st.markdown(line(row, names))

    others = rows[MOST:]
    if others:
        more = f"{len(others):,} more explanations"
        with st.expander(more, key="more_explanations", on_change="rerun") as fold:
            for row in others[:100] if fold.open else ():
                st.markdown(line(row, names))


def line(row: Row, names: Mapping[str, str]) -> str:
    """One explanation, who says it, and how well a reader tells by it where the feature fires."""
    source = plain(row["source"])
    if row["type"]:
        source += f", {plain(row['type'])}"
    return f"{plain(row['text'])}  \n:small[{source}. {scored(row, names)}]"


def scored(row: Row, names: Mapping[str, str]) -> str:
    """SmolLM2 0.81 → Gemma 0.63, or that it was not scored here."""
    colours = dict(zip(SIDES, ("blue", "violet"), strict=True))
    parts = []
    for side in SIDES:
        f1 = row[f"f1_{side}"]
        if pd.notna(f1):
            parts.append(f"{plain(names[side])} :{colours[side]}[{number(f1)}]")
    if parts:
        return f"F1 of a reader who knows it alone: {' → '.join(parts)}"

    claim = ""
    if pd.notna(row["claimed"]):
        claim = f"; its source says {number(row['claimed'])} ({plain(row['claimed_by'])})"
    return f"Not scored here{claim}"
