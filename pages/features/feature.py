"""One feature before and after transfer, side by side."""

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from core.features import tables as feature_tables
from core.models.pairs import PairSpec
from core.workspace.store import Workspace
from pages.features import figures, text
from pages.shared import frame, tokens
from pages.shared.address import bound
from pages.shared.figures import draw
from pages.shared.frame import ask, section
from pages.shared.words import explained, number, percent, plain, short_names

SIDES = ("a", "b")
COLOURS = {"a": "blue", "b": "violet"}
SAES = {"a": "with the original SAE", "b": "with the transferred SAE"}
SILENT = "Not active in any of the documents that were read for examples."
GROUPS = {"top": "Top", "q4": "Strong", "q3": "Upper", "q2": "Lower", "q1": "Weak"}
EACH, SAME, OWN = "Contexts of each", "Same text", "Your own text"


def titles(pair: PairSpec) -> dict[str, str]:
    """Over each side's column."""
    names = short_names(pair)
    return {side: f":{COLOURS[side]}[{plain(names[side])}, {SAES[side]}]" for side in SIDES}


def step(by: int, most: int) -> None:
    """To the feature before or after."""
    st.session_state["feature"] = min(max(st.session_state["feature"] + by, 0), most)


def feature(ws: Workspace, pair: PairSpec, sae: str, table: pd.DataFrame) -> None:
    """The feature that is shown, in both models."""
    index = pick(ws, sae, len(table) - 1)
    row = table.iloc[index]
    st.header(f"Feature {index}", anchor="feature")
    facts(row, short_names(pair))

    scale = {side: float(row[f"max_{side}"]) for side in SIDES}
    view = bound(
        st.segmented_control,
        "Compare",
        (EACH, SAME, OWN),
        required=True,
        key="view",
        what="comparison",
        help=(
            "Contexts where each model finds it strongest; the same ones in both; or a text of "
            "yours, read by both models now."
        ),
    )
    if view == OWN:
        text.own(ws, pair, sae, index, scale, table, titles(pair))
        return

    texts = frame.documents(pair)
    if view == SAME:
        same(ws, pair, sae, index, texts, scale)
        return
    for side, column in zip(SIDES, st.columns(2, gap="large"), strict=True):
        with column, section():
            panel(ws, pair, sae, side, index, texts, scale[side])


def pick(ws: Workspace, sae: str, last: int) -> int:
    """Its number, with ways to the next one and out."""
    bar = st.container(horizontal=True, vertical_alignment="bottom")
    index = int(bar.number_input("Feature", 0, last, key="feature", width=150))
    back, on = ":material/chevron_left:", ":material/chevron_right:"
    bar.button("Previous", on_click=step, args=(-1, last), disabled=index == 0, icon=back)
    bar.button("Next", on_click=step, args=(1, last), disabled=index == last, icon=on)
    bar.download_button(
        "Feature",
        lambda: json.dumps(feature_tables.feature_record(ws, sae, index)).encode(),
        f"{sae}-{index}.json",
        "application/json",
        on_click="ignore",
        icon=":material/download:",
        help="All that is known of it, as JSON.",
    )
    if elsewhere := ask(feature_tables.neuronpedia, ws, sae, index):
        bar.link_button("Neuronpedia", elsewhere, icon=":material/open_in_new:")
    return index


def facts(row: pd.Series, names: Mapping[str, str]) -> None:
    """What the tables hold of it; what was not measured is NaN there."""
    known, rewritten, shared = pd.notna(row[["correlation", "consistency", "jaccard"]])
    alike = number(row.correlation, row.low, row.high) if known else "–"
    joint = f"{row.joint:,} joint activations"
    density = {"a": row.density_a, "b": row.density_b}
    largest = {"a": row.max_a, "b": row.max_b}
    firing = [
        (
            f":{COLOURS[side]}[{plain(names[side])}]",
            percent(density[side], sign=False),
            f"of positions, up to {number(largest[side])}",
        )
        for side in SIDES
    ]
    frame.cells(
        [
            (
                "Attribution correlation ↑",
                alike,
                joint if row.reliable else f"{joint}, too few to rely on",
            ),
            ("Class", str(row.kind), f"consistency {number(row.consistency)}" if rewritten else ""),
            *firing,
            (
                "Same top contexts",
                f"{number(row.jaccard)} Jaccard" if shared else "–",
                f"{number(row.rbo)} rank-biased" if shared else "",
            ),
        ]
    )


