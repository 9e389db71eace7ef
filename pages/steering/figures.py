"""Steering measured: languages, means, transfer gaps (Tables 5 and 6, Fig. 3)."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from core.steering.instructions import CONDITIONS
from core.steering.keys import LANE_KINDS
from pages.shared.figures import LEGEND, colours, handed, marker, remembered
from pages.shared.words import loss, number, percent

VECTORS = {kind: LANE_KINDS[kind][0] for kind in ("none", "own", "transferred", "random")}


def _kind_marker(
    kind: str,
    side: str,
    size: int = 10,
) -> dict[str, Any]:
    """Lanes as marks: no vector an open circle, own a full one, transferred a diamond, controls
    grey squares; the ceiling, an instruction in words, an upright line."""
    if kind == "prompted":
        return {
            "symbol": "line-ns-open",
            "size": size + 2,
            "color": colours()["ink"],
            "line": {"width": 2},
        }
    if kind == "none":
        return {
            "symbol": "circle-open",
            "size": size,
            "color": colours()[side],
            "line": {"width": 2},
        }
    return marker(
        {"own": "unpatched", "transferred": "transferred"}.get(kind, "control"), side, size
    )


@remembered
def languages(table: pd.DataFrame, side: str) -> go.Figure:
    """`responses.steering`: rates by language with intervals; `customdata` of a mark is (language,
    kind)."""
    rows = table.rename(columns={"language": "key"})
    return _rates(rows, side, VECTORS, "share in the language (better →)", in_words(table))


@remembered
def instructions(table: pd.DataFrame, side: str) -> go.Figure:
    """`core.steering.tables.followed`: rates by instruction with intervals; `customdata` of a mark
    is (instruction, condition)."""
    rows = table.rename(columns={"label": "key", "title": "name"})
    words = in_words(table, "follow", "without loops besides")
    return _rates(rows, side, CONDITIONS, "share that follow (better →)", words)


def _rates(
    table: pd.DataFrame,
    side: str,
    kinds: Mapping[Any, str],
    title: str,
    words: list[str],
) -> go.Figure:
    """A line a `name`, a mark a kind with its interval; `words` are what each row's mark says."""
    names = list(table.drop_duplicates("name").name)
    table = table.assign(says=words)
    c, figure = colours(), go.Figure()
    # Controls are drawn first, so that they lie below what they control.
    for kind in sorted(kinds, key=lambda kind: kind != "random"):
        rows = table.loc[table.kind == kind]
        figure.add_scatter(
            x=rows.rate,
            y=rows.name,
            mode="markers",
            name=kinds[kind],
            marker=_kind_marker(kind, side),
            error_x={
                "type": "data",
                "array": rows.high - rows.rate,
                "arrayminus": rows.rate - rows.low,
                "thickness": 1,
                "width": 0,
                "color": c["control"],
            },
            customdata=handed(rows[["key", "kind", "says"]]),
            hovertemplate="<b>%{y}</b>, " + kinds[kind] + "<br>%{customdata[2]}<extra></extra>",
            selected={"marker": {"opacity": 1}},
            unselected={"marker": {"opacity": 1}},
        )
    figure.update_layout(
        height=70 + 22 * len(names),
        margin={"l": 0, "r": 8, "t": 30, "b": 0},
        dragmode=False,
        hovermode="closest",
        clickmode="event+select",
        legend=LEGEND,
    )
    figure.update_xaxes(
        title=title,
        range=[-0.02, 1.02],
        fixedrange=True,
        zeroline=False,
    )
    figure.update_yaxes(
        categoryorder="array",
        categoryarray=names[::-1],
        fixedrange=True,
        automargin=True,
        dtick=1,
        range=[-0.6, len(names) - 0.4],
    )
    return figure


def in_words(
    table: pd.DataFrame,
    hit: str = "in the language",
    success: str = "fluent besides",
) -> list[str]:
    """Of each row, what its mark says on hover."""
    words = []
    for row in table.to_dict("records"):
        rate = percent(row["rate"], row["low"], row["high"], sign=False)
        besides = percent(row["success"], sign=False)
        lines = [
            f"{rate} {hit}",
            f"{besides} {success}, {loss(row['loss'])} nats/token",
        ]
        if "strength" in row:
            lines.append(f"strength {row['strength']:g}")
        words.append("<br>".join(lines))
    return words


