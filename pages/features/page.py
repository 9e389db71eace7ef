"""Ask for a feature: what is it about, what became of it in the other model, and has that one of
its own?"""

from functools import partial

import pandas as pd
import streamlit as st

from core.features import alike
from core.features import tables as feature_tables
from core.models.pairs import PairSpec, get_pair
from core.workspace import store
from core.workspace.store import Workspace
from pages.features import lists, selection
from pages.features.asking import Answer, asking
from pages.features.card import card
from pages.features.histograms import histograms
from pages.features.map import overview, tabled
from pages.features.rows import listed
from pages.features.sae import bring, quality
from pages.features.text import LONGEST, SAMPLE
from pages.shared import address, frame, panels, saving
from pages.shared.address import bound
from pages.shared.frame import ask, section, shared
from pages.shared.words import plain, short_names

TABS = LIST, MAP, HISTOGRAMS, TABLE, MINE = "List", "Map", "Histograms", "Table", lists.TAB
OF_HISTOGRAMS = {"structural", "sentences"}
"""What an address says of them; older links have no tab."""
STICKY = """<style>
@media (min-width: 640px) {
  [data-testid=stColumn]:has(> * .st-key-card) {
    position: sticky; top: 3.75rem; align-self: flex-start;
    max-height: calc(100vh - 4.5rem); overflow-y: auto; scrollbar-width: thin;
  }
}
</style>"""


def page() -> None:
    ws = frame.workspace()
    with section():
        pair = get_pair(ws.pair)
        alone = bool(st.context.is_embedded)  # `?embed=true`
        if not alone:
            st.title("Features", anchor=False)
        panels.refusal()
        names = feature_tables.saes(ws) if ws.exists else []
        if not names:
            empty(ws, pair)
            return
        sae = choose(ws, names)
        saving.begin(sae)
        table = shared(alike.listing, ws, sae)
        selection.follow((ws.pair, sae), len(table))
        table = selection.classed(table)
        if alone:
            follow(ws, sae, table, Answer([]))
            card(ws, pair, sae, table)
            return
        explore(ws, pair, sae, table)
        with section():
            quality(ws, pair, sae)
        with section():
            bring(ws, pair)


def empty(ws: Workspace, pair: PairSpec) -> None:
    """No features yet: how to get some."""
    with section():
        bring(ws, pair)
    panels.door(
        f"**No features measured yet.** This trains an SAE of {plain(pair.a.title)},"
        " carries it through the default stitch and measures every feature before and"
        " after.",
        f"python -m core features build {ws.pair}",
    )


def choose(ws: Workspace, names: list[str]) -> str:
    """The SAE; there is nothing to choose from one."""
    if len(names) == 1:
        address.choices("sae", names, "SAE")
        return names[0]

    def in_words(name: str) -> str:
        about = feature_tables.trained_on(ws, name)
        return f"{name}: {about}" if about else name

    return str(
        bound(
            st.selectbox,
            "SAE",
            names,
            key="sae",
            what="SAE",
            words=str,
            format_func=in_words,
        )
    )


def explore(ws: Workspace, pair: PairSpec, sae: str, table: pd.DataFrame) -> None:
    """The question, what it finds, and the feature that is open."""
    short = {side: plain(name) for side, name in short_names(pair).items()}
    st.markdown(
        f"What does :blue[{short['a']}] know, and does :violet[{short['b']}] know it too? Ask for a"
        f" feature of :blue[{short['a']}]'s sparse autoencoder."
    )
    answer = Answer([])
    with section():
        answer = asking(ws, pair, sae, table)
    follow(ws, sae, table, answer)

    left, right = st.columns([5, 7], gap="large")
    with left, section():
        browse(ws, pair, sae, table, answer)
    with right, st.container(key="card"), section():
        st.html(STICKY)
        card(ws, pair, sae, table)


def follow(ws: Workspace, sae: str, table: pd.DataFrame, answer: Answer) -> None:
    """Settle, before any widget is drawn, which feature is shown: the link's, or the best of what
    was just asked for, or the one that crosses best."""
    best = answer.features or alike.usual_order(table).tolist()
    if st.session_state.pop("asked_anew", False) and answer.features:
        address.put("feature", best[0])
    parse, limits = address.whole(0, len(table) - 1)
    address.settle("feature", best[0], parse, (ws.pair, sae), limits, tell=True)
    address.settle("text", SAMPLE, lambda text: text[:LONGEST], "features")


def browse(
    ws: Workspace,
    pair: PairSpec,
    sae: str,
    table: pd.DataFrame,
    answer: Answer,
) -> None:
    """Features as a list, as a map, as histograms, as a table; each is drawn when it is opened."""
    asked = set(st.query_params)
    if st.session_state.get("arrived") and "tab" not in asked:
        if OF_HISTOGRAMS & asked:
            address.put("tab", HISTOGRAMS)
        if "list" in asked:
            address.put("tab", MINE)
    parse, limits, words = address.one_of(TABS, str)
    opened = address.settle("tab", LIST, parse, "features", limits, words=words)
    if opened == LIST and (OF_HISTOGRAMS | {"list"}) & asked:
        address.keep("tab", LIST)

    views = (
        partial(listed, ws, pair, sae, table, answer),
        partial(overview, ws, pair, sae, table),
        partial(histograms, ws, pair, sae, table, ask(store.makers, ws, f"features/{sae}")),
        partial(tabled, table, pair),
        partial(lists.shown, ws, sae),
    )
    for tab, view in zip(st.tabs(TABS, key="tab", on_change="rerun"), views, strict=True):
        if tab.open:
            with tab, section():
                view()


page()
