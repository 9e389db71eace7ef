"""FLOPs of training an SAE and of learning a stitch, counted on one step and scaled (D, Table 3).

`FlopCounterMode` counts matrix products alone. The exact fitter's factorisations are counted by the
textbook (Golub and Van Loan): Cholesky n³/3, triangular solves n²m, symmetric eigenvectors 9n³.
Activations are taken as cached.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from core.activations.gram import Gram
from core.stitches.fit import eq3, fit_moments
from core.stitches.settings import FitConfig

ROWS = 64
"""Of dummy data; a matrix product's FLOPs are linear in its rows."""
PAPER_EPOCHS = 2
"""Of the paper's recipe for a stitch (A)."""
Shape = tuple[int, ...]


def _times_columns(
    a: Shape,
    b: Shape,
    *_: Any,
    **__: Any,
) -> int:
    """A triangular solve: n²m."""
    return a[-1] ** 2 * b[-1]


def _from_cholesky(
    b: Shape,
    a: Shape,
    *_: Any,
    **__: Any,
) -> int:
    """Two triangular solves."""
    return 2 * a[-1] ** 2 * b[-1]


_aten = torch.ops.aten
_FACTORISATIONS: dict[Any, Callable[..., Any]] = {
    _aten.linalg_cholesky_ex: lambda a, *_, **__: a[-1] ** 3 // 3,
    _aten._linalg_eigh: lambda a, *_, **__: 9 * a[-1] ** 3,
    _aten.linalg_solve_triangular: _times_columns,
    _aten._cholesky_solve_helper: _from_cholesky,
    _aten.cholesky_solve: _from_cholesky,
}


def counted(work: Callable[[], Any]) -> int:
    """FLOPs of what `work` does."""
    with FlopCounterMode(display=False, custom_mapping=_FACTORISATIONS) as counter:
        work()
    return counter.get_total_flops()


def sae_step(
    d: int,
    width: int,
    k: int,
    dead: bool = False,
) -> float:
    """Of one training step of a TopK SAE of SAELens, per row; `dead`: with the auxiliary loss at
    work on dead features (it is as dear however many there are)."""
    from core.saes.run import new_trainer

    trainer = new_trainer(
        d=d,
        width=width,
        k=k,
        batch=ROWS,
        steps=1,
        lr=1e-4,
        auxiliary=float(dead),
        window=1,
        seed=0,
    )
    trainer.n_forward_passes_since_fired += 2

    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(ROWS, d, generator=generator)
    return counted(lambda: trainer.step(rows)) / ROWS


def training_row(
    d: int,
    width: int,
    k: int,
) -> dict[str, float]:
    """Of a row of an SAE of B in training: `b`, and `b_auxiliary` with the auxiliary loss at
    work."""
    return {"b": sae_step(d, width, k), "b_auxiliary": sae_step(d, width, k, True)}


def adam_stitch(
    d_a: int,
    d_b: int,
    n: int,
    epochs: int = PAPER_EPOCHS,
) -> float:
    """Of the paper's recipe on n pairs of positions: forward and backward of Eq. 3, `epochs`
    times."""
    up = torch.nn.Linear(d_a, d_b)
    down = torch.nn.Linear(d_b, d_a)
    x = torch.randn(ROWS, d_a)
    y = torch.randn(ROWS, d_b)

    step = counted(lambda: eq3(up, down, x, y, 1.0).backward())
    return step / ROWS * n * epochs


def exact_stitch(
    d_a: int,
    d_b: int,
    n: int,
    rounds: int,
) -> float:
    """Of the exact fitter: second moments of n pairs, then `rounds` of alternating solves."""
    g = torch.Generator().manual_seed(0)

    def rows(d: int, many: int) -> Tensor:
        return torch.randn(many, d, generator=g)

    def reading() -> None:
        x = rows(d_a, ROWS)
        y = rows(d_b, ROWS)
        Gram(d_a, d_b).update(x, y, control=False)

    enough = 2 * (d_a + d_b)
    gram = Gram(d_a, d_b)
    gram.update(rows(d_a, enough), rows(d_b, enough), control=False)
    moments = gram.moments()

    def solving(most: int) -> int:
        config = FitConfig(tolerance=1e-12, max_rounds=most)
        return counted(lambda: fit_moments(moments, config))

    # The first two rounds set up what the others repeat.
    moments_read = counted(reading) / ROWS * n
    least = solving(2)
    a_round = solving(3) - least
    return moments_read + least + (rounds - 2) * a_round
