"""Where the sink is after it has crossed: shares and attention, a line a condition."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from core.functional.sink_tables import CONTROLS, DIRECTIONS
from pages.shared.figures import LEGEND, colours, handed, marker, remembered

PANELS = {
    "share": "sink's norm in the null space",
    "attention": "attention to the first token",
}
OFFSET = 0.16
"""Of both directions from the middle of their line."""
ROLES = {
    "unpatched": ("own", "kept"),
    "control": CONTROLS,
    "transferred": ("two_piece",),
}


def look(role: str, side: str) -> dict[str, Any]:
    """A mark in the colour of the model that receives; what crossed into it is outlined in the
    other's."""
    c = colours()
    if role == "transferred" and side == "a":
        rim = {"color": c["b"], "width": 2}
        return marker("unpatched", "a", 12) | {"symbol": "diamond", "line": rim}
    return marker(role, side, 12 if role == "transferred" else 9)


@remembered
def sink(
    table: pd.DataFrame,
    names: Mapping[str, str],
    labels: Mapping[str, str],
) -> go.Figure:
    """`core.functional.sink_tables.crossing`, with the receiver's own as a dotted line; `labels` of
    conditions in the order of the lines."""
    c = colours()
    lines = [condition for condition in labels if condition in set(table.condition)]
    figure = make_subplots(
        rows=1,
        cols=2,
        subplot_titles=[title.replace(" the ", "<br>the ") for title in PANELS.values()],
        shared_yaxes=True,
        horizontal_spacing=0.06,
    )
    for col, column in enumerate(PANELS, 1):
        for direction, side, shift in zip(DIRECTIONS, "ba", (OFFSET, -OFFSET), strict=True):
            rows = table.loc[(table.direction == direction) & table.condition.isin(lines)]
            own = rows.loc[rows.condition == "own", column]
            figure.add_vline(
                x=float(own.iloc[0]),
                line={"color": c[side], "width": 1, "dash": "dot"},
                exclude_empty_subplots=False,
                row=1,  # type: ignore[arg-type]
                col=col,  # type: ignore[arg-type]
            )
            for role, conditions in ROLES.items():
                some = rows.loc[rows.condition.isin(conditions)]
                at = [len(lines) - lines.index(name) + shift for name in some.condition]
                figure.add_scatter(
                    x=some[column],
                    y=at,
                    mode="markers",
                    marker=look(role, side),
                    name=f"into {names[side]}",
                    showlegend=False,
                    error_x={
                        "type": "data",
                        "array": some[f"{column}_high"] - some[column],
                        "arrayminus": some[column] - some[f"{column}_low"],
                        "thickness": 1,
                        "width": 0,
                        "color": c["control"],
                    },
                    customdata=handed(
                        some.assign(label=some.condition.map(dict(labels)))[
                            ["label", f"{column}_low", f"{column}_high"]
                        ]
                    ),
                    hovertemplate=(
                        f"<b>into {names[side]}</b>, %{{customdata[0]}}<br>{PANELS[column]}"
                        " %{x:.2f} [%{customdata[1]:.2f}, %{customdata[2]:.2f}]<extra></extra>"
                    ),
                    row=1,
                    col=col,
                )
    for side in "ba":
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            marker=look("transferred", side),
            name=f"into {names[side]}",
        )
    figure.add_scatter(
        x=[None],
        y=[None],
        mode="markers",
        marker=look("control", "a"),
        name="control",
    )
    figure.update_layout(
        height=110 + 34 * len(lines),
        margin={"l": 0, "r": 8, "t": 46, "b": 0},
        dragmode=False,
        hovermode="closest",
        legend=LEGEND | {"y": -0.12, "yanchor": "top"},
    )
    figure.update_annotations(font_size=13)
    figure.update_xaxes(range=[-0.02, 1.02], fixedrange=True, zeroline=False)
    figure.update_yaxes(
        tickvals=[len(lines) - place for place in range(len(lines))],
        ticktext=[labels[name] for name in lines],
        range=[0.4, len(lines) + 0.6],
        fixedrange=True,
        automargin=True,
        zeroline=False,
    )
    return figure
