"""The features that were found, a row each: chosen with a click, a tap or the arrow keys."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from core.features import tables as feature_tables
from core.models.pairs import PairSpec
from core.workspace.store import Workspace
from pages.features import figures, selection
from pages.features.asking import Answer
from pages.shared import address, frame, tokens
from pages.shared.figures import draw
from pages.shared.words import number, plain, short_names

SHOWN = 40
"""Rows at first, and so many more at a time."""
LONGEST = 90
"""Letters of a label in a row."""
BLOCKS = " ▏▎▍▌▋▊▉█"
FULL = 6
"""Blocks of a bar for a share of one."""
HEIGHT, LOW = 560, 300
"""Pixels of the list, on a phone fewer: what it opens is in view below."""
LOOKS = """<style>
.st-key-rows [role=radiogroup] { gap: 0; width: 100%; }
.st-key-rows [role=radiogroup] > div {
  position: relative; padding: 0.4rem 0.25rem;
  border-bottom: 1px solid rgba(128, 128, 128, 0.25);
}
.st-key-rows [role=radiogroup] label::after { content: ""; position: absolute; inset: 0; }
.st-key-rows [role=radiogroup] > div:hover { background: rgba(128, 128, 128, 0.1); }
.st-key-rows [role=radiogroup] > div:has(input:checked) { background: rgba(128, 128, 128, 0.18); }
.st-key-rows [data-testid=stCaptionContainer] { color: inherit; opacity: 1; }
</style>"""


def bar(share: float) -> str:
    """A share of one as blocks, to an eighth of one."""
    if share != share:
        return ""
    eighths = round(min(max(share, 0.0), 1.0) * FULL * 8)
    whole, rest = divmod(eighths, 8)
    return BLOCKS[-1] * whole + (BLOCKS[rest] if rest else "") or BLOCKS[1]


def bars(a: float, b: float) -> str:
    """Two shares, blue and purple, each with its number."""
    parts = []
    for colour, share in (("blue", a), ("violet", b)):
        if share == share:
            parts.append(f":{colour}[{bar(share)} {share:.0%}]")
    return " ".join(parts)


def listed(
    ws: Workspace,
    pair: PairSpec,
    sae: str,
    table: pd.DataFrame,
    answer: Answer,
) -> None:
    """The strip that filters, and the rows."""
    strip(table, pair)
    now = st.session_state
    row = st.container(horizontal=True, vertical_alignment="bottom")
    row.segmented_control(
        "Class",
        selection.CLASSES[:3],
        required=True,
        key="class",
        label_visibility="collapsed",
        format_func=str.capitalize,
    )
    if selection.anything():
        row.button(
            "All features", on_click=selection.every, icon=":material/filter_alt_off:", key="every"
        )

    features = answer.features
    if selection.anything():
        keep = selection.selected(table).to_numpy()
        features = [feature for feature in features if keep[feature]]
    st.markdown(words(len(features), len(answer.features), len(table), answer, pair))
    if not features:
        st.markdown(plain(answer.empty) or "None of them is selected.")
        return
    if answer.caution:
        st.markdown(answer.caution)

    many = now.setdefault("rows_shown", SHOWN)
    shown = features[:many]
    now["rows"] = now["feature"] if now["feature"] in shown else None
    of = table.iloc[shown].to_dict("records")
    peaks = strongest(ws, pair, sae, of)
    lines = titles(of, peaks)
    with st.container(height=LOW if frame.on_phone() else HEIGHT, border=False):
        st.html(LOOKS)
        st.radio(
            "Features",
            shown,
            index=None,
            key="rows",
            format_func=lines.__getitem__,
            captions=notes(of, answer),
            on_change=open_feature,
            label_visibility="collapsed",
            width="stretch",
        )
        if len(features) > many:
            st.button(f"{min(SHOWN, len(features) - many)} more", on_click=more)


def strongest(
    ws: Workspace,
    pair: PairSpec,
    sae: str,
    rows: list[dict[str, Any]],
) -> dict[int, list[str]]:
    """By feature, the tokens at which those without a label are strongest."""
    unnamed = tuple(int(row["feature"]) for row in rows if not row["named"])
    if not unnamed:
        return {}
    at = (ws.pair, sae, str(ws.private), frame.stamp(ws))
    return _strongest(at, ws, sae, frame.documents(pair), unnamed)


@st.cache_data(max_entries=50, show_spinner=False)
def _strongest(
    at: tuple[str, ...],
    _ws: Workspace,
    sae: str,
    _texts: dict[str, str],
    features: tuple[int, ...],
) -> dict[int, list[str]]:
    """The texts are those of the workspace's corpus: they need not be compared."""
    return feature_tables.peak_tokens(_ws, sae, _texts, features).to_dict()


def more() -> None:
    st.session_state["rows_shown"] += SHOWN


def open_feature() -> None:
    """A row was chosen."""
    if (feature := st.session_state["rows"]) is not None:
        address.put("feature", int(feature))


def titles(rows: list[dict[str, Any]], peaks: Mapping[int, list[str]]) -> dict[int, str]:
    """By feature, its number and label; of one without, where it is strongest."""
    lines = {}
    for row in rows:
        feature, label = int(row["feature"]), str(row["label"])
        strongest = peaks.get(feature)
        if row["named"]:
            short = label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"
            says = plain(short)
        elif strongest:
            says = f"*no label, fires at* {' '.join(map(tokens.token, strongest))}"
        else:
            says = "*no label*"
        lines[feature] = f"**{feature}** {says}"
    return lines


def notes(rows: list[dict[str, Any]], answer: Answer) -> list[str]:
    """The bars and how well each matches."""
    lines = []
    for row in rows:
        feature = int(row["feature"])
        shares = [
            answer.bars[side].get(feature, math.nan) if answer.bars else row[f"fires_{side}"]
            for side in ("a", "b")
        ]
        says = [answer.match.get(feature, "")]
        if pd.notna(row["agreement"]):
            says.append(f"agreement {number(row['agreement'])}")
        parts = (bars(*shares), " · ".join(filter(None, says)))
        lines.append("  ".join(part for part in parts if part))
    return lines


def words(kept: int, found: int, total: int, answer: Answer, pair: PairSpec) -> str:
    """How many are listed, and what the bars are."""
    names = {side: plain(name) for side, name in short_names(pair).items()}
    of = f"{kept:,} of {total:,} features"
    if found < total:
        of = f"{kept:,} found" if kept == found else f"{kept:,} of {found:,} found"
    mean = answer.bars_mean or "firings that recur in the other model"
    return f":small[{of}. Bars, :blue[{names['a']}] and :violet[{names['b']}]: {mean}.]"


def strip(table: pd.DataFrame, pair: PairSpec) -> None:
    """How well all features agree, as a filter."""
    key, column = "alike", "agreement"
    rows = table.loc[table.above.notna(), ["kind", column]]
    if rows.empty:
        key, column = "brush", "correlation"
        rows = table.loc[table.reliable, ["kind", column]]
    if rows.empty:
        return
    brush = not frame.on_phone()
    draw(
        figures.strip(rows, column, brush, st.session_state[key]),
        f"{'Drag over' if brush else 'Tap'} bars to list these features alone.",
        key="strip",
        alt=f"Histogram of {column}, by class",
        on_select=partial(selection.brushed, key, "strip", tuple(range(len(figures.STRIP)))),
        selection_mode=("points", "box"),
    )
