"""What every page shares, on a planted workspace: which one it is, damage, doors and jobs."""

import hashlib
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import streamlit as st

from core import jobs
from core.config import POSITIONS
from core.models.pairs import known_pairs
from core.workspace import store
from core.workspace.disk import forget_hashes
from core.workspace.store import Workspace
from pages.shared import frame
from tests.helpers.app import opened, text
from tests.helpers.planted import MAKERS, PAIR, losses, plant


@pytest.mark.model
def test_an_unknown_workspace_is_said_and_a_known_one_not_built(ws: Workspace) -> None:
    app = opened(pair="no*such")
    assert not app.exception
    assert "No workspace no\\*such here" in app.warning[0].value and "Gemma" in app.warning[0].value
    app = opened(pair="nano")
    assert "python -m core build nano" in app.warning[0].value
    assert not opened(pair=PAIR).warning


def test_damage_is_said_in_place_and_the_rest_is_drawn(ws: Workspace) -> None:
    path = ws.path("downstream/L20-L9")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    app = opened("stitches")
    assert not app.exception
    assert any("the file was changed" in e.value for e in app.error)
    assert "Fig. 6" in text(app) and "Fig. 7" in text(app)
    (ws.root / "manifest.json").write_text("{")
    app.run()
    assert not app.exception and "unreadable manifest" in app.error[0].value.replace("\\", "")


def test_a_newer_manifest_is_refused_in_words(ws: Workspace) -> None:
    manifest = ws.root / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    app = opened()
    assert not app.exception and "update StitchLens" in app.error[0].value


def test_signs_in_names_stay_signs(ws: Workspace) -> None:
    ws.put_table("downstream/x_y*z*", losses(), MAKERS)
    ws.put(
        "stitches/x_y*z*",
        lambda p: p.touch(),
        "stitch",
        ".safetensors",
        ws.entry("stitches/L20-L9").makers,
    )
    app = opened("stitches", stitch="x_y*z*")
    assert not app.exception and not app.warning
    assert app.header[0].value == r"x\_y\*z\*"


def test_a_job_is_shown_until_dismissed(ws: Workspace) -> None:
    job = jobs.run(
        PAIR,
        ["import sys; sys.exit('Found this; wanted that: do so.')"],
        "Fit mine",
        command=(sys.executable, "-c"),
    )
    while job.state == "running":
        time.sleep(0.02)
    app = opened("stitches")
    assert not app.exception and "Found this; wanted that" in app.error[0].value.replace("\\", "")
    next(b for b in app.button if b.label == "Dismiss").click().run()
    assert not app.exception and not app.error and jobs.jobs(PAIR) == []


def test_private_jobs_of_others_are_not_told(ws: Workspace, tmp_path: Path) -> None:
    job = jobs.run(
        PAIR,
        ["import time; time.sleep(60)"],
        "Import secret-name",
        command=(sys.executable, "-c"),
        private=tmp_path / "somebody",
    )
    try:
        app = opened("stitches")
        assert (
            not app.exception
            and "secret" not in text(app)
            and "Somebody's private job" in text(app)
        )
        assert not any(b.label in ("Cancel", "Pause") for b in app.button)
    finally:
        job.cancel()
    assert "secret" not in text(opened("stitches"))


def test_empty_states_are_doors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(tmp_path / "none"))
    app = opened()
    assert not app.exception and not app.error
    assert (
        app.code[0].value == "python -m core build smollm2-gemma3"
        and app.button[0].label == "Build it"
    )
    app.switch_page("stitches/page.py").run()
    assert not app.exception and not app.error
    assert app.code[0].value == "python -m core svcca smollm2-gemma3"


@pytest.mark.model
def test_a_half_built_workspace_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(tmp_path))
    full = plant(tmp_path / "full")
    Workspace(PAIR).put_table("svcca", full.table("svcca"), MAKERS)
    for page in ("", "stitches"):
        app = opened(page)
        assert not app.exception
    Workspace(PAIR).put(
        "stitches/one",
        lambda p: p.touch(),
        "stitch",
        ".safetensors",
        full.entry("stitches/young").makers,
    )
    for page in ("", "stitches"):
        app = opened(page)
        assert not app.exception


