"""What stands behind the gear: lanes, stitch, layers, operator, sampling."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from core.models.pairs import PairSpec
from core.steering import tables as steering_tables
from core.steering.settings import USUAL
from core.workspace import store
from core.workspace.store import Workspace
from pages.shared.address import bound
from pages.shared.frame import ask
from pages.shared.words import short_names
from pages.steering import lanes


def options(
    ws: Workspace,
    pair: PairSpec,
    stitches: list[str],
    names: Mapping[str, str],
    what: str,
) -> str | None:
    """The stitch that is chosen, None where none fits; `what` is steered toward."""
    lanes.pills(names, what)
    left, right = st.columns(2, gap="large")
    with right:
        st.markdown("**Sampling**")
        sampling()
    with left:
        st.markdown("**Where**")
        return where(ws, pair, stitches) if stitches else None


def where(
    ws: Workspace,
    pair: PairSpec,
    stitches: list[str],
) -> str:
    """The stitch, the layers and the operator; returns the stitch."""
    stitch = str(
        bound(
            st.selectbox,
            "Stitch",
            stitches,
            key="through",  # "stitch" is Stitches'; links there would lose it
            help="Carries the vector across by v P, without the bias, renormalised (4).",
        )
    )
    layers(ws, pair, stitch)
    operators = steering_tables.OPERATORS
    bound(
        st.segmented_control,
        "Operator",
        list(operators),
        required=True,
        key="operator",
        help="  \n".join(f"{name}: {formula}." for name, formula in operators.items()),
    )
    bound(
        st.checkbox,
        "Steer the prompt too",
        key="on_prompt",
        usual=True,
        what="way with the prompt",
        help="Special tokens are never steered. Off: only what is generated.",
    )
    return stitch


def layers(
    ws: Workspace,
    pair: PairSpec,
    stitch: str,
) -> None:
    """First and last steered layer of both models; another stitch brings its own."""
    names = short_names(pair)
    makers = ask(store.makers, ws, f"stitches/{stitch}")
    for side, spec in (("a", pair.a), ("b", pair.b)):
        joined = int(makers[f"layer_{side}"])
        for end, column in zip(("first", "last"), st.columns(2), strict=True):
            bound(
                column.number_input,
                f"{end.capitalize()} layer of {names[side]}",
                0,
                spec.n_layers - 1,
                key=f"{end}_{side}",
                usual=joined,
                whose=(ws.pair, stitch),
                what=f"{end} layer of {names[side]}",
                help=(
                    "Steered before each layer from first to last; z̄ is measured at each. The"
                    f" stitch joins {joined}."
                ),
            )


def sampling() -> None:
    number("Tokens", "tokens", (1, 400), USUAL.tokens, 1, "Most tokens that a lane writes.")
    number(
        "Temperature",
        "temperature",
        (0.0, 5.0),
        USUAL.temperature,
        0.1,
        "0 takes the likeliest token.",
    )
    drawn_from = "The smallest set with this probability is drawn from."
    number("Top p", "top_p", (0.05, 1.0), USUAL.top_p, 0.05, drawn_from)
    penalty = "Divides logits of used tokens."
    number("Repetition penalty", "repetition", (0.5, 3.0), USUAL.repetition, 0.05, penalty)
    same = "The same seed writes the same text in a lane, whichever others run."
    number("Seed", "seed", (0, 2**31), USUAL.seed, 1, same)


def number(
    label: str,
    key: str,
    limits: tuple[Any, Any],
    usual: Any,
    step: Any,
    words: str,
) -> None:
    bound(st.number_input, label, *limits, key=key, usual=usual, step=step, help=words)
