"""The figures. One colour means one thing: A blue, B purple, transferred purple outlined in blue, controls grey."""

import hashlib
import html
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Literal, ParamSpec

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from pandas.util import hash_pandas_object
from plotly.subplots import make_subplots

from core.steering.tables import KINDS
from core.stitches.tables import BY_KEY, STITCHED, TABLE_1
from pages.shared.frame import NARROW, duration, loss, percent, seen

QUIET = {"displayModeBar": False, "scrollZoom": False}
LEGEND = {
    "orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "itemclick": False, "itemdoubleclick": False,
}  # fmt: skip
LABELS = 108
"""Pixels left of an axis for the names of conditions."""
ROLES = {"unpatched": "unpatched", "transferred": "stitched", "control": "control"}


P = ParamSpec("P")


def remembered(build: Callable[P, go.Figure]) -> Callable[P, go.Figure]:
    """A figure of the same tables in the same theme is built once: Plotly's checks are half of what a page costs.
    Nothing changes a figure once it is built."""

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
    figure.update_layout(font=ink, legend_font=ink)
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
    """The `customdata` of a trace from a table, a row a mark, as plain lists of numbers and words. An array would go to
    the browser as bytes, and what is picked there would come back as an object with its places as names."""
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
    """The `customdata` of every mark of a chart's selection that has one, as `handed` gave it; in whatever form the
    browser sends it back: a list, an object whose names are places, or one value."""
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
        "a": chart[0], "b": chart[1], "semantic": chart[2], "structural": chart[3], "control": chart[4],
        "ink": st.get_option(f"theme.{theme}.textColor"), "paper": st.get_option(f"theme.{theme}.backgroundColor"),
    }  # fmt: skip


def marker(role: str, model: str, size: int = 11) -> dict[str, Any]:
    """Unpatched: a circle in the model's colour; stitched: purple diamond outlined in blue; control: grey square."""
    c = colours()
    match role:
        case "unpatched":
            return {"symbol": "circle", "size": size, "color": c[model]}
        case "transferred":
            return {"symbol": "diamond", "size": size, "color": c["b"], "line": {"color": c["a"], "width": 2}}
        case _:
            return {"symbol": "square", "size": size - 2, "color": c["control"]}


@remembered
def table_1(table: pd.DataFrame, title_a: str, title_b: str) -> go.Figure:
    """`queries.downstream` as dots with 95 % intervals, what A scores above what B scores, one axis."""
    c = colours()
    figure = go.Figure()
    span = table.high.max() - table.low.min()
    left, right = table.low.min() - 0.06 * span, table.high.max() + 0.1 * span
    names, ticks, at = {"a": title_a, "b": title_b}, [], 0.0
    for model in ("a", "b"):
        rows = table.loc[table.model == model]
        base = rows.loss[rows.role == "unpatched"].to_list()
        figure.add_annotation(
            x=0, y=at, xref="paper", xshift=-LABELS, text=f"<b>Scored by {model.upper()}</b>, {names[model]}",
            showarrow=False, xanchor="left", font={"color": c[model], "size": 14},
        )  # fmt: skip
        for x in base:
            figure.add_shape(
                type="line", x0=x, x1=x, y0=at - 0.6, y1=at - len(rows) - 0.4, layer="below",
                line={"color": c[model], "width": 1, "dash": "dot"},
            )  # fmt: skip
        for row in rows.to_dict("records"):
            at -= 1
            ticks.append((at, row["label"]))
            near_end = row["loss"] > left + 0.62 * (right - left)
            text = loss(row["loss"]) + ("" if row["role"] == "unpatched" else f" ({percent(row['relative'])})")
            above = percent(row["relative"], row["relative_low"], row["relative_high"])
            figure.add_scatter(
                x=[row["loss"]], y=[at], mode="markers", marker=marker(row["role"], model),
                error_x={"type": "data", "array": [row["high"] - row["loss"]], "arrayminus": [row["loss"] - row["low"]],
                         "thickness": 2, "width": 0, "color": c["control"]},
                name=row["label"], showlegend=False, cliponaxis=False,
                hovertemplate=(
                    f"<b>{row['label']}</b>: {row['says']}<br>"
                    f"{loss(row['loss'], row['low'], row['high'])} nats/token<br>"
                    + (f"{above} against {model.upper()} unpatched<br>" if row["role"] != "unpatched" else "")
                    + f"{row['bits_per_byte']:.2f} bits/byte<br>"
                    f"{row['documents']:,} documents, {row['tokens']:,} tokens<extra></extra>"
                ),
            )  # fmt: skip
            figure.add_annotation(
                x=row["low" if near_end else "high"], y=at, text=text, font={"size": 13, "color": c["ink"]},
                showarrow=False, xanchor="right" if near_end else "left", xshift=-9 if near_end else 9,
            )  # fmt: skip
        at -= 1.2
    for role, label in ROLES.items():
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=marker(role, "a"), name=label, hoverinfo="skip")
    figure.update_layout(
        height=430, margin={"l": LABELS, "r": 8, "t": 30, "b": 0}, dragmode=False, hovermode="closest",
        legend=LEGEND,
    )  # fmt: skip
    figure.update_xaxes(title="nats/token (← better)", range=[left, right], fixedrange=True, zeroline=False)
    figure.update_yaxes(
        tickvals=[t[0] for t in ticks], ticktext=[t[1] for t in ticks], range=[at + 0.7, 0.5], fixedrange=True,
        showgrid=False, zeroline=False, automargin=False,
    )  # fmt: skip
    return figure


