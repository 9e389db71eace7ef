"""This pair's Table 1 beside other pairs' and the paper's, and what the workspace holds."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from core.models.pairs import get_pair
from core.stitches import kinds
from core.stitches import tables as stitch_tables
from core.stitches.conditions import TABLE_1
from core.workspace import artifacts
from core.workspace.store import Workspace
from pages.shared import frame
from pages.shared.frame import ask, section
from pages.shared.words import NARROW, count, loss, named, percent, plain, short_names

LABEL = "Models and stitch"


def paper(ws: Workspace) -> None:
    """What crossing costs here, in other workspaces and in the paper."""
    st.subheader("Beside other pairs and the paper's", anchor="table-1")
    table = ask(kinds.beside_the_paper, ws, stitch_tables.others(ws))
    st.table(rows(table).set_index(LABEL), border="horizontal")
    st.caption(
        "Next-token loss, nats/token (lower is better), and its increase over the model that comes"
        " last. Here: on the text that both models read best; in the paper: on all of its text."
        " The losses are over different text, so compare the increases.  \n:small[*Within* a"
        " family both models read the same tokens; *across* families only positions that have read"
        " the same text are stitched. Held-out text. The paper's increases follow from its rounded"
        " losses (Table 1).]"
    )


def rows(table: pd.DataFrame) -> pd.DataFrame:
    """`core.stitches.kinds.beside_the_paper` in the paper's layout and colours: loss, and the
    increase in parentheses."""
    small, large = ":blue[smaller]", ":violet[larger]"
    titles = (small, large, f"{small} → {large}", f"{large} → {small}")
    titles += (f"{small} → {large} → {small}", f"{large} → {small} → {large}")
    described = [described_as(row) for row in table.to_dict("records")]
    shown = pd.DataFrame({LABEL: described, "Family": table.family.str.removesuffix("-family")})

    for key, title in zip(TABLE_1, titles, strict=True):
        increases = table[f"{key}_relative"]
        shown[title] = [
            loss(x) + ("" if key in ("a", "b") else f" ({increase(rise)})")
            for x, rise in zip(table[key], increases, strict=True)
        ]
    return shown


def described_as(row: Mapping[Any, Any]) -> str:
    """Whose row it is, in markdown."""
    match row["source"]:
        case "the paper":
            return f"*paper*: {plain(row['label'])}"
        case "another workspace":
            return f"{plain(row['pair'])}, {plain(row['label'])}, {plain(row['kind'])}"
    return f"{plain(row['label'])}, {plain(row['kind'])}"


def increase(rise: float) -> str:
    return f"<1{NARROW}%" if 0 <= rise < 0.01 else percent(rise)


def holds(ws: Workspace) -> None:
    """The pair's text, how much of it pairs up, and every artifact that was computed."""
    st.subheader("What this workspace holds", anchor="computed")
    with section():
        facts(ws)
    names = short_names(get_pair(ws.pair))
    table = ask(artifacts.computed, ws)
    table = table.assign(what=[named(what, names) for what in table.what])
    st.dataframe(
        table[["what", "files", "made", "megabytes"]],
        hide_index=True,
        alt="Artifacts of this workspace",
        column_config={
            "what": "What",
            "files": "Files",
            "made": st.column_config.DatetimeColumn(
                "Made (UTC)", format="YYYY-MM-DD HH:mm", timezone="UTC"
            ),
            "megabytes": st.column_config.NumberColumn("MB", format="%.2f"),
        },
    )


def facts(ws: Workspace) -> None:
    pair = get_pair(ws.pair)
    about = ask(stitch_tables.about, ws)
    corpus, alignment = about["corpus"], about["alignment"]
    documents = [f"{n:,} {plain(split)}" for split, n in corpus.get("splits", {}).items()]
    share_a, share_b = (percent(alignment[f"share_{k}"], sign=False) for k in ("a", "b"))

    cells = [
        (
            f":{colour}[{plain(model.title)}]",
            f"{model.d_model} wide",
            f"{model.n_layers} layers",
        )
        for colour, model in (("blue", pair.a), ("violet", pair.b))
    ]
    cells += [
        (
            "Text",
            f"{count(corpus['characters'])} characters",
            f"{corpus['documents']:,} documents: {', '.join(documents)}",
        ),
        (
            "Positions that pair up",
            count(alignment["paired"]),
            f"{share_a} and {share_b} of their tokens; {plain(pair.family)}",
        ),
    ]
    frame.cells(cells)
