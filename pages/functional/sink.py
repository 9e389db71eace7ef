"""Does the sink cross? A stitch whose first tokens and massive activations have a map of their
own."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from core.functional import sink_tables
from core.models.pairs import PairSpec
from core.workspace.store import Workspace
from pages.functional import sink_figures
from pages.shared import frame, panels
from pages.shared.address import bound
from pages.shared.figures import draw
from pages.shared.frame import ask
from pages.shared.words import explained, loss, number, percent, plain, short_names

LABELS = {
    "own": "its own",
    "kept": "as elsewhere: not carried",
    "ordinary": "ordinary map",
    "two_piece": "in two pieces",
    "mean": "mean sink vector alone",
    "shuffled": "of shuffled pairs",
}
"""How the first token comes into the model that receives."""
SIDES = {"a_to_b": ("a", "b"), "b_to_a": ("b", "a")}
"""Whose stream crosses, and into which model."""


def sinks(ws: Workspace, pair: PairSpec) -> None:
    st.subheader("Does the sink cross?", anchor="sink", help=explained("sink"))
    measured = ask(sink_tables.sinks, ws) if ws.exists else []
    if not measured:
        panels.door(
            "**Not measured yet.** Stitches are fitted without first tokens and massive"
            " activations, so they never saw where heads rest. This gives such rows a map of"
            " their own, and measures whether the sink crosses by it.",
            f"python -m core stitch sink {ws.pair}",
        )
        return

    name = str(
        bound(
            st.segmented_control,
            "Stitch",
            measured,
            required=True,
            key="sink_of",
            what="sink of a stitch",
        )
    )
    names = short_names(pair)
    found = ask(sink_tables.summary, ws, name)
    st.markdown("  \n".join(sentence(found, direction, names) for direction in SIDES))

    table = ask(sink_tables.crossing, ws, name)
    own = table[table.condition == "own"]
    rows = found["rows"]
    draw(
        sink_figures.sink(table, names, LABELS),
        f"Stitch {plain(name)}, {int(own.documents.max())} held-out documents: how much of what"
        " sets the first token apart lies in the null space (bottom 2 %) of the model that"
        " receives, and how much its heads look at the first token from the stitched layer on,"
        " with 95 % bootstrap intervals over documents. Dotted: the receiver's own. The second"
        f" piece was fitted on {rows['first']:,} first tokens and"
        f" {rows['massive_a'] + rows['massive_b']:,} massive activations"
        f" ({plain(names['a'])} {rows['massive_a']:,}, {plain(names['b'])}"
        f" {rows['massive_b']:,}). Grey: controls. (5.2; the paper: 0.27 before and 0.77 after)",
        key="sink-crossing",
        alt="Share of the sink in the null space and attention to it, by how it crosses",
    )
    costs(ws, name, names)


def sentence(
    found: Mapping[str, Any],
    direction: str,
    names: Mapping[str, str],
) -> str:
    """One direction in a line."""
    source, receiver = (plain(names[side]) for side in SIDES[direction])
    crossing = found[direction]["crossing"]
    cost = found[direction]["losses"]["all text"]["two_piece"]
    share, own = crossing["two_piece"], crossing["own"]
    return (
        f"{source} → {receiver}, all positions crossing, in two pieces:"
        f" **{interval(share, 'share')}** of the sink in the null space ({receiver}'s own"
        f" {number(own['share'])}, by the ordinary"
        f" map {number(crossing['ordinary']['share'])}), attention to it"
        f" {number(share['attention'])} (its own {number(own['attention'])}); loss"
        f" {interval(cost, 'more', sign=True)} nats/token against leaving first tokens as they are."
    )


def interval(
    row: Mapping[str, Any],
    key: str,
    sign: bool = False,
) -> str:
    return number(row[key], row[f"{key}_low"], row[f"{key}_high"], sign=sign)


def costs(
    ws: Workspace,
    name: str,
    names: Mapping[str, str],
) -> None:
    """Losses by kind of text, and what is written."""
    table = ask(sink_tables.losses, ws, name)
    written = ask(sink_tables.speech, ws, name)
    kinds = [kind for kind in table.kind.unique() if kind] + [""]
    rows = []
    for direction, sides in SIDES.items():
        for condition in LABELS:
            cells = {
                "Crosses": " → ".join(names[side] for side in sides),
                "First token": LABELS[condition],
            }
            part = table[(table.direction == direction) & (table.condition == condition)]
            by_kind = part.set_index("kind")
            for kind in kinds:
                title = kind or "all text"
                cells[f"Loss, {title} ↓"] = loss(by_kind.loss[kind])
                if kind == "" and condition not in ("own", "kept"):
                    cells["More than today, nats/token ↓"] = interval(
                        by_kind.loc[kind].to_dict(), "more", sign=True
                    )
            if len(written):
                texts = written[
                    (written.direction == direction) & (written.condition == condition)
                ].iloc[0]
                cells["Written: nats/token ↓"] = interval(texts.to_dict(), "loss")
                cells["repeated"] = percent(texts.repetition, sign=False)
                cells["changed"] = percent(texts.changed, sign=False)
            rows.append(cells)
    view = pd.DataFrame(rows).fillna("–")
    st.dataframe(
        view,
        hide_index=True,
        height="content",
        row_height=30,
        alt="Losses and texts by how the first token crosses",
        column_config=frame.heads(view.columns),
    )
    texts = ""
    if len(written):
        texts = (
            f" Written: {int(written.prompts.max())} texts, the likeliest token each time, scored"
            " by that model alone; changed: those that are not as they were."
        )
    st.caption(
        "Next-token loss of the model that receives, in nats/token, where all positions that pair"
        " up cross and the first token as said. Held-out split, 95 % intervals over documents."
        f"{texts}"
    )