@remembered
def svcca(table: pd.DataFrame, picked: tuple[int, int], title_a: str, title_b: str) -> go.Figure:
    """Fig. 6. An invisible mark over each cell takes hover and click: its `customdata` is (layer_a, layer_b)."""
    grid = table.pivot_table(index="layer_b", columns="layer_a", values="svcca")
    figure = go.Figure(
        go.Heatmap(
            x=grid.columns, y=grid.index, z=grid.to_numpy(), hoverinfo="skip", xgap=1, ygap=1,
            colorbar={"title": {"text": "SVCCA", "side": "right"}, "orientation": "h", "thickness": 10, "len": 0.6,
                      "x": 0, "xanchor": "left", "y": -0.17, "yanchor": "top", "nticks": 5},
        )
    )  # fmt: skip
    best, fitted = table[table.best], table[table.stitches != ""]
    figure.add_scatter(
        x=best.layer_a, y=best.layer_b, mode="markers", name="best layer of B (A.1)", hoverinfo="skip",
        marker={"symbol": "circle", "size": 6, "color": "#ffffff", "line": {"color": "#000000", "width": 1}},
    )  # fmt: skip
    figure.add_scatter(
        x=fitted.layer_a, y=fitted.layer_b, mode="markers", hoverinfo="skip", showlegend=False,
        marker={"symbol": "diamond", "size": 17, "color": "#ffffff"},
    )  # fmt: skip
    figure.add_scatter(
        x=fitted.layer_a, y=fitted.layer_b, mode="markers", name="fitted stitch", hoverinfo="skip",
        marker=marker("transferred", "b", 12),
    )  # fmt: skip
    c = colours()
    for colour, width in ((c["paper"], 5), (c["ink"], 2)):
        figure.add_scatter(
            x=[picked[0]], y=[picked[1]], mode="markers", name="picked", showlegend=width == 2, hoverinfo="skip",
            marker={"symbol": "square-open", "size": 20, "color": colour, "line": {"width": width, "color": colour}},
        )  # fmt: skip
    figure.add_scatter(
        x=table.layer_a, y=table.layer_b, mode="markers", showlegend=False, name="",
        marker={"size": 16, "opacity": 0, "symbol": "square"},
        selected={"marker": {"opacity": 0}}, unselected={"marker": {"opacity": 0}},
        customdata=handed(table[["layer_a", "layer_b", "svcca", "chance", "stitches"]]),
        hovertemplate="A before layer %{x}, B before layer %{y}<br>SVCCA %{customdata[2]:.2f} (chance about "
        "%{customdata[3]:.2f})<br>%{customdata[4]}<extra></extra>",
    )  # fmt: skip
    figure.update_layout(
        height=480, margin={"l": 0, "r": 0, "t": 40, "b": 0}, dragmode=False, hovermode="closest",
        clickmode="event+select", legend=LEGEND,
    )  # fmt: skip
    axis = {"fixedrange": True, "showgrid": False, "zeroline": False, "ticks": ""}
    across, up = [-0.5, table.layer_a.max() + 0.5], [-0.5, table.layer_b.max() + 0.5]
    figure.update_xaxes(title=f"layer of <b>A</b>, {title_a}", dtick=5, range=across, **axis)
    figure.update_yaxes(title=f"layer of <b>B</b>, {title_b}", dtick=5, range=up, **axis)
    return figure


