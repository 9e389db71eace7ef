"""Uploads: private to one browser until kept, never in the way of what is there, and removed only
by whom they are of."""

import os
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor, arange

from core.errors import StitchLensError
from core.workspace import artifacts, uploads
from core.workspace.store import Workspace

BROUGHT = {"method": "imported", "layer_a": 1, "layer_b": 2}


@pytest.fixture
def shared(tmp_path: Path) -> Workspace:
    ws = Workspace("pair", tmp_path / "shared")
    put(ws, "stitches/ours", 1.0, {"method": "exact"})
    return ws


@pytest.fixture
def mine(tmp_path: Path, shared: Workspace) -> Workspace:
    return Workspace("pair", tmp_path / "shared", tmp_path / "me")


def put(ws: Workspace, name: str, value: float, makers: dict[str, object] | None = None) -> None:
    tensor: Tensor = arange(4) * value
    ws.put(name, lambda p: save_file({"x": tensor}, p), "stitch", ".safetensors", makers or BROUGHT)


def value(ws: Workspace, name: str) -> float:
    return float(load_file(ws.path(name))["x"][1])


def names(ws: Workspace) -> set[str]:
    return set(ws.names())


def test_a_private_workspace_lies_over_the_shared_one(
    mine: Workspace, shared: Workspace, tmp_path: Path
) -> None:
    before = (shared.root / "manifest.json").read_bytes()
    put(mine, "stitches/theirs", 2.0)
    mine.put_record("cards/theirs", {"a": 1}, BROUGHT)
    assert names(mine) == {"stitches/ours", "stitches/theirs", "cards/theirs"}
    assert (value(mine, "stitches/ours"), value(mine, "stitches/theirs")) == (1.0, 2.0)
    assert (
        names(shared) == {"stitches/ours"}
        and (shared.root / "manifest.json").read_bytes() == before
    )
    other = Workspace("pair", tmp_path / "shared", tmp_path / "another person")
    assert names(other) == {"stitches/ours"} and other.exists and not mine.verify()
    assert Workspace("new", tmp_path / "shared", tmp_path / "me").exists is False


def test_the_environment_names_the_private_folder_of_a_command(
    mine: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(mine, "stitches/theirs", 2.0)
    monkeypatch.setenv("STITCHLENS_PRIVATE", str(tmp_path / "me"))
    again = Workspace("pair", tmp_path / "shared")
    assert "stitches/theirs" in again.names() and again.private == tmp_path / "me"
    assert again.shared.private is None and names(again.shared) == {"stitches/ours"}


def test_kept_ones_are_everyones(mine: Workspace, shared: Workspace) -> None:
    put(mine, "stitches/theirs", 2.0)
    mine.put_record("cards/theirs", {"a": 1}, BROUGHT)
    mine.put_folder(
        "saes/one", lambda to: (to / "cfg.json").write_text("{}"), "sae", {"brought": "one.zip"}
    )
    listed = {(one.kind, one.name, one.private) for one in uploads.brought(mine)}
    assert listed == {("stitches", "theirs", True), ("saes", "one", True)}
    assert uploads.brought(shared) == []
    for kind, name in (("stitches", "theirs"), ("saes", "one")):
        uploads.keep(mine, kind, name)  # type: ignore[arg-type]
    assert (
        names(shared) == {"stitches/ours", "stitches/theirs", "cards/theirs", "saes/one"}
        and not shared.verify()
    )
    assert (
        value(shared, "stitches/theirs") == 2.0
        and shared.entry("stitches/theirs").makers == BROUGHT
    )
    assert mine.own() == {} and not list(mine.root.glob("*/*.safetensors"))
    assert {one.private for one in uploads.brought(mine)} == {False}
    with pytest.raises(StitchLensError, match="no private stitch 'theirs'"):
        uploads.keep(mine, "stitches", "theirs")


def test_names_never_overwrite(mine: Workspace, shared: Workspace) -> None:
    with pytest.raises(StitchLensError, match=r"a stitch named 'ours'.*choose another name"):
        artifacts.check_name(mine, "stitches", "ours")
    for bad in ("", "../x", "a/b", ".x", "a b", "x" * 65):
        with pytest.raises(StitchLensError, match="choose another name"):
            artifacts.check_name(mine, "stitches", bad)
    put(mine, "stitches/new", 2.0)
    put(shared, "stitches/new", 3.0)  # somebody else kept one of that name meanwhile
    assert value(mine, "stitches/new") == 2.0
    with pytest.raises(
        StitchLensError, match=r"another stitch named 'new' in the workspace.*under another name"
    ):
        uploads.keep(mine, "stitches", "new")
    assert value(mine, "stitches/new") == 2.0 and value(shared, "stitches/new") == 3.0


def test_a_killed_keep_goes_on(
    mine: Workspace, shared: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine.put_record("cards/theirs", {"a": 1}, BROUGHT)
    put(mine, "stitches/theirs", 2.0)
    copy_in = Workspace.copy_in

    def dies(self: Workspace, name: str, *rest: object) -> object:
        if name.startswith("stitches/"):
            raise KeyboardInterrupt
        return copy_in(self, name, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Workspace, "copy_in", dies)
        uploads.keep(mine, "stitches", "theirs")
    assert (
        names(shared) == {"stitches/ours", "cards/theirs"} and value(mine, "stitches/theirs") == 2.0
    )
    uploads.keep(mine, "stitches", "theirs")
    assert "stitches/theirs" in names(shared) and mine.own() == {}


def test_removal_takes_what_was_brought_and_nothing_else(
    mine: Workspace, shared: Workspace
) -> None:
    put(mine, "stitches/theirs", 2.0)
    put(shared, "stitches/kept", 3.0)
    uploads.remove(mine, "stitches", "theirs")
    uploads.remove(mine, "stitches", "kept")
    with pytest.raises(StitchLensError, match="'ours', which was made here"):
        uploads.remove(mine, "stitches", "ours")
    with pytest.raises(StitchLensError, match="no 'stitches/none'"):
        uploads.remove(mine, "stitches", "none")
    assert names(mine) == {"stitches/ours"} and mine.own() == {}


def test_private_homes_are_swept_after_a_day(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STITCHLENS_CACHE", str(tmp_path))
    homes = {token: uploads.private_home(token) for token in ("fresh", "old", "mine")}
    for home in homes.values():
        home.mkdir(parents=True)
    for token in ("old", "mine"):
        os.utime(homes[token], (time.time() - 90_000, time.time() - 90_000))
    assert uploads.private_home("mine") == homes["mine"]
    assert homes["fresh"].exists() and homes["mine"].exists() and not homes["old"].exists()
    assert time.time() - homes["mine"].stat().st_mtime < 60
    assert uploads.private_home("../../x").parent == homes["mine"].parent


def test_names_come_from_files_and_references() -> None:
    found = [
        artifacts.name_from(x)
        for x in ("my stitch.safetensors", "a/b/sae.zip", "release:blocks.3/16k", "../..")
    ]
    assert found == ["my-stitch", "sae", "16k", "mine"]
    assert all(artifacts.NAME.fullmatch(x) for x in found)
