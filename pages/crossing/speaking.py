"""Let it speak: four lanes go on from the same beginning, streamed."""

import time
from contextlib import closing
from typing import Any

import streamlit as st

from core.models.libraries import importing
from core.models.pairs import PairSpec
from core.steering import tables as steering_tables
from core.steering.settings import Sampling
from core.steering.sources import Language
from core.stitches import directions
from core.text.reading import clean
from core.workspace import demonstration, store
from core.workspace.store import Workspace
from pages.crossing import figures
from pages.shared import frame, studios
from pages.shared.address import bound
from pages.shared.frame import ask
from pages.shared.words import explained, plain

LANES = ("a", "b", "crossed", "control")


def speaking(ws: Workspace, pair: PairSpec, chosen: dict[str, Any]) -> None:
    st.subheader("Let it speak", anchor="speak")
    now = st.session_state
    presets = ask(steering_tables.presets, ws) if store.has(ws, "steering") else []
    languages = {"": "as it is"} | {p["language"]: p["name"] for p in presets}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        go = st.button("Speak", type=frame.action(), icon=":material/play_arrow:", key="speak")
        go = now.pop("speak_soon", False) or go
        st.button("Stop", icon=":material/stop:", disabled=not go, key="hush", help="At once.")
        most = demonstration.at_most(400, len(LANES))
        number("Tokens", "length", min(40, most), 1, most, "Most tokens that a lane writes.")
        number("Seed", "roll", 0, 0, 2**31, "The same seed writes the same text.")
        bound(
            st.number_input,
            "Temperature",
            0.0,
            5.0,
            step=0.1,
            key="warmth",
            usual=0.5,
            width=130,
            help=explained("temperature"),
        )
        if presets:
            bound(
                st.selectbox,
                "Toward",
                list(languages),
                key="toward",
                what="language",
                format_func=lambda code: languages[code],
                width=150,
                help="Steer the lanes by a vector that the other model learned and the stitch"
                " carried over.",
            )
    place = st.container(key="lanes")
    if go:
        stream(ws, pair, chosen, place)
    runs = [run for run in now.get("spoken", []) if run["pair"] == ws.pair]
    if runs and not go:
        show(pair, runs[-1], place)
    elif not runs:
        place.caption(
            "Four lanes go on from the text: each model alone, one with the other's mind, and the"
            " control."
        )


def number(label: str, key: str, usual: int, low: int, high: int, words: str) -> None:
    bound(st.number_input, label, low, high, key=key, usual=usual, width=130, help=words)


def heading(pair: PairSpec, run: dict[str, Any], lane: str) -> str:
    of, direction = directions.names(pair), run["direction"]
    first, last = direction[0], direction[-1]
    colour = {"a": "blue", "b": "violet"}
    match lane:
        case "a" | "b":
            return f"**:{colour[lane]}[{plain(of[lane])}]** alone"
        case "crossed" if first != last:
            return (
                f"**:{colour[last]}[{plain(of[last])}]**, thinking with"
                f" **:{colour[first]}[{plain(of[first])}]**'s mind"
            )
        case "crossed":
            return f"**{plain(directions.title(pair, direction))}**, there and back"
    return f"Control: {directions.CONTROLS[run['control']]}"


def boxes(pair: PairSpec, run: dict[str, Any]) -> dict[str, Any]:
    out = {}
    for lane, column in zip(LANES, st.columns(4, gap="medium"), strict=True):
        column.markdown(heading(pair, run, lane))
        out[lane] = column.empty()
    return out


def draw_lane(box: Any, run: dict[str, Any], lane: str) -> None:
    side = lane if lane in ("a", "b") else run["direction"][-1]
    text = run["texts"].get(lane, "")
    box.html(figures.lane_html(run["prompt"], text, side, lane == "crossed", lane == "control"))


def show(pair: PairSpec, run: dict[str, Any], place: Any) -> None:
    with place:
        places = boxes(pair, run)
        for lane in LANES:
            draw_lane(places[lane], run, lane)
        st.caption(plain(said(pair, run)))


def said(pair: PairSpec, run: dict[str, Any]) -> str:
    of = directions.names(pair)
    words = (
        f"Stitch {run['stitch']}, seed {run['seed']}, temperature {run['temperature']:g}. Left out"
        f" of what is drawn: tokens that a model never says in the corpus, such as unused ones"
    )
    words += f" ({run['left_out']:,} of {of[run['direction'][-1]]}'s)."
    if run.get("seconds"):
        words += f" {run['tokens'] / run['seconds']:.1f} tokens/s in each lane."
    return words


def stream(ws: Workspace, pair: PairSpec, chosen: dict[str, Any], place: Any) -> None:
    """Write, a token at a time; what there is is kept whenever this is interrupted."""
    now, words = st.session_state, place.empty()
    with words, st.spinner("Which tokens each model says: read once in the corpus", show_time=True):
        with importing():
            from core.config import check

        crossing = studios.crossing(ws, chosen["across"])
        sampling = check(
            Sampling,
            tokens=now["length"],
            temperature=now["warmth"],
            seed=now["roll"],
        )
        toward = now.get("toward")
        lanes = crossing.lanes(
            LANES,
            chosen["direction"],
            chosen["control"],
            source=Language(toward) if toward else None,
        )
    words.empty()
    last = chosen["direction"][-1]
    prompt = clean(chosen["text"][: chosen["read"]])
    run: dict[str, Any] = {
        "pair": ws.pair,
        "direction": chosen["direction"],
        "control": chosen["control"],
        "stitch": chosen["across"],
        "prompt": prompt,
        "seed": sampling.seed,
        "temperature": sampling.temperature,
        "left_out": next(
            len(lane.silent) if lane.silent is not None else 0
            for side, lane in lanes.values()
            if side == last
        ),
        "texts": {},
        "tokens": 0,
    }
    with place:
        places = boxes(pair, run)
        for lane in LANES:
            draw_lane(places[lane], run, lane)

    began = time.perf_counter()
    now.setdefault("spoken", []).append(run)
    del now["spoken"][:-4]
    with closing(crossing.speak(prompt, lanes, sampling, studios.waiting(words))) as texts:
        for written in texts:
            words.empty()
            for lane, w in written.items():
                run["texts"][lane] = w.text
                draw_lane(places[lane], run, lane)
            run["tokens"] = max(len(w.ids) for w in written.values())
            run["seconds"] = time.perf_counter() - began
    st.rerun()
