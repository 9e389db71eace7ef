"""Figures: what they hand to the browser, what comes back, and that each is built once."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest

from core.stitches import tables as stitch_tables
from core.workspace.store import Workspace
from pages.features import figures
from pages.shared import figures as figures_base
from tests.helpers.app import opened


@pytest.mark.parametrize(
    "data",
    [[7, "a", 0.5], (7, "a", 0.5), {"0": 7, "1": "a", "2": 0.5}, {"2": 0.5, "0": 7, "1": "a"}],
)
def test_what_is_picked_reads_the_same_in_every_form(data: Any) -> None:
    points = [{"customdata": data}, {"x": 1.0}, {"customdata": None}, {"customdata": 3}]
    assert figures_base.picked({"selection": {"points": points}}) == [[7, "a", 0.5], [3]]
    assert figures_base.picked(None) == [] and figures_base.picked({}) == []
    many = {str(k): k for k in range(12)}
    assert figures_base.picked({"selection": {"points": [{"customdata": many}]}}) == [
        list(range(12))
    ]


def test_no_chart_hands_bytes_as_customdata(nano_home: Path) -> None:
    """An array would come back from the browser as an object."""
    drawn = 0
    for page in ("", "stitches", "features", "functional", "steering", "probes", "training"):
        app = opened(page, pair="nano", **({"tab": "Evaluation"} if page == "steering" else {}))
        assert not app.exception
        for chart in app.get("plotly_chart"):
            for trace in json.loads(chart.proto.spec)["data"]:
                drawn += 1
                assert isinstance(trace.get("customdata", []), list), (page, trace.get("name"))
                assert all(isinstance(row, list) for row in trace.get("customdata", [])), (
                    page,
                    trace.get("name"),
                )
    assert drawn > 50


def test_the_share_of_structural_features_is_counted() -> None:
    """By hand: six features between 0.1 and 0.2, two of them structural; one alone at the very end;
    others left out."""
    kinds = ["structural"] * 2 + ["semantic"] * 4 + ["structural", "unseen", "dead", "semantic"]
    table = pd.DataFrame(
        {"correlation": [0.15] * 6 + [1.0, 0.15, 0.15, float("nan")], "kind": kinds}
    )
    shares = stitch_tables.structural_share(table)
    assert len(shares) == 20 and shares.n.sum() == 7 and shares.structural.sum() == 3
    row = shares.loc[(shares.low < 0.15) & (shares.high > 0.15)].iloc[0]
    assert (row.structural, row.n) == (2, 6) and row.share == pytest.approx(1 / 3)
    assert (shares.structural.iloc[-1], shares.n.iloc[-1], shares.share.iloc[-1]) == (1, 1, 1.0)
    assert shares.share.notna().sum() == 2, "no share of nothing"
    figure = figures.classes(table, shares)
    (line,) = figure.layout.shapes  # type: ignore[attr-defined]
    assert line.y0 == pytest.approx(3 / 7), "dotted: over all"


def test_a_figure_is_built_once_for_the_same_table_and_anew_for_another(ws: Workspace) -> None:
    table = pd.DataFrame({"x": [1.0, 2.0], "tokens": [[1, 2], [3]]})
    built: list[float] = []

    @figures_base.remembered
    def once(table: pd.DataFrame, side: str) -> go.Figure:
        built.append(table.x.sum())
        return go.Figure(go.Bar(x=table.x))

    first = once(table, "a")
    assert once(table.copy(), "a") is first and len(built) == 1
    lists, number, order = table.assign(tokens=[[1, 2], [4]]), table.copy(), table.iloc[::-1]
    number.loc[0, "x"] = 1.0 + 1e-12
    for other in (lists, number, order, table.rename(columns={"tokens": "ends"})):
        before = len(built)
        once(other, "a")
        assert len(built) == before + 1
    assert once(table, "b") is not first
