"""What `launch` prints is what was asked for, and what cannot be divided is refused in a sentence."""

import shlex
import subprocess

import pytest
from typer.testing import CliRunner

from core.cli.main import app
from tests.helpers.documents import parses


def launch(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["launch", *words])
    return result.exit_code, result.output


def test_torchruns_command_is_one_that_parses() -> None:
    rc, text = launch("nano", "--shards", "2", "--torchrun", "--", "build", "--positions", "3000")
    assert rc == 0, text
    words = shlex.split(text)
    assert words[1:7] == [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
    ]
    assert words[7:] == ["core", "build", "nano", "--positions", "3000"]
    assert parses(words[8:])


def test_an_array_has_a_task_a_shard_and_a_merge_behind_it() -> None:
    rc, script = launch(
        "nano", "features", "build", "--shards", "8", "--slurm", "--", "--sae", "L2-1024"
    )
    assert rc == 0, script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert "#SBATCH --array=0-7" in script
    assert 'core features build nano --sae L2-1024 --shard "$SLURM_ARRAY_TASK_ID/8"' in script
    assert '--dependency="afterok:$shards"' in script
    assert script.index("core features build") < script.index("core merge nano")
    assert "export STITCHLENS_CACHE=" in script


@pytest.mark.parametrize(
    "words",
    [
        ("steer", "eval", "--languages", "fr"),
        ("steer", "eval", "--instructions", "--steered", "b"),
        ("probes", "eval", "--absolute"),
        ("sae", "train", "--widths", "1024"),
    ],
)
def test_processes_that_share_work_need_no_number_and_no_merge(words: tuple[str, ...]) -> None:
    command, options = words[:2], words[2:]
    rc, script = launch("nano", *command, "--shards", "3", "--slurm", "--", *options)
    assert rc == 0, script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert "#SBATCH --array=0-2" in script
    assert "--shard" not in script and "merge" not in script
    line = next(line for line in script.splitlines() if line.startswith("exec "))
    assert parses(shlex.split(line)[4:])

    rc, text = launch("nano", *command, "--torchrun", "--", *options)
    assert rc == 0, text
    assert shlex.split(text)[7:] == ["core", *command, "nano", *options]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("nano", "--slurm", "--torchrun"), "--slurm and --torchrun"),
        (("nano",), "neither --slurm nor --torchrun"),
        (("nano", "--slurm", "--shards", "65"), "at most 64"),
        (("nano", "steer", "run", "--slurm"), "the command 'steer run'"),
        (("nano", "steer", "eval", "--slurm", "--", "--shard=0/4"), "each process has its own"),
        (("nano", "build", "smollm2-gemma3", "--slurm"), "the command 'build smollm2-gemma3'"),
        (("nano", "build", "--slurm", "--", "--shard", "0/4"), "each process has its own"),
        (("nowhere", "--slurm"), "nowhere"),
    ],
)
def test_what_cannot_be_launched_is_refused(words: tuple[str, ...], sentence: str) -> None:
    rc, text = launch(*words)
    assert rc == 2
    assert sentence in text
    assert "Traceback" not in text


@pytest.mark.parametrize("command", [("build", "nano"), ("features", "build", "nano")])
def test_wrong_shares_are_refused_before_anything_is_read(command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*command, "--shard", "4/4"])
    assert result.exit_code == 2
    assert "Found --shard 4/4; wanted a share I/N with I from 0 to 3" in result.output
