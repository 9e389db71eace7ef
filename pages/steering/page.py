"""Steer live: one prompt, several lanes of both models side by side; below, how often it works."""

import html
import json
import tempfile
import threading
import time
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st
from safetensors import safe_open

from core.errors import StitchLensError
from core.features import tables as feature_tables
from core.models.pairs import PairSpec, get_pair
from core.steering import tables as steering_tables
from core.steering.lanes import LANE_KINDS, LaneKey, lane_key
from core.steering.settings import USUAL, Sampling, Setting
from core.steering.sources import (
    Brought,
    Concept,
    Feature,
    Language,
    Source,
    source_from,
)
from core.stitches import tables as stitch_tables
from core.text.languages import LANGUAGES
from core.text.reading import clean
from core.workspace import artifacts, store, uploads
from core.workspace.disk import fingerprint
from core.workspace.store import Workspace
from core.workspace.untrusted import LARGEST_VECTOR, MB, VECTOR_FILES
from pages.shared import figures as figures_base
from pages.shared import frame, panels
from pages.shared import words as shared_words
from pages.shared.figures import draw
from pages.shared.frame import ask, section
from pages.shared.words import percent, plain
from pages.steering import figures

if TYPE_CHECKING:
    from core.steering.studio import Studio

LANES = [LaneKey(side, kind) for side in ("b", "a") for kind in ("none", "own", "transferred")]
CONTROLS = [LaneKey(side, kind) for side in ("b", "a") for kind in ("random", "shuffled")]
DEFAULT = LANES[:3]
SOURCES = {"lang": "Language", "concept": "Texts", "feature": "Feature", "vector": "Your own"}
PROMPT = "The best way to keep bread fresh is"
LIMITS: dict[str, tuple[Any, Any]] = {
    "tokens": (1, 400),
    "temperature": (0.0, 5.0),
    "top_p": (0.05, 1.0),
    "repetition": (0.5, 3.0),
    "seed": (0, 2**31),
}
"""Of sampling: least and most."""
HISTORY = 8
WAYS = {"b": "B steered", "a": "A steered"}
PLUS = (
    "I love this, it is wonderful.\nWhat a beautiful and happy day.\nThis is the best gift I ever"
    " got."
)
MINUS = (
    "I hate this, it is terrible.\nWhat an ugly and sad day.\nThis is the worst gift I ever got."
)


def page() -> None:
    ws = frame.workspace()
    with section():
        pair = get_pair(ws.pair)
        st.title("Steering")
        st.markdown(
            "One prompt, several lanes: a model by itself, under its own vector, and under one"
            " that was learned in the *other* model and carried through the stitch. :blue[A is"
            f" {plain(pair.a.title)}], :violet[B is {plain(pair.b.title)}]."
        )
        panels.refusal()
        names = ask(stitch_tables.stitch_names, ws) if ws.exists else []
        if not names:
            panels.door(
                f"**No stitch for {plain(pair.title)} yet.** Vectors cross through one.",
                f"python -m core build {ws.pair}",
            )
            return
        if not store.has(ws, "language_means/b"):
            panels.door(
                "**No language means yet.** Steering to a language needs the mean residual stream"
                " of each, in both models; the evaluation makes them and measures how often"
                " steering works.",
                f"python -m core steer eval {ws.pair}",
            )
        with section():
            live(ws, pair, names)
        if store.has(ws, "steering"):
            with section():
                evaluation(ws, pair)
        warm(pair.key)  # last: importing torch beside it would slow the page


# live


