"""One table says what each artifact is, what it belongs to, and which command makes it."""

import shlex

import pytest

from core.errors import StitchLensError
from core.workspace.artifacts import GROUPS, belongings, built, command, parts
from core.workspace.places import WORKSPACES
from core.workspace.store import Workspace
from tests.helpers.documents import parses

SHIPPED = ("nano", "smollm2-gemma3")


def parsed(line: str) -> None:
    """Fails unless the command line takes it; nothing is run."""
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "core"]
    assert parses(words[3:]), line


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
    assert "--positions 0" in line, "all of the text, not as many rows as are usual"
    assert "--positions 9" in command("nano", "saes/L2-1024", makers | {"positions": 9})


def test_a_stitch_that_a_person_fitted_is_not_built() -> None:
    own = {"why": "chosen by hand", "layer_a": 1, "layer_b": 2}
    assert "stitch fit nano --layer-a 1 --layer-b 2" in command("nano", "stitches/mine", own)
    for fitted_on, typed in ((None, 0), (60_000, 60_000)):  # None is all of the text
        line = command("nano", "stitches/mine", own | {"positions": fitted_on})
        assert f"--positions {typed}" in line
    assert built("stitches/L2-L3", {"why": "middle"}) and not built("stitches/mine", own)
    assert not built("stitches/theirs", {"method": "imported"})


def test_lists_and_words_with_spaces_are_written_for_a_shell() -> None:
    makers = {"sae_name": "one", "widths": [8, 16], "starts": ["scratch", "random stitch"]}
    line = command("nano", "sae_training/x", makers)
    assert "--widths 8,16 --starts 'scratch,random stitch' --name x" in line


@pytest.mark.parametrize(
    ("name", "lists", "advises"),
    [
        (
            "stitches/L9-L9",
            "stitches/L2-L3, stitches/L2-L3-kl, stitches/L3-L4",
            "stitch fit --help",
        ),
        ("saes/other", "L2-1024", "features build nano"),
        ("probes/other", "L2-1024", "probes eval nano"),
        ("cards/theirs", "alpha_sweep", "stitch import --help"),
        ("vectors/theirs", "alpha_sweep", "vector import --help"),
        ("sae_cards/theirs", "alpha_sweep", "sae import --help"),
    ],
)
def test_a_missing_one_lists_its_group_and_names_its_command(
    name: str, lists: str, advises: str
) -> None:
    with pytest.raises(StitchLensError) as e:
        Workspace("nano", WORKSPACES).entry(name)
    assert lists in e.value.wanted and f"`python -m core {advises}`" in e.value.todo


def test_what_belongs_to_an_sae_goes_with_it_and_nothing_else() -> None:
    there = ["functional/one/heads", "functional/one-more/heads", "probes/one", "saes/one", "pair"]
    assert belongings(there, "saes", "one") == ["functional/one/heads", "probes/one", "saes/one"]
    assert all(parts(kind)[-1] == kind for kind in ("stitches", "saes", "vectors"))
    assert command("nano", "notes/x", {}) == ""
