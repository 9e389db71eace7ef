"""What was measured of every feature, and of the one that is picked: entropy, and attention to the
first token."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from core import statistics
from core.features import tables as feature_tables
from core.functional import tables as functional_tables
from core.models.pairs import PairSpec
from core.workspace.store import Workspace
from pages.functional import figures
from pages.shared import address, tokens
from pages.shared import figures as figures_base
from pages.shared.address import bound
from pages.shared.figures import draw
from pages.shared.frame import ask
from pages.shared.words import explained, number, plain, short_names


def entropy(
    ws: Workspace,
    pair: PairSpec,
    sae: str,
    about: Mapping[str, Any],
) -> None:
    """How far each feature writes where the unembedding does not read, and what that does."""
    names = short_names(pair)
    place = st.container()
    share = int(
        bound(
            st.select_slider,
            "Null space: lowest singular values, per cent",
            functional_tables.SHARES,
            key="share",
            usual=2,
            what="share of the null space",
            help=f"{explained('null space')} The paper takes 2 %.",
            width=320,
        )
    )
    with place:
        null_space(ws, names, sae, about, share)

    table = ask(functional_tables.ablations, ws, sae)
    candidates = int((~table.random).sum() // 2)
    draw(
        figures.ablations(table, names),
        f"Does it act? {candidates} candidates (at the paper's 2 %; half stand out in"
        f" {plain(names['a'])}, half in both) are taken out of the residual stream where they fire;"
        " mean change in entropy and loss there, with 95 % intervals over documents. An entropy"
        " feature moves entropy and spares the loss. Control: as many random features, matched in"
        " activation and density.",
        key="ablations",
        alt="Change of entropy and loss under ablation, with random features",
        on_select=partial(pick, "ablations"),
        selection_mode="points",
    )


def null_space(
    ws: Workspace,
    names: Mapping[str, str],
    sae: str,
    about: Mapping[str, Any],
    share: int,
) -> None:
    """Every feature by the share of its direction that the unembedding does not read."""
    table = ask(functional_tables.null_shares, ws, sae, share)
    random = {side: about["random"][f"{side}_{share}"] for side in names}
    rank = statistics.spearman(table.share_a, table.share_b)
    draw(
        figures.null_space(table, random, st.session_state["feature"], names),
        f"Each of {len(table):,} features, by the share of its decoder direction's norm in the"
        f" effective null space of the unembedding (bottom {share} % of singular values, the final"
        " norm's weights folded in) and its maximal activation: entropy features are far right and"
        f" high up. Rank correlation of the share in {plain(names['a'])} with that in"
        f" {plain(names['b'])}: {number(rank)}. Band: 90 % of a random SAE's features, through"
        " the same"
        " stitch. Click a mark to pick its feature. (Fig. 5a)",
        key="null-space",
        alt="Null-space share against maximal activation, before and after transfer",
        on_select=partial(pick, "null-space"),
        selection_mode="points",
    )


def attention(
    ws: Workspace,
    pair: PairSpec,
    sae: str,
    about: Mapping[str, Any],
) -> None:
    """What the candidates do to attention to the first token, in every downstream head."""
    st.subheader(
        "Features that make heads rest",
        anchor="attention",
        help=explained("attention deactivation"),
    )
    names = short_names(pair)
    a, b = map(plain, names.values())
    table = ask(functional_tables.heads, ws, sae)
    rank = {side: statistics.spearman(x.score, -x.change) for side, x in table.groupby("side")}
    candidates = table.loc[~table.random, "feature"].nunique()
    sink = about["sink"]
    draw(
        figures.heads(table, st.session_state["feature"], names),
        f"{candidates} candidates and as many matched random features against every downstream"
        " head: the heuristic score, how much the feature should add to the head's attention logit"
        " for the first token, and what path patching finds: the change in attention to the first"
        " token where it fires when its contribution is taken out of that head's input at the"
        " current token. Below zero it deactivates the head, above it activates it. Rank"
        f" correlation of score and fall: {a} {number(rank['a'])}, {b} {number(rank['b'])}. What"
        " sets the"
        f" first token apart (the sink) has {number(sink['a_2'])} of its norm in {a}'s null space,"
        f" {number(sink['transferred_2'])} after transfer in {b}'s ({b}'s own:"
        f" {number(sink['b_2'])}; the"
        " paper: 0.27 and 0.77). Click a mark to pick feature and head. (Fig. 16)",
        key="heads",
        alt="Heuristic score against measured change of attention, with random features",
        on_select=partial(pick, "heads"),
        selection_mode="points",
    )


def pick(key: str) -> None:
    """A click on a mark: its feature, and its head where it has one."""
    now = st.session_state
    for mark in figures_base.picked(now[key])[-1:]:
        address.put("feature", int(mark[0]))
        if key == "heads":
            address.put("side", str(mark[1]))
            address.put("layer", int(mark[2]))
            address.put("head", int(mark[3]))


def feature(
    ws: Workspace,
    pair: PairSpec,
    sae: str,
    single: pd.DataFrame,
    features: int,
) -> None:
    """Attention to the first token, place by place, for the feature that is picked."""
    bar = st.container(horizontal=True, vertical_alignment="bottom")
    index = int(bar.number_input("Feature", 0, features - 1, key="feature", width=150))
    st.header(f"Feature {index}", anchor="feature", help=explained("heuristic score"))
    bar.page_link(
        "features/page.py",
        label=f"Feature {index} on the Features page",
        icon=":material/scatter_plot:",
        query_params={"pair": ws.pair, "sae": sae, "feature": str(index)},
    )
    names = short_names(pair)
    logits = ask(feature_tables.feature_logits, ws, sae, "a", index)
    raised = " ".join(map(tokens.token, logits.token[logits["rank"] >= 0]))
    st.markdown(f"Raises in :blue[{plain(names['a'])}] {raised}", help=explained("raises"))

    rows = single.loc[single.feature == index]
    if rows.empty:
        measured = sorted(single.loc[~single.random, "feature"].unique().tolist())
        st.markdown(
            "Path patching was not run over documents for this feature; the head below reads it"
            " live. Measured: " + ", ".join(map(str, measured)) + "."
        )
        return

    role = "a matched random feature, drawn as a control" if rows.random.any() else "a candidate"
    draw(
        figures.places(rows, names),
        "Attention to the first token at places from its strongest to its weakest, before (open)"
        " and when the feature's contribution is taken out of the head's input (full), for the head"
        " of each model that it deactivates and the one that it activates most; this is"
        f" {role}. Mean change over all places, 95 % intervals: {changes(rows, names)}. Random"
        f" features by the same choice of head: {control(single, names)}. (Fig. 5b and 16)",
        key="places",
        alt="Attention to the first token before and after path patching",
    )


def changes(rows: pd.DataFrame, names: Mapping[str, str]) -> str:
    """Of each head that was patched, in words."""
    ordered = rows.sort_values(["side", "kind"], ascending=[True, False])
    return "; ".join(
        f"{plain(names[row['side']])} head {row['layer']}.{row['head']}"
        f" {number(row['change'], row['low'], row['high'], sign=True)}, {row['places']} places"
        for row in ordered.to_dict("records")
    )


def control(single: pd.DataFrame, names: Mapping[str, str]) -> str:
    """The mean change that random features make."""
    mean = single.loc[single.random].groupby(["side", "kind"]).change.mean()
    return ", ".join(
        f"{plain(name)} {number(mean[side, 'deactivation'], sign=True)}"
        f" and {number(mean[side, 'activation'], sign=True)}"
        for side, name in names.items()
    )
