"""A small sample of paired positions before every layer."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.activations.harvest import Chunk, norm_limit, read_window, windows
from core.errors import StitchLensError
from core.models.live import LiveModel
from core.progress import Progress
from core.text.corpus import Document

POSITIONS = 2_000
"""Paired positions of the sample."""


def read_sample(
    a: LiveModel,
    b: LiveModel,
    documents: Sequence[Document],
    positions: int | None = None,
) -> Chunk:
    """Paired rows before every layer, float32; POSITIONS if not said. Raises StitchLensError where
    there is none."""
    positions = positions or POSITIONS
    layers_a = range(a.spec.n_layers)
    layers_b = range(b.spec.n_layers)
    parts: list[Chunk] = []
    read = 0
    with Progress("reading a sample at every layer", positions, "pos") as bar:
        for docs in windows(documents):
            # A few of each window: every layer at once is much to hold, and texts are to differ.
            part = read_window(a, b, docs[:8], layers_a, layers_b)
            parts.append(part)
            n = len(part.at_a)
            read += n
            bar.advance(n)
            if read >= positions:
                break

    if read == 0:
        raise StitchLensError(
            "no paired position", "text that both models read", "use another corpus"
        )

    def joined(rows: list[Tensor]) -> Tensor:
        return torch.cat(rows)[:positions].float()

    def numbers(name: str) -> NDArray[np.intp]:
        return np.concatenate([getattr(part, name) for part in parts])[:positions]

    return Chunk(
        h_a={layer: joined([part.h_a[layer] for part in parts]) for layer in layers_a},
        h_b={layer: joined([part.h_b[layer] for part in parts]) for layer in layers_b},
        document=numbers("document"),
        at_a=numbers("at_a"),
        at_b=numbers("at_b"),
        end=numbers("end"),
        tokens=sum(part.tokens for part in parts),
    )


def fuv(guess: Tensor, truth: Tensor) -> float:
    """Fraction of variance unexplained about the mean; rows of outlier norm in `truth` are left
    out."""
    norms = truth.norm(dim=-1)
    inside = norms <= norm_limit(norms)
    guess, truth = guess[inside], truth[inside]

    unexplained = (guess - truth).pow(2).sum()
    variance = (truth - truth.mean(0)).pow(2).sum()
    return float(unexplained / variance)