def test_a_new_pair_is_looked_at_added_and_built_in_the_background(ws: Workspace) -> None:
    app = opened("pair", ref_a="nano-a", ref_b="nano-b")
    assert not app.exception and "What a build takes" not in text(app)
    next(x for x in app.text_input if x.label == "Text").set_value("wheel:eng")
    next(x for x in app.text_input if x.label == "Name").set_value("mine")
    next(b for b in app.button if b.label == "Look").click().run()
    assert not app.exception and [error.value for error in app.error] == []
    said = text(app)
    assert "What a build takes" in said and "gpt\\_neox" in said and "within-family" in said
    assert "mine" not in known_pairs(), "only looked at"
    next(b for b in app.button if b.label == "Add and build").click().run()
    job = jobs.latest("mine")
    assert not app.exception and app.session_state["pair"] == "mine"
    assert job is not None and job.record.command[-4:] == (
        "build",
        "mine",
        "--positions",
        str(POSITIONS),
    )
    try:
        next(b for b in app.button if b.label == "Pause").click().run()
        assert job.state == "paused" and any(b.label == "Resume" for b in app.button)
        next(b for b in app.button if b.label == "Cancel").click().run()
        assert job.state == "cancelled" and any(b.label == "Go on" for b in app.button)
    finally:
        job.cancel()


def test_what_is_wrong_with_a_new_pair_is_said(ws: Workspace) -> None:
    app = opened("pair")
    for a, b, says in (
        ("", "", "name both"),
        ("nano-a", "/no/where", "no folder"),
        ("nano-a", "nano-a", "twice"),
    ):
        app.text_input(key="ref_a").set_value(a)
        app.text_input(key="ref_b").set_value(b)
        next(x for x in app.button if x.label == "Look").click().run()
        assert not app.exception and says in app.error[0].value


def test_probes_say_how_they_are_made(ws: Workspace) -> None:
    app = opened("probes")
    assert not app.exception
    assert f"python -m core probes eval {PAIR}" in text(app)


def test_sae_training_says_how_it_is_made(ws: Workspace) -> None:
    app = opened("training")
    assert not app.exception
    assert f"python -m core sae train {PAIR}" in text(app)


def test_a_stamp_is_taken_once_a_run_and_follows_what_the_run_writes(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    stamp = store.stamp

    def counted(asked: Workspace) -> str:
        taken.append(asked.pair)
        return stamp(asked)

    monkeypatch.setattr(store, "stamp", counted)
    frame.begin()
    first = frame.stamp(ws)
    assert frame.stamp(Workspace(ws.pair, ws.root.parent)) == first == stamp(ws)
    assert len(taken) == 1, "of the same workspace, once"
    ws.put_table("downstream/L20-L9", ws.table("downstream/L20-L9").head(2), MAKERS)
    second = frame.stamp(ws)
    assert second == stamp(ws) != first and frame.stamp(ws) == second and len(taken) == 2
    frame.end()
    frame.stamp(ws)
    assert len(taken) == 3, "outside of a run it looks anew"


def test_a_run_looks_at_artifacts_once_and_hashes_none_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Counted at the system's door: looks by path, and files that were hashed."""
    looks, hashed = Counter[str](), Counter[str]()
    stat, digest = os.stat, hashlib.file_digest

    def look(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        looks[str(path)] += 1
        return stat(path, *args, **kwargs)

    def read(file: Any, *args: Any) -> Any:
        hashed[file.name] += 1
        return digest(file, *args)

    monkeypatch.setattr(os, "stat", look)
    monkeypatch.setattr(hashlib, "file_digest", read)
    st.cache_data.clear()
    forget_hashes()
    app = opened("stitches", pair="nano")
    assert not app.exception
    assert set(hashed.values()) == {1}, "a first visit reads some, none of them twice"

    looks.clear()
    hashed.clear()
    app.run()
    nano = Workspace("nano")
    artifacts = nano.manifest().artifacts.values()
    looked = [looks[str(nano.root / artifact.path)] for artifact in artifacts]
    assert min(looked) == 1
    assert sum(looked) < 1.2 * len(looked), "a record or two is read besides"
    assert not hashed


def test_two_topics_may_each_have_a_summary(ws: Workspace) -> None:
    """What one answered is not given to who asks the other."""

    class Losses:
        @staticmethod
        def summary(ws: Workspace, name: str) -> str:
            return f"losses of {name}"

    class Sinks:
        @staticmethod
        def summary(ws: Workspace, name: str) -> str:
            return f"sink of {name}"

    for asked in (frame.ask, frame.shared):
        assert asked(Losses.summary, ws, "L20-L9") == "losses of L20-L9"
        assert asked(Sinks.summary, ws, "L20-L9") == "sink of L20-L9"