@remembered
def alpha_sweep(table: pd.DataFrame, unit: Literal["loss", "relative"] = "loss") -> go.Figure:
    """Fig. 7: one line a condition, in the colour of the model that scores it, solid one way, dashed there and back."""
    c = colours()
    figure = go.Figure()
    floor = table.alpha[table.alpha > 0].min() / 4  # a logarithmic axis has no 0: it stands at the left end
    scale = 100 if unit == "relative" else 1
    for key in STITCHED:
        rows = table[table.condition == key]
        if rows.empty:
            continue
        what = BY_KEY[key]
        figure.add_scatter(
            x=rows.alpha.where(rows.alpha > 0, floor), y=rows[unit] * scale, name=what.label, mode="lines+markers",
            line={"color": c[what.model], "width": 2, "dash": "solid" if len(key) == 6 else "dash"},
            marker=marker("transferred", what.model, 8),
            customdata=[(a, loss(x), percent(r)) for a, x, r in zip(rows.alpha, rows.loss, rows.relative, strict=True)],
            hovertemplate=f"<b>{what.label}</b>, α = %{{customdata[0]:g}}<br>%{{customdata[1]}} nats/token "
            f"(%{{customdata[2]}})<extra></extra>",
        )  # fmt: skip
    for model in ("a", "b"):
        base = table[table.model == model].base
        if unit == "loss" and len(base):
            figure.add_hline(
                y=base.iloc[0], line={"color": c[model], "width": 1, "dash": "dot"},
                annotation={"text": f"{model.upper()} unpatched", "font": {"color": c[model]}},
                annotation_position="top left",
            )  # fmt: skip
    alphas = sorted(table.alpha.unique())
    title = "loss, nats/token" if unit == "loss" else "loss above unpatched, %"
    figure.update_layout(
        height=380, margin={"l": 0, "r": 8, "t": 30, "b": 0}, dragmode=False, hovermode="closest",
        legend=LEGEND,
    )  # fmt: skip
    figure.update_xaxes(
        title="α of Eq. 3, strength of inversion (log)", type="log", fixedrange=True,
        tickvals=[a or floor for a in alphas], ticktext=[f"{a:g}" for a in alphas], showgrid=False, zeroline=False,
    )  # fmt: skip
    figure.update_yaxes(title=f"{title} (↓ better)", fixedrange=True, zeroline=False)
    return figure


BINS = np.linspace(-1, 1, 61)


