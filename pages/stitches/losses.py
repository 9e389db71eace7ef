"""What crossing through a stitch costs: losses, over all text and by kind, and variance."""

import math

import pandas as pd
import streamlit as st

from core.models.pairs import PairSpec
from core.stitches import conditions
from core.stitches import tables as stitch_tables
from core.stitches.kinds import by_kind
from core.workspace import store
from core.workspace.store import Workspace
from pages.shared import frame
from pages.shared.figures import draw, table_1
from pages.shared.frame import ask
from pages.shared.words import loss, named, number, percent, plain, short_names


def losses(ws: Workspace, pair: PairSpec, name: str) -> None:
    if not store.has(ws, f"downstream/{name}"):
        st.markdown(
            "Its downstream losses have not been measured yet; a fit does so at its end, and so"
            " does:"
        )
        st.code(f"python -m core stitch eval {ws.pair} {name}", language=None)
        return

    table = ask(stitch_tables.downstream, ws, name)
    draw(
        table_1(table, *short_names(pair).values()),
        "Next-token loss, and its increase over the unpatched model that comes last, with controls:"
        f" shuffled pairs, mean ablation. Held-out split, {table.documents.max():,} documents; bars"
        " are 95 % bootstrap intervals over documents. (Table 1)",
        key="table-1",
        alt=f"Next-token losses with stitch {name}: unpatched, stitched and controls",
    )
    numbers(table, short_names(pair))
    st.caption(
        "The figure's numbers, with 95 % intervals. Bits/byte can be compared across the two"
        " tokenizers."
    )


def numbers(table: pd.DataFrame, names: dict[str, str]) -> None:
    """The losses as they are drawn, in figures."""
    absolute = zip(table.loss, table.low, table.high, strict=True)
    relative = zip(table.relative, table.relative_low, table.relative_high, strict=True)
    increases = [percent(*interval) for interval in relative]
    unpatched = table.role == "unpatched"
    view = pd.DataFrame(
        {
            "Condition": [named(label, names) for label in table.label],
            "Loss, nats/token ↓": [loss(*interval) for interval in absolute],
            "Relative ↓": pd.Series(increases, table.index).mask(unpatched, ""),
            "Bits/byte ↓": table.bits_per_byte.map(loss),
            "At patched, nats/token ↓": table.loss_patched.map(loss),
            "Patched": [percent(share, sign=False) for share in table.share_patched],
            "Tokens": table.tokens.map("{:,}".format),
        }
    )
    st.dataframe(
        view,
        hide_index=True,
        height="content",
        row_height=30,
        alt="Downstream losses with intervals",
        column_config=frame.heads(view.columns, Condition=st.column_config.Column(pinned=True)),
    )


def kinds(ws: Workspace, pair: PairSpec, name: str) -> None:
    """What one model has hardly read it cannot hand on: losses for each kind of text."""
    if not store.has(ws, f"kinds/{name}"):
        return
    names = short_names(pair)
    table = ask(by_kind, ws, name)
    st.subheader("By kind of text", anchor="kinds")
    columns = {"Text": table.kind.map(plain)}
    for way in conditions.STITCHED:
        condition = conditions.BY_KEY[way]
        columns[f"{named(condition.label, names)} ↓"] = table[f"{way}_relative"].map(percent)
        if way in ("a_to_b", "b_to_a"):
            shares = table[f"crossed_{condition.model}"]
            columns[f"{names[condition.model]}, crossed"] = [percent(x, sign=False) for x in shares]

    for side in ("a", "b"):
        columns[f"{names[side]}, bits/byte ↓"] = table[f"bits_{side}"].map(loss)
    view = pd.DataFrame(columns | {"Documents": table.documents.map("{:,}".format)})
    st.dataframe(
        view,
        hide_index=True,
        height="content",
        row_height=30,
        alt="Downstream losses by kind of text",
        column_config=frame.heads(view.columns),
    )
    st.caption(
        "The same measurement for each kind of text apart: increase of the loss over the unpatched"
        f" model that comes last. Where {plain(names['a'])} itself reads a kind of text badly"
        f" (bits/byte), little can reach {plain(names['b'])}. Crossed: the share of a model's"
        " positions that the stitch replaces; the others keep their own stream, and a loss that"
        " hardly rises there says little. Held-out split. (Table 1)"
    )


def quality(ws: Workspace, pair: PairSpec, name: str) -> None:
    """Variance that each way and each round trip leaves unexplained."""
    if not store.has(ws, f"quality/{name}"):
        return
    record = ask(stitch_tables.quality, ws, name)
    a, b = map(plain, short_names(pair).values())
    labels = {
        "fuv_up": (f"FUV, {a} → {b} ↓", f"of {b}'s variance unexplained"),
        "fuv_down": (f"FUV, {b} → {a} ↓", f"of {a}'s variance unexplained"),
        "inversion_a": (f"Inversion, {a} → {b} → {a} ↓", f"of {a}'s variance lost"),
        "inversion_b": (f"Inversion, {b} → {a} → {b} ↓", f"of {b}'s variance lost"),
    }
    facts = [
        (label, percent(record.get(key, math.nan), sign=False), note)
        for key, (label, note) in labels.items()
    ]
    if (objective := record.get("eq3")) is not None:
        facts.append(("Objective ↓", number(objective), "all four terms, in the stitch's metric"))
    frame.cells(facts)

    fit = record.get("eq3_fit")
    fitted = "" if fit is None else f", where the objective is {number(fit)}"
    st.caption(
        f"Held-out, {record.get('n_held_out', 0):,} paired positions; fitted on"
        f" {record.get('n_fit', 0):,}{fitted}. Control: the mean alone leaves 100 %."
        f" {record.get('dropped', 0):,} positions of extreme norm were left out. (Eq. 1 to 3)"
    )