def live(ws: Workspace, pair: PairSpec, names: list[str]) -> None:
    now = st.session_state
    first = {"prompt": PROMPT, "lanes": DEFAULT, "strength": 1.0, "source": "lang"}
    for key, value in first.items():  # not as the widgets' own defaults: presets set them too
        if key not in now and key not in st.query_params:
            now[key] = value
    frame.answer("lanes", map(name_of, (*LANES, *CONTROLS)), "lane")
    frame.answer("source", SOURCES.values(), "source of vectors")
    frame.answer("operator", steering_tables.OPERATORS, "operator")
    frame.within("strength", -5, 5, "strength")
    presets(ws)
    st.text_area(
        "Prompt",
        key="prompt",
        bind="query-params",
        height=80,
        max_chars=20_000,
        help=(
            "What every lane goes on from. Both models are base or lightly tuned ones: give the"
            " beginning of a text."
        ),
    )
    lanes = st.pills(
        "Lanes",
        [*LANES, *CONTROLS],
        selection_mode="multi",
        key="lanes",
        bind="query-params",
        format_func=name_of,
        help=(
            "Columns, left to right. Lanes of one model share every pass, so three cost little more"
            " than one. Random and shuffled are controls: a clamp as strong along a random"
            " direction, and the other model's vector through a stitch fitted on shuffled pairs."
        ),
    )
    with st.expander("Vector, strength, layers, sampling", icon=":material/tune:", key="options"):
        ask_for = options(ws, pair, names)
    ready = "stitch" in ask_for
    bar = st.container(horizontal=True, vertical_alignment="bottom")
    bar.slider(
        "Strength",
        -5.0,
        5.0,
        step=0.1,
        key="strength",
        bind="query-params",
        width=320,
        on_change=again,
        help=(
            "Multiplies c of Eq. 8: 1 sets the component along v to z̄, as in the paper; 0 changes"
            " nothing. Moving it writes again and keeps the text before."
        ),
    )
    go = bar.button(
        "Go", type=frame.action(), icon=":material/play_arrow:", key="go", disabled=not ready
    )
    go = (now.pop("again", False) or go) and ready
    bar.button(
        "Stop",
        icon=":material/stop:",
        disabled=not go,
        key="stop",
        help="Stops within a token; the text stays.",
    )
    place = st.container(key="columns")
    if go and not lanes:
        place.warning("No lane is chosen: choose at least one above.")
        go = False
    if go:
        stream(ws, pair, ask_for, lanes, place)
    runs: list[dict[str, Any]] = [r for r in now.get("runs", []) if r["pair"] == ws.pair]
    if not go:
        if runs:
            show(runs[-1], place)
        else:
            example(ws, place)
    after(ws, runs)


def again() -> None:
    """The dial writes again where something has been written."""
    if st.session_state.get("runs"):
        st.session_state["again"] = True


def name_of(lane: LaneKey) -> str:
    """`B own vector`; a link calls a lane so, too."""
    return f"{lane.side.upper()} {LANE_KINDS[lane.kind][0]}"


def heading(lane: LaneKey) -> str:
    colour = "blue" if lane.side == "a" else "violet"
    return f"**:{colour}[{lane.side.upper()}] {LANE_KINDS[lane.kind][0]}**"


def presets(ws: Workspace) -> None:
    found = ask(steering_tables.presets, ws)
    if not found:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(":small[Try]")
        for preset in found:
            st.button(
                preset["name"],
                key=f"preset-{preset['language']}",
                on_click=choose,
                args=(preset,),
                help=(
                    f'Steer B to {preset["name"]}: "{preset["prompt"]}", stitch {preset["stitch"]},'
                    " strength "
                    f"{preset['strength']:g}."
                ),
            )


def choose(preset: dict[str, Any]) -> None:
    """A preset's whole setting, and go."""
    now = st.session_state
    now["prompt"], now["source"], now["lang"] = preset["prompt"], "lang", preset["language"]
    now["through"], now["strength"], now["lanes"] = preset["stitch"], preset["strength"], DEFAULT
    now["first_b"], now["last_b"], now["layers_for"] = (
        preset["first"],
        preset["last"],
        preset["stitch"],
    )
    now["again"] = True