@remembered
def correlations(table: pd.DataFrame, brush: bool = True) -> go.Figure:
    """Fig. 14: transferred features as bars in B's purple outlined in A's blue, both controls as grey lines. A `brush`
    selects bars, without one a click or tap does; their x is the middle of a bin of BINS."""
    c = colours()
    middle = (BINS[1:] + BINS[:-1]) / 2
    counts = {column: np.histogram(table[column].dropna(), BINS)[0] for column in ("correlation", "random", "shuffled")}
    figure = go.Figure()
    figure.add_bar(
        x=middle, y=counts["correlation"], name="transferred",
        marker={"color": c["b"], "line": {"color": c["a"], "width": 1}},
        hovertemplate="Eq. 10 about %{x:.2f}<br>%{y} features<extra>transferred</extra>",
    )  # fmt: skip
    for column, name, dash in (("random", "random SAE", "solid"), ("shuffled", "shuffled-pair stitch", "dot")):
        figure.add_scatter(
            x=middle, y=counts[column], name=name, mode="lines",
            line={"color": c["control"], "width": 2, "dash": dash, "shape": "hvh"},
            hovertemplate=f"Eq. 10 about %{{x:.2f}}<br>%{{y}} features<extra>{name}</extra>",
        )  # fmt: skip
    figure.update_layout(
        height=340, margin={"l": 0, "r": 8, "t": 30, "b": 0}, bargap=0, dragmode="select" if brush else False,
        selectdirection="h", hovermode="closest", legend=LEGEND, clickmode="event+select",
    )  # fmt: skip
    figure.update_xaxes(
        title="attribution correlation, Eq. 10 (→ alike)", range=[-1, 1], fixedrange=True, zeroline=False
    )
    most = max(counts["correlation"].max(initial=1), counts["random"].max(initial=1))
    figure.update_yaxes(title="features", range=[0, 1.2 * most], fixedrange=True, zeroline=False)
    return figure


def picked_range(drawn: Any) -> tuple[float, float] | None:
    """From the first to the last bar selected in `correlations`; None where none is."""
    bars = [float(p["x"]) for p in drawn.selection.points if p.get("curve_number") == 0]
    half = (BINS[1] - BINS[0]) / 2
    return (round(min(bars) - half, 6) + 0.0, round(max(bars) + half, 6)) if bars else None


@remembered
def classes(table: pd.DataFrame, shares: pd.DataFrame) -> go.Figure:
    """Fig. 4b: both classes' densities, each of its own features, and above them `queries.structural_share`: of all
    features in a bin, the structural ones."""
    c = colours()
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.3, 0.7], vertical_spacing=0.06)
    grid = np.linspace(-1, 1, 201)
    for kind in ("semantic", "structural"):
        values = table.correlation[table.kind == kind].dropna().to_numpy()
        width = 0.06
        density = np.exp(-0.5 * ((grid[:, None] - values) / width) ** 2).mean(1) / (width * np.sqrt(2 * np.pi))
        figure.add_scatter(
            x=grid, y=density, name=kind, fill="tozeroy", mode="lines", row=2, col=1,
            line={"color": c[kind], "width": 2, "dash": "solid" if kind == "semantic" else "dash"},
            hovertemplate=f"Eq. 10 = %{{x:.2f}}<br>density %{{y:.2f}}<extra>{kind}, {len(values):,} features</extra>",
        )  # fmt: skip
    figure.add_scatter(
        x=(shares.low + shares.high) / 2, y=shares.share, mode="lines+markers", showlegend=False, row=1, col=1,
        line={"color": c["structural"], "width": 2}, marker={"size": 6, "symbol": "diamond"},
        customdata=handed(shares[["low", "high", "structural", "n"]]),
        hovertemplate="Eq. 10 from %{customdata[0]:.1f} to %{customdata[1]:.1f}<br>structural: %{customdata[2]} of "
        "%{customdata[3]} features, %{y:.0%}<extra></extra>",
    )  # fmt: skip
    overall = shares.structural.sum() / max(1, shares.n.sum())
    line = {"color": c["control"], "width": 1, "dash": "dot"}
    figure.add_hline(y=overall, line=line, row=1, col=1)  # type: ignore[arg-type]
    figure.update_layout(
        height=400, margin={"l": 0, "r": 8, "t": 30, "b": 0}, dragmode=False, hovermode="closest", legend=LEGEND
    )
    figure.update_xaxes(range=[-1, 1], fixedrange=True, zeroline=False)
    figure.update_xaxes(title="attribution correlation, Eq. 10 (→ alike)", row=2, col=1)
    figure.update_yaxes(
        title="structural", range=[-0.03, 1.03], tickformat=".0%", fixedrange=True, zeroline=False, row=1, col=1
    )
    figure.update_yaxes(title="density", fixedrange=True, zeroline=False, row=2, col=1)
    return figure


