"""Entropy features at the last layers: which features act through the final norm alone, and how
large one must be to be seen."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from core.functional import last_tables
from core.functional.criterion import LEAST, READ, REMAINS
from core.models.pairs import PairSpec
from core.workspace.store import Workspace
from pages.functional.last_figures import SHOWN, last_layer
from pages.shared import panels
from pages.shared.address import bound
from pages.shared.figures import draw
from pages.shared.frame import ask
from pages.shared.words import explained, number, percent, plain, short_names


def last_layers(ws: Workspace, pair: PairSpec) -> None:
    """The causal search, layer by layer; a door where nothing was measured."""
    st.subheader(
        "Entropy features, at the last layers",
        anchor="last-layers",
        help=explained("entropy feature"),
    )
    layers = ask(last_tables.measured, ws)
    if not layers:
        panels.door(
            "**Not looked for at the last layers yet.** This trains sparse autoencoders there,"
            " takes every feature out with the final norm's scale free and frozen, and plants some"
            " to know how large one must be to be seen.",
            f"python -m core functional entropy {ws.pair}",
        )
        return

    names = short_names(pair)
    titles = {name: f"{names[name[0]]}, before layer {name.partition('-L')[2]}" for name in layers}
    chosen = layers[0]
    if len(layers) > 1:
        chosen = str(
            bound(
                st.selectbox,
                "Model and layer",
                layers,
                key="last",
                what="last layer",
                words=str,
                format_func=titles.__getitem__,
                width=320,
            )
        )

    one = ask(last_tables.summary, ws, chosen)
    st.markdown(in_words(one, titles[chosen]))
    table = ask(last_tables.features, ws, chosen)
    planted = ask(last_tables.plants, ws, chosen)
    draw(
        last_layer(table, planted, one["side"]),
        f"Each of {one['tried']:,} features of a sparse autoencoder of"
        f" {plain(titles[chosen])}, by what taking it out of what the final norm reads, where it"
        " fires, does to the entropy of the next token. Left: against the share of its direction"
        " in the null space of the unembedding. Right: against the same with the final norm's"
        " scale frozen; an entropy feature lies on the upright line, a feature that acts by its"
        " words on the slanted one."
        f" Found: {LEAST:g} nats or more by its whole interval, at most"
        f" {percent(REMAINS, sign=False)} of the change left once the scale is frozen, a direction"
        f" read at most {number(READ)} times as strongly as a random one. Controls: random"
        " directions as long at the same places, features of a random SAE, and planted ones of"
        f" {percent(SHOWN, sign=False)} of the stream's norm; {one['documents']} held-out"
        " documents. (Fig. 5a)",
        key="last-layer",
        alt="Entropy change against null-space share, and with the final norm's scale frozen",
    )


def in_words(one: Mapping[str, Any], title: str) -> str:
    """What was found in a layer, and from which size on it would have been."""
    if one["found"]:
        top = one["entropy_features"][0]
        change = number(top["free"], top["free_low"], top["free_high"], sign=True)
        found = (
            f"**{one['found']} of {one['tried']:,} features act through the final norm alone**; the"
            f" clearest, feature {top['feature']}, changes the entropy by {change} nats when taken"
            f" out, and with the scale frozen {percent(top['left'], sign=False)} of that is left."
            " With all that the blocks between make of it, it changes the entropy by"
            f" {number(top['total'], top['total_low'], top['total_high'], sign=True)}."
        )
    else:
        found = f"**None of {one['tried']:,} features acts through the final norm alone.**"

    least = one["seen_from"]
    if not least:
        return f"{plain(title)}: {found} Planted ones are not found either, whatever their size."

    firings = max(least, key=int)
    size = percent(least[firings], sign=False)
    seen = (
        f" One that the unembedding does not read at all would be seen from {size} of the stream's"
        f" norm on, with a chance of 80 % ({firings} firings); {one['large_enough']:,} of the"
        " features write as much."
    )
    read = (
        " Even the directions that it reads least (the null space) are read"
        f" {number(one['floor'])} times as strongly as a random one"
    )
    as_it_is = one["seen_as_it_is"]
    if firings in as_it_is:
        size = percent(as_it_is[firings], sign=False)
        return f"{plain(title)}: {found}{seen}{read}: one there is seen from {size} on."
    return f"{plain(title)}: {found}{seen}{read}, so one there is not seen, whatever its size."
