"""Gemma Scope's params.npz is a JumpReLU SAE by its own formula, and nothing else passes for one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.errors import StitchLensError
from core.saes.sae import read_sae
from core.stitches.transfer import hook_layer

D, WIDTH = 6, 10
SHAPES = {
    "W_enc": (D, WIDTH),
    "W_dec": (WIDTH, D),
    "b_enc": (WIDTH,),
    "b_dec": (D,),
    "threshold": (WIDTH,),
}


def arrays(**changed: Any) -> dict[str, Any]:
    g = np.random.default_rng(3)
    out = {key: g.normal(size=shape).astype(np.float32) for key, shape in SHAPES.items()}
    out["threshold"] = np.abs(out["threshold"])
    return {k: v for k, v in (out | changed).items() if v is not None}


def saved(folder: Path, **changed: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "params.npz", **arrays(**changed))
    return folder / "params.npz"


def test_it_computes_what_its_paper_says(tmp_path: Path) -> None:
    w = arrays()
    rows = np.random.default_rng(5).normal(size=(200, D)).astype(np.float32)
    before = rows @ w["W_enc"] + w["b_enc"]
    active = np.where(before > w["threshold"], np.maximum(before, 0), 0)
    assert 0.1 < (active > 0).mean() < 0.5
    assert (np.maximum(before, 0) != active).any(), "some that a ReLU would let pass do not"

    for path in (saved(tmp_path), tmp_path):
        sae = read_sae(path, D)
        h = torch.from_numpy(rows)
        np.testing.assert_allclose(sae.encode(h).numpy(), active, rtol=1e-5, atol=1e-5)
        recovered = active @ w["W_dec"] + w["b_dec"]
        np.testing.assert_allclose(sae(h).numpy(), recovered, rtol=1e-4, atol=1e-4)


def test_its_layer_is_that_of_its_folders(tmp_path: Path) -> None:
    """`layer_20` reads behind block 20: before layer 21."""
    deep = tmp_path / "gemma-scope-2b-pt-res" / "layer_20" / "width_16k" / "average_l0_71"
    assert hook_layer(read_sae(saved(deep))) == 21
    assert hook_layer(read_sae(saved(tmp_path / "plain"))) is None
    with pytest.raises(StitchLensError, match="gemma-scope-2b-pt-mlp"):
        read_sae(saved(tmp_path / "gemma-scope-2b-pt-mlp" / "layer_20"))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"threshold": None}, "W_dec, W_enc, b_dec, b_enc in params.npz"),
        ({"other": np.ones(3)}, "other"),
        ({"b_enc": np.ones(3)}, r"b_enc \(3,\)"),
        ({"W_enc": np.ones(3)}, r"W_enc \(3,\)"),
        ({"b_dec": np.array([{}] * D)}, "pickled objects"),
        ({"b_dec": np.full(D, 1e300)}, "NaN or infinite numbers in b_dec"),
        ({"b_dec": np.array(["x"] * D)}, "real numbers"),
        ({"W_dec": np.ones((0, D))}, "widths above 0"),
    ],
)
def test_what_is_none_is_refused(changed: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(StitchLensError, match=says):
        read_sae(saved(tmp_path, **changed))


def test_a_cut_or_changed_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StitchLensError, match="no zip"):
        read_sae(path)

    damaged = bytearray(whole)
    at = whole.index(arrays()["b_dec"].tobytes())
    damaged[at] ^= 1
    path.write_bytes(bytes(damaged))
    with pytest.raises(StitchLensError, match="no readable array b_dec"):
        read_sae(path)