@remembered
def feature_map(table: pd.DataFrame, colour: str, drag: str = "click") -> go.Figure:
    """Every feature at its place on the map; `customdata` begins with its index. Drawn with WebGL, places from arrays
    that go to the browser as they are in memory.

    `drag` is "click", "select" (a box) or "lasso". With the first, a click or tap picks a mark and a swipe scrolls the
    page: where a drag draws, Plotly tells of a click in a way that Streamlit does not hear."""
    c = colours()
    figure = go.Figure()
    says = "<b>feature %{customdata[0]}</b><br>Eq. 10 %{customdata[1]:.2f}<br>density in A %{customdata[2]:.2%}"
    size = 6 if len(table) < 10_000 else 3

    def marks(rows: pd.DataFrame, name: str, marker: dict[str, Any]) -> None:
        figure.add_scattergl(
            x=rows.x.to_numpy(np.float32), y=rows.y.to_numpy(np.float32), name=name, mode="markers",
            customdata=handed(rows[["feature", "correlation", "density_a"]]),
            marker={"size": size} | marker, hovertemplate=f"{says}<extra>{name}</extra>",
            unselected={"marker": {"opacity": 0.6 if drag == "click" else 0.2}},
        )  # fmt: skip

    if colour == "kind":
        symbols = {"semantic": "circle", "structural": "diamond", "unseen": "circle-open", "dead": "x-thin-open"}
        for kind, symbol in symbols.items():
            rows = table.loc[table.kind == kind]
            marks(rows, kind, {"color": c.get(kind, c["control"]), "symbol": symbol})
    else:
        density = colour == "density_a"
        values = np.log10(table.density_a.clip(lower=1e-6)) if density else table.correlation
        scale = {} if density else {"cmin": -1, "cmax": 1}
        bar = {"showscale": True, "colorbar": {"thickness": 10}}
        marks(table, "", {"color": values.to_numpy(np.float32)} | bar | scale)
    figure.update_layout(
        height=460, margin={"l": 0, "r": 0, "t": 30, "b": 0}, dragmode=False if drag == "click" else drag,
        hovermode="closest", legend=LEGEND, clickmode="event+select", showlegend=colour == "kind",
    )  # fmt: skip
    figure.update_xaxes(visible=False, fixedrange=True)
    figure.update_yaxes(visible=False, fixedrange=True, scaleanchor="x")
    return figure


@remembered
def activations(bars: pd.DataFrame, side: str) -> go.Figure:
    """How often a feature was active, by half octave of its activation."""
    kept = bars[bars.tokens > 0]
    rows = bars.loc[kept.index.min() : kept.index.max()]
    figure = go.Figure(
        go.Bar(
            x=[f"{low:.2g}" for low in rows.low], y=rows.tokens, marker={"color": colours()[side]},
            customdata=handed(rows[["low", "high"]]),
            hovertemplate="%{customdata[0]:.3g} to %{customdata[1]:.3g}<br>%{y} tokens<extra></extra>",
        )
    )  # fmt: skip
    figure.update_layout(height=150, margin={"l": 0, "r": 8, "t": 4, "b": 0}, bargap=0.05, dragmode=False)
    figure.update_xaxes(title="activation, by half octave", fixedrange=True, type="category")
    figure.update_yaxes(title="tokens", fixedrange=True, zeroline=False)
    return figure


def _kind_marker(kind: str, side: str, size: int = 10) -> dict[str, Any]:
    """Lanes as marks: no vector an open circle, own a full one, transferred a diamond, controls grey squares."""
    if kind == "none":
        return {"symbol": "circle-open", "size": size, "color": colours()[side], "line": {"width": 2}}
    return marker({"own": "unpatched", "transferred": "transferred"}.get(kind, "control"), side, size)


