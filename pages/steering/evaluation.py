"""How often a vector steers, and what was written: the measured side of the page."""

from functools import partial

import pandas as pd
import streamlit as st

from core.models.pairs import PairSpec
from core.statistics import spearman
from core.steering import tables as steering_tables
from core.steering.keys import LANE_KINDS, lane_key
from core.stitches import tables as stitch_tables
from core.workspace.store import Workspace
from pages.shared import figures as figures_base
from pages.shared import frame
from pages.shared.address import bound
from pages.shared.figures import draw
from pages.shared.frame import ask, section
from pages.shared.words import explained, loss, number, percent, plain, short_names
from pages.steering import figures
from pages.steering.lanes import judged, text_html

WAYS = {"b": "B steered", "a": "A steered"}
"""As the address calls them."""
SETTINGS = {
    "stitch": "Stitch",
    "span": "Layers",
    "strength": "Strength",
    "rate": "In the language ↑",
    "success": "and fluent ↑",
    "loss": "nats/token ↓",
}
"""Columns of the table of settings."""
AGAINST = {"characters": "Text in the corpus", "natural": "Loss of real text"}


def evaluation(ws: Workspace, pair: PairSpec) -> None:
    st.header("How often it works", anchor="evaluation", help=explained("in the language"))
    side = steered(pair)
    frame.titled(f"How often {short_names(pair)[side]} is steered", "Steering")
    table = ask(steering_tables.steering, ws, side)
    left, right = st.columns([3, 2], gap="large")
    with left, section():
        languages(pair, side, table)
    with right, section():
        means(ws, side, table)
        gaps(ws, pair, side)
    cells(ws, pair, side, table)
    choices(ws, side)


def steered(pair: PairSpec) -> str:
    """Which model is steered."""
    names = short_names(pair)
    return str(
        bound(
            st.segmented_control,
            "Which model is steered",
            list(WAYS),
            required=True,
            format_func=lambda side: f"{names[side]} steered",
            key="way",
            what="way",
            words=WAYS.__getitem__,
            help=(
                f"{names['b']} steered: vectors go from {names['a']} to it; and the other way"
                " round."
            ),
        )
    )


def languages(
    pair: PairSpec,
    side: str,
    table: pd.DataFrame,
) -> None:
    """Every language, a mark a kind of vector."""
    spec, other = (pair.b, pair.a) if side == "b" else (pair.a, pair.b)
    draw(
        figures.languages(table, side),
        f"Share of {plain(spec.title)}'s responses to {int(table.n.max())} neutral English prompts"
        " that langdetect finds in the language of the vector, with 95 % Clopper-Pearson intervals;"
        f" transferred vectors come from {plain(other.title)}. Control: a random vector that moves"
        " as far. Click a mark to read what was written. (Tables 5 and 6)",
        key="languages",
        alt="Share of responses in the language, by language and vector",
        on_select=pick,
        selection_mode="points",
    )


def means(
    ws: Workspace,
    side: str,
    table: pd.DataFrame,
) -> None:
    """Every kind of vector, over all languages."""
    small, large = "Gemma-2-2B", "Gemma-2-9B"
    theirs = f"{large} under vectors from 2B" if side == "b" else f"{small} under vectors from 9B"
    draw(
        figures.means(ask(steering_tables.means, ws, side), side),
        f"The mean over {table.language.nunique()} languages, with 95 % bootstrap intervals over"
        f" them; hollow: the paper's {theirs}, over its 20 languages and prompts. (Fig. 3b)",
        key="means",
        alt="Mean share of responses in the language by kind of vector",
    )


