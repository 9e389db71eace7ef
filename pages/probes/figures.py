"""Accuracy of probes against the number of features, as in Fig. 3a, 9 and 10; colours as
everywhere."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from core.probes.tables import WAYS
from pages.shared.figures import LEGEND, colours, handed, marker, remembered

FAMILIES = {
    "own": "dense_own",
    "retrained": "",
    "reused": "dense_moved",
    "source": "dense_source",
    "random": "",
    "shuffled": "dense_shuffled",
    "dense_centred": "",
}
"""Sparse ways to probe, each with the dense one that belongs to it."""
LINES = {"reused": "dash", "shuffled": "dot", "random": "solid", "source": "dot"}
DENSE = "dense"


def _style(method: str) -> dict[str, Any]:
    c, way = colours(), WAYS[method]
    colour = c["control"] if way.role == "control" else c[way.model]
    look = marker(way.role, way.model, 9)
    if method == "random":
        look = look | {"symbol": "square-open"}
    width = 1.5 if way.role == "control" or method == "source" else 2.5
    return {
        "marker": look,
        "line": {"color": colour, "width": width, "dash": LINES.get(method, "solid")},
    }


def _add(
    figure: go.Figure,
    table: pd.DataFrame,
    legend: bool,
    where: dict[str, int],
    bars: bool,
) -> None:
    """The lines of one task; `table` is a `probe_tables.curve`."""
    for method, dense in FAMILIES.items():
        sparse = table.index[table.method == method]
        if sparse.empty:
            continue
        # An empty row between them breaks the line.
        rows = table.reindex([*sparse, -1, *table.index[table.method == dense]])
        x = [DENSE if k == 0 else None if pd.isna(k) else str(int(k)) for k in rows.k]
        above, below = rows.high - rows.accuracy, rows.accuracy - rows.low
        error = {"type": "data", "array": above, "arrayminus": below, "thickness": 1, "width": 0}
        intervals = {"error_y": error | {"color": colours()["control"]}} if bars else {}
        figure.add_scatter(
            x=x,
            y=rows.accuracy,
            name=rows.way.iloc[0],
            mode="lines+markers",
            connectgaps=False,
            showlegend=legend,
            customdata=handed(rows[["way", "says", "low", "high", "auc"]]),
            **_style(method),
            **intervals,
            hovertemplate=(
                "<b>%{customdata[0]}</b>, %{x}<br>%{customdata[1]}<br>%{y:.3f}"
                " [%{customdata[2]:.3f}, %{customdata[3]:.3f}], AUC"
                " %{customdata[4]:.3f}<extra></extra>"
            ),
            **where,
        )


def _order(table: pd.DataFrame) -> list[str]:
    return [*(str(k) for k in sorted(table.k.unique()) if k), DENSE]


@remembered
def probes(table: pd.DataFrame) -> go.Figure:
    """Fig. 3a for one task or a mean; dense probes at the right end, and as lines across (dashed:
    of B, dotted: of A, moved), as in the paper."""
    figure, c = go.Figure(), colours()
    _add(figure, table, True, {}, True)
    for method, dash in (("dense_own", "dash"), ("dense_moved", "dot")):
        rows = table.loc[table.method == method]
        if len(rows):
            figure.add_hline(
                y=float(rows.accuracy.iloc[0]), line={"color": c["b"], "width": 1, "dash": dash}
            )
    figure.update_layout(
        height=430,
        margin={"l": 0, "r": 8, "t": 30, "b": 0},
        dragmode=False,
        hovermode="closest",
        legend=LEGEND,
    )
    figure.update_xaxes(
        title="features, k",
        type="category",
        categoryorder="array",
        categoryarray=_order(table),
        fixedrange=True,
        showgrid=False,
    )
    lowest = min(0.45, float(table.low.min()) - 0.02)
    figure.update_yaxes(
        title="test accuracy (↑ better)", range=[lowest, 1.01], fixedrange=True, zeroline=False
    )
    return figure


@remembered
def grid(tables: dict[str, pd.DataFrame]) -> go.Figure:
    """Fig. 9 and 10: one small figure a dataset, by its title."""
    rows = -(-len(tables) // 2)
    figure = make_subplots(
        rows=rows,
        cols=2,
        subplot_titles=list(tables),
        shared_yaxes=True,
        shared_xaxes=True,
        vertical_spacing=0.24 / rows,
        horizontal_spacing=0.03,
    )
    for i, table in enumerate(tables.values()):
        _add(figure, table, i == 0, {"row": i // 2 + 1, "col": i % 2 + 1}, False)
    order = _order(next(iter(tables.values())))
    figure.update_layout(
        height=60 + 190 * rows,
        margin={"l": 0, "r": 8, "t": 60, "b": 0},
        dragmode=False,
        hovermode="closest",
        legend=LEGEND | {"y": 1.0 + 0.16 / rows},
    )
    figure.update_annotations(font={"size": 12})
    figure.update_xaxes(
        type="category", categoryorder="array", categoryarray=order, fixedrange=True, showgrid=False
    )
    figure.update_yaxes(range=[0.35, 1.03], fixedrange=True, zeroline=False)
    return figure