@remembered
def languages(table: pd.DataFrame, side: str) -> go.Figure:
    """`responses.steering`: rates by language with intervals; `customdata` of a mark is (language, kind)."""
    names = list(table.drop_duplicates("language").name)
    c, figure = colours(), go.Figure()
    for kind in ("random", "none", "own", "transferred"):
        rows = table.loc[table.kind == kind]
        figure.add_scatter(
            x=rows.rate, y=rows.name, mode="markers", name=KINDS[kind][0], marker=_kind_marker(kind, side),
            error_x={"type": "data", "array": rows.high - rows.rate, "arrayminus": rows.rate - rows.low, "thickness": 1,
                     "width": 0, "color": c["control"]},
            customdata=handed(rows[["language", "kind", "low", "high", "success", "loss", "strength"]]),
            hovertemplate="<b>%{y}</b>, " + KINDS[kind][0] + "<br>%{x:.2f} [%{customdata[2]:.2f}, "
            "%{customdata[3]:.2f}] in the language<br>%{customdata[4]:.2f} fluent besides, %{customdata[5]:.2f} "
            "nats/token<br>strength %{customdata[6]:g}<extra></extra>",
            selected={"marker": {"opacity": 1}}, unselected={"marker": {"opacity": 1}},
        )  # fmt: skip
    figure.update_layout(
        height=70 + 22 * len(names), margin={"l": 0, "r": 8, "t": 30, "b": 0}, dragmode=False, hovermode="closest",
        clickmode="event+select", legend=LEGEND,
    )  # fmt: skip
    figure.update_xaxes(title="share in the language (better →)", range=[-0.02, 1.02], fixedrange=True, zeroline=False)
    figure.update_yaxes(
        categoryorder="array", categoryarray=names[::-1], fixedrange=True, automargin=True, dtick=1,
        range=[-0.6, len(names) - 0.4],
    )  # fmt: skip
    return figure


@remembered
def means(table: pd.DataFrame, side: str) -> go.Figure:
    """`responses.means` as bars, the paper's beside them as hollow marks."""
    c, figure = colours(), go.Figure()
    fills = {"none": "rgba(0,0,0,0)", "own": c[side], "transferred": c["b"], "random": c["control"]}
    lines = {"none": c[side], "own": c[side], "transferred": c["a"], "random": c["control"]}
    kinds, short = table.kind.to_list(), {k: KINDS[k][0].split()[0] for k in KINDS}
    figure.add_bar(
        x=[short[k] for k in kinds], y=table.rate, showlegend=False, width=0.6,
        marker={"color": [fills[k] for k in kinds], "line": {"color": [lines[k] for k in kinds], "width": 3}},
        error_y={"type": "data", "array": table.high - table.rate, "arrayminus": table.rate - table.low,
                 "color": c["ink"], "thickness": 1.5, "width": 0},
        customdata=handed(table[["success", "loss"]]),
        hovertemplate="%{x}: %{y:.2f} in the language<br>%{customdata[0]:.2f} fluent besides, %{customdata[1]:.2f} "
        "nats/token<extra></extra>",
    )  # fmt: skip
    theirs = table.dropna(subset=["paper"])
    figure.add_scatter(
        x=[short[k] for k in theirs.kind], y=theirs.paper, mode="markers", name="the paper",
        marker={"symbol": "diamond-open", "size": 12, "color": c["ink"], "line": {"width": 2}},
        hovertemplate="the paper: %{y:.2f}<extra></extra>",
    )  # fmt: skip
    figure.update_layout(
        height=260, margin={"l": 0, "r": 0, "t": 30, "b": 0}, dragmode=False, legend=LEGEND, showlegend=True,
    )  # fmt: skip
    figure.update_yaxes(title="share", range=[0, 1.02], fixedrange=True)
    figure.update_xaxes(fixedrange=True)
    return figure