def gaps(
    ws: Workspace,
    pair: PairSpec,
    side: str,
) -> None:
    """How a transferred vector does against a model's own, and where it does badly."""
    table = ask(steering_tables.gaps, ws, side)
    draw(
        figures.gaps(table, steering_tables.paper().query("side == @side")),
        "Clipped relative transfer gap: transferred over own performance; 0/0 counts as 0."
        " Outlined: the paper's. (Fig. 3c, Eq. 16)",
        key="gaps",
        alt="Histogram of relative transfer gaps",
    )
    against = str(
        bound(
            st.segmented_control,
            "Against",
            list(AGAINST),
            required=True,
            key="against",
            what="measure to draw the gap against",
            format_func=AGAINST.__getitem__,
            help=(
                "The paper takes the log frequency of the language in the corpus; this corpus holds"
                " about as much of each, so the loss of real text under the model that the vector"
                " comes from tells more."
            ),
        )
    )
    rho = spearman(table.gap, table[against])
    other = pair.a if side == "b" else pair.b
    measure = f"the loss of real text in it under {plain(other.title)}"
    if against == "characters":
        corpus = ask(stitch_tables.about, ws)["corpus"]["name"].partition(":")[0]
        measure = f"the characters of each language in this pair's corpus ({plain(corpus)})"
    draw(
        figures.gap_against(table, against, other.title),
        f"The gap against {measure}. Spearman's ρ {number(rho, sign=True)} over {len(table)}"
        " languages. (Fig. 11)",
        key="gap-against",
        alt="Transfer gap against frequency of the language",
    )


def choices(ws: Workspace, side: str) -> None:
    """The settings that were tried on other prompts, drawn when they are opened."""
    tried = st.expander(
        "What moved it: settings that the first half of the prompts chose from",
        key="choices",
        icon=":material/tune:",
        on_change="rerun",
    )
    if not tried.open:
        return

    with tried:
        table = ask(steering_tables.choices, ws, side).rename(columns=SETTINGS)
        written = dict.fromkeys(("In the language ↑", "and fluent ↑"), partial(percent, sign=False))
        styles = written | {"nats/token ↓": loss, "Strength": "{:g}"}
        st.dataframe(
            table.style.format(styles),
            hide_index=True,
            alt="Settings",
            column_config=frame.heads(table.columns),
        )
        st.caption(
            "Transferred vectors, mean over languages on the prompts that choose; each language"
            " takes its own best setting, and the figures above come from the other half of the"
            " prompts."
        )


def pick() -> None:
    """A click on a mark: that language and kind of vector."""
    now = st.session_state
    for mark in figures_base.picked(now["languages"])[:1]:
        now["cell_language"], now["cell_kind"] = str(mark[0]), str(mark[1])


def cells(
    ws: Workspace,
    pair: PairSpec,
    side: str,
    table: pd.DataFrame,
) -> None:
    """What was written in one cell of the table."""
    st.subheader("What was written", anchor="written", help=explained("fluent"))
    names = dict(zip(table.language, table.name, strict=True))
    bar = st.container(horizontal=True, vertical_alignment="bottom")
    language = str(
        bound(
            bar.selectbox,
            "Language of the vector",
            list(names),
            key="cell_language",
            what="language",
            width=260,
            format_func=lambda code: names.get(code, code),
        )
    )
    kind = str(
        bound(
            bar.segmented_control,
            "Vector",
            [kind for kind in LANE_KINDS if kind in set(table.kind)],
            required=True,
            key="cell_kind",
            usual="transferred",
            what="kind of vector",
            format_func=lambda kind: LANE_KINDS[kind][0],
            help=explained("kind of vector"),
        )
    )
    row = table.loc[(table.language == language) & (table.kind == kind)].iloc[0]
    rate = percent(row.rate, row.low, row.high, sign=False)
    fluent, repeated = (percent(x, sign=False) for x in (row.success, row.repetition))
    st.markdown(
        f"**{rate}** in {plain(names[language])}, {fluent} fluent besides; {loss(row.loss)}"
        f" nats/token (real text {loss(row.natural)}), {repeated} repeated{setting_of(row)}."
    )
    lane, names_of = lane_key(f"{side}:{kind}"), short_names(pair)
    with st.container(height=420, key="written"):
        written = ask(steering_tables.generations, ws, side, language, kind)
        for response in written.to_dict("records"):
            entry = response | {"language": response["detected"], "lane": str(lane)}
            below = judged(entry, names_of)
            if not response["fluent"]:
                below += '<div style="font-size:0.85rem;">not fluent</div>'
            st.html(text_html(response["prompt"], response["text"], lane, below))
    st.caption(
        "Fluent: at most 30 % of its runs of four words repeated, and a loss under the unsteered"
        " model of at most that of real text in the language."
    )


def setting_of(row: pd.Series) -> str:
    """The setting of a cell; none where nothing steers."""
    if row.kind == "none":
        return ""
    layers = f"{int(row.span)} layer{'s' if row.span > 1 else ''}"
    return f"; stitch {plain(row.stitch)}, {layers}, strength {row.strength:g}"
