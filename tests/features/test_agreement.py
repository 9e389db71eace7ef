"""Agreement and native twins against NumPy on dense matrices, with planted features and controls
that fail."""

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import sparse as sp
from scipy.optimize import linear_sum_assignment

from core.features import agreement, twins
from core.features.firings import Firings, counts, strong

N, F = 900, 24
RNG = np.random.default_rng(3)


def planted(seed: int = 0, features: int = F, share: float = 0.08) -> NDArray[np.float32]:
    """Activations [N, features], most of them zero."""
    g = np.random.default_rng(seed)
    on = g.random((N, features)) < share
    return (on * g.exponential(2.0, (N, features))).astype(np.float32)


def noisy(activations: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """The same features, each firing lost with chance 0.2, a few added."""
    kept = activations * (np.random.default_rng(seed).random(activations.shape) < 0.8)
    return (kept + planted(seed + 1, activations.shape[1], 0.01)).astype(np.float32)


def sparse(dense: NDArray[np.float32]) -> Firings:
    return sp.csc_matrix(dense)


A = planted()
B = noisy(A, 5)


def test_agreement_equals_numpy_on_dense_matrices() -> None:
    groups = np.arange(N) % 3
    both = agreement.sums(sparse(A), sparse(B), groups, 3)
    for g in range(3):
        here = groups == g
        r = agreement.pearson(both.n[g], *both.sums[g, :5])
        for f in range(F):
            expected = np.corrcoef(A[here, f], B[here, f])[0, 1]
            assert r[f] == pytest.approx(expected, abs=1e-6)
        np.testing.assert_array_equal(both.sums[g, 7], ((A > 0) & (B > 0))[here].sum(axis=0))
    whole = both.joined()
    np.testing.assert_allclose(whole.sums[0, 4], (A.astype(float) * B).sum(axis=0), rtol=1e-6)


def test_what_never_varies_has_no_agreement() -> None:
    silent = sparse(np.zeros((N, 2), dtype=np.float32))
    both = agreement.sums(silent, sparse(A[:, :2]), np.zeros(N, dtype=int), 1)
    assert np.isnan(agreement.pearson(both.n[0], *both.sums[0, :5])).all()
    assert np.isnan(agreement.ratio(np.zeros(2), np.zeros(2))).all()


def test_the_interval_holds_the_value_and_narrows_with_text() -> None:
    documents = np.repeat(np.arange(N // 6), 6)
    low, high = agreement.interval(sparse(A), sparse(B), documents)
    r = np.array([np.corrcoef(A[:, f], B[:, f])[0, 1] for f in range(F)])
    assert ((low < r) & (r < high)).all()
    twice = np.concatenate([A, planted(40), planted(41), planted(42)])
    carried = np.concatenate(
        [B, noisy(planted(40), 7), noisy(planted(41), 8), noisy(planted(42), 9)]
    )
    more = np.repeat(np.arange(len(twice) // 6), 6)
    near, far = agreement.interval(sparse(twice), sparse(carried), more)
    assert np.median(far - near) < np.median(high - low)


def test_chance_is_that_of_random_features_of_the_same_density() -> None:
    n = 300
    density = np.geomspace(20, 20_000, n)
    chance = np.linspace(0, 0.5, n)
    table = pd.DataFrame(
        {
            "agreement": chance + 0.25,
            "firings_a": density,
            "firings_b": density,
            "random": chance,
            "random_firings": density,
        }
    )
    above = agreement.above_chance(table)
    assert np.abs(above[60:-60] - 0.25).max() < 0.02
    rare = table.assign(firings_b=3.0)
    assert np.isnan(agreement.above_chance(rare)).all()


def test_strong_firings_are_above_a_quarter_of_the_largest() -> None:
    dense = np.array([[8.0, 1.0], [2.0, 0.0], [2.1, 0.3], [0.0, 0.2]], dtype=np.float32)
    assert strong(sparse(dense)).toarray().tolist() == [
        [8.0, 1.0],
        [0.0, 0.0],
        [pytest.approx(2.1), pytest.approx(0.3)],
        [0.0, 0.0],
    ]
    assert counts(sparse(dense)).tolist() == [3, 3]


def dense_correlations(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.corrcoef(a.T, b.T)[: a.shape[1], a.shape[1] :]


def test_twins_equal_numpy_on_dense_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twins, "BLOCK", 7)
    order = np.random.default_rng(1).permutation(F)
    native = np.concatenate([B[:, order], planted(77, 9)], axis=1)
    expected = dense_correlations(A, native)
    dense = np.zeros_like(expected)
    for pairs in twins.blocks_of(sparse(A), sparse(native)):
        dense[pairs.a, pairs.b] = pairs.r
    np.testing.assert_allclose(dense, np.maximum(expected, 0), atol=1e-6)
    near, best, back = twins.scan(sparse(A), sparse(native))
    assert len(near.r) == (expected >= twins.FLOOR).sum()
    np.testing.assert_array_equal(best.partner, expected.argmax(axis=1))
    np.testing.assert_array_equal(order[best.partner], np.arange(F))
    np.testing.assert_allclose(back.r, expected.max(axis=0), atol=1e-6)


def test_the_assignment_is_scipys_on_the_dense_matrix() -> None:
    native = np.concatenate([noisy(A, 5)[:, ::-1][:, :18], planted(78, 4)], axis=1)
    pairs = twins.scan(sparse(A), sparse(native)).near
    expected = dense_correlations(A, native)
    expected[expected < twins.FLOOR] = 0
    rows, columns = linear_sum_assignment(expected, maximize=True)
    assigned = twins.assign(pairs, F, native.shape[1])
    assert assigned.r.sum() == pytest.approx(expected[rows, columns].sum(), abs=1e-5)
    paired = assigned.partner[assigned.partner >= 0]
    assert len(set(paired.tolist())) == len(paired) >= 18
    turned = twins._turned(assigned, native.shape[1])
    assert turned.r.sum() == pytest.approx(assigned.r.sum())


def test_planted_twins_are_mutual_and_controls_are_not_alike() -> None:
    native = np.concatenate([B[:, :16], planted(79, 10)], axis=1)
    firings = {
        "original": sparse(A),
        "native": sparse(native),
        "random SAE": sparse(planted(80)),
        "random native": sparse(planted(81, 26)),
    }
    both = twins.twins_of(firings)
    a, b = both["a"], both["b"]
    assert (a.r[:16] > 0.6).all() and a.mutual[:16].all()
    assert a.twin[:16].tolist() == list(range(16)) == b.twin[:16].tolist()
    assert a.r[16:].max() < 0.4 and b.r[16:].max() < 0.4
    assert max(a.shuffled.max(), a.random.max(), b.shuffled.max(), b.random.max()) < 0.4


def test_a_feature_that_never_fires_has_no_twin() -> None:
    silent = A.copy()
    silent[:, 3] = 0
    near, best, _ = twins.scan(sparse(silent), sparse(B))
    assert best.partner[3] == -1 and best.r[3] == 0
    assert twins.assign(near, F, F).partner[3] == -1


def test_cosines_of_pairs() -> None:
    x, y = RNG.standard_normal((5, 4)), RNG.standard_normal((6, 4))
    a, b = np.array([0, 4, -1]), np.array([5, 2, 1])
    cosine = twins.cosines(x, y, a, b)
    expected = x[4] @ y[2] / np.linalg.norm(x[4]) / np.linalg.norm(y[2])
    assert cosine[1] == pytest.approx(expected) and np.isnan(cosine[2])