@remembered
def gaps(table: pd.DataFrame, theirs: pd.DataFrame) -> go.Figure:
    """Fig. 3c: shares of languages by relative transfer gap, ours full, the paper's outlined."""
    c, figure = colours(), go.Figure()
    bins = {"start": 0, "end": 1.0001, "size": 0.1}
    figure.add_histogram(
        x=table.gap.clip(0, 0.9999), xbins=bins, histnorm="probability", name="here",
        marker={"color": c["b"], "line": {"color": c["a"], "width": 2}},
        hovertemplate="gap %{x}: %{y:.0%} of languages<extra></extra>",
    )  # fmt: skip
    figure.add_histogram(
        x=theirs.gap.clip(0, 0.9999), xbins=bins, histnorm="probability", name="the paper",
        marker={"color": "rgba(0,0,0,0)", "line": {"color": c["ink"], "width": 2}},
        hovertemplate="the paper, gap %{x}: %{y:.0%} of languages<extra></extra>",
    )  # fmt: skip
    figure.update_layout(
        height=230, margin={"l": 0, "r": 0, "t": 30, "b": 0}, barmode="overlay", dragmode=False, legend=LEGEND,
        bargap=0.08,
    )  # fmt: skip
    figure.update_xaxes(title="transferred over own (better →)", range=[0, 1], fixedrange=True)
    figure.update_yaxes(title="share of languages", tickformat=".0%", fixedrange=True)
    return figure


@remembered
def gap_against(table: pd.DataFrame, column: str, source: str) -> go.Figure:
    """Fig. 11: the gap of each language against how much of it there is, or how well the source reads it."""
    figure = go.Figure()
    figure.add_scatter(
        x=table[column], y=table.gap, mode="markers+text", text=table.language, textposition="top center",
        marker=marker("transferred", "b", 9), showlegend=False, textfont={"size": 11}, cliponaxis=False,
        customdata=handed(table[["name", "own", "transferred"]]),
        hovertemplate="<b>%{customdata[0]}</b>: gap %{y:.2f}<br>own %{customdata[1]:.2f}, transferred "
        "%{customdata[2]:.2f}<br>%{x:,.3g}<extra></extra>",
    )  # fmt: skip
    figure.update_layout(height=260, margin={"l": 0, "r": 0, "t": 14, "b": 0}, dragmode=False, hovermode="closest")
    title = (
        "characters in the corpus (log)" if column == "characters" else f"nats/token of {source} (← reads it better)"
    )
    figure.update_xaxes(title=title, type="log" if column == "characters" else "linear", fixedrange=True)
    figure.update_yaxes(title="gap", range=[-0.05, 1.12], fixedrange=True)
    return figure


@remembered
def seconds(steps: dict[str, float]) -> go.Figure:
    """Estimated minutes of each step, in the order in which they come."""
    c = colours()
    names, took = list(steps)[::-1], list(steps.values())[::-1]
    figure = go.Figure(go.Bar(
        x=[s / 60 for s in took], y=names, orientation="h", marker={"color": c["control"]}, cliponaxis=False,
        text=[duration(s) for s in took], textposition="outside", hovertemplate="%{y}: %{text}<extra></extra>",
    ))  # fmt: skip
    figure.update_layout(
        height=60 + 34 * len(names), margin={"l": 8, "r": 60, "t": 8, "b": 40}, xaxis={"title": "minutes"},
        yaxis={"automargin": True},
    )  # fmt: skip
    return figure


def draw(figure: go.Figure, caption: str, key: str, alt: str, **kwargs: Any) -> Any:
    """The figure, then its caption: equation or figure in the paper, sample size, control."""
    drawn = st.plotly_chart(figure, key=key, config=QUIET, alt=alt, **kwargs)
    st.caption(caption)
    return drawn


def table_1_rows(table: pd.DataFrame, label: str) -> pd.DataFrame:
    """`queries.table_1` in the paper's layout and colour code: loss, and the relative loss in parentheses."""
    a, b = ":blue[A]", ":violet[B]"
    heads = dict(zip(TABLE_1, (a, b, f"{a}→{b}", f"{b}→{a}", f"{a}→{b}→{a}", f"{b}→{a}→{b}"), strict=True))
    out = pd.DataFrame({label: table.label, "Family": table.family.str.removesuffix("-family")})
    for key in TABLE_1:
        relative = table[f"{key}_relative"]
        out[heads[key]] = [
            loss(x) + ("" if key in ("a", "b") else f" ({f'<1{NARROW}%' if 0 <= r < 0.01 else percent(r)})")
            for x, r in zip(table[key], relative, strict=True)
        ]
    return out
