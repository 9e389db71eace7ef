"""Processes that torchrun or SLURM start: two ranks build what one does, the death of one ends the
other with a sentence, killed shards go on, and what `launch` prints runs."""

import os
import random
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from core.workspace.store import Workspace
from tests.helpers.documents import parses
from tests.helpers.processes import TORCHRUN, Home, end

pytestmark = [pytest.mark.whole, pytest.mark.timeout(1200)]

SMALL = (
    *("--positions", "40000", "--svcca-positions", "600"),
    *("--tokens", "200", "--select-tokens", "100"),
)
BUILD = ("-m", "core", "build", "nano", *SMALL)


def same_bits(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[k][0], other[k][0]) and torch.equal(one[k][1], other[k][1]) for k in one
    )


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """What `torchrun` builds."""
    home = Home(tmp_path_factory.mktemp("ranks"))
    text = home.done(*TORCHRUN, *BUILD)
    assert "Built nano" in text
    yield home


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("one"))
    home.done(*BUILD)
    yield home


def test_two_ranks_build_what_one_process_does(two_ranks: Home, one_process: Home) -> None:
    sums, alone = two_ranks.moments(), one_process.moments()
    assert sums.keys() == alone.keys() and len(sums) == 4
    for name, (s, x, read) in sums.items():
        assert read == alone[name][2]
        for one, other in ((s, alone[name][0]), (x, alone[name][1])):
            assert float((one - other).abs().max() / other.abs().max()) < 1e-12

    tables, usual = two_ranks.tables(), one_process.tables()
    assert tables.keys() == usual.keys()
    loss = "downstream/L2-L3"
    assert tables[loss].loss.to_numpy() == pytest.approx(usual[loss].loss.to_numpy(), rel=1e-4)


def test_an_array_of_slurm_builds_the_same_bits(two_ranks: Home, tmp_path: Path) -> None:
    """By the script that `launch` prints, with a `sbatch` that runs the tasks here, last first."""
    home = Home(tmp_path)
    script = home.done(
        "-m", "core", "launch", "nano", "build", "--shards", "3", "--slurm", "--", *SMALL
    )
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(
        "#!/bin/bash\n"
        'job=$(cat)\necho "$*" >> "$SBATCHED"\n'
        'if [[ "$job" == *--array=0-2* ]]; then\n'
        "  for task in 2 0 1; do\n"
        "    SLURM_ARRAY_TASK_ID=$task SLURM_ARRAY_TASK_COUNT=3 SLURM_ARRAY_TASK_MIN=0"
        ' bash -c "$job" >&2 || exit 1\n'
        "  done\n  echo 77\n"
        'else\n  bash -c "$job" >&2\nfi\n'
    )
    sbatch.chmod(0o755)
    process = subprocess.run(
        ["bash", "-c", script],
        env=home.environment
        | {"PATH": f"{sbatch.parent}:{os.environ['PATH']}", "SBATCHED": str(tmp_path / "log")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert "Built nano" in process.stderr
    assert "--dependency=afterok:77" in (tmp_path / "log").read_text()
    assert same_bits(two_ranks.moments(), home.moments())


def test_killed_shards_go_on_to_the_same_bits(two_ranks: Home, tmp_path: Path) -> None:
    """Two of four shards are killed at random moments, some of them in the middle of a file."""
    home, rng = Home(tmp_path), random.Random(0)
    for index in (3, 1, 0, 2):
        words = (*BUILD, "--shard", f"{index}/4")
        if index in (1, 2):
            process = home.start(*words)
            time.sleep(rng.uniform(4, 25))
            end(process)
        home.done(*words)
    assert "Built nano" in home.done("-m", "core", "merge", "nano")
    assert same_bits(two_ranks.moments(), home.moments())
    before = {name: a.sha256 for name, a in Workspace("nano", home.workspaces).own().items()}
    assert "Built nano" in home.done("-m", "core", "merge", "nano"), "once more is harmless"
    after = {name: a.sha256 for name, a in Workspace("nano", home.workspaces).own().items()}
    assert {k: v for k, v in before.items() if k != "pair"} == {
        k: v for k, v in after.items() if k != "pair"
    }


def test_a_missing_shard_is_named_with_its_command(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.done(*BUILD, "--shard", "0/3")
    rc, text = home.run("-m", "core", "merge", "nano")
    assert rc == 2
    assert "shards 1/3, 2/3 of 'nano' not finished" in text
    command = text.partition("`")[2].partition("`")[0]
    assert command.startswith("python -m core build nano --shard 1/3")
    assert parses(shlex.split(command.removeprefix("python -m core ")))

    rc, text = home.run("-m", "core", "build", "nano", "--shard", "1/3")
    assert rc == 2
    assert "held_out_tokens = 10000; wanted 200" in text
    assert "Threw away" in home.done("-m", "core", "merge", "nano", "--discard")
    rc, text = home.run("-m", "core", "merge", "nano")
    assert rc == 2 and "no shards of a build" in text


def test_the_death_of_a_rank_ends_the_others(tmp_path: Path) -> None:
    """Without torchrun's own agent to end them: the other rank sees it by itself, and the same
    command goes on."""
    home = Home(tmp_path)
    with free_port() as port:
        pass
    setup = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [home.start(*BUILD, **setup, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in (0, 1)]
    try:
        wait_for(home.cache / "shards" / "nano" / "build.json", ranks)
        ranks[1].kill()
        start = time.monotonic()
        text, _ = ranks[0].communicate(timeout=180)
        assert time.monotonic() - start < 60
        assert ranks[0].returncode == 2, text
        sentence = [line for line in text.splitlines() if line.startswith("Found")][-1]
        assert "rank 0/2 was at work" in sentence and "the same command goes on" in sentence
        assert "Traceback" not in text
    finally:
        for process in ranks:
            end(process)
    assert "Built nano" in home.done(*TORCHRUN, *BUILD)


class free_port:
    """A port that nobody listens on."""

    def __enter__(self) -> int:
        import socket

        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        return self.socket.getsockname()[1]

    def __exit__(self, *error: object) -> None:
        self.socket.close()


def wait_for(path: Path, processes: "list[subprocess.Popen[str]]") -> None:
    end_of_patience = time.monotonic() + 400
    while not path.exists():
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < end_of_patience
        time.sleep(0.2)
