"""Probes: selection by Eq. 7, scikit-learn's fit, the algebra of a moved probe, intervals, files
without a pickle."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score

from core.errors import StitchLensError
from core.probes.probe import (
    Outcome,
    Probe,
    centred,
    differences,
    fit,
    folds,
    load_probe,
    moved,
    random_features,
    save_probe,
    select,
)
from core.statistics import drawn_interval, draws
from core.stitches.stitch import Stitch

N, WIDTH = 400, 60
UP, DOWN = (7, 21, 40), (3, 55)
"""Planted features: those that a yes raises, the last least, and those that it lowers, more than
any is raised."""


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, np.ndarray]:
    g = np.random.default_rng(0)
    y = g.permutation(np.repeat([0, 1], N // 2))
    x = np.abs(g.normal(0, 0.1, (N, WIDTH))).astype(np.float32)
    for rank, f in enumerate(UP):
        x[:, f] += y * (2.0 - 0.5 * rank)
    for f in DOWN:
        x[:, f] += (1 - y) * 3.0
    return x, y


def test_eq_7_finds_what_was_planted(planted: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = planted
    assert select(x, y, 3).tolist() == list(UP), "signed: largest first"
    assert set(select(x, y, 2, absolute=True).tolist()) == set(DOWN), "by size, as SAEBench does"
    assert set(select(x, y, 5, absolute=True).tolist()) == {*UP, *DOWN}
    assert select(x, 1 - y, 2).tolist() != list(UP[:2]), "the other class has other features"
    np.testing.assert_allclose(
        differences(x, y),
        [x[y == 1, f].mean() - x[y == 0, f].mean() for f in range(WIDTH)],
        atol=1e-6,
    )
    shuffled = np.random.default_rng(1).permutation(y)
    assert abs(differences(x, shuffled)).max() < 0.5 < abs(differences(x, y)).max()


def test_a_probe_is_scikit_learns(planted: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = planted
    features = select(x, y, 2)
    probe = fit(x[:200], y[:200], features)
    theirs = LogisticRegression(max_iter=1000).fit(x[:200][:, features].astype(np.float64), y[:200])
    np.testing.assert_allclose(
        probe.score(x[200:]), theirs.decision_function(x[200:][:, features]), atol=1e-9
    )
    outcome = Outcome(probe.score(x[200:])[None], y[200:])
    assert (
        outcome.right.mean() == accuracy_score(y[200:], theirs.predict(x[200:][:, features])) > 0.95
    )
    with pytest.raises(StitchLensError, match="one class"):
        fit(x, np.ones_like(y))
    with pytest.raises(StitchLensError, match="not finite"):
        fit(np.full_like(x, np.nan), y)


def test_what_no_feature_knows_stays_at_chance(planted: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = planted
    empty = np.setdiff1d(np.arange(WIDTH), [*UP, *DOWN])[:10]
    right = Outcome(fit(x[:200], y[:200], empty).score(x[200:])[None], y[200:]).right.mean()
    assert 0.35 < right < 0.65


def exact_stitch(d_a: int = 12, d_b: int = 20) -> Stitch:
    """An affine injection of A into B and its exact left inverse."""
    g = torch.Generator().manual_seed(2)
    up, b_up = (
        torch.randn(d_a, d_b, generator=g, dtype=torch.float64),
        torch.randn(d_b, generator=g),
    )
    down = torch.linalg.pinv(up)
    return Stitch(up.float(), b_up, down.float(), (-b_up.double() @ down).float())


def test_a_moved_probe_is_the_probe_on_down_stitched_rows() -> None:
    stitch, g = exact_stitch(), np.random.default_rng(3)
    h_a = g.normal(size=(N, 12)).astype(np.float32)
    y = (h_a[:, 0] - h_a[:, 3] > 0).astype(np.int64)
    probe = fit(h_a, y, about="a test")
    h_b = stitch.up(torch.from_numpy(h_a)).numpy()
    there = moved(probe, stitch)
    np.testing.assert_allclose(there.score(h_b), probe.score(h_a), atol=1e-3)
    any_b = g.normal(size=(50, 20)).astype(np.float32)
    np.testing.assert_allclose(
        there.score(any_b), probe.score(stitch.down(torch.from_numpy(any_b)).numpy()), atol=1e-4
    )
    assert there.coef.shape == (20,) and there.about["moved"]
    with pytest.raises(StitchLensError, match="carry its SAE"):
        moved(fit(h_a, y, np.arange(3)), stitch)


def test_centring_finds_a_threshold_without_labels(planted: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = planted
    here = fit(x, y)
    off = x + 7.0 * here.coef / np.linalg.norm(here.coef) ** 2  # every score is 7 too high
    assert (here.score(off) > 0).mean() > 0.95
    mended = centred(here, off, here, x)
    np.testing.assert_allclose(mended.score(off), here.score(x), atol=1e-6)
    assert mended.coef is here.coef, "its direction stays"


def test_through_shuffled_pairs_a_probe_is_at_chance() -> None:
    """The control fails: a stitch by least squares on shuffled pairs carries nothing."""
    stitch, g = exact_stitch(), np.random.default_rng(4)
    h_a = g.normal(size=(2000, 12)).astype(np.float32)
    y = (h_a[:, 0] > 0).astype(np.int64)
    h_b = stitch.up(torch.from_numpy(h_a)).numpy()
    ones = np.c_[h_b, np.ones(2000)]
    solved = np.linalg.lstsq(ones, h_a[g.permutation(2000)], rcond=None)[0].astype(np.float32)
    control = Stitch(
        stitch.P_up, stitch.b_up, torch.from_numpy(solved[:-1]), torch.from_numpy(solved[-1])
    )
    probe = fit(h_a[:1000], y[:1000])
    rights = [
        Outcome(moved(probe, s).score(h_b[1000:])[None], y[1000:]).right.mean()
        for s in (stitch, control)
    ]
    assert rights[0] > 0.97
    assert 0.35 < rights[1] < 0.65


def test_accuracy_and_auc_under_weights_are_scikit_learns() -> None:
    g = np.random.default_rng(5)
    y = g.integers(0, 2, 80)
    scores = np.round(g.normal(size=(3, 80)) + 0.7 * y, 1)  # ties
    outcome = Outcome(scores, y)
    names = [f"d{i % 25}" for i in range(80)]  # documents with several texts
    drawn = draws(names, 50)
    weights = np.stack([drawn[n] for n in names], axis=1)
    accuracy, auc = outcome.accuracy(weights), outcome.auc(weights)
    for r in (0, 1, 49):
        w = weights[r]
        expected = np.mean([accuracy_score(y, s > 0, sample_weight=w) for s in scores])
        assert accuracy[r] == pytest.approx(expected)
        assert auc[r] == pytest.approx(
            np.mean([roc_auc_score(y, s, sample_weight=w) for s in scores])
        )
    assert np.all(weights[0] == 1) and np.all(np.stack(list(drawn.values())).sum(0) == 25)
    value, low, high = drawn_interval(accuracy)
    assert value == pytest.approx(outcome.right.mean()) and low < value < high


def test_folds_are_stratified_and_disjoint() -> None:
    y = np.repeat([0, 1], [30, 10])
    split = folds(y)
    assert len(split) == 5
    assert sorted(np.concatenate([test for _, test in split])) == list(range(40))
    assert all(y[test].sum() == 2 and not set(train) & set(test) for train, test in split)
    assert len(folds(np.repeat([0, 1], [9, 3]))) == 3
    assert len(set(random_features(50, 50).tolist())) == 50


def test_scikit_learn_is_rebuilt_from_the_files(
    planted: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    """As the README says it, without us; nothing of it is a pickle."""
    x, y = planted
    features = select(x, y, 3)
    ours = fit(x, y, features, task="planted")
    save_probe(ours, tmp_path / "deep" / "probe")
    folder = tmp_path / "deep" / "probe"
    weights, about = (
        load_file(folder / "probe.safetensors"),
        json.loads((folder / "probe.json").read_text()),
    )
    theirs = LogisticRegression()
    theirs.coef_, theirs.intercept_ = weights["coef"], weights["intercept"]
    theirs.classes_ = np.array(about["classes"])
    direct = LogisticRegression(max_iter=1000).fit(x[:, features].astype(np.float64), y)
    np.testing.assert_array_equal(
        theirs.predict(x[:, weights["features"]]), direct.predict(x[:, features])
    )
    np.testing.assert_allclose(
        theirs.predict_proba(x[:, weights["features"]]), direct.predict_proba(x[:, features])
    )
    back = load_probe(folder)
    np.testing.assert_array_equal(back.score(x), ours.score(x))
    assert back.about["task"] == "planted"
    assert sorted(p.name for p in folder.iterdir()) == ["probe.json", "probe.safetensors"]


def test_a_damaged_probe_is_refused(tmp_path: Path) -> None:
    save_probe(Probe(np.ones(4), 0.5), tmp_path / "p")
    save_file(
        {"coef": np.full((1, 4), np.nan), "intercept": np.zeros(1)},
        tmp_path / "p" / "probe.safetensors",
    )
    with pytest.raises(StitchLensError, match="not finite"):
        load_probe(tmp_path / "p")
    (tmp_path / "p" / "probe.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(StitchLensError, match="no readable probe"):
        load_probe(tmp_path / "p")
    (tmp_path / "p" / "probe.json").write_text('{"format": "other"}')
    with pytest.raises(StitchLensError, match="format 'other'"):
        load_probe(tmp_path / "p")
    (tmp_path / "p" / "probe.json").write_text("[]")
    with pytest.raises(StitchLensError, match="no readable probe"):
        load_probe(tmp_path / "p")
