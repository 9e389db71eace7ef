"""One feature as a card: what it is called, how it fared, where it fires in both models, what else
can be done with it."""

import json
from collections.abc import Mapping
from functools import partial

import pandas as pd
import streamlit as st

from core.features import tables as feature_tables
from core.features.neighbours import neighbours
from core.functional import tables as functional_tables
from core.models.pairs import PairSpec
from core.workspace.store import Workspace
from pages.features import contexts, explanations, figures, lists, text
from pages.features.contexts import COLOURS, SIDES, Row
from pages.shared import address, frame, tokens
from pages.shared.address import bound
from pages.shared.figures import draw
from pages.shared.frame import ask, section
from pages.shared.words import explained, number, percent, plain, short_names

EACH, SAME, OWN = "Contexts of each", "Same text", "Your own text"


def step(by: int, most: int) -> None:
    """To the feature before or after."""
    address.put("feature", min(max(int(st.session_state["feature"]) + by, 0), most))


def card(ws: Workspace, pair: PairSpec, sae: str, table: pd.DataFrame) -> None:
    """The feature that is shown."""
    index = int(st.session_state["feature"])
    row: Row = {str(column): value for column, value in table.iloc[index].items()}
    names = short_names(pair)
    about = f": {row['label']}" if row["named"] else ""
    frame.titled(f"Feature {index}{about}", "Features")
    st.header(f"Feature {index}", anchor="feature")
    st.markdown(called(row, names))
    explanations.by_others(ws, sae, index, names)
    st.markdown(in_words(row, names))

    scale = {side: float(row[f"max_{side}"]) for side in SIDES}
    view = bound(
        st.segmented_control,
        "Compare",
        (SAME, EACH, OWN),
        required=True,
        key="view",
        what="comparison",
        label_visibility="collapsed",
        help=(
            "The same contexts in both models; those where each finds it strongest; or a text of"
            " yours, read by both models now."
        ),
    )
    with section():
        if view == OWN:
            text.own(ws, pair, sae, index, scale, table, contexts.titles(pair))
        elif view == EACH:
            contexts.each(ws, pair, sae, index, scale)
        else:
            contexts.same(ws, pair, sae, row, scale)

    with section():
        doors(ws, sae, index, len(table) - 1)
    with section():
        crossed(row, names)
        values(ws, pair, sae, row)
    with section():
        near(ws, pair, sae, table, index)


def called(row: Row, names: Mapping[str, str]) -> str:
    """Its label with what that is worth in both models."""
    if not row["named"]:
        best = row["f1_a"]
        tried = "" if pd.isna(best) else f": the best has an F1 of {number(best)}"
        return f"*No label tells where it fires{tried}.*"

    scores = [f":blue[{number(row['f1_a'])}]"]
    if pd.notna(row["f1_b"]):
        scores.append(f":violet[{number(row['f1_b'])}]")
    where = " → ".join(plain(names[side]) for side in SIDES)
    return f"**{plain(row['label'])}**  \n:small[The label's F1, {where}: {' → '.join(scores)}]"


def in_words(row: Row, names: Mapping[str, str]) -> str:
    """What became of it, in a sentence."""
    a, b = f":blue[{plain(names['a'])}]", f":violet[{plain(names['b'])}]"
    if pd.isna(row["agreement"]):
        return f"How often it fires on the same tokens in {a} and {b} was not measured."

    forth, back = (percent(row[f"fires_{side}"], sign=False) for side in SIDES)
    alone = ""
    if row["twin"] >= 0:
        alone = f" Nearest of {b}'s own: {int(row['twin'])}, r {number(row['twin_r'])}."
    return (
        f"Carried to {b}, it fires there at **{forth}** of its firings in {a}, and {back} the other"
        f" way round.{alone}"
    )


def crossed(row: Row, names: Mapping[str, str]) -> None:
    """What became of it: what the tables hold; what was not measured is NaN there."""
    alike = "–"
    if pd.notna(row["correlation"]):
        alike = number(row["correlation"], row["low"], row["high"])
    joint = f"{row['joint']:,} joint activations"
    if not row["reliable"]:
        joint += ", too few to rely on"

    cells = []
    if pd.notna(row["agreement"]):
        above = "too rare to compare"
        if pd.notna(row["above"]):
            above = f"{number(row['above'], sign=True)} above a random feature's"
        cells.append(("Agreement ↑", number(row["agreement"]), above))
    cells.append(("Attribution correlation ↑", alike, joint))
    if row["twin"] >= 0:
        twin = f"{plain(names['b'])}'s {int(row['twin'])}"
        if pd.notna(row["twin_cosine"]):
            twin += f", cosine {number(row['twin_cosine'])}"
        cells.append(("Native twin", f"r {number(row['twin_r'])}", twin))
    frame.cells(cells)


