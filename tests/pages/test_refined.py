"""Is mean squared error enough? On the Stitches page and on the Paper page: a door, then one sentence,
a figure and the price."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from core.stitches import refined_tables
from core.stitches.conditions import BY_KEY, STITCHED
from core.stitches.settings import CEILINGS, STARTS
from core.workspace.store import Workspace
from pages.shared.words import NARROW
from pages.stitches import figures
from tests.helpers.app import opened, text

COMMAND = "python -m core stitch refine nano L2-L3"
SETTING = {"of": "L2-L3", "objective": "kl", "kinds": ["English"], "inversion": 1.0}


def rows(change: float) -> list[dict[str, object]]:
    """Each start and way: 20 % before, `change` of it gained by the fitted stitch alone."""
    table = []
    for start in STARTS:
        for way in STITCHED if start == "paired" else STITCHED[:2]:
            before, gain = (0.2, change) if start == "paired" else (1.5, 0.0)
            measured = {"before": before, "after": before + gain}
            row: dict[str, object] = {
                "start": start,
                "condition": way,
                "model": BY_KEY[way].model,
                "documents": 10,
                "loss_unpatched": 4.0,
                "change": gain,
                "change_low": gain - 0.01,
                "change_high": gain + 0.01,
            }
            for when, relative in measured.items():
                row |= {
                    f"loss_{when}": 4.0 * (1 + relative),
                    f"relative_{when}": relative,
                    f"relative_{when}_low": relative - 0.02,
                    f"relative_{when}_high": relative + 0.02,
                    f"kl_{when}": 0.5,
                    f"unexplained_{when}": np.nan,
                }
            table.append(row)
    return table


def plant(ws: Workspace, change: float, name: str = "<b>x") -> None:
    for full in ws.names(prefix="refine"):
        ws.remove(full)
    table = pd.concat([pd.DataFrame(rows(change)).assign(kind=k) for k in ("code", "English")])
    ws.put_table("refine/one", table, SETTING | {"trained": 1000, "seed": 0, "of": name})
    price = {"sae": "L2-1024", "measure": "agreement, median", "before": 0.69, "after": 0.5}
    ws.put_table("refine_price/one", pd.DataFrame([price]), SETTING)


def test_what_is_not_measured_is_a_door(nano_home: Path) -> None:
    ws = Workspace("nano")
    for full in ws.names(prefix="refine"):
        ws.remove(full)
    for page in ("stitches", "paper"):
        app = opened(page, pair="nano")
        assert not app.exception and not app.error
        assert COMMAND in [block.value for block in app.code]


@pytest.mark.parametrize(("change", "verdict"), [(-0.1, "**Not quite:**"), (0.0, "**No gain:**")])
def test_one_sentence_answers_with_intervals(nano_home: Path, change: float, verdict: str) -> None:
    ws = Workspace("nano")
    plant(ws, change)
    after = round(100 * (0.2 + change))
    for page in ("stitches", "paper"):
        app = opened(page, pair="nano")
        assert not app.exception and not app.error
        said = text(app).replace(NARROW, " ")
        assert verdict in said and COMMAND not in [block.value for block in app.code]
        assert f"+{after} [+{after - 2}, +{after + 2}] % instead of +20 [+18, +22] %" in said
        assert r"\<b\>x" in said and "<b>x" not in said, "escaped"


def test_the_price_and_every_kind_of_text_are_shown(nano_home: Path) -> None:
    ws = Workspace("nano")
    plant(ws, -0.1)
    table = refined_tables.refinement(ws, "one")
    assert table.kind.iloc[0] == "English", "what it was trained on stands first"
    assert table.start.drop_duplicates().to_list() == list(STARTS)
    app = opened("stitches", pair="nano")
    frames = {tuple(frame.value.columns): frame.value for frame in app.dataframe}
    gained = next(value for columns, value in frames.items() if "KL before, nats ↓" in columns)
    assert len(gained) == 8 and gained.Text.to_list()[0] == "English"
    price = next(value for columns, value in frames.items() if columns[0] == "Measure")
    assert price.to_dict("records") == [
        {"Measure": "agreement, median", "Before": "0.69", "After": "0.50"}
    ]
    assert "Controls got the same training" in text(app)


def test_a_ceiling_is_no_control_and_says_what_being_affine_costs(nano_home: Path) -> None:
    ws = Workspace("nano")
    plant(ws, -0.1)
    assert "being affine" not in text(opened("stitches", pair="nano"))

    ceiling = pd.DataFrame([row for row in rows(-0.15) if row["start"] == "paired"])
    ceiling = ceiling[ceiling.condition.isin(STITCHED[:2])]
    parts = [ceiling.assign(kind="English", start=start) for start in CEILINGS]
    ws.put_table("ceiling/one", pd.concat(parts), {"hidden": 8})
    said = text(opened("stitches", pair="nano")).replace(NARROW, " ")
    cost = "+5.0 [+3.0, +7.0] %"
    assert f"with a hidden layer would cost {cost} and {cost}: what lies between is" in said
    assert "A ceiling, by which no feature crosses" in said

    table = refined_tables.refinement(ws, "one")
    assert table.start.drop_duplicates().to_list() == [*STARTS, *CEILINGS]
    drawn = figures.refined(table.loc[table.kind == "English"], "one", "other")
    marks = {trace.name: trace.marker.symbol for trace in drawn.data if trace.name}
    assert marks["after, ceiling"] == "triangle-up" and marks["after, control"] == "square"


def test_a_table_that_lacks_a_column_is_said_in_its_place(nano_home: Path) -> None:
    ws = Workspace("nano")
    plant(ws, -0.1)
    table = ws.table("refine/one").drop(columns=["change"])
    ws.put_table("refine/one", table, SETTING | {"trained": 1000})
    app = opened("stitches", pair="nano")
    assert not app.exception
    assert any("without change" in box.value for box in app.error)
