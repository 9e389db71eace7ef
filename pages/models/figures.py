"""What a build takes, step by step."""

import plotly.graph_objects as go

from pages.shared.figures import colours, remembered
from pages.shared.words import duration


@remembered
def seconds(steps: dict[str, float]) -> go.Figure:
    """Estimated minutes of each step, in the order in which they come."""
    c = colours()
    names, took = list(steps)[::-1], list(steps.values())[::-1]
    figure = go.Figure(
        go.Bar(
            x=[s / 60 for s in took],
            y=names,
            orientation="h",
            marker={"color": c["control"]},
            cliponaxis=False,
            text=[duration(s) for s in took],
            textposition="outside",
            hovertemplate="%{y}: %{text}<extra></extra>",
        )
    )
    figure.update_layout(
        height=60 + 34 * len(names),
        margin={"l": 8, "r": 60, "t": 8, "b": 40},
        xaxis={"title": "minutes"},
        yaxis={"automargin": True},
    )
    return figure
