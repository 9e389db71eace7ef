"""What a build of a pair will take: seconds, memory, disk."""

import time

import psutil
import torch
from pydantic import Field

from core.config import POSITIONS, BuildConfig, Frozen
from core.models.live import runtime
from core.models.prospect import Prospect
from core.models.validation import check_device

EFFICIENCY = 0.35
"""Share of the measured matrix rate that reading text reaches."""
PASS_SECONDS = 2e-4
"""What a layer costs a pass over 2,000 tokens besides its products."""
LOADING = 20.0
"""Seconds to import libraries and open both models."""


class Estimate(Frozen):
    """What a build will take, roughly, on a machine that does nothing else."""

    seconds: float
    steps: dict[str, float]
    """Seconds of each."""
    memory: int
    """Bytes at its peak; `available` are free now."""
    available: int
    disk: int = Field(ge=0)
    """Bytes of workspace and moments."""
    download: int = Field(ge=0)
    rate: float
    """Matrix products that this machine was measured to do, FLOP/s."""


def speed(seconds: float = 0.3) -> float:
    """Matrix products of this machine in the models' precision, FLOP/s, the best of a few."""
    where = runtime()
    check_device(where)
    x = torch.ones(1024, 1024, dtype=where.dtype, device=where.device)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        float((x @ x)[0, 0])
        best = max(best, 2 * 1024**3 / (time.perf_counter() - start))
    return best


def estimate(
    found: Prospect,
    positions: int | None = POSITIONS,
    held_out_tokens: int = BuildConfig().held_out_tokens,
    select_tokens: int = BuildConfig().select_tokens,
) -> Estimate:
    """What `build` of this pair will take. The terms: reading text (2 FLOP a parameter and token,
    the embeddings left out), scoring (the unembedding too), SVCCA of every two layers, exact solves
    (eigendecompositions of both widths)."""
    a, b, rate = found.a, found.b, speed()
    d_a, d_b, l_a, l_b = a.spec.d_model, b.spec.d_model, a.spec.n_layers, b.spec.n_layers
    pairs = max(1, len(found.pair.layer_pairs))
    depth = {
        side: max((getattr(p, side) for p in found.pair.layer_pairs), default=n * 0.7) / n
        for side, n in (("a", l_a), ("b", l_b))
    }
    rows = found.characters * 0.75 * a.tokens_per_character * found.share_a
    rows = min(rows, positions * 1.25 if positions else rows)
    per_row = {"a": 1 / found.share_a, "b": 1 / found.share_b}
    sides = (("a", a), ("b", b))

    def read(n: float, whole: bool) -> float:
        out = 0.0
        for side, one in sides:
            tokens, part = n * per_row[side], 1.0 if whole else depth[side]
            out += (
                part
                * tokens
                * (2 * one.body / (rate * EFFICIENCY) + PASS_SECONDS * one.spec.n_layers / 2000)
            )
        return out

    def score(tokens: float, conditions: float) -> float:
        out = 0.0
        for _, one in sides:
            flops = (
                one.body + 2 * one.vocabulary * one.spec.d_model
            )  # half of the body, the whole head
            out += (
                tokens
                * conditions
                / 2
                * (flops / (rate * EFFICIENCY) + PASS_SECONDS * one.spec.n_layers / 2000)
            )
        return out

    double = rate / 8  # eigendecompositions in float64
    solve = 15 * 25 * (d_a**3 + d_b**3) / double
    compare = 9 * (l_a * d_a**3 + l_b * d_b**3) / double + l_a * l_b * 3 * 8192 * d_a * d_b / rate
    steps = {
        "opening the models": LOADING,
        "SVCCA": read(8192, True) + compare,
        "reading the text": read(rows, False),
        "study and alpha sweep": 17 * solve + score(select_tokens, 76),
        "stitches and Table 1": pairs * (2 * solve + score(held_out_tokens, 14)),
    }
    width = 2 if runtime().dtype != torch.float32 else 4
    gram = (d_a + d_b + 1) ** 2 * 8
    memory = 1.2e9 + (a.parameters + b.parameters) * width + 8 * pairs * gram
    memory += 8192 * (l_a * d_a + l_b * d_b) * 4 + 1024 * 4 * max(a.vocabulary, b.vocabulary)
    disk = pairs * (2 * d_a * d_b * 6 + 3 * gram) + 1_000_000
    return Estimate(
        seconds=sum(steps.values()),
        steps=steps,
        memory=int(memory),
        available=psutil.virtual_memory().available,
        disk=int(disk),
        download=sum(one.bytes for one in (a, b) if not one.here),
        rate=rate,
    )


def as_text(found: Prospect, cost: Estimate) -> str:
    lines = [f"{found.pair.key}: {found.pair.title}, {found.pair.family}"]
    for side, one in (("A", found.a), ("B", found.b)):
        tokens = "" if one.tokenizer == one.vocabulary else f" (tokenizer {one.tokenizer:,})"
        where = "here" if one.here else f"to download, {one.bytes / 1e9:.2g} GB"
        lines.append(
            f"  {side} {one.spec.title}: {one.architecture}, {one.spec.n_layers} layers of width"
            f" {one.spec.d_model}, vocabulary {one.vocabulary:,}{tokens},"
            f" {one.parameters / 1e6:,.0f} M parameters, {where}"
        )
    lines.append(
        f"  tokenizers {'equal' if found.same_tokenizer else 'differ'}; {found.share_a:.1%} of A's"
        f" and {found.share_b:.1%} of B's tokens pair up"
    )
    layers = ", ".join(p.name for p in found.pair.layer_pairs) or "middle of A, SVCCA's pick in B"
    lines.append(f"  layers: {layers}")
    lines += [f"  note: {note}" for note in found.notes]
    duration = f"{cost.seconds:.0f} s" if cost.seconds < 90 else f"{cost.seconds / 60:.0f} min"
    lines.append(
        f"  a build takes about {duration}, {cost.memory / 1e9:.1f} GB of memory "
        f"({cost.available / 1e9:.1f} free) and {cost.disk / 1e6:.0f} MB of disk"
    )
    return "\n".join(lines)