def options(ws: Workspace, pair: PairSpec, names: list[str]) -> dict[str, Any]:
    """What is steered and how; the values that `stream` needs besides those bound to keys."""
    now, out = st.session_state, dict[str, Any]()
    left, middle, right = st.columns(3, gap="large")
    with left:
        st.markdown("**Vector**")
        kind = str(
            st.segmented_control(
                "From",
                list(SOURCES),
                required=True,
                key="source",
                bind="query-params",
                format_func=lambda k: SOURCES[k],
                help="DiffMean of texts (4), a decoder direction, or a file.",
            )
            or "lang"
        )
        out |= {"kind": kind} | given(ws, kind)
    with middle:
        st.markdown("**Where**")
        if kind == "feature":
            names = fitting(ws, out["sae"])
            if not names:
                return out
        frame.answer("through", names, "stitch")
        stitch = st.selectbox(
            "Stitch",
            names,
            key="through",
            bind="query-params",  # "stitch" is Stitches'; links there would lose it
            help="Carries the vector across by v P, without the bias, renormalised (4).",
        )
        makers = ask(store.makers, ws, f"stitches/{stitch}")
        other = now.get("layers_for") not in (None, stitch)
        now["layers_for"] = stitch
        for side, spec in (("a", pair.a), ("b", pair.b)):
            at, ends = int(makers[f"layer_{side}"]), st.columns(2)
            for end, column in zip(("first", "last"), ends, strict=True):
                key = f"{end}_{side}"
                if (other and not now.get("again")) or (
                    key not in now and key not in st.query_params
                ):
                    now[key] = at
                frame.within(key, 0, spec.n_layers - 1, f"{end} layer of {side.upper()}")
                column.number_input(
                    f"{end.capitalize()} layer of {side.upper()}",
                    0,
                    spec.n_layers - 1,
                    key=key,
                    bind="query-params",
                    help=(
                        "Steered before each layer from first to last; z̄ is measured at each. The"
                        f" stitch joins {at}."
                    ),
                )
        st.segmented_control(
            "Operator",
            list(steering_tables.OPERATORS),
            default="clamp",
            required=True,
            key="operator",
            bind="query-params",
            help="  \n".join(
                f"{name}: {what}." for name, what in steering_tables.OPERATORS.items()
            ),
        )
        st.checkbox(
            "Steer the prompt too",
            True,
            key="on_prompt",
            bind="query-params",
            help="Special tokens are never steered. Off: only what is generated.",
        )
    with right:
        st.markdown("**Sampling**")
        number("Tokens", "tokens", USUAL.tokens, 1, "Most tokens that a lane writes.")
        number("Temperature", "temperature", USUAL.temperature, 0.1, "0 takes the likeliest token.")
        number(
            "Top p",
            "top_p",
            USUAL.top_p,
            0.05,
            "The smallest set with this probability is drawn from.",
        )
        number(
            "Repetition penalty",
            "repetition",
            USUAL.repetition,
            0.05,
            "Divides logits of used tokens.",
        )
        number(
            "Seed",
            "seed",
            USUAL.seed,
            1,
            "The same seed writes the same text in a lane, whichever others run.",
        )
    return out | {"stitch": stitch}


def number(label: str, key: str, usual: Any, step: Any, words: str) -> None:
    low, high = LIMITS[key]
    frame.within(key, low, high, label.lower())
    st.number_input(label, low, high, usual, step, key=key, bind="query-params", help=words)


def fitting(ws: Workspace, sae: str) -> list[str]:
    """The stitches that carry this SAE's features; it is said where there is none."""
    names = ask(stitch_tables.stitches_from, ws, sae) if sae else []
    if sae and not names:
        layer = ask(store.makers, ws, f"saes/{sae}")["layer_a"]
        st.markdown(
            f"No stitch leads from layer {layer} of A, where SAE {plain(sae)} reads: fit one on"
            " Stitches."
        )
        link = {"pair": ws.pair, "layer_a": str(layer)}
        st.page_link("stitches/page.py", label="Fit one", icon=":material/hub:", query_params=link)
    return names


