"""Which start saves training: each mend alone and together, against scratch at its best."""

import math

import pandas as pd
import streamlit as st

from core.saes import start_tables
from core.saes.start_tables import SHARES, in_per_cent
from core.saes.tables import HEADLINE
from core.workspace.store import Workspace
from pages.saes import figures
from pages.shared import address, frame, panels
from pages.shared.address import bound
from pages.shared.figures import draw
from pages.shared.frame import ask
from pages.shared.words import number, percent, plain

MENDS = (
    "Carried over, an SAE has an encoder that reads faint directions, and a decoder of the smaller"
    " model's rank. *Encoder fitted*: it reads from the receiving model how strongly the features"
    " fire in the other. *Decoder fitted*: it makes most of the receiver's stream from what fires"
    " there. *Both fitted*: one after the other. *Agreement ≥*: features that fire elsewhere begin"
    " afresh. *Norms balanced*: encoder and decoder are equally long. *Auxiliary*: dead features"
    " learn what is left over. *Shuffled pairs*: the control. *Made for*: what making a start"
    " costs, of a whole run; *Made for nothing*: FLOPs to 90 % without that. (Eq. 6)"
)


def starts(ws: Workspace) -> None:
    st.header("Which start", anchor="starts")
    names = ask(start_tables.sets, ws)
    if not names:
        panels.door(
            "**Not measured here yet.** Across families a transferred start may save nothing. This"
            " mends one thing after another about it, alone and together, and says which start to"
            " use.",
            f"python -m core sae starts {ws.pair}",
        )
        return

    name = choose(names)
    about = ask(start_tables.setup, ws, name)
    rows = ask(start_tables.measured, ws, name)
    st.markdown(f"**{plain(start_tables.sentence(rows))}**")
    text = ", ".join(plain(kind) for kind in about["kinds"]) or "all text"
    draw(
        figures.starts(rows),
        f"FLOPs until an SAE explains {percent(HEADLINE, sign=False)} of what the best run from"
        " scratch explains in the end, over those of scratch; making the start is included. Each"
        " start has the learning rate that suits it best. Bars: 95 %, Student, over seeds with the"
        f" same order of rows.  \n:small[{about['width']:,} features, k = {about['k']}, on {text};"
        f" starts from {about['pairs']:,} pairs of positions.]",
        key="starts_relative",
        alt="Relative FLOPs by start",
    )
    table(rows)
    st.caption(MENDS)


def choose(names: list[str]) -> str:
    """The study; there is nothing to choose from one."""
    if len(names) == 1:
        address.choices("starts", names, "study of starts")
        return names[0]
    return str(bound(st.selectbox, "Study of starts", names, key="starts"))


def table(rows: pd.DataFrame) -> None:
    shown = pd.DataFrame({"Start": rows.start})
    for share in SHARES:
        ends = [f"{end}_{in_per_cent(share)}" for end in ("ratio", "low", "high")]
        values = zip(*(rows[end] for end in ends), strict=True)
        shown[f"To {percent(share, sign=False)} ↓"] = [_ratio(*x) for x in values]
    shown["Made for nothing ↓"] = [_ratio(x) for x in rows.free]
    shown["Made for ↓"] = rows.made.map(lambda x: percent(x, sign=False))
    shown["Explains at first ↑"] = rows.begins.map(lambda x: percent(x, sign=False))
    shown["In the end ↑"] = rows.explained_variance.map(lambda x: percent(x, sign=False))
    shown["Dead ↓"] = rows.dead.map(lambda x: percent(x, sign=False))
    shown["Learning rate"] = rows.lr.map(lambda x: f"{x:g}")
    shown["Seeds"] = rows.seeds
    st.dataframe(
        shown,
        hide_index=True,
        height="content",
        alt="Every start",
        column_config=frame.heads(shown.columns),
    )


def _ratio(
    value: float,
    low: float = math.nan,
    high: float = math.nan,
) -> str:
    return "never" if math.isnan(value) else number(value, low, high)
