"""Features: how alike before and after, semantic or structural, where they lie, how active."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from core.features.regions import Region
from pages.shared.figures import LEGEND, colours, handed, hovered, remembered

BINS = np.linspace(-1, 1, 61)


CONTROLS = (("random", "random SAE", "solid"), ("shuffled", "shuffled-pair stitch", "dot"))
"""Column, name and line of what carried features must beat."""


def beside_controls(table: pd.DataFrame, column: str, name: str) -> go.Figure:
    """A histogram by BINS of a `column`: carried features, called `name`, as bars in B's purple
    outlined in A's blue, both controls as grey lines."""
    c = colours()
    middle = (BINS[1:] + BINS[:-1]) / 2
    controls = [control for control, _, _ in CONTROLS]
    counts = {of: np.histogram(table[of].dropna(), BINS)[0] for of in (column, *controls)}
    hover = f"{column} about %{{x:.2f}}<br>%{{y}} features"
    figure = go.Figure()
    figure.add_bar(
        x=middle,
        y=counts[column],
        name=name,
        marker={"color": c["b"], "line": {"color": c["a"], "width": 1}},
        hovertemplate=f"{hover}<extra>{name}</extra>",
    )
    for control, title, dash in CONTROLS:
        figure.add_scatter(
            x=middle,
            y=counts[control],
            name=title,
            mode="lines",
            line={"color": c["control"], "width": 2, "dash": dash, "shape": "hvh"},
            hovertemplate=f"{hover}<extra>{title}</extra>",
        )
    figure.update_layout(
        margin={"l": 0, "r": 8, "t": 30, "b": 0},
        bargap=0,
        hovermode="closest",
        legend=LEGEND,
    )
    figure.update_xaxes(fixedrange=True, zeroline=False)
    # the shuffled control's peak at zero would leave no room for anything else
    most = max(counts[column].max(initial=1), counts["random"].max(initial=1))
    figure.update_yaxes(title="features", range=[0, 1.2 * most], fixedrange=True, zeroline=False)
    return figure


@remembered
def correlations(table: pd.DataFrame, brush: bool = True) -> go.Figure:
    """Fig. 14: attribution correlation beside its controls. A `brush` selects bars, without one a
    click or tap does; their x is the middle of a bin of BINS."""
    figure = beside_controls(table, "correlation", "transferred")
    figure.update_layout(
        height=340,
        dragmode="select" if brush else False,
        selectdirection="h",
        clickmode="event+select",
    )
    figure.update_xaxes(title="attribution correlation (→ alike)", range=[-1, 1])
    return figure


def picked_range(drawn: Any, curves: tuple[int, ...] = (0,)) -> tuple[float, float] | None:
    """From the first to the last bar selected in a histogram by BINS whose bars are those `curves`;
    None where none is."""
    points = drawn.selection.points
    bars = [float(point["x"]) for point in points if point.get("curve_number") in curves]
    half = (BINS[1] - BINS[0]) / 2
    return (round(min(bars) - half, 6) + 0.0, round(max(bars) + half, 6)) if bars else None


STRIP = ("semantic", "structural", "other")
"""The bars of the strip, from below."""


