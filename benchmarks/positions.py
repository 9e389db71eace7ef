"""How much text a stitch needs: one layer pair fitted on ever more pairs of positions, beside the
stitch that ships, which was fitted on all of the text, on held-out text.

Reading is nearly all of what a build takes and grows with the text; a fit from moments does not.
Layers and setting are those of the stitch that ships.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from benchmarks._measure import Benchmark, Line, quiet
from core.activations.gram import Gram, Moments
from core.activations.harvest import harvest_config
from core.activations.recording import harvest_recording
from core.bench import Bench, open_pair
from core.config import POSITIONS, BuildConfig
from core.models.pairs import LayerPair
from core.stitches import downstream
from core.stitches.fit import fit_moments, quality
from core.stitches.settings import FitConfig
from core.stitches.stitch import Stitch, load_stitch
from core.text.corpus import Split

PAIRS = {"nano": "L2-L3", "smollm2-gemma3": "L20-L9"}
"""And the stitch whose layers and setting are taken."""
SIZES = (16_384, 65_536, 131_072, POSITIONS)
HELD_OUT = POSITIONS // 4
WITHIN = 1.0
"""Per cent of Eq. 3 that a build may leave by reading no more than it does."""


def moments_at(
    bench: Bench,
    layers: LayerPair,
    split: Split,
    sizes: Sequence[int],
) -> Iterator[Moments]:
    """Of the first pairs of positions of a split: of as many as each of `sizes`, ascending, by
    whole windows of text."""
    config = harvest_config(bench.a, bench.b, bench.corpus.fingerprint, split, sizes[-1])
    documents = bench.corpus.split(split)
    recording = harvest_recording(bench.a, bench.b, documents, layers, config, f"reading {split}")

    gram = Gram(bench.a.spec.d_model, bench.b.spec.d_model)
    waiting = list(sizes)
    for rows_a, rows_b in recording.in_order(("h_a", "h_b")):
        gram.update(rows_a, rows_b, control=False)
        if waiting and gram.n >= waiting[0]:
            yield gram.moments()
            waiting.pop(0)


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


def measured(pair: str, sizes: Sequence[int]) -> list[Line]:
    bench = open_pair(pair)
    shipped = load_stitch(bench.workspace.path(f"stitches/{PAIRS[pair]}"))
    layers = LayerPair(a=shipped.makers["layer_a"], b=shipped.makers["layer_b"])
    config = FitConfig.like(shipped.makers)
    (held_out,) = moments_at(bench, layers, "held-out", [HELD_OUT])
    known = {moments.n: moments for moments in moments_at(bench, layers, "fit", sizes)}
    scale = known[max(known)]

    stitches = {n: fit_moments(moments, config) for n, moments in known.items()}
    stitches[shipped.makers["n_fit"]] = shipped
    increase = losses(bench, layers, stitches)
    least = quality(shipped, held_out, config.metric, config.alpha, scale)["eq3"]
    lines = []
    for n, stitch in stitches.items():
        left = quality(stitch, held_out, config.metric, config.alpha, scale)
        up, down = (100 * increase[f"{n}/{way}"] for way in ("a_to_b", "b_to_a"))
        note = (
            f"unexplained {left['fuv_up']:.4f} up, {left['fuv_down']:.4f} down; loss"
            f" {up:+.2f} % up, {down:+.2f} % down"
        )
        if stitch is shipped:
            lines.append(Line(f"{pair}, all of the text, {n:,} pairs", least, "Eq. 3", note=note))
            continue

        lines.append(
            Line(
                f"{pair}, {n:,} pairs: Eq. 3 above that of all of the text",
                100 * (left["eq3"] / least - 1),
                "%",
                at_most=WITHIN if n >= POSITIONS else None,
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
