"""Counts, means and second moments of paired activations, in float64; they add up across shards and
machines."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.activations.products import Arithmetic, arithmetic_of, product
from core.errors import StitchLensError
from core.workspace.disk import beside

BLOCK = 640
"""Rows of the sum formed at a time: what lies below the diagonal in other blocks is left out."""


@dataclass(frozen=True)
class Moments:
    """What a fit needs to know of the data, float64: n positions, means [d], covariances [d, d]
    (divided by n)."""

    n: int
    mean_a: Float[Tensor, " d_a"]
    mean_b: Float[Tensor, " d_b"]
    aa: Float[Tensor, "d_a d_a"]
    ab: Float[Tensor, "d_a d_b"]
    bb: Float[Tensor, "d_b d_b"]

    @cached_property
    def scale_a(self) -> float:
        """RMS of the centred entries of h_A, in residual units."""
        return float((self.aa.trace() / len(self.mean_a)).sqrt())

    @cached_property
    def scale_b(self) -> float:
        return float((self.bb.trace() / len(self.mean_b)).sqrt())


class Gram:
    """Accumulates the Gram matrix of `[h_A, h_B, 1]`, and the cross block of the same rows with
    shuffled pairing.

    S [d_A + d_B + 1, d_A + d_B + 1] and X [d_A, d_B], float64, in squared residual units. S is
    symmetric: what lies below its diagonal is not read, nor all of it computed.
    """

    def __init__(
        self,
        d_a: int,
        d_b: int,
    ) -> None:
        self.d_a, self.d_b = d_a, d_b
        self.S = torch.zeros(d_a + d_b + 1, d_a + d_b + 1, dtype=torch.float64)
        self.X = torch.zeros(d_a, d_b, dtype=torch.float64)

    @property
    def n(self) -> int:
        """Pairs of positions seen."""
        return round(float(self.S[-1, -1]))

    def update(
        self,
        h_a: Float[Tensor, "n d_a"],
        h_b: Float[Tensor, "n d_b"],
        seed: int = 0,
        control: bool = True,
        arithmetic: Arithmetic | None = None,
    ) -> None:
        """Add paired rows, where they are: sums leave a device when they are asked for. `seed`
        draws the permutation behind the shuffled `control`; for `arithmetic` see `product`."""
        if not len(h_a):
            return

        arithmetic = arithmetic or arithmetic_of(h_a.device)
        ones = h_a.new_ones(len(h_a), 1)
        z = torch.cat([h_a, h_b.to(h_a.device), ones], dim=1)
        if arithmetic == "float64":
            z = z.double()
            self.S, self.X = self.S.to(z.device), self.X.to(z.device)

        for begin in range(0, z.shape[1], BLOCK):
            rows = slice(begin, begin + BLOCK)
            self.S[rows, begin:] += product(z[:, rows], z[:, begin:], arithmetic)

        if control:
            generator = torch.Generator().manual_seed(seed)
            order = torch.randperm(len(z), generator=generator).to(z.device)
            a, b = z[:, : self.d_a], z[:, self.d_a : -1]
            self.X += product(a, b[order], arithmetic)

    def merge(self, other: "Gram") -> "Gram":
        """The Gram of both sets of rows. Raises ValueError where the widths differ."""
        if (self.d_a, self.d_b) != (other.d_a, other.d_b):
            raise ValueError(
                f"widths {(self.d_a, self.d_b)} and {(other.d_a, other.d_b)} do not add up"
            )
        both = Gram(self.d_a, self.d_b)
        both.S = self.S.cpu() + other.S.cpu()
        both.X = self.X.cpu() + other.X.cpu()
        return both

    def moments(self, shuffled: bool = False) -> Moments:
        """Freeze. With `shuffled`, the cross moments are those of the shuffled pairing: the
        control's data.

        Raises StitchLensError where nothing was accumulated.
        """
        if self.n == 0:
            raise StitchLensError(
                "no paired positions",
                "at least one",
                "use a corpus with text that both models read",
            )

        n, k = self.n, self.d_a
        upper = self.S.cpu().triu()
        whole = upper + upper.triu(1).T
        mean = whole[:-1, -1] / n
        mean_a = mean[:k]
        mean_b = mean[k:]
        cross = self.X.cpu() if shuffled else whole[:k, k:-1]
        return Moments(
            n=n,
            mean_a=mean_a,
            mean_b=mean_b,
            aa=whole[:k, :k] / n - torch.outer(mean_a, mean_a),
            ab=cross / n - torch.outer(mean_a, mean_b),
            bb=whole[k:-1, k:-1] / n - torch.outer(mean_b, mean_b),
        )


def save_grams(
    path: Path,
    grams: dict[str, Gram],
    record: dict[str, Any],
) -> None:
    """Several Grams and a record in one safetensors file, written atomically."""
    tensors: dict[str, Tensor] = {}
    sizes: dict[str, list[int]] = {}
    for name, gram in grams.items():
        tensors[f"{name}.S"] = gram.S.cpu()
        tensors[f"{name}.X"] = gram.X.cpu()
        sizes[name] = [gram.d_a, gram.d_b]

    metadata = {"record": json.dumps(record), "sizes": json.dumps(sizes)}
    with beside(path) as part:
        save_file(tensors, part, metadata=metadata)


def load_grams(path: Path) -> tuple[dict[str, Gram], dict[str, Any]]:
    """What `save_grams` wrote. Raises StitchLensError where the file is not that."""
    with _readable(path), safe_open(path, "pt") as f:
        meta = f.metadata()
        grams = {}
        for name, (d_a, d_b) in json.loads(meta["sizes"]).items():
            gram = Gram(d_a, d_b)
            gram.S = f.get_tensor(f"{name}.S")
            gram.X = f.get_tensor(f"{name}.X")
            grams[name] = gram
        return grams, json.loads(meta["record"])


def load_record(path: Path) -> dict[str, Any]:
    """The record of `save_grams` alone, without reading a sum."""
    with _readable(path), safe_open(path, "pt") as f:
        return json.loads(f.metadata()["record"])


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as e:
        raise StitchLensError(
            f"unreadable moments in {path.name} ({e})",
            "a file that harvest wrote",
            f"delete {path} and run it again",
        ) from e
