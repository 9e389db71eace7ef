"""Report cards of SAEs and vectors that others made: a good one gets none, each fault the warning
that names it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import SAE, SAETrainer, StandardTrainingSAE, StandardTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from typer.testing import CliRunner

from core.activations import sample as activation_sample
from core.bench import Bench, open_pair
from core.cli.main import app
from core.errors import StitchLensError
from core.models.pairs import PAIRS
from core.saes import card as sae_card
from core.saes.sae import sae_of
from core.steering import card as steering_card
from core.steering.files import EXPORTS, export, open_vector
from core.steering.keys import LaneKey
from core.steering.settings import Setting
from core.steering.sources import source_from
from core.steering.studio import Studio
from core.steering.vectors import Vector
from core.stitches.stitch import load_stitch
from core.stitches.transfer import at_rest
from core.workspace import uploads

SHIPPED = "L2-1024"


@pytest.fixture(scope="module")
def bench(nano_home: Path) -> Bench:
    return open_pair("nano", private=nano_home.parent / "me")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation_sample, "POSITIONS", 1200)
    monkeypatch.setattr(sae_card, "DOCUMENTS", 6)


def folder(
    bench: Bench, to: Path, factor: float = 1.0, hook: str | None = None, noise: int = 0
) -> str:
    """The shipped SAE as somebody else's, perhaps made for other activations, of another layer, or
    drawn at random."""
    path = bench.workspace.path(f"saes/{SHIPPED}")
    sae = SAE.load_from_disk(path, dtype="float32").requires_grad_(False)
    if noise:
        for weight in (sae.W_enc.data, sae.W_dec.data):
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) / 30)
    sae.load_state_dict(
        {k: v * factor if k.startswith("b_") else v for k, v in sae.state_dict().items()}
    )
    if hook:
        sae.cfg.metadata.hook_name = hook
    sae.save_model(to / "theirs")
    return str(to / "theirs")


def about(card: dict[str, object]) -> set[str]:
    return {w["about"] for w in card["warnings"]}  # type: ignore[index, attr-defined]


def test_a_good_sae_gets_its_figures_and_table_2(bench: Bench, tmp_path: Path) -> None:
    name, card = sae_card.import_sae(bench, folder(bench, tmp_path), name="good")
    assert about(card) == set() and (card["layer"], card["d_sae"], card["stitch"]) == (
        2,
        1024,
        "L2-L3",
    )
    known = bench.workspace.table(f"sae_quality/{SHIPPED}").set_index("name")
    assert card["explained_variance"] == pytest.approx(
        known.explained_variance["original"], abs=0.05
    )
    loss = {row["name"]: row["explained_variance"] for row in card["table_2"]}
    assert (
        loss["original"] > loss["transferred"] > loss["shuffled-pair stitch"]
        and loss["random SAE"] < 0.1
    )
    assert min(card["by_layer"], key=lambda k: card["by_layer"][k]) == "2"
    assert json.loads(json.dumps(bench.workspace.record("sae_cards/good"))) == sae_card._plain(card)
    assert {f"saes/{name}", "sae_cards/good"} <= set(bench.workspace.own()), (
        "private to whoever brought it"
    )
    assert f"saes/{name}" not in bench.workspace.shared.names()
    assert [(one.kind, one.name) for one in uploads.brought(bench.workspace)] == [("saes", "good")]
    with pytest.raises(StitchLensError, match="an SAE named 'good'"):
        sae_card.import_sae(bench, folder(bench, tmp_path), name="good")
    uploads.remove(bench.workspace, "saes", "good")


@pytest.mark.parametrize("fault", ["layers", "normalised", "control"])
def test_each_fault_of_an_sae_is_named(bench: Bench, tmp_path: Path, fault: str) -> None:
    sample = activation_sample.read_sample(bench.a, bench.b, bench.corpus.split("held-out"), 400)
    scale = bench.pair.a.d_model**0.5 / float(sample.h_a[2].norm(dim=-1).mean())
    changes = {
        "layers": {"hook": "blocks.0.hook_resid_pre"},
        "normalised": {"factor": scale},
        "control": {"noise": 1},
    }
    ref = folder(bench, tmp_path, **changes[fault])  # type: ignore[arg-type]
    card = sae_card.sae_card(bench, *sae_of(bench, ref), None)
    assert fault in about(card) and about(card) <= {fault, "dead"}, card["warnings"]
    assert "table_2" not in card


def rows_before(bench: Bench, layer: int) -> torch.Tensor:
    """Held-out rows of A, without those of outlier norm."""
    rows = activation_sample.read_sample(
        bench.a, bench.b, bench.corpus.split("held-out"), 3000
    ).h_a[layer]
    return rows[rows.norm(dim=-1) <= 10 * rows.norm(dim=-1).median()]


def unfolded(bench: Bench, to: Path, scale: float) -> str:
    """The shipped SAE as its training would have left it on rows that were multiplied by
    `scale`."""
    sae = SAE.load_from_disk(
        bench.workspace.path(f"saes/{SHIPPED}"), dtype="float32"
    ).requires_grad_(False)
    sae.fold_activation_norm_scaling_factor(1 / scale)
    sae.cfg.normalize_activations = "expected_average_only_in"
    sae.save_model(to / "theirs")
    return str(to / "theirs")


def test_the_factor_of_an_average_norm_is_estimated_or_given(bench: Bench, tmp_path: Path) -> None:
    rows = rows_before(bench, 2)
    scale = bench.pair.a.d_model**0.5 / float(rows.norm(dim=-1).mean())
    ref = unfolded(bench, tmp_path, scale)
    plain = SAE.load_from_disk(bench.workspace.path(f"saes/{SHIPPED}"), dtype="float32")
    left = SAE.load_from_disk(ref)
    assert activation_sample.fuv(left(rows), rows) > 1.3 * activation_sample.fuv(
        plain(rows), rows
    ), "else it proves nothing"

    _, card = sae_card.import_sae(bench, ref, name="estimated")
    known = bench.workspace.table(f"sae_quality/{SHIPPED}").set_index("name")
    assert card["explained_variance"] == pytest.approx(
        known.explained_variance["original"], abs=0.05
    )
    assert (
        card["scale"] == pytest.approx(scale, rel=0.05)
        and "held-out rows of nano-a" in card["scale_from"]
    )
    assert card["normalised"] == "expected_average_only_in" and about(card) == set()
    assert f"scaled by {card['scale']:.4g}" in sae_card.as_text("estimated", card)
    assert {row["name"] for row in card["table_2"]} >= {"original", "transferred"}

    sae, _ = sae_of(bench, ref, scale=scale)
    assert all(
        torch.allclose(w, plain.state_dict()[k], atol=1e-5) for k, w in sae.state_dict().items()
    )
    said = sae.cfg.metadata
    assert (said["norm_scaling_factor"], said["norm_scaling_factor_from"]) == (scale, "as given")
    for bad in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(StitchLensError, match="above 0"):
            sae_of(bench, ref, scale=bad)
    uploads.remove(bench.workspace, "saes", "estimated")


def test_every_command_takes_the_factor(bench: Bench, tmp_path: Path) -> None:
    ref, out = unfolded(bench, tmp_path, 1.4), tmp_path / "out"
    done = CliRunner().invoke(
        app,
        [
            "sae",
            "transfer",
            "nano",
            "--sae",
            ref,
            "--stitch",
            "L2-L3",
            "--scale",
            "1.4",
            "--out",
            str(out),
        ],
    )
    assert done.exit_code == 0 and "scaled by 1.4 (as given)" in done.stderr, done.output
    plain = SAE.load_from_disk(bench.workspace.path(f"saes/{SHIPPED}"), dtype="float32")
    stitch = load_stitch(bench.workspace.path("stitches/L2-L3"))
    x = torch.randn(20, 256, generator=torch.Generator().manual_seed(0)) * 3
    with torch.no_grad():
        assert torch.allclose(
            SAE.load_from_disk(out)(x), stitch.up(plain(stitch.down(x))), rtol=1e-3, atol=1e-3
        )
    done = CliRunner().invoke(app, ["features", "build", "nano", "--scale", "2"])
    assert done.exit_code == 2 and "without --sae" in done.stderr
    sae = SAE.load_from_disk(ref)
    sae.cfg.normalize_activations = "layer_norm"
    sae.save_model(tmp_path / "each")
    done = CliRunner().invoke(
        app,
        [
            "sae",
            "eval",
            "nano",
            "--sae",
            str(tmp_path / "each"),
            "--stitch",
            "L2-L3",
            "--scale",
            "2",
        ],
    )
    assert done.exit_code == 2 and "layer_norm" in done.stderr


def shrunken(bench: Bench, rows: torch.Tensor, threshold: float) -> "SAE[Any]":
    """The shipped SAE as an L1 penalty would have it: each activation less by a threshold, and a
    decoder bias that takes up the mean of what is lost, at which the loss is at its least."""
    plain = SAE.load_from_disk(
        bench.workspace.path(f"saes/{SHIPPED}"), dtype="float32"
    ).requires_grad_(False)
    d_sae = plain.cfg.d_sae
    sae = SAE.from_dict(
        {
            "architecture": "standard",
            "d_in": 128,
            "d_sae": d_sae,
            "apply_b_dec_to_input": False,
            "metadata": {"hook_name": "blocks.2.hook_resid_pre", "model_name": "nano-a"},
        }
    )
    shift = plain.b_dec @ plain.W_enc
    weights = {
        "W_enc": plain.W_enc,
        "W_dec": plain.W_dec,
        "b_enc": plain.state_dict()["b_enc"] - shift - threshold,
    }
    sae.load_state_dict(weights | {"b_dec": plain.b_dec})
    with torch.no_grad():
        sae.b_dec.add_((rows - sae(rows)).mean(0))
    return sae.requires_grad_(False)


def test_an_l1_penalty_is_no_normalisation_and_a_normalisation_is_one(
    bench: Bench, tmp_path: Path
) -> None:
    rows = rows_before(bench, 2)
    scale = bench.pair.a.d_model**0.5 / float(rows.norm(dim=-1).mean())
    sae = shrunken(bench, rows, 0.8)
    plain, larger = (activation_sample.fuv(sae(rows * s) / s, rows) for s in (1.0, scale))
    assert larger < 0.8 * plain < 0.8, "shrinkage alone makes larger rows do better"
    assert "normalised" not in about(sae_card.sae_card(bench, sae, 2, None))

    sae.fold_activation_norm_scaling_factor(1 / scale)
    card = sae_card.sae_card(bench, sae, 2, None)
    assert "normalised" in about(card)
    sae.save_model(tmp_path / "theirs")
    (says,) = [w["says"] for w in card["warnings"] if w["about"] == "normalised"]
    given = float(says.split("--scale ")[1].split(",")[0])
    mended, _ = sae_of(bench, str(tmp_path / "theirs"), scale=given)
    assert "normalised" not in about(sae_card.sae_card(bench, mended, 2, None)), "its advice works"


@pytest.mark.parametrize("normalised", [False, True])
def test_a_trained_l1_sae_is_told_from_a_normalised_one(bench: Bench, normalised: bool) -> None:
    rows = rows_before(bench, 2)
    scale = 3.0 if normalised else 1.0
    torch.manual_seed(0)
    config = StandardTrainingSAEConfig(d_in=128, d_sae=256, l1_coefficient=2.0)
    setup = SAETrainerConfig(
        total_training_samples=256_000,
        train_batch_size_samples=512,
        lr=2e-3,
        lr_end=2e-3,
        autocast=False,
    )
    trainer = SAETrainer(setup, StandardTrainingSAE(config), iter([]))
    for _ in range(500):
        trainer.step(rows[torch.randint(0, len(rows), (512,))] * scale)
        trainer.n_training_steps += 1
    sae = at_rest(trainer.sae)
    by_factor = {s: sae_card.offset(sae(rows * s) / s, rows) for s in (1.0, 3.0)}
    assert by_factor[scale] < 0.3 * by_factor[4.0 - scale]


def test_refusals_leave_nothing(bench: Bench, tmp_path: Path) -> None:
    ref = folder(bench, tmp_path)
    with pytest.raises(StitchLensError, match="stitch 'L3-L4'; wanted one from layer 2 of A"):
        sae_card.import_sae(bench, ref, name="x", stitch_name="L3-L4")
    path = tmp_path / "theirs" / "cfg.json"
    config = json.loads(path.read_text())
    config["metadata"].pop("hook_name")
    path.write_text(json.dumps(config))
    with pytest.raises(StitchLensError, match="does not say its layer"):
        sae_card.import_sae(bench, ref, name="x")
    assert bench.workspace.own() == {}


def test_the_command_takes_a_good_sae(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STITCHLENS_PRIVATE", str(tmp_path / "other"))
    done = CliRunner().invoke(app, ["sae", "import", "nano", folder(bench, tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    assert (
        json.loads(done.stdout)["name"] == "theirs" and "saes/theirs" not in bench.workspace.names()
    )


def test_a_vector_that_was_brought_steers_like_the_one_it_was(bench: Bench, tmp_path: Path) -> None:
    studio = Studio(bench, "L2-L3")
    key, setting = LaneKey("b", "own"), Setting()
    mine = studio.vectors(studio.directions(source_from("lang:fr")), key, setting)[0]
    path = tmp_path / "french.npy"
    np.save(path, (mine.v * (mine.mean - mine.base)).numpy())
    card = steering_card.import_vector(bench, path, "french", "b", 3)
    assert about(card) == set() and card["nearest"][0][0] == "fr" and card["nearest"][0][1] > 0.99
    assert (
        card["push"] == pytest.approx(mine.mean - mine.base, rel=1e-4)
        and card["crossing"]["L2-L3"] > 0.8
    )
    theirs = studio.vectors(studio.directions(source_from("vector:french")), key, setting)[0]
    assert torch.allclose(theirs.v, mine.v, atol=1e-6) and theirs.layer == 3
    carried = studio.vectors(
        studio.directions(source_from("vector:french")), LaneKey("a", "transferred"), setting
    )[0]
    assert carried.v.shape == (bench.pair.a.d_model,)
    with pytest.raises(StitchLensError, match="a vector named 'french'"):
        steering_card.import_vector(bench, path, "french", "b", 3)
    uploads.keep(bench.workspace, "vectors", "french")
    assert (
        studio.directions(source_from("vector:french"))
        and "vectors/french" in bench.workspace.shared.names()
    )
    uploads.remove(bench.workspace, "vectors", "french")
    with pytest.raises(StitchLensError, match="no 'vectors/french'"):
        studio.directions(source_from("vector:french"))


def test_each_fault_of_a_vector_is_named(bench: Bench, tmp_path: Path) -> None:
    means = Studio(bench, "L2-L3").means("b").of("fra", 3)
    base, path = means.negative, tmp_path / "v.npy"
    g = torch.Generator().manual_seed(0)
    drawn = torch.randn(base.shape, generator=g)
    drawn = drawn / drawn.norm() * base.norm()
    for fault, v, layer in (
        ("mean", base, 3),
        ("push", drawn * 100, 3),
        ("push", drawn / 1000, 3),
        ("layers", drawn, 1),
    ):
        np.save(path, v.numpy())
        vector = steering_card.open_vector(path, "nano-b", layer)
        assert about(steering_card.vector_card(bench.workspace, vector, "b")) == {fault}
    np.save(path, drawn.numpy())
    faults: list[tuple[steering_card.Side | None, int | None, str]] = [
        ("a", 3, "width"),
        ("b", 99, "0 to 5"),
        (None, None, "does not say its model"),
    ]
    for side, layer, says in faults:
        with pytest.raises(StitchLensError, match=says):
            steering_card.import_vector(bench, path, "bad", side, layer)
    assert "vectors/bad" not in bench.workspace.names()


def test_what_is_exported_reads_back_to_the_same_push(bench: Bench, tmp_path: Path) -> None:
    """Of each kind of lane and in each format, by itself, without a word on side or layer."""
    studio, setting = Studio(bench, "L2-L3"), Setting()
    source = studio.directions(source_from("lang:fr"))
    for number, key in enumerate(LaneKey("b", kind) for kind in ("own", "transferred", "random")):
        (vector,) = studio.vectors(source, key, setting)
        for ending in EXPORTS:
            path = tmp_path / f"v{number}{ending}"
            export(vector, studio.spec("b"), "French", path)
            found = open_vector(path)
            assert steering_card.home(bench.pair, found) == "b" and found.layer == 3
            push, wanted = (
                found.v * (found.mean - found.base),
                vector.v * (vector.mean - vector.base),
            )
            assert torch.allclose(push, wanted, rtol=1e-4, atol=1e-5 * float(wanted.norm())), ending


def test_a_side_or_layer_beside_a_file_that_says_another_is_not_passed_over(
    bench: Bench, tmp_path: Path
) -> None:
    studio = Studio(bench, "L2-L3")
    (vector,) = studio.vectors(
        studio.directions(source_from("lang:fr")), LaneKey("b", "own"), Setting()
    )
    for ending in EXPORTS:
        path = tmp_path / f"v{ending}"
        export(vector, studio.spec("b"), "French", path)
        with pytest.raises(StitchLensError, match="before layer 3, none before 4"):
            steering_card.import_vector(bench, path, "x", "b", 4)
        with pytest.raises(StitchLensError, match="a vector of nano-b; wanted one of nano-a"):
            steering_card.import_vector(bench, path, "x", "a", 3)
    done = CliRunner().invoke(
        app, ["vector", "import", "nano", str(tmp_path / "v.json"), "--layer", "5"]
    )
    assert done.exit_code == 2 and "none before 5" in done.stderr
    assert "vectors/x" not in bench.workspace.names()


def test_a_vector_on_file_acts_before_its_own_layer(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "v.npy"
    np.save(path, np.ones(256))
    source = f"file:{path}@b:3"
    studio, setting = Studio(bench, "L3-L4"), Setting()
    (own,) = studio.vectors(studio.directions(source_from(source)), LaneKey("b", "own"), setting)
    assert own.layer == 3, "not the stitch's, 4"
    (chosen,) = studio.vectors(
        studio.directions(source_from(source)), LaneKey("b", "own"), Setting(layers_b=(5, 5))
    )
    assert chosen.layer == 5
    with pytest.raises(StitchLensError, match="a vector before layer 3 of B, stitch L3-L4 at 4"):
        studio.vectors(studio.directions(source_from(source)), LaneKey("a", "transferred"), setting)
    assert Studio(bench, "L2-L3").vectors(
        studio.directions(source_from(source)), LaneKey("a", "transferred"), setting
    )


def test_a_vector_of_gpt2_small_is_one_of_gpt2() -> None:
    pair = PAIRS["gpt2-small-medium"]
    v = torch.ones(768) / 768**0.5
    for name in ("gpt2-small", "gpt2", "openai-community/gpt2"):
        assert steering_card.home(pair, Vector(6, v, 1.0, 0.0, {"model": name})) == "a"
    with pytest.raises(StitchLensError, match="--side a or --side b"):
        steering_card.home(pair, Vector(6, v, 1.0, 0.0, {"model": "gpt_neox"}))
