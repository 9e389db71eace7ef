"""SAE training: FLOPs saved, curves, the frontier and its law, decoder cosines, as in Fig. 1c, 2
and 8."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from core.saes.start_tables import in_per_cent
from core.saes.tables import HEADLINE
from pages.shared.figures import LEGEND, colours, handed, marker, remembered

ROLES = {"scratch": "unpatched", "transferred": "transferred"}
SYMBOLS = {"shuffled stitch": "square-open", "random stitch": "square"}
DASHES = {"transferred": "dash", "shuffled stitch": "dot"}
WIDTHS = ("circle", "diamond", "square", "triangle-up", "cross", "x", "star", "hexagon")


def _style(start: str, size: int = 8) -> dict[str, Any]:
    role = ROLES.get(start, "control")
    c = colours()
    look = marker(role, "b", size)
    if start in SYMBOLS:
        look = look | {"symbol": SYMBOLS[start]}
    colour = {"unpatched": c["b"], "transferred": c["a"]}.get(role, c["control"])
    width = 1.5 if role == "control" else 2.5
    return {
        "marker": look,
        "line": {"color": colour, "width": width, "dash": DASHES.get(start, "solid")},
    }


def _plain_layout(figure: go.Figure, height: int = 380) -> None:
    figure.update_layout(
        height=height,
        margin={"l": 0, "r": 8, "t": 30, "b": 0},
        dragmode=False,
        hovermode="closest",
        legend=LEGEND,
    )
    figure.update_xaxes(fixedrange=True, zeroline=False)
    figure.update_yaxes(fixedrange=True, zeroline=False)


@remembered
def relative(table: pd.DataFrame) -> go.Figure:
    """Fig. 2a: FLOPs of a transferred start over those from scratch, by threshold; a line a width
    (`savings`)."""
    figure, c = go.Figure(), colours()
    widths = sorted(table.width.unique())
    for i, width in enumerate(widths):
        rows = table.loc[(table.width == width) & table.ratio.notna()]
        faint = 0.35 + 0.65 * (i + 1) / len(widths)
        error = {
            "type": "data",
            "array": (rows.high - rows.ratio).fillna(0),
            "arrayminus": (rows.ratio - rows.low).fillna(0),
            "thickness": 1,
            "width": 0,
            "color": c["control"],
        }
        figure.add_scatter(
            x=rows.share,
            y=rows.ratio,
            name=f"{width:,} features",
            mode="lines+markers",
            opacity=faint,
            error_y=error,
            line={"color": c["a"], "width": 2.5},
            marker={
                "symbol": WIDTHS[i % len(WIDTHS)],
                "size": 9,
                "color": c["b"],
                "line": {"color": c["a"], "width": 2},
            },
            customdata=handed(rows[["threshold", "low", "high", "seeds"]]),
            hovertemplate=(
                f"<b>{width:,} features</b><br>%{{x:.1%}} of scratch's final, an explained variance"
                " of %{customdata[0]:.3f}<br>%{y:.2f} of scratch's FLOPs"
                " [%{customdata[1]:.2f}, %{customdata[2]:.2f}], %{customdata[3]}"
                " seeds<extra></extra>"
            ),
        )
    figure.add_hline(y=1.0, line={"color": c["control"], "width": 1.5})
    figure.add_annotation(
        x=0, y=0, xref="paper", text="scratch", showarrow=False, xanchor="left", yanchor="bottom"
    )
    figure.add_vline(x=HEADLINE, line={"color": c["control"], "width": 1, "dash": "dot"})
    _plain_layout(figure)
    figure.update_xaxes(title="share of scratch's final explained variance", tickformat=".0%")
    figure.update_yaxes(title="FLOPs over scratch's (↓ better)", type="log", dtick="D2")
    return figure


@remembered
def curves(table: pd.DataFrame, x: str, y: str, title_x: str, title_y: str) -> go.Figure:
    """One width: a line a run, by start."""
    figure = go.Figure()
    for start in dict.fromkeys(table.start):
        runs = table.loc[table.start == start]
        for i, (_, rows) in enumerate(runs.groupby(["seed", "auxiliary"])):
            figure.add_scatter(
                x=rows[x],
                y=rows[y],
                name=start,
                legendgroup=start,
                showlegend=i == 0,
                mode="lines",
                opacity=1.0 if i == 0 else 0.45,
                line=_style(start)["line"],
                customdata=handed(rows[["step", "seed"]]),
                hovertemplate=(
                    f"<b>{start}</b>, seed %{{customdata[1]}}, step"
                    " %{customdata[0]:,}<br>%{y:.4g} at %{x:.3g}<extra></extra>"
                ),
            )
    _plain_layout(figure, 340)
    figure.update_xaxes(
        title=title_x, type="log" if x == "flops" else "linear", exponentformat="power", dtick=None
    )
    figure.update_yaxes(title=title_y)
    if y == "explained_variance":
        low, high = (float(f(table[y].to_numpy())) for f in (np.min, np.max))
        figure.update_yaxes(range=[max(-0.2, low), min(1.0, high + 0.05)])
    else:
        figure.update_yaxes(rangemode="tozero")
    return figure


@remembered
def frontier(points: pd.DataFrame, laws: dict[str, dict[str, float]]) -> go.Figure:
    """Fig. 1c and 8: the least error within so many FLOPs of any width, and Eq. 14's law through
    it."""
    figure = go.Figure()
    for start in dict.fromkeys(points.start):
        rows, style = points.loc[points.start == start], _style(start, 7)
        figure.add_scatter(
            x=rows.flops,
            y=rows.mse,
            name=start,
            legendgroup=start,
            mode="markers",
            marker=style["marker"],
            hovertemplate=f"<b>{start}</b><br>%{{y:.3g}} within %{{x:.2g}} FLOPs<extra></extra>",
        )
        law = laws.get(start)
        if law:
            x = np.array([rows.flops.min(), rows.flops.max()])
            figure.add_scatter(
                x=x,
                y=law["A"] * x ** -law["beta"],
                legendgroup=start,
                showlegend=False,
                mode="lines",
                line=style["line"],
                hoverinfo="skip",
            )
    _plain_layout(figure)
    figure.update_xaxes(title="FLOPs, the stitch included", type="log", exponentformat="power")
    figure.update_yaxes(title="mean squared error (↓ better)", type="log")
    return figure


@remembered
def turning(table: pd.DataFrame) -> go.Figure:
    """Fig. 2b: how far decoder directions turned from their start."""
    figure = go.Figure()
    for start in dict.fromkeys(table.start):
        rows = table.loc[table.start == start]
        figure.add_scatter(
            x=rows.cosine,
            y=rows.share,
            name=start,
            mode="lines",
            line=_style(start)["line"] | {"shape": "hvh"},
            hovertemplate=(
                f"<b>{start}</b><br>%{{y:.1%}} of features near a cosine of"
                " %{x:.2f}<extra></extra>"
            ),
        )
    _plain_layout(figure, 340)
    low = float(table.cosine[table.share > 0].min()) - 0.05
    figure.update_xaxes(
        title="cosine of a decoder direction to its start", range=[max(-1.0, low), 1.02]
    )
    figure.update_yaxes(title="share of active features", tickformat=".0%", rangemode="tozero")
    return figure


@remembered
def starts(rows: pd.DataFrame) -> go.Figure:
    """FLOPs to HEADLINE by start, over those from scratch (`start_tables.summary`); starts that
    never get there are left out."""
    share = in_per_cent(HEADLINE)
    ratio, low, high = (f"{end}_{share}" for end in ("ratio", "low", "high"))
    shown = rows.loc[rows[ratio].notna()].iloc[::-1]
    figure, c = go.Figure(), colours()
    for start, of_start in shown.groupby("start", sort=False):
        style = _style("transferred" if str(start).startswith("transferred") else "scratch", 10)
        figure.add_scatter(
            x=of_start[ratio],
            y=[broken(str(start))],
            mode="markers",
            marker=style["marker"],
            showlegend=False,
            error_x={
                "type": "data",
                "array": (of_start[high] - of_start[ratio]).fillna(0),
                "arrayminus": (of_start[ratio] - of_start[low]).fillna(0),
                "thickness": 1,
                "width": 0,
                "color": c["control"],
            },
            customdata=handed(of_start[["begins", "explained_variance", "made", "seeds"]]),
            hovertemplate=(
                f"<b>{start}</b><br>%{{x:.2f}} of scratch's FLOPs<br>explains"
                " %{customdata[0]:.1%} at first, %{customdata[1]:.1%} in the end<br>making the"
                " start: %{customdata[2]:.1%} of a whole run; %{customdata[3]} seeds<extra></extra>"
            ),
        )
    figure.add_vline(x=1.0, line={"color": c["control"], "width": 1.5})
    _plain_layout(figure, 90 + 40 * len(shown))
    figure.update_xaxes(title="FLOPs, scratch = 1 (↓ better)", rangemode="tozero")
    figure.update_yaxes(automargin=True)
    return figure


def broken(title: str, most: int = 20) -> str:
    """A title in lines of about so many letters, broken behind commas: a phone has room for it."""
    lines = [""]
    for part in title.split(", "):
        if lines[-1] and len(lines[-1]) + len(part) > most:
            lines.append(part)
        else:
            lines[-1] = ", ".join(filter(None, [lines[-1], part]))
    return ",<br>".join(lines)
