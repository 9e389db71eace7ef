"""The exact fit of Eq. 3 at the widths of Gemma-2 2B and 9B, from moments: alternating solves whose
cost grows with the cube of the widths.

The moments are of streams that share directions and have as many of their own, with falling
spectra; no model is read. What a fit takes depends on widths and rounds alone.
"""

import torch
from torch import Tensor

from benchmarks._measure import Benchmark, Line, quiet, say
from core.activations.gram import Moments
from core.stitches.fit import fit_moments
from core.stitches.settings import FitConfig

WIDTHS = (2304, 3584)
FALL = -0.5
"""Power of each spectrum. Narrow streams so made take 11 rounds, the large pair's own 9."""
ROWS = 1_000_000
"""Positions that the moments say they are of."""


def moments(d_a: int, d_b: int) -> Moments:
    """Second moments of two streams with as many shared directions as the smaller has; half of a
    stream's variance is its own."""
    g = torch.Generator().manual_seed(0)

    def directions(width: int, many: int) -> Tensor:
        """[width, many] orthogonal columns whose squares fall and add up to 1."""
        drawn = torch.randn(width, many, generator=g, dtype=torch.float64)
        lengths = torch.arange(1, many + 1, dtype=torch.float64) ** FALL
        return torch.linalg.qr(drawn).Q * (lengths / lengths.norm())

    shared = min(d_a, d_b)
    a, b = directions(d_a, shared), directions(d_b, shared)
    own_a, own_b = directions(d_a, d_a), directions(d_b, d_b)
    zeros = [torch.zeros(width, dtype=torch.float64) for width in (d_a, d_b)]
    return Moments(
        ROWS,
        *zeros,
        aa=a @ a.T + own_a @ own_a.T,
        ab=a @ b.T,
        bb=b @ b.T + own_b @ own_b.T,
    )


def main() -> None:
    quiet()
    p = Benchmark("wide_fit", __doc__)
    p.add("--widths", type=int, nargs=2, default=list(WIDTHS), help="of the two streams")
    args = p.options()

    d_a, d_b = args.widths
    say(f"moments of {d_a:,} and {d_b:,}")
    of = moments(d_a, d_b)
    say("fitting")
    made = fit_moments(of, FitConfig()).makers
    line = Line(
        f"exact fit of {d_a:,} x {d_b:,}, from moments",
        made["seconds"],
        "s",
        at_most=600,
        note=f"{made['rounds']} rounds",
    )
    settings = {"widths": f"{d_a} {d_b}", "positions": ROWS}
    p.show("wide_fit: a stitch between wide models", settings, [line])


if __name__ == "__main__":
    main()
