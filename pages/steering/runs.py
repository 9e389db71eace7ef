"""Runs: the one that the address names, what can be taken away of it, and those before it."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from core.errors import StitchLensError
from core.steering import runs as kept_runs
from core.steering import tables as steering_tables
from core.steering.keys import LaneKey, lane_key
from core.steering.runs import source_of
from core.steering.settings import Sampling
from core.steering.sources import Brought, Concept, Feature, Language
from core.workspace.store import Workspace
from pages.shared import address
from pages.shared.figures import colours
from pages.shared.frame import ask
from pages.shared.words import number, plain, sentence
from pages.steering.lanes import DEFAULT, name_of, show, toward
from pages.steering.picture import svg
from pages.steering.studio import exported

FILES = {
    "safetensors": ("Vector", "opens here again."),
    "gguf": ("GGUF", "a control vector for llama.cpp."),
    "json": ("Neuronpedia", "the form of Neuronpedia's vector upload."),
}
"""Of a vector, by ending: its name, and what it is good for."""
LONGEST_LINK = 2000
"""Characters; a longer one leaves out what the run says itself."""
SETTINGS = {
    *("prompt", "source", "lang", "plus", "minus", "steer_sae", "steer_feature", "vector"),
    *("lanes", "through", "operator", "on_prompt", "strength"),
    *("first_a", "last_a", "first_b", "last_b"),
    *Sampling.model_fields,
}
"""What an address may say of how a run was steered."""


def shown(ws: Workspace) -> dict[str, Any] | None:
    """The run that is shown, None where none is: what was written last, or what the address asks
    for. A link that names a run and says nothing else takes its settings, too."""
    keep_last(ws)
    now, asked = st.session_state, st.query_params
    before = now.get("settled-run")
    run_id = address.settle("run", "", str, ws.pair)
    written = [run for run in now.get("runs", []) if run["pair"] == ws.pair]
    if not run_id:
        unkept = [run for run in written[-1:] if not run["id"]]
        return unkept[0] if unkept else None

    linked = before is None or before["value"] != run_id
    for run in written:
        if run["id"] == run_id:
            return run
    try:
        run = kept_runs.read(ws, run_id)
    except StitchLensError as fault:
        address.notice(sentence(fault))
        return None
    if linked and not SETTINGS & set(asked):
        take(run)
    return run | {"id": run_id}


def keep_last(ws: Workspace) -> None:
    """Keep what was written last, also where it was stopped, and show it."""
    written = st.session_state.get("runs", [])
    if not written or "id" in written[-1] or written[-1]["pair"] != ws.pair:
        return

    run = written[-1]
    try:
        run["id"] = kept_runs.keep(ws, run)
    except StitchLensError as fault:
        run["id"] = ""
        st.session_state["unkept"] = sentence(fault)
    address.put("run", run["id"])


def take(run: Mapping[str, Any]) -> None:
    """Set the widgets as a run was set."""
    setting = run["setting"]
    settings = dict(run["sampling"]) | {
        "prompt": run["prompt"],
        "lanes": [lane_key(entry["lane"]) for entry in run["lanes"]],
        "through": run["stitch"],
        "operator": setting["operator"],
        "on_prompt": setting["prompt"],
        "strength": setting["strength"],
    }
    for side in ("a", "b"):
        if setting[f"layers_{side}"]:
            settings[f"first_{side}"], settings[f"last_{side}"] = setting[f"layers_{side}"]
    match source_of(run):
        case Language(code):
            settings |= {"source": "lang", "lang": code}
        case Concept(positive, negative):
            settings |= {"source": "concept", "plus": positive, "minus": negative}
        case Feature(sae, index):
            settings |= {"source": "feature", "steer_sae": sae, "steer_feature": index}
        case Brought(name):
            settings |= {"source": "vector", "vector": name}
    for key, value in settings.items():
        address.put(key, value)


def example(
    ws: Workspace,
    place: Any,
    names: Mapping[str, str],
) -> None:
    """Before anything was written: a preset as the evaluation wrote it."""
    presets = ask(steering_tables.presets, ws)
    if not presets:
        place.caption(
            "Press Go: both models are opened once, which takes some seconds, and then write at"
            " once."
        )
        return

    preset, lanes = presets[0], []
    for lane in DEFAULT:
        table = ask(steering_tables.generations, ws, lane.side, preset["language"], lane.kind)
        row = table.loc[table.prompt == preset["prompt"]].iloc[0]
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
    source = str(Language(preset["language"]))
    show({"prompt": preset["prompt"], "source": source, "lanes": lanes}, place, names)
    place.caption(
        f"As the evaluation wrote it, steering to {preset['name']}; press a language above, or Go,"
        " to write anew. Fluency: how likely each word was to the unsteered model, less what is"
        " repeated; press it for the numbers."
    )


def after(
    ws: Workspace,
    run: Mapping[str, Any],
    names: Mapping[str, str],
) -> None:
    """The link of a run, and downloads."""
    with st.container(horizontal=True, vertical_alignment="center", key="taken"):
        link(run)
        st.download_button(
            "Save picture",
            partial(svg, run, names, in_words(run), colours()),
            "steering.svg",
            "image/svg+xml",
            on_click="ignore",
            icon=":material/image:",
            key="picture",
            help="The prompt, the lanes and the settings, in the colours of this theme, as SVG.",
        )
        st.download_button(
            "Run",
            json.dumps(dict(run), indent=1, ensure_ascii=False),
            "run.json",
            "application/json",
            on_click="ignore",
            icon=":material/download:",
            help="Texts, settings and figures of the run above, as JSON.",
        )
        vectors(ws, run, names)


def link(run: Mapping[str, Any]) -> None:
    """What shows this run to whoever opens it."""
    with st.popover("Link", icon=":material/link:", key="link"):
        if not run["id"]:
            st.markdown(f"This run has no link. {st.session_state.get('unkept', '')}")
            return

        address.write()  # what is chosen now
        asked = {key: st.query_params.get_all(key) for key in st.query_params}
        here = str(st.context.url).partition("?")[0]
        short = {"pair": run["pair"], "run": run["id"]}
        whole = f"{here}?{urlencode(asked | short, doseq=True)}"
        if len(whole) > LONGEST_LINK:
            whole = f"{here}?{urlencode(short)}"
        st.code(whole, language=None, wrap_lines=True)
        who = (
            "This browser alone: it used something that is private here."
            if run["id"].startswith("p-")
            else "Whoever opens it on this server sees these texts."
        )
        st.caption(f"{who} Kept for {kept_runs.DAYS} days, unless many newer ones are written.")


def vectors(
    ws: Workspace,
    run: Mapping[str, Any],
    names: Mapping[str, str],
) -> None:
    """Downloads of the first vector of a run."""
    lanes = (lane_key(entry["lane"]) for entry in run["lanes"])
    lane = next((lane for lane in lanes if lane.kind != "none"), LaneKey("b", "transferred"))
    what = toward(source_of(run))
    for ending, (label, use) in FILES.items():
        st.download_button(
            label,
            partial(exported, ws, run, lane, ending),
            f"{lane.side}-{lane.kind}.{ending}",
            on_click="ignore",
            icon=":material/download:",
            key=f"export-{ending}",
            help=f"{name_of(lane, names, what)}: {use}",
        )


def earlier(
    ws: Workspace,
    shown: Mapping[str, Any] | None,
    names: Mapping[str, str],
) -> None:
    """The runs of this session before the one that is shown."""
    written = [run for run in st.session_state.get("runs", []) if run["pair"] == ws.pair]
    others = [run for run in reversed(written) if run is not shown]
    if not others:
        return

    alike = shown is not None and same_but_strength(shown, others[0])
    with st.expander(f"Earlier runs ({len(others)})", expanded=alike, key="earlier"):
        for run in others:
            st.markdown(f":small[{plain(in_words(run))}]")
            show(run, st.container(), names)


def in_words(run: Mapping[str, Any]) -> str:
    """How a run was steered, and how fast it was written."""
    setting = run["setting"]
    words = (
        f"Toward {toward(source_of(run))}, strength {setting['strength']:g}, {setting['operator']},"
        f" stitch {run['stitch']}, seed {run['sampling']['seed']}"
    )
    most = max(entry["tokens"] for entry in run["lanes"])
    if run.get("seconds") and most:
        words += f" · {number(most / run['seconds'])} tokens/s in each lane"
    return words


def same_but_strength(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two runs differ in strength alone, so that they are to be compared."""

    def strip(run: Mapping[str, Any]) -> dict[str, Any]:
        setting = {key: value for key, value in run["setting"].items() if key != "strength"}
        return setting | {"source": run["source"], "prompt": run["prompt"]}

    return strip(one) == strip(other) and one["setting"] != other["setting"]
