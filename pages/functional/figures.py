"""The figures of functional features (Fig. 5 and 16): A left, B right; random features always
beside, in grey."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from pages.shared.figures import LEGEND, colours, handed, hovered, marker, remembered

WHOSE = {"a": "original", "b": "transferred"}
KIND_NAMES = {"deactivation": "deactivated", "activation": "activated"}
HEURISTIC = "heuristic score × mean activation, logits"
LONGEST = 60
"""Tokens whose texts are written along a pattern; of longer ones only their numbers."""


def marks(side: str, size: int = 10) -> dict[str, Any]:
    """A feature in A, or transferred in B."""
    return marker("unpatched", "a", size) if side == "a" else marker("transferred", "b", size)


def _pair(
    names: Mapping[str, str],
    across: str,
    up: str,
    shared: bool = True,
    height: int = 380,
) -> go.Figure:
    """Two panels with one title across and one up; the legend below, where it has room on a phone
    too."""
    c = colours()
    sides = {f"{names[side]}, {WHOSE[side]}": c[side] for side in ("a", "b")}
    figure = make_subplots(
        rows=1,
        cols=2,
        subplot_titles=list(sides),
        shared_yaxes=shared,
        horizontal_spacing=0.09,
        x_title=across,
    )
    for text, colour in sides.items():
        figure.update_annotations({"font": {"color": colour, "size": 14}}, selector={"text": text})
    figure.update_annotations({"font": {"size": 14}, "yshift": -24}, selector={"text": across})
    figure.update_layout(
        height=height,
        margin={"l": 0, "r": 8, "t": 30, "b": 50},
        hovermode="closest",
        dragmode=False,
        legend=LEGEND | {"y": -0.24, "yanchor": "top"},
        clickmode="event+select",
    )
    figure.update_xaxes(fixedrange=True)
    figure.update_yaxes(fixedrange=True)
    figure.update_yaxes(title=up, col=1)
    return figure


@remembered
def null_space(
    table: pd.DataFrame,
    random: dict[str, list[float]],
    picked: int,
    names: Mapping[str, str],
) -> go.Figure:
    """Fig. 5a: `core.functional.tables.null_shares`, and where 90 % of a random SAE's features lie.
    `customdata` begins with the feature."""
    c = colours()
    across = "share of norm in the null space"
    figure = _pair(names, across, "maximal activation (log)", shared=False)
    for col, side in enumerate(("a", "b"), 1):
        for candidate, size in ((False, 4), (True, 10)):
            rows = table.loc[table.candidate == candidate]
            look = (
                marks(side, size)
                if candidate
                else {"size": size, "color": c[side], "opacity": 0.35}
            )
            figure.add_scattergl(
                x=rows[f"share_{side}"].to_numpy(np.float32),
                y=rows[f"max_{side}"].to_numpy(np.float32),
                mode="markers",
                marker=look,
                name="candidate" if candidate else "feature",
                showlegend=False,
                customdata=handed(
                    rows[["feature", "raises"]].assign(raises=rows.raises.map(hovered))
                ),
                row=1,
                col=col,
                hovertemplate=(
                    "<b>feature %{customdata[0]}</b><br>share %{x:.2f}, maximal activation"
                    " %{y:.3g}<br>raises %{customdata[1]}<extra></extra>"
                ),
            )
        low, middle, high = random[side]
        panel: dict[str, Any] = {"row": 1, "col": col}
        figure.add_vrect(
            x0=low,
            x1=high,
            fillcolor=c["control"],
            opacity=0.18,
            line_width=0,
            layer="below",
            **panel,
        )
        figure.add_vline(x=middle, line={"color": c["control"], "width": 1, "dash": "dot"}, **panel)
        one = table.loc[table.feature == picked]
        figure.add_scatter(
            x=one[f"share_{side}"],
            y=one[f"max_{side}"],
            mode="markers",
            hoverinfo="skip",
            row=1,
            col=col,
            name="picked",
            showlegend=col == 1,
            marker={"symbol": "square-open", "size": 18, "color": c["ink"], "line": {"width": 2}},
        )
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            marker=marks(side),
            row=1,
            col=col,
            name=f"candidate in {names[side]}",
        )
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(type="log")
    figure.add_scatter(
        x=[None],
        y=[None],
        mode="markers",
        name="random SAE, 90 %",
        row=1,
        col=1,
        marker={"symbol": "square", "size": 12, "color": c["control"], "opacity": 0.4},
    )
    return figure


@remembered
def ablations(table: pd.DataFrame, names: Mapping[str, str]) -> go.Figure:
    """The causal check: change of entropy against change of loss, with intervals; `customdata`
    begins with the feature."""
    c = colours()
    across, up = "change of loss, nats", "change of entropy, nats"
    figure = _pair(names, across, up, shared=False, height=350)
    for col, side in enumerate(("a", "b"), 1):
        for random in (True, False):
            rows = table.loc[(table.side == side) & (table.random == random)]
            name = "random feature" if random else f"candidate in {names[side]}"
            bars = {
                axis: {
                    "type": "data",
                    "array": rows[f"{what}_high"] - rows[what],
                    "thickness": 1,
                    "width": 0,
                    "arrayminus": rows[what] - rows[f"{what}_low"],
                    "color": c["control"],
                }
                for axis, what in (("error_x", "loss_change"), ("error_y", "entropy_change"))
            }
            figure.add_scatter(
                x=rows.loss_change,
                y=rows.entropy_change,
                mode="markers",
                row=1,
                col=col,
                **bars,
                marker=marker("control", side, 9) if random else marks(side),
                name=name,
                showlegend=col == 1 or not random,
                customdata=handed(rows[["feature", "entropy", "places"]]),
                hovertemplate=(
                    f"<b>feature %{{customdata[0]}}</b>, {name}<br>loss %{{x:+.3f}}, entropy"
                    " %{y:+.3f} nats (of %{customdata[1]:.2f})<br>%{customdata[2]}"
                    " places<extra></extra>"
                ),
            )
    return figure


@remembered
def heads(
    table: pd.DataFrame,
    picked: int,
    names: Mapping[str, str],
) -> go.Figure:
    """Heuristic score against measured change, a mark a feature and head; `customdata`: feature,
    side, layer, head."""
    c = colours()
    figure = _pair(names, HEURISTIC, "change of attention to the first token", shared=False)
    for col, side in enumerate(("a", "b"), 1):
        for random in (True, False):
            rows = table.loc[(table.side == side) & (table.random == random)]
            name = "random feature" if random else f"candidate in {names[side]}"
            chosen = (rows.feature == picked).to_numpy()
            look = marker("control", side, 6) if random else marks(side, 7)
            figure.add_scattergl(
                x=rows.score.to_numpy(np.float32),
                y=rows.change.to_numpy(np.float32),
                mode="markers",
                row=1,
                col=col,
                name=name,
                showlegend=False,
                marker=look
                | {
                    "opacity": np.where(chosen, 1.0, 0.45),
                    "size": np.where(chosen, 12, look["size"]),
                },
                customdata=handed(rows[["feature", "side", "layer", "head", "before"]]),
                hovertemplate=(
                    f"<b>feature %{{customdata[0]}}</b>, {name}<br>head"
                    " %{customdata[2]}.%{customdata[3]}: attention to the first token"
                    " %{customdata[4]:.2f}, without the feature %{y:+.3f}<br>score"
                    " %{x:.2f}<extra></extra>"
                ),
            )
            if col == 1 or not random:
                figure.add_scatter(
                    x=[None], y=[None], mode="markers", marker=look, name=name, row=1, col=col
                )
        line = {"color": c["control"], "width": 1, "dash": "dot"}
        figure.add_hline(y=0, line=line, row=1, col=col)  # type: ignore[arg-type]
    return figure


@remembered
def places(table: pd.DataFrame, names: Mapping[str, str]) -> go.Figure:
    """Fig. 5b and 16: rows of `core.functional.tables.moved` of one feature, attention to the first
    token before (open) and after (full) at single places, A left, B right."""
    c = colours()
    across, up = "some of its places, strongest first", "attention to the first token"
    figure = _pair(names, across, up, height=330)
    symbols = {"deactivation": "circle", "activation": "triangle-up"}
    for col, side in enumerate(("a", "b"), 1):
        for kind, symbol in symbols.items():
            for row in table.loc[(table.side == side) & (table.kind == kind)].to_dict("records"):
                n = len(row["before"])
                at = np.arange(n) + (0.0 if kind == "deactivation" else 0.25)
                name = f"{KIND_NAMES[kind]}: head {row['layer']}.{row['head']}"
                figure.add_scatter(
                    x=np.repeat(at, 3),
                    y=np.c_[row["before"], row["after"], np.full(n, np.nan)].ravel(),
                    mode="lines",
                    line={
                        "color": c["control"],
                        "width": 2,
                        "dash": "solid" if kind == "deactivation" else "dot",
                    },
                    hoverinfo="skip",
                    showlegend=False,
                    row=1,
                    col=col,
                )
                for what, suffix in (("before", "-open"), ("after", "")):
                    figure.add_scatter(
                        x=at,
                        y=row[what],
                        mode="markers",
                        name=name if what == "after" else "",
                        row=1,
                        col=col,
                        showlegend=what == "after",
                        customdata=[[hovered(t)] for t in row["token"]],
                        marker={
                            "symbol": symbol + suffix,
                            "size": 10,
                            "color": c[side],
                            "line": {"width": 2, "color": c["a"] if what == "after" else c[side]},
                        },
                        hovertemplate=(
                            f"<b>%{{customdata[0]}}</b>, {what}: %{{y:.2f}}<extra>{name}</extra>"
                        ),
                    )
    figure.update_xaxes(showticklabels=False)
    figure.update_yaxes(range=[-0.03, 1.03])
    return figure


@remembered
def patterns(
    before: np.ndarray,
    after: np.ndarray,
    labels: list[str],
    side: str,
) -> go.Figure:
    """A head's pattern with a feature, without it, and the difference; all n x n."""
    c = colours()
    figure = make_subplots(
        rows=1,
        cols=3,
        subplot_titles=("before", "without the feature", "difference"),
        horizontal_spacing=0.05,
        shared_yaxes=True,
    )
    change = after - before
    most = max(float(np.abs(change).max()), 1e-4)
    paper = c["paper"]
    scales = [[[0, paper], [1, c[side]]]] * 2 + [[[0, c["ink"]], [0.5, paper], [1, c[side]]]]
    for col, (values, scale) in enumerate(zip((before, after, change), scales, strict=True), 1):
        low, high = (-most, most) if col == 3 else (0.0, 1.0)
        figure.add_heatmap(
            z=values,
            zmin=low,
            zmax=high,
            colorscale=scale,
            row=1,
            col=col,
            showscale=col != 1,
            colorbar={
                "thickness": 8,
                "x": 1.0 if col == 3 else 0.66,
                "len": 0.9,
                "tickfont": {"size": 10},
            },
            hovertemplate="%{y} looks at %{x}: %{z:.3f}<extra></extra>",
        )
    ticks = (
        {"tickvals": list(range(len(labels))), "ticktext": labels} if len(labels) <= LONGEST else {}
    )
    figure.update_xaxes(
        showgrid=False, fixedrange=True, tickangle=-90, tickfont={"size": 9}, **ticks
    )
    figure.update_yaxes(
        showgrid=False, fixedrange=True, autorange="reversed", tickfont={"size": 9}, **ticks
    )
    figure.update_layout(height=460, margin={"l": 0, "r": 0, "t": 30, "b": 0}, dragmode=False)
    return figure