def given(ws: Workspace, kind: str) -> dict[str, Any]:
    match kind:
        case "lang":
            codes, names = ask(language_codes, ws), dict(LANGUAGES.values())
            frame.answer("lang", [names[code] for code in codes], "language")
            code = st.selectbox(
                "Language",
                codes,
                key="lang",
                bind="query-params",
                format_func=lambda c: names[c],
                help=(
                    "Positive: texts in it; negative: English; each model reads both itself"
                    " (DiffMean)."
                ),
            )
            return {"source": Language(str(code))}
        case "concept":
            words = "Examples, one a line. v is the difference of the mean residual streams."
            plus = st.text_area(
                "More of this", PLUS, key="plus", bind="query-params", max_chars=5000, help=words
            )
            minus = st.text_area(
                "Less of this", MINUS, key="minus", bind="query-params", max_chars=5000, help=words
            )
            return {"source": Concept(plus, minus)}
        case "feature":
            saes = feature_tables.saes(ws)
            if not saes:
                st.markdown("No SAE yet: see the Features page.")
                return {"sae": ""}
            frame.answer("steer_sae", saes, "SAE")
            sae = str(
                st.selectbox("SAE", saes, key="steer_sae", bind="query-params", help="Of model A.")
            )
            last = len(ask(feature_tables.features, ws, sae)) - 1
            frame.within("steer_feature", 0, last, "feature")
            index = st.number_input(
                "Feature",
                0,
                last,
                0,
                key="steer_feature",
                bind="query-params",
                help=(
                    "v is its decoder direction; z̄ the mean component where it is active in its"
                    " top contexts."
                ),
            )
            return {"source": Feature(sae, int(index)), "sae": sae}
    known = steering_tables.vectors(ws)
    if (added := st.session_state.pop("added_vector", None)) in known:
        st.session_state["vector"] = added
    frame.answer("vector", known, "vector")
    name = st.selectbox("Vector", known, key="vector", bind="query-params") if known else None
    with section():
        if name is not None:
            said(ask(steering_tables.vector_card, ws, name))
    with section():
        bring(ws)
    return {"source": Brought(name or "")}


def said(card: dict[str, Any]) -> None:
    """The report card of a vector that was brought."""
    near = ", ".join(f"{plain(code)} {cosine:+.2f}" for code, cosine in card.get("nearest", []))
    through = ", ".join(
        f"{plain(stitch)} {cosine:.2f}" for stitch, cosine in card["crossing"].items()
    )
    panels.warnings(card["warnings"])
    st.caption(
        f"For {card['side'].upper()} before layer {card['layer']}; pushes by {card['push']:.4g}"
        + (f" ({plain(card['from'])})" if "from" in card else "")
        + (
            f", the mean residual stream is {card['size']:.3g}. Nearest languages, by cosine:"
            f" {near}"
            if near
            else ""
        )
        + (f". Through a stitch and back, cosine with itself: {through}." if through else ".")
        + "".join(f" Note: {plain(note)}." for note in card.get("notes", ()))
    )


def bring(ws: Workspace) -> None:
    """A vector of one's own: checked at once and kept private."""
    with (
        st.expander("Bring a vector", icon=":material/upload:"),
        st.form("bring-vector", border=False),
    ):
        file = st.file_uploader(
            "File",
            type=[ending[1:] for ending in VECTOR_FILES],
            max_upload_size=LARGEST_VECTOR // MB,
            help=(
                "As `vector export` writes it, a GGUF control vector, Neuronpedia's JSON, or a row"
                " alone as NumPy, safetensors or PyTorch tensor; at most"
                f" {LARGEST_VECTOR // MB} MB."
            ),
        )
        left, right = st.columns(2)
        side = left.segmented_control(
            "It is for",
            ["as it says", "a", "b"],
            default="as it says",
            required=True,
            help=(
                "A row alone does not say its model and layer; a control vector often says the"
                " architecture alone."
            ),
        )
        layer = right.number_input(
            "Before layer, if it does not say",
            0,
            1000,
            None,
            help="Of a file with several layers, the one to take; the middle one if left empty.",
        )
        name = st.text_input("Name", placeholder="the file's", max_chars=64)
        if st.form_submit_button("Add"):
            if file is None:
                raise StitchLensError("no file", "a vector", "drop one into the box")
            from core.bench import Bench, BuildConfig
            from core.steering.card import import_vector

            path = uploads.uploaded(file.name, file.getvalue())
            name = name.strip() or artifacts.name_from(path.name)
            bench = Bench(get_pair(ws.pair), BuildConfig(), frame.mine())
            where = None if side == "as it says" else side
            import_vector(bench, path, name, where, None if layer is None else int(layer))  # type: ignore[arg-type]
            st.session_state["added_vector"] = name
            st.rerun()
        st.caption(
            "It stays private to this browser until you keep it; the list is in the sidebar."
        )


