"""The soak's own instruments: they see what differs, what grows, and what a page complains of."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file
from streamlit.proto.Element_pb2 import Element
from streamlit.proto.Heading_pb2 import Heading

from core.workspace.places import PROJECT
from core.workspace.store import Workspace
from tests.helpers.soak.browsing import Place, growth
from tests.helpers.soak.kills import differences, header, left
from tests.helpers.soak.session import Run


@pytest.fixture
def two(tmp_path: Path) -> tuple[Workspace, Workspace]:
    """Two copies of the shipped `nano` workspace."""
    for name in ("one", "other"):
        shutil.copytree(PROJECT / "cache" / "nano", tmp_path / name / "nano")
    return Workspace("nano", tmp_path / "one"), Workspace("nano", tmp_path / "other")


def test_equal_workspaces_do_not_differ_and_times_do_not_count(
    two: tuple[Workspace, Workspace],
) -> None:
    one, other = two
    table, entry = other.table("alpha_sweep"), other.entry("alpha_sweep")
    other.put_table("alpha_sweep", table.assign(seconds=table.seconds + 1), entry.makers)
    assert other.entry("alpha_sweep").sha256 != entry.sha256
    assert differences(one, other) == []


def test_the_least_difference_is_found(two: tuple[Workspace, Workspace]) -> None:
    one, other = two
    makers = {name: other.entry(name).makers for name in other.names()}
    tensors = load_file(one.path("stitches/L2-L3"))
    key = next(iter(tensors))
    tensors[key].flat[0] = np.nextafter(tensors[key].flat[0], np.inf, dtype=tensors[key].dtype)
    kept = {
        k: v if isinstance(v, str) else "" for k, v in header(one.path("stitches/L2-L3")).items()
    }
    other.put(
        "stitches/L2-L3",
        lambda p: save_file(tensors, p, kept),
        "stitch",
        ".safetensors",
        makers["stitches/L2-L3"],
    )
    table = other.table("svcca")
    other.put_table(
        "svcca", table.assign(svcca=table.svcca.where(table.index > 0, 0.0)), makers["svcca"]
    )
    record = other.record("quality/L2-L3")
    other.put_record(
        "quality/L2-L3", record | {"n_fit": record["n_fit"] + 1}, makers["quality/L2-L3"]
    )
    other.put_table("study", other.table("study"), makers["study"] | {"tokens": 1})
    other.remove("alpha_sweep")
    assert differences(one, other) == [
        "only one has alpha_sweep",
        "quality/L2-L3 differs",
        "stitches/L2-L3 differs",
        "study: other makers",
        "svcca differs",
    ]


def test_a_torn_file_is_a_fault_of_a_kill(tmp_path: Path) -> None:
    ws = Workspace("nano", tmp_path / "workspaces")
    ws.put_table("svcca", pd.DataFrame({"x": [1, 2, 3]}), {})
    assert left(tmp_path) == []
    file = ws.path("svcca")
    file.write_bytes(file.read_bytes()[:-1])
    assert len(left(tmp_path)) == 1


def test_growth_counts_from_the_first_minute() -> None:
    flat = [
        (t / 2, 100 if t < 100 else 200) for t in range(600)
    ]  # doubles before the first minute is over
    assert growth(flat, 300) == 0
    assert growth([(t / 2, 1000 + t) for t in range(600)], 300) > 20


def test_a_page_that_shows_something_else_is_missed() -> None:
    run = Run()
    for k, body in enumerate(("Stitches", r"L2\-L3")):
        run.elements[(0, k)] = Element(heading=Heading(body=body))
    assert Place("nano", "stitches", "L2-L3").missing(run) == []
    assert len(Place("nano", "stitches", "L3-L4").missing(run)) == 1
    assert len(Place("nano", "features", feature=3).missing(run)) == 2
