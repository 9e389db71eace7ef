"""How long whole builds take, and the most memory that they hold: every table and stitch of a pair.

Each is the command itself in a process of its own, in a scratch folder whose caches are empty but
for the models, so that nothing that was read or fitted before helps. The large pair takes most of
an hour. What a machine's matrix products reach stands beside: machines differ by more than builds.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks._measure import Benchmark, Line, matmul_rate, peak_of, quiet, say
from benchmarks._scratch import empty_caches, make_models
from core.models.live import runtime


@dataclass(frozen=True)
class Build:
    """A command, and what it may take."""

    words: tuple[str, ...]
    seconds: float

    @property
    def command(self) -> str:
        return " ".join(self.words)


BUILDS = {
    "nano": Build(("build", "nano"), seconds=100),
    "smollm2-gemma3": Build(("build", "smollm2-gemma3"), seconds=35 * 60),
}
"""By pair."""


def measured(build: Build, environment: Mapping[str, str]) -> list[Line]:
    """The command run once, and what it took.

    Raises RuntimeError where it fails.
    """
    say(build.command)
    python = [sys.executable, "-m", "core", *build.words]
    started = os.times().elapsed
    # What the command prints is progress here: standard output is for the figures.
    printed = [(os.POSIX_SPAWN_DUP2, sys.stderr.fileno(), sys.stdout.fileno())]
    process = os.posix_spawn(sys.executable, python, environment, file_actions=printed)
    _, status, used = os.wait4(process, 0)
    took = os.times().elapsed - started

    if status != 0:
        raise RuntimeError(f"{build.command} ended with {os.waitstatus_to_exitcode(status)}")
    processor = used.ru_utime + used.ru_stime
    return [
        Line(f"{build.command}, by the clock", took, "s", at_most=build.seconds),
        Line(f"{build.command}, of all cores", processor, "s"),
        Line(f"{build.command}, peak memory", peak_of(used) / 1e9, "GB", at_most=6),
    ]


def products() -> Line:
    """What matrix products reach here, in the dtype that models are opened in."""
    dtype = runtime().dtype
    name = str(dtype).removeprefix("torch.")
    rates = [matmul_rate(dtype) / 1e9 for _ in range(3)]
    return Line.median(f"matrix products of this machine, {name}", rates, "GFLOP/s")


def measured_alone(
    builds: Mapping[str, Build],
    pairs: Sequence[str],
    bring: Callable[[str, Path], None] | None = None,
) -> list[Line]:
    """What the builds of some pairs took, each from empty caches and a workspace that is empty but
    for what `bring` puts there, by pair and folder."""
    lines = [products()]
    for pair in pairs:
        make_models(pair)
        with tempfile.TemporaryDirectory(prefix="stitchlens-builds-") as scratch:
            environment = empty_caches(Path(scratch))
            if bring is not None:
                bring(pair, Path(environment["STITCHLENS_WORKSPACES"]))
            lines += measured(builds[pair], environment)
    return lines


def main() -> None:
    quiet()
    pairs = list(BUILDS)
    benchmark = Benchmark(
        "builds",
        __doc__,
        f"make bench ONLY=builds BENCH_ARGS='--pairs {' '.join(pairs)}'",
        {"pairs": pairs},
    )
    benchmark.add("--pairs", nargs="+", choices=pairs, default=["nano"], help="pairs to build")
    args = benchmark.options()

    lines = measured_alone(BUILDS, args.pairs)
    benchmark.show("builds: a workspace from nothing", {"pairs": "/".join(args.pairs)}, lines)


if __name__ == "__main__":
    main()
