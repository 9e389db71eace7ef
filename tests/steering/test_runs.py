"""Runs that a link shows again: one id a run, whole or not at all, private where it must be, gone
after a while."""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from core.errors import StitchLensError
from core.steering import runs
from core.steering.settings import Sampling, Setting
from core.steering.sources import Concept, Feature, Language
from core.workspace import short_ids
from core.workspace.places import PROJECT
from core.workspace.store import Workspace


@pytest.fixture
def ws(nano_home: Path) -> Workspace:
    return Workspace("nano", nano_home)


@pytest.fixture
def owner(nano_home: Path, tmp_path: Path) -> Workspace:
    """One person's view, who brought a stitch."""
    person = Workspace("nano", nano_home, tmp_path / "me")
    person.put("stitches/mine", lambda p: p.write_bytes(b"x"), "stitch", ".safetensors", {})
    return person


def record(**other: Any) -> dict[str, Any]:
    lane = {"lane": "b:transferred", "text": " <b>maison</b> 🙂 שלום", "tokens": 3, "loss": 2.5}
    return {
        "pair": "nano",
        "a": "nano-a",
        "b": "nano-b",
        "stitch": "L2-L3",
        "source": "lang:fr",
        "prompt": "The house",
        "setting": Setting(layers_b=(3, 4)).model_dump(),
        "sampling": Sampling().model_dump(),
        "lanes": [lane],
        **other,
    }


def test_a_run_comes_back_as_it_was(ws: Workspace) -> None:
    written = record(seconds=1.5, strip=[{"strength": -1, "text": "no"}])
    run = runs.read(ws, runs.keep(ws, written))
    assert run["lanes"][0] == written["lanes"][0] | {
        "language": "",
        "probability": 0.0,
        "repetition": 0.0,
    }
    rest = written.keys() - {"lanes", "strip"}
    assert {key: run[key] for key in rest} == {key: written[key] for key in rest}
    assert run["strip"] == ({"strength": -1.0, "text": "no"},)
    assert run["texts"] is None and runs.source_of(run) == Language("fr")


def test_the_same_run_has_one_id_however_long_it_took(ws: Workspace) -> None:
    first, again = (runs.keep(ws, record(seconds=seconds)) for seconds in (1.0, 2.0))
    other = runs.keep(ws, record(prompt="The houses"))
    assert first == again != other
    assert short_ids.ID.fullmatch(first) and len(first) == 8
    assert runs.read(ws, first)["seconds"] == 2.0


def test_two_texts_come_back_as_the_source(ws: Workspace) -> None:
    run = runs.read(ws, runs.keep(ws, record(source="concept", texts=["good", "bad\nworse"])))
    assert runs.source_of(run) == Concept("good", "bad\nworse")
    with pytest.raises(StitchLensError, match="write it again"):
        runs.keep(ws, record(source="concept"))


@pytest.mark.parametrize(
    "source", ["file:/etc/passwd", "concept:/etc/passwd,/etc/hosts", "", "feature:x", "shout"]
)
def test_a_link_never_opens_a_file_of_the_server(ws: Workspace, source: str) -> None:
    with pytest.raises(StitchLensError):
        runs.keep(ws, record(source=source))


@pytest.mark.parametrize(
    "other",
    [
        {"setting": Setting().model_dump() | {"strength": float("nan")}},
        {"sampling": Sampling().model_dump() | {"temperature": float("inf")}},
        {"lanes": []},
        {"lanes": [{"lane": "c:own", "text": "", "tokens": 0}]},
        {"lanes": [{"lane": "b:own", "text": "x" * 200_001, "tokens": 0}]},
        {"prompt": "x" * 200_001},
        {"colour": "red"},
    ],
)
def test_what_is_no_run_is_refused(ws: Workspace, other: dict[str, Any]) -> None:
    before = sorted((ws.root / "runs").glob("*"))
    with pytest.raises(StitchLensError, match="Found"):
        runs.keep(ws, record(**other))
    assert sorted((ws.root / "runs").glob("*")) == before


def test_a_run_that_is_too_large_is_refused(ws: Workspace) -> None:
    text = "本" * 150_000
    lanes = [{"lane": f"{side}:own", "text": text, "tokens": 9} for side in "abab"]
    with pytest.raises(StitchLensError, match="fewer tokens or lanes"):
        runs.keep(ws, record(lanes=lanes))


@pytest.mark.parametrize(
    "run_id", ["", "k3v7q2h", "../../x", "K3V7Q2HA", "k3v7q2ha9", "x" * 9999, "p-", "٣" * 8]
)
def test_a_malformed_id_is_said(ws: Workspace, run_id: str) -> None:
    with pytest.raises(StitchLensError, match="8 letters and digits") as fault:
        runs.read(ws, run_id)
    assert len(str(fault.value)) < 400


