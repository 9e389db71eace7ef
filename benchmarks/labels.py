"""Seconds and memory of agreement and labels, for SAEs of several widths on the same text.

The text is the held-out and the select split of a pair, read by both models once. What fires is
drawn: at each position half of the `--k` features belong to its token, so that there are labels to
be chosen, and half are any. Encoding is not in the time: it is the same product for everyone. Each
width has a process of its own; its peak holds the models, the text's predicates and all else.
"""

import argparse
import json
from typing import Any

import numpy as np
import scipy.sparse as sp

from benchmarks._measure import Benchmark, Line, alone, peak_rss, say, seconds
from core.bench import Bench, open_pair
from core.features.agreement import measure_agreement
from core.features.compare import USED
from core.features.firings import Firings, Text, read_both
from core.features.labels import LabelTexts, measure_labels
from core.features.vocabulary import Vocabulary

PRIME = 1_000_003
"""Spreads tokens over features."""


def drawn(text: Text, bench: Bench, features: int, k: int, seed: int) -> Firings:
    """[positions, features]: `k` draws a position, half of them by its token in A, which are the
    same for every `seed`."""
    g = np.random.default_rng(seed)
    document, at_a, _ = text.places
    of_document = [bench.a.encode([d.text])[0].ids for d in text.documents[: document.max() + 1]]
    token = np.array([of_document[d][at] for d, at in zip(document, at_a, strict=True)])

    own = token[:, None] * PRIME + np.arange(k // 2) * 7919
    others = g.integers(features, size=(text.n, k - k // 2))
    feature = np.concatenate([own % features, others], axis=1)
    activation = g.uniform(0.1, 1.0, feature.shape).astype(np.float32)
    rows = np.repeat(np.arange(text.n), k)
    at = (rows, feature.ravel())
    return sp.csc_matrix((activation.ravel(), at), shape=(text.n, features))


def worker(pair: str, features: int, k: int, positions: int | None) -> dict[str, float]:
    """Seconds of agreement and of labels with their predicates, and the peak of memory in bytes
    before and after."""
    bench = open_pair(pair)
    layers = bench.pair.layer_pairs[0]
    training = read_both(bench, layers, "select", positions)
    held_out = read_both(bench, layers, "held-out", positions)
    before = peak_rss()

    firings = {name: drawn(held_out, bench, features, k, seed) for seed, name in enumerate(USED)}
    chosen_on = {
        name: drawn(training, bench, features, k, seed) for seed, name in enumerate(USED[:2])
    }

    def label() -> None:
        vocabulary = Vocabulary()
        learned = vocabulary.learn(training, bench.a)
        texts = LabelTexts(vocabulary, learned, vocabulary.read(held_out, bench.a))
        measure_labels(texts, chosen_on, firings)

    agreement = seconds(lambda: measure_agreement(held_out, firings, 0))
    labels = seconds(label)
    return {
        "agreement": agreement,
        "labels": labels,
        "before": before,
        "peak": peak_rss(),
        "positions": held_out.n + training.n,
    }


def run(args: argparse.Namespace) -> tuple[dict[str, Any], list[Line]]:
    lines = []
    positions = 0.0
    for features in args.features:
        say(f"{features:,} features")
        words = ["--worker", features, "--pair", args.pair, "--k", args.k]
        words += ["--positions", args.positions] if args.positions else []
        measured = alone("labels", *words)
        positions = measured["positions"]
        wide = features >= 65_536
        both = measured["agreement"] + measured["labels"]
        note = f"agreement {measured['agreement']:.0f} s, labels {measured['labels']:.0f} s"
        lines += [
            Line(
                f"{features:,} features: agreement and labels",
                both,
                "s",
                at_most=None if wide else 300,
                note=note,
            ),
            Line(
                f"{features:,} features: peak memory",
                measured["peak"] / 1e9,
                "GB",
                at_most=4,
                note=f"{measured['before'] / 1e9:.2g} before",
            ),
        ]
    return {"pair": args.pair, "k": args.k, "positions": int(positions)}, lines


def main() -> None:
    p = Benchmark("labels", __doc__)
    p.add("--pair", default="nano", help="a pair whose text is read")
    p.add("--features", type=int, nargs="+", default=[4096, 65_536], help="widths of the SAE")
    p.add("--k", type=int, default=32, help="active features a position")
    p.add("--positions", type=int, help="of each split; the whole of it if not given")
    p.add("--worker", type=int, help=argparse.SUPPRESS)
    args = p.options()
    if args.worker is not None:
        print(json.dumps(worker(args.pair, args.worker, args.k, args.positions)))
        return
    settings, lines = run(args)
    p.show("labels: what features are called, and whether they agree", settings, lines)


if __name__ == "__main__":
    main()
