"""What `core.activations.planning` says of a harvest against what one takes here, and what dividing
it costs: CPU seconds of one thread, so that other work on the machine matters little.

Then the clock's seconds: two processes side by side, one thread each, and their merge, against one
process with one thread, turn about. That is true only where nothing else runs and there are two
cores. Models are open before the clock starts. Last, what a shard takes of memory.
"""

import argparse
import secrets
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from benchmarks._contenders import Contender
from benchmarks._measure import Benchmark, Line, peak_rss, quiet, say, seconds
from core.activations.divided import Division, harvest_shard, merge_moments
from core.activations.harvest import harvest_config, harvest_folder, harvest_moments
from core.activations.planning import Machine, Plan, Size
from core.activations.shards import Shard
from core.bench import Bench, open_pair
from core.models.live import LiveModel
from core.models.pairs import LayerPair
from core.text.corpus import Document

RUNS = (("nano", 512), ("nano", 1024), ("smollm2-gemma3", 128))
"""Pairs, and documents that are read of them."""


def rate(dtype: torch.dtype, seconds: float = 1.0) -> float:
    """FLOP in a CPU second, the best of some products."""
    x = torch.ones(1024, 1024, dtype=dtype)
    best, end = 0.0, time.process_time() + seconds
    while time.process_time() < end:
        start = time.process_time()
        float((x @ x)[0, 0])
        best = max(best, 2 * 1024**3 / (time.process_time() - start))
    return best


def size(model: LiveModel, layer: int) -> Size:
    embedding = model.hf.get_input_embeddings().weight
    body = sum(p.numel() for p in model.hf.parameters()) - embedding.numel()
    head = model.hf.get_output_embeddings().weight
    if head.data_ptr() != embedding.data_ptr():
        body -= head.numel()
    spec = model.spec
    return Size(spec.title, body, spec.n_layers, spec.d_model, layer)


def predicted(bench: Bench, layers: LayerPair, tokens: Sequence[int], pairs: int) -> float:
    """CPU seconds by the plan's terms; tokenizers differ, so each model's tokens count apart."""
    double = rate(torch.float64)
    machine = Machine("here", rate(bench.a.where.dtype), double, double)
    a, b = size(bench.a, layers.a), size(bench.b, layers.b)
    passes = tokens[0] * a.flops + tokens[1] * b.flops
    return passes / (machine.products * machine.share) + Plan(a, b, pairs).sums / machine.sums


def tokens_of(model: LiveModel, documents: Sequence[Document]) -> int:
    return sum(len(text.ids) for text in model.encode([d.text for d in documents]))


def measured(key: str, many: int) -> list[Line]:
    bench = open_pair(key)
    layers = bench.pair.layer_pairs[0]
    documents = bench.corpus.split("fit")[:many]
    config = harvest_config(bench.a, bench.b, bench.corpus.fingerprint, "fit")
    config |= {"documents": many, "run": secrets.token_hex(8)}

    start = time.process_time()
    _, ledgers = harvest_moments(bench.a, bench.b, documents, [layers], config)
    alone = time.process_time() - start
    ledger = ledgers[layers.name]

    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        division = Division(layers, config | {"divided": True}, Path(folder))
        for index in range(2):
            harvest_shard(bench.a, bench.b, documents, [division], Shard(index, 2))
        merge_moments([division])
        divided = time.process_time() - start
    for made in (config, division.config):
        shutil.rmtree(harvest_folder("moments", made))

    tokens = [tokens_of(model, documents) for model in (bench.a, bench.b)]
    plan = predicted(bench, layers, tokens, ledger.read)
    what = f"{key}, {layers.name}, {sum(tokens):,} tokens:"
    return [
        Line(f"{what} CPU time of a harvest", alone, "s"),
        Line(f"{what} the same by the plan", plan, "s"),
        Line(f"{what} measured against planned", alone / plan, "times"),
        Line(f"{what} two shards and their merge against one process", divided / alone, "times"),
    ]


