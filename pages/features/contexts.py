"""Texts in which a feature fires: the same ones in both models, or those of each."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from core.features import tables as feature_tables
from core.models.pairs import PairSpec
from core.text.surroundings import Neighbours, titled
from core.workspace.store import Workspace
from pages.features import text
from pages.shared import frame, tokens
from pages.shared.address import bound
from pages.shared.frame import ask, section
from pages.shared.words import number, plain, short_names

Row = Mapping[str, Any]
"""Of a listing (`core.features.alike.listing`)."""
SIDES = ("a", "b")
COLOURS = {"a": "blue", "b": "violet"}
SAES = {"a": "with the original SAE", "b": "with the transferred SAE"}
SILENT = "Not active in any of the documents that were read for examples."
GROUPS = {"top": "Top", "q4": "Strong", "q3": "Upper", "q2": "Lower", "q1": "Weak"}
FIRST = 4
"""Contexts of each side that are shown at once."""
GAP = "display:flex;flex-direction:column;gap:0.6rem;"


def titles(pair: PairSpec) -> dict[str, str]:
    """Over each side's column."""
    names = short_names(pair)
    return {side: f":{COLOURS[side]}[{plain(names[side])}, {SAES[side]}]" for side in SIDES}


def same(
    ws: Workspace,
    pair: PairSpec,
    sae: str,
    row: Row,
    scale: Mapping[str, float],
) -> None:
    """Both models over the contexts that are strongest in either, and B's own SAE at the feature's
    native twin, where that was measured."""
    index = int(row["feature"])
    rows = ask(feature_tables.same_text, ws, sae, index)
    if rows.empty:
        st.markdown(SILENT)
        return

    names = {side: plain(name) for side, name in short_names(pair).items()}
    heads = [f":blue[**{names['a']}**]", f":violet[**Carried to {names['b']}**]"]
    scales = dict(scale)
    if "own_heat" in rows:
        twin = "none"
        if row["twin"] >= 0:
            twin = f"feature {int(row['twin'])}, r {number(row['twin_r'])}"
        heads.append(f":violet[**{names['b']}'s own**] :small[{twin}]")
        scales["own"] = float(rows.own_activation.max())
    for column, head in zip(st.columns(len(heads), gap="medium"), heads, strict=True):
        column.markdown(head)

    texts = frame.documents(pair)
    known = [one for one in rows.to_dict("records") if one["document"] in texts]
    first = [one for side in SIDES for one in known if one["found"] == side][: 2 * FIRST]
    shown = {side: [one for one in first if one["found"] == side] for side in SIDES}
    for side in SIDES:
        if shown[side]:
            st.caption(f"Strongest in {names[side]}" + (" and not above" if side == "b" else ""))
        for one in shown[side]:
            beside(one, texts[one["document"]], scales)
            ends, heat, peak = (one[f"{side}_{what}"] for what in ("ends", "heat", "peak"))
            st.html(wider(pair, texts, one["document"], ends, heat, int(peak), scale[side], side))
    missing(len(rows) - len(known))
    st.caption(text.MARKS)


def beside(row: Mapping[str, Any], document: str, scale: Mapping[str, float]) -> None:
    """One context as each of them reads it."""
    for side, column in zip(scale, st.columns(len(scale), gap="medium"), strict=True):
        ends, heat, peak = (row[f"{side}_{what}"] for what in ("ends", "heat", "peak"))
        if isinstance(heat, float):  # its twin was not read there
            column.markdown(":small[–]")
            continue
        colour = "a" if side == "a" else "b"
        column.html(tokens.tokens(document, ends, heat, int(peak), scale[side], colour))


@st.cache_resource(max_entries=2, show_spinner=False)
def _neighbours(corpus: str, _texts: Mapping[str, str]) -> Neighbours:
    return Neighbours(_texts)


def wider(
    pair: PairSpec,
    texts: Mapping[str, str],
    document: str,
    ends: Sequence[int],
    heat: Sequence[float],
    peak: int,
    scale: float,
    side: str,
) -> str:
    """HTML: a fold with the whole document around a context, and what stands around that."""
    text = texts[document]
    around = _neighbours(pair.corpus, texts).around(document)
    before = ("" if around.begins else "… ") + around.before
    after = around.after + ("" if around.ends else " …")
    return tokens.opened(
        titled(document),
        before + text[: ends[0]],
        tokens.spans(text, ends, heat, peak, scale, side),
        text[ends[-1] :] + after,
        document,
    )


def each(
    ws: Workspace,
    pair: PairSpec,
    sae: str,
    index: int,
    scale: Mapping[str, float],
) -> None:
    """Contexts where each model finds it strongest."""
    texts = frame.documents(pair)
    for side, column in zip(SIDES, st.columns(2, gap="large"), strict=True):
        with column, section():
            st.subheader(titles(pair)[side], anchor=f"side-{side}")
            examples = ask(feature_tables.feature_examples, ws, sae, side, index)
            if examples.empty:
                st.markdown(SILENT)
                continue
            grouped(pair, examples, side, texts, scale[side])


def grouped(
    pair: PairSpec,
    examples: pd.DataFrame,
    side: str,
    texts: Mapping[str, str],
    scale: float,
) -> None:
    """Texts in which it was active, a group at a time."""
    groups = [group for group in GROUPS if group in set(examples.group)]
    shown = bound(
        st.segmented_control,
        "Contexts",
        groups,
        required=True,
        format_func=lambda group: GROUPS[group],
        key=f"group-{side}",
        what=f"contexts of {short_names(pair)[side]}",
        help="The strongest contexts, or a sample from each quarter of the others by activation.",
    )
    rows = examples.loc[examples.group == shown].head(10).to_dict("records")
    lines = []
    for row in rows:
        if row["document"] in texts:
            shown_as = row["ends"], row["heat"], row["peak"], scale, side
            context = tokens.tokens(texts[row["document"]], *shown_as)
            lines.append(f"<div>{context}{wider(pair, texts, row['document'], *shown_as)}</div>")
    st.html(f'<div style="{GAP}">{"".join(lines)}</div>')
    missing(len(rows) - len(lines))
    st.caption(text.MARKS)


def missing(contexts: int) -> None:
    """What to do where contexts cannot be shown."""
    if contexts:
        st.caption(
            f"{contexts} contexts point into another version of the corpus than the one installed; "
            "`python -m core doctor` says which."
        )
