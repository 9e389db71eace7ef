"""Maps with a hidden layer: the formula by torch's own layers, least squares by numpy, and gains
where there is something bent to gain, alone."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from core.activations.recording import Recording
from core.bench import Bench
from core.config import BuildConfig
from core.errors import StitchLensError
from core.models.pairs import get_pair
from core.stitches import refined_tables
from core.stitches.ceiling import Ceiling, HiddenLayer, fitted, moments_of, straight, unexplained
from core.stitches.fit import fit_moments, quality
from core.stitches.refine import Change
from core.stitches.refined import refine_stitch
from core.stitches.settings import CEILINGS, CeilingConfig, FitConfig, RefineConfig
from core.stitches.stitch import load_stitch
from core.workspace.artifacts import belongings, command
from tests.helpers.documents import parses

SMALL = CeilingConfig(hidden=64, epochs=30, batch=256, lr=1e-2)
Bent = Callable[[Tensor], Tensor]


def recorded(
    folder: Path,
    bent: Bent,
    seed: int = 0,
    n: int = 6000,
) -> Recording:
    """B is an affine map of A, `bent` of it and noise a tenth as large; in three shards."""
    folder.mkdir()
    mixing = torch.Generator().manual_seed(0)
    spread = torch.rand(6, generator=mixing) * 3 + 0.5
    into = torch.randn(6, 4, generator=mixing)
    draws = torch.Generator().manual_seed(seed)
    for shard in range(3):
        z = torch.randn(n // 3, 6, generator=draws)
        noise = 0.1 * torch.randn(n // 3, 4, generator=draws)
        rows = {"h_a": z * spread + 2, "h_b": z @ into + bent(z) + noise - 1}
        save_file(rows, folder / f"shard-{shard:05d}.safetensors")
    return Recording(folder)


def kinks(z: Tensor) -> Tensor:
    return 2 * z[:, :4].abs()


def nothing(z: Tensor) -> Tensor:
    return torch.zeros(len(z), 4)


def drawn_layer() -> HiddenLayer:
    draws = torch.Generator().manual_seed(3)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draws)

    shapes = {"P_up": (6, 4), "b_up": (4,), "P_down": (4, 6), "b_down": (6,)}
    shapes |= {"W_up": (6, 5), "c_up": (5,), "V_up": (5, 4)}
    shapes |= {"W_down": (4, 5), "c_down": (5,), "V_down": (5, 6)}
    return HiddenLayer(
        **{name: some(*shape) for name, shape in shapes.items()},
        means=(some(6), some(4)),
        spreads=(some(6).abs() + 1, some(4).abs() + 1),
        units=(some(6).abs(), some(4).abs()),
    )


@pytest.mark.parametrize("way", ["up", "down"])
def test_the_formula_is_that_of_torchs_own_layers(way: str) -> None:
    maps = drawn_layer()
    here, there = (0, 1) if way == "up" else (1, 0)
    d, e = (6, 4) if way == "up" else (4, 6)
    affine, first, second = nn.Linear(d, e), nn.Linear(d, 5), nn.Linear(5, e, bias=False)
    weights = {
        affine.weight: getattr(maps, f"P_{way}").T,
        affine.bias: getattr(maps, f"b_{way}"),
        first.weight: getattr(maps, f"W_{way}").T,
        first.bias: getattr(maps, f"c_{way}"),
        second.weight: getattr(maps, f"V_{way}").T,
    }
    for parameter, value in weights.items():
        parameter.data.copy_(value)

    h = torch.randn(7, d, generator=torch.Generator().manual_seed(4))
    z = (h - maps.means[here]) / maps.spreads[here]
    with torch.no_grad():
        by_hand = affine(h) + second(nn.GELU()(first(z))) * maps.units[there]
    assert torch.allclose(getattr(maps, way)(h), by_hand, atol=1e-5)

    unchanged = Change(maps)()
    assert torch.equal(unchanged.up(torch.ones(6)), maps.up(torch.ones(6)))


@pytest.mark.parametrize("metric", ["std", "rms"])
def test_before_it_is_fitted_it_is_least_squares(tmp_path: Path, metric: str) -> None:
    recording = recorded(tmp_path / "rows", kinks)
    maps = straight(moments_of(recording), metric, SMALL)  # type: ignore[arg-type]
    rows_a, rows_b = map(torch.cat, zip(*recording.in_order(("h_a", "h_b")), strict=True))
    with_ones = np.hstack([rows_a.numpy(), np.ones((len(rows_a), 1))])
    weights, *_ = np.linalg.lstsq(with_ones, rows_b.numpy(), rcond=None)
    assert np.allclose(maps.up(rows_a).numpy(), with_ones @ weights, atol=1e-3)

    spread = rows_b.std(0, correction=0)
    alike = torch.full_like(spread, float(rows_b.var(0, correction=0).mean().sqrt()))
    assert torch.allclose(maps.units[1], spread if metric == "std" else alike, rtol=1e-4)


def test_a_hidden_layer_gains_what_is_bent_and_nothing_else(tmp_path: Path) -> None:
    for name, bent in (("kinks", kinks), ("nothing", nothing)):
        recording = recorded(tmp_path / f"{name} fit", bent)
        fresh = recorded(tmp_path / f"{name} held out", bent, seed=1)
        start = straight(moments_of(recording), "std", SMALL)
        known = moments_of(fresh)
        before = unexplained(start, fresh, known)["fuv_up"]
        after = unexplained(fitted(start, recording, SMALL), fresh, known)["fuv_up"]
        if bent is kinks:
            assert before > 0.1 and after < 0.1 * before
        else:
            assert after > 0.97 * before


def test_what_is_unexplained_is_what_moments_say_of_a_stitch(tmp_path: Path) -> None:
    recording = recorded(tmp_path / "rows", kinks)
    known = moments_of(recording)
    stitch = fit_moments(known, FitConfig())
    by_moments = quality(stitch, known, "std", 1.0)
    for name, share in unexplained(stitch, recording, known).items():
        assert share == pytest.approx(by_moments[name], rel=1e-4)


@pytest.mark.whole
def test_a_ceiling_stands_beside_the_refined_stitch(
    nano_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STITCHLENS_DTYPE", "float32")
    bench = Bench(get_pair("nano"), BuildConfig(held_out_tokens=300))
    brief = RefineConfig(tokens=1_000, batch=512, positions=2_000)
    refine_stitch(bench, "L2-L3", "L2-L3-brief", brief, controls=False)
    config = CeilingConfig(hidden=128, positions=8_000, epochs=3)
    ceiling = Ceiling(bench, "L2-L3-brief", config)
    ceiling.measure()

    ws = bench.workspace
    record = json.loads(json.dumps(refined_tables.record(ws, "L2-L3-brief"), allow_nan=False))
    assert set(record["starts"]) == {"paired", *CEILINGS}
    for way in ("a_to_b", "b_to_a"):
        fit, refined = (record["starts"][name]["all text"][way] for name in CEILINGS)
        assert fit["unexplained_after"] < fit["unexplained_before"]
        assert refined["unexplained_before"] == fit["unexplained_after"]
        assert refined["loss_before"] == fit["loss_after"] > fit["loss_unpatched"]
        english = record["starts"][CEILINGS[1]]["English"][way]
        assert english["kl_after"] < english["kl_before"]
    assert set(record["starts"][CEILINGS[0]]["English"]) == {"a_to_b", "b_to_a"}

    full = "ceiling/L2-L3-brief"
    made = ws.entry(full).made
    ceiling.measure()
    assert ws.entry(full).made == made, "what is there is not made again"
    words = command("nano", full, ws.entry(full).makers).split()[3:]
    assert words[:4] == ["stitch", "ceiling", "nano", "L2-L3-brief"] and parses(words)
    assert full in belongings(ws.names(), "stitches", "L2-L3-brief")


def test_least_squares_alone_has_no_ceiling(nano_home: Path) -> None:
    bench = Bench(get_pair("nano"), BuildConfig())
    with pytest.raises(StitchLensError, match="stitch refine"):
        Ceiling(bench, "L2-L3", CeilingConfig())
    assert load_stitch(bench.workspace.path("stitches/L2-L3"))
