"""The figures. One colour means one thing: A blue, B purple, transferred purple outlined in blue,
controls grey."""

import hashlib
import html
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from pandas.util import hash_pandas_object

from pages.shared import saving
from pages.shared.tokens import seen
from pages.shared.words import loss, named, percent, supported

LEGEND = {
    "orientation": "h",
    "y": 1.0,
    "yanchor": "bottom",
    "x": 0,
    "itemclick": False,
    "itemdoubleclick": False,
}
LABELS = 140
"""Pixels left of an axis for the names of conditions."""
LINE = 22
"""Letters of such a name that fit into a line."""
ROLES = {"unpatched": "unpatched", "transferred": "stitched", "control": "control"}


P = ParamSpec("P")


def remembered(build: Callable[P, go.Figure]) -> Callable[P, go.Figure]:
    """A figure of the same tables in the same theme is built once: Plotly's checks are half of what
    a page costs. Nothing changes a figure once it is built."""

    @st.cache_resource(max_entries=100, show_spinner=False, hash_funcs={pd.DataFrame: _content})
    def kept(theme: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> go.Figure:
        return inked(build(*args, **kwargs))  # type: ignore[arg-type]

    @wraps(build)
    def ask(*args: P.args, **kwargs: P.kwargs) -> go.Figure:
        return kept(st.context.theme.type or "light", build.__name__, args, kwargs)

    return ask


def inked(figure: go.Figure) -> go.Figure:
    """Ticks, titles and legends in the theme's ink: Streamlit's own grey is too faint to read."""
    ink = {"color": colours()["ink"]}
    figure.update_layout(font=ink, legend_font=ink, modebar_bgcolor=colours()["paper"])
    for update in (figure.update_xaxes, figure.update_yaxes):
        update(tickfont=ink, title_font=ink)
    bar = {"tickfont": ink, "title": {"font": ink}}
    figure.update_traces(colorbar=bar, selector={"type": "heatmap"})
    figure.update_traces(marker_colorbar=bar, selector={"marker.showscale": True})
    return figure


def hovered(text: object) -> str:
    """Text of a model or a corpus for what Plotly shows on hover, which it would read as HTML."""
    return html.escape(seen(str(text)), quote=False)


def handed(table: Any, digits: int = 4) -> list[list[Any]]:
    """The `customdata` of a trace from a table, a row a mark, as plain lists of numbers and words.
    An array would go to the browser as bytes, and what is picked there would come back as an object
    with its places as names."""
    return [[_plain(value, digits) for value in row] for row in table.to_numpy(object)]


def _plain(value: Any, digits: int) -> Any:
    match value:
        case bool() | np.bool_():
            return bool(value)
        case float() | np.floating():
            return float(f"{float(value):.{digits}g}") if np.isfinite(value) else None
        case int() | np.integer():
            return int(value)
    return value if value is None or isinstance(value, str) else str(value)


def picked(selection: Any) -> list[list[Any]]:
    """The `customdata` of every mark of a chart's selection that has one, as `handed` gave it; in
    whatever form the browser sends it back: a list, an object whose names are places, or one
    value."""
    points = (selection or {}).get("selection", {}).get("points", [])
    found = [point.get("customdata") for point in points]
    return [_row(data) for data in found if data is not None]


def _row(data: Any) -> list[Any]:
    if isinstance(data, Mapping):
        return [data[place] for place in sorted(data, key=int)]
    return list(data) if isinstance(data, (list, tuple)) else [data]


def _content(table: pd.DataFrame) -> bytes:
    """Every value of a table, in short."""
    parts = [",".join(map(str, table.columns)).encode()]
    for name in table.columns:
        column = table[name]
        try:
            hashes = hash_pandas_object(column, index=True)  # pyright: ignore[reportCallIssue]: pandas finds it late
            parts.append(hashes.to_numpy().tobytes())
        except TypeError:  # lists
            parts.append(repr(column.tolist()).encode())
    return hashlib.sha256(b"|".join(parts)).digest()


def colours() -> dict[str, str]:
    """Of the active theme, by meaning (see `.streamlit/config.toml`), and its `ink` and `paper`."""
    theme = st.context.theme.type or "light"
    chart = st.get_option(f"theme.{theme}.chartCategoricalColors")
    return {
        "a": chart[0],
        "b": chart[1],
        "semantic": chart[2],
        "structural": chart[3],
        "control": chart[4],
        "ink": st.get_option(f"theme.{theme}.textColor"),
        "paper": st.get_option(f"theme.{theme}.backgroundColor"),
    }


def marker(role: str, model: str, size: int = 11) -> dict[str, Any]:
    """Unpatched: a circle in the model's colour; stitched: purple diamond outlined in blue;
    ceiling: grey triangle; control: grey square."""
    c = colours()
    match role:
        case "unpatched":
            return {"symbol": "circle", "size": size, "color": c[model]}
        case "transferred":
            return {
                "symbol": "diamond",
                "size": size,
                "color": c["b"],
                "line": {"color": c["a"], "width": 2},
            }
        case "ceiling":
            return {"symbol": "triangle-up", "size": size, "color": c["control"]}
        case _:
            return {"symbol": "square", "size": size - 2, "color": c["control"]}


@remembered
def table_1(table: pd.DataFrame, name_a: str, name_b: str) -> go.Figure:
    """`core.stitches.tables.downstream` as dots with 95 % intervals, what the smaller model scores
    above what the larger one scores, one axis."""
    c = colours()
    figure = go.Figure()
    span = table.high.max() - table.low.min()
    left, right = table.low.min() - 0.06 * span, table.high.max() + 0.1 * span
    names, ticks, at = {"a": name_a, "b": name_b}, [], 0.0
    for model in ("a", "b"):
        rows = table.loc[table.model == model]
        base = rows.loss[rows.role == "unpatched"].to_list()
        figure.add_annotation(
            x=0,
            y=at,
            xref="paper",
            xshift=-LABELS,
            text=f"<b>Scored by {names[model]}</b>",
            showarrow=False,
            xanchor="left",
            font={"color": c[model], "size": 14},
        )
        for x in base:
            figure.add_shape(
                type="line",
                x0=x,
                x1=x,
                y0=at - 0.6,
                y1=at - len(rows) - 0.4,
                layer="below",
                line={"color": c[model], "width": 1, "dash": "dot"},
            )
        for row in rows.to_dict("records"):
            at -= 1
            label, says = named(row["label"], names), named(row["says"], names)
            ticks.append((at, in_lines(label)))
            near_end = row["loss"] > left + 0.62 * (right - left)
            increase = row["relative"], row["relative_low"], row["relative_high"]
            text = loss(row["loss"]) + (
                "" if row["role"] == "unpatched" else f" ({supported(*increase)})"
            )
            above = percent(*increase)
            figure.add_scatter(
                x=[row["loss"]],
                y=[at],
                mode="markers",
                marker=marker(row["role"], model),
                error_x={
                    "type": "data",
                    "array": [row["high"] - row["loss"]],
                    "arrayminus": [row["loss"] - row["low"]],
                    "thickness": 2,
                    "width": 0,
                    "color": c["control"],
                },
                name=label,
                showlegend=False,
                cliponaxis=False,
                hovertemplate=(
                    f"<b>{label}</b>: {says}<br>"
                    f"{loss(row['loss'], row['low'], row['high'])} nats/token<br>"
                    + (
                        f"{above} against {names[model]} unpatched<br>"
                        if row["role"] != "unpatched"
                        else ""
                    )
                    + f"{loss(row['bits_per_byte'])} bits/byte<br>"
                    f"{row['documents']:,} documents, {row['tokens']:,} tokens<extra></extra>"
                ),
            )
            figure.add_annotation(
                x=row["low" if near_end else "high"],
                y=at,
                text=text,
                font={"size": 13, "color": c["ink"]},
                showarrow=False,
                xanchor="right" if near_end else "left",
                xshift=-9 if near_end else 9,
            )
        at -= 1.2
    for role, label in ROLES.items():
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            marker=marker(role, "a"),
            name=label,
            hoverinfo="skip",
        )
    figure.update_layout(
        height=520,
        margin={"l": LABELS, "r": 8, "t": 30, "b": 0},
        dragmode=False,
        hovermode="closest",
        legend=LEGEND,
    )
    figure.update_xaxes(
        title="nats/token (← better)", range=[left, right], fixedrange=True, zeroline=False
    )
    figure.update_yaxes(
        tickvals=[t[0] for t in ticks],
        ticktext=[t[1] for t in ticks],
        range=[at + 0.7, 0.5],
        fixedrange=True,
        showgrid=False,
        zeroline=False,
        automargin=False,
    )
    return figure


def in_lines(label: str) -> str:
    """The name of a condition, two lines at most: `Gemma → SmolLM2`, then what comes after it."""
    first, _, rest = label.partition(" → ")
    second, again, third = rest.partition(" → ")
    if again:
        return f"{first} → {second}<br>→ {third}"
    return label if len(label) <= LINE else label.replace(", ", ",<br>")


def draw(figure: go.Figure, caption: str, key: str, alt: str, file: str = "", **kwargs: Any) -> Any:
    """The figure, then its caption: equation or figure in the paper, sample size, control. In the
    name of a saved one, `file` stands for the figure, or its `key`."""
    config = saving.settings(file or key)
    drawn = st.plotly_chart(figure, key=key, config=config, alt=alt, **kwargs)
    st.caption(caption)
    return drawn
