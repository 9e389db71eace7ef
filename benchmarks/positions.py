"""How much text a stitch needs: one layer pair fitted on ever more pairs of positions, and what
each fit leaves over on held-out text.

Reading is nearly all of what a build takes and grows with the text; a fit from moments does not.
The setting is that of the stitch that the workspace holds.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd

from benchmarks._measure import Benchmark, Line, quiet, say
from core.activations.gram import Gram, Moments
from core.activations.harvest import norm_limits, read_window, windows, within
from core.bench import Bench, open_pair
from core.config import POSITIONS, BuildConfig
from core.models.pairs import LayerPair
from core.stitches import downstream
from core.stitches.fit import fit_moments, quality
from core.stitches.settings import FitConfig
from core.stitches.stitch import Stitch
from core.text.corpus import Split

PAIRS = {"nano": "L2-L3", "smollm2-gemma3": "L20-L9"}
"""And the stitch whose layers and setting are taken."""
SIZES = (16_384, 65_536, 131_072, 262_144, 524_288)
HELD_OUT = 65_536
WITHIN = 1.0
"""Per cent of Eq. 3 that a build may leave by reading no more than it does."""


def moments_at(
    bench: Bench,
    layers: LayerPair,
    split: Split,
    sizes: tuple[int, ...],
) -> Iterator[Moments]:
    """Of the first pairs of positions of a split, as many as each of `sizes` or all there are."""
    gram = Gram(bench.a.spec.d_model, bench.b.spec.d_model)
    waiting = list(sizes)
    limits: dict[str, float] = {}
    for documents in windows(bench.corpus.split(split)):
        chunk = read_window(bench.a, bench.b, documents, [layers.a], [layers.b])
        limits = limits or norm_limits(chunk)
        usual = within(chunk, limits, layers)
        gram.update(chunk.h_a[layers.a][usual], chunk.h_b[layers.b][usual], control=False)
        if gram.n >= waiting[0]:
            say(f"{split}: {gram.n:,} pairs of positions")
            yield gram.moments()
            waiting.pop(0)
        if not waiting:
            return
    yield gram.moments()


def losses(
    bench: Bench,
    layers: LayerPair,
    stitches: dict[int, Stitch],
) -> dict[str, float]:
    """Relative increase of the loss on held-out text, by '<positions>/<way>'."""
    conditions = downstream.unpatched()
    for n, stitch in stitches.items():
        ways = downstream.stitched(stitch)[:2]
        conditions += [replace(way, name=f"{n}/{way.name}") for way in ways]

    documents = bench.corpus.split("held-out")
    tokens = BuildConfig().held_out_tokens
    rows = downstream.measure(bench.a, bench.b, documents, layers, conditions, "losses", tokens)
    means = downstream.mean_losses(pd.DataFrame(rows))
    usual = {"a_to_b": means["b"], "b_to_a": means["a"]}
    return {
        name: loss / usual[name.partition("/")[2]] - 1
        for name, loss in means.items()
        if "/" in name
    }


def measured(pair: str, sizes: tuple[int, ...]) -> list[Line]:
    bench = open_pair(pair)
    makers = bench.workspace.entry(f"stitches/{PAIRS[pair]}").makers
    layers = LayerPair(a=makers["layer_a"], b=makers["layer_b"])
    config = FitConfig.like(makers)
    (held_out,) = moments_at(bench, layers, "held-out", (HELD_OUT,))
    known = {moments.n: moments for moments in moments_at(bench, layers, "fit", sizes)}
    stitches = {n: fit_moments(moments, config) for n, moments in known.items()}

    most = known[max(known)]
    left = {
        n: quality(stitch, held_out, config.metric, config.alpha, most)
        for n, stitch in stitches.items()
    }
    least = left[max(known)]["eq3"]
    increase = losses(bench, layers, stitches)
    lines = []
    for n in known:
        share = left[n]
        up, down = (100 * increase[f"{n}/{way}"] for way in ("a_to_b", "b_to_a"))
        note = (
            f"unexplained {share['fuv_up']:.4f} up, {share['fuv_down']:.4f} down; loss"
            f" {up:+.2f} % up, {down:+.2f} % down"
        )
        enough = n >= POSITIONS
        lines.append(
            Line(
                f"{pair}, {n:,} pairs: Eq. 3 above that of the most",
                100 * (share["eq3"] / least - 1),
                "%",
                at_most=WITHIN if enough else None,
                note=note,
            )
        )
    return lines


def run(args: argparse.Namespace) -> tuple[dict[str, Any], list[Line]]:
    sizes = tuple(sorted(args.sizes))
    lines = [line for pair in args.pairs for line in measured(pair, sizes)]
    return {"pairs": "/".join(args.pairs), "sizes": "/".join(map(str, sizes))}, lines


def main() -> None:
    quiet()
    pairs = list(PAIRS)
    benchmark = Benchmark(
        "positions",
        __doc__,
        f"make bench ONLY=positions BENCH_ARGS='--pairs {' '.join(pairs)}'",
        {"pairs": pairs},
    )
    benchmark.add("--pairs", nargs="+", choices=pairs, default=["nano"], help="pairs to fit")
    benchmark.add("--sizes", type=int, nargs="+", default=list(SIZES), help="pairs of positions")
    args = benchmark.options()
    settings, lines = run(args)
    benchmark.show("positions: how much text a stitch needs", settings, lines)


if __name__ == "__main__":
    sys.exit(main())
