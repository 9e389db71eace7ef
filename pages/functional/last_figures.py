"""The figure of entropy features at the last layers (Fig. 5a again, and causally)."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from pages.shared.figures import LEGEND, colours, handed, marker, remembered

SHOWN = 0.3
"""Size of the planted features that are drawn, over the norm of the residual stream."""
ACROSS = {"share": "share in the<br>null space", "frozen": "change, scale<br>frozen, nats"}


@remembered
def last_layer(table: pd.DataFrame, planted: pd.DataFrame, side: str) -> go.Figure:
    """`core.functional.last_tables.features` and `.plants`: the change of entropy against the share
    of the null space, and against the change with the final norm's scale frozen."""
    c = colours()
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.05)
    drawn = planted.loc[np.isclose(planted.planted, SHOWN, atol=1e-3)]
    own = table.loc[table.kind == "feature"]
    found = marker("unpatched", side, 11) | {"line": {"color": c["ink"], "width": 2}}
    groups: list[tuple[str, pd.DataFrame, dict[str, Any]]] = [
        ("feature", own.loc[~own.found], {"size": 4, "color": c[side], "opacity": 0.4}),
        (
            "random direction",
            table.loc[table.kind == "random direction"],
            marker("control", side, 7),
        ),
        (
            "random SAE",
            table.loc[table.kind == "random SAE"],
            {"symbol": "square-open", "size": 6, "color": c["control"]},
        ),
        (
            "planted, not read at all",
            drawn.loc[drawn.kind == "unread"],
            {"symbol": "star-open", "size": 9, "color": c["ink"]},
        ),
        (
            "planted in the null space",
            drawn.loc[drawn.kind == "entropy"],
            {"symbol": "triangle-up-open", "size": 9, "color": c["ink"]},
        ),
        (
            "planted semantic feature",
            drawn.loc[drawn.kind == "semantic"],
            {"symbol": "x-thin-open", "size": 7, "color": c["ink"]},
        ),
        ("entropy feature", own.loc[own.found], found),
    ]
    for col, across in enumerate(ACROSS, 1):
        for name, rows, look in groups:
            figure.add_scatter(
                x=rows[across].to_numpy(np.float32),
                y=rows.free.to_numpy(np.float32),
                mode="markers",
                marker=look,
                name=name,
                legendgroup=name,
                showlegend=col == 1 and len(rows) > 0,
                customdata=handed(_about(rows)),
                hovertemplate=(
                    f"<b>{name} %{{customdata[0]}}</b><br>entropy %{{y:+.3f}} nats"
                    " [%{customdata[1]:+.3f}, %{customdata[2]:+.3f}], scale frozen"
                    " %{customdata[3]:+.3f}<br>%{customdata[4]:.2f} of its norm in the null space;"
                    " %{customdata[5]:.2f} of the stream's norm, %{customdata[6]}"
                    " places<extra></extra>"
                ),
                row=1,
                col=col,
            )

    low, high = float(table.free.min()), float(table.free.max())
    line = {"color": c["control"], "width": 1, "dash": "dot"}
    figure.add_scatter(
        x=[low, high],
        y=[low, high],
        mode="lines",
        line=line,
        hoverinfo="skip",
        showlegend=False,
        row=1,
        col=2,
    )
    figure.add_vline(x=0, line=line, row=1, col=2)  # type: ignore[arg-type]
    figure.add_hline(y=0, line=line)
    for col, title in enumerate(ACROSS.values(), 1):
        figure.update_xaxes(title=title, fixedrange=True, col=col)
    figure.update_xaxes(rangemode="tozero", col=1)
    figure.update_yaxes(fixedrange=True)
    figure.update_yaxes(title="change of entropy, nats", col=1)
    figure.update_layout(
        height=420,
        margin={"l": 0, "r": 8, "t": 10, "b": 76},
        hovermode="closest",
        dragmode=False,
        legend=LEGEND | {"y": -0.36, "yanchor": "top"},
    )
    return figure


def _about(rows: pd.DataFrame) -> pd.DataFrame:
    """What the hover says, beginning with the number of a feature; planted ones have none."""
    number = rows.feature.astype(str) if "feature" in rows else ""
    columns = ["free_low", "free_high", "frozen", "share", "size", "places"]
    return rows.loc[:, columns].assign(number=number).loc[:, ["number", *columns]]
