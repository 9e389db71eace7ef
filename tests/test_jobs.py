"""Jobs are real processes: they end, fail, are cancelled and killed, and a new app finds them as
they are."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import typer.main

from core import jobs
from core.cli.main import app
from core.errors import StitchLensError
from core.workspace.places import PROJECT
from core.workspace.store import Workspace

PAIR = "smollm2-gemma3"
PYTHON = (sys.executable, "-c")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(tmp_path / "workspaces"))


def python(code: str, title: str = "a test") -> jobs.Job:
    return jobs.run(PAIR, [code], title, command=PYTHON)


def until_over(job: jobs.Job, seconds: float = 30) -> jobs.Job:
    end = time.monotonic() + seconds
    while job.state == "running":
        assert time.monotonic() < end, "still running"
        time.sleep(0.02)
    return job


def until(path: Path, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} never came"
        time.sleep(0.02)


def test_a_job_is_done_with_its_output_and_progress(tmp_path: Path) -> None:
    job = until_over(
        python(
            "from core.progress import Progress\nwith Progress('counting', 4) as p:"
            " p.advance(4)\nprint('ready')"
        )
    )
    assert (job.state, job.rc, job.message) == ("done", 0, "")
    assert (job.folder / "stdout").read_text() == "ready\n"
    assert job.progress["step"] == "counting" and job.progress["done"] == job.progress["total"] == 4
    assert 0 < job.seconds < 30
    assert [j.id for j in jobs.jobs(PAIR)] == [job.id] and jobs.latest(PAIR) == job


def test_what_is_no_command_of_ours_fails_with_its_last_sentence() -> None:
    code = (
        "import sys; sys.stderr.write('reading:  10%|# | 1/10 [00:01<00:09, 1.00tok/s]\\r'"
        "'\\x1b[31mFound a layer; wanted another: choose it.\\x1b[0m\\n"
        "reading: 20%|## | 2/10 [00:02<00:08, 1.00tok/s]'); sys.exit(2)"
    )
    job = until_over(python(code))
    assert (job.state, job.rc) == ("failed", 2)
    assert job.message == "Found a layer; wanted another: choose it."


def test_silence_is_named() -> None:
    assert (
        until_over(python("raise SystemExit(3)")).message
        == "It ended with exit code 3 and no message."
    )


def test_a_missing_program_fails_and_says_so() -> None:
    job = until_over(jobs.run(PAIR, [], "no such thing", command=("/no/such/program",)))
    assert job.state == "failed" and "/no/such/program" in job.message


def test_one_job_of_a_pair_at_a_time() -> None:
    first = python("import time; time.sleep(60)", "the first")
    try:
        with pytest.raises(
            StitchLensError, match=r"'the first' running.*one job of a pair at a time"
        ):
            python("pass")
        with pytest.raises(StitchLensError, match="cancel it first"):
            first.forget()
        assert jobs.run("gpt2-small-medium", ["pass"], "another pair", command=PYTHON).record.pid
    finally:
        first.cancel()
    assert until_over(python("pass")).state == "done"


def test_cancel_ends_the_whole_group_and_is_remembered(tmp_path: Path) -> None:
    started = tmp_path / "started"
    job = python(
        "import subprocess, sys, pathlib, time\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(started)!r}).write_text(str(p.pid)); time.sleep(60)"
    )
    until(started)
    child = psutil.Process(int(started.read_text() or 0))
    assert job.cancel() == "cancelled"
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert jobs.jobs(PAIR)[0].state == "cancelled" and "Cancelled" in job.message
    assert job.cancel() == "cancelled"  # twice is no harm


def test_cancel_kills_what_does_not_listen(tmp_path: Path) -> None:
    started = tmp_path / "started"
    job = python(
        "import signal, pathlib, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(started)!r}).touch(); time.sleep(60)"
    )
    until(started)
    assert job.cancel(grace=0.3) == "cancelled"
    assert not job.alive


def test_a_killed_process_is_a_failure_and_a_killed_group_is_lost() -> None:
    job = python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert until_over(job).state == "failed" and job.rc == 128 + signal.SIGKILL
    job = python("import time; time.sleep(60)")
    assert job.record.pid
    os.killpg(job.record.pid, signal.SIGKILL)
    assert until_over(job).state == "lost" and "start it again" in job.message


def test_what_is_left_of_a_group_still_runs() -> None:
    job = python("import time; time.sleep(60)")
    assert job.record.pid
    end = time.monotonic() + 10
    while not psutil.Process(job.record.pid).children() and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(job.record.pid, signal.SIGKILL)  # only the wrapper
    time.sleep(0.2)
    assert job.state == "running"
    assert job.cancel() == "cancelled" and not job.alive


def test_a_process_that_got_the_same_pid_is_not_the_job() -> None:
    job = python("import time; time.sleep(60)")
    try:
        other = jobs.run("gpt2-small-medium", ["pass"], "over at once", command=PYTHON)
        until_over(other)
        (other.folder / "rc").unlink()
        (other.folder / "job.json").write_text(
            job.record.model_copy(update={"pair": PAIR}).model_dump_json()
        )
        assert jobs.jobs("gpt2-small-medium")[0].record.pid == job.record.pid
        assert jobs.jobs("gpt2-small-medium")[0].state == "lost" and job.state == "running"
    finally:
        job.cancel()


def test_a_clock_that_jumps_neither_loses_nor_kills_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    job = python("import time; time.sleep(60)")
    try:
        for jump in (-1e6, 1e6):
            now = time.time()
            with monkeypatch.context() as patch:
                patch.setattr(time, "time", lambda now=now, jump=jump: now + jump)
                assert jobs.jobs(PAIR)[0].state == "running" and job.seconds >= 0
    finally:
        job.cancel()


def test_pause_stops_and_go_on_finishes(tmp_path: Path) -> None:
    ticks = tmp_path / "ticks"
    job = python(
        f"import pathlib, time\np = pathlib.Path({str(ticks)!r})\n"
        "for i in range(100):\n    p.open('a').write('x'); time.sleep(0.02)"
    )
    until(ticks)
    assert job.pause() == "paused" and job.pause() == "paused"
    time.sleep(0.1)
    still = ticks.read_text()
    time.sleep(0.3)
    assert ticks.read_text() == still and jobs.jobs(PAIR)[0].state == "paused"
    with pytest.raises(StitchLensError, match="one job of a pair at a time"):
        python("pass")
    assert job.go_on() == "running"
    assert until_over(job).state == "done" and len(ticks.read_text()) == 100


def test_a_paused_job_can_be_cancelled_and_started_again() -> None:
    job = python("import time; time.sleep(60)")
    assert job.pause() == "paused"
    assert job.cancel() == "cancelled" and job.over and not job.alive
    other = job.again()
    assert (
        other.id != job.id
        and other.record.command == job.record.command
        and other.state == "running"
    )
    with pytest.raises(StitchLensError, match="one job of a pair at a time"):
        job.again()
    other.cancel()


def test_a_job_outlives_the_app_that_started_it(tmp_path: Path) -> None:
    """Another process starts two jobs and dies by SIGKILL; here both are found, one finishing, one
    cancelled."""
    gate = tmp_path / "gate"
    wait = f"import pathlib, time\nwhile not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.02)"
    app = (
        "import os, signal, sys; from core import jobs\n"
        "for pair in ('smollm2-gemma3', 'gpt2-small-medium'):\n"
        f"    jobs.run(pair, ['-c', {wait!r}], pair, command=(sys.executable,))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    died = subprocess.run([sys.executable, "-c", app], cwd=PROJECT, check=False)
    assert died.returncode == -signal.SIGKILL
    finishing, cancelled = jobs.jobs(PAIR)[0], jobs.jobs("gpt2-small-medium")[0]
    assert finishing.state == cancelled.state == "running"
    assert cancelled.cancel() == "cancelled"
    gate.touch()
    assert until_over(finishing).state == "done" and finishing.rc == 0


def test_broken_folders_are_passed_over_and_old_jobs_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs, "KEEP", 2)
    done = [until_over(python("pass", f"number {i}")) for i in range(4)]
    (done[3].folder / "job.json").write_text("{")
    assert [j.record.title for j in jobs.jobs(PAIR)] == ["number 2", "number 1"]


def test_fit_is_refused_before_it_starts(tmp_path: Path) -> None:
    ask: dict[str, Any] = {
        "method": "exact",
        "metric": "std",
        "alpha": 1.0,
        "positions": 4000,
        "name": "mine",
    }
    with pytest.raises(StitchLensError, match=r"layer 30 .*0 to 29"):
        jobs.start(PAIR, "stitch fit", layer_a=30, layer_b=9, **ask)
    with pytest.raises(StitchLensError, match="no pair named"):
        jobs.start("nobody", "stitch fit", layer_a=0, layer_b=0, **ask)
    for bad in ("", "../x", "a/b", "-x", "x" * 65, "a b", "<b>"):
        with pytest.raises(StitchLensError, match="choose another name"):
            jobs.start(PAIR, "stitch fit", layer_a=20, layer_b=9, **{**ask, "name": bad})
    Workspace(PAIR).put("stitches/mine", lambda p: p.touch(), "stitch", ".safetensors", {})
    with pytest.raises(StitchLensError, match="a name that is free"):
        jobs.start(PAIR, "stitch fit", layer_a=20, layer_b=9, **ask)
    assert jobs.jobs(PAIR) == []


def test_every_command_and_its_options_are_the_command_lines() -> None:
    for words, command in jobs.COMMANDS.items():
        subcommand: Any = typer.main.get_command(app)
        for word in words.split():
            subcommand = subcommand.commands[word]
        parameters = {parameter.name for parameter in subcommand.params}
        assert {"pair", *command.by_place} <= parameters, words
        assert ("as_json" in parameters) >= command.prints, words


def test_options_are_typed_as_a_person_would() -> None:
    job = jobs.start(
        PAIR,
        "stitch fit",
        layer_a=20,
        layer_b=9,
        method="exact",
        alpha=0.3,
        positions=None,
        name="tried",
    )
    job.cancel()
    line = " ".join(job.record.command[1:])
    assert line == (
        f"-m core stitch fit {PAIR} --layer-a 20 --layer-b 9 --method exact --alpha 0.3"
        " --name tried --json"
    )
    assert (job.record.title, job.record.makes) == ("Fit tried", "stitches/tried")
