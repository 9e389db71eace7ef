"""Report cards of SAEs and vectors that others made: a good one gets none, each fault the warning that names it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sae_lens import SAE
from typer.testing import CliRunner

from core import cards, sae_cards, uploads, vector_cards
from core.cli import app
from core.errors import StitchLensError
from core.pairs import get_pair
from core.pipeline import Bench, BuildConfig
from core.studio import LaneKey, Setting, Studio

SHIPPED = "L2-1024"


@pytest.fixture(scope="module")
def bench(nano_home: Path) -> Bench:
    return Bench(get_pair("nano"), BuildConfig(), nano_home.parent / "me")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "POSITIONS", 1200)
    monkeypatch.setattr(sae_cards, "DOCUMENTS", 6)


def folder(bench: Bench, to: Path, factor: float = 1.0, hook: str | None = None, noise: int = 0) -> str:
    """The shipped SAE as somebody else's, perhaps made for other activations, of another layer, or drawn at random."""
    path = bench.workspace.path(f"saes/{SHIPPED}")
    sae = SAE.load_from_disk(path, dtype="float32").requires_grad_(False)
    if noise:
        for weight in (sae.W_enc.data, sae.W_dec.data):
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) / 30)
    sae.load_state_dict({k: v * factor if k.startswith("b_") else v for k, v in sae.state_dict().items()})
    if hook:
        sae.cfg.metadata.hook_name = hook
    sae.save_model(to / "theirs")
    return str(to / "theirs")


def about(card: dict[str, object]) -> set[str]:
    return {w["about"] for w in card["warnings"]}  # type: ignore[index, attr-defined]


def test_a_good_sae_gets_its_figures_and_table_2(bench: Bench, tmp_path: Path) -> None:
    name, card = sae_cards.import_sae(bench, folder(bench, tmp_path), name="good")
    assert about(card) == set() and (card["layer"], card["d_sae"], card["stitch"]) == (2, 1024, "L2-L3")
    known = bench.workspace.table(f"sae_quality/{SHIPPED}").set_index("name")
    assert card["explained_variance"] == pytest.approx(known.explained_variance["original"], abs=0.05)
    loss = {row["name"]: row["explained_variance"] for row in card["table_2"]}
    assert loss["original"] > loss["transferred"] > loss["shuffled-pair stitch"] and loss["random SAE"] < 0.1
    assert min(card["by_layer"], key=lambda k: card["by_layer"][k]) == "2"
    assert json.loads(json.dumps(bench.workspace.record("sae_cards/good"))) == sae_cards._plain(card)
    assert {f"saes/{name}", "sae_cards/good"} <= set(bench.workspace.own()), "private to whoever brought it"
    assert f"saes/{name}" not in bench.workspace.shared.names()
    assert [(one.kind, one.name) for one in uploads.brought(bench.workspace)] == [("saes", "good")]
    with pytest.raises(StitchLensError, match="an SAE named 'good'"):
        sae_cards.import_sae(bench, folder(bench, tmp_path), name="good")
    uploads.remove(bench.workspace, "saes", "good")


@pytest.mark.parametrize("fault", ["layers", "normalised", "control"])
def test_each_fault_of_an_sae_is_named(bench: Bench, tmp_path: Path, fault: str) -> None:
    sample = cards.read_sample(bench.a, bench.b, bench.corpus.split("held-out"), 400)
    scale = bench.pair.a.d_model**0.5 / float(sample.h_a[2].norm(dim=-1).mean())
    changes = {"layers": {"hook": "blocks.0.hook_resid_pre"}, "normalised": {"factor": scale}, "control": {"noise": 1}}
    ref = folder(bench, tmp_path, **changes[fault])  # type: ignore[arg-type]
    card = sae_cards.sae_card(bench, *sae_cards.foreign_sae(bench, ref), None)
    assert fault in about(card) and about(card) <= {fault, "dead"}, card["warnings"]
    assert "table_2" not in card


def test_refusals_leave_nothing(bench: Bench, tmp_path: Path) -> None:
    ref = folder(bench, tmp_path)
    with pytest.raises(StitchLensError, match="stitch 'L3-L4'; wanted one from layer 2 of A"):
        sae_cards.import_sae(bench, ref, name="x", stitch_name="L3-L4")
    path = tmp_path / "theirs" / "cfg.json"
    config = json.loads(path.read_text())
    config["metadata"].pop("hook_name")
    path.write_text(json.dumps(config))
    with pytest.raises(StitchLensError, match="does not say its layer"):
        sae_cards.import_sae(bench, ref, name="x")
    assert bench.workspace.own() == {}


def test_the_command_takes_a_good_sae(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHLENS_PRIVATE", str(tmp_path / "other"))
    done = CliRunner().invoke(app, ["sae", "import", "nano", folder(bench, tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["name"] == "theirs" and "saes/theirs" not in bench.workspace.names()


def test_a_vector_that_was_brought_steers_like_the_one_it_was(bench: Bench, tmp_path: Path) -> None:
    studio = Studio(bench, "L2-L3")
    key, setting = LaneKey("b", "own"), Setting()
    mine = studio.vectors(studio.source("lang:fr"), key, setting)[0]
    path = tmp_path / "french.npy"
    np.save(path, (mine.v * (mine.mean - mine.base)).numpy())
    card = vector_cards.import_vector(bench, path, "french", "b", 3)
    assert about(card) == set() and card["nearest"][0][0] == "fr" and card["nearest"][0][1] > 0.99
    assert card["push"] == pytest.approx(mine.mean - mine.base, rel=1e-4) and card["crossing"]["L2-L3"] > 0.8
    theirs = studio.vectors(studio.source("vector:french"), key, setting)[0]
    assert torch.allclose(theirs.v, mine.v, atol=1e-6) and theirs.layer == 3
    carried = studio.vectors(studio.source("vector:french"), LaneKey("a", "transferred"), setting)[0]
    assert carried.v.shape == (bench.pair.a.d_model,)
    with pytest.raises(StitchLensError, match="a vector named 'french'"):
        vector_cards.import_vector(bench, path, "french", "b", 3)
    uploads.keep(bench.workspace, "vectors", "french")
    assert studio.source("vector:french") and "vectors/french" in bench.workspace.shared.names()
    uploads.remove(bench.workspace, "vectors", "french")
    with pytest.raises(StitchLensError, match="no 'vectors/french'"):
        studio.source("vector:french")


def test_each_fault_of_a_vector_is_named(bench: Bench, tmp_path: Path) -> None:
    means = Studio(bench, "L2-L3").means("b").of("fra", 3)
    base, path = means.negative, tmp_path / "v.npy"
    g = torch.Generator().manual_seed(0)
    drawn = torch.randn(base.shape, generator=g)
    drawn = drawn / drawn.norm() * base.norm()
    for fault, v, layer in (
        ("mean", base, 3), ("push", drawn * 100, 3), ("push", drawn / 1000, 3), ("layers", drawn, 1),
    ):  # fmt: skip
        np.save(path, v.numpy())
        vector = vector_cards.open_vector(path, "nano-b", layer)
        assert about(vector_cards.vector_card(bench.workspace, vector, "b")) == {fault}
    np.save(path, drawn.numpy())
    faults: list[tuple[vector_cards.Side | None, int | None, str]] = [
        ("a", 3, "width"),
        ("b", 99, "0 to 5"),
        (None, None, "does not say its model"),
    ]
    for side, layer, says in faults:
        with pytest.raises(StitchLensError, match=says):
            vector_cards.import_vector(bench, path, "bad", side, layer)
    assert "vectors/bad" not in bench.workspace.names()
