"""Crossing: one model reads a text, the other says what comes next; then lanes go on from it."""

import time
from functools import partial
from typing import Any
from urllib.parse import quote

import streamlit as st

from core.errors import StitchLensError
from core.models.pairs import PairSpec, get_pair
from core.stitches import directions
from core.stitches import tables as stitch_tables
from core.workspace import store
from core.workspace.disk import fingerprint
from core.workspace.store import Workspace
from pages.crossing import figures
from pages.crossing.speaking import speaking
from pages.shared import address, frame, panels, studios
from pages.shared.address import bound
from pages.shared.frame import ask, section
from pages.shared.words import explained, loss, percent, plain, sentence

TEXT = "The capital of France is Paris, and the people who live there speak French."
EXAMPLES = {
    "A fact": TEXT,
    "A story": "Once upon a time there was a little girl who lived by the sea. One day she",
    "Code": "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) +",
    "French": "La capitale de la France est Paris, et les gens qui y habitent parlent français.",
}
LONGEST = 20_000
LINKED = 6_000
"""Letters of an address that a text may take: servers refuse longer ones."""


def page() -> None:
    ws = frame.workspace()
    with section():
        pair = get_pair(ws.pair)
        st.title("Crossing")
        panels.refusal()
        stitches = ask(stitch_tables.stitch_names, ws) if ws.exists else []
        if not stitches:
            panels.door(
                f"**No stitch for {plain(pair.title)} yet.** A text crosses through one.",
                f"python -m core build {ws.pair}",
            )
            return
        now = st.session_state
        if st.query_params.pop("speak", "") == "true":  # a link that wants to hear it at once
            now["speak_soon"] = True
        chosen = choose(ws, pair, stitches)
        read = " ".join(chosen["text"].split())
        frame.titled(f"{directions.title(pair, chosen['direction'])}: {read}", "Crossing")
        if not ready(ws, pair, chosen):
            return
        with section():
            reading(ws, pair, chosen)
        with section():
            speaking(ws, pair, chosen)


def choose(ws: Workspace, pair: PairSpec, stitches: list[str]) -> dict[str, Any]:
    """What crosses, which way, through what; all of it stands in the address."""
    of = directions.names(pair)
    usual = {"direction": "a_to_b", "across": stitches[0], "control": "shuffled", "tint": "loss"}
    known = {
        "direction": directions.DIRECTIONS,
        "across": stitches,
        "control": [*directions.CONTROLS],
        "tint": [*figures.TINTS],
    }
    chosen: dict[str, Any] = {}
    for key, value in usual.items():
        parse, limits, words = address.one_of(known[key], str)
        what = "stitch" if key == "across" else key
        chosen[key] = address.settle(key, value, parse, ws.pair, limits, words=words, what=what)
    makers = ask(store.makers, ws, f"stitches/{chosen['across']}")
    chosen["layers"] = {side: int(makers[f"layer_{side}"]) for side in ("a", "b")}
    first, last = chosen["direction"][0], chosen["direction"][-1]
    sides = {"a": f":blue[{plain(of['a'])}]", "b": f":violet[{plain(of['b'])}]"}
    if first != last:
        where = f"{sides[last]}, which goes on from layer {chosen['layers'][last]}"
    else:
        where = f"{sides['b' if first == 'a' else 'a']}'s space and back"
    st.markdown(
        f"{sides[first]} reads a text up to layer {chosen['layers'][first]}; a stitch carries its"
        f" thoughts over into {where}. What does {sides[last]} then expect next?"
    )

    text = address.settle("text", TEXT, lambda x: x[:LONGEST], None)
    if len(quote(text)) > LINKED:
        address.change("text", None)
    st.text_area(
        "Text",
        key="text",
        height=84,
        max_chars=LONGEST,
        help="Both models read it. Ctrl+Enter, or a click elsewhere, reads it anew.",
    )
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(":small[Try]", width="content")
        for name, example in EXAMPLES.items():
            st.button(name, key=f"example-{name}", on_click=_put, args=(example,))
        with st.popover("Stitch, control, tint", icon=":material/tune:"):
            switches(stitches)
    one_of_four = st.selectbox if frame.on_phone() else partial(st.segmented_control, required=True)
    one_of_four(
        "Direction",
        directions.DIRECTIONS,
        key="direction",
        format_func=lambda d: directions.title(pair, d),
        help="Whose layers come first and whose speak; a round trip comes back.",
    )
    return chosen | {"text": text, "lens": bool(st.session_state.get("lens"))}


def switches(stitches: list[str]) -> None:
    st.selectbox("Stitch", stitches, key="across", help="Named after the layers that it joins.")
    st.segmented_control(
        "Control",
        list(directions.CONTROLS),
        required=True,
        key="control",
        format_func={"shuffled": "Shuffled pairs", "random": "Random"}.__getitem__,
        help="; ".join(f"{name}: {what}" for name, what in directions.CONTROLS.items()) + ".",
    )
    st.segmented_control(
        "Tint",
        list(figures.TINTS),
        required=True,
        key="tint",
        format_func={"loss": "Loss", "kl": "KL"}.__getitem__,
        help="By what crossing costs the next token, or by how much it changes all of them.",
    )
    bound(
        st.toggle,
        "Lens",
        key="lens",
        usual=False,
        help=f"With a token's ten words, also this. {explained('lens')}",
    )


