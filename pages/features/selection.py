"""Which features are listed: what was brushed on the histograms, picked on the map, and of which
class. The address holds it, so that a link lists what its sender saw listed."""

import pandas as pd
import streamlit as st

from core.features import tables as feature_tables
from pages.features import figures
from pages.shared import address
from pages.shared import figures as figures_base

MOST_MARKED = 200
"""Features that an address lists; more would not fit into a link."""
EVERY = (-1.0, 1.0)
"""All correlations: nothing is brushed."""
BRUSHES = {"brush": "correlation", "alike": "agreement"}
"""What the address calls a range, and the column that it is one of."""
CLASSES = ["all", "semantic", "structural", "unseen", "dead"]
THRESHOLD, SENTENCES = 0.5, 3
"""From which consistency a feature is structural, and in how many sentences it must be seen."""

Range = tuple[float, float]


def range_of(text: str) -> Range | None:
    try:
        low, high = map(float, text.split("~"))
    except ValueError:
        return None
    return (low, high) if -1.1 <= low < high <= 1.1 else None


def follow(whose: object, features: int) -> None:
    """Settle what is selected before anything is drawn: `brush` and `alike`, from and to which
    correlation; `marked`, features of the map; `class`; and what makes a class, `structural` and
    `sentences`."""

    def ids(text: str) -> tuple[int, ...] | None:
        parts = text.split("~") if text else []
        fits = all(p.isdecimal() and len(p) < 10 and int(p) < features for p in parts)
        return tuple(map(int, parts)) if fits and len(parts) <= MOST_MARKED else None

    of_range = ", it is two correlations, such as 0.2~0.5"
    address.settle("brush", EVERY, range_of, whose, of_range, words=ends)
    address.settle("alike", EVERY, range_of, whose, of_range, words=ends)
    of_ids = f", they are numbers of features below {features}, such as 3~7"
    address.settle("marked", (), ids, whose, of_ids, words=numbers)

    parse, limits, words = address.one_of(CLASSES, str)
    address.settle("class", CLASSES[0], parse, whose, limits, words=words)
    parse_share, limits, write = address.number(0.0, 1.0)
    address.settle(
        "structural", THRESHOLD, parse_share, "", limits, words=write, what="consistency"
    )
    parse_count, limits = address.whole(1, 30)
    what = "number of sentences"
    address.settle("sentences", SENTENCES, parse_count, "", limits, what=what)


def ends(brushed: Range) -> str:
    return f"{brushed[0]:g}~{brushed[1]:g}"


def numbers(marked: tuple[int, ...]) -> str:
    return "~".join(map(str, marked))


def classed(table: pd.DataFrame) -> pd.DataFrame:
    """With the `kind` of each feature, by the thresholds that are set."""
    now = st.session_state
    kind = feature_tables.kinds_of_features(table, float(now["structural"]), int(now["sentences"]))
    return table.assign(kind=kind)


def selected(table: pd.DataFrame) -> pd.Series:
    """Which rows of a listing are selected, on the histograms, on the map and by class."""
    now = st.session_state
    keep = pd.Series(True, index=table.index)
    if now["brush"] != EVERY:
        keep &= table.reliable & table.correlation.between(*now["brush"])
    if now["alike"] != EVERY:
        keep &= table.above.notna() & table.agreement.between(*now["alike"])
    if now["marked"]:
        keep &= table.feature.isin(now["marked"])
    if now["class"] != CLASSES[0]:
        keep &= table.kind == now["class"]
    return keep


def anything() -> bool:
    """Whether a selection leaves features out."""
    now = st.session_state
    brushed = any(now[key] != EVERY for key in BRUSHES)
    return brushed or bool(now["marked"]) or now["class"] != CLASSES[0]


def every() -> None:
    """From a callback: list all features again."""
    now = st.session_state
    for key in BRUSHES:
        now[key] = EVERY
    now["marked"], now["class"] = (), CLASSES[0]


def brushed(key: str, chart: str, curves: tuple[int, ...] = (0,)) -> None:
    """What was dragged over on a histogram; nothing after a double click."""
    now = st.session_state
    now[key] = figures.picked_range(now[chart], curves) or EVERY


def picked() -> None:
    """What was clicked, boxed or lassoed on the map: one feature opens, several are listed."""
    now = st.session_state
    chosen = [int(mark[0]) for mark in figures_base.picked(now["map"])]
    if len(chosen) == 1:
        address.put("feature", chosen[0])
    now["marked"] = tuple(chosen[:MOST_MARKED]) if len(chosen) > 1 else ()


def open_row(key: str, features: list[int]) -> None:
    """A row of a table that was chosen opens its feature."""
    if rows := st.session_state[key].selection.rows:
        address.put("feature", features[rows[0]])
