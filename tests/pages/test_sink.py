"""Whether the sink crosses, on the Functional features page and on the Paper page: a door, then what
was measured."""

from pathlib import Path

import pandas as pd
import pytest

from core.workspace.store import Workspace
from tests.helpers.app import opened, text

COMMAND = "python -m core stitch sink nano"
CONDITIONS = ("own", "kept", "ordinary", "two_piece", "mean", "shuffled")


def interval(name: str, value: float) -> dict[str, float]:
    return {name: value, f"{name}_low": value - 0.01, f"{name}_high": value + 0.01}


def plant(ws: Workspace, name: str = "L2-L3") -> None:
    """Two pieces cross to 0.77, the ordinary map to 0.05, of 0.8."""
    makers = {"layer_a": 2, "layer_b": 3, "documents": 64}
    share = dict(zip(CONDITIONS, (0.8, 0.8, 0.05, 0.77, 0.77, 0.06), strict=True))
    crossing, losses, speech = [], [], []
    for direction in ("a_to_b", "b_to_a"):
        source = {"direction": direction, "condition": "source", "documents": 9}
        crossing.append(source | interval("share", 0.27))
        for condition in CONDITIONS:
            at = {"direction": direction, "condition": condition}
            row = at | interval("share", share[condition])
            row |= interval("share_of_own", share[condition] / 0.8)
            row |= interval("attention", share[condition] / 2)
            row |= interval("attention_of_own", share[condition] / 0.8)
            crossing.append(row | {"norm": 1.0, "cosine": 1.0, "documents": 9, "positions": 90})
            for kind in ("", "English"):
                more = interval("more", float("nan") if condition == "own" else 0.02)
                losses.append(at | {"kind": kind, "loss": 4.0, "documents": 9} | more)
            written = at | interval("loss", 2.5) | interval("repetition", 0.1)
            speech.append(written | interval("changed", 0.25) | {"prompts": 4})
    for part, rows in (("crossing", crossing), ("losses", losses), ("speech", speech)):
        ws.put_table(f"sinks/{name}/{part}", pd.DataFrame(rows), makers)
    about = {"first": 64, "massive_a": 3, "massive_b": 0, "rank_up": 1, "rank_down": 0}
    ws.put_record(f"sinks/{name}/about", about, makers)
    ws.put(f"sinks/{name}/map", lambda path: path.touch(), "sink", ".safetensors", makers)


def emptied(ws: Workspace) -> None:
    for name in ws.names(prefix="sinks/"):
        ws.remove(name)


def test_what_is_not_measured_is_a_door(nano_home: Path) -> None:
    emptied(Workspace("nano"))
    app = opened("functional", pair="nano")
    assert not app.exception and COMMAND in [block.value for block in app.code]
    paper = opened("paper", pair="nano")
    assert not paper.exception and COMMAND in [block.value for block in paper.code]


def test_it_is_said_with_intervals(nano_home: Path) -> None:
    ws = Workspace("nano")
    emptied(ws)
    plant(ws)
    app = opened("functional", pair="nano")
    assert not app.exception and not app.error
    assert COMMAND not in [block.value for block in app.code]
    said = text(app).replace("\\", "")
    assert "**0.77 [0.76, 0.78]** of the sink in the null space (nano-b's own 0.80" in said
    assert "+0.020 [+0.010, +0.030] nats/token" in said
    assert "64 first tokens and 3 massive activations" in said

    paper = text(opened("paper", pair="nano")).replace("\\", "")
    assert "nano-a to nano-b: 0.27 before; after, 0.050 by the ordinary map, 0.77" in paper


@pytest.mark.parametrize("query", ["L9-L9", "<b>"])
def test_a_link_to_what_is_not_there_says_so(nano_home: Path, query: str) -> None:
    ws = Workspace("nano")
    plant(ws)
    plant(ws, "L3-L4")
    app = opened("functional", pair="nano", sink_of=query)
    assert not app.exception
    assert any("No sink of a stitch" in warning.value for warning in app.warning)
    app = opened("functional", pair="nano", sink_of="L3-L4")
    assert not app.exception and not app.warning
    assert "Stitch L3-L4" in text(app).replace("\\", "")