class Reader:
    """A process with a pair and some of its text, which it reads whole or a shard of."""

    def __init__(self, key: str, many: int) -> None:
        self.bench = open_pair(key)
        self.layers = self.bench.pair.layer_pairs[0]
        self.documents = self.bench.corpus.split("fit")[:many]
        self.models = self.bench.a, self.bench.b

    def config(self, run: str) -> dict[str, object]:
        config = harvest_config(*self.models, self.bench.corpus.fingerprint, "fit")
        return config | {"documents": len(self.documents), "run": run}

    def division(self, run: str, folder: str) -> Division:
        return Division(self.layers, self.config(run) | {"divided": True}, Path(folder))

    def whole(self, run: str) -> None:
        config = self.config(run)
        harvest_moments(*self.models, self.documents, [self.layers], config)
        shutil.rmtree(harvest_folder("moments", config))

    def shard(self, index: int, run: str, folder: str) -> None:
        division = self.division(run, folder)
        harvest_shard(*self.models, self.documents, [division], Shard(index, 2))

    def merge(self, run: str, folder: str) -> None:
        division = self.division(run, folder)
        merge_moments([division])
        shutil.rmtree(harvest_folder("moments", division.config))

    def peak(self) -> float:
        """Largest memory so far, in bytes."""
        return peak_rss()


def divided(readers: Sequence[Contender]) -> None:
    """A shard by each of two readers at once, and the merge."""
    run = secrets.token_hex(8)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        both = [pool.submit(x, "shard", i, run, folder) for i, x in enumerate(readers)]
        for shard in both:
            shard.result()
        readers[0]("merge", run, folder)


def peak_of_shard(key: str, many: int) -> float:
    """Largest memory of a process that reads one of two shards, in bytes."""
    reader = Contender(Reader, key, many)
    with tempfile.TemporaryDirectory() as folder:
        reader("shard", 0, secrets.token_hex(8), folder)
        peak: float = reader("peak")
    reader.close()
    return peak


def side_by_side(key: str, many: int, turns: int) -> list[Line]:
    """Two processes against one by the clock, and the memory of a process that reads shards."""
    readers = [Contender(Reader, key, many) for _ in range(2)]
    alone, together = [], []

    def one() -> None:
        alone.append(seconds(lambda: readers[0]("whole", secrets.token_hex(8))))

    def two() -> None:
        together.append(seconds(lambda: divided(readers)))

    for turn in range(turns):
        # Each is first in turn, so that neither always meets a warmer machine.
        for read in (one, two) if turn % 2 == 0 else (two, one):
            read()
        say(f"turn {turn + 1} of {turns}: {alone[-1]:.1f} s alone, {together[-1]:.1f} s divided")

    for reader in readers:
        reader.close()
    peak, twice = peak_of_shard(key, many), peak_of_shard(key, 2 * many)

    what = f"{key}, {many:,} documents:"
    ratios = [one / two for one, two in zip(alone, together, strict=True)]
    return [
        Line.median(f"{what} one process, one thread", alone, "s"),
        Line.median(f"{what} two processes, one thread each, and their merge", together, "s"),
        Line.median(f"{what} two processes against one, by the clock", ratios, "x", at_least=1.8),
        Line(f"{what} peak memory of a shard", peak / 1e9, "GB", at_most=1.8),
        Line(f"{what} the same with twice the text", twice / peak, "times", at_most=1.1),
    ]


def options(benchmark: Benchmark) -> argparse.Namespace:
    benchmark.add("--documents", type=int, default=4096, help="of nano, read by the clock")
    benchmark.add("--turns", type=int, default=5, help="by the clock")
    return benchmark.options()


def main() -> None:
    benchmark = Benchmark("scale", __doc__)
    args = options(benchmark)
    quiet()
    torch.set_num_threads(1)
    lines = side_by_side("nano", args.documents, args.turns)
    for key, many in RUNS:
        lines += measured(key, many)
    benchmark.show("scale: a harvest as planned, and divided", {"threads": 1}, lines)


if __name__ == "__main__":
    main()
