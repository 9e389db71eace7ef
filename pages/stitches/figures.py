"""Which layers correspond (Fig. 6), how strong inversion should be (Fig. 7), what refining
gains."""

from typing import Literal

import pandas as pd
import plotly.graph_objects as go

from core.stitches.conditions import BY_KEY, STITCHED
from core.stitches.settings import CEILINGS
from pages.shared.figures import LEGEND, colours, handed, marker, remembered
from pages.shared.words import loss, named, percent


@remembered
def svcca(table: pd.DataFrame, picked: tuple[int, int], name_a: str, name_b: str) -> go.Figure:
    """Fig. 6. An invisible mark over each cell takes hover and click: its `customdata` is (layer_a,
    layer_b)."""
    grid = table.pivot_table(index="layer_b", columns="layer_a", values="svcca")
    figure = go.Figure(
        go.Heatmap(
            x=grid.columns,
            y=grid.index,
            z=grid.to_numpy(),
            hoverinfo="skip",
            xgap=1,
            ygap=1,
            colorbar={
                "title": {"text": "SVCCA", "side": "right"},
                "orientation": "h",
                "thickness": 10,
                "len": 0.6,
                "x": 0,
                "xanchor": "left",
                "y": -0.17,
                "yanchor": "top",
                "nticks": 5,
            },
        )
    )
    best, fitted = table[table.best], table[table.stitches != ""]
    figure.add_scatter(
        x=best.layer_a,
        y=best.layer_b,
        mode="markers",
        name=f"best layer of {name_b}",
        hoverinfo="skip",
        marker={
            "symbol": "circle",
            "size": 6,
            "color": "#ffffff",
            "line": {"color": "#000000", "width": 1},
        },
    )
    figure.add_scatter(
        x=fitted.layer_a,
        y=fitted.layer_b,
        mode="markers",
        hoverinfo="skip",
        showlegend=False,
        marker={"symbol": "diamond", "size": 17, "color": "#ffffff"},
    )
    figure.add_scatter(
        x=fitted.layer_a,
        y=fitted.layer_b,
        mode="markers",
        name="fitted stitch",
        hoverinfo="skip",
        marker=marker("transferred", "b", 12),
    )
    c = colours()
    for colour, width in ((c["paper"], 5), (c["ink"], 2)):
        figure.add_scatter(
            x=[picked[0]],
            y=[picked[1]],
            mode="markers",
            name="picked",
            showlegend=width == 2,
            hoverinfo="skip",
            marker={
                "symbol": "square-open",
                "size": 20,
                "color": colour,
                "line": {"width": width, "color": colour},
            },
        )
    figure.add_scatter(
        x=table.layer_a,
        y=table.layer_b,
        mode="markers",
        showlegend=False,
        name="",
        marker={"size": 16, "opacity": 0, "symbol": "square"},
        selected={"marker": {"opacity": 0}},
        unselected={"marker": {"opacity": 0}},
        customdata=handed(table[["layer_a", "layer_b", "svcca", "chance", "stitches"]]),
        hovertemplate=(
            f"{name_a} before layer %{{x}}, {name_b} before layer %{{y}}<br>"
            "SVCCA %{customdata[2]:.2f} (chance about %{customdata[3]:.2f})<br>"
            "%{customdata[4]}<extra></extra>"
        ),
    )
    figure.update_layout(
        height=480,
        margin={"l": 0, "r": 0, "t": 40, "b": 0},
        dragmode=False,
        hovermode="closest",
        clickmode="event+select",
        legend=LEGEND,
    )
    axis = {"fixedrange": True, "showgrid": False, "zeroline": False, "ticks": ""}
    across, up = [-0.5, table.layer_a.max() + 0.5], [-0.5, table.layer_b.max() + 0.5]
    figure.update_xaxes(title=f"layer of {name_a}", dtick=5, range=across, **axis)
    figure.update_yaxes(title=f"layer of {name_b}", dtick=5, range=up, **axis)
    return figure


