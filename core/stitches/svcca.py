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
    h = h.double() - h.double().mean(0)
    values, vectors = torch.linalg.eigh(h.T @ h)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    k = int(torch.searchsorted(values.cumsum(0), variance * values.sum())) + 1
    return (h @ vectors[:, :k] / values[:k].sqrt()).float()


def svcca(u: Float[Tensor, "n k"], v: Float[Tensor, "n m"]) -> float:
    """Mean canonical correlation between two subspaces given by orthonormal bases, in [0, 1] (Raghu
    et al., 2017)."""
    return float(torch.linalg.svdvals(u.T @ v).clamp(0, 1).mean())


def layer_scores(
    a: LiveModel, b: LiveModel, documents: Sequence[Document], positions: int = 8192
) -> pd.DataFrame:
    """Every (layer_a, layer_b): `svcca` in [0, 1], `n` positions, `k_a` and `k_b` directions kept.

    The mean over min(k_a, k_b) canonical correlations. With n positions, unrelated streams of k
    directions would score about sqrt(k/n): `chance` holds that.
    """
    layers_a, layers_b = range(a.spec.n_layers), range(b.spec.n_layers)
    rows_a: dict[int, list[Tensor]] = {k: [] for k in layers_a}
    rows_b: dict[int, list[Tensor]] = {k: [] for k in layers_b}
    n, limits = 0, {}
    with Progress("SVCCA: reading", positions, "pos") as bar:
        for docs in windows(documents):
            chunk = read_window(a, b, docs, layers_a, layers_b)
            limits = limits or norm_limits(chunk)
            keep = torch.stack(
                [within(chunk, limits, LayerPair(a=la, b=0)) for la in layers_a]
            ).all(0)
            keep &= torch.stack(
                [within(chunk, limits, LayerPair(a=0, b=lb)) for lb in layers_b]
            ).all(0)
            for side, chunked in ((rows_a, chunk.h_a), (rows_b, chunk.h_b)):
                for layer, h in chunked.items():
                    side[layer].append(h[keep])
            n += int(keep.sum())
            bar.advance(int(keep.sum()))
            if n >= positions:
                break
    with Progress("SVCCA: comparing", len(layers_a) * len(layers_b), "pair") as bar:
        bases_b = {k: basis(torch.cat(rows_b.pop(k))[:positions]) for k in layers_b}
        out = []
        for la in layers_a:
            u = basis(torch.cat(rows_a.pop(la))[:positions])
            for lb, v in bases_b.items():
                k = (u.shape[1], v.shape[1])
                out.append((la, lb, svcca(u, v), len(u), *k, float(np.sqrt(max(k) / len(u)))))
                bar.advance(1)
    return pd.DataFrame(out, columns=["layer_a", "layer_b", "svcca", "n", "k_a", "k_b", "chance"])


def best_layer(scores: pd.DataFrame, layer_a: int) -> int:
    """The layer of B with the highest score for a layer of A."""
    row = scores[scores.layer_a == layer_a]
    return int(row.loc[row.svcca.idxmax(), "layer_b"])
