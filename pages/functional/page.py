"""Features by what they do: entropy features, and features that make attention heads look away."""

from typing import Any

import pandas as pd
import streamlit as st

from core.features import tables as feature_tables
from core.functional import tables as functional_tables
from core.models.pairs import PairSpec, get_pair
from core.workspace.store import Workspace
from pages.functional.head import LONGEST, head
from pages.functional.last import last_layers
from pages.functional.measured import attention, entropy, feature
from pages.functional.sink import sinks
from pages.shared import address, frame, panels, saving
from pages.shared.address import bound
from pages.shared.frame import ask, section
from pages.shared.words import plain

SAMPLE = (
    "def area(width, height):\n    return (width * height)\n\nprint(area(3, 4)); print((1 + 2) * 3)"
)
BEFORE = 120
"""Characters shown before a context, so that its tokens are read in their place."""


def page() -> None:
    ws = frame.workspace()
    with section():
        pair = get_pair(ws.pair)
        st.title("Functional features")
        st.markdown(
            f"Some features of :blue[{plain(pair.a.title)}] are known by what they *do*: they tune"
            " how sure the model is, or tell a head to rest; do they still do it in"
            f" :violet[{plain(pair.b.title)}] after transfer?"
        )
        names = functional_tables.scanned(ws) if ws.exists else []
        if not names:
            panels.door(
                "**No functional features measured yet.** This looks for entropy and"
                " attention-deactivation features of an SAE whose features were measured, and"
                " ablates them in both models.",
                f"python -m core functional scan {ws.pair}",
            )
            if ws.exists:
                with section():
                    last_layers(ws, pair)
            with section():
                sinks(ws, pair)
            return
        sae = choose(names)
        saving.begin(sae)
        about = ask(functional_tables.about, ws, sae)
        single = ask(functional_tables.moved, ws, sae)
        features = len(ask(feature_tables.features, ws, sae))
        limits = follow(ws, pair, sae, about["makers"], single, features)
        shown = st.session_state["feature"]
        frame.titled(f"Feature {shown} of {sae}", "Functional features")
        with section():
            entropy(ws, pair, sae, about)
        with section():
            last_layers(ws, pair)
        with section():
            attention(ws, pair, sae, about)
        with section():
            sinks(ws, pair)
        with section():
            feature(ws, pair, sae, single, features)
        with section():
            head(ws, pair, sae, limits)


def choose(names: list[str]) -> str:
    """The SAE; there is nothing to choose from one."""
    if len(names) == 1:
        address.choices("sae", names, "SAE")
        return names[0]
    return str(bound(st.selectbox, "SAE", names, key="sae", what="SAE"))


def follow(
    ws: Workspace,
    pair: PairSpec,
    sae: str,
    makers: dict[str, Any],
    single: pd.DataFrame,
    features: int,
) -> dict[str, tuple[int, int]]:
    """Settle, before any widget is drawn, which feature and head are shown: the link's, or the
    clearest. Returns the first and the last `layer` and `head` of the model that is shown."""
    of = (ws.pair, sae)
    parse, words = address.whole(0, features - 1)
    clearest = functional_tables.clearest(single)
    shown = address.settle("feature", clearest, parse, of, words, tell=True)
    sides = {"a": "a", "b": "b"}
    side = address.settle("side", "a", sides.get, of, ", they are a and b")

    heads = ask(functional_tables.heads, ws, sae)
    last = (pair.a if side == "a" else pair.b).n_layers - 1
    limits = {
        "layer": (int(makers[f"layer_{side}"]), last),
        "head": (0, int(heads.loc[heads.side == side, "head"].max())),
    }
    rows = single.loc[(single.side == side) & (single.kind == "deactivation")]
    rows = rows.sort_values("change")
    rows = rows.loc[rows.feature == shown] if shown in set(rows.feature) else rows
    for key, (low, high) in limits.items():
        parse, words = address.whole(low, high)
        address.settle(key, int(rows.iloc[0][key]), parse, of, words)

    text = sample(ws, sae, pair, shown, side)
    address.settle("text", text, lambda typed: typed[:LONGEST], ("functional", *of))
    return limits


def sample(
    ws: Workspace,
    sae: str,
    pair: PairSpec,
    feature: int,
    side: str,
) -> str:
    """A text in which the feature fires: its strongest context, with what comes before it."""
    contexts = ask(feature_tables.feature_examples, ws, sae, side, feature)
    documents = frame.documents(pair)
    for row in contexts.sort_values("activation", ascending=False).to_dict("records"):
        if text := documents.get(row["document"]):
            begin, end = int(row["ends"][0]), int(row["ends"][-1])
            return text[max(0, begin - BEFORE) : end][-LONGEST:]
    return SAMPLE


page()
