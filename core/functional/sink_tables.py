"""What was measured of stitches in two pieces, for pages and reports. Never imports torch."""

from typing import Any

import pandas as pd

from core.workspace import store
from core.workspace.store import Workspace

CONDITIONS = {
    "source": "before it crosses",
    "own": "the receiver's own",
    "kept": "today: the first token does not cross",
    "ordinary": "every token by the ordinary map",
    "two_piece": "in two pieces",
    "mean": "in two pieces, the mean sink vector alone",
    "shuffled": "in two pieces, of shuffled pairs",
}
"""What crosses, in the order in which it is shown."""
CONTROLS = ("ordinary", "shuffled", "mean")
DIRECTIONS = ("a_to_b", "b_to_a")
"""Who is left and who receives."""


def sinks(ws: Workspace) -> list[str]:
    """The stitches whose second piece was fitted and measured, by name."""
    names = ws.names(prefix="sinks/")
    return [name.split("/")[1] for name in names if name.endswith("/losses")]


def crossing(ws: Workspace, name: str) -> pd.DataFrame:
    """The sink's direction and attention to it: see `core.functional.sinks`."""
    return _ordered(ws.table(f"sinks/{name}/crossing"))


def losses(ws: Workspace, name: str) -> pd.DataFrame:
    """Loss where every position crosses, by kind of text ('' for all): see
    `core.stitches.sink_losses`."""
    return _ordered(ws.table(f"sinks/{name}/losses"))


def speech(ws: Workspace, name: str) -> pd.DataFrame:
    """What was written: see `core.steering.sink_speech`. Empty where it was not measured."""
    full = f"sinks/{name}/speech"
    return _ordered(ws.table(full)) if store.has(ws, full) else pd.DataFrame()


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    order = {condition: place for place, condition in enumerate(CONDITIONS)}
    by = {"direction": {direction: place for place, direction in enumerate(DIRECTIONS)}}
    keys = {"condition": order, **by}
    return table.sort_values(
        ["direction", "condition"],
        key=lambda column: column.map(keys[str(column.name)]),
        kind="stable",
    ).reset_index(drop=True)


def summary(ws: Workspace, name: str) -> dict[str, Any]:
    """What `report --json` says of one stitch: `first`, `massive_a`, `massive_b`, how many rows of
    which kind the second piece was fitted on; by direction and condition the shares in the null
    space and attention (`crossing`), losses by kind of text ('all text' too) and what was written
    (`speech`)."""
    known = store.makers(ws, f"sinks/{name}/map")
    out: dict[str, Any] = {
        "layer_a": known["layer_a"],
        "layer_b": known["layer_b"],
        "documents": known["documents"],
        "rows": ws.record(f"sinks/{name}/about"),
    }
    for direction in DIRECTIONS:
        out[direction] = {
            "crossing": _by_condition(crossing(ws, name), direction),
            "losses": {
                str(kind) or "all text": _by_condition(rows, direction)
                for kind, rows in losses(ws, name).groupby("kind", sort=False)
            },
            "speech": _by_condition(speech(ws, name), direction),
        }
    return out


def _by_condition(table: pd.DataFrame, direction: str) -> dict[str, Any]:
    """A record a condition; what was not measured of one is left out."""
    if table.empty:
        return {}
    rows = table.loc[table.direction == direction]
    left_out = ["direction", "condition", "kind", "model"]
    return {
        str(row["condition"]): {
            key: value for key, value in row.items() if key not in left_out and value == value
        }
        for row in rows.to_dict("records")
    }


def as_text(name: str, found: dict[str, Any]) -> str:
    """For a terminal."""
    rows = found["rows"]
    lines = [
        f"stitch {name} in two pieces, from {rows['first']:,} first tokens and"
        f" {rows['massive_a']:,} massive rows of A, {rows['massive_b']:,} of B"
        f" (rank {rows['rank_up']} up, {rows['rank_down']} down)"
    ]
    for direction, arrow in zip(DIRECTIONS, ("A→B", "B→A"), strict=True):
        of_direction = found[direction]
        crossing, losses = of_direction["crossing"], of_direction["losses"]["all text"]
        source = crossing["source"]["share"]
        lines.append(f"{arrow}, before it crosses: {source:.2f} of the sink in the null space")
        for condition in losses:
            row, cost = crossing[condition], losses[condition]
            more = (
                f", {cost['more']:+.4f} [{cost['more_low']:+.4f}, {cost['more_high']:+.4f}] against"
                " today"
                if "more" in cost
                else ""
            )
            written = of_direction["speech"].get(condition)
            says = (
                ""
                if written is None
                else f"; writes at {written['loss']:.2f} nats/token, {written['changed']:.0%} of"
                " texts changed"
            )
            lines.append(
                f"  {CONDITIONS[condition]:44} share {row['share']:.3f}"
                f" [{row['share_low']:.3f}, {row['share_high']:.3f}], attention"
                f" {row['attention']:.3f}, loss {cost['loss']:.3f}{more}{says}"
            )
    return "\n".join(lines)
