"""What a divided build of a large pair takes, by arithmetic alone: tokens, products, bytes, hours.

Three terms grow with the text: both models' passes up to the stitched layers, the float64 sums, and
the passes for Table 1, which are few. Solves grow with the cube of the widths and are done once.
"""

from dataclasses import dataclass

from core.activations.gram import BLOCK
from core.models.estimate import EFFICIENCY

ROUNDS = 15 * 25
"""Products of cubes of a width in one exact fit: rounds of Eq. 3, each an eigendecomposition."""
FITS = 17
"""Of the metric study and the α sweep."""
STEPS = 6
"""Sums of a shard that wait for their neighbour, at most; see `core.activations.divided`."""


@dataclass(frozen=True)
class Size:
    """A model: parameters of its body (embeddings left out), layers, width, and the stitched
    layer."""

    title: str
    body: float
    layers: int
    width: int
    stitched: int

    @property
    def flops(self) -> float:
        """Of one token up to the stitched layer: two a parameter."""
        return 2 * self.body * self.stitched / self.layers


@dataclass(frozen=True)
class Machine:
    """What one process computes with, FLOP/s: matrix products in the models' precision; in float64
    where the rows are; and in float64 on the processor."""

    title: str
    products: float
    sums: float
    double: float
    share: float = EFFICIENCY
    """Of `products` that reading text reaches."""


@dataclass(frozen=True)
class Plan:
    """A build of one pair at one pair of layers, from `tokens` of text in each model."""

    a: Size
    b: Size
    tokens: float

    @property
    def passes(self) -> float:
        """FLOPs of reading."""
        return self.tokens * (self.a.flops + self.b.flops)

    @property
    def sums(self) -> float:
        """FLOPs of the float64 Gram matrix, without most of what lies below its diagonal, and of
        the shuffled control."""
        a, b = self.a.width, self.b.width
        width = a + b + 1
        upper = sum(min(BLOCK, width - k) * (width - k) for k in range(0, width, BLOCK))
        return 2.0 * self.tokens * (upper + a * b)

    @property
    def solves(self) -> float:
        """FLOPs of every fit, float64."""
        cubes = self.a.width**3 + self.b.width**3
        return (FITS + 2) * ROUNDS * float(cubes)

    @property
    def gram(self) -> int:
        """Bytes of one sum."""
        a, b = self.a.width, self.b.width
        return 8 * ((a + b + 1) ** 2 + a * b)

    def disk(self, shards: int) -> int:
        """Bytes of sums at most, before a merge: each shard's own and those that wait for their
        neighbours."""
        waiting = max(0, STEPS - (shards - 1).bit_length())
        return shards * (1 + waiting) * self.gram

    @property
    def weights(self) -> float:
        """Bytes of both bodies in half precision."""
        return 2 * (self.a.body + self.b.body)

    def hours(self, machine: Machine) -> dict[str, float]:
        """By step; reading and sums divide by the number of processes, solves do not."""
        return {
            "reading": self.passes / (machine.products * machine.share) / 3600,
            "sums": self.sums / machine.sums / 3600,
            "solves": self.solves / machine.double / 3600,
        }


SAMPLES = 180_000
"""Of OpenWebText, in the paper's A: of 512 tokens, for Gemma of 128."""
PLANS: dict[str, Plan] = {
    "Pythia-70M and 160M": Plan(
        Size("Pythia-70M", 19e6, 6, 512, 3),
        Size("Pythia-160M", 85e6, 12, 768, 4),
        SAMPLES * 512,
    ),
    "GPT-2 small and medium": Plan(
        Size("GPT-2 small", 85e6, 12, 768, 6),
        Size("GPT-2 medium", 302e6, 24, 1024, 10),
        SAMPLES * 512,
    ),
    "Gemma-2-2B and 9B": Plan(
        Size("Gemma-2-2B", 2.02e9, 26, 2304, 20),
        Size("Gemma-2-9B", 8.32e9, 42, 3584, 33),
        SAMPLES * 128,
    ),
    "Llama-3.1-8B and 70B": Plan(
        Size("Llama-3.1-8B", 6.98e9, 32, 4096, 16),
        Size("Llama-3.1-70B", 68.5e9, 80, 8192, 40),
        SAMPLES * 128,
    ),
}
"""The paper's pairs, and one with 70 B parameters, in the middle of both."""
CORE = 15.6e9
"""Float64 products of one core of the AMD EPYC that this was measured on, FLOP/s."""
H100 = Machine("H100 and 8 cores", 989e12, EFFICIENCY * 34e12, 8 * CORE)
"""Dense bfloat16 and float64 products by the card's data sheet, not run by us; fits stay on the
processor."""
SHARDS = 8


def as_markdown(machine: Machine = H100) -> str:
    """The table of docs/scale.md."""
    lines = [
        "| pair | tokens, each | passes, FLOP | sums, FLOP | fits, FLOP | weights |"
        f" sums on disk, 1 and {SHARDS} shards | reading + sums + fits, hours with one"
        f" {machine.title} |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for title, plan in PLANS.items():
        hours = " + ".join(f"{x:.2g}" for x in plan.hours(machine).values())
        lines.append(
            f"| {title}, L{plan.a.stitched}-L{plan.b.stitched} | {plan.tokens / 1e6:.0f} M"
            f" | {plan.passes:.1e} | {plan.sums:.1e} | {plan.solves:.1e}"
            f" | {_size(plan.weights)} | {_size(plan.gram)}, {_size(plan.disk(SHARDS))}"
            f" | {hours} |"
        )
    return "\n".join(lines)


def _size(count: float) -> str:
    """Bytes in words."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