def doors(ws: Workspace, sae: str, index: int, last: int) -> None:
    """To other pages, other features and other places."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.page_link(
            "steering/page.py",
            label="Steer with it",
            icon=":material/explore:",
            query_params={
                "pair": ws.pair,
                "source": "Feature",
                "steer_sae": sae,
                "steer_feature": str(index),
            },
            width="content",
        )
        if sae in ask(functional_tables.scanned, ws):
            st.page_link(
                "functional/page.py",
                label="Its heads",
                icon=":material/troubleshoot:",
                query_params={"pair": ws.pair, "sae": sae, "feature": str(index)},
                width="content",
            )
        if elsewhere := ask(feature_tables.neuronpedia, ws, sae, index):
            st.link_button("Neuronpedia", elsewhere, icon=":material/open_in_new:")
        lists.adding(ws, sae, index)
        link(ws, sae, index)
        st.download_button(
            "Feature",
            lambda: json.dumps(feature_tables.feature_record(ws, sae, index)).encode(),
            f"{sae}-{index}.json",
            "application/json",
            on_click="ignore",
            icon=":material/download:",
            help="All that is known of it, as JSON.",
        )
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.number_input("Feature", 0, last, key="feature", width=150)
        back, on = ":material/chevron_left:", ":material/chevron_right:"
        st.button("Previous", on_click=step, args=(-1, last), disabled=index == 0, icon=back)
        st.button("Next", on_click=step, args=(1, last), disabled=index == last, icon=on)


def link(ws: Workspace, sae: str, index: int) -> None:
    """Its address, and that of the card alone, to be copied."""
    with st.popover("Link", icon=":material/link:"):
        here = str(st.context.url or "").partition("?")[0]
        query = f"pair={ws.pair}&sae={sae}&feature={index}"
        st.code(f"{here}?{query}", language=None, wrap_lines=True)
        st.markdown(":small[This card alone, for a page of yours:]")
        st.code(f"{here}?{query}&embed=true", language=None, wrap_lines=True)


def values(ws: Workspace, pair: PairSpec, sae: str, row: Row) -> None:
    """How often it fires and what it raises, in both models."""
    index, names = int(row["feature"]), short_names(pair)
    firing = [
        (
            f":{COLOURS[side]}[{plain(names[side])}]",
            percent(row[f"density_{side}"], sign=False),
            f"of positions, up to {number(row[f'max_{side}'])}",
        )
        for side in SIDES
    ]
    rewritten, shared = pd.notna(row["consistency"]), pd.notna(row["jaccard"])
    frame.cells(
        [
            *firing,
            (
                "Class",
                str(row["kind"]),
                f"consistency {number(row['consistency'])}" if rewritten else "",
            ),
            (
                "Same top contexts",
                f"{number(row['jaccard'])} Jaccard" if shared else "–",
                f"{number(row['rbo'])} rank-biased" if shared else "",
            ),
        ]
    )
    bars = {side: ask(feature_tables.feature_histogram, ws, sae, side, index) for side in SIDES}
    active = {side: int(bars[side].tokens.sum()) for side in SIDES}
    if any(active.values()):
        counts = " and ".join(
            f"{many:,} tokens in {plain(names[side])}" for side, many in active.items()
        )
        draw(
            figures.activations(bars["a"], bars["b"], names),
            f"How often it was active: {counts}.",
            key="bars",
            file=f"feature-{index}-activations",
            alt="Histogram of activations in both models",
        )
    for side in SIDES:
        logits = ask(feature_tables.feature_logits, ws, sae, side, index)
        raised = logits["rank"] >= 0
        where = f":{COLOURS[side]}[{plain(names[side])}]"
        for what, rows in (("Raises", logits[raised]), ("Lowers", logits[~raised])):
            words = " ".join(map(tokens.token, rows.token))
            st.markdown(f"**{what}** in {where} {words}", help=explained(what))


def near(ws: Workspace, pair: PairSpec, sae: str, table: pd.DataFrame, index: int) -> None:
    """Decoder rows that point the same way, in both models."""
    found = ask(neighbours, ws, sae, index)
    names = {side: plain(name) for side, name in short_names(pair).items()}
    st.markdown(
        f"**Near it in :blue[{names['a']}]**",
        help="Features whose decoder directions point the same way, with the cosine.",
    )
    with st.container(horizontal=True, gap="small"):
        for feature, cosine in found["a"]:
            label = table.label.iloc[feature] if table.named.iloc[feature] else "no label"
            st.button(
                f"{feature} :small[{number(cosine)}]",
                key=f"near-{feature}",
                on_click=partial(address.put, "feature", feature),
                help=plain(label),
            )
    if found.get("b"):
        own = ", ".join(f"{feature} ({number(cosine)})" for feature, cosine in found["b"])
        st.markdown(
            f"**Near it in :violet[{names['b']}]'s own SAE**, once carried there: {own}",
            help="Features of that SAE by the cosine of their decoder rows with the carried one.",
        )
