"""Kinds of text apart: what is quoted is what both models read, and how much of it crossed."""

from pathlib import Path

import pandas as pd
import pytest

from core.errors import StitchLensError
from core.stitches import tables
from core.stitches.kinds import beside_the_paper, by_kind, headline, headlines
from core.workspace.store import Workspace
from tests.helpers.planted import LOSSES, MAKERS, kinds, plant


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = plant(tmp_path)
    ws.put_table("kinds/L20-L9", kinds(), MAKERS)
    return ws


def test_the_text_that_both_models_read_best_comes_first(ws: Workspace) -> None:
    """Greek costs less, for little of it crosses: it must not stand for the stitch."""
    table = by_kind(ws, "L20-L9")
    assert table.kind.to_list() == ["English", "Greek"]
    assert table.b_to_a_relative[1] < table.b_to_a_relative[0] / 10
    assert table.crossed_a.to_list() == [0.9, 0.1]
    assert table.crossed_b.to_list() == [0.95, 0.95]


def test_an_increase_over_what_crossed_is_not_thinned_by_what_did_not(ws: Workspace) -> None:
    table = by_kind(ws, "L20-L9").set_index("kind")
    rise = LOSSES["b_to_a"] / LOSSES["a"] - 1
    assert table.b_to_a_relative["Greek"] == pytest.approx(0.1 * rise)
    assert table.b_to_a_crossed["Greek"] == pytest.approx(rise)
    assert table.b_to_a_crossed["English"] == pytest.approx(2 * rise / 0.9)


def test_a_stitch_without_kinds_is_refused_by_name_or_left_empty(ws: Workspace) -> None:
    with pytest.raises(StitchLensError, match="kinds/L10-L9"):
        by_kind(ws, "L10-L9")
    assert headline(ws, "L10-L9") is None
    table = headlines(ws).set_index("name")
    assert table.kind["L20-L9"] == "English"
    assert table.kind["L10-L9"] == "" and pd.isna(table.a_to_b["L10-L9"])


def test_a_table_that_lacks_a_column_is_refused(ws: Workspace) -> None:
    ws.put_table("kinds/L10-L9", kinds().drop(columns="share_patched"), MAKERS)
    with pytest.raises(StitchLensError, match="share_patched"):
        by_kind(ws, "L10-L9")


def test_beside_the_paper_each_row_says_its_text(ws: Workspace) -> None:
    plant(ws.root.parent, "nano")
    table = beside_the_paper(ws, tables.others(ws)).set_index("label")
    assert table.kind["L20-L9"].to_list() == ["English", "all text"], "ours; the other workspace's"
    assert table.kind["L10-L9"] == "all text"
    assert (table.loc[table.source == "the paper"].kind == "").all()
    assert table.a_to_b_relative["L10-L9"] == pytest.approx(LOSSES["a_to_b"] / LOSSES["b"] - 1)
    assert table.a_to_b_relative["L20-L9"].iloc[0] == pytest.approx(
        2 * (LOSSES["a_to_b"] / LOSSES["b"] - 1)
    )
