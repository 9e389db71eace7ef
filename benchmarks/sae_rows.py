"""How much text an SAE needs, and how often it should go through it: SAEs of A at a stitch's layer,
trained on ever more rows, more passes or another learning rate, on held-out text.

A candidate is ROWS:PASSES:RATE, such as `262144:6:2e-3`, with `all` for every row of the fit split.
Every SAE is carried over by the stitch as well, and measured in B without further training. Reading
grows with the rows, training with rows times passes.
"""

from bisect import bisect_left
from itertools import accumulate

from benchmarks._measure import Benchmark, Line, quiet, say
from benchmarks.positions import PAIRS
from core.activations.recording import Recording
from core.bench import open_pair
from core.config import POSITIONS
from core.features.firings import read_both
from core.models.pairs import LayerPair
from core.saes.crossing import Crossing
from core.saes.sae import reconstruction
from core.saes.settings import SaeConfig
from core.saes.train import train_sae

CANDIDATES = (
    "all:3:1e-4",
    "all:3:2e-3",
    f"{POSITIONS}:13:2e-3",
    f"{POSITIONS}:6:2e-3",
    f"{POSITIONS}:3:2e-3",
    "131072:6:2e-3",
)
HELD_OUT = POSITIONS // 8


def beginning(recording: Recording, rows: int) -> Recording:
    """The first windows of a recording that hold so many rows."""
    part = Recording(recording.folder)
    enough = bisect_left(list(accumulate(part.rows)), rows) + 1
    part.shards, part.rows = part.shards[:enough], part.rows[:enough]
    return part


def main() -> None:
    pairs = list(PAIRS)
    p = Benchmark(
        "sae_rows",
        __doc__,
        "make bench ONLY=sae_rows BENCH_ARGS='--pair smollm2-gemma3'",
        {"pair": "smollm2-gemma3"},
    )
    p.add("--pair", choices=pairs, default="nano", help="the pair whose A is read")
    p.add("--width", type=int, default=SaeConfig().width, help="features of each SAE")
    p.add("--candidates", nargs="+", default=list(CANDIDATES), help="ROWS:PASSES:RATE")
    args = p.options()
    quiet()

    bench = open_pair(args.pair)
    stitch = PAIRS[args.pair]
    makers = bench.workspace.entry(f"stitches/{stitch}").makers
    layers = LayerPair(a=makers["layer_a"], b=makers["layer_b"])
    held_out = read_both(bench, layers, "held-out", HELD_OUT)
    rows = bench.rows("a", layers.a, "fit")

    lines = []
    for candidate in args.candidates:
        many, passes, rate = candidate.split(":")
        some = rows if many == "all" else beginning(rows, int(many))
        config = SaeConfig(width=args.width, epochs=int(passes), lr=float(rate))
        sae = train_sae(some, "h", config, {}, candidate)
        carried = Crossing(bench, sae, stitch).transferred
        in_a = reconstruction(sae, held_out.streams("a"))
        in_b = reconstruction(carried, held_out.streams("b"))
        note = (
            f"{some.n:,} rows; in B {100 * in_b['explained_variance']:.1f} %; dead"
            f" {100 * in_a['dead']:.0f} %"
        )
        share = 100 * in_a["explained_variance"]
        lines.append(Line(f"{candidate}: variance explained in A", share, "%", note=note))
        say(f"{candidate}: {share:.1f} %, {note}")

    settings = {"pair": args.pair, "width": args.width, "stitch": stitch}
    p.show("sae_rows: how much text an SAE needs", settings, lines)


if __name__ == "__main__":
    main()
