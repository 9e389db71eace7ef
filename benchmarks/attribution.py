"""Eq. 10 with a cost that follows active features, against a straightforward dense pass over the
same activations.

Both get the activations [rows, features] of two TopK SAEs (half of each row's features shared), the
decoders and the unembedding rows of the tokens that came next, and accumulate what Pearson's r
needs. The dense pass forms activation times logit weight for every feature by one matrix product a
side, in the chunk size that is fastest for it; it keeps no blocks for a bootstrap, ours does.
Encoding is in neither: it is the same work. Memory is that of our pass alone over `--positions`
positions at the largest width, in a process of its own.
"""

import argparse
import json
from typing import Any

import torch
from torch import Tensor

from benchmarks._measure import Benchmark, Line, alone, peak_rss, say, seconds
from core.features.attribution import BLOCKS, ENCODED, Attribution, contributions

D_A, D_B = 576, 640
CHUNKS = (128, 512, 2048)
"""Rows at a time that the dense pass may choose from."""


class Made:
    """Decoders of `features`, and draws of activations and unembedding rows."""

    def __init__(self, features: int, k: int, seed: int = 0) -> None:
        self.g = torch.Generator().manual_seed(seed)
        self.features, self.k = features, k
        self.decoders = [torch.randn(features, d, generator=self.g) / d**0.5 for d in (D_A, D_B)]

    def draw(self, n: int) -> tuple[list[Tensor], list[Tensor]]:
        """(activations of A and of B [n, features], unembedding rows of A and of B)."""
        shared = torch.randint(self.features, (n, self.k // 2), generator=self.g)
        acts = []
        for _ in range(2):
            own = torch.randint(self.features, (n, self.k - self.k // 2), generator=self.g)
            at = torch.cat([shared, own], dim=1)
            acts.append(
                torch.zeros(n, self.features).scatter_(
                    1, at, torch.rand(at.shape, generator=self.g) + 0.1
                )
            )
        return acts, [torch.randn(n, d, generator=self.g) for d in (D_A, D_B)]


def sparse(
    into: Attribution, block: int, made: Made, acts: list[Tensor], rows: list[Tensor]
) -> None:
    into.update(
        block,
        *(contributions(x, dec, r) for x, dec, r in zip(acts, made.decoders, rows, strict=True)),
    )


def dense(sums: Tensor, made: Made, acts: list[Tensor], rows: list[Tensor], chunk: int) -> None:
    """Adds to sums [5, features] float64."""
    for part in torch.arange(len(acts[0])).split(chunk):
        at = slice(int(part[0]), int(part[-1]) + 1)
        x, y = (r[at] @ dec.T for dec, r in zip(made.decoders, rows, strict=True))
        x.mul_(acts[0][at])
        y.mul_(acts[1][at])
        sums[0] += x.sum(0)
        sums[1] += y.sum(0)
        sums[4] += torch.einsum("nf,nf->f", x, y)
        sums[2] += x.square_().sum(0)
        sums[3] += y.square_().sum(0)


def pearson(n: int, sums: Tensor) -> Tensor:
    x, y, xx, yy, xy = sums
    return (n * xy - x * y) / ((n * xx - x * x) * (n * yy - y * y)).sqrt()


def compare(features: int, k: int, rows: int, turns: int) -> list[Line]:
    made = Made(features, k)
    found, sums, n = Attribution(features), torch.zeros(5, features, dtype=torch.float64), 0
    best = min(
        CHUNKS,
        key=lambda c: seconds(lambda: dense(torch.zeros_like(sums), made, *made.draw(256), c)),
    )
    ours, theirs = [], []
    for turn in range(turns):
        say(f"{features:,} features, turn {turn + 1} of {turns}")
        acts, unembedding = made.draw(rows)
        ours.append(seconds(lambda: sparse(found, turn % BLOCKS, made, acts, unembedding)))  # noqa: B023
        theirs.append(seconds(lambda: dense(sums, made, acts, unembedding, best)))  # noqa: B023
        n += rows
    mine = torch.from_numpy(found.table().correlation.to_numpy())
    reference = pearson(n, sums)
    known = mine.isfinite() & reference.isfinite()
    worst = float((mine - reference)[known].abs().max())
    ratios = [t / o for o, t in zip(ours, theirs, strict=True)]
    what = f"{features:,} features: "
    return [
        Line.median(what + "ours", [rows / t for t in ours], "positions/s"),
        Line.median(
            what + "dense",
            [rows / t for t in theirs],
            "positions/s",
            note=f"{best} at a time",
        ),
        Line.median(
            what + "ours against dense",
            ratios,
            "times as fast",
            at_least=10 if features >= 65_536 else None,
        ),
        Line(
            what + "largest difference of r", worst, at_most=1e-4, note=f"over {int(known.sum()):,}"
        ),
    ]


def worker(features: int, k: int, positions: int) -> float:
    """Peak resident bytes of our pass over `positions` positions, in the parts that
    `measure_attribution` takes."""
    made, found, done = Made(features, k), Attribution(features), 0
    step = max(1, ENCODED // features)
    while done < positions:
        sparse(found, done // step % BLOCKS, made, *made.draw(step))
        done += step
    found.table()
    return peak_rss()


def run(args: argparse.Namespace) -> tuple[dict[str, Any], list[Line]]:
    lines = [line for f in args.features for line in compare(f, args.k, args.rows, args.turns)]
    most = max(args.features)
    say(f"memory over {args.positions:,} positions")
    peak = alone("attribution", "--worker", most, "--k", args.k, "--positions", args.positions)
    lines.append(
        Line(
            f"peak memory, {most:,} features, {args.positions:,} positions",
            peak / 1e9,
            "GB",
            at_most=4,
        )
    )
    return {
        "k": args.k,
        "widths": f"{D_A}/{D_B}",
        "positions a turn": args.rows,
        "turns": args.turns,
        "dtype": torch.float32,
    }, lines


def main() -> None:
    p = Benchmark("attribution", __doc__)
    p.add("--features", type=int, nargs="+", default=[4096, 65_536], help="widths of the SAE")
    p.add("--k", type=int, default=32, help="active features a position")
    p.add("--rows", type=int, default=2048, help="positions in a turn")
    p.add("--turns", type=int, default=5, help="turns of each")
    p.add("--positions", type=int, default=1_000_000, help="positions for the peak of memory")
    p.add("--worker", type=int, help=argparse.SUPPRESS)
    args = p.options()
    if args.worker is not None:
        print(json.dumps(worker(args.worker, args.k, args.positions)))
        return
    settings, lines = run(args)
    p.show("attribution: Eq. 10, sparse against dense", settings, lines)


if __name__ == "__main__":
    main()
