"""What `core.activations.planning` says of a harvest against what one takes here, and what dividing
it costs: CPU seconds of one thread, so that other work on the machine matters little."""

import secrets
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks._measure import Benchmark, Line, quiet
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


def main() -> None:
    benchmark = Benchmark("scale", __doc__)
    benchmark.options()
    quiet()
    torch.set_num_threads(1)
    lines = []
    for key, many in RUNS:
        lines += measured(key, many)
    benchmark.show("scale: a harvest as planned, and divided", {"threads": 1}, lines)


if __name__ == "__main__":
    main()
