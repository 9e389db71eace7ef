"""Several processes with one command share its work, and the workspace holds what one process puts
there."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from core.workspace.places import PROJECT
from core.workspace.store import Workspace
from tests.helpers.processes import TORCHRUN, Home, end

pytestmark = [pytest.mark.whole, pytest.mark.timeout(1200)]

EVAL = ("-m", "core", "steer", "eval", "nano", "--stitches", "L2-L3")
LITTLE = ("--prompts", "2", "--choosing", "1", "--tokens", "4")
LANGUAGES = (*EVAL, *LITTLE, "--languages", "fr,nl")
INSTRUCTIONS = (
    *(*EVAL, *LITTLE, "--instructions", "--steered", "a,b"),
    *("--only", "capitals,no-commas", "--strengths", "1"),
)


def home_of(root: Path) -> Home:
    """With the shipped `nano` workspace, of which this steering is not yet a part."""
    home = Home(root)
    shutil.copytree(PROJECT / "cache" / "nano", home.workspaces / "nano")
    return home


def tables(home: Home, prefix: str) -> dict[str, Any]:
    ws = Workspace("nano", home.workspaces)
    assert ws.verify() == {}
    return {name: ws.table(name) for name in ws.names("table", prefix)}


def check_same(one: dict[str, Any], other: dict[str, Any], count: int) -> None:
    assert one.keys() == other.keys() and len(one) == count
    for name, table in one.items():
        pd.testing.assert_frame_equal(table, other[name], obj=name, check_exact=True)


def test_ranks_of_torchrun_steer_as_one_process_does(tmp_path: Path) -> None:
    alone, together = home_of(tmp_path / "alone"), home_of(tmp_path / "together")
    shipped = tables(alone, "generations")["generations"]
    alone.done(*LANGUAGES)
    text = together.done(*TORCHRUN, *LANGUAGES)
    assert "Rank 1 ends" in text and text.count("Rank 0 ends") == 0

    names = ("generations", "steering_choice", "steering")
    one, other = ({k: tables(home, k)[k] for k in names} for home in (alone, together))
    check_same(one, other, 3)
    assert len(one["generations"]) != len(shipped), "they were written anew"


def test_two_processes_follow_instructions_as_one_does(tmp_path: Path) -> None:
    alone, together = home_of(tmp_path / "alone"), home_of(tmp_path / "together")
    alone.done(*INSTRUCTIONS)

    processes = [together.start(*INSTRUCTIONS) for _ in range(2)]
    try:
        texts = [process.communicate(timeout=900)[0] for process in processes]
    finally:
        for process in processes:
            end(process)
    assert [process.returncode for process in processes] == [0, 0], texts
    assert all("capitals" in text for text in texts), "each shows what was measured"
    check_same(*(tables(home, "steering_instructions/") for home in (alone, together)), count=6)
