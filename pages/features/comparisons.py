"""Figures of how many features exist in both models: carried over, and by themselves."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from pages.features.figures import beside_controls
from pages.shared.figures import LEGEND, colours, remembered
from pages.shared.words import percent


@remembered
def agreements(table: pd.DataFrame) -> go.Figure:
    """Agreement of carried features beside its controls. `table` has `agreement`, `random`,
    `shuffled`."""
    figure = beside_controls(table, "agreement", "carried over")
    figure.update_layout(height=300, dragmode=False)
    figure.update_xaxes(title="agreement (→ alike)", range=[-0.2, 1])
    return figure


@remembered
def shares(record: Mapping[str, Any], names: Mapping[str, str]) -> go.Figure:
    """The share of features with a native twin, along the correlation from which two are one;
    controls grey. `record` is that of one kind of text of `core.features.alike.twins_report`."""
    c = colours()
    figure = go.Figure()
    lines = (
        ("share_a", f"of {names['a']}'s, in {names['b']}", c["a"], "solid"),
        ("share_b", f"of {names['b']}'s, in {names['a']}", c["b"], "solid"),
        ("random", "random SAEs", c["control"], "solid"),
        ("shuffled", "shuffled positions", c["control"], "dot"),
    )
    for key, name, colour, dash in lines:
        steps = [float(r) for r in record[key]]
        values = list(record[key].values())
        figure.add_scatter(
            x=steps,
            y=values,
            name=name,
            mode="lines+markers",
            line={"color": colour, "width": 2, "dash": dash},
            hovertemplate=f"%{{y:.0%}} at r of %{{x}} or more<extra>{name}</extra>",
        )
    figure.update_layout(
        height=300,
        margin={"l": 0, "r": 8, "t": 50, "b": 0},
        dragmode=False,
        hovermode="closest",
        legend=LEGEND,
    )
    figure.update_xaxes(title="from which correlation", fixedrange=True, zeroline=False)
    figure.update_yaxes(
        title="features with a twin",
        tickformat=".0%",
        range=[0, 1.03],
        fixedrange=True,
        zeroline=False,
    )
    return figure


PARTS = ("only_a", "shared", "only_b")


@remembered
def shared(record: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> go.Figure:
    """How many features both models have, and how many one of them alone, by kind of text."""
    c = colours()
    kinds = list(record)[::-1]
    figure = go.Figure()
    both = {"color": c["b"], "line": {"color": c["a"], "width": 3}}
    for key, name, marker in (
        ("only_a", f"only in {names['a']}", {"color": c["a"]}),
        ("shared", "in both", both),
        ("only_b", f"only in {names['b']}", {"color": c["b"]}),
    ):
        counts = [record[kind][key] for kind in kinds]
        totals = [sum(record[kind][part] for part in PARTS) for kind in kinds]
        parts = [
            percent(count / max(1, total), sign=False)
            for count, total in zip(counts, totals, strict=True)
        ]
        figure.add_bar(
            y=kinds,
            x=counts,
            name=name,
            orientation="h",
            marker=marker,
            customdata=parts,
            hovertemplate=f"%{{x:,}} features, %{{customdata}}<extra>{name}</extra>",
        )
    figure.update_layout(
        height=90 + 34 * len(kinds),
        barmode="stack",
        margin={"l": 0, "r": 8, "t": 50, "b": 0},
        dragmode=False,
        hovermode="closest",
        legend=LEGEND,
    )
    figure.update_xaxes(title="features", fixedrange=True, zeroline=False)
    figure.update_yaxes(fixedrange=True, automargin=True)
    return figure


def counted(table: pd.DataFrame, least: int) -> pd.DataFrame:
    """Of an agreement table, the features that fire `least` times or more in both models; of a
    random SAE's, those that fire as often."""
    often = (table.firings_a >= least) & (table.firings_b >= least)
    columns = table[["agreement", "random", "shuffled"]]
    random = columns.random.where(table.random_firings >= least)
    return columns.where(often).assign(random=random)
