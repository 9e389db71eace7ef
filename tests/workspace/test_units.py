"""Units of work that processes share: each is done once, whoever dies; what comes back is the same
everywhere."""

import ast
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from core.errors import StitchLensError
from core.workspace.places import PROJECT
from core.workspace.units import share, share_tables

WORKER = """
import sys, time
from functools import partial
from pathlib import Path
from core.workspace import units

units.PAUSE = 0.05
folder, me, count, hangs = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]

def work(name):
    place = folder / f"{name}.txt"
    if not place.exists():
        if me == hangs:
            print("at work", flush=True)
            time.sleep(600)
        time.sleep(0.1)
        with (folder / "log").open("a") as log:
            log.write(f"{name} {me}\\n")
        place.write_text(f"{name} squared is {int(name) ** 2}")
    return place.read_text()

print(units.share(folder, {str(n): partial(work, str(n)) for n in range(count)}))
"""


def worker(folder: Path, name: str, count: int = 8, hangs: str = "") -> "subprocess.Popen[str]":
    words = [sys.executable, "-c", WORKER, str(folder), name, str(count), hangs]
    return subprocess.Popen(words, cwd=PROJECT, stdout=subprocess.PIPE, text=True)


def done(folder: Path) -> dict[str, list[str]]:
    """Who did each unit."""
    units: dict[str, list[str]] = {}
    for line in (folder / "log").read_text().splitlines():
        unit, who = line.split()
        units.setdefault(unit, []).append(who)
    return units


def test_processes_do_each_unit_once(tmp_path: Path) -> None:
    workers = [worker(tmp_path, str(number), 12) for number in range(3)]
    texts = {process.communicate(timeout=120)[0] for process in workers}
    assert len(texts) == 1, "all have every result, in one order"
    assert list(ast.literal_eval(texts.pop())) == [str(n) for n in range(12)]
    who = done(tmp_path)
    assert sorted(map(int, who)) == list(range(12))
    assert all(len(once) == 1 for once in who.values())


def test_what_a_killed_process_was_at_is_taken_up(tmp_path: Path) -> None:
    dying = worker(tmp_path, "dying", hangs="dying")
    assert dying.stdout is not None
    assert dying.stdout.readline() == "at work\n"
    other = worker(tmp_path, "other")
    wait_for(lambda: (tmp_path / "log").exists() and len(done(tmp_path)) == 7)
    assert other.poll() is None, "it waits for the unit that the first one is at"
    assert "0" not in done(tmp_path)

    dying.kill()
    dying.wait()
    other.communicate(timeout=60)
    assert other.returncode == 0
    assert done(tmp_path) == {str(n): ["other"] for n in range(8)}


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_without_a_folder_one_process_does_all() -> None:
    assert share(None, {"b": lambda: 2, "a": lambda: 1}) == {"b": 2, "a": 1}


def test_a_unit_that_fails_frees_it(tmp_path: Path) -> None:
    def fail() -> int:
        raise StitchLensError("a fault", "none", "mend it")

    with pytest.raises(StitchLensError, match="a fault"):
        share(tmp_path, {"a": fail})
    assert share(tmp_path, {"a": lambda: 1}) == {"a": 1}


def test_a_timeout_of_the_work_itself_is_no_lock(tmp_path: Path) -> None:
    def late() -> int:
        raise TimeoutError("too late")

    with pytest.raises(TimeoutError, match="too late"):
        share(tmp_path, {"a": late})


def test_tables_are_kept_under_their_names(tmp_path: Path) -> None:
    made: list[str] = []

    def make(name: str) -> pd.DataFrame:
        made.append(name)
        return pd.DataFrame({"x": [0.1, float("nan")], "of": name})

    makes = {name: partial(make, name) for name in ("one", "two")}
    first = share_tables(tmp_path, makes)
    (tmp_path / "two.parquet").unlink()
    again = share_tables(tmp_path, makes)
    assert made == ["one", "two", "two"]
    assert list(again) == ["one", "two"]
    for name in makes:
        pd.testing.assert_frame_equal(first[name], again[name])


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StitchLensError, match=r"Not a directory|File exists"):
        share(tmp_path / "file" / "folder", {"a": lambda: 1})