@remembered
def alpha_sweep(
    table: pd.DataFrame, name_a: str, name_b: str, unit: Literal["loss", "relative"] = "loss"
) -> go.Figure:
    """Fig. 7: one line a condition, in the colour of the model that scores it, solid one way,
    dashed there and back."""
    c = colours()
    names = {"a": name_a, "b": name_b}
    figure = go.Figure()
    floor = (
        table.alpha[table.alpha > 0].min() / 4
    )  # a logarithmic axis has no 0: it stands at the left end
    scale = 100 if unit == "relative" else 1
    for key in STITCHED:
        rows = table[table.condition == key]
        if rows.empty:
            continue
        what = BY_KEY[key]
        label = named(what.label, names)
        figure.add_scatter(
            x=rows.alpha.where(rows.alpha > 0, floor),
            y=rows[unit] * scale,
            name=label,
            mode="lines+markers",
            line={"color": c[what.model], "width": 2, "dash": "solid" if len(key) == 6 else "dash"},
            marker=marker("transferred", what.model, 8),
            customdata=[
                (a, loss(x), percent(r))
                for a, x, r in zip(rows.alpha, rows.loss, rows.relative, strict=True)
            ],
            hovertemplate=(
                f"<b>{label}</b>, α = %{{customdata[0]:g}}<br>%{{customdata[1]}} nats/token "
                "(%{customdata[2]})<extra></extra>"
            ),
        )
    for model in ("a", "b"):
        base = table[table.model == model].base
        if unit == "loss" and len(base):
            figure.add_hline(
                y=base.iloc[0],
                line={"color": c[model], "width": 1, "dash": "dot"},
                annotation={"text": f"{names[model]} unpatched", "font": {"color": c[model]}},
                annotation_position="top left",
            )
    alphas = sorted(table.alpha.unique())
    title = "loss, nats/token" if unit == "loss" else "loss above unpatched, %"
    figure.update_layout(
        height=380,
        margin={"l": 0, "r": 8, "t": 30, "b": 0},
        dragmode=False,
        hovermode="closest",
        legend=LEGEND,
    )
    figure.update_xaxes(
        title="α, strength of inversion (log)",
        type="log",
        fixedrange=True,
        tickvals=[a or floor for a in alphas],
        ticktext=[f"{a:g}" for a in alphas],
        showgrid=False,
        zeroline=False,
    )
    figure.update_yaxes(title=f"{title} (↓ better)", fixedrange=True, zeroline=False)
    return figure


STARTS = {
    "paired": "the fitted stitch",
    "shuffled pairs": "shuffled pairs",
    "constant input": "constant input",
    CEILINGS[0]: "hidden layer",
    CEILINGS[1]: "hidden layer, refined",
}
"""What was refined, in words."""
AFTER = {
    "transferred": "after",
    "control": "after, control",
    "ceiling": "after, ceiling",
}
"""The filled marks, by role."""


@remembered
def refined(table: pd.DataFrame, name_a: str, name_b: str) -> go.Figure:
    """Rows of `core.stitches.refined_tables.refinement` of one kind of text: a line each, from the
    loss before (hollow) to that after (filled), with its interval. What has a hidden layer is a
    ceiling, and no stitch."""
    c = colours()
    names = {"a": name_a, "b": name_b}
    figure = go.Figure()
    ticks = []
    drawn: set[str] = set()
    for at, row in enumerate(table.to_dict("records")):
        before, after = 100 * row["relative_before"], 100 * row["relative_after"]
        own = row["start"] == "paired"
        role = "transferred" if own else "control"
        if row["start"] in CEILINGS:
            role = "ceiling"
        label = named(BY_KEY[row["condition"]].label, names)
        ticks.append(label if own else f"{label}, {STARTS[row['start']]}")
        hover = (
            f"<b>{label}</b>, {STARTS[row['start']]}<br>before {percent(row['relative_before'])},"
            f" after {percent(row['relative_after'])}<extra></extra>"
        )
        figure.add_scatter(
            x=[before, after],
            y=[at, at],
            mode="lines",
            line={"color": c["control"], "width": 2},
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_scatter(
            x=[before],
            y=[at],
            mode="markers",
            marker={
                "symbol": "circle-open",
                "size": 10,
                "color": c["ink"] if own else c["control"],
                "line": {"width": 2},
            },
            name="before",
            showlegend=at == 0,
            hovertemplate=hover,
        )
        figure.add_scatter(
            x=[after],
            y=[at],
            mode="markers",
            marker=marker(role, row["model"]),
            error_x={
                "type": "data",
                "array": [100 * (row["relative_after_high"] - row["relative_after"])],
                "arrayminus": [100 * (row["relative_after"] - row["relative_after_low"])],
                "thickness": 2,
                "width": 0,
                "color": c["control"],
            },
            name=AFTER[role],
            showlegend=role not in drawn,
            hovertemplate=hover,
        )
        drawn.add(role)
    figure.update_layout(
        height=90 + 34 * len(ticks),
        margin={"l": 0, "r": 8, "t": 30, "b": 0},
        dragmode=False,
        hovermode="closest",
        legend=LEGEND,
    )
    figure.update_xaxes(title="loss above unpatched, %", fixedrange=True, zeroline=True)
    figure.update_yaxes(
        tickvals=list(range(len(ticks))),
        ticktext=ticks,
        autorange="reversed",
        fixedrange=True,
        showgrid=False,
        zeroline=False,
        automargin=True,
    )
    return figure
