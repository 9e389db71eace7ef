"""Peak memory of a harvest and fit at N and at 4 N positions, each in a fresh process: it must not
grow.

A pair's corpus holds about a million fit positions; for more, its documents are read again. That
takes minutes with nano, an hour with the large pair. `--whole` builds a whole workspace (SVCCA,
study, Table 1) in a scratch folder instead.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks._measure import Benchmark, Line, alone, peak_rss, quiet, say


def work(pair: str, positions: int, whole: bool) -> dict[str, Any]:
    """In the measured process: what a build does at this size, then its peak in bytes."""
    from core.activations.harvest import harvest_config, harvest_moments
    from core.bench import open_pair
    from core.config import BuildConfig
    from core.models.pairs import get_pair
    from core.stitches import measure as stitch_measure
    from core.stitches.fit import fit_moments
    from core.stitches.settings import FitConfig

    config = BuildConfig(positions=positions)
    if whole:
        stitch_measure.build(get_pair(pair), config)
        return {"positions": positions, "peak": peak_rss()}
    bench = open_pair(pair, config)
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


def measured(pair: str, positions: int, whole: bool) -> dict[str, Any]:
    """`work` in a process whose caches are empty but for the models."""
    from core.workspace.places import user_cache

    with tempfile.TemporaryDirectory(prefix="stitchlens-memory-") as scratch:
        models = user_cache() / "models"
        models.mkdir(parents=True, exist_ok=True)
        (Path(scratch) / "models").symlink_to(models, target_is_directory=True)
        environment = os.environ | {
            "STITCHLENS_CACHE": scratch,
            "STITCHLENS_WORKSPACES": str(Path(scratch) / "cache"),
        }
        arguments = ["--pair", pair, "--worker", positions, *(["--whole"] if whole else [])]
        return alone("build_memory", *arguments, environment=environment)


def prepare(pair: str) -> None:
    """Make the models' folders first, so that dequantising them is in neither measurement."""
    from core.models.pairs import get_pair
    from core.models.sources import locate

    for spec in (get_pair(pair).a, get_pair(pair).b):
        locate(spec)


def run(args: argparse.Namespace) -> tuple[dict[str, Any], list[Line]]:
    prepare(args.pair)
    lines, peaks = [], []
    for positions in args.sizes:
        say(f"{positions:,} positions")
        found = measured(args.pair, positions, args.whole)
        peaks.append(found["peak"])
        what = f"peak resident memory, {found['positions']:,} positions"
        lines.append(Line(what, found["peak"] / 1e9, "GB", at_most=6))
    growth = 100 * (max(peaks) / min(peaks) - 1)
    lines.append(Line("largest peak above the smallest", growth, "%", at_most=10))
    what = "whole build" if args.whole else "harvest and fit at one layer pair"
    return {"pair": args.pair, "what": what, "sizes": "/".join(map(str, args.sizes))}, lines


def main() -> None:
    quiet()
    p = Benchmark("build_memory", __doc__)
    p.add("--pair", default="nano", help="a pair with layer pairs of its own")
    p.add("--sizes", type=int, nargs="+", default=[500_000, 2_000_000], help="positions to harvest")
    p.add("--whole", action="store_true", help="build a whole workspace, in a scratch folder")
    p.add("--worker", type=int, help=argparse.SUPPRESS)
    args = p.options()
    if args.worker is not None:
        print(json.dumps(work(args.pair, args.worker, args.whole)))
        return
    settings, lines = run(args)
    p.show("build_memory: peak memory does not grow with the corpus", settings, lines)


if __name__ == "__main__":
    main()
