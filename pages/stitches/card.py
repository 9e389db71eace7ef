"""The report card of a stitch that was brought."""

from typing import Any

import streamlit as st

from core.models.pairs import PairSpec
from core.stitches import conditions
from core.stitches import tables as stitch_tables
from core.workspace import store
from core.workspace.store import Workspace
from pages.shared import frame, panels
from pages.shared.frame import ask
from pages.shared.words import named, number, percent, plain, short_names


def card(ws: Workspace, pair: PairSpec, name: str) -> None:
    if not store.has(ws, f"cards/{name}"):
        return
    record = ask(stitch_tables.card, ws, name)
    st.subheader("Report card", anchor="card")
    names = short_names(pair)
    panels.warnings(record["warnings"], names)
    frame.cells(facts(record, names))

    layout = "; ".join(
        f"{plain(part)}{': ' if role.startswith('not used') else ' is '}{plain(role)}"
        for part, role in record["layout"].items()
    )
    reading = f"{plain(record['reading'])} " if record.get("reading") else ""
    losses = ", ".join(
        f"{plain(named(conditions.BY_KEY[row['condition']].label, names))}"
        f" {percent(row['relative'])}"
        for row in record["table_1"]
        if row["condition"] not in ("a", "b")
    )
    st.caption(
        f"As read: {layout}. {reading}Next-token loss above the unpatched model, on all text:"
        f" {losses}; kinds of text apart are below. "
        f"{record['positions']:,} paired positions. (Table 1)"
    )


def facts(record: dict[str, Any], names: dict[str, str]) -> list[tuple[str, str, str]]:
    """What is known of each way, and of going there and back."""
    a, b = plain(names["a"]), plain(names["b"])
    leads = {"up": f"{a} → {b}", "down": f"{b} → {a}"}
    cells = []
    for way in record["ways"]:
        cells += [
            (
                f"FUV, {leads[way]} ↓",
                percent(record[f"fuv_{way}"], sign=False),
                "variance unexplained, held-out sample",
            ),
            (
                f"Effective rank, {leads[way]}",
                f"{record[f'rank_{way}']:.0f}",
                f"norm {number(record[f'norm_{way}'])}",
            ),
            (
                f"Distance to ours, {leads[way]}",
                number(record[f"distance_{way}"]),
                f"relative; ours {record['ours']}",
            ),
        ]
    if "inversion_a" in record:
        cells += [
            (
                f"Inversion, {plain(names[side])} ↓",
                percent(record[f"inversion_{side}"], sign=False),
                "variance lost there and back",
            )
            for side in ("a", "b")
        ]
    return cells
