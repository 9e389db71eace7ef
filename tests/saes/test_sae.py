"""A trained SAE finds planted features; its measures are those of a dense reference; controls do
worse."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sae_lens import SAE
from safetensors.torch import save_file

from core.activations.recording import Recording
from core.errors import StitchLensError
from core.saes.sae import load_sae, random_sae, reconstruction, sae_hash
from core.saes.settings import SaeConfig
from core.saes.train import train_sae

D, FEATURES, K = 24, 40, 3
CONFIG = SaeConfig(width=64, k=K, epochs=25, lr=3e-3, batch=256)


def planted(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows [n, D], directions [FEATURES, D]): K of FEATURES unit directions a row, on a mean that
    is not zero."""
    directions = torch.nn.functional.normalize(
        torch.randn(FEATURES, D, generator=torch.Generator().manual_seed(9))
    )
    g = np.random.default_rng(seed)
    acts = torch.zeros(n, FEATURES)
    on = np.argsort(g.random((n, FEATURES)), axis=1)[:, :K]
    acts.scatter_(1, torch.from_numpy(on), torch.from_numpy(g.uniform(1, 2, (n, K))).float())
    return 20 * (acts @ directions + 3), directions


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SAE:  # type: ignore[type-arg]
    folder = tmp_path_factory.mktemp("rows")
    for k in range(4):
        save_file({"h": planted(2000, k)[0]}, folder / f"shard-{k:05d}.safetensors")
    return train_sae(Recording(folder), "h", CONFIG, {"hook_name": "blocks.1.hook_resid_pre"})


def test_planted_features_are_found(trained: SAE) -> None:  # type: ignore[type-arg]
    rows, directions = planted(1000, 77)
    found = reconstruction(trained, rows.split(300))
    assert found["explained_variance"] > 0.8
    assert found["l0"] <= K
    control = reconstruction(random_sae(trained), rows.split(300))
    assert control["explained_variance"] < found["explained_variance"] - 0.3
    nearest = (directions @ trained.W_dec.T).max(1).values
    assert float((nearest > 0.9).float().mean()) > 0.7
    assert torch.allclose(trained.W_dec.norm(dim=-1), torch.ones(64), atol=1e-4)
    assert trained.cfg.normalize_activations == "none"
    assert trained.cfg.metadata["hook_name"] == "blocks.1.hook_resid_pre"


def test_measures_are_those_of_a_dense_reference(trained: SAE) -> None:  # type: ignore[type-arg]
    rows, _ = planted(500, 5)
    found = reconstruction(trained, rows.split(77))
    with torch.no_grad():
        acts = trained.encode(rows)
        back = trained(rows)
    fuv = float((rows - back).pow(2).sum() / (rows - rows.mean(0)).pow(2).sum())
    assert found["fuv"] == pytest.approx(fuv, rel=1e-4)
    assert found["explained_variance"] == pytest.approx(1 - fuv, rel=1e-4)
    assert found["l0"] == pytest.approx(float((acts > 0).sum(1).float().mean()))
    assert found["frac_alive"] == pytest.approx(float((acts > 0).any(0).float().mean()))
    assert found["cossim"] == pytest.approx(
        float(torch.cosine_similarity(rows, back).mean()), rel=1e-5
    )
    assert found["l2_ratio"] == pytest.approx(
        float((back.norm(dim=1) / rows.norm(dim=1)).mean()), rel=1e-5
    )
    with pytest.raises(StitchLensError, match="no rows"):
        reconstruction(trained, [])


def test_it_is_an_ordinary_saelens_folder(trained: SAE, tmp_path: Path) -> None:  # type: ignore[type-arg]
    trained.save_model(tmp_path / "mine")
    again = load_sae(tmp_path / "mine", D)
    assert sae_hash(again) == sae_hash(trained) != sae_hash(random_sae(trained))
    with pytest.raises(StitchLensError, match="width 24"):
        load_sae(tmp_path / "mine", 25)
    (tmp_path / "mine" / "cfg.json").write_text("{")
    with pytest.raises(StitchLensError, match="does not open"):
        load_sae(tmp_path / "mine")
    with pytest.raises(StitchLensError, match="does not open"):
        load_sae(tmp_path / "nowhere")


def test_too_little_text_is_said(tmp_path: Path) -> None:
    save_file({"h": torch.randn(10, D)}, tmp_path / "shard-00000.safetensors")
    with pytest.raises(StitchLensError, match="10 positions"):
        train_sae(Recording(tmp_path), "h", CONFIG, {})
