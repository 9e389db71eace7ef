"""Products of many rows, as exact as float64, on whatever device the rows are."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Arithmetic = Literal["float64", "float32"]

BITS = 8
"""Of a slice: integers of as many bits, of which `ROWS` products add up to less than float32's 24
bits, so that nothing is rounded."""
ROWS = 256
SLICES = 7
"""56 bits below the largest entry of a column."""
BLOCKS = 16
"""Sums of as many blocks of each pair of slices, of which there are at most SLICES a level, are
whole numbers of 31 bits."""


def arithmetic_of(device: torch.device) -> Arithmetic:
    """In which numbers a device forms products: float64, but for Apple's, which has none."""
    return "float32" if device.type == "mps" else "float64"


def product(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n e"],
    arithmetic: Arithmetic | None = None,
) -> Float[Tensor, "d e"]:
    """xᵀ y in float64, on the rows' device, or on the processor where that has no float64.

    In 'float32' each column is cut into slices of a few bits. The products of slices are exact in
    float32, and are weighed and added in float64 (Ozaki et al., 2012): the same to 1e-12 of the
    product of the columns' lengths.
    """
    if (arithmetic or arithmetic_of(x.device)) == "float64":
        return x.double().T @ y.double()

    scale_x, scale_y = _scale(x), _scale(y)
    total = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64)
    step = ROWS * BLOCKS
    for begin in range(0, len(x), step):
        part = slice(begin, begin + step)
        slices_x, slices_y = _slices(x[part], scale_x), _slices(y[part], scale_y)
        for level in range(SLICES):
            pairs = [(slices_x[k], slices_y[level - k]) for k in range(level + 1)]
            exact = sum(_exact(one, other) for one, other in pairs)
            total += torch.as_tensor(exact).cpu().double() * 2.0 ** -(BITS * (level + 2))
    return total * scale_x.cpu().double()[:, None] * scale_y.cpu().double()


def _scale(x: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """By column, the power of two just above its largest entry."""
    largest = x.float().abs().amax(0)
    return torch.exp2(torch.frexp(largest).exponent.float())


def _slices(
    x: Float[Tensor, "n d"],
    scale: Float[Tensor, " d"],
) -> list[Float[Tensor, "n d"]]:
    """Whole numbers of BITS bits: x = scale · Σ slice[k] 2^(-BITS (k + 1))."""
    rest = x.float() / scale
    slices = []
    for _ in range(SLICES):
        rest = rest * 2**BITS
        whole = rest.trunc()
        slices.append(whole)
        rest = rest - whole
    return slices


def _exact(
    one: Float[Tensor, "n d"],
    other: Float[Tensor, "n e"],
) -> Int[Tensor, "d e"]:
    """The product of whole numbers, in whole numbers."""
    blocks = zip(one.split(ROWS), other.split(ROWS), strict=True)
    return torch.stack([(p.T @ q).int() for p, q in blocks]).sum(0, dtype=torch.int32)