def panel(
    ws: Workspace,
    pair: PairSpec,
    sae: str,
    side: str,
    index: int,
    texts: Mapping[str, str],
    scale: float,
) -> None:
    """One side: how often the feature was active, which tokens it raises, its contexts."""
    st.subheader(titles(pair)[side], anchor=f"side-{side}")
    bars = ask(feature_tables.feature_histogram, ws, sae, side, index)
    if bars.tokens.sum():
        draw(
            figures.activations(bars, side),
            f"How often it was active, {bars.tokens.sum():,} tokens in all.",
            key=f"bars-{side}",
            alt="Histogram of activations",
        )

    logits = ask(feature_tables.feature_logits, ws, sae, side, index)
    raised = logits["rank"] >= 0
    for what, rows in (("Raises", logits[raised]), ("Lowers", logits[~raised])):
        words = " ".join(map(tokens.token, rows.token))
        st.markdown(
            f"**{what}** {words}",
            help=explained(what),
        )

    examples = ask(feature_tables.feature_examples, ws, sae, side, index)
    if examples.empty:
        st.markdown(SILENT)
        return
    contexts(examples, side, short_names(pair)[side], texts, scale)


def contexts(
    examples: pd.DataFrame, side: str, name: str, texts: Mapping[str, str], scale: float
) -> None:
    """Texts in which it was active, a group at a time."""
    groups = [group for group in GROUPS if group in set(examples.group)]
    shown = bound(
        st.segmented_control,
        "Contexts",
        groups,
        required=True,
        format_func=lambda group: GROUPS[group],
        key=f"group-{side}",
        what=f"contexts of {name}",
        help="The strongest contexts, or a sample from each quarter of the others by activation.",
    )
    rows = examples.loc[examples.group == shown].head(10).to_dict("records")
    lines = [
        tokens.tokens(texts[row["document"]], row["ends"], row["heat"], row["peak"], scale, side)
        for row in rows
        if row["document"] in texts
    ]
    gap = "display:flex;flex-direction:column;gap:0.6rem;"
    st.html(f'<div style="{gap}">{"".join(lines)}</div>')
    missing(len(rows) - len(lines))
    st.caption(text.MARKS)


def missing(contexts: int) -> None:
    """What to do where contexts cannot be shown."""
    if contexts:
        st.caption(
            f"{contexts} contexts point into another version of the corpus than the one installed; "
            "`python -m core doctor` says which."
        )


def same(
    ws: Workspace,
    pair: PairSpec,
    sae: str,
    index: int,
    texts: Mapping[str, str],
    scale: Mapping[str, float],
) -> None:
    """Both models over the contexts that are strongest in either."""
    rows = ask(feature_tables.same_text, ws, sae, index).to_dict("records")
    if not rows:
        st.markdown(SILENT)
        return

    names = short_names(pair)
    colour = {side: f":{COLOURS[side]}[{plain(names[side])}]" for side in SIDES}
    strongest = {
        "a": f"Strongest in {colour['a']}",
        "b": f"Strongest in {colour['b']} and not among these",
    }
    for side, title in strongest.items():
        shown = [row for row in rows if row["found"] == side and row["document"] in texts]
        if shown:
            st.subheader(title, anchor=f"strongest-{side}")
        for row in shown:
            twice(row, texts[row["document"]], scale)

    missing(sum(row["document"] not in texts for row in rows))
    st.caption(
        f"Left {plain(names['a'])} with the original SAE, right {plain(names['b'])} with the"
        f" transferred one, around the same place. {text.MARKS}"
    )


def twice(row: Mapping[str, Any], document: str, scale: Mapping[str, float]) -> None:
    """One context as both models read it."""
    for side, column in zip(SIDES, st.columns(2, gap="large"), strict=True):
        ends, heat, peak = (row[f"{side}_{what}"] for what in ("ends", "heat", "peak"))
        column.html(tokens.tokens(document, ends, heat, int(peak), scale[side], side))
