"""`paper`: what the paper printed beside what was measured here, from the hub's files as its client
leaves them; one sentence where the hub gives nothing."""

import json
from pathlib import Path

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner, Result

from core.cli.main import app
from core.cli.paper import as_text, beside, printed
from core.models.pairs import PAIRS, LayerPair, PairSpec
from core.models.printed import PYTHIA, SHORT
from core.models.prospect import register
from core.report import report
from core.workspace.store import Workspace
from tests.helpers.alike import Alike, corpus, make, on_hub


def call(*args: object) -> Result:
    return CliRunner().invoke(app, ["paper", *map(str, args)])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of the hub's client, which asks no network in tests; nothing under ~/models."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "hub"


@pytest.mark.parametrize("name", [*SHORT, *SHORT.values()])
def test_out_of_reach_is_one_sentence(
    name: str, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(tmp_path / "workspaces"))
    done = call(name)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("Found no ")
    model = PAIRS[SHORT.get(name, name)].a
    assert model.sources[-1].ref in done.stderr and f"~/models/{model.key}" in done.stderr
    assert "connect to the hub" in done.stderr
    assert not (tmp_path / "workspaces").exists(), "nothing was made"


def test_what_is_no_pair_is_one_sentence() -> None:
    done = call("gpt5")
    assert done.exit_code == 2 and "no pair named 'gpt5'" in done.stderr


def test_the_papers_figures_go_with_the_models_and_layers() -> None:
    known = PAIRS["pythia-70m-160m"]
    assert printed(known) is PYTHIA
    again = known.model_copy(update={"key": "mine", "paper": None, "corpus": "hf:x/y"})
    assert printed(again) is PYTHIA, "the same models and layers under another name"

    other = {"layer_pairs": (LayerPair(a=2, b=4),)}
    small = {"a": known.a.model_copy(update={"d_model": 32})}
    for changed in (other, small, {"layer_pairs": ()}, {"a": PAIRS["nano"].a}):
        assert printed(again.model_copy(update=changed)) is None
    assert printed(PAIRS["nano"]) is None


def test_every_row_has_its_table_2() -> None:
    for key in SHORT.values():
        pair = PAIRS[key]
        assert pair.paper is not None and pair.paper.sae is not None
        sae = pair.paper.sae
        for original, transferred in (
            (sae.fuv.original, sae.fuv.transferred),
            (sae.delta_loss.original, sae.delta_loss.transferred),
        ):
            assert 0 < original < transferred, "an SAE loses by crossing"
        if sae.ref:
            layer = pair.layer_pairs[0].a
            assert f"/layers.{layer - 1}" in sae.ref or f"/layer_{layer - 1}/" in sae.ref


def test_ours_are_those_of_the_workspace(nano_home: Path) -> None:
    """Alone, and beside what the paper printed of another pair."""
    nano = PAIRS["nano"]
    whole = report(nano)
    kind = whole["stitches"]["L2-L3"]["headline_kind"]
    losses = whole["stitches"]["L2-L3"]["downstream_by_kind"][kind]
    record = beside(Workspace("nano", nano_home), nano, None, "L2-L3", "L2-1024")
    for key, row in record["table_1"].items():
        assert row["ours"] == pytest.approx(losses[key]) and row["paper"] is None
    for key, row in record["table_2"].items():
        assert row["paper"] is None
        for which, value in row["ours"].items():
            assert value == pytest.approx(whole["sae"][which][key])
    assert record["figure_14"]["transferred"] == whole["features"]["correlation"]["transferred"]

    text = as_text(json.loads(json.dumps(record)), nano)
    assert "no row of this pair" in text
    assert f"| nano-a→nano-b | – | {losses['a_to_b']:.2f} (" in text
    assert "| dead features | – |" in text

    record = beside(Workspace("nano", nano_home), nano, PYTHIA, "L2-L3", "L2-1024")
    text = as_text(json.loads(json.dumps(record)), nano)
    assert "| nano-a→nano-b | 3.99 (+27\u202f%) |" in text
    assert "| nano-a | 3.60 |" in text
    assert "| variance unexplained | 0.17 / 0.52 |" in text
    assert "| dead features | 5.2\u202f% / 2.9\u202f% |" in text


DEPTHS = {"gpt2": (12, 24), "pythia": (6, 12), "gemma2": (26, 42)}


def rehearsed(name: str, alike: Alike, hub: Path, text: Path) -> PairSpec:
    """The registry's own pair, its models as small as a look-alike's; all of it on the hub."""
    known = PAIRS[SHORT[name]]
    specs = {}
    for side, folder in (("a", alike.a), ("b", alike.b)):
        spec = getattr(known, side)
        on_hub(hub, spec.sources[-1].ref, folder)
        width = {"a": 32, "b": 48}[side]
        specs[side] = spec.model_copy(update={"d_model": width})
        assert spec.n_layers == DEPTHS[name]["ab".index(side)]
    assert known.paper is not None and known.paper.sae is not None
    if ref := known.paper.sae.ref:
        assert alike.sae is not None
        owner, release, *folders = ref.removeprefix("hub:").split("/")
        root = alike.sae
        while root.name != release:
            root = root.parent
        place = root.joinpath(*folders)
        if place != alike.sae:
            alike.sae.rename(place)
        on_hub(hub, f"{owner}/{release}", root)
    return known.model_copy(update={"key": f"{name}-small", "corpus": str(text), **specs})


@pytest.mark.whole
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SHORT)
def test_the_papers_pairs_are_one_command(
    name: str, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rehearsed with look-alikes of as many layers, stitched where the paper stitches."""
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(tmp_path / "workspaces"))
    monkeypatch.setenv("STITCHLENS_DTYPE", "float32")
    layer = PAIRS[SHORT[name]].layer_pairs[0].a
    alike = make(name, tmp_path / "models", DEPTHS[name], layer)
    pair = rehearsed(name, alike, hub, corpus(tmp_path))
    register(pair)

    done = call(pair.key, "--positions", "6000", "--tokens", "500", "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    record = json.loads(done.stdout)
    theirs = pair.paper
    assert theirs is not None and theirs.sae is not None
    assert record["paper"] == theirs.label
    assert record["sae"] == (theirs.sae.name or f"L{layer}-4096")
    assert record["table_1"]["a_to_b"]["paper"] == theirs.a_to_b
    assert record["table_2"]["fuv"]["paper"]["transferred"] == theirs.sae.fuv.transferred
    assert all(row["ours"] > 0 for row in record["table_1"].values())

    text = call(pair.key, "--positions", "6000", "--tokens", "500").stdout
    assert f"| {pair.a.title}→{pair.b.title} | {theirs.a_to_b:.2f} (" in text
    assert "Table 2" in text and "Fig. 14" in text