@remembered
def means(table: pd.DataFrame, side: str) -> go.Figure:
    """`responses.means` as bars, the paper's beside them as hollow marks."""
    c, figure = colours(), go.Figure()
    fills = {"none": "rgba(0,0,0,0)", "own": c[side], "transferred": c["b"], "random": c["control"]}
    lines = {"none": c[side], "own": c[side], "transferred": c["a"], "random": c["control"]}
    kinds, short = table.kind.to_list(), {k: LANE_KINDS[k][0].split()[0] for k in LANE_KINDS}
    figure.add_bar(
        x=[short[k] for k in kinds],
        y=table.rate,
        showlegend=False,
        width=0.6,
        marker={
            "color": [fills[k] for k in kinds],
            "line": {"color": [lines[k] for k in kinds], "width": 3},
        },
        error_y={
            "type": "data",
            "array": table.high - table.rate,
            "arrayminus": table.rate - table.low,
            "color": c["ink"],
            "thickness": 1.5,
            "width": 0,
        },
        customdata=handed(pd.DataFrame({"says": in_words(table)})),
        hovertemplate="%{x}: %{customdata[0]}<extra></extra>",
    )
    theirs = table.dropna(subset=["paper"])
    figure.add_scatter(
        x=[short[k] for k in theirs.kind],
        y=theirs.paper,
        mode="markers",
        name="the paper",
        marker={"symbol": "diamond-open", "size": 12, "color": c["ink"], "line": {"width": 2}},
        customdata=handed(pd.DataFrame({"says": [percent(x, sign=False) for x in theirs.paper]})),
        hovertemplate="the paper: %{customdata[0]}<extra></extra>",
    )
    figure.update_layout(
        height=260,
        margin={"l": 0, "r": 0, "t": 30, "b": 0},
        dragmode=False,
        legend=LEGEND,
        showlegend=True,
    )
    figure.update_yaxes(title="share", range=[0, 1.02], fixedrange=True)
    figure.update_xaxes(fixedrange=True)
    return figure


@remembered
def gaps(table: pd.DataFrame, theirs: pd.DataFrame) -> go.Figure:
    """Fig. 3c: shares of languages by relative transfer gap, ours full, the paper's outlined."""
    c, figure = colours(), go.Figure()
    bins = {"start": 0, "end": 1.0001, "size": 0.1}
    figure.add_histogram(
        x=table.gap.clip(0, 0.9999),
        xbins=bins,
        histnorm="probability",
        name="here",
        marker={"color": c["b"], "line": {"color": c["a"], "width": 2}},
        hovertemplate="gap %{x}: %{y:.0%} of languages<extra></extra>",
    )
    figure.add_histogram(
        x=theirs.gap.clip(0, 0.9999),
        xbins=bins,
        histnorm="probability",
        name="the paper",
        marker={"color": "rgba(0,0,0,0)", "line": {"color": c["ink"], "width": 2}},
        hovertemplate="the paper, gap %{x}: %{y:.0%} of languages<extra></extra>",
    )
    figure.update_layout(
        height=230,
        margin={"l": 0, "r": 0, "t": 30, "b": 0},
        barmode="overlay",
        dragmode=False,
        legend=LEGEND,
        bargap=0.08,
    )
    figure.update_xaxes(title="transferred over own (better →)", range=[0, 1], fixedrange=True)
    figure.update_yaxes(title="share of languages", tickformat=".0%", fixedrange=True)
    return figure


def gap_in_words(table: pd.DataFrame) -> list[str]:
    """Of each language, its gap and what that comes from."""
    return [
        f"gap {number(gap)}<br>own {percent(own, sign=False)},"
        f" transferred {percent(transferred, sign=False)}"
        for gap, own, transferred in zip(table.gap, table.own, table.transferred, strict=True)
    ]


@remembered
def gap_against(
    table: pd.DataFrame,
    column: str,
    source: str,
) -> go.Figure:
    """Fig. 11: the gap of each language against how much of it there is, or how well the source
    reads it."""
    figure = go.Figure()
    figure.add_scatter(
        x=table[column],
        y=table.gap,
        mode="markers+text",
        text=table.language,
        textposition="top center",
        marker=marker("transferred", "b", 9),
        showlegend=False,
        textfont={"size": 11},
        cliponaxis=False,
        customdata=handed(table[["name"]].assign(says=gap_in_words(table))),
        hovertemplate=("<b>%{customdata[0]}</b>: %{customdata[1]}<br>%{x:,.3g}<extra></extra>"),
    )
    figure.update_layout(
        height=260, margin={"l": 0, "r": 0, "t": 14, "b": 0}, dragmode=False, hovermode="closest"
    )
    title = (
        "characters in the corpus (log)"
        if column == "characters"
        else f"nats/token of {source} (← reads it better)"
    )
    figure.update_xaxes(
        title=title, type="log" if column == "characters" else "linear", fixedrange=True
    )
    figure.update_yaxes(title="gap", range=[-0.05, 1.12], fixedrange=True)
    return figure
