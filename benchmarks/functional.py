"""Heuristic scores of many features for every downstream head of Gemma-3-270M: what each head reads
for the first token (gradients over a few documents) and one matrix product a layer, with the model
already open.

The features are random directions: the work does not depend on what they are. `--layer` is where
they are; at 0 every head of the model is downstream.
"""

import time

import torch

from benchmarks._measure import Benchmark, Line, quiet, say, seconds
from core.functional.attention import Heads, readers, scores
from core.functional.heads import reading
from core.functional.sides import ScanConfig
from core.models.loading import load_shared
from core.models.pairs import PAIRS, get_pair
from core.text.corpus import load_corpus


def main() -> None:
    p = Benchmark("functional", __doc__)
    p.add("--pair", default="smollm2-gemma3", choices=list(PAIRS), help="its B is measured")
    p.add("--features", type=int, default=16_384)
    p.add("--layer", type=int, default=0)
    args = p.options()
    quiet()
    pair = get_pair(args.pair)
    model = load_shared(pair.b)  # type: ignore[arg-type]
    documents = load_corpus(pair.corpus).split("held-out")[: ScanConfig().reading]
    layers = range(args.layer, model.spec.n_layers)
    decoder = torch.randn(
        args.features, model.spec.d_model, generator=torch.Generator().manual_seed(0)
    )
    heads = Heads(model)
    batches = reading(model, documents)
    say(f"{args.features:,} features x {len(layers) * heads.heads} heads of {model.spec.title}")
    read: dict[int, torch.Tensor] = {}
    worked = time.process_time()
    first = seconds(lambda: read.update(readers(heads, batches, layers)))
    product = seconds(lambda: [x for _, x in scores(decoder, read)])
    settings = {
        "model": model.spec.key,
        "features": args.features,
        "heads": len(layers) * heads.heads,
        "documents": len(documents),
        "tokens": int(sum(w.sum() for _, w in batches)),
    }
    lines = [
        Line("scores of all features for all heads", first + product, "s", at_most=30),
        Line("of that, what heads read", first, "s"),
        Line("of that, the products", product, "s"),
        Line(
            "processor time",
            time.process_time() - worked,
            "s",
            note="what it takes where nothing else runs",
        ),
    ]
    p.show("functional features: heuristic scores", settings, lines)


if __name__ == "__main__":
    main()
