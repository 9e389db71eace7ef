"""A foreign stitch gets the card of the same weights in our format, and each fault the warning that
names it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from core.activations import sample as activation_sample
from core.activations.sample import read_sample
from core.bench import Bench, open_pair
from core.cli.main import app
from core.errors import StitchLensError
from core.models.pairs import LayerPair
from core.steering.keys import LaneKey
from core.steering.settings import Setting
from core.steering.sources import Language
from core.steering.studio import Studio
from core.stitches import card as stitch_card
from core.stitches.card import effective_rank, fits, import_stitch, warnings
from core.stitches.measure import remove_stitch
from core.stitches.recognition import recognise
from core.stitches.stitch import load_stitch
from core.workspace.store import Workspace

LAYERS = LayerPair(a=2, b=3)


@pytest.fixture(scope="module")
def bench(nano_home: Path) -> Bench:
    return open_pair("nano")


@pytest.fixture
def weights(bench: Bench) -> dict[str, torch.Tensor]:
    """The shipped stitch as two nn.Linear layers."""
    s = load_stitch(bench.workspace.path("stitches/L2-L3"))
    return {
        "up.weight": s.P_up.T.contiguous(),
        "up.bias": s.b_up,
        "down.weight": s.P_down.T.contiguous(),
        "down.bias": s.b_down,
    }


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation_sample, "POSITIONS", 1500)
    monkeypatch.setattr(stitch_card, "DOCUMENTS", 8)


Card = Callable[..., dict[str, Any]]


@pytest.fixture
def card(bench: Bench, tmp_path: Path) -> Card:
    def make(
        tensors: dict[str, torch.Tensor], layers: LayerPair = LAYERS, name: str = "theirs"
    ) -> dict[str, Any]:
        torch.save(tensors, tmp_path / f"{name}.pt")
        try:
            return import_stitch(bench, tmp_path / f"{name}.pt", layers, name)
        finally:
            if f"stitches/{name}" in bench.workspace.names():
                remove_stitch(bench.workspace, name)

    return make


def about(card: dict[str, Any]) -> set[str]:
    return {w["about"] for w in card["warnings"]}


def test_good_weights_get_our_figures_and_no_warning(
    bench: Bench, weights: dict[str, torch.Tensor], card: Card
) -> None:
    found = card(weights)
    assert about(found) == set() and found["ways"] == ["up", "down"]
    assert (
        found["distance_up"] == found["distance_down"] == 0 and found["ours"] == "of the workspace"
    )
    ours = bench.workspace.record("quality/L2-L3")
    for key in ("fuv_up", "fuv_down"):
        assert found[key] == pytest.approx(ours[key], rel=0.2), "on a sample of the same split"
    loss = {row["condition"]: row["relative"] for row in found["table_1"]}
    assert loss["a_to_b"] < 0.5 * loss["shuffled_a_to_b"] and abs(loss["a_to_b_to_a"]) < 0.02
    assert 1 < found["rank_up"] <= 128
    apart = pd.DataFrame(found["by_kind"]).query("condition == 'a_to_b'")
    assert apart.kind.is_unique and apart.documents.sum() == found["table_1"][0]["documents"]
    assert apart.relative.min() < loss["a_to_b"] < apart.relative.max()
    assert apart.share_patched.between(0.9, 1).all()


def test_each_fault_is_named(bench: Bench, weights: dict[str, torch.Tensor]) -> None:
    sample = read_sample(bench.a, bench.b, bench.corpus.split("held-out"), 1500)

    def said(
        tensors: dict[str, torch.Tensor], layers: LayerPair = LAYERS
    ) -> dict[str, dict[str, str]]:
        found, _ = warnings(recognise(tensors, 128, 256), sample, layers)
        return {w["about"]: w for w in found}

    assert said(weights) == {}
    assert set(
        said({"up.weight": weights["down.weight"], "down.weight": weights["up.weight"]})
    ) == {"transposed"}
    wrong = said(weights, LayerPair(a=0, b=5))
    assert set(wrong) == {"layers"} and "before layer" in wrong["layers"]["says"]
    g = torch.Generator().manual_seed(0)
    assert set(
        said({k: torch.randn(v.shape, generator=g) * v.std() for k, v in weights.items()})
    ) == {"control"}
    scaled = said(
        weights | {"up.weight": weights["up.weight"] / 40, "up.bias": weights["up.bias"] / 40}
    )
    assert set(scaled) == {"normalised"} and scaled["normalised"]["way"] == "up"
    assert re.search(r" 0\.0[23]\d* times", scaled["normalised"]["says"])


@pytest.mark.parametrize("way", ["up", "down"])
def test_activations_judge_what_a_lone_matrix_is(
    way: str, weights: dict[str, torch.Tensor], card: Card
) -> None:
    """nn.Linear(bias=False) under the name `weight`: its widths fit the other way round as well."""
    found = card({"weight": weights[f"{way}.weight"]}, name="lone")
    assert found["ways"] == [way] and found[f"distance_{way}"] < 1e-6
    assert "[out, in]" in found["layout"]["weight"] and "2 readings" in found["reading"]
    assert about(found) == {"offset"} and "lacks its bias" in found["warnings"][0]["says"]


def test_folded_parts_get_the_figures_of_the_whole_map(
    bench: Bench, weights: dict[str, torch.Tensor], card: Card
) -> None:
    """Standardised streams and a factor: the same map in pieces has the same card."""
    g = torch.Generator().manual_seed(0)
    mean, std, scale = torch.randn(128, generator=g), torch.rand(128, generator=g) + 0.5, 0.01
    p, bias = weights["up.weight"].T, weights["up.bias"]
    pieces = {
        "up.weight": (std[:, None] * p / scale).T.contiguous(),
        "up.bias": (bias + mean @ p) / scale,
        "up.scale": torch.full((256,), scale),
        "mean_a": mean,
        "std_a": std,
        "losses": torch.rand(500, generator=g),
    }
    found = card(pieces, name="pieces")
    assert found["distance_up"] < 1e-3 and about(found) == set()
    assert found["fuv_up"] == pytest.approx(card(weights)["fuv_up"], abs=1e-3)
    assert set(found["layout"]) == set(pieces) and "not used" in found["layout"]["losses"]


def test_one_way_is_measured_and_steers(
    bench: Bench, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save({k: v for k, v in weights.items() if k.startswith("up")}, tmp_path / "up.pt")
    found = import_stitch(bench, tmp_path / "up.pt", LAYERS, "one-way")
    assert found["ways"] == ["up"] and about(found) == set() and "fuv_down" not in found
    conditions = {row["condition"] for row in found["table_1"]}
    assert "a_to_b" in conditions and not {"b_to_a", "a_to_b_to_a", "b_to_a_to_b"} & conditions
    studio = Studio(bench, "one-way")
    (vector,) = studio.vectors(
        studio.directions(Language("fr")), LaneKey("b", "transferred"), Setting()
    )
    (ours,) = Studio(bench, "L2-L3").vectors(
        studio.directions(Language("fr")), LaneKey("b", "transferred"), Setting()
    )
    assert torch.allclose(vector.v, ours.v, atol=1e-5)
    with pytest.raises(StitchLensError, match="no length"):
        studio.vectors(studio.directions(Language("fr")), LaneKey("a", "transferred"), Setting())
    remove_stitch(bench.workspace, "one-way")
    assert not [n for n in bench.workspace.names() if n.endswith("/one-way")]


def test_the_command_takes_what_a_plain_torch_script_saved(bench: Bench, tmp_path: Path) -> None:
    """Trained on rows of both models with nothing but torch, saved the ordinary way."""
    sample = read_sample(bench.a, bench.b, bench.corpus.split("fit"), 4000)
    x, y = sample.h_a[2], sample.h_b[3]
    torch.manual_seed(0)
    module = torch.nn.ModuleDict(
        {"a_to_b": torch.nn.Linear(128, 256), "b_to_a": torch.nn.Linear(256, 128)}
    )
    optimiser = torch.optim.Adam(module.parameters(), lr=3e-3)
    for _ in range(150):
        there, back = module["a_to_b"](x), module["b_to_a"](y)
        loss = (there - y).pow(2).mean() + (back - x).pow(2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.save(module.state_dict(), tmp_path / "mine.pt")
    command = [
        "stitch",
        "import",
        "nano",
        str(tmp_path / "mine.pt"),
        "--layer-a",
        "2",
        "--layer-b",
        "3",
        "--json",
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["warnings"] == [] and found["fuv_up"] < 0.9
    assert "stitches/mine" in Workspace("nano").names()
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2 and "a stitch named 'mine'" in again.stderr
    remove_stitch(Workspace("nano"), "mine")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--layer-a", "9", "--layer-b", "3"), "layer 9"),
        (("--layer-a", "2", "--layer-b", "-1"), "layer -1"),
        (("--layer-a", "2", "--layer-b", "3", "--name", "../x"), "choose another"),
        (("--layer-a", "2", "--layer-b", "3", "--orientation", "wide"), "linear or paper"),
        (("--layer-a", "2", "--layer-b", "3"), "no matrix between widths 128 and 256"),
    ],
)
def test_the_command_refuses_in_a_sentence(
    bench: Bench, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    torch.save({"up.weight": torch.zeros(4, 5)}, tmp_path / "x.pt")
    done = CliRunner().invoke(app, ["stitch", "import", "nano", str(tmp_path / "x.pt"), *options])
    assert done.exit_code == 2 and says in done.stderr and done.stderr.startswith("Found "), (
        done.output
    )
    assert not [n for n in bench.workspace.names() if n.endswith("/x")]


def test_ranks_and_fits_have_known_values() -> None:
    assert effective_rank(torch.eye(7)) == pytest.approx(7)
    assert effective_rank(torch.outer(torch.ones(4), torch.ones(9))) == pytest.approx(1, abs=1e-4)
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    found = fits(torch.eye(4), torch.zeros(4), {0: x, 1: 2 * x}, {0: x}).set_index("source")
    assert found.fuv.to_dict() == pytest.approx({0: 0, 1: 1}, abs=0.02)
    assert found.rescaled[1] == pytest.approx(0, abs=1e-6) and found.factor[1] == pytest.approx(0.5)