def language_codes(ws: Workspace) -> list[str]:
    """Those with means; first the ones to which transferred vectors steer B best."""
    best: list[str] = []
    if store.has(ws, "steering"):
        table = steering_tables.steering(ws, "b")
        best = (
            table.loc[table.kind == "transferred"]
            .sort_values("success", ascending=False)
            .language.to_list()
        )
    with safe_open(ws.path("language_means/b"), "np") as f:
        labels = json.loads((f.metadata() or {}).get("labels", "[]"))
    codes = [LANGUAGES[x][0] for x in labels if x != "eng"]
    return [*best, *sorted(set(codes) - set(best))]


def studio(ws: Workspace, stitch: str) -> "Studio":
    """Kept until the stitch is another one or there are language means."""
    mark = [store.makers(ws, f"stitches/{stitch}"), store.has(ws, "language_means/b")]
    return _studio(ws.pair, stitch, ws.private, fingerprint(mark))


@st.cache_resource(max_entries=4, show_spinner=False)
def _studio(pair: str, stitch: str, private: Path | None, stamp: str) -> "Studio":
    from core.bench import Bench, BuildConfig
    from core.steering.studio import Studio

    return Studio(Bench(get_pair(pair), BuildConfig(), private), stitch)


@st.cache_resource(max_entries=4, show_spinner=False)
def warm(pair: str) -> threading.Thread:
    """Opens B in the background, so that the first Go need not wait for it; a fault is said by
    Go."""

    def work() -> None:
        from core.models.loading import load_shared

        with suppress(StitchLensError):
            load_shared(get_pair(pair).b)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def stream(
    ws: Workspace, pair: PairSpec, chosen: dict[str, Any], lanes: list[LaneKey], place: Any
) -> None:
    """Write, a token at a time, into a column a lane; what there is is kept whenever this is
    interrupted."""
    said = place.empty()
    with said, st.spinner("Opening the models, once", show_time=True):
        from core.config import check
        from core.steering.studio import run_record

    now = st.session_state
    try:
        here = studio(ws, chosen["stitch"])
        setting = check(
            Setting,
            operator=now["operator"],
            strength=now["strength"],
            prompt=now["on_prompt"],
            layers_a=(now["first_a"], now["last_a"]),
            layers_b=(now["first_b"], now["last_b"]),
        )
        sampling = check(
            Sampling,
            **{k: now[k] for k in ("tokens", "temperature", "top_p", "repetition", "seed")},
        )
        source: Source = chosen["source"]
        directions, prompt = here.directions(source), clean(now["prompt"])
        left_out = [lane for lane in lanes if not directions.has(lane)]
        lanes = [lane for lane in lanes if lane not in left_out]
        if not lanes:
            side = "AB"[directions.sides == ("b",)]
            raise StitchLensError(
                f"a vector of {side} alone",
                f"{side}'s own lane, or the other model's transferred one",
                "choose these",
            )
        with said, st.spinner("Opening the models, once", show_time=True):
            for lane in lanes:
                here.model(lane.side)
        with place:
            if left_out:
                st.caption(
                    f"Left out, there is no such vector here: {', '.join(map(name_of, left_out))}."
                )
            boxes = columns(lanes)
        record: dict[str, Any] | None = None
        began = time.perf_counter()

        def waiting(n: int) -> None:
            said.info(
                f"{n} before you: one stream at a time computes.", icon=":material/hourglass:"
            )

        with closing(here.run(directions, lanes, prompt, setting, sampling, waiting)) as texts:
            for written in texts:
                if record is None:
                    said.empty()
                    record = run_record(here, source, prompt, setting, sampling, written, {})
                    now.setdefault("runs", []).append(record)
                    del now["runs"][:-HISTORY]
                for entry, (lane, w) in zip(record["lanes"], written.items(), strict=True):
                    entry["text"], entry["tokens"] = w.text, len(w.ids)
                    boxes[lane].html(text_html(prompt, w.text, lane))
                record["seconds"] = time.perf_counter() - began
        if record is not None:
            judged = here.judge(prompt, written)
            record.update(run_record(here, source, prompt, setting, sampling, written, judged))
    except StitchLensError as e:
        said.error(shared_words.sentence(e), icon=":material/error:")
        return
    st.rerun()