@remembered
def strip(
    table: pd.DataFrame,
    column: str,
    brush: bool,
    picked: tuple[float, float],
) -> go.Figure:
    """A low histogram of a `column` by class, with the range that is `picked` in a frame."""
    c = colours()
    middle = (BINS[1:] + BINS[:-1]) / 2
    kind = table.kind.where(table.kind.isin(STRIP[:2]), STRIP[2])
    figure = go.Figure()
    for name in STRIP:
        counts = np.histogram(table.loc[kind == name, column].dropna(), BINS)[0]
        figure.add_bar(
            x=middle,
            y=counts,
            name=name,
            marker={"color": c.get(name, c["control"])},
            hovertemplate=f"{column} about %{{x:.2f}}<br>%{{y}} features<extra>{name}</extra>",
        )
    if picked != (-1.0, 1.0):
        figure.add_vrect(
            x0=picked[0],
            x1=picked[1],
            line={"color": c["ink"], "width": 1},  # type: ignore[arg-type]
            fillcolor="rgba(128, 128, 128, 0.15)",
            layer="below",
        )
    least = float(np.floor(10 * min(0.0, table[column].min())) / 10)
    figure.update_layout(
        height=140,
        barmode="stack",
        bargap=0.05,
        margin={"l": 0, "r": 8, "t": 22, "b": 42},
        dragmode="select" if brush else False,
        selectdirection="h",
        hovermode="closest",
        legend=LEGEND,
        clickmode="event+select",
    )
    figure.update_xaxes(
        title={"text": f"{column} (→ alike)", "standoff": 4},
        range=[max(-1.0, least), 1],
        fixedrange=True,
        zeroline=False,
    )
    figure.update_yaxes(visible=False, fixedrange=True)
    return figure


@remembered
def classes(table: pd.DataFrame, shares: pd.DataFrame) -> go.Figure:
    """Fig. 4b: both classes' densities, each of its own features, and above them
    `core.stitches.tables.structural_share`: of all features in a bin, the structural ones."""
    c = colours()
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, row_heights=[0.3, 0.7], vertical_spacing=0.06
    )
    grid = np.linspace(-1, 1, 201)
    for kind in ("semantic", "structural"):
        values = table.correlation[table.kind == kind].dropna().to_numpy()
        width = 0.06
        density = np.exp(-0.5 * ((grid[:, None] - values) / width) ** 2).mean(1) / (
            width * np.sqrt(2 * np.pi)
        )
        figure.add_scatter(
            x=grid,
            y=density,
            name=kind,
            fill="tozeroy",
            mode="lines",
            row=2,
            col=1,
            line={"color": c[kind], "width": 2, "dash": "solid" if kind == "semantic" else "dash"},
            hovertemplate=(
                f"correlation %{{x:.2f}}<br>density %{{y:.2f}}<extra>{kind}, {len(values):,}"
                " features</extra>"
            ),
        )
    figure.add_scatter(
        x=(shares.low + shares.high) / 2,
        y=shares.share,
        mode="lines+markers",
        showlegend=False,
        row=1,
        col=1,
        line={"color": c["structural"], "width": 2},
        marker={"size": 6, "symbol": "diamond"},
        error_y={
            "type": "data",
            "array": shares.share_high - shares.share,
            "arrayminus": shares.share - shares.share_low,
            "thickness": 1,
            "width": 0,
        },
        customdata=handed(shares[["low", "high", "structural", "n", "share_low", "share_high"]]),
        hovertemplate=(
            "correlation from %{customdata[0]:.1f} to %{customdata[1]:.1f}<br>structural:"
            " %{customdata[2]} of %{customdata[3]} features, %{y:.0%}"
            " [%{customdata[4]:.0%}, %{customdata[5]:.0%}]<extra></extra>"
        ),
    )
    overall = shares.structural.sum() / max(1, shares.n.sum())
    line = {"color": c["control"], "width": 1, "dash": "dot"}
    figure.add_hline(y=overall, line=line, row=1, col=1)  # type: ignore[arg-type]
    figure.update_layout(
        height=400,
        margin={"l": 0, "r": 8, "t": 30, "b": 0},
        dragmode=False,
        hovermode="closest",
        legend=LEGEND,
    )
    figure.update_xaxes(range=[-1, 1], fixedrange=True, zeroline=False)
    figure.update_xaxes(title="attribution correlation (→ alike)", row=2, col=1)
    figure.update_yaxes(
        title="structural",
        range=[-0.03, 1.03],
        tickformat=".0%",
        fixedrange=True,
        zeroline=False,
        row=1,
        col=1,
    )
    figure.update_yaxes(title="density", fixedrange=True, zeroline=False, row=2, col=1)
    return figure


