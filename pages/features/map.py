"""Where all features lie, and all of them in a table."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from core.features import regions
from core.features.regions import Region
from core.models.pairs import PairSpec
from core.workspace.store import Workspace
from pages.features import figures, selection
from pages.shared import figures as figures_base
from pages.shared import frame
from pages.shared.address import bound
from pages.shared.figures import draw
from pages.shared.frame import ask
from pages.shared.words import explained, number, percent, plain, short_names

DRAGS = {"click": "Click", "select": "Box", "lasso": "Lasso"}
MARKS = ["feature", "kind", "correlation", "density_a", "x", "y"]
"""What a mark of the map needs to know."""
DRAWN = 16_384
"""Features on the map; more hide one another and cost seconds."""
WIDE, NARROW = 320.0, 290.0
"""Pixels that all marks of the map take up at least, in a window and on a phone."""
COLUMNS = [
    "feature",
    "label",
    "agreement",
    "f1_a",
    "f1_b",
    "twin",
    "twin_r",
    "kind",
    "correlation",
    "low",
    "high",
    "consistency",
    "density_a",
    "density_b",
    "max_a",
    "max_b",
    "rbo",
    "raises",
]


def overview(
    ws: Workspace,
    pair: PairSpec,
    sae: str,
    table: pd.DataFrame,
) -> None:
    """The map of decoder directions, with names over its regions; those that are selected stand
    out."""
    name = plain(short_names(pair)["a"])
    colour, drag = looks(name)
    kept = table.loc[selection.selected(table)] if selection.anything() else table
    drawn = kept if len(kept) <= DRAWN else kept.sample(DRAWN, random_state=0)
    drawn_from = ""
    if len(drawn) < len(table):
        drawn_from = f"; {len(drawn):,} of {len(table):,}"
        drawn_from += ", drawn at random" if len(drawn) < len(kept) else ", those that are listed"
    gesture = "Drag over marks to list them."
    if drag == "click":
        gesture = "Click or tap a mark to open its feature; pick by box or lasso to list several."
    names = ask(regions.regions, ws, sae, NARROW if frame.on_phone() else WIDE)
    named = ""
    if names:
        named = (
            " Names: what the labels there hold more often than labels elsewhere, beyond chance"
            f" ({of_regions(names)})."
        )
    selection_now = draw(
        figures.feature_map(drawn.loc[:, MARKS], colour, drag, name, names),
        f"UMAP (cosine) of the decoder directions in {name}: near means alike{drawn_from}."
        f" {gesture}{named}",
        key="map",
        alt="Map of all features",
        on_select=selection.picked,
        selection_mode=("points", "box", "lasso"),
    )
    live = [int(mark[0]) for mark in figures_base.picked(selection_now)]
    if len(live) == 1:
        st.markdown(f"[Feature {live[0]} is open.](#feature)")


def of_regions(names: Sequence[Region]) -> str:
    """How sure the surest name is, in words."""
    first = names[0]
    here, everywhere = (percent(share, sign=False) for share in (first.shares[0], first.overall[0]))
    return f"{plain(first.words[0])}: {here} of {first.features:,} there, {everywhere} of all"


def looks(name: str) -> tuple[str, str]:
    """How the map is coloured, and how marks are picked on it."""
    colours = {
        "kind": "Class",
        "correlation": "Correlation",
        "density_a": f"Density in {name}",
    }
    in_address = {"kind": "Class", "correlation": "Correlation", "density_a": "Density in A"}
    colour = bound(
        st.segmented_control,
        "Colour by",
        list(colours),
        required=True,
        format_func=lambda choice: colours[choice],
        key="map-colour",
        what="colour",
        words=in_address.__getitem__,
        help="Attribution correlation; density: share of positions, logarithm.",
    )
    drag = bound(
        st.segmented_control,
        "Pick by",
        list(DRAGS),
        required=True,
        format_func=lambda choice: DRAGS[choice],
        key="map-drag",
        what="way to pick",
        help="A click or tap opens a feature; a box or a lasso lists several.",
    )
    return str(colour), str(drag)


def tabled(table: pd.DataFrame, pair: PairSpec) -> None:
    """Every measure of those features that are selected."""
    kept = table.loc[selection.selected(table)]
    view = kept[COLUMNS]
    # half the bytes to the browser
    single = dict.fromkeys(view.select_dtypes("float64"), "float32")
    key = f"features-{len(kept)}-{kept.feature.sum()}"
    st.dataframe(
        view.astype({"kind": "category"} | single),
        hide_index=True,
        key=key,
        height=480,
        alt="Features",
        on_select=partial(selection.open_row, key, view.feature.tolist()),
        selection_mode="single-row",
        placeholder="–",
        column_config=columns(short_names(pair)),
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        words = f"{len(kept):,} of {len(table):,} features"
        brush = st.session_state["brush"]
        if brush != selection.EVERY:
            words += f", with attribution correlation from {number(brush[0])} to {number(brush[1])}"
        st.caption(f"{words}. Sort by a head, search with the lens, choose a row to open it.")
        if len(kept) < len(table):
            st.button("All features", on_click=selection.every, icon=":material/filter_alt_off:")
        st.download_button(
            "Table",
            lambda: view.to_csv(index=False).encode(),
            "features.csv",
            "text/csv",
            on_click="ignore",
            icon=":material/download:",
            help="These features as CSV.",
        )


def columns(names: dict[str, str]) -> dict[str, Any]:
    """Heads of the table, with what they mean."""
    column = st.column_config.NumberColumn
    interval = "95 % interval of it, bootstrap over blocks of documents."
    return {
        "feature": column("Feature", pinned=True),
        "label": st.column_config.TextColumn("Label", help=explained("label")),
        "agreement": column("Agreement ↑", format="%.2f", help=explained("agreement")),
        "f1_a": column(f"Label, {names['a']}", format="%.2f", help=explained("f1")),
        "f1_b": column(f"Label, {names['b']}", format="%.2f", help=explained("f1")),
        "twin": column(f"Twin in {names['b']}", help=explained("native twin")),
        "twin_r": column("Twin's r ↑", format="%.2f", help=explained("native twin")),
        "kind": st.column_config.TextColumn("Class", help=explained("class")),
        "correlation": column(
            "Attribution correlation ↑",
            format="%.2f",
            help=explained("attribution correlation"),
        ),
        "low": column("low", format="%.2f", help=interval),
        "high": column("high", format="%.2f", help=interval),
        "consistency": column("Consistency", format="%.2f", help=explained("consistency")),
        "density_a": column(f"Density, {names['a']}", format="percent", help=explained("density")),
        "density_b": column(f"Density, {names['b']}", format="percent", help=explained("density")),
        "max_a": column(f"Max, {names['a']}", format="%.3g", help=explained("max")),
        "max_b": column(f"Max, {names['b']}", format="%.3g", help=explained("max")),
        "rbo": column(
            "Overlap",
            format="%.2f",
            help=explained("overlap"),
        ),
        "raises": st.column_config.TextColumn(f"Raises in {names['a']}", help=explained("raises")),
    }
