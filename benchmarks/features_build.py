"""How long the features of an SAE take, and the most memory that they hold: an SAE is trained,
carried over and measured in both models, and one of the second model's own is trained beside it.

It is the command itself in a process of its own, from a stitch that ships, in a scratch folder
whose caches are empty but for the models.
"""

from pathlib import Path

from benchmarks._measure import Benchmark, quiet
from benchmarks.builds import Build, measured_alone
from benchmarks.positions import PAIRS
from core.workspace.store import Workspace

BUILDS = {
    "nano": Build(("features", "build", "nano"), seconds=15 * 60),
    "smollm2-gemma3": Build(("features", "build", "smollm2-gemma3"), seconds=15 * 60),
}
"""By pair."""


def bring_stitch(pair: str, to: Path) -> None:
    """What features need of the workspace that ships."""
    shipped, scratch = Workspace(pair), Workspace(pair, to)
    for name in ("pair", f"stitches/{PAIRS[pair]}", f"controls/{PAIRS[pair]}"):
        scratch.copy_in(name, shipped.path(name), shipped.entry(name))


def main() -> None:
    quiet()
    pairs = list(BUILDS)
    benchmark = Benchmark(
        "features_build",
        __doc__,
        "make bench ONLY=features_build BENCH_ARGS='--pairs smollm2-gemma3'",
        {"pairs": ["smollm2-gemma3"]},
    )
    benchmark.add("--pairs", nargs="+", choices=pairs, default=["nano"], help="pairs to build")
    args = benchmark.options()

    lines = measured_alone(BUILDS, args.pairs, bring_stitch)
    title = "features_build: an SAE, carried over and measured"
    benchmark.show(title, {"pairs": "/".join(args.pairs)}, lines)


if __name__ == "__main__":
    main()
