"""What `cross` says that a text costs, against what `stitch eval` says of the same documents: total
losses over held-out documents, both ways.

Both go the same way through the models; `cross` reads a text alone and all its lanes in one batch,
`stitch eval` a batch of texts a condition. In bfloat16 that rounds otherwise.
"""

import sys
from collections import defaultdict

import pandas as pd

from benchmarks import _measure as m
from core.bench import open_pair
from core.models.pairs import LayerPair
from core.stitches import downstream
from core.stitches.directions import Direction
from core.stitches.passage import read
from core.stitches.stitch import load_stitch
from core.stitches.stitched import Stitched

DOCUMENTS = 40
LONGEST = 700
"""Characters of a document."""
DIRECTIONS: tuple[Direction, ...] = ("a_to_b", "b_to_a")
WITHIN = 1e-3


def main() -> None:
    benchmark = m.Benchmark("crossing_losses", __doc__)
    benchmark.add("--pair", default="smollm2-gemma3", help="pair whose losses are compared")
    benchmark.add("--stitch", default="L20-L9", help="stitch that is crossed")
    benchmark.add("--documents", type=int, default=DOCUMENTS, help="held-out documents read")
    given = benchmark.options()
    m.quiet()

    bench = open_pair(given.pair)
    entry = bench.workspace.entry(f"stitches/{given.stitch}").makers
    layers = LayerPair(a=entry["layer_a"], b=entry["layer_b"])
    stitch = load_stitch(bench.workspace.path(f"stitches/{given.stitch}"))
    short = [d for d in bench.corpus.split("held-out") if len(d.text) < LONGEST]
    documents = short[: given.documents]

    names = {"a", "b", *DIRECTIONS}
    conditions = [*downstream.unpatched(), *downstream.stitched(stitch)]
    chosen = [condition for condition in conditions if condition.name in names]
    losses = downstream.measure(bench.a, bench.b, documents, layers, chosen)
    table = pd.DataFrame(losses)
    evaluated = table.groupby("condition").loss.sum()

    crossed: dict[str, float] = defaultdict(float)
    apart: dict[str, float] = defaultdict(float)
    for document in documents:
        own = table.loc[table.document == document.id].set_index("condition").loss
        for direction in DIRECTIONS:
            stitched = Stitched(bench.a, bench.b, layers, stitch, direction)
            totals = read(stitched, document.text).totals
            for key in (direction, stitched.speaker):
                loss = totals[key]["loss"] * totals[key]["tokens"]
                crossed[key] += loss
                apart[key] = max(apart[key], abs(loss / own[key] - 1))

    lines = [
        m.Line(
            f"{key}, total over documents",
            abs(crossed[key] / evaluated[key] - 1),
            "relative",
            at_most=WITHIN,
            note=f"{crossed[key]:.2f} against {evaluated[key]:.2f} nats; one document at most"
            f" {apart[key]:.1e}",
        )
        for key in sorted(crossed)
    ]
    settings = {
        "pair": given.pair,
        "stitch": given.stitch,
        "documents": len(documents),
        "tokens": int(table.loc[table.condition == "b"].tokens.sum()),
        "dtype": str(bench.b.where.dtype),
    }
    benchmark.show("Losses of cross against stitch eval", settings, lines)


if __name__ == "__main__":
    sys.exit(main())
