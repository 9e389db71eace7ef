"""`cross` on the shipped nano pair: one JSON object, tables for a terminal, faults in a sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from core.cli.main import app

TEXT = "The house of my mother"
KEYS = {
    "text",
    "paired",
    "loss_a",
    "loss_b",
    "loss_crossed",
    "kl",
    "top_a",
    "top_b",
    "top_crossed",
}


def cross(*args: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(app, ["cross", "nano", *args], input=stdin)


def record(*args: str) -> dict[str, Any]:
    done = cross(*args, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_record_holds_tokens_totals_and_lanes() -> None:
    spoken = record("--text", TEXT, "--speak", "--tokens", "5", "--seed", "3")
    assert set(spoken["tokens"][0]) >= KEYS
    assert "".join(token["text"] for token in spoken["tokens"]) == TEXT
    assert list(spoken["totals"]) == ["a", "b", "a_to_b", "shuffled_a_to_b"]
    losses = [token["loss_crossed"] for token in spoken["tokens"][:-1]]
    total = spoken["totals"]["a_to_b"]
    assert sum(losses) / len(losses) == pytest.approx(total["loss"], rel=1e-4)
    assert total["relative"] == pytest.approx(total["loss"] / spoken["totals"]["b"]["loss"] - 1)
    lanes = spoken["lanes"]
    assert [lane["lane"] for lane in lanes] == ["a", "b", "crossed", "control"]
    assert all(0 < lane["tokens"] <= 5 and lane["left_out"] > 0 for lane in lanes)
    again = record("--text", TEXT, "--speak", "--tokens", "5", "--seed", "3")
    assert again["lanes"] == lanes, "the same seed writes the same text"
    steered = record(
        "--text",
        TEXT,
        "--speak",
        "--tokens",
        "5",
        "--seed",
        "3",
        "--vector",
        "lang:fr",
        "--strength",
        "2",
        "--lanes",
        "crossed",
    )
    assert steered["lanes"][0]["text"] != lanes[2]["text"]


def test_a_terminal_sees_what_crossed(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, "utf-8")
    done = cross("--file", str(path), "--direction", "b_to_a", "--control", "none")
    assert done.exit_code == 0, done.output
    assert "nano-b → nano-a" in done.stdout and "shuffled" not in done.stdout
    assert done.stdout.count("·") == 1, "the token before every text does not cross"
    piped = cross("--file", "-", "--direction", "b_to_a", "--control", "none", stdin=TEXT.encode())
    assert piped.stdout == done.stdout


def test_the_first_token_crosses_where_it_is_asked_to() -> None:
    """By a map of its own, which gives it back as it was: the losses stay."""
    ordinary, whole = record("--text", TEXT), record("--text", TEXT, "--sink")
    assert [record["tokens"][0]["paired"] for record in (ordinary, whole)] == [False, True]
    for key in ("a_to_b", "shuffled_a_to_b"):
        losses = [record["totals"][key]["loss"] for record in (ordinary, whole)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((), "give --text or --file"),
        (("--text", " "), "an empty text"),
        (("--text", "x", "--file", "y"), "--text and --file"),
        (("--text", "x", "--direction", "up"), "direction 'up'"),
        (("--text", "x", "--control", "mean"), "control 'mean'"),
        (("--text", "x", "--stitch", "L9-L9"), "L9-L9"),
        (("--text", "x", "--stitch", "L3-L4", "--sink"), "run `python -m core stitch sink nano"),
        (("--text", "x", "--speak", "--lanes", "c"), "lane 'c'"),
        (("--text", "x", "--speak", "--vector", "lang:xx"), "xx"),
    ],
)
def test_faults_are_one_sentence(args: tuple[str, ...], says: str) -> None:
    done = cross(*args)
    assert done.exit_code == 2, done.output
    assert done.stdout == "" and says in done.stderr


def test_help_teaches() -> None:
    done = cross("--help")
    for word in ("--direction", "--stitch", "--control", "--seed", "--vector", "Table 1", "KL"):
        assert word in done.output
