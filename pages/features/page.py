"""How each feature of an SAE fared: the histograms, a map, a table, and one feature before and
after transfer."""

import pandas as pd
import streamlit as st

from core.features import tables as feature_tables
from core.models.pairs import get_pair
from core.workspace import store
from core.workspace.store import Workspace
from pages.features.feature import feature
from pages.features.map import classes, correlations, follow_selections, listed, overview
from pages.features.sae import bring, quality
from pages.features.text import LONGEST, SAMPLE
from pages.shared import address, frame, panels
from pages.shared.address import bound
from pages.shared.frame import ask, section
from pages.shared.words import plain


def page() -> None:
    ws = frame.workspace()
    with section():
        pair = get_pair(ws.pair)
        st.title("Features")
        st.markdown(
            f"Features of a sparse autoencoder of :blue[{plain(pair.a.title)}], carried to "
            f":violet[{plain(pair.b.title)}] by a stitch: which do the same there?"
        )
        panels.refusal()
        names = feature_tables.saes(ws) if ws.exists else []
        if not names:
            with section():
                bring(ws, pair)
            panels.door(
                f"**No features measured yet.** This trains an SAE of {plain(pair.a.title)},"
                " carries it through the default stitch and measures every feature before and"
                " after.",
                f"python -m core features build {ws.pair}",
            )
            return
        sae = choose(names)
        table = ask(feature_tables.features, ws, sae)
        settings = ask(store.makers, ws, f"features/{sae}")
        follow(ws, sae, table)
        with section():
            correlations(table, settings, pair)
        with section():
            table = classes(table, settings)
        with section():
            listed(overview(table, pair), len(table), pair)
        with section():
            feature(ws, pair, sae, table)
        with section():
            quality(ws, pair, sae)
        with section():
            bring(ws, pair)


def choose(names: list[str]) -> str:
    """The SAE; there is nothing to choose from one."""
    if len(names) == 1:
        address.choices("sae", names, "SAE")
        return names[0]
    return str(bound(st.selectbox, "SAE", names, key="sae", what="SAE"))


def follow(ws: Workspace, sae: str, table: pd.DataFrame) -> None:
    """Settle, before any widget is drawn, which feature is shown, the link's, or the one most alike
    in both, and which are listed."""
    usual = int((table.correlation + table.rbo).where(table.reliable).fillna(-1).idxmax())
    parse, limits = address.whole(0, len(table) - 1)
    address.settle("feature", usual, parse, (ws.pair, sae), limits, tell=True)
    address.settle("text", SAMPLE, lambda text: text[:LONGEST], "features")
    follow_selections((ws.pair, sae), len(table))


page()
