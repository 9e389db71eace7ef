"""Every fitter gives the map it claims: Eq. 3 is typed here once, on rows, in the plainest way, and
not from core."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from safetensors.torch import load_file, save_file
from scipy.optimize import minimize

from core.activations.gram import Gram, Moments
from core.activations.recording import Recording
from core.errors import StitchLensError
from core.stitches import fit as stitching
from core.stitches.fit import SHRINK, fit_adam, fit_moments, quality
from core.stitches.settings import METRICS, FitConfig, Metric
from core.stitches.stitch import Stitch, load_stitch, save_stitch, with_makers

D_A, D_B, N = 5, 7, 3000
PARTS = ("P_up", "b_up", "P_down", "b_down")
FINE: dict[str, Any] = {"tolerance": 1e-13, "max_rounds": 3000}


@dataclass(frozen=True, eq=False)
class Data:
    a: torch.Tensor
    b: torch.Tensor
    moments: Moments


@cache
def data(seed: int = 0, n: int = N, mean: float = 4.0) -> Data:
    """Streams that share five directions; dimensions differ tenfold in scale and means are far from
    0."""
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(D_A, D_B, generator=torch.Generator().manual_seed(7))
    scale_a, scale_b = torch.logspace(-0.5, 0.5, D_A), torch.logspace(0.4, -0.4, D_B)
    core = torch.randn(n, D_A, generator=g)
    a = core * scale_a + mean
    b = (core @ w + 0.7 * torch.randn(n, D_B, generator=g)) * scale_b - mean / 2
    gram = Gram(D_A, D_B)
    gram.update(a, b)
    return Data(a, b, gram.moments())


@cache
def metric_of(name: Metric, d: Data, side: str) -> torch.Tensor:
    """The matrix L of a metric, from rows, by NumPy and SciPy."""
    cov = np.cov(getattr(d, side).double().numpy().T, bias=True)
    k = len(cov)
    found = {
        "raw": lambda: np.eye(k),
        "rms": lambda: np.eye(k) / np.sqrt(np.trace(cov) / k),
        "std": lambda: np.diag(1 / np.sqrt(np.diag(cov))),
        "whiten": lambda: np.linalg.inv(
            np.real(scipy.linalg.sqrtm(cov + SHRINK * np.trace(cov) / k * np.eye(k)))
        ),
    }[name]()
    return torch.from_numpy(np.asarray(found))


def eq3(
    d: Data, parts: list[torch.Tensor], metric: Metric, alpha: float, scale: Data | None = None
) -> torch.Tensor:
    """Eq. 3 on rows: mean squared errors in the metric, averaged over dimensions as torch's
    mse_loss does."""
    p, bp, q, bq = parts
    a, b = d.a.double(), d.b.double()
    l_a, l_b = metric_of(metric, scale or d, "a"), metric_of(metric, scale or d, "b")
    there, back = a @ p + bp, b @ q + bq

    def mse(found: torch.Tensor, wanted: torch.Tensor, weigh: torch.Tensor) -> torch.Tensor:
        return (((found - wanted) @ weigh) ** 2).mean()

    return (
        mse(there, b, l_b)
        + mse(back, a, l_a)
        + alpha * (mse(there @ q + bq, a, l_a) + mse(back @ p + bp, b, l_b))
    )


def parts_of(s: Stitch) -> list[torch.Tensor]:
    return [getattr(s, k).double() for k in PARTS]


def gradient(d: Data, s: Stitch, metric: Metric, alpha: float) -> float:
    """Norm of the gradient of Eq. 3, each part weighed by its own size, so that it is free of
    units."""
    parts = [p.requires_grad_() for p in parts_of(s)]
    eq3(d, parts, metric, alpha).backward()
    return max(float((p.grad * p).detach().norm()) for p in parts if p.grad is not None)


def planted() -> tuple[Data, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(D_A, D_A, generator=g))[0]
    w, bias = turn * torch.linspace(0.5, 2, D_A), torch.randn(D_A, generator=g)
    a = torch.randn(N, D_A, generator=g) * torch.logspace(-0.5, 0.5, D_A) + 3
    gram = Gram(D_A, D_A)
    gram.update(a, a @ w + bias)
    return Data(a, a @ w + bias, gram.moments()), w, bias


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("method", ["exact", "lstsq"])
def test_a_planted_affine_map_is_recovered(method: Any, metric: Metric) -> None:
    d, w, bias = planted()
    s = fit_moments(d.moments, FitConfig(method=method, metric=metric))
    inverse = torch.linalg.inv(w)
    assert torch.allclose(s.up(d.a), d.b, atol=2e-3)
    assert torch.allclose(s.down(d.b), d.a, atol=2e-3)
    assert torch.allclose(s.P_up, w, atol=1e-3)
    assert torch.allclose(s.b_up, bias, atol=2e-3)
    assert torch.allclose(s.P_down, inverse, atol=1e-3)
    found = quality(s, d.moments, metric, 1.0)
    assert max(found[k] for k in ("fuv_up", "fuv_down", "inversion_a", "inversion_b")) < 1e-6


def test_to_carry_is_up_to_b_and_down_to_a() -> None:
    """By NumPy: h P + b."""
    g = torch.Generator().manual_seed(3)
    up, b_up, down, b_down = (torch.randn(*s, generator=g) for s in ((2, 3), (3,), (3, 2), (2,)))
    stitch = Stitch(up, b_up, down, b_down)
    h_a, h_b = torch.randn(4, 2, generator=g), torch.randn(4, 3, generator=g)
    in_b, in_a = stitch.carry(h_a, to="b"), stitch.carry(h_b, to="a")
    assert np.allclose(in_b, h_a.numpy() @ up.numpy() + b_up.numpy(), atol=1e-6)
    assert np.allclose(in_a, h_b.numpy() @ down.numpy() + b_down.numpy(), atol=1e-6)


def test_a_shuffled_pairing_recovers_nothing() -> None:
    d, w, _ = planted()
    gram = Gram(D_A, D_A)
    gram.update(d.a, d.b)
    s = fit_moments(gram.moments(shuffled=True), FitConfig(method="lstsq", metric="raw"))
    assert (s.P_up - w).norm() > 0.5 * w.norm()
    assert quality(s, d.moments, "raw", 1.0)["fuv_up"] > 0.9


def test_lstsq_is_numpys() -> None:
    d = data()
    s = fit_moments(d.moments, FitConfig(method="lstsq", metric="raw"))
    ones = np.ones((N, 1))
    for x, y, p, bias in ((d.a, d.b, s.P_up, s.b_up), (d.b, d.a, s.P_down, s.b_down)):
        found = np.linalg.lstsq(
            np.hstack([x.double().numpy(), ones]), y.double().numpy(), rcond=None
        )[0]
        np.testing.assert_allclose(p, found[:-1], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(bias, found[-1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("metric", METRICS)
def test_lstsq_does_not_depend_on_the_metric(metric: Metric) -> None:
    d = data()
    one, other = (
        fit_moments(d.moments, FitConfig(method="lstsq", metric=m)) for m in (metric, "raw")
    )
    assert torch.allclose(one.P_up, other.P_up, rtol=1e-3, atol=1e-4)
    assert torch.allclose(one.P_down, other.P_down, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("metric", METRICS)
def test_exact_is_a_stationary_point_of_eq_3(metric: Metric, alpha: float) -> None:
    d = data()
    s = fit_moments(d.moments, FitConfig(metric=metric, alpha=alpha, **FINE))
    control = fit_moments(d.moments, FitConfig(method="lstsq", metric=metric))
    assert gradient(d, s, metric, alpha) < 1e-3 * gradient(d, control, metric, alpha)
    other: Metric = "std" if metric != "std" else "raw"
    assert gradient(d, s, other, alpha) > 100 * gradient(d, s, metric, alpha), (
        "and of no other metric's"
    )


@pytest.mark.parametrize("metric", METRICS)
def test_exact_is_the_optimum_that_scipy_finds(metric: Metric) -> None:
    """L-BFGS from maps far off, on the rows themselves, ends at the same value and no lower."""
    d, alpha = data(n=200), 1.0
    shapes = [(D_A, D_B), (D_B,), (D_B, D_A), (D_A,)]
    sizes = [int(np.prod(s)) for s in shapes]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        cut = torch.from_numpy(flat).split(sizes)
        parts = [c.reshape(s).clone().requires_grad_() for c, s in zip(cut, shapes, strict=True)]
        loss = eq3(d, parts, metric, alpha)
        loss.backward()
        return float(loss.detach()), np.concatenate(
            [p.grad.ravel().numpy() for p in parts if p.grad is not None]
        )

    lstsq = parts_of(fit_moments(d.moments, FitConfig(method="lstsq", metric="raw")))
    flat = np.concatenate([p.ravel().numpy() for p in lstsq])
    start = flat * (1 + 0.3 * np.random.default_rng(0).normal(size=len(flat)))
    done = minimize(
        objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 1500, "maxcor": 40}
    )
    assert objective(start)[0] > 2 * done.fun, "it had something to do"
    mine = float(
        eq3(d, parts_of(fit_moments(d.moments, FitConfig(metric=metric, **FINE))), metric, alpha)
    )
    assert mine <= done.fun * 1.0001
    assert done.fun == pytest.approx(mine, rel=0.01)
    default = float(
        eq3(d, parts_of(fit_moments(d.moments, FitConfig(metric=metric))), metric, alpha)
    )
    assert default == pytest.approx(mine, rel=1e-3), "the default tolerance is tight enough"


def test_no_small_step_lowers_eq_3() -> None:
    d = data()
    s = fit_moments(d.moments, FitConfig(**FINE))
    best, g = float(eq3(d, parts_of(s), "std", 1.0)), torch.Generator().manual_seed(3)
    for _ in range(40):
        step = [
            p + 0.01 * p.norm() * torch.randn(p.shape, generator=g, dtype=p.dtype)
            for p in parts_of(s)
        ]
        assert float(eq3(d, step, "std", 1.0)) > best


def test_more_alpha_buys_inversion_with_crossing() -> None:
    d = data()
    found = []
    for alpha in (0.0, 0.1, 1.0, 10.0):
        found.append(
            quality(
                fit_moments(d.moments, FitConfig(metric="raw", alpha=alpha, **FINE)),
                d.moments,
                "raw",
                1,
            )
        )
    for way in ("inversion_a", "inversion_b"):
        values = [f[way] for f in found]
        assert values == sorted(values, reverse=True)
    up = [f["fuv_up"] + f["fuv_down"] for f in found]
    assert up == sorted(up)
    assert up[0] < up[-1]


def test_exact_without_inversion_is_lstsq() -> None:
    d = data()
    one, other = (
        fit_moments(d.moments, FitConfig(method=m, alpha=0.0)) for m in ("exact", "lstsq")
    )
    assert all(torch.equal(getattr(one, k), getattr(other, k)) for k in PARTS)


def test_dead_dimensions_do_no_harm() -> None:
    d = data()
    a = d.a.clone()
    a[:, 2] = 1.5
    gram = Gram(D_A, D_B)
    gram.update(a, d.b)
    for metric in METRICS:
        s = fit_moments(gram.moments(), FitConfig(metric=metric))
        assert all(torch.isfinite(getattr(s, k)).all() for k in PARTS)
        assert (s.down(d.b)[:, 2] - a[:, 2]).norm() < 0.1 * (d.a[:, 2] - d.a[:, 2].mean()).norm()


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    d = data(mean=0.3)
    for k in range(3):
        rows = {
            "h_a": d.a[k * 1000 : (k + 1) * 1000].contiguous(),
            "h_b": d.b[k * 1000 : (k + 1) * 1000].contiguous(),
        }
        save_file(rows, tmp_path / f"shard-{k:05d}.safetensors")
    return Recording(tmp_path)


def test_adam_run_long_approaches_exact(recording: Recording) -> None:
    d = data(mean=0.3)
    exact = float(eq3(d, parts_of(fit_moments(d.moments, FitConfig())), "std", 1.0))

    def adam(**settings: Any) -> float:
        s = fit_adam(recording, d.moments, FitConfig(method="adam", batch=500, **settings))
        return float(eq3(d, parts_of(s), "std", 1.0))

    short, long = adam(epochs=2), adam(epochs=150, lr=0.03)
    assert exact <= long * (1 + 1e-6)
    assert long == pytest.approx(exact, rel=0.02)
    assert short > 1.5 * exact, (
        "the paper's two epochs are not enough here, so the test above can fail"
    )


def test_adam_is_seeded(recording: Recording) -> None:
    config = FitConfig(method="adam", epochs=1, batch=500)
    one, two = (fit_adam(recording, data().moments, config) for _ in range(2))
    assert all(torch.equal(getattr(one, k), getattr(two, k)) for k in PARTS)
    other = fit_adam(recording, data().moments, config.model_copy(update={"seed": 1}))
    assert not torch.equal(one.P_up, other.P_up)


@pytest.mark.parametrize("metric", METRICS)
def test_quality_is_what_the_rows_say(metric: Metric) -> None:
    fit, held = data(), data(seed=5, n=900)
    g = torch.Generator().manual_seed(8)
    s = fit_moments(fit.moments, FitConfig(metric=metric))
    s = Stitch(
        s.P_up, s.b_up + 0.3 * torch.randn(D_B, generator=g), s.P_down, s.b_down + 0.2
    )  # off the mean too
    found = quality(s, held.moments, metric, 0.7, fit.moments)
    a, b = held.a.double(), held.b.double()
    p, bp, q, bq = parts_of(s)

    def fuv(guess: torch.Tensor, target: torch.Tensor) -> float:
        return float(((guess - target) ** 2).sum() / ((target - target.mean(0)) ** 2).sum())

    assert found["eq3"] == pytest.approx(float(eq3(held, parts_of(s), metric, 0.7, fit)), rel=1e-5)
    assert found["fuv_up"] == pytest.approx(fuv(a @ p + bp, b), rel=1e-6)
    assert found["fuv_down"] == pytest.approx(fuv(b @ q + bq, a), rel=1e-6)
    assert found["inversion_a"] == pytest.approx(fuv((a @ p + bp) @ q + bq, a), rel=1e-6)
    assert found["inversion_b"] == pytest.approx(fuv((b @ q + bq) @ p + bp, b), rel=1e-6)
    assert quality(s, held.moments, "raw", 1.0)["eq3"] == pytest.approx(
        float(eq3(held, parts_of(s), "raw", 1.0)), rel=1e-6
    )


MAKERS = {
    "pair": "p",
    "layer_a": 3,
    "layer_b": 4,
    "a": {"model": "m", "weights": "abc"},
    "b": {"weights": "def"},
}


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Stitch, Path]:
    s = with_makers(fit_moments(data().moments, FitConfig()), **MAKERS)
    save_stitch(s, tmp_path / "s.safetensors")
    return s, tmp_path / "s.safetensors"


def test_a_saved_stitch_comes_back_bitwise(kept: tuple[Stitch, Path]) -> None:
    s, path = kept
    found = load_stitch(path, MAKERS | {"d_a": D_A, "d_b": D_B})
    assert all(torch.equal(getattr(found, k), getattr(s, k)) for k in PARTS)
    assert found.makers == json.loads(json.dumps(s.makers))
    assert found.makers["n_fit"] == N
    assert torch.equal(found.up(data().a), s.up(data().a))
    half = path.with_name("half.safetensors")
    save_stitch(s, half, torch.float16)
    assert load_stitch(half).P_up.dtype == torch.float32
    assert half.stat().st_size < path.stat().st_size


def refuse(path: Path, expect: dict[str, Any] | None = None) -> str:
    with pytest.raises(StitchLensError) as e:
        load_stitch(path, expect)
    assert "\n" not in str(e.value)
    return str(e.value)


@pytest.mark.parametrize(
    ("expect", "found", "wanted"),
    [
        ({"d_a": 576}, "d_a = 5", "576"),
        ({"d_b": 640}, "d_b = 7", "640"),
        ({"layer_a": 10}, "layer_a = 3", "10"),
        ({"a": {"weights": "xyz"}}, "a.weights = 'abc'", "'xyz'"),
        ({"b": {"model": "g"}}, "b.model = None", "'g'"),
        ({"pair": {"key": 1}}, "pair.key = None", "1"),
        ({"metric": "raw"}, "metric = 'std'", "'raw'"),
    ],
)
def test_a_stitch_that_does_not_fit_is_refused(
    kept: tuple[Stitch, Path], expect: dict[str, Any], found: str, wanted: str
) -> None:
    message = refuse(kept[1], expect)
    assert found in message
    assert wanted in message
    assert "s.safetensors" in message


def rewrite(path: Path, meta: dict[str, str] | None, **changed: torch.Tensor | None) -> Path:
    tensors = {k: v for k, v in (load_file(path) | changed).items() if v is not None}
    new = path.with_name("changed.safetensors")
    save_file(tensors, new, metadata=meta)
    return new


GOOD = {"format": "stitchlens-stitch-1", "makers": "{}"}


def test_files_that_are_no_stitch_are_refused(kept: tuple[Stitch, Path]) -> None:
    _, path = kept
    assert load_stitch(rewrite(path, GOOD)).makers == {}, (
        "the control: what follows differs in one thing each"
    )
    message = refuse(rewrite(path, GOOD | {"format": "stitchlens-stitch-9"}))
    assert "'stitchlens-stitch-9'" in message
    assert "stitchlens-stitch-1;" not in message
    assert "wanted stitchlens-stitch-1" in message
    assert "format None" in refuse(rewrite(path, None))
    refuse(rewrite(path, {"format": GOOD["format"]}))
    refuse(rewrite(path, GOOD | {"makers": "{"}))
    refuse(rewrite(path, GOOD, b_up=None))
    for bad in (float("nan"), float("inf")):
        assert "NaN or infinite" in refuse(rewrite(path, GOOD, P_down=torch.full((D_B, D_A), bad)))
    message = refuse(rewrite(path, GOOD, P_down=torch.zeros(D_A, D_B)))
    assert "P_up (5, 7)" in message
    assert "P_down (5, 7)" in message
    assert "b_up (4,)" in refuse(rewrite(path, GOOD, b_up=torch.zeros(4)))
    assert "P_up (35,)" in refuse(rewrite(path, GOOD, P_up=torch.zeros(35)))
    cut = path.with_name("cut.safetensors")
    cut.write_bytes(path.read_bytes()[:-4])
    refuse(cut)
    assert "nowhere.safetensors" in refuse(path.with_name("nowhere.safetensors"))


def test_eq_3_weighs_dimensions_and_not_rows() -> None:
    """Eq. 3's value by torch's own mse_loss on two linear layers, the way the paper's code would
    write it."""
    d = data(n=300)
    s = fit_moments(d.moments, FitConfig(metric="raw"))
    mse: Callable[..., torch.Tensor] = torch.nn.functional.mse_loss
    there, back = s.up(d.a), s.down(d.b)
    paper = mse(there, d.b) + mse(back, d.a) + mse(s.down(there), d.a) + mse(s.up(back), d.b)
    assert quality(s, d.moments, "raw", 1.0)["eq3"] == pytest.approx(float(paper), rel=1e-4)


def test_configs_are_strict() -> None:
    for wrong in ({"metric": "cosine"}, {"method": "sgd"}, {"alhpa": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            FitConfig.model_validate(wrong)


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (6, 6)])
def test_eigenvectors_by_way_of_the_smaller_width(shape: tuple[int, int]) -> None:
    factor = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values, vectors = stitching._eigen(factor)
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(shape[0], dtype=torch.float64))
    torch.testing.assert_close(vectors * values @ vectors.T, factor @ factor.T)


def test_small_matrices_are_solved_by_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several wait for each other; the number that there was is given back, also after a fault."""
    used: list[int] = []
    eigen = stitching._eigen
    monkeypatch.setattr(
        stitching, "_eigen", lambda *args: (used.append(torch.get_num_threads()), eigen(*args))[1]
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        x = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
        gram = Gram(8, 8)
        gram.update(x, x.flip(1), seed=0)
        stitching.fit_moments(gram.moments(), FitConfig())
        assert set(used) == {1} and torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError), stitching._threads(8):
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2
        with stitching._threads(stitching.ALONE + 1):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
