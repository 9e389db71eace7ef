"""Writing into the lanes, a token at a time, and what is kept of it."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from core.errors import StitchLensError
from core.models.libraries import importing
from core.steering.keys import LaneKey
from core.steering.runs import STRENGTHS, source_of, strip_lane
from core.steering.settings import Sampling, Setting
from core.steering.sources import Brought, Concept, Feature, Language, Source
from core.text.reading import clean, lines
from core.workspace.store import Workspace
from pages.shared import studios
from pages.shared.words import plain, sentence
from pages.steering import lanes

if TYPE_CHECKING:
    from core.steering.contexts import Reading
    from core.steering.directions import Directions
    from core.steering.studio import Studio

HISTORY = 8
"""Runs that a session keeps."""
SAMPLING = ("tokens", "temperature", "top_p", "repetition", "seed")


def settings() -> tuple[Setting, Sampling]:
    """How the widgets say that lanes are steered and drawn. Raises StitchLensError where they go
    too far together."""
    with importing():
        from core.config import check

    now = st.session_state
    setting = check(
        Setting,
        operator=now["operator"],
        strength=now["strength"],
        prompt=now["on_prompt"],
        layers_a=(now["first_a"], now["last_a"]),
        layers_b=(now["first_b"], now["last_b"]),
    )
    return setting, check(Sampling, **{key: now[key] for key in SAMPLING})


def writable(
    directions: "Directions",
    asked: Sequence[LaneKey],
    names: Mapping[str, str],
) -> tuple[list[LaneKey], list[LaneKey]]:
    """Of the lanes that are asked for, those that have a vector, and the others. Raises
    StitchLensError where none has."""
    with_vector = [key for key in asked if directions.has(key)]
    if not with_vector:
        model = names["b" if directions.sides == ("b",) else "a"]
        raise StitchLensError(
            f"a vector of {model} alone",
            f"{model}'s own lane, or the other model's transferred one",
            "choose these",
        )
    return with_vector, [key for key in asked if key not in with_vector]


def reads(source: Source) -> str:
    """What is read before the first word comes."""
    match source:
        case Language():
            return f"Reading what sets {lanes.toward(source)} apart from English"
        case Concept(positive, negative):
            more, less = (len(lines(text)) for text in (positive, negative))
            return f"Reading your two texts, {more} and {less} examples"
        case Feature(sae, index):
            return f"Reading the top contexts of feature {index} of {sae}"
        case Brought(name):
            return f"Reading the vector {name}"
    return "Reading"


def opened(
    ws: Workspace,
    stitch: str,
    keys: Sequence[LaneKey],
    names: Mapping[str, str],
    status: Any,
) -> "Studio":
    """The studio with the models that lanes need, and meanwhile words of what is opened."""
    models = " and ".join(dict.fromkeys(names[key.side] for key in keys))
    tell(status, f"Opening {models}, once")
    studio = studios.studio(ws, stitch)
    for key in keys:  # each of them once: it is kept
        studio.model(key.side)
    return studio


def hearing(status: Any, source: Source) -> "Reading":
    """What tells how many of the texts were read that have to be, as they are."""

    def tell_read(done: int, of: int) -> None:
        tell(status, f"{reads(source)}: {done} of {of} texts")

    return tell_read


def tell(status: Any, doing: str) -> None:
    """Words of what is waited for, there at once: a spinner takes a while to show itself."""
    status.markdown(f":material/hourglass_top: {plain(doing)} …")


def stream(
    ws: Workspace,
    chosen: Mapping[str, Any],
    asked: Sequence[LaneKey],
    place: Any,
    names: Mapping[str, str],
) -> None:
    """Write, a token at a time, into a column a lane; what there is is kept whenever this is
    interrupted."""
    source: Source = chosen["source"]
    with place:
        status, queue = st.empty(), st.empty()

    try:
        tell(status, "Opening the models, once")
        setting, sampling = settings()
        prompt = clean(st.session_state["prompt"])
        studio = opened(ws, chosen["stitch"], asked, names, status)
        directions = studio.directions(source, hearing(status, source))
        keys, left_out = writable(directions, asked, names)
        what = lanes.toward(source)

        with place:
            if left_out:
                missing = ", ".join(lanes.name_of(lane, names, what) for lane in left_out)
                st.caption(f"Left out, there is no such vector here: {plain(missing)}.")
            boxes = lanes.columns(keys, names, what)

        about = (studio, source, prompt, setting, sampling)
        began = time.perf_counter()
        texts = studio.run(directions, keys, prompt, setting, sampling, studios.waiting(queue))
        with closing(texts):
            tell(status, reads(source))
            first = next(texts)
            status.empty()
            queue.empty()

            written, record = first, recorded(about, first)
            remember(record)
            for written in chain([first], texts):
                for entry, (lane, text) in zip(record["lanes"], written.items(), strict=True):
                    entry["text"], entry["tokens"] = text.text, len(text.ids)
                    boxes[lane].html(lanes.text_html(prompt, text.text, lane))
                record["seconds"] = time.perf_counter() - began

        tell(status, "Judging how fluent it is")
        record.update(recorded(about, written, studio.judge(prompt, written)))
    except StitchLensError as fault:
        status.error(sentence(fault), icon=":material/error:")
        return
    st.rerun()


def recorded(
    about: "tuple[Studio, Source, str, Setting, Sampling]",
    written: Any,
    judged: Any = None,
) -> dict[str, Any]:
    """A run as `core.steering.runs` keeps it."""
    with importing():
        from core.steering.studio import run_record

    record = run_record(*about, written, judged or {})
    source = about[1]
    if isinstance(source, Concept):
        record["texts"] = (source.positive, source.negative)
    return record


def film(
    ws: Workspace,
    run: Mapping[str, Any],
    place: Any,
    names: Mapping[str, str],
) -> None:
    """Write the film strip of a run, a token at a time; it becomes part of the run."""
    with place:
        status, queue, box = st.empty(), st.empty(), st.empty()

    try:
        tell(status, "Opening the models, once")
        with importing():
            from core.steering.strip import strip

        source = source_of(run)
        setting = Setting.model_validate(run["setting"])
        sampling = Sampling.model_validate(run["sampling"])
        lane = strip_lane(run)
        studio = opened(ws, run["stitch"], [lane], names, status)
        directions = studio.directions(source, hearing(status, source))
        frames = strip(
            studio,
            directions,
            lane,
            run["prompt"],
            setting,
            sampling,
            waiting=studios.waiting(queue),
        )
        record = {key: value for key, value in run.items() if key != "id"}
        with closing(frames):
            tell(status, reads(source))
            first = next(frames)
            status.empty()
            queue.empty()

            remember(record, run.get("id"))
            for written in chain([first], frames):
                record["strip"] = [
                    {"strength": strength, "text": frame.text}
                    for strength, frame in zip(STRENGTHS, written, strict=True)
                ]
                box.html(lanes.strip_html(record))
    except StitchLensError as fault:
        status.error(sentence(fault), icon=":material/error:")
        return
    st.rerun()


def remember(record: dict[str, Any], instead_of: str | None = None) -> None:
    """Keep a run as the last one; the oldest goes, or one that it takes the place of."""
    now = st.session_state
    others = [run for run in now.get("runs", []) if not instead_of or run.get("id") != instead_of]
    now["runs"] = [*others, record][-HISTORY:]


def exported(
    ws: Workspace,
    run: Mapping[str, Any],
    lane: LaneKey,
    ending: str,
) -> bytes:
    """The vector of a lane as a file."""
    with importing():
        from core.steering.files import export

    studio = studios.studio(ws, run["stitch"])
    directions = studio.directions(source_of(run))
    vector = studio.vectors(directions, lane, Setting.model_validate(run["setting"]))[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"vector.{ending}"
        export(vector, studio.spec(lane.side), f"{run['source']} {lane}", path)
        return path.read_bytes()
