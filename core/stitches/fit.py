"""The frozen pair of affine maps between two residual streams, and three fitters of Eq. 3 that give
the same thing.

With x = h_A L_A and y = h_B L_B (L a metric, in which errors are measured), Eq. 3 is a sum of mean
squared errors:

    L = |x Q_up - y|²/d_B + |y Q_down - x|²/d_A + α |x Q_up Q_down - x|²/d_A + α |y Q_down Q_up -
    y|²/d_B

It depends on the data through second moments only, and each map given the other solves a Sylvester
equation.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

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


def metric_maps(metric: Metric, cov: Square) -> tuple[Square, Square]:
    """(L, L⁻¹) [d, d], float64, such that an error e costs |e L|²; diag(cov) of L-coordinates is
    about 1 but for 'raw'."""
    d = len(cov)
    match metric:
        case "raw":
            scale = torch.ones(d, dtype=torch.float64)
        case "rms":
            scale = (cov.trace() / d).rsqrt().expand(d)
        case "std":
            variances = cov.diagonal()
            # A dimension that hardly varies would weigh without bound.
            least = 1e-6 * float(variances.mean())
            scale = variances.clamp(min=least).rsqrt()
        case "whiten":
            values, vectors = torch.linalg.eigh(cov)
            values = (values + SHRINK * values.mean()).sqrt()
            whitening = vectors / values @ vectors.T
            colouring = vectors * values @ vectors.T
            return whitening, colouring
    return scale.diag(), scale.reciprocal().diag()


def _eigen(factor: Float[Tensor, "n m"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n n"]]:
    """Eigenvalues and eigenvectors of `factor factorᵀ`, by way of the smaller of n and m: where n
    is the larger, the rest of the eigenvalues are zero."""
    n, m = factor.shape
    if n <= m:
        return torch.linalg.eigh(factor @ factor.T)
    basis, inner = torch.linalg.qr(factor, mode="complete")
    values, vectors = torch.linalg.eigh(inner[:m] @ inner[:m].T)
    return (
        torch.cat([values, values.new_zeros(n - m)]),
        torch.cat([basis[:, :m] @ vectors, basis[:, m:]], dim=1),
    )


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

    @cached_property
    def root_x(self) -> Square:
        """C of C Cᵀ = xx, lower triangular."""
        return torch.linalg.cholesky(self.xx)

    @cached_property
    def root_y(self) -> Square:
        return torch.linalg.cholesky(self.yy)

    def swapped(self) -> "_Terms":
        return _Terms(self.yy, self.xy.T, self.xx)

    def best_up(
        self,
        down: Tensor,
        alpha: float,
    ) -> Tensor:
        """The Q_up that minimises Eq. 3 for a given Q_down, exactly.

        It solves (xx + α Dᵀ yy D) U / d_b + α xx U D Dᵀ / d_a = right-hand side, a generalised
        Sylvester equation. With xx = C Cᵀ and Z = Cᵀ U it is Λ Z + Z M = R in the eigenbases of
        I + α E Eᵀ, E = C⁻¹ Dᵀ C_y, and of D Dᵀ.
        """
        d_a, d_b = self.xy.shape
        carried = torch.linalg.solve_triangular(self.root_x, down.T @ self.root_y, upper=False)
        stretch, v = _eigen(carried)
        gain, w = _eigen(down)

        forth = (self.xy + alpha * down.T @ self.yy) / d_b
        back = alpha / d_a * self.xx @ down.T
        r = torch.linalg.solve_triangular(self.root_x, forth + back, upper=False)
        sums = (1 + alpha * stretch[:, None]) / d_b + alpha * gain / d_a
        z = v @ (v.T @ r @ w / sums) @ w.T
        return torch.linalg.solve_triangular(self.root_x.T, z, upper=True)

    def loss(
        self,
        up: Tensor,
        down: Tensor,
        alpha: float,
    ) -> float:
        """Eq. 3 per dimension, centred."""
        d_a, d_b = self.xy.shape
        there = (up * (self.xx @ up - 2 * self.xy)).sum() + self.yy.trace()
        back = (down * (self.yy @ down - 2 * self.xy.T)).sum() + self.xx.trace()

        e_a = up @ down - torch.eye(d_a, dtype=up.dtype)
        e_b = down @ up - torch.eye(d_b, dtype=up.dtype)
        inversion_a = (e_a * (self.xx @ e_a)).sum()
        inversion_b = (e_b * (self.yy @ e_b)).sum()

        in_b = (there + alpha * inversion_b) / d_b
        in_a = (back + alpha * inversion_a) / d_a
        return float(in_b + in_a)


def _mixed(points: list[Tensor], images: list[Tensor]) -> Tensor:
    """Anderson's guess at the fixed point from the last points and their images: the combination of
    images whose residuals (image - point) cancel best."""
    pairs = zip(points, images, strict=True)
    residuals = torch.stack([(image - point).flatten() for point, image in pairs])
    gram = residuals @ residuals.T

    # Near the fixed point the residuals are almost parallel: a ridge keeps the solve well posed.
    ones = torch.ones(len(gram), dtype=gram.dtype)
    gram += 1e-10 * gram.trace() * torch.diag(ones)
    weights = torch.linalg.solve(gram, ones)
    shares = weights / weights.sum()
    return torch.einsum("k,kij->ij", shares, torch.stack(images))


def _alternate(
    t: _Terms,
    up: Tensor,
    down: Tensor,
    config: FitConfig,
) -> tuple[Tensor, Tensor, int]:
    """Exact solves for Q_up and Q_down in turn until Eq. 3 stands still, sped up by Anderson mixing
    of Q_down.

    A mixed guess is kept only where it lowers Eq. 3, so the loss never rises.
    """
    alpha = config.alpha
    swapped = t.swapped()
    loss = t.loss(up, down, alpha)
    points: list[Tensor] = []
    images: list[Tensor] = []

    up = t.best_up(down, alpha)
    for done in range(1, config.max_rounds + 1):
        before = loss
        image = swapped.best_up(up, alpha)
        points = [*points, down][-MEMORY:]
        images = [*images, image][-MEMORY:]

        down = image
        loss = t.loss(up, down, alpha)
        if before - loss < config.tolerance * before:
            return up, down, done
        if len(points) > 1:
            guess = _mixed(points, images)
            guessed_up = t.best_up(guess, alpha)
            guessed_loss = t.loss(guessed_up, guess, alpha)
            if guessed_loss < loss:
                up, down, loss = guessed_up, guess, guessed_loss
                continue
            # The rounds behind it no longer say where this one leads: begin to remember anew.
            points, images = [], []
        up = t.best_up(down, alpha)
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
        l_a, inv_a = metric_maps(config.metric, moments.aa)
        l_b, inv_b = metric_maps(config.metric, moments.bb)
        t = _Terms(
            xx=_ridge(l_a.T @ moments.aa @ l_a),
            xy=l_a.T @ moments.ab @ l_b,
            yy=_ridge(l_b.T @ moments.bb @ l_b),
        )

        up = torch.cholesky_solve(t.xy, torch.linalg.cholesky(t.xx))
        down = torch.cholesky_solve(t.xy.T, torch.linalg.cholesky(t.yy))
        rounds = 0
        if config.method == "exact" and config.alpha > 0:
            up, down, rounds = _alternate(t, up, down, config)

    p_up = l_a @ up @ inv_b
    p_down = l_b @ down @ inv_a
    b_up = moments.mean_b - moments.mean_a @ p_up
    b_down = moments.mean_a - moments.mean_b @ p_down
    cost = {
        "rounds": rounds,
        "seconds": time.perf_counter() - started,
        "n_fit": moments.n,
    }
    makers = config.model_dump() | cost
    return Stitch(p_up.float(), b_up.float(), p_down.float(), b_down.float(), makers)


def eq3(
    up: torch.nn.Linear,
    down: torch.nn.Linear,
    x: Float[Tensor, "n d_a"],
    y: Float[Tensor, "n d_b"],
    alpha: float,
) -> Float[Tensor, ""]:
    """Eq. 3 on one batch, in metric coordinates."""
    mse = torch.nn.functional.mse_loss
    there = up(x)
    back = down(y)

    crossing = mse(there, y) + mse(back, x)
    inversion = mse(down(there), x) + mse(up(back), y)
    return crossing + alpha * inversion


def fit_adam(
    recording: Recording,
    moments: Moments,
    config: FitConfig,
) -> Stitch:
    """The paper's recipe: two linear layers, biases from 0, Adam, gradient norm clipped to 1,
    cosine decay (A).

    `moments` give the metric; in 'raw' nothing of the data is used but the rows themselves.
    """
    started = time.perf_counter()
    l_a, inv_a = metric_maps(config.metric, moments.aa)
    l_b, inv_b = metric_maps(config.metric, moments.bb)
    d_a, d_b = len(l_a), len(l_b)

    torch.manual_seed(config.seed)
    up = torch.nn.Linear(d_a, d_b)
    down = torch.nn.Linear(d_b, d_a)
    torch.nn.init.zeros_(up.bias)
    torch.nn.init.zeros_(down.bias)

    parameters = [*up.parameters(), *down.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=config.lr)
    steps = config.epochs * math.ceil(recording.n / config.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)

    # Only whitening mixes dimensions; the other metrics are a factor for each of them.
    dense = config.metric == "whiten"
    to_x = l_a.float() if dense else l_a.diagonal().float()
    to_y = l_b.float() if dense else l_b.diagonal().float()
    with Progress("adam", config.epochs * recording.n, "pos") as bar:
        for h_a, h_b in _epochs(recording, config):
            x = h_a @ to_x if dense else h_a * to_x
            y = h_b @ to_y if dense else h_b * to_y
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
        b_up = up.bias.double() @ inv_b
        b_down = down.bias.double() @ inv_a

    cost = {
        "rounds": steps,
        "seconds": time.perf_counter() - started,
        "n_fit": recording.n,
    }
    makers = config.model_dump() | cost
    return Stitch(p_up.float(), b_up.float(), p_down.float(), b_down.float(), makers)


def _epochs(recording: Recording, config: FitConfig) -> Iterator[tuple[Tensor, ...]]:
    for epoch in range(config.epochs):
        yield from recording.epoch(config.batch, config.seed + epoch)


def quality(
    stitch: Stitch,
    moments: Moments,
    metric: Metric,
    alpha: float,
    scale: Moments | None = None,
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

    def error(
        w: Tensor,
        xx: Tensor,
        xy: Tensor,
        yy: Tensor,
        offset: Tensor,
    ) -> Tensor:
        """E[(x w - y + offset)ᵀ(…)] from centred moments and the mean error."""
        cross = w.T @ xy
        return w.T @ xx @ w - cross - cross.T + yy + torch.outer(offset, offset)

    offset_up = m.mean_a @ p + bp - m.mean_b
    offset_down = m.mean_b @ q + bq - m.mean_a
    e_up = error(p, m.aa, m.ab, m.bb, offset_up)
    e_down = error(q, m.bb, m.ab.T, m.aa, offset_down)

    round_a = p @ q
    round_b = q @ p
    eye_a = torch.eye(len(p), dtype=torch.float64)
    eye_b = torch.eye(len(q), dtype=torch.float64)
    offset_a = m.mean_a @ (round_a - eye_a) + bp @ q + bq
    offset_b = m.mean_b @ (round_b - eye_b) + bq @ p + bp
    e_a = error(round_a, m.aa, m.aa, m.aa, offset_a)
    e_b = error(round_b, m.bb, m.bb, m.bb, offset_b)

    l_a, _ = metric_maps(metric, scale.aa)
    l_b, _ = metric_maps(metric, scale.bb)

    def per_dimension(e: Tensor, to_metric: Tensor) -> float:
        return float((to_metric.T @ e @ to_metric).trace() / len(to_metric))

    crossing = per_dimension(e_up, l_b) + per_dimension(e_down, l_a)
    inversion = per_dimension(e_a, l_a) + per_dimension(e_b, l_b)
    return {
        "eq3": crossing + alpha * inversion,
        "fuv_up": float(e_up.trace() / m.bb.trace()),
        "fuv_down": float(e_down.trace() / m.aa.trace()),
        "inversion_a": float(e_a.trace() / m.aa.trace()),
        "inversion_b": float(e_b.trace() / m.bb.trace()),
    }