def columns(lanes: list[LaneKey]) -> dict[LaneKey, Any]:
    """A heading and an empty box a lane."""
    boxes = {}
    for lane, column in zip(lanes, st.columns(len(lanes), gap="medium"), strict=True):
        column.markdown(heading(lane), help=LANE_KINDS[lane.kind][1])
        boxes[lane] = column.empty()
    return boxes


def text_html(prompt: str, text: str, lane: LaneKey) -> str:
    """Escaped: the prompt grey, what was written on a tint of its model."""
    rgb = "66,133,244" if lane.side == "a" else "154,92,214"
    return (
        '<div dir="auto"'
        ' style="unicode-bidi:plaintext;white-space:pre-wrap;overflow-wrap:anywhere;'
        'line-height:1.6;">'
        f'<span style="opacity:0.62;">{html.escape(prompt)}</span>'
        "<span"
        f' style="background-color:rgba({rgb},0.16);border-radius:3px;">{html.escape(text)}</span>'
        "</div>"
    )


def show(run: dict[str, Any], place: Any) -> None:
    """A run as it ended, with what can be said of each text; laid out as `stream` does, so that it
    takes its place."""
    place.empty()
    with place:
        lanes = [lane_key(entry["lane"]) for entry in run["lanes"]]
        boxes = columns(lanes)
        for lane, entry in zip(lanes, run["lanes"], strict=True):
            with boxes[lane].container():
                st.html(text_html(run["prompt"], entry["text"], lane))
                st.caption(verdict(entry, run.get("seconds")))


def verdict(lane: dict[str, Any], seconds: float | None) -> str:
    parts = []
    if lane.get("language"):
        name = dict(LANGUAGES.values()).get(lane["language"], lane["language"])
        parts.append(f"**{plain(name)}** ({lane['probability']:.2f})")
    if lane.get("loss") is not None:
        parts.append(f"{lane['loss']:.2f} nats/token")
        parts.append(f"{percent(lane['repetition'], sign=False)} repeated")
    if seconds and lane.get("tokens"):
        parts.append(f"{lane['tokens'] / seconds:.1f} tokens/s")
    return " · ".join(parts)


def example(ws: Workspace, place: Any) -> None:
    """Before anything was written: a preset as the evaluation wrote it."""
    found = ask(steering_tables.presets, ws)
    if not found:
        place.caption(
            "Press Go: both models are opened once, which takes some seconds, and then write at"
            " once."
        )
        return
    one, lanes = found[0], []
    for lane in DEFAULT:
        table = ask(steering_tables.generations, ws, lane.side, one["language"], lane.kind)
        row = table.loc[table.prompt == one["prompt"]].iloc[0]
        lanes.append(
            {
                "lane": str(lane),
                "text": row.text,
                "language": row.detected,
                "probability": row.probability,
                "loss": row.loss,
                "repetition": row.repetition,
            }
        )
    show({"prompt": one["prompt"], "lanes": lanes}, place)
    place.caption(
        f"As the evaluation wrote it, steering to {one['name']}; press a language above, or Go, to"
        " write anew. nats/token: the loss of the text under the unsteered model (lower is more"
        " fluent)."
    )