@remembered
def feature_map(
    table: pd.DataFrame,
    colour: str,
    drag: str = "click",
    name: str = "A",
    regions: Sequence[Region] = (),
) -> go.Figure:
    """Every feature at its place on the map; `customdata` begins with its index. Drawn with WebGL,
    places from arrays that go to the browser as they are in memory. `name` is that of the SAE's
    model; the names of `regions` stand over them.

    `drag` is "click", "select" (a box) or "lasso". With the first, a click or tap picks a mark and
    a swipe scrolls the page: where a drag draws, Plotly tells of a click in a way that Streamlit
    does not hear."""
    c = colours()
    figure = go.Figure()
    says = (
        "<b>feature %{customdata[0]}</b><br>attribution correlation"
        f" %{{customdata[1]:.2f}}<br>density in {name} %{{customdata[2]:.2%}}"
    )
    size = 6 if len(table) < 10_000 else 3

    def marks(rows: pd.DataFrame, name: str, marker: dict[str, Any]) -> None:
        figure.add_scattergl(
            x=rows.x.to_numpy(np.float32),
            y=rows.y.to_numpy(np.float32),
            name=name,
            mode="markers",
            customdata=handed(rows[["feature", "correlation", "density_a"]]),
            marker={"size": size} | marker,
            hovertemplate=f"{says}<extra>{name}</extra>",
            unselected={"marker": {"opacity": 0.6 if drag == "click" else 0.2}},
        )

    if colour == "kind":
        symbols = {
            "semantic": "circle",
            "structural": "diamond",
            "unseen": "circle-open",
            "dead": "x-thin-open",
        }
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
        height=460,
        margin={"l": 0, "r": 0, "t": 30, "b": 0},
        dragmode=False if drag == "click" else drag,
        hovermode="closest",
        legend=LEGEND,
        clickmode="event+select",
        showlegend=colour == "kind",
    )
    for region in regions:
        figure.add_annotation(
            x=region.x,
            y=region.y,
            text="<br>".join(map(hovered, region.words)),
            showarrow=False,
            xanchor="center",
            yanchor="middle",
            font={"size": 12, "color": c["ink"]},
            bgcolor=c["paper"],
            borderpad=0,
            opacity=0.9,
        )
    figure.update_xaxes(visible=False, fixedrange=True)
    figure.update_yaxes(visible=False, fixedrange=True, scaleanchor="x")
    return figure


@remembered
def activations(a: pd.DataFrame, b: pd.DataFrame, names: dict[str, str]) -> go.Figure:
    """How often a feature was active, in A and in B on one axis, by half octave of its
    activation."""
    c = colours()
    filled = a.index[(a.tokens > 0) | (b.tokens > 0)]
    line = {"color": c["a"], "width": 1.5}
    looks = {"a": {"color": c["a"]}, "b": {"color": c["b"], "line": line}}
    figure = go.Figure()
    for side, bars in (("a", a), ("b", b)):
        rows = bars.loc[filled.min() : filled.max()]
        figure.add_bar(
            x=[f"{low:.2g}" for low in rows.low],
            y=rows.tokens,
            name=names[side],
            marker=looks[side],
            customdata=handed(rows[["low", "high"]]),
            hovertemplate=(
                "%{customdata[0]:.3g} to %{customdata[1]:.3g}<br>%{y} tokens"
                f"<extra>{names[side]}</extra>"
            ),
        )
    figure.update_layout(
        height=170,
        margin={"l": 0, "r": 8, "t": 24, "b": 0},
        bargap=0.1,
        dragmode=False,
        legend=LEGEND,
    )
    figure.update_xaxes(title="activation, by half octave", fixedrange=True, type="category")
    figure.update_yaxes(title="tokens", fixedrange=True, zeroline=False)
    return figure
