"""One table says what each artifact is, what it belongs to, and which command makes it."""

import shlex
from typing import Any

import pytest
import typer.main

from core.cli.main import app
from core.workspace.artifacts import GROUPS, belongings, built, command, parts
from core.workspace.places import WORKSPACES
from core.workspace.store import Workspace

SHIPPED = ("nano", "smollm2-gemma3")


def parsed(line: str) -> None:
    """Fails unless the command line names a command that exists, with options that it has."""
    assert line.startswith("python -m core ")
    command_or_group: Any = typer.main.get_command(app)
    args = shlex.split(line)[3:]
    while commands := getattr(command_or_group, "commands", None):
        assert args[0] in commands, f"no command {args[0]}: {line}"
        command_or_group, args = commands[args[0]], args[1:]

    options = {option for parameter in command_or_group.params for option in parameter.opts}
    assert {arg for arg in args if arg.startswith("--")} <= options, line


@pytest.mark.parametrize("pair", SHIPPED)
def test_every_shipped_artifact_has_a_command_that_exists(pair: str) -> None:
    artifacts = Workspace(pair, WORKSPACES).manifest().artifacts
    assert {name.partition("/")[0] for name in artifacts} <= GROUPS.keys()
    for name, artifact in artifacts.items():
        parsed(command(pair, name, artifact.makers))


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_names_a_command_even_of_an_old_version(group: str) -> None:
    parsed(command("nano", f"{group}/mine", {}))


def test_an_sae_is_made_again_as_it_was() -> None:
    makers = Workspace("nano", WORKSPACES).entry("saes/L2-1024").makers
    line = command("nano", "saes/L2-1024", makers)
    assert "--width 1024 --k 16" in line and not built("saes/L2-1024", makers)


def test_a_stitch_that_a_person_fitted_is_not_built() -> None:
    own = {"why": "chosen by hand", "layer_a": 1, "layer_b": 2}
    assert "stitch fit nano --layer-a 1 --layer-b 2" in command("nano", "stitches/mine", own)
    assert built("stitches/L2-L3", {"why": "middle"}) and not built("stitches/mine", own)
    assert not built("stitches/theirs", {"method": "imported"})


def test_what_belongs_to_an_sae_goes_with_it_and_nothing_else() -> None:
    there = ["functional/one/heads", "functional/one-more/heads", "probes/one", "saes/one", "pair"]
    assert belongings(there, "saes", "one") == ["functional/one/heads", "probes/one", "saes/one"]
    assert all(parts(kind)[-1] == kind for kind in ("stitches", "saes", "vectors"))
    assert command("nano", "notes/x", {}) == ""
