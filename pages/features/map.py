"""All features at once: how alike they stayed, semantic or structural, where they lie, and a table
of those that were selected on the figures."""

from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from core.features import tables as feature_tables
from core.models.pairs import PairSpec
from core.stitches import tables as stitch_tables
from pages.features import figures
from pages.shared import address, frame
from pages.shared import figures as figures_base
from pages.shared.address import bound
from pages.shared.figures import draw
from pages.shared.words import explained, number, plain, short_names

DRAGS = {"click": "Click", "select": "Box", "lasso": "Lasso"}
DRAWN = 16_384
"""Features on the map; more hide one another and cost seconds."""
MOST_MARKED = 200
"""Features that an address lists; more would not fit into a link."""
EVERY = (-1.0, 1.0)
"""All correlations: nothing is brushed."""
COLUMNS = [
    "feature",
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


def follow_selections(whose: object, features: int) -> None:
    """Settle what is selected on the figures: `brush`, from and to which correlation, and `marked`,
    features of the map. A link lists what its sender saw listed."""

    def range_of(text: str) -> tuple[float, float] | None:
        try:
            low, high = map(float, text.split("~"))
        except ValueError:
            return None
        return (low, high) if -1.1 <= low < high <= 1.1 else None

    def ids(text: str) -> tuple[int, ...] | None:
        parts = text.split("~") if text else []
        fits = all(p.isdecimal() and len(p) < 10 and int(p) < features for p in parts)
        return tuple(map(int, parts)) if fits and len(parts) <= MOST_MARKED else None

    of_range = ", it is two correlations, such as 0.2~0.5"
    address.settle(
        "brush", EVERY, range_of, whose, of_range, words=lambda ends: f"{ends[0]:g}~{ends[1]:g}"
    )
    of_ids = f", they are numbers of features below {features}, such as 3~7"
    address.settle(
        "marked", (), ids, whose, of_ids, words=lambda marked: "~".join(map(str, marked))
    )


def brushed() -> None:
    """What was dragged over on the histogram; nothing after a double click."""
    now = st.session_state
    now["brush"] = figures.picked_range(now["correlations"]) or EVERY


def picked() -> None:
    """What was clicked, boxed or lassoed on the map: one feature opens, several are listed."""
    now = st.session_state
    chosen = [int(mark[0]) for mark in figures_base.picked(now["map"])]
    if len(chosen) == 1:
        now["feature"] = chosen[0]
    now["marked"] = tuple(chosen) if 1 < len(chosen) <= MOST_MARKED else ()


def every() -> None:
    """List all features again."""
    now = st.session_state
    now["brush"], now["marked"] = EVERY, ()


def correlations(table: pd.DataFrame, settings: dict[str, Any], pair: PairSpec) -> None:
    """How alike features stayed, beside two controls."""
    names = short_names(pair)
    rows = table.loc[table.reliable]
    random, shuffled = (
        round(float(rows[control].quantile()), 2) + 0.0 for control in ("random", "shuffled")
    )
    brush = not frame.on_phone()
    gesture = "Drag over bars" if brush else "Tap a bar"
    draw(
        figures.correlations(rows, brush),
        "Attribution correlation: Pearson correlation, over held-out positions where the same text"
        f" comes next, of a feature's attribution to the next token in {plain(names['a'])} and,"
        f" after transfer through {plain(settings['stitch_name'])}, in {plain(names['b'])};"
        f" {len(rows):,} of {len(table):,} features, those active in both at 20 positions or more."
        f" Median {number(rows.correlation.median())}; controls: a random SAE through the same"
        " stitch,"
        f" {number(random)}, and the same features through a stitch of shuffled pairs,"
        f" {number(shuffled)}"
        f" (its peak is cut off). {gesture} to list their features below. (Eq. 10, Fig. 14)",
        key="correlations",
        alt="Histogram of attribution correlation with two controls",
        on_select=brushed,
        selection_mode=("points", "box"),
    )


def classes(table: pd.DataFrame, settings: dict[str, Any]) -> pd.DataFrame:
    """Semantic or structural; returns the table with its `kind`."""
    st.subheader("Semantic or structural", anchor="classes")
    left, right = st.columns([3, 1], gap="large")
    with right:
        threshold, least = thresholds()
        table = table.assign(kind=feature_tables.kinds_of_features(table, threshold, least))
        n = table.kind.value_counts()
        st.markdown(
            f":orange[**{n.get('semantic', 0):,} semantic**],"
            f" :green[**{n.get('structural', 0):,} structural**], {n.get('unseen', 0):,} unseen,"
            f" {n.get('dead', 0):,} dead"
        )

    rows = table.query("reliable and kind in ['semantic', 'structural']")
    with left:
        if rows.kind.nunique() < 2:
            st.markdown("With these thresholds all features fall into one class.")
            return table

        shares = stitch_tables.structural_share(rows)
        structural, both = int(shares.structural.sum()), int(shares.n.sum())
        draw(
            figures.classes(rows, shares),
            "Densities of attribution correlation, each class by itself, and above them the share"
            " of structural features among both, counted in steps of 0.1 (dotted: over all,"
            f" {structural:,} of {both:,}); {settings['sentences']:,} English sentences with"
            f" {settings['rewrites']} rewrites each. (Fig. 4b)",
            key="classes",
            alt="Densities of attribution correlation of semantic and structural features",
        )
    return table


def thresholds() -> tuple[float, int]:
    """From which consistency a feature is structural, and in how many sentences it must be seen."""
    threshold = bound(
        st.slider,
        "Structural from a consistency of",
        0.0,
        1.0,
        step=0.05,
        key="structural",
        usual=0.5,
        what="consistency",
        help=(
            "Share of the sentences with the feature in which it stays active in all rewrites that"
            " keep structure and function words and change content (5.1)."
        ),
    )
    least = bound(
        st.slider,
        "At least so many sentences",
        1,
        30,
        key="sentences",
        usual=3,
        what="number of sentences",
        help="Features active in fewer of the sampled sentences are left out.",
    )
    return float(threshold), int(least)


def overview(table: pd.DataFrame, pair: PairSpec) -> pd.DataFrame:
    """The map of decoder directions; returns the features that are selected on it, or all."""
    st.subheader("All features", anchor="all")
    name = plain(short_names(pair)["a"])
    colour, drag = looks(name)
    shown = table if len(table) <= DRAWN else table.sample(DRAWN, random_state=0)
    drawn_from = ""
    if len(shown) < len(table):
        drawn_from = f"; {len(shown):,} of {len(table):,}, drawn at random"
    gesture = "Drag over marks to list them below; a double click lists all again."
    if drag == "click":
        gesture = (
            "Click or tap a mark to open its feature; pick by box or lasso to filter the table"
            " below."
        )
    selection = draw(
        figures.feature_map(shown, colour, drag, name),
        f"UMAP (cosine) of the decoder directions in {name}: near means alike{drawn_from}."
        f" {gesture}",
        key="map",
        alt="Map of all features",
        on_select=picked,
        selection_mode=("points", "box", "lasso"),
    )
    live = [int(mark[0]) for mark in figures_base.picked(selection)]
    if len(live) == 1:
        st.markdown(f"[Feature {live[0]} is open below.](#feature)")
    marked = live if len(live) > MOST_MARKED else st.session_state["marked"]
    return table.loc[table.feature.isin(marked)] if len(marked) > 1 else table


def looks(name: str) -> tuple[str, str]:
    """How the map is coloured, and how marks are picked on it."""
    colours = {
        "kind": "Class",
        "correlation": "Correlation",
        "density_a": f"Density in {name}",
    }
    in_address = {"kind": "Class", "correlation": "Correlation", "density_a": "Density in A"}
    left, right = st.columns([3, 2])
    colour = bound(
        left.segmented_control,
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
        right.segmented_control,
        "Pick by",
        list(DRAGS),
        required=True,
        format_func=lambda choice: DRAGS[choice],
        key="map-drag",
        what="way to pick",
        help="A click or tap opens a feature; a box or a lasso filters the table below.",
    )
    return str(colour), str(drag)


def listed(table: pd.DataFrame, total: int, pair: PairSpec) -> None:
    """The table of those features that the map and the histogram leave."""
    brush = st.session_state["brush"]
    if brush != EVERY:
        table = table.loc[table.reliable & table.correlation.between(*brush)]
    view = table[COLUMNS]
    # half the bytes to the browser
    single = dict.fromkeys(view.select_dtypes("float64"), "float32")
    key = f"features-{len(table)}-{table.feature.sum()}"
    st.dataframe(
        view.astype({"kind": "category"} | single),
        hide_index=True,
        key=key,
        height=320,
        alt="Features",
        on_select=partial(open_row, key, view.feature.tolist()),
        selection_mode="single-row",
        placeholder="–",
        column_config=columns(short_names(pair)),
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        words = f"{len(table):,} of {total:,} features"
        if brush != EVERY:
            words += f", with attribution correlation from {number(brush[0])} to {number(brush[1])}"
            words += " (double-click the histogram for all)"
        st.caption(f"{words}. Sort by a head, search with the lens, choose a row to open it.")
        if len(table) < total:
            st.button("All features", on_click=every, icon=":material/filter_alt_off:")
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


def open_row(key: str, features: list[int]) -> None:
    """A row that was chosen opens its feature."""
    if rows := st.session_state[key].selection.rows:
        st.session_state["feature"] = features[rows[0]]
