"""The frozen pair of affine maps between two residual streams, and three fitters of Eq. 3 that give
the same thing.

With x = h_A L_A and y = h_B L_B (L a metric, in which errors are measured), Eq. 3 is a sum of mean
squared errors:

    L = |x Q_up - y|²/d_B + |y Q_down - x|²/d_A + α |x Q_up Q_down - x|²/d_A + α |y Q_down Q_up -
    y|²/d_B

It depends on the data through second moments only, and each map given the other solves a Sylvester
equation.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from core.activations.gram import Moments
from core.activations.recording import Recording
from core.progress import Progress
from core.stitches.settings import FitConfig, Metric
from core.stitches.stitch import Stitch

SHRINK = 0.05
"""'whiten' measures errors by the inverse of covariance plus this share of its mean eigenvalue."""


Square = Float[Tensor, "d d"]


def _metric(metric: Metric, cov: Square) -> tuple[Square, Square]:
    """(L, L⁻¹) such that an error e costs |e L|²; diag(cov) of L-coordinates is about 1 but for
    'raw'."""
    d = len(cov)
    match metric:
        case "raw":
            scale = torch.ones(d, dtype=torch.float64)
        case "rms":
            scale = (cov.trace() / d).rsqrt().expand(d)
        case "std":
            scale = cov.diagonal().clamp(min=1e-6 * float(cov.diagonal().mean())).rsqrt()
        case "whiten":
            values, vectors = torch.linalg.eigh(cov)
            values = (values + SHRINK * values.mean()).sqrt()
            return vectors / values @ vectors.T, vectors * values @ vectors.T
    return scale.diag(), scale.reciprocal().diag()


def _solve(
    left: Square, gram: Square, right: Float[Tensor, "e e"], rhs: Float[Tensor, "d e"]
) -> Float[Tensor, "d e"]:
    """U of `left U + gram U right = rhs`, for symmetric left, gram ≻ 0, right ⪰ 0: a generalised
    Sylvester equation.

    gram = C Cᵀ turns it into Λ Z + Z M = R in the eigenbases of C⁻¹ left C⁻ᵀ and of right.
    """
    c = torch.linalg.cholesky(gram)
    reduced = torch.linalg.solve_triangular(c, left, upper=False)
    reduced = torch.linalg.solve_triangular(c, reduced.T, upper=False)
    lam, v = torch.linalg.eigh((reduced + reduced.T) / 2)
    mu, w = torch.linalg.eigh(right)
    r = v.T @ torch.linalg.solve_triangular(c, rhs, upper=False) @ w
    z = v @ (r / (lam[:, None] + mu[None, :])) @ w.T
    return torch.linalg.solve_triangular(c.T, z, upper=True)


MEMORY = 6
"""Rounds that Anderson mixing looks back on."""
ALONE = 256
"""Widths up to which one thread solves: several wait for each other longer than they compute, and
beside other work that takes seconds for a solve of milliseconds."""


@contextmanager
def _threads(width: int) -> Iterator[None]:
    """One thread while small matrices are solved, as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if width <= ALONE else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class _Terms:
    """Second moments in metric coordinates; the two sides can be swapped."""

    xx: Square
    xy: Float[Tensor, "d e"]
    yy: Float[Tensor, "e e"]

    def swapped(self) -> "_Terms":
        return _Terms(self.yy, self.xy.T, self.xx)

    def best_up(self, down: Tensor, alpha: float) -> Tensor:
        """The Q_up that minimises Eq. 3 for a given Q_down, exactly."""
        d_a, d_b = self.xy.shape
        left = (self.xx + alpha * down.T @ self.yy @ down) / d_b
        rhs = (self.xy + alpha * down.T @ self.yy) / d_b + alpha / d_a * self.xx @ down.T
        return _solve(left, self.xx, alpha / d_a * down @ down.T, rhs)

    def loss(self, up: Tensor, down: Tensor, alpha: float) -> float:
        """Eq. 3 per dimension, centred."""
        d_a, d_b = self.xy.shape
        eye_a, eye_b = torch.eye(d_a, dtype=up.dtype), torch.eye(d_b, dtype=up.dtype)
        e_a, e_b = up @ down - eye_a, down @ up - eye_b
        there = (up * (self.xx @ up - 2 * self.xy)).sum() + self.yy.trace()
        back = (down * (self.yy @ down - 2 * self.xy.T)).sum() + self.xx.trace()
        inv_a, inv_b = (e_a * (self.xx @ e_a)).sum(), (e_b * (self.yy @ e_b)).sum()
        return float((there + alpha * inv_b) / d_b + (back + alpha * inv_a) / d_a)