def test_a_run_that_is_gone_is_said(ws: Workspace) -> None:
    with pytest.raises(StitchLensError, match="no run k3v7q2ha in workspace 'nano'"):
        runs.read(ws, "k3v7q2ha")
    run_id = runs.keep(ws, record())
    path = ws.root / "runs" / f"{run_id}.json"
    old = time.time() - (runs.DAYS + 1) * 86_400
    os.utime(path, (old, old))
    with pytest.raises(StitchLensError, match="press Go"):
        runs.read(ws, run_id)

    runs.keep(ws, record(prompt="another"))
    assert not path.exists(), "what is too old goes when something is written"
    assert runs.keep(ws, record()) == run_id and runs.read(ws, run_id), "it may come back"


def test_the_oldest_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MOST", 3)
    ws, ids = Workspace("nano", tmp_path), []
    for k in range(5):
        ids.append(runs.keep(ws, record(prompt=f"prompt {k}")))
        then = time.time() - 100 + k
        os.utime(ws.root / "runs" / f"{ids[-1]}.json", (then, then))
    last = runs.keep(ws, record(prompt="the last"))
    there = {path.stem for path in (ws.root / "runs").glob("*.json")}
    assert there == {*ids[3:], last}


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "no JSON"),
        (b"\x80\x04}q\x00.", "no JSON"),
        (b"[1]", "no object"),
        (b'{"pair": "nano"}', "fault at"),
        (b'{"pair": NaN}', "NaN"),
        (b"[" * 100_000, "nested"),
        (b'{"a": "' + b"x" * 2**20 + b'"}', "over 1,048,576"),
    ],
)
def test_a_damaged_run_is_said(ws: Workspace, raw: bytes, says: str) -> None:
    (ws.root / "runs").mkdir(exist_ok=True)
    (ws.root / "runs" / "aaaaaaaa.json").write_bytes(raw)
    with pytest.raises(StitchLensError, match=says):
        runs.read(ws, "aaaaaaaa")


def test_a_run_of_another_pair_is_said(ws: Workspace) -> None:
    run_id = runs.keep(ws, record(pair="smollm2-gemma3"))
    with pytest.raises(StitchLensError, match="a run of pair 'smollm2-gemma3'"):
        runs.read(ws, run_id)


@pytest.mark.parametrize(
    ("other", "brought"),
    [
        ({"stitch": "mine"}, "stitches/mine"),
        ({"source": "vector:mine"}, "vectors/mine"),
        ({"source": "feature:mine/3"}, "saes/mine"),
    ],
)
def test_a_private_run_is_its_owners_alone(
    ws: Workspace, owner: Workspace, other: dict[str, Any], brought: str
) -> None:
    owner.put(brought, lambda p: p.write_bytes(b"x"), "vector", ".safetensors", {})
    shared = sorted((ws.root / "runs").glob("*"))
    run_id = runs.keep(owner, record(**other))
    assert run_id.startswith("p-") and runs.read(owner, run_id)["lanes"]
    assert sorted((ws.root / "runs").glob("*")) == shared, "nothing of it is left where all see it"

    stranger = Workspace("nano", ws.root.parent, owner.root.parent.parent / "another")
    for other_view in (ws, stranger):
        with pytest.raises(StitchLensError, match="private to another browser"):
            runs.read(other_view, run_id)


def test_who_brought_something_shares_the_other_runs(ws: Workspace, owner: Workspace) -> None:
    run_id = runs.keep(owner, record())
    assert runs.read(ws, run_id) == runs.read(owner, run_id)


def test_a_place_that_cannot_be_written_is_said(ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "nano").mkdir()
    (tmp_path / "nano" / "runs").write_text("a file in the folder's place")
    with pytest.raises(StitchLensError, match="check its permissions"):
        runs.keep(Workspace("nano", tmp_path), record())


def test_runs_are_no_artifacts_and_are_not_committed(ws: Workspace) -> None:
    run_id = runs.keep(ws, record())
    path = ws.root / "runs" / f"{run_id}.json"
    assert path not in ws.strays() and not [name for name in ws.names() if "run" in name]
    (ws.root / "stray.json").write_text("{}")
    assert ws.root / "stray.json" in ws.strays(), "else this proves nothing"
    (ws.root / "stray.json").unlink()
    ignored = ["cache/nano/runs/k3v7q2ha.json", "cache/nano/manifest.json"]
    git = ["git", "check-ignore", "--no-index", *ignored]
    listed = subprocess.run(git, cwd=PROJECT, capture_output=True, text=True).stdout
    assert listed.splitlines() == ignored[:1]


def test_a_run_is_json_that_anything_reads(ws: Workspace) -> None:
    run_id = runs.keep(ws, record(source="feature:L2-1024/7"))
    raw = json.loads((ws.root / "runs" / f"{run_id}.json").read_text("utf-8"))
    assert raw["format"] == "stitchlens-run-1" and raw["lanes"][0]["text"].endswith("שלום")
    assert runs.source_of(raw) == Feature("L2-1024", 7)


def test_a_demonstration_keeps_no_run(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHLENS_DEMO", "1")

    with pytest.raises(StitchLensError, match="demonstration"):
        runs.keep(ws, record())

    monkeypatch.delenv("STITCHLENS_DEMO")
    assert runs.keep(ws, record())
