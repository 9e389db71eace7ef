"""Peak memory of a harvest and fit at N and at 4 N positions, each in a fresh process: it must not
grow.

A pair's corpus holds about a million fit positions; for more, its documents are read again. That
takes minutes with nano, an hour with the large pair.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks._measure import Benchmark, Line, alone, peak_rss, quiet, say
from benchmarks._scratch import empty_caches, make_models


def work(pair: str, positions: int) -> dict[str, Any]:
    """In the measured process: a harvest and a fit of this size, then its peak in bytes."""
    from core.activations.harvest import harvest_config, harvest_moments
    from core.bench import open_pair
    from core.config import BuildConfig
    from core.stitches.fit import fit_moments
    from core.stitches.settings import FitConfig

    bench = open_pair(pair, BuildConfig(positions=positions))
    layers = bench.pair.layer_pairs[0]
    documents = bench.corpus.split("fit")
    repeats = 1 + 4 * positions // sum(len(d.text) for d in documents)
    setup = harvest_config(bench.a, bench.b, bench.corpus.fingerprint, "fit", positions)
    grams, _ = harvest_moments(
        bench.a, bench.b, documents * repeats, [layers], setup, f"harvest {positions:,}"
    )
    moments = grams[layers.name].moments()
    fit_moments(moments, FitConfig())
    return {"positions": moments.n, "peak": peak_rss()}


def measured(pair: str, positions: int) -> dict[str, Any]:
    """`work` in a process whose caches are empty but for the models."""
    with tempfile.TemporaryDirectory(prefix="stitchlens-memory-") as scratch:
        environment = empty_caches(Path(scratch))
        return alone("build_memory", "--pair", pair, "--worker", positions, environment=environment)


def run(args: argparse.Namespace) -> tuple[dict[str, Any], list[Line]]:
    make_models(args.pair)
    lines, peaks = [], []
    for positions in args.sizes:
        say(f"{positions:,} positions")
        found = measured(args.pair, positions)
        peaks.append(found["peak"])
        what = f"peak resident memory, {found['positions']:,} positions"
        lines.append(Line(what, found["peak"] / 1e9, "GB", at_most=6))
    growth = 100 * (max(peaks) / min(peaks) - 1)
    lines.append(Line("largest peak above the smallest", growth, "%", at_most=10))
    return {"pair": args.pair, "sizes": "/".join(map(str, args.sizes))}, lines


def main() -> None:
    quiet()
    p = Benchmark("build_memory", __doc__)
    p.add("--pair", default="nano", help="a pair with layer pairs of its own")
    p.add("--sizes", type=int, nargs="+", default=[500_000, 2_000_000], help="positions to harvest")
    p.add("--worker", type=int, help=argparse.SUPPRESS)
    args = p.options()
    if args.worker is not None:
        print(json.dumps(work(args.pair, args.worker)))
        return
    settings, lines = run(args)
    p.show("build_memory: peak memory does not grow with the corpus", settings, lines)


if __name__ == "__main__":
    main()
