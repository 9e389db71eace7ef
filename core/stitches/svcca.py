"""Which layers correspond: SVCCA between every layer of A and every layer of B (A.1, Fig. 6)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from core.activations.harvest import norm_limits, read_window, windows, within
from core.models.live import LiveModel
from core.models.pairs import LayerPair
from core.progress import Progress
from core.text.corpus import Document

VARIANCE = 0.99


def basis(h: Float[Tensor, "n d"], variance: float = VARIANCE) -> Float[Tensor, "n k"]:
    """Orthonormal columns spanning the leading singular directions of centred `h` that hold
    `variance` of it."""
    centred = h.double() - h.double().mean(0)
    # By eigenvectors of the d x d Gram matrix: n is much larger than d.
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    values = values.flip(0).clamp(min=0)
    vectors = vectors.flip(1)

    held = values.cumsum(0)
    k = int(torch.searchsorted(held, variance * values.sum())) + 1
    return (centred @ vectors[:, :k] / values[:k].sqrt()).float()


def svcca(u: Float[Tensor, "n k"], v: Float[Tensor, "n m"]) -> float:
    """Mean canonical correlation between two subspaces given by orthonormal bases, in [0, 1] (Raghu
    et al., 2017)."""
    correlations = torch.linalg.svdvals(u.T @ v)
    return float(correlations.clamp(0, 1).mean())


def layer_scores(
    a: LiveModel,
    b: LiveModel,
    documents: Sequence[Document],
    positions: int = 8192,
) -> pd.DataFrame:
    """Every (layer_a, layer_b): `svcca` in [0, 1], `n` positions, `k_a` and `k_b` directions kept.

    The mean over min(k_a, k_b) canonical correlations. With n positions, unrelated streams of k
    directions would score about sqrt(k/n): `chance` holds that.
    """
    rows_a, rows_b = _paired_rows(a, b, documents, positions)
    rows = []
    with Progress("SVCCA: comparing", len(rows_a) * len(rows_b), "pair") as bar:
        bases_b = {layer: basis(rows_b.pop(layer)) for layer in list(rows_b)}
        for layer_a in list(rows_a):
            # Each layer's rows go as soon as its basis is there: all of them fill the memory.
            basis_a = basis(rows_a.pop(layer_a))
            n, k_a = basis_a.shape
            for layer_b, basis_b in bases_b.items():
                k_b = basis_b.shape[1]
                row = {
                    "layer_a": layer_a,
                    "layer_b": layer_b,
                    "svcca": svcca(basis_a, basis_b),
                    "n": n,
                    "k_a": k_a,
                    "k_b": k_b,
                    "chance": float(np.sqrt(max(k_a, k_b) / n)),
                }
                rows.append(row)
                bar.advance(1)
    return pd.DataFrame(rows)


def _paired_rows(
    a: LiveModel,
    b: LiveModel,
    documents: Sequence[Document],
    positions: int,
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """The same `positions` rows before every layer of both models; a row that is an outlier at one
    layer is left out at all."""
    layers_a = range(a.spec.n_layers)
    layers_b = range(b.spec.n_layers)
    chunks_a: dict[int, list[Tensor]] = {layer: [] for layer in layers_a}
    chunks_b: dict[int, list[Tensor]] = {layer: [] for layer in layers_b}

    read = 0
    limits: dict[str, float] = {}
    with Progress("SVCCA: reading", positions, "pos") as bar:
        for docs in windows(documents):
            chunk = read_window(a, b, docs, layers_a, layers_b)
            limits = limits or norm_limits(chunk)
            inside = [within(chunk, limits, LayerPair(a=layer, b=0)) for layer in layers_a]
            inside += [within(chunk, limits, LayerPair(a=0, b=layer)) for layer in layers_b]
            everywhere = torch.stack(inside).all(0)

            for layer in layers_a:
                chunks_a[layer].append(chunk.h_a[layer][everywhere])
            for layer in layers_b:
                chunks_b[layer].append(chunk.h_b[layer][everywhere])

            n = int(everywhere.sum())
            read += n
            bar.advance(n)
            if read >= positions:
                break

    def first(chunks: dict[int, list[Tensor]]) -> dict[int, Tensor]:
        return {layer: torch.cat(chunks.pop(layer))[:positions] for layer in list(chunks)}

    return first(chunks_a), first(chunks_b)


def best_layer(scores: pd.DataFrame, layer_a: int) -> int:
    """The layer of B with the highest score for a layer of A."""
    row = scores[scores.layer_a == layer_a]
    return int(row.loc[row.svcca.idxmax(), "layer_b"])
