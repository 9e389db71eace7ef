"""The command line: one sentence on stderr and status 2 for what a person can mend, one JSON object
for `--json`."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from core.cli.main import app
from core.models.pairs import PAIRS
from core.workspace.places import PROJECT
from core.workspace.store import Workspace

ROOT = PROJECT
PAIR = "smollm2-gemma3"
TABLE_1 = ("a", "b", "a_to_b", "b_to_a", "a_to_b_to_a", "b_to_a_to_b")
CONTROLS = ("mean_ablated_a", "mean_ablated_b", "shuffled_a_to_b", "shuffled_b_to_a")


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(tmp_path))
    return tmp_path


def call(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def fault(*args: str) -> str:
    """The one sentence with which a command is refused."""
    done = call(*args)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("Found ")
    return done.stderr


FIT = ("stitch", "fit", PAIR, "--layer-a", "10", "--layer-b", "9")


def test_faults_are_one_sentence(empty: Path) -> None:
    for command in (
        ("report",),
        ("build",),
        ("svcca",),
        FIT[:2],
        ("stitch", "eval"),
        ("stitch", "remove"),
    ):
        rest = FIT[3:] if command == FIT[:2] else ("x",) if command[0] == "stitch" else ()
        message = fault(*command, "nopair", *rest)
        assert "'nopair'" in message
        assert all(key in message for key in PAIRS)
    message = fault("report", PAIR)
    assert f"python -m core build {PAIR}" in message
    assert "no workspace" in fault("stitch", "eval", PAIR, "nothing")
    assert "no workspace" in fault("stitch", "remove", PAIR, "nothing")
    assert list(empty.iterdir()) == [], "nothing was made"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--layer-a", "30", "--layer-b", "9"), ("layer 30", "0 to 29")),
        (("--layer-a", "-1", "--layer-b", "9"), ("layer -1", "0 to 29")),
        (("--layer-a", "10", "--layer-b", "18"), ("layer 18", "0 to 17")),
        (("--layer-a", "10", "--layer-b", "9", "--metric", "cosine"), ("'cosine'", "whiten")),
        (("--layer-a", "10", "--layer-b", "9", "--method", "sgd"), ("'sgd'", "lstsq")),
        (("--layer-a", "10", "--layer-b", "9", "--name", "../up"), ("'../up'", "letters")),
        (("--layer-a", "10", "--layer-b", "9", "--alpha", "-1"), ("alpha -1.0", "0 or more")),
        (("--layer-a", "10", "--layer-b", "9", "--alpha", "nan"), ("alpha nan", "finite")),
        (("--layer-a", "10", "--layer-b", "9", "--positions", "10"), ("10 positions", "2432")),
        (
            ("--layer-a", "10", "--layer-b", "9", "--epochs", "0"),
            ("epochs = 0", "greater than or equal to 1"),
        ),
        (
            ("--layer-a", "10", "--layer-b", "9", "--lr", "1e9"),
            ("lr = 1000000000.0", "less than or equal to 1"),
        ),
    ],
)
def test_settings_that_do_not_fit_are_named(
    empty: Path, options: tuple[str, ...], named: tuple[str, str]
) -> None:
    message = fault("stitch", "fit", PAIR, *options)
    assert all(n in message for n in named), message
    assert not (empty / PAIR / "manifest.json").exists()


@pytest.mark.usefixtures("nano_home")
@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--objective", "mse"), ("objective = 'mse'", "'kl', 'features' or 'loss'")),
        (("--tokens", "10"), ("10 tokens", "768 or more")),
        (("--kinds", "Klingon"), ("'Klingon'", "English")),
        (("--inversion", "nan"), ("inversion = nan", "finite")),
        (("--lr", "2"), ("lr = 2.0", "less than or equal to 1")),
        (("--as", "a/b"), ("'a/b'", "choose another name")),
    ],
)
def test_what_cannot_be_refined_so_is_named(
    options: tuple[str, str], named: tuple[str, str]
) -> None:
    message = fault("stitch", "refine", "nano", "L2-L3", *options)
    assert all(n in message for n in named), message


def test_a_spoilt_workspace_is_named(empty: Path) -> None:
    w = Workspace(PAIR)
    w.put_record("pair", {"title": "t"}, {})
    assert call("report", PAIR).exit_code == 0, "the control"
    path = w.root / w.entry("pair").path
    path.write_bytes(path.read_bytes().replace(b"t", b"u", 1))
    assert path.name in fault("report", PAIR)
    assert "no 'stitches/nothing'" in fault("stitch", "eval", PAIR, "nothing")
    manifest = w.root / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    assert "schema 99" in fault("report", PAIR)


def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "core", *args]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True, check=False
    )


def test_a_missing_model_is_one_sentence(empty: Path, tmp_path: Path) -> None:
    """A pair whose models come from the hub alone, which is out of reach here. In a process of its
    own: a page's thread may write its bars into this one's."""
    done = run(
        "build", "pythia-70m-160m", HOME=str(tmp_path), STITCHLENS_CACHE=str(tmp_path / "cache")
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "EleutherAI/pythia-70m-deduped" in done.stderr
    assert "~/models/pythia-70m-deduped" in done.stderr


def test_a_real_process_says_the_same(tmp_path: Path) -> None:
    done = run("report", "nopair", STITCHLENS_WORKSPACES=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    done = run("pairs", "--json", STITCHLENS_WORKSPACES=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert {p["pair"] for p in json.loads(done.stdout)["pairs"]} == set(PAIRS)


def test_usage_errors_are_status_2_too() -> None:
    for args in (
        ("stitch", "fit", PAIR),
        ("report",),
        ("nothing",),
        (*FIT, "--layer-a", "ten"),
        ("report", "--yaml"),
        ("build", PAIR, "--tokens", "0"),
    ):
        done = call(*args)
        assert done.exit_code == 2
        assert done.stdout == ""
        assert "Traceback" not in done.stderr


def test_help_names_every_command() -> None:
    done = call("--help")
    assert done.exit_code == 0
    assert all(
        c in done.stdout for c in ("pairs", "doctor", "build", "svcca", "stitch", "nano", "report")
    )
    assert all(c in call("stitch", "--help").stdout for c in ("fit", "eval"))


def only_object(done: subprocess.CompletedProcess[str] | Result) -> dict[str, Any]:
    """The JSON object that is all of stdout; NaN is no JSON."""

    def no(constant: str) -> float:
        raise ValueError(constant)

    found = json.loads(done.stdout, parse_constant=no)
    assert isinstance(found, dict)
    return found


def test_doctor_says_what_to_do(
    empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STITCHLENS_CACHE", str(tmp_path / "cache"))
    w = Workspace(PAIR)
    w.put_record("pair", {"title": "t"}, {})
    path = w.root / w.entry("pair").path
    path.write_text("changed")
    done = call("doctor", "--json")
    checks = {c["what"]: c for c in only_object(done)["checks"]}
    assert done.exit_code == 2
    fault = checks[f"workspace {PAIR}"]
    assert not fault["ok"]
    assert path.name in fault["found"]
    assert "python -m core doctor --repair" in fault["todo"]
    assert checks["Python"]["ok"]
    assert all(c["todo"] for c in checks.values() if not c["ok"])


def test_the_committed_workspace_reports_table_1() -> None:
    done = run("report", PAIR, "--json", STITCHLENS_WORKSPACES=str(ROOT / "cache"))
    assert (done.returncode, done.stderr) == (0, ""), "run `python -m core build smollm2-gemma3`"
    found = only_object(done)
    assert found["default_stitch"] in found["stitches"]
    assert len(found["stitches"]) >= 2
    for name, stitch in found["stitches"].items():
        loss = stitch["downstream"]
        assert set(loss) >= {*TABLE_1, *CONTROLS}, name
        assert all(math.isfinite(v) and 0 < v < 20 for v in loss.values())
        assert loss["a_to_b"] < 0.8 * min(loss["mean_ablated_b"], loss["shuffled_a_to_b"]), name
        assert loss["b_to_a"] < 0.8 * min(loss["mean_ablated_a"], loss["shuffled_b_to_a"]), name
        for condition, d in stitch["downstream_details"].items():
            assert d["low"] <= loss[condition] <= d["high"]
            assert 0 < d["bits_per_byte"] < 10
            assert 0.5 < d["share_patched"] <= 1
    best = found["stitches"][found["default_stitch"]]["downstream"]
    assert best["a_to_b_to_a"] < 1.05 * best["a"]
    assert best["b_to_a_to_b"] < 1.05 * best["b"]
    assert run("report", PAIR, STITCHLENS_WORKSPACES=str(ROOT / "cache")).returncode == 0


STEER = ("steer", "nano", "--prompt", "The house of my", "--tokens", "6")


@pytest.mark.usefixtures("nano_home")
def test_steer_writes_every_lane(tmp_path: Path) -> None:
    lanes = (
        "--lanes",
        "b:none,b:own,b:transferred,a:transferred",
        "--source",
        "lang:fr",
        "--stitch",
        "L3-L4",
    )
    done = call(*STEER, *lanes, "--layers-b", "4-5", "--strength", "1.5", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert [x["lane"] for x in found["lanes"]] == lanes[1].split(",")
    assert found["setting"]["layers_b"] == [4, 5] and found["source"] == "lang:fr"
    for lane in found["lanes"]:
        assert lane["tokens"] == 6 and lane["loss"] > 0
    again = json.loads(
        call(*STEER, *lanes, "--layers-b", "4-5", "--strength", "1.5", "--json").stdout
    )
    assert again == found, "the same seed writes the same"
    plain = call("steer", "run", *STEER[1:], *lanes)
    assert "[b:transferred]" in plain.stdout and "nats/token" in plain.stdout


@pytest.mark.usefixtures("nano_home")
@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--source", "lang:xx"), "no text in xx"),
        (("--lanes", "b:mine"), "b:transferred"),
        (("--strength", "1e9"), "strength"),
        (("--strength", "nan"), "strength"),
        (("--layers-b", "x"), "12-15"),
        (("--layers-b", "1-99"), "0 to 5"),
        (("--operator", "push"), "operator"),
        (("--top-p", "0"), "top_p"),
        (("--stitch", "L9-L9"), "no 'stitches/L9-L9'"),
        (("--prompt", ""), "an empty prompt"),
    ],
)
def test_steer_refuses_in_a_sentence(options: tuple[str, str], named: str) -> None:
    done = call(*STEER, *options)
    assert done.exit_code == 2 and named in done.stderr.splitlines()[-1], done.output


@pytest.mark.usefixtures("nano_home")
@pytest.mark.parametrize("ending", ["safetensors", "gguf", "json"])
def test_vectors_are_exported(tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"french.{ending}"
    options = ("vector", "export", "nano", "--source", "lang:fr", "--lane", "b:transferred")
    done = call(*options, "--out", str(out))
    assert done.exit_code == 0 and out.stat().st_size > 500, done.output
    assert "a free place" in fault(*options, "--out", str(out))
    assert ".gguf" in fault(*options, "--out", str(tmp_path / "french.bin"))
    assert "one with a vector" in fault(
        *options[:-1], "b:none", "--out", str(tmp_path / f"none.{ending}")
    )


@pytest.mark.usefixtures("nano_home")
def test_the_shipped_evaluation_is_reported() -> None:
    found = json.loads(call("report", "nano", "--json").stdout)["steering"]
    assert set(found) == {"a_to_b", "b_to_a"} and len(found["a_to_b"]) >= 12
    assert "B steered" in call("report", "nano").stdout
