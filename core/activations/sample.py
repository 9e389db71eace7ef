"""A small sample of paired positions before every layer."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from core.activations.harvest import Chunk, norm_limit, read_window, windows
from core.errors import StitchLensError
from core.models.live import LiveModel
from core.progress import Progress
from core.text.corpus import Document

POSITIONS = 2_000
"""Paired positions of the sample."""


def read_sample(
    a: LiveModel, b: LiveModel, documents: Sequence[Document], positions: int | None = None
) -> Chunk:
    """Paired rows before every layer, float32; POSITIONS if not said. Raises StitchLensError where
    there is none."""
    positions = positions or POSITIONS
    layers = range(a.spec.n_layers), range(b.spec.n_layers)
    parts: list[Chunk] = []
    n = 0
    with Progress("reading a sample at every layer", positions, "pos") as bar:
        for docs in (docs[:8] for docs in windows(documents)):
            parts.append(read_window(a, b, docs, *layers))
            n += len(parts[-1].at_a)
            bar.advance(len(parts[-1].at_a))
            if n >= positions:
                break
    if n == 0:
        raise StitchLensError(
            "no paired position", "text that both models read", "use another corpus"
        )
    document, at_a, at_b = (
        np.concatenate([getattr(part, name) for part in parts])[:positions]
        for name in ("document", "at_a", "at_b")
    )
    return Chunk(
        {k: torch.cat([part.h_a[k] for part in parts])[:positions].float() for k in layers[0]},
        {k: torch.cat([part.h_b[k] for part in parts])[:positions].float() for k in layers[1]},
        document,
        at_a,
        at_b,
        sum(part.tokens for part in parts),
    )


def fuv(guess: Tensor, truth: Tensor) -> float:
    """Fraction of variance unexplained about the mean; rows of outlier norm in `truth` are left
    out."""
    norms = truth.norm(dim=-1)
    inside = norms <= norm_limit(norms)
    guess, truth = guess[inside], truth[inside]
    return float((guess - truth).pow(2).sum() / (truth - truth.mean(0)).pow(2).sum())
