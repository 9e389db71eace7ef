"""Is mean squared error enough? What a stitch gains that is trained on predictions, and what its
features pay."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from core.models.pairs import PairSpec
from core.stitches import refined_tables
from core.stitches.conditions import BY_KEY, STITCHED
from core.stitches.settings import CEILINGS, STARTS
from core.workspace.store import Workspace
from pages.shared import frame, panels
from pages.shared.figures import draw
from pages.shared.frame import ask
from pages.shared.words import named, number, percent, plain, short_names
from pages.stitches.figures import refined as figure

OBJECTIVES = {
    "kl": "the reading model's own predictions",
    "features": "the reading model's last stream",
    "loss": "the next token",
}
"""What a stitch is refined on, in words."""


def refined(ws: Workspace, pair: PairSpec, default: str) -> None:
    """One sentence, a figure before and after with controls, and the price."""
    st.subheader("Is mean squared error enough?", anchor="refined")
    names = ask(refined_tables.refined_names, ws)
    if not names:
        panels.door(
            "**Not measured here yet.** A stitch is fitted by mean squared error. This trains it a"
            " little more on what the models themselves predict, and measures what that gains.",
            f"python -m core stitch refine {ws.pair} {default}",
        )
        return

    name = names[0]
    models = short_names(pair)
    st.markdown(answer(ws, name, {side: plain(model) for side, model in models.items()}))
    table = ask(refined_tables.refinement, ws, name)
    first = table.kind.iloc[0]
    shown = table.loc[table.kind == first]
    setting = ask(refined_tables.about, ws, name)
    controls = ""
    if shown.start.isin(STARTS[1:]).any():
        controls = (
            " Controls got the same training: a stitch of shuffled pairs, and the mean stream in"
            " the place of every row."
        )
    if shown.start.isin(CEILINGS).any():
        controls += (
            " A ceiling, by which no feature crosses: a hidden layer beside least squares, by"
            " squared error, then refined like the stitch."
        )
    draw(
        figure(shown, *models.values()),
        "How much more the model that comes last loses than by itself, before and after, on"
        f" {plain(first)}.{controls}  \n:small[{plain(setting['of'])}, trained on"
        f" {OBJECTIVES[setting['objective']]} over {setting['trained']:,} tokens; held-out split,"
        f" {shown.documents.max():,} documents, bars are 95 % bootstrap intervals over documents.]",
        key="refined",
        alt=f"Losses through stitch {name} before and after it was refined, with controls",
    )
    left, right = st.columns(2, gap="large")
    with left:
        gains(table, models)
    with right:
        price(ask(refined_tables.price, ws, name), models)
    for other in names[1:]:
        st.markdown(answer(ws, other, {side: plain(model) for side, model in models.items()}))


def answer(ws: Workspace, name: str, names: Mapping[str, str]) -> str:
    """One sentence, in markdown; `names` of both models by side, escaped."""
    gained: dict[str, Any] = ask(refined_tables.gained, ws, name)
    setting = ask(refined_tables.about, ws, name)
    up, down = gained["a_to_b"], gained["b_to_a"]
    better = [way for way in (up, down) if way["change_high"] < 0]
    verdict = ("No gain", "Not quite, one way", "Not quite")[len(better)]

    parts = []
    for way in (up, down):
        label = named(BY_KEY[way["condition"]].label, names)
        before, after = (
            percent(*(way[f"relative_{when}{end}"] for end in ("", "_low", "_high")))
            for when in ("before", "after")
        )
        parts.append(f"{label} costs {after} instead of {before}")
    rounds = " and ".join(percent(gained[way]["relative_after"]) for way in STITCHED[2:])
    return (
        f"**{verdict}:** trained on {OBJECTIVES[setting['objective']]}, {plain(setting['of'])} on"
        f" {plain(gained['kind'])}: {'; '.join(parts)}; round trips {rounds}."
        f"{_unexplained(ws, name, names)}{_ceiling(ws, name)}"
    )


def _unexplained(ws: Workspace, name: str, names: Mapping[str, str]) -> str:
    """A sentence: what a better prediction costs in variance."""
    table = ask(refined_tables.refinement, ws, name)
    one_way = table.condition.isin(STITCHED[:2])
    rows = table.loc[(table.start == "paired") & one_way & table.unexplained_after.notna()]
    shares = [
        f"{percent(row['unexplained_after'], sign=False)} of {names[row['model']]}'s variance"
        f" unexplained (before: {percent(row['unexplained_before'], sign=False)})"
        for row in rows.to_dict("records")
    ]
    return f" It leaves {' and '.join(shares)}." if shares else ""


def _ceiling(ws: Workspace, name: str) -> str:
    """A sentence: what a map that need not be affine would cost on the same text."""
    table = ask(refined_tables.refinement, ws, name)
    rows = table.loc[(table.start == CEILINGS[1]) & (table.kind == table.kind.iloc[0])]
    costs = [
        percent(*(row[f"relative_after{end}"] for end in ("", "_low", "_high")))
        for row in rows.to_dict("records")
    ]
    if not costs:
        return ""
    return (
        f" A map with a hidden layer would cost {' and '.join(costs)}: what lies between is the"
        " price of being affine."
    )


def gains(table: pd.DataFrame, names: dict[str, str]) -> None:
    """The fitted stitch's figures by kind of text."""
    rows = table[table.start == "paired"]
    view = pd.DataFrame(
        {
            "Text": rows.kind.map(plain),
            "Way": [named(BY_KEY[way].label, names) for way in rows.condition],
            "Before ↓": rows.relative_before.map(percent),
            "After ↓": rows.relative_after.map(percent),
            "Change": [
                percent(*x)
                for x in zip(rows.change, rows.change_low, rows.change_high, strict=True)
            ],
            "KL before, nats ↓": rows.kl_before.map(number),
            "KL after, nats ↓": rows.kl_after.map(number),
        }
    )
    st.dataframe(
        view,
        hide_index=True,
        height="content",
        row_height=30,
        alt="What refining gains by kind of text",
        column_config=frame.heads(view.columns),
    )
    st.caption(
        "Increase of the loss over the unpatched model that comes last, in points of it; KL from"
        " its own predictions at positions that crossed."
    )


def price(table: pd.DataFrame, names: dict[str, str]) -> None:
    """What features pay for it."""
    if not len(table):
        st.markdown("No SAE reads at its layer: what features pay was not measured.")
        return
    view = pd.DataFrame(
        {
            "Measure": [named(measure, names) for measure in table.measure],
            "Before": table.before.map(number),
            "After": table.after.map(number),
        }
    )
    st.dataframe(
        view,
        hide_index=True,
        height="content",
        row_height=30,
        alt="What features pay for a refined stitch",
        column_config=frame.heads(view.columns),
    )
    st.caption(
        f"The price: SAE {plain(table.sae.iloc[0])} carried by the stitch before and after, on"
        " held-out text. Medians are over features."
    )