def _mixed(points: list[Tensor], images: list[Tensor]) -> Tensor:
    """Anderson's guess at the fixed point from the last points and their images: the combination of
    images whose residuals (image - point) cancel best."""
    residuals = torch.stack([(g - x).flatten() for x, g in zip(points, images, strict=True)])
    gram = residuals @ residuals.T
    gram += 1e-10 * gram.trace() * torch.eye(len(gram), dtype=gram.dtype)
    weights = torch.linalg.solve(gram, torch.ones(len(gram), dtype=gram.dtype))
    return torch.einsum("k,kij->ij", weights / weights.sum(), torch.stack(images))


def _alternate(
    t: _Terms, up: Tensor, down: Tensor, config: FitConfig
) -> tuple[Tensor, Tensor, int]:
    """Exact solves for Q_up and Q_down in turn until Eq. 3 stands still, sped up by Anderson mixing
    of Q_down.

    A mixed guess is kept only where it lowers Eq. 3, so the loss never rises.
    """
    s, alpha = t.swapped(), config.alpha
    loss = t.loss(up, down, alpha)
    points: list[Tensor] = []
    images: list[Tensor] = []
    for done in range(1, config.max_rounds + 1):
        before = loss
        up = t.best_up(down, alpha)
        image = s.best_up(up, alpha)
        points, images = [*points, down][-MEMORY:], [*images, image][-MEMORY:]
        down, loss = image, t.loss(up, image, alpha)
        if before - loss < config.tolerance * before:
            return up, down, done
        if len(points) > 1:
            guess = _mixed(points, images)
            guessed_up = t.best_up(guess, alpha)
            guessed = t.loss(guessed_up, guess, alpha)
            if guessed < loss:
                up, down, loss = guessed_up, guess, guessed
            else:
                points, images = [], []
    return up, down, config.max_rounds


def _ridge(cov: Square) -> Square:
    """A millionth of the mean variance on the diagonal keeps dead dimensions solvable."""
    return cov + 1e-6 * cov.diagonal().mean() * torch.eye(len(cov), dtype=cov.dtype)


def fit_moments(moments: Moments, config: FitConfig) -> Stitch:
    """The `exact` and `lstsq` fitters. lstsq: two least-squares maps, no inversion terms.

    exact: alternating exact solves of Eq. 3 from the lstsq maps, with Anderson mixing, to
    convergence.
    """
    started = time.perf_counter()
    with _threads(max(moments.ab.shape)):
        (l_a, inv_a), (l_b, inv_b) = (
            _metric(config.metric, moments.aa),
            _metric(config.metric, moments.bb),
        )
        t = _Terms(
            _ridge(l_a.T @ moments.aa @ l_a),
            l_a.T @ moments.ab @ l_b,
            _ridge(l_b.T @ moments.bb @ l_b),
        )
        up, down = (
            torch.cholesky_solve(t.xy, torch.linalg.cholesky(t.xx)),
            torch.cholesky_solve(t.xy.T, torch.linalg.cholesky(t.yy)),
        )
        rounds = 0
        if config.method == "exact" and config.alpha > 0:
            up, down, rounds = _alternate(t, up, down, config)
    p_up, p_down = l_a @ up @ inv_b, l_b @ down @ inv_a
    b_up, b_down = moments.mean_b - moments.mean_a @ p_up, moments.mean_a - moments.mean_b @ p_down
    done = config.model_dump() | {
        "rounds": rounds,
        "seconds": time.perf_counter() - started,
        "n_fit": moments.n,
    }
    return Stitch(p_up.float(), b_up.float(), p_down.float(), b_down.float(), done)


def eq3(
    up: torch.nn.Linear,
    down: torch.nn.Linear,
    x: Float[Tensor, "n d_a"],
    y: Float[Tensor, "n d_b"],
    alpha: float,
) -> Float[Tensor, ""]:
    """Eq. 3 on one batch, in metric coordinates."""
    mse, there, back = torch.nn.functional.mse_loss, up(x), down(y)
    return mse(there, y) + mse(back, x) + alpha * (mse(down(there), x) + mse(up(back), y))


