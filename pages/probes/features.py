"""The features that were probed, each with a link to its own view."""

from urllib.parse import urlencode

import pandas as pd
import streamlit as st

from core.models.pairs import PairSpec
from core.probes import tables as probe_tables
from core.workspace.store import Workspace
from pages.shared import tokens
from pages.shared.address import bound
from pages.shared.frame import ask
from pages.shared.words import explained, number, plain, short_names


def links(
    ws: Workspace,
    pair: PairSpec,
    sae: str,
    table: pd.DataFrame,
) -> str:
    """The features as a markdown table; each leads to its view. What the feature explorer knows
    stands beside them where it was measured."""
    a, b = map(plain, short_names(pair).values())
    heads = {"Feature": "---", f"Difference in {a}": "---:", f"in {b}": "---:"}
    if "correlation" in table:
        heads |= {"Attribution correlation ↑": "---:", f"Raises in {a}": "---"}
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join(heads.values())} |"]
    for row in table.to_dict("records"):
        query = urlencode({"pair": ws.pair, "sae": sae, "feature": row["feature"]})
        cells = [
            f"[{row['feature']}](features?{query})",
            number(row["difference"], sign=True),
            number(row["difference_b"], sign=True),
        ]
        if "correlation" in table:
            cells += [
                number(row["correlation"]),
                plain(tokens.seen(str(row["raises"]))),
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def features(
    ws: Workspace,
    pair: PairSpec,
    name: str,
    task: pd.Series,
) -> None:
    """The features of one task's probes."""
    st.subheader("What was probed", anchor="features", help=explained("mean difference"))
    k = bound(
        st.select_slider,
        "Features, k",
        ask(probe_tables.ks, ws, name),
        key="shown-k",
        usual=10,
        what="number of features",
        help=explained("k"),
    )
    table = ask(probe_tables.probed, ws, name, str(task.dataset), str(task.label), int(k))
    st.markdown(links(ws, pair, ask(probe_tables.setup, ws, name)["sae_name"], table))
    a, b = map(plain, short_names(pair).values())
    st.caption(
        "Mean activation over training texts of the class less that over the others, in"
        f" {a} and, transferred, in {b}. A number opens the feature before and after transfer."
        " (Eq. 7)"
    )