def after(ws: Workspace, runs: list[dict[str, Any]]) -> None:
    """Downloads and the runs before."""
    if not runs:
        return
    last = runs[-1]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            "Run",
            json.dumps(last, indent=1, ensure_ascii=False),
            "run.json",
            "application/json",
            on_click="ignore",
            icon=":material/download:",
            help="Texts, settings and figures of the run above, as JSON.",
        )
        if last["source"] != str(Concept("", "")):  # a record does not hold its two texts
            lanes = [lane_key(entry["lane"]) for entry in last["lanes"]]
            steered = (lane for lane in lanes if lane.kind != "none")
            lane = next(steered, LaneKey("b", "transferred"))
            for ending, what in (
                ("safetensors", "Vector"),
                ("gguf", "GGUF"),
                ("json", "Neuronpedia"),
            ):
                st.download_button(
                    what,
                    partial(exported, ws, last, lane, ending),
                    f"{lane.side}-{lane.kind}.{ending}",
                    on_click="ignore",
                    icon=":material/download:",
                    key=f"export-{ending}",
                    help=f"The vector of lane {lane}: "
                    + {
                        "safetensors": "opens here again.",
                        "gguf": "a control vector for llama.cpp.",
                        "json": "the form of Neuronpedia's vector upload.",
                    }[ending],
                )
    earlier = runs[-2::-1]
    if earlier:
        with st.expander(
            f"Earlier runs ({len(earlier)})",
            expanded=same_but_strength(last, earlier[0]),
            key="earlier",
        ):
            for run in earlier:
                setting = run["setting"]
                st.markdown(
                    f":small[{plain(run['source'])}, strength {setting['strength']:g},"
                    f" {setting['operator']}, stitch {plain(run['stitch'])}, seed"
                    f" {run['sampling']['seed']}]"
                )
                show(run, st.container())


def same_but_strength(one: dict[str, Any], other: dict[str, Any]) -> bool:
    def strip(run: dict[str, Any]) -> dict[str, Any]:
        setting = {k: v for k, v in run["setting"].items() if k != "strength"}
        return setting | {"s": run["source"], "p": run["prompt"]}

    return bool(strip(one) == strip(other) and one["setting"] != other["setting"])


