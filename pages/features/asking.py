"""The box in which a feature is asked for: by a word, by a sentence that both models read, or by a
direction."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from core.features import alike, queries, search
from core.models.libraries import importing
from core.models.pairs import PairSpec, get_pair
from core.steering import tables as steering_tables
from core.steering.sources import Brought, Language
from core.text.languages import LANGUAGES
from core.text.reading import clean
from core.workspace import store
from core.workspace.store import Workspace
from pages.shared import address, frame, studios
from pages.shared.address import bound
from pages.shared.words import number, plain, short_names
from pages.steering.sources import language_codes

if TYPE_CHECKING:
    from core.features import measure as feature_measure
    from core.steering.sources import Source

WAYS = WORD, SENTENCE, DIRECTION = "Word", "Sentence", "Direction"
HINTS = {
    WORD: "A word, a sign, a language: French, court, ?, (",
    SENTENCE: "A sentence: which features does it move?",
}
LONGEST = 2000
"""Characters of what is asked."""
MOST = 200
"""Features that a question finds."""


@dataclass(frozen=True)
class Answer:
    """Features in the order in which they are listed, with what to draw of each."""

    features: list[int]
    bars: dict[str, dict[int, float]] = field(default_factory=dict)
    """By side, shares; those of a listing where there are none."""
    match: dict[int, str] = field(default_factory=dict)
    """In words, how well each fits."""
    bars_mean: str = ""
    empty: str = ""
    """Why nothing was found."""
    caution: str = ""
    """What to know of all that was found."""


@st.cache_resource(max_entries=1, show_spinner=False)
def _live(pair: str, sae: str, private: Path | None, stamp: str) -> "feature_measure.Live":
    with importing():
        from core.features.measure import Live

    return Live(get_pair(pair), sae, private)


def live(ws: Workspace, sae: str) -> "feature_measure.Live":
    """Both models with that SAE, opened once."""
    return _live(ws.pair, sae, ws.private, frame.stamp(ws))


def asked_anew() -> None:
    """Something else was asked: the best feature opens."""
    st.session_state["asked_anew"] = True


def ask_for(word: str, feature: int) -> None:
    """An example was chosen."""
    address.put("ask", WORD)
    address.put("q", word)
    address.put("feature", feature)


def asking(ws: Workspace, pair: PairSpec, sae: str, table: pd.DataFrame) -> Answer:
    """The box, examples below it, and what it finds among the features of a listing."""
    how = box(ws, pair)
    asked = str(st.session_state.get("q", "")).strip()
    examples(ws, sae)
    if how == DIRECTION:
        return by_direction(ws, sae)
    if not asked:
        return Answer(frame.ask(alike.usual, ws, sae))
    if how == SENTENCE:
        return by_sentence(ws, sae, table, asked)

    with st.spinner("Searching; the first time, what is known of each feature is read"):
        found = search.in_words(ws, sae, asked, pair.corpus, MOST)
    return Answer(
        features=list(found),
        match={feature: queries.FITS[place] for feature, place in found.items()},
        empty="" if found else search.unknown(ws, sae, asked, pair.corpus),
        caution=queries.caution(found.values()),
    )


def box(ws: Workspace, pair: PairSpec) -> str:
    """What is asked, and how."""
    parse, limits, words = address.one_of(WAYS, str)
    how = address.settle("ask", WORD, parse, "features", limits, words=words, what="way to ask")
    row = st.container(horizontal=True, vertical_alignment="bottom")
    if how == DIRECTION:
        direction(ws, row)
    else:
        question(row, how)
    row.segmented_control(
        "By",
        WAYS,
        required=True,
        key="ask",
        on_change=asked_anew,
        width="content",
    )
    if how == SENTENCE:
        names = short_names(pair)
        titles = {"both": "both models", "a": names["a"], "b": names["b"]}
        bound(
            row.selectbox,
            "Moved in",
            list(titles),
            key="where",
            format_func=titles.__getitem__,
            words=str,
            on_change=asked_anew,
            width=170,
        )
    return how


def question(row: Any, how: str) -> None:
    """A word or a sentence."""
    bound(
        row.text_input,
        "Ask for a feature",
        key="q",
        max_chars=LONGEST,
        placeholder=HINTS[how],
        on_change=asked_anew,
        help=(
            "A word is looked for in labels, in the tokens at which features fire and in the"
            " contexts around them, in any script. A sentence is read by both models: features"
            " come by how near they are to their maximum there, rare ones first."
        ),
    )


def direction(ws: Workspace, row: Any) -> None:
    """A language or a vector of the workspace."""
    sources = directions(ws)
    if not sources:
        row.markdown("No direction here yet: bring a vector on the page Steering.")
        return
    bound(
        row.selectbox,
        "Nearest to the direction of",
        list(sources),
        key="near",
        what="direction",
        on_change=asked_anew,
        help=(
            "A language's mean against English, or a vector that was brought: features by the"
            " cosine of their decoder rows with it, in the model that it is of."
        ),
    )


def examples(ws: Workspace, sae: str) -> None:
    """Words that some feature knows, a click each."""
    shown = frame.ask(alike.examples, ws, sae)
    if shown.empty:
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(":small[Try]", width="content")
        for word, feature in zip(shown.word, shown.feature, strict=True):
            st.button(
                plain(word),
                key=f"example-{feature}",
                on_click=ask_for,
                args=(str(word), int(feature)),
            )


def by_sentence(ws: Workspace, sae: str, table: pd.DataFrame, asked: str) -> Answer:
    """Features that a sentence moves most."""
    now = st.session_state
    text, where = clean(asked), str(now["where"])
    known = (ws.pair, sae, text, frame.stamp(ws))
    if now.get("sentence_read", (None,))[0] != known:
        with st.spinner("Both models read it; the first time, they are opened"):
            now["sentence_read"] = (known, live(ws, sae).peaks(text))
    peaks = now["sentence_read"][1]

    moved = search.by_sentence(peaks, table, where, MOST)  # type: ignore[arg-type]
    return Answer(
        features=[m.feature for m in moved],
        bars={
            "a": {m.feature: m.share_a for m in moved},
            "b": {m.feature: m.share_b for m in moved},
        },
        match={m.feature: f"score {number(m.score)}" for m in moved},
        bars_mean="activation in this sentence, as a share of the maximum",
        empty="" if moved else "No feature fires on it there.",
    )


def directions(ws: Workspace) -> "dict[str, Source]":
    """Languages whose means are known and vectors that were brought, by what they are called."""
    sources: dict[str, Source] = {}
    if store.has(ws, "language_means/b"):
        titles = dict(LANGUAGES.values())
        for code in frame.ask(language_codes, ws):
            sources[titles[code]] = Language(code)
    for name in frame.ask(steering_tables.vectors, ws):
        sources[f"vector {name}"] = Brought(name)
    return sources


def by_direction(ws: Workspace, sae: str) -> Answer:
    """Features whose decoder rows lie nearest to a direction."""
    sources = directions(ws)
    if not sources:
        return Answer([], empty="No language means and no vectors in this workspace.")
    chosen = sources[str(st.session_state["near"])]
    with st.spinner("Comparing"), importing():
        from core.features.measure import stitch_of
        from core.steering.nearest import nearest_features

    studio = studios.studio(ws, stitch_of(ws, sae))
    near = nearest_features(studio, sae, chosen, MOST)
    return Answer(
        features=list(near),
        match={feature: f"cosine {number(cosine)}" for feature, cosine in near.items()},
    )
