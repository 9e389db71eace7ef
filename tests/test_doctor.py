"""`doctor --repair`: what was lost is built again or named, what is in the way is set aside,
nothing is deleted."""

import json
import os
import time
from pathlib import Path

import pytest

from core.doctor import repair
from core.errors import StitchLensError
from core.workspace.store import ASIDE, PREVIOUS, Workspace


@pytest.fixture
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(tmp_path))
    ws = Workspace("nano")
    for k in range(3):
        ws.put_record(f"quality/s{k}", {"k": k}, {"from": "a test"})
    ws.put_record("cards/theirs", {"k": 9}, {"method": "imported"})
    return ws


def everything(ws: Workspace) -> dict[str, bytes]:
    """Every file's content, whatever its name."""
    return {
        str(p.relative_to(ws.root)): p.read_bytes()
        for p in ws.root.rglob("*")
        if p.is_file() and p.name != ".lock"
    }


def test_a_sound_workspace_is_left_alone(ws: Workspace) -> None:
    before = everything(ws)
    assert repair(ws) == [] and everything(ws) == before


def test_a_changed_file_is_set_aside_and_a_lost_one_named(ws: Workspace) -> None:
    changed, lost, theirs = (
        ws.root / ws.entry(n).path for n in ("quality/s0", "quality/s1", "cards/theirs")
    )
    changed.write_text("changed by hand")
    lost.unlink()
    theirs.write_text("changed, too")
    done = repair(ws)
    assert {(d.says.split(" ")[0], d.rebuild) for d in done} == {
        ("quality/s0", True),
        ("quality/s1", True),
        ("cards/theirs", False),
    }
    assert any("is gone" in d.says for d in done) and any("bring it again" in d.says for d in done)
    assert ws.names() == ["quality/s2"] and not ws.verify() and repair(ws) == []
    kept = [v for k, v in everything(ws).items() if k.startswith(ASIDE)]
    assert sorted(kept) == [b"changed by hand", b"changed, too"], "set aside, not deleted"


@pytest.mark.parametrize(
    "broken", ["", "{", "[]", '{"pair": "nano"}', '{"schema_version": 1, "pair": "other"}']
)
def test_a_broken_manifest_goes_back_to_the_one_before(ws: Workspace, broken: str) -> None:
    (ws.root / "manifest.json").write_text(broken)
    done = repair(ws)
    assert len(done) == 1 and "the one before it is back" in done[0].says and not done[0].rebuild
    assert ws.names() == ["quality/s0", "quality/s1", "quality/s2"], "all but the last change"
    assert broken.encode() in everything(ws).values() and not ws.verify()
    assert json.loads(
        (ws.root / next(iter((ws.root / "cards").iterdir())).relative_to(ws.root)).read_text()
    ) == {"k": 9}


def test_two_broken_manifests_are_set_aside_and_files_stay(ws: Workspace) -> None:
    files = {v for k, v in everything(ws).items() if "manifest" not in k}
    for name in ("manifest.json", PREVIOUS):
        (ws.root / name).write_text("{")
    done = repair(ws)
    assert done[0].rebuild and not ws.exists
    assert files <= set(everything(ws).values())


def test_a_newer_workspace_is_left_as_it_is(ws: Workspace) -> None:
    path = ws.root / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    before = everything(ws)
    done = repair(ws)
    assert (
        len(done) == 1 and "left as it is" in done[0].says and "update StitchLens" in done[0].says
    )
    assert everything(ws) == before
    with pytest.raises(StitchLensError, match="99"):
        ws.manifest()


def test_strays_go_aside_after_a_day(ws: Workspace) -> None:
    new, old = ws.root / "quality" / ".s0.json.abc.part", ws.root / "quality" / "notes of mine.txt"
    for path in (new, old):
        path.write_text(path.name)
    os.utime(old, (time.time() - 100_000, time.time() - 100_000))
    done = repair(ws)
    assert len(done) == 1 and "1 files" in done[0].says
    assert new.exists() and not old.exists() and b"notes of mine.txt" in everything(ws).values()