def exported(ws: Workspace, run: dict[str, Any], lane: LaneKey, ending: str) -> bytes:
    from core.steering.files import export

    here = studio(ws, run["stitch"])
    directions = here.directions(source_from(run["source"]))
    vector = here.vectors(directions, lane, Setting.model_validate(run["setting"]))[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"vector.{ending}"
        export(vector, here.spec(lane.side), f"{run['source']} {lane}", path)
        return path.read_bytes()


# the evaluation


def evaluation(ws: Workspace, pair: PairSpec) -> None:
    st.header("How often it works", anchor="evaluation")
    frame.answer("way", WAYS.values(), "way")
    side = str(
        st.segmented_control(
            "Which model is steered",
            list(WAYS),
            default="b",
            required=True,
            format_func=lambda s: WAYS[s],
            key="way",
            bind="query-params",
            help="B steered: vectors go from A to B. A steered: from B to A.",
        )
    )
    table = ask(steering_tables.steering, ws, side)
    spec, other = (pair.b, pair.a) if side == "b" else (pair.a, pair.b)
    n = int(table.n.max())
    left, right = st.columns([3, 2], gap="large")
    gaps = ask(steering_tables.gaps, ws, side)
    with left, section():
        draw(
            figures.languages(table, side),
            f"Tables 5 and 6: share of {plain(spec.title)}'s responses to {n} neutral English"
            " prompts that langdetect finds in the language of the vector, with 95 %"
            f" Clopper-Pearson intervals; transferred vectors come from {plain(other.title)}."
            " Control: a random vector that moves as far. Click a mark to read what was written.",
            key="languages",
            alt="Share of responses in the language, by language and vector",
            on_select=pick,
            selection_mode="points",
        )
    with right, section():
        theirs = (
            "Gemma-2-9B under vectors from 2B"
            if side == "b"
            else "Gemma-2-2B under vectors from 9B"
        )
        draw(
            figures.means(ask(steering_tables.means, ws, side), side),
            f"Fig. 3b: the mean over {table.language.nunique()} languages, with 95 % bootstrap"
            f" intervals over them; hollow: the paper's {theirs}, over its 20 languages and"
            " prompts.",
            key="means",
            alt="Mean share of responses in the language by kind of vector",
        )
        draw(
            figures.gaps(gaps, steering_tables.paper().query("side == @side")),
            "Fig. 3c: clipped relative transfer gap (Eq. 16), transferred over own performance; 0/0"
            " counts as 0. Outlined: the paper's.",
            key="gaps",
            alt="Histogram of relative transfer gaps",
        )
        against = str(
            st.segmented_control(
                "Against",
                ["characters", "natural"],
                default="characters",
                required=True,
                key="against",
                bind="query-params",
                format_func={
                    "characters": "Text in the corpus",
                    "natural": "Loss of real text",
                }.__getitem__,
                help=(
                    "Fig. 11 takes the log frequency of the language in the corpus; this corpus"
                    " holds about as much of each, so the loss of real text under the model that"
                    " the vector comes from tells more."
                ),
            )
        )
        rho = gaps.gap.corr(gaps[against], method="spearman")
        corpus = ask(stitch_tables.about, ws)["corpus"]["name"].partition(":")[0]
        what = f"the characters of each language in this pair's corpus ({plain(corpus)})"
        if against == "natural":
            what = f"the loss of real text in it under {plain(other.title)}"
        draw(
            figures.gap_against(gaps, against, other.title),
            f"Fig. 11: the gap against {what}. Spearman's ρ {rho:+.2f} over {len(gaps)} languages.",
            key="gap-against",
            alt="Transfer gap against frequency of the language",
        )
    cells(ws, side, table)
    with st.expander(
        "What moved it: settings that the first half of the prompts chose from",
        icon=":material/tune:",
    ):
        chosen = ask(steering_tables.choices, ws, side)
        st.dataframe(
            chosen,
            hide_index=True,
            alt="Settings",
            column_config={
                "stitch": "Stitch",
                "span": "Layers",
                "strength": "Strength",
                "rate": st.column_config.NumberColumn("In the language ↑", format="percent"),
                "success": st.column_config.NumberColumn("and fluent ↑", format="percent"),
                "loss": st.column_config.NumberColumn("nats/token ↓", format="%.2f"),
            },
        )
        st.caption(
            "Transferred vectors, mean over languages on the prompts that choose; each language"
            " takes its own best setting, and the figures above come from the other half of the"
            " prompts."
        )


def pick() -> None:
    now = st.session_state
    for data in figures_base.picked(now["languages"])[:1]:
        now["cell_language"], now["cell_kind"] = str(data[0]), str(data[1])


def cells(ws: Workspace, side: str, table: pd.DataFrame) -> None:
    """What was written in one cell of the table."""
    st.subheader("What was written", anchor="written")
    names = dict(zip(table.language, table.name, strict=True))
    frame.answer("cell_language", names.values(), "language")
    bar = st.container(horizontal=True, vertical_alignment="bottom")
    language = bar.selectbox(
        "Language of the vector",
        list(names),
        key="cell_language",
        bind="query-params",
        width=260,
        format_func=lambda c: names.get(c, c),
    )
    kinds = [k for k in LANE_KINDS if k in set(table.kind)]
    kind = str(
        bar.segmented_control(
            "Vector",
            kinds,
            default="transferred",
            required=True,
            key="cell_kind",
            bind="query-params",
            format_func=lambda k: LANE_KINDS[k][0],
        )
    )
    row = table.loc[(table.language == language) & (table.kind == kind)].iloc[0]
    written = ask(steering_tables.generations, ws, side, str(language), kind)
    setting = (
        ""
        if kind == "none"
        else (
            f"; stitch {plain(row.stitch)}, {int(row.span)} layer{'s' if row.span > 1 else ''},"
            f" strength {row.strength:g}"
        )
    )
    st.markdown(
        f"**{percent(row.rate, row.low, row.high, sign=False)}** in {plain(names[language])},"
        f" {percent(row.success, sign=False)} fluent besides; {row.loss:.2f} nats/token (real text"
        f" {row.natural:.2f}), {percent(row.repetition, sign=False)} repeated{setting}."
    )
    lane = lane_key(f"{side}:{kind}")
    with st.container(height=420, key="written"):
        for one in written.to_dict("records"):
            st.html(text_html(one["prompt"], one["text"], lane))
            st.caption(
                verdict(one | {"language": one["detected"]}, None)
                + ("" if one["fluent"] else " · not fluent")
            )
    st.caption(
        "Fluent: at most 30 % of its runs of four words repeated, and a loss under the unsteered"
        " model of at most that of real text in the language."
    )


page()
