"""`kill -9` of one of four shards of a build at ten random moments: the same command goes on, and the
merge ends in the files of a build whose shards were left alone."""

import random
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from tests.helpers.soak import kills

pytestmark = [pytest.mark.whole, pytest.mark.timeout(1200)]

LITTLE = "--positions 8000 --svcca-positions 600 --tokens 1 --select-tokens 1"
BUILD = ("build", kills.PAIR, *LITTLE.split())
WINDOW = 2
"""Documents read at a time: the least that the tables of a merge are measured on."""
SHARDS, VICTIM = 4, 2
KILLS = 10


def shard(index: int) -> Sequence[str]:
    return (*BUILD, "--shard", f"{index}/{SHARDS}")


def done(home: Path, *words: str) -> float:
    """Seconds that a command takes."""
    began = time.monotonic()
    process = kills.start(home, words, WINDOW)
    process.join()
    assert process.exitcode == 0, (home / "log").read_text()[-1000:]
    return time.monotonic() - began


def sums(home: Path) -> dict[str, Any]:
    """What shards left, by file: the bits of tensors, and what the file says of them."""
    left = sorted((home / "cache" / "shards").rglob("[!.]*.safetensors"))
    return {
        str(path.relative_to(home)): (
            {name: x.tobytes() for name, x in load_file(path).items()},
            kills.header(path),
        )
        for path in left
    }


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The other shards are read."""
    kills.begin()
    home = tmp_path_factory.mktemp("shards")
    for index in range(SHARDS):
        if index != VICTIM:
            done(home, *shard(index))
    return home


def test_a_shard_killed_at_ten_random_moments_ends_in_the_same_files(
    before: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(before, alone)
    seconds = done(alone, *shard(VICTIM))
    left = sums(alone)
    assert left != sums(before), "what the shard adds is seen"
    done(alone, "merge", kills.PAIR)

    def killed(number: int, moment: float) -> float:
        """Kill the shard, start it again and merge; the moment when it died."""
        home = tmp_path / f"kill-{number}"
        while True:
            shutil.copytree(before, home)
            process = kills.start(home, shard(VICTIM), WINDOW)
            alive = kills.at(moment, process, home)
            kills.kill(process)
            if alive and sums(home) != left:
                break
            shutil.rmtree(home)
            moment *= 0.9  # it was faster than the one that was left alone

        done(home, *shard(VICTIM))
        assert sums(home) == left
        done(home, "merge", kills.PAIR)
        assert kills.workspace(home).verify() == {}
        assert kills.differences(kills.workspace(alone), kills.workspace(home)) == []
        shutil.rmtree(home)
        return moment

    draw = random.Random(0)
    # One in each tenth of its duration, at random there.
    moments = [seconds * (number + draw.random()) / KILLS for number in range(KILLS)]
    with ThreadPoolExecutor(2) as pool:
        died = list(pool.map(killed, range(KILLS), moments))
    assert len(died) == KILLS and max(died) > seconds / 2
