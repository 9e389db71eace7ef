"""Runs that a link shows again: what was asked and what the lanes wrote, whole or not at all, under
a short id.

A run lies in the folder `runs` of its workspace, which is no artifact: nothing is computed from it,
and old ones go. A run that used what one person brought lies beside that, so others are told so.
"""

import base64
import contextlib
import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from core.config import Frozen
from core.errors import StitchLensError, broken, refusal
from core.steering.keys import LaneKey, lane_key
from core.steering.settings import STRONGEST, Sampling, Setting
from core.steering.sources import Brought, Concept, Feature, Language, Source, source_from
from core.workspace import demonstration
from core.workspace.disk import beside
from core.workspace.short_ids import PRIVATE, check_id
from core.workspace.store import RUNS, Workspace
from core.workspace.untrusted import MB, parse_json

FORMAT = "stitchlens-run-1"
MOST = 200
"""Runs that a workspace keeps, and that each person keeps who brought something to it."""
DAYS = 30
"""How long a run is kept after it was last written."""
LARGEST = MB
"""Bytes of a run on disk."""
LONGEST = 200_000
"""Characters of one text of a run."""
STRENGTHS = (-1.0, 0.0, 1.0, 2.0, 3.0)
"""Those of a film strip; at 0 it is the plain model."""


class LaneText(Frozen):
    """What one lane wrote, and what can be said of it."""

    lane: str
    text: str = Field(max_length=LONGEST)
    tokens: int = Field(ge=0, le=1000)
    language: str = Field(default="", max_length=16)
    probability: float = Field(default=0.0, ge=0, le=1)
    loss: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Nats/token under the unsteered model; None where the text was not judged."""
    repetition: float = Field(default=0.0, ge=0, le=1)

    @field_validator("lane")
    @classmethod
    def _known(cls, lane: str) -> str:
        return str(_valid(lane_key, lane))


class Frame(Frozen):
    """One strength of a film strip."""

    strength: float = Field(ge=-STRONGEST, le=STRONGEST)
    text: str = Field(max_length=LONGEST)


class Run(Frozen):
    """A run as `core.steering.studio.run_record` gives it, and what a page adds."""

    format: Literal["stitchlens-run-1"] = FORMAT
    pair: str = Field(max_length=64)
    a: str = Field(max_length=400)
    b: str = Field(max_length=400)
    stitch: str = Field(max_length=64)
    source: str = Field(max_length=200)
    texts: tuple[str, str] | None = None
    """More of one and less of the other, where these are the source."""
    prompt: str = Field(max_length=LONGEST)
    setting: Setting
    sampling: Sampling
    lanes: tuple[LaneText, ...] = Field(min_length=1, max_length=10)
    strip: tuple[Frame, ...] = Field(default=(), max_length=16)
    """The lane of `strip_lane`, at other strengths."""
    seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _source(self) -> "Run":
        source = _valid(source_of, {"source": self.source, "texts": self.texts})
        if not isinstance(source, Language | Concept | Feature | Brought):
            raise ValueError("no source that a page can read")
        return self


def _valid(read: Any, value: Any) -> Any:
    """For pydantic, which does not know our refusals."""
    try:
        return read(value)
    except StitchLensError as e:
        raise ValueError(str(e)) from None


def source_of(run: Mapping[str, Any]) -> Source:
    """What a run was steered by. Raises StitchLensError where it does not say."""
    texts = run.get("texts")
    if run["source"] == "concept" and texts:
        return Concept(*texts)
    return source_from(run["source"])


def strip_lane(run: Mapping[str, Any]) -> LaneKey:
    """Which lane of a run its film strip is of: the first that was carried across, else the first
    under a vector, else the larger model's carried one."""
    lanes = [lane_key(entry["lane"]) for entry in run["lanes"]]
    order = [
        *(lane for lane in lanes if lane.kind == "transferred"),
        *(lane for lane in lanes if lane.kind != "none"),
        LaneKey("b", "transferred"),
    ]
    return order[0]


def keep(ws: Workspace, record: Mapping[str, Any]) -> str:
    """Write a run down; returns its id. The same run has one id, however long it took.

    Raises StitchLensError where it cannot be written, in a demonstration, and for what is no run.
    """
    demonstration.refuse("a run to keep")
    try:
        run = Run.model_validate(record)
    except ValidationError as e:
        raise refusal(e, "write it again") from None

    private = is_private(ws, run)
    run_id = _id(run, private)
    raw = run.model_dump_json(indent=1).encode()
    if len(raw) > LARGEST:
        raise StitchLensError(
            f"a run of {len(raw):,} bytes", f"at most {LARGEST:,}", "ask for fewer tokens or lanes"
        )

    folder = _folder(ws, private)
    with beside(folder / f"{run_id}.json") as part:
        part.write_bytes(raw)
    _forget_old(folder)
    return run_id


def read(ws: Workspace, run_id: str) -> dict[str, Any]:
    """The run of that id. Raises StitchLensError where there is none, and why."""
    check_id("run", run_id)
    private = run_id.startswith(PRIVATE)
    if private and ws.private is None:
        raise _not_yours(run_id)

    path = _folder(ws, private) / f"{run_id}.json"
    try:
        age = time.time() - path.stat().st_mtime
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
    except OSError:
        raise _not_yours(run_id) if private else _gone(ws, run_id) from None
    if age > DAYS * 86_400:
        raise _gone(ws, run_id)

    again = "press Go, which writes it anew"
    try:
        run = Run.model_validate(parse_json(raw, f"run {run_id}", LARGEST))
    except ValidationError as e:
        raise broken(e, f"run {run_id}", "one as it was written", again) from None
    if run.pair != ws.pair:
        raise StitchLensError(f"a run of pair '{run.pair}'", f"one of '{ws.pair}'", again)
    return run.model_dump(exclude={"format"})


def is_private(ws: Workspace, run: Run) -> bool:
    """Whether a run used something that one person brought, and did not share."""
    if ws.private is None:
        return False

    artifacts = {f"stitches/{run.stitch}"}
    match source_of(run.model_dump()):
        case Feature(sae, _):
            artifacts.add(f"saes/{sae}")
        case Brought(name):
            artifacts.add(f"vectors/{name}")
    return bool(artifacts & ws.own().keys())


def _id(run: Run, private: bool) -> str:
    content = json.dumps(run.model_dump(mode="json", exclude={"seconds"}), sort_keys=True)
    digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()
    short = base64.b32encode(digest)[:8].decode().lower()
    return f"{PRIVATE}{short}" if private else short


def _folder(ws: Workspace, private: bool) -> Path:
    home = ws if private else ws.shared
    return home.root / RUNS


def _forget_old(folder: Path) -> None:
    """Only the newest MOST stay, for DAYS at the most."""
    ages: list[tuple[float, Path]] = []
    for path in folder.glob("*.json"):
        with contextlib.suppress(OSError):
            ages.append((time.time() - path.stat().st_mtime, path))

    for place, (age, path) in enumerate(sorted(ages)):
        if place >= MOST or age > DAYS * 86_400:
            with contextlib.suppress(OSError):
                path.unlink()


def _gone(ws: Workspace, run_id: str) -> StitchLensError:
    return StitchLensError(
        f"no run {run_id} in workspace '{ws.pair}'",
        f"one of its {MOST} latest, at most {DAYS} days old",
        "press Go, which writes one anew, or ask whoever sent the link to write it again",
    )


def _not_yours(run_id: str) -> StitchLensError:
    return StitchLensError(
        f"run {run_id}, which was written with something private to another browser",
        "a run that all may see",
        "ask whoever sent the link to keep what they brought in the workspace and write it again",
    )