def fit_adam(recording: Recording, moments: Moments, config: FitConfig) -> Stitch:
    """The paper's recipe: two linear layers, biases from 0, Adam, gradient norm clipped to 1,
    cosine decay (A).

    `moments` give the metric; in 'raw' nothing of the data is used but the rows themselves.
    """
    started = time.perf_counter()
    (l_a, inv_a), (l_b, inv_b) = (
        _metric(config.metric, moments.aa),
        _metric(config.metric, moments.bb),
    )
    torch.manual_seed(config.seed)
    up, down = torch.nn.Linear(len(l_a), len(l_b)), torch.nn.Linear(len(l_b), len(l_a))
    torch.nn.init.zeros_(up.bias)
    torch.nn.init.zeros_(down.bias)
    parameters = [*up.parameters(), *down.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=config.lr)
    steps = config.epochs * -(-recording.n // config.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    dense = config.metric == "whiten"
    to_x, to_y = (l.float() if dense else l.diagonal().float() for l in (l_a, l_b))  # noqa: E741
    with Progress("adam", config.epochs * recording.n, "pos") as bar:
        for h_a, h_b in _epochs(recording, config):
            x, y = (h_a @ to_x, h_b @ to_y) if dense else (h_a * to_x, h_b * to_y)
            loss = eq3(up, down, x, y, config.alpha)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            schedule.step()
            bar.advance(len(x))
    with torch.no_grad():
        p_up = l_a @ up.weight.double().T @ inv_b
        p_down = l_b @ down.weight.double().T @ inv_a
        b_up, b_down = up.bias.double() @ inv_b, down.bias.double() @ inv_a
    done = config.model_dump() | {
        "rounds": steps,
        "seconds": time.perf_counter() - started,
        "n_fit": recording.n,
    }
    return Stitch(p_up.float(), b_up.float(), p_down.float(), b_down.float(), done)


def _epochs(recording: Recording, config: FitConfig) -> Iterator[tuple[Tensor, ...]]:
    for epoch in range(config.epochs):
        yield from recording.epoch(config.batch, config.seed + epoch)


def quality(
    stitch: Stitch, moments: Moments, metric: Metric, alpha: float, scale: Moments | None = None
) -> dict[str, float]:
    """Eq. 3 and fractions of variance unexplained on the data behind `moments`, without touching
    the data.

    eq3 in the given metric (drawn from `scale`'s covariances, by default from `moments`); fuv_up,
    fuv_down and the inversion errors inversion_a (A→B→A) and inversion_b in raw units, as fractions
    of the variance about the mean.
    """
    scale = scale or moments
    m = moments
    p, q = stitch.P_up.double(), stitch.P_down.double()
    bp, bq = stitch.b_up.double(), stitch.b_down.double()
    eye_a, eye_b = torch.eye(len(p), dtype=torch.float64), torch.eye(len(q), dtype=torch.float64)

    def error(w: Tensor, xx: Tensor, xy: Tensor, yy: Tensor, offset: Tensor) -> Tensor:
        """E[(x w - y + offset)ᵀ(…)] from centred moments and the mean error."""
        cross = w.T @ xy
        return w.T @ xx @ w - cross - cross.T + yy + torch.outer(offset, offset)

    e_up = error(p, m.aa, m.ab, m.bb, m.mean_a @ p + bp - m.mean_b)
    e_down = error(q, m.bb, m.ab.T, m.aa, m.mean_b @ q + bq - m.mean_a)
    e_a = error(p @ q, m.aa, m.aa, m.aa, m.mean_a @ (p @ q - eye_a) + bp @ q + bq)
    e_b = error(q @ p, m.bb, m.bb, m.bb, m.mean_b @ (q @ p - eye_b) + bq @ p + bp)
    l_a, l_b = _metric(metric, scale.aa)[0], _metric(metric, scale.bb)[0]

    def per_dim(e: Tensor, l: Tensor) -> float:  # noqa: E741
        return float((l.T @ e @ l).trace() / len(l))

    return {
        "eq3": (
            per_dim(e_up, l_b)
            + per_dim(e_down, l_a)
            + alpha * (per_dim(e_a, l_a) + per_dim(e_b, l_b))
        ),
        "fuv_up": float(e_up.trace() / m.bb.trace()),
        "fuv_down": float(e_down.trace() / m.aa.trace()),
        "inversion_a": float(e_a.trace() / m.aa.trace()),
        "inversion_b": float(e_b.trace() / m.bb.trace()),
    }
