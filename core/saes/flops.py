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


def _solve(a: Shape, b: Shape, *_: Any, **__: Any) -> int:
    return a[-1] ** 2 * b[-1]


_aten = torch.ops.aten
_FACTORISATIONS: dict[Any, Callable[..., Any]] = {
    _aten.linalg_cholesky_ex: lambda a, *_, **__: a[-1] ** 3 // 3,
    _aten._linalg_eigh: lambda a, *_, **__: 9 * a[-1] ** 3,
    _aten.linalg_solve_triangular: _solve,
    _aten._cholesky_solve_helper: lambda b, a, *_, **__: 2 * a[-1] ** 2 * b[-1],
    _aten.cholesky_solve: lambda b, a, *_, **__: 2 * a[-1] ** 2 * b[-1],
}


def counted(work: Callable[[], Any]) -> int:
    """FLOPs of what `work` does."""
    with FlopCounterMode(display=False, custom_mapping=_FACTORISATIONS) as counter:
        work()
    return counter.get_total_flops()


def sae_step(d: int, width: int, k: int, dead: bool = False) -> float:
    """Of one training step of a TopK SAE of SAELens, per row; `dead`: with the auxiliary loss at
    work on dead features (it is as dear however many there are)."""
    from core.saes.run import new_trainer

    trainer = new_trainer(d, width, k, ROWS, 1, 1e-4, float(dead), 1, 0)
    trainer.n_forward_passes_since_fired += 2
    return (
        counted(
            lambda: trainer.step(torch.randn(ROWS, d, generator=torch.Generator().manual_seed(0)))
        )
        / ROWS
    )


def adam_stitch(d_a: int, d_b: int, n: int, epochs: int = PAPER_EPOCHS) -> float:
    """Of the paper's recipe on n pairs of positions: forward and backward of Eq. 3, `epochs`
    times."""
    up, down = torch.nn.Linear(d_a, d_b), torch.nn.Linear(d_b, d_a)
    x, y = torch.randn(ROWS, d_a), torch.randn(ROWS, d_b)
    return counted(lambda: eq3(up, down, x, y, 1.0).backward()) / ROWS * n * epochs


def exact_stitch(d_a: int, d_b: int, n: int, rounds: int) -> float:
    """Of the exact fitter: second moments of n pairs, then `rounds` of alternating solves."""
    g = torch.Generator().manual_seed(0)

    def rows(d: int, many: int) -> Tensor:
        return torch.randn(many, d, generator=g)

    many = 2 * (d_a + d_b)
    gram = Gram(d_a, d_b)
    gram.update(rows(d_a, many), rows(d_b, many), control=False)
    reading = (
        counted(lambda: Gram(d_a, d_b).update(rows(d_a, ROWS), rows(d_b, ROWS), control=False))
        / ROWS
        * n
    )

    def solving(most: int) -> int:
        config = FitConfig(tolerance=1e-12, max_rounds=most)
        return counted(lambda: fit_moments(gram.moments(), config))

    least, more = solving(2), solving(3)
    return reading + least + (rounds - 2) * (more - least)
