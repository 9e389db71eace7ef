"""Which instructions are followed under steering: Fig. 12 and 13."""

import pandas as pd
import streamlit as st

from core.models.pairs import PairSpec, Side, other
from core.steering import tables as steering_tables
from core.steering.instructions import CONDITIONS
from core.steering.keys import LaneKey
from core.workspace.store import Workspace, makers
from pages.shared import panels
from pages.shared.address import bound
from pages.shared.figures import draw
from pages.shared.frame import ask, section
from pages.shared.words import explained, loss, percent, plain, short_names
from pages.steering import figures
from pages.steering.lanes import text_html

PAPER = {
    "a": "The paper: casing transfers best from large to small, where little improves on no vector"
    " otherwise. (Fig. 12)",
    "b": "The paper: from small to large, vectors that work in their own model bring about little."
    " (Fig. 13)",
}
"""By the model that is steered."""


def instructions(ws: Workspace, pair: PairSpec) -> None:
    st.header("Instructions", anchor="instructions", help=explained("instructions"))
    sides = ask(steering_tables.followed_sides, ws)
    if not sides:
        panels.door(
            "**Instructions are not measured yet.** Does a model write in capitals, in bullet"
            " points or in French where only a vector asks it to? It takes a model that was taught"
            " to follow instructions.",
            f"python -m core steer eval {ws.pair} --instructions",
        )
        return

    columns = st.columns(2, gap="large") if len(sides) > 1 else [st.container()]
    for side, column in zip(sides, columns, strict=True):
        with column, section():
            rates(ws, pair, side)
    with section():
        texts(ws, pair, sides)


def rates(
    ws: Workspace,
    pair: PairSpec,
    side: Side,
) -> None:
    """Every instruction, a mark a condition."""
    table = ask(steering_tables.followed, ws, side)
    names = short_names(pair)
    taught = ask(makers, ws, f"steering_instructions/{side}/rates")["chat_template"]
    base = [plain(names[each]) for each in taught if not taught[each]]
    bare = f" {' and '.join(base)}: a base model, so its requests are bare." if base else ""
    draw(
        figures.instructions(table, side),
        f"Share of {plain(names[side])}'s responses to {int(table.n.max())} requests that follow"
        " the instruction, with 95 % Clopper-Pearson intervals. Only the mark in words reads it;"
        f" transferred vectors come from {plain(names[other(side)])}. Control: a random vector"
        f" that moves as far.{bare} {PAPER[side]}",
        key=f"instructions-{side}",
        alt="Share of responses that follow an instruction, by instruction and condition",
    )


def texts(
    ws: Workspace,
    pair: PairSpec,
    sides: list[Side],
) -> None:
    """What was written under one instruction."""
    names = short_names(pair)
    bar = st.container(horizontal=True, vertical_alignment="bottom")
    side: Side = sides[0]
    if len(sides) > 1:
        side = bound(
            bar.segmented_control,
            "Which model follows",
            sides,
            required=True,
            key="follows",
            what="model that follows",
            format_func=lambda each: f"{names[each]} steered",
        )
    table = ask(steering_tables.followed, ws, side)
    titles = dict(zip(table.label, table.title, strict=True))
    label = str(
        bound(
            bar.selectbox,
            "Instruction",
            list(titles),
            key="instruction",
            width=260,
            words=str,
            format_func=lambda key: titles.get(key, key),
        )
    )
    kind = str(
        bound(
            bar.segmented_control,
            "Brought about by",
            list(CONDITIONS),
            required=True,
            key="condition",
            usual="own",
            what="condition",
            format_func=CONDITIONS.__getitem__,
        )
    )
    row = table.loc[(table.label == label) & (table.kind == kind)].iloc[0]
    st.markdown(sentence(row))
    lane = LaneKey(side, "none" if kind == "prompted" else kind)  # type: ignore[arg-type]
    with st.container(height=420, key="followed"):
        written = ask(steering_tables.followed_texts, ws, side, label, kind)
        for response in written.to_dict("records"):
            verdict = "followed" if response["hit"] else "not followed"
            below = f'<div style="font-size:0.85rem;">{verdict}</div>'
            st.html(text_html(f"{response['prompt']} ", response["text"], lane, below))


def sentence(row: pd.Series) -> str:
    """A cell in a line."""
    rate = percent(row.rate, row.low, row.high, sign=False)
    success, repeated = (percent(share, sign=False) for share in (row.success, row.repetition))
    setting = f"; stitch {plain(row.stitch)}, strength {row.strength:g}" if row.stitch else ""
    return (
        f"**{rate}** follow, {success} without loops besides; {loss(row.loss)} nats/token,"
        f" {repeated} repeated{setting}."
    )
