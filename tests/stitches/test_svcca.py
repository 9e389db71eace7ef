"""SVCCA scores what it should: the same subspace 1, unrelated ones about chance, and SciPy's angles
in between."""

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from core.stitches.svcca import basis, best_layer, layer_scores, svcca
from core.text.corpus import Corpus
from tests.helpers.small import Tiny


def normal(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_a_basis_is_orthonormal_and_holds_its_share() -> None:
    h = normal(500, 12, 0) * torch.logspace(0, -3, 12) + 5
    u = basis(h, 0.99)
    assert torch.allclose(u.T @ u, torch.eye(u.shape[1]), atol=1e-4)
    assert torch.allclose(u.mean(0), torch.zeros(u.shape[1]), atol=1e-4)
    values = np.linalg.svd((h - h.mean(0)).double().numpy(), compute_uv=False) ** 2
    share = values.cumsum() / values.sum()
    assert u.shape[1] == int(np.argmax(share >= 0.99)) + 1 < 12


def test_an_invertible_affine_image_scores_one() -> None:
    x = normal(400, 6, 1)
    y = x @ (normal(6, 6, 2) + 3 * torch.eye(6)) + 7
    assert svcca(basis(x, 0.999999), basis(y, 0.999999)) == pytest.approx(1, abs=1e-4)


def test_unrelated_streams_score_about_chance() -> None:
    n, k = 4000, 10
    score = svcca(basis(normal(n, k, 3), 0.999), basis(normal(n, k, 4), 0.999))
    assert score < 1.5 * (k / n) ** 0.5
    related = svcca(basis(normal(n, k, 3), 0.999), basis(normal(n, k, 3) + normal(n, k, 4), 0.999))
    assert related == pytest.approx(0.5**0.5, abs=0.05), "signal and noise of one variance"


def test_it_is_the_mean_cosine_of_scipys_angles() -> None:
    u, v = (basis(normal(300, k, seed) @ normal(k, 8, 9), 0.9999) for k, seed in ((5, 5), (8, 6)))
    angles = subspace_angles(u.double().numpy(), v.double().numpy())
    assert svcca(u, v) == pytest.approx(float(np.cos(angles).mean()), abs=1e-4)
    assert svcca(u, v) == pytest.approx(svcca(v, u), abs=1e-6)


def test_a_model_corresponds_to_itself(tiny: Tiny, english: Corpus) -> None:
    a = tiny("nano-a")
    scores = layer_scores(a, a, english.split("select"), positions=3000)
    assert len(scores) == 16
    same = scores[scores.layer_a == scores.layer_b]
    assert same.svcca.to_numpy() == pytest.approx(1, abs=1e-3)
    assert [best_layer(scores, k) for k in range(3)] == [0, 1, 2]
    assert scores.svcca.between(0, 1).all()
    others = scores[scores.layer_a != scores.layer_b]
    assert others.svcca.max() < same.svcca.min()
    assert (scores.n == 3000).all()
    assert np.allclose(scores.chance, np.sqrt(scores[["k_a", "k_b"]].max(axis=1) / scores.n))


def test_two_models_score_above_chance(tiny: Tiny, english: Corpus) -> None:
    scores = layer_scores(tiny("nano-a"), tiny("llama"), english.split("select"), positions=2000)
    assert set(zip(scores.layer_a, scores.layer_b, strict=True)) == {
        (i, j) for i in range(4) for j in range(3)
    }
    assert (scores.svcca > scores.chance).all(), "both read the same words"