@remembered
def sink(
    attention: pd.DataFrame,
    labels: list[str],
    side: str,
) -> go.Figure:
    """Attention to the first token at every position: before, without the feature, and without a
    random direction."""
    c, figure = colours(), go.Figure()
    at = list(range(len(attention)))
    for name, column, line in (
        (
            "without a random direction",
            "control",
            {"color": c["control"], "width": 2, "dash": "dot"},
        ),
        ("before", "before", {"color": c["ink"], "width": 1}),
        ("without the feature", "after", {"color": c[side], "width": 2}),
    ):
        figure.add_scatter(
            x=at,
            y=attention[column],
            mode="lines+markers",
            name=name,
            line=line,
            marker={"size": 5},
            customdata=handed(pd.DataFrame({"token": labels, "activation": attention.activation})),
            hovertemplate=(
                f"<b>%{{customdata[0]}}</b>, activation %{{customdata[1]}}<br>{name}: %{{y:.3f}}"
                "<extra></extra>"
            ),
        )
    figure.update_layout(
        height=240,
        margin={"l": 0, "r": 0, "t": 30, "b": 0},
        dragmode=False,
        legend=LEGEND,
        hovermode="closest",
    )
    ticks = {"tickvals": at, "ticktext": labels} if len(labels) <= LONGEST else {}
    figure.update_xaxes(fixedrange=True, tickangle=-90, tickfont={"size": 9}, **ticks)
    figure.update_yaxes(title="attention to the first token", range=[-0.03, 1.03], fixedrange=True)
    return figure