def _put(example: str) -> None:
    st.session_state["text"] = example


def ready(ws: Workspace, pair: PairSpec, chosen: dict[str, Any]) -> bool:
    """Whether there is something to read and models to read it; else it is said what comes."""
    if not chosen["text"].strip():
        st.info("Type or paste a text above, or press one of the examples.", icon=":material/edit:")
        return False
    why = directions.refused(ws, chosen["across"], chosen["direction"])
    if why is not None:
        st.warning(sentence(StitchLensError(*why)))
        return False
    if directions.refused(ws, chosen["across"], chosen["direction"], chosen["control"]):
        chosen["control"] = "random"
        st.caption("This stitch has no control of shuffled pairs: a random one is shown.")
    opening = studios.opening(pair.key)
    if not opening.over:
        st.fragment(_opening, run_every=0.5)(pair)
        return False
    return True


def _opening(pair: PairSpec) -> None:
    opening = studios.opening(pair.key)
    if opening.over:
        st.rerun()
    with st.container(key="opening"):
        st.info(
            f"Opening {plain(pair.a.title)} and {plain(pair.b.title)}, once a server:"
            f" {time.time() - opening.began:.0f} s.",
            icon=":material/hourglass:",
        )


# reading


def reading(ws: Workspace, pair: PairSpec, chosen: dict[str, Any]) -> None:
    words = st.empty()
    with words, st.spinner("Both models read", show_time=True):
        crossing = studios.crossing(ws, chosen["across"])
        asked = (chosen["text"], chosen["direction"], chosen["control"])
        mark = (ws.pair, fingerprint(ask(store.makers, ws, f"stitches/{chosen['across']}")))
        record = _read(crossing, *mark, *asked)
        lens = _lens(crossing, *mark, *asked[:2]) if chosen["lens"] else None
    words.empty()
    chosen["read"] = record["read"]
    identity = fingerprint([mark, asked])
    drawn = figures.passage(record, pair, chosen["control"], chosen["tint"], lens, chosen["layers"])
    picked = st.query_params.get("token", "")
    now = st.session_state
    if now.get("crossed") != identity:
        if "crossed" in now and not now.get("arrived"):
            picked = ""
        now["crossed"] = identity
    n = len(record["tokens"])
    at = int(picked) if picked.isdecimal() and int(picked) < n else None
    if picked and at is None:
        address.notice(f"No token {plain(picked)} here: they run from 0 to {n - 1}.")
    result = figures.component()(
        key=f"passage-{identity}",
        data=drawn | {"picked": at},
        default={"picked": at},
        on_picked_change=lambda: None,
    )
    if result.picked is None:
        st.query_params.pop("token", None)
    else:
        st.query_params["token"] = str(int(result.picked))
    note(pair, record)
    totals(pair, record, chosen)


@st.cache_data(max_entries=32, show_spinner=False)
def _read(
    _crossing: Any, pair: str, stamp: str, text: str, direction: str, control: str
) -> dict[str, Any]:
    return _crossing.read(text, direction, (control,)).record()


@st.cache_data(max_entries=8, show_spinner=False)
def _lens(_crossing: Any, pair: str, stamp: str, text: str, direction: str) -> list[dict[str, Any]]:
    return _crossing.lens(text, direction)


def totals(pair: PairSpec, record: dict[str, Any], chosen: dict[str, Any]) -> None:
    """The columns of Table 1 for this text alone."""
    of, direction, all_of = directions.names(pair), record["direction"], record["totals"]
    crossed = all_of[direction]
    control = all_of[f"{chosen['control']}_{direction}"]
    colour = {"a": ":blue", "b": ":violet"}
    cells = [
        (
            f"{colour[side]}[{plain(of[side])}]",
            f"{loss(all_of[side]['loss'])} nats/token",
            f"{loss(all_of[side]['bits_per_byte'])} bits/byte",
        )
        for side in ("a", "b")
    ]
    for label, total in (
        (directions.title(pair, direction), crossed),
        (f"{chosen['control']} control", control),
    ):
        cells.append(
            (
                plain(label),
                f"{loss(total['loss'])} ({percent(total['relative'])})",
                "nats/token",
            )
        )
    share = crossed["share_patched"]
    patched = crossed["relative_patched"]
    cells.append(
        (
            "Crossed",
            f"{percent(share, sign=False)} of positions",
            "none has read the same text" if patched is None else f"there alone {percent(patched)}",
        )
    )
    frame.cells(cells, 165)


def note(pair: PairSpec, record: dict[str, Any]) -> None:
    of, speaker = directions.names(pair), record["direction"][-1]
    words = (
        f"Under each of {of[speaker]}'s tokens, the next word that each expects after it;"
        " underlined: the text goes on so. Arrow keys walk along the tokens."
    )
    if record["read"] < len(record["text"]):
        words += (
            f" {of[speaker]} reads as much as it can at once: the first {record['read']:,} of"
            f" {len(record['text']):,} characters."
        )
    st.caption(plain(words))


page()
