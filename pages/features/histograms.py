"""All features at once: how alike they stayed, semantic or structural, and how many both models
have by themselves."""

from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from core.features import alike
from core.models.pairs import PairSpec
from core.stitches import tables as stitch_tables
from core.workspace import store
from core.workspace.store import Workspace
from pages.features import comparisons, figures, selection
from pages.shared import frame, panels
from pages.shared.figures import draw
from pages.shared.frame import ask
from pages.shared.words import number, percent, plain, short_names


def histograms(
    ws: Workspace,
    pair: PairSpec,
    sae: str,
    table: pd.DataFrame,
    settings: dict[str, Any],
) -> None:
    """One below the other; the table has the `kind` of each feature."""
    correlations(table, settings, pair)
    classes(table, settings)
    if not store.has(ws, f"agreement/{sae}"):
        panels.door(
            "**Agreement and native twins were not measured yet**: on how many of the same tokens"
            " features fire in both models, and which of them the other model has by itself.",
            f"python -m core features compare {ws.pair} --sae {sae}",
        )
        return
    agreement(ws, pair, sae)
    twins(ws, pair, sae)


def correlations(table: pd.DataFrame, settings: dict[str, Any], pair: PairSpec) -> None:
    """How alike features stayed in what they do for the next token, beside two controls."""
    names = short_names(pair)
    rows = table.loc[table.reliable]
    random, shuffled = (
        round(float(rows[control].quantile()), 2) + 0.0 for control in ("random", "shuffled")
    )
    brush = not frame.on_phone()
    gesture = "Drag over bars" if brush else "Tap a bar"
    st.subheader("Attribution correlation", anchor="attribution")
    draw(
        figures.correlations(rows[["correlation", "random", "shuffled"]], brush),
        "Pearson correlation, over held-out positions where the same text"
        f" comes next, of a feature's attribution to the next token in {plain(names['a'])} and,"
        f" after transfer through {plain(settings['stitch_name'])}, in {plain(names['b'])};"
        f" {len(rows):,} of {len(table):,} features, those active in both at 20 positions or more."
        f" Median {number(rows.correlation.median())}; controls: a random SAE through the same"
        f" stitch, {number(random)}, and the same features through a stitch of shuffled pairs,"
        f" {number(shuffled)}"
        f" (its peak is cut off). {gesture} to list these features alone. (Eq. 10, Fig. 14)",
        key="correlations",
        alt="Histogram of attribution correlation with two controls",
        on_select=partial(selection.brushed, "brush", "correlations"),
        selection_mode=("points", "box"),
    )


def classes(table: pd.DataFrame, settings: dict[str, Any]) -> None:
    """Semantic or structural."""
    st.subheader("Semantic or structural", anchor="classes")
    n = table.kind.value_counts()
    st.markdown(
        f":orange[**{n.get('semantic', 0):,} semantic**],"
        f" :green[**{n.get('structural', 0):,} structural**], {n.get('unseen', 0):,} unseen,"
        f" {n.get('dead', 0):,} dead"
    )
    rows = table.query("reliable and kind in ['semantic', 'structural']")
    if rows.kind.nunique() < 2:
        st.markdown("With these thresholds all features fall into one class.")
    else:
        shares = stitch_tables.structural_share(rows)
        structural, both = int(shares.structural.sum()), int(shares.n.sum())
        draw(
            figures.classes(rows.loc[:, ["correlation", "kind"]], shares),
            "Densities of attribution correlation, each class by itself, and above them the share"
            " of structural features among both, counted in steps of 0.1 with 95 % intervals"
            f" (dotted: over all, {structural:,} of {both:,}); {settings['sentences']:,} English"
            f" sentences with {settings['rewrites']} rewrites each. (Fig. 4b)",
            key="classes",
            alt="Densities of attribution correlation of semantic and structural features",
        )
    thresholds()


def thresholds() -> None:
    """What makes a class; settled in `selection.follow`."""
    st.slider(
        "Structural from a consistency of",
        0.0,
        1.0,
        step=0.05,
        key="structural",
        help=(
            "Share of the sentences with the feature in which it stays active in all rewrites that"
            " keep structure and function words and change content (5.1)."
        ),
    )
    st.slider(
        "At least so many sentences",
        1,
        30,
        key="sentences",
        help="Features active in fewer of the sampled sentences are left out.",
    )


def agreement(ws: Workspace, pair: PairSpec, sae: str) -> None:
    """On the same text, beside two controls, and by kind of text."""
    names = {side: plain(name) for side, name in short_names(pair).items()}
    report = ask(alike.agreement_report, ws, sae)
    whole = report[alike.WHOLE]
    st.subheader("Agreement on the same tokens", anchor="agreement")
    draw(
        comparisons.agreements(comparisons.counted(ask(alike.agreement, ws, sae), alike.LEAST)),
        f"Correlation of a feature's activation in {names['a']} with that of the carried feature in"
        f" {names['b']} over {whole['positions']:,} held-out positions that both read;"
        f" {whole['carried']['n']:,} features that fire {alike.LEAST} times or more in both."
        f" {of_kinds(report)} (Control: a random SAE through the same stitch, median"
        f" {number(whole['random']['median'])}; shuffled pairs,"
        f" {number(whole['shuffled']['median'])}.)",
        key="agreements",
        alt="Histogram of agreement with two controls",
    )


def of_kinds(report: dict[str, Any]) -> str:
    """Median and share of each kind of text, in a sentence."""
    parts = []
    for kind, one in report.items():
        carried = one["carried"]
        if carried["median"] is not None:
            share = percent(carried["share_alike"], sign=False)
            parts.append(f"{plain(kind)} {number(carried['median'])} ({share})")
    return f"Median, and the share at {alike.ALIKE} or more: {'; '.join(parts)}."


def twins(ws: Workspace, pair: PairSpec, sae: str) -> None:
    """How many features exist in both models by themselves."""
    if not store.has(ws, f"twins/{sae}"):
        return
    raw = short_names(pair)
    names = {side: plain(name) for side, name in raw.items()}
    report = ask(alike.twins_report, ws, sae)
    whole = report[alike.WHOLE]
    st.subheader("Which features exist in both", anchor="twins")
    draw(
        comparisons.shared(report, raw),
        f"{names['b']}'s own SAE was trained like {names['a']}'s, on as much text, and nothing was"
        f" carried over: {whole['shared']:,} pairs of features, one to one, correlate at"
        f" {alike.ALIKE} or more on the same tokens; {whole['only_a']:,} are only in"
        f" {names['a']}, {whole['only_b']:,} only in {names['b']}.",
        key="shared",
        alt="How many features both models have, by kind of text",
    )
    draw(
        comparisons.shares(whole, raw),
        "The share of features whose best partner in the other model correlates so well, on all"
        " text; controls: random SAEs of both models, and positions that were shuffled.",
        key="twin-shares",
        alt="Share of features with a native twin along the correlation",
    )
