"""Where a feature is active: its top contexts and a sample from each quantile, as pointers into a corpus (5.1, H).

One pass over documents. A context is a document; each counts once a feature, at its strongest token. No text is kept.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from core.corpus import Document
from core.harvest import OUTLIER, record, windows
from core.models import Encoded, LiveModel
from core.progress import Progress

if TYPE_CHECKING:
    from sae_lens import SAE

TOP = 20
QUANTILES = 4
"""Equal shares of a feature's sampled contexts by activation."""
FROM_EACH = 5
SAMPLE = 100
"""Contexts sampled a feature, from which those of the quantiles are taken."""
PERSISTENCE = 0.9
"""p of rank-biased overlap: how fast the weight of lower ranks falls."""


class _Kept:
    """For every feature the `size` contexts with the largest key, merged window by window."""

    def __init__(self, features: int, size: int) -> None:
        self.size = size
        self.key = np.full((features, size), -np.inf)
        self.value = np.zeros((features, size), dtype=np.float32)
        self.document = np.full((features, size), -1, dtype=np.int64)
        self.position = np.full((features, size), -1, dtype=np.int64)

    def add(
        self, feature: NDArray[np.int64], key: NDArray[np.float64], value: NDArray[np.float32],
        document: NDArray[np.int64], position: NDArray[np.int64],
    ) -> None:  # fmt: skip
        """Candidates, at most one a feature and document; equal keys go to the lower document."""
        order = np.lexsort((document, -key, feature))
        feature = feature[order]
        first = np.searchsorted(feature, feature)
        rank = np.arange(len(feature)) - first
        near = rank < self.size
        touched, where = np.unique(feature[near], return_inverse=True)
        new = {name: np.zeros((len(touched), self.size), dtype=getattr(self, name).dtype)
               for name in ("key", "value", "document", "position")}  # fmt: skip
        new["key"][:] = -np.inf
        for name, x in (("key", key), ("value", value), ("document", document), ("position", position)):
            new[name][where, rank[near]] = x[order][near]
        both = {name: np.concatenate([getattr(self, name)[touched], x], axis=1) for name, x in new.items()}
        best = np.argsort(-both["key"], axis=1, kind="stable")[:, : self.size]
        for name, x in both.items():
            getattr(self, name)[touched] = np.take_along_axis(x, best, axis=1)


def strongest(
    acts: Float[Tensor, "n f"], document: NDArray[np.int64], position: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """(feature, activation, document, position): of each feature and document, the strongest active token."""
    at, feature = (x.numpy() for x in acts.nonzero(as_tuple=True))
    value = acts.numpy()[at, feature]
    order = np.lexsort((position[at], -value, document[at], feature))
    at, feature, value = at[order], feature[order], value[order]
    new = np.ones(len(at), dtype=bool)
    new[1:] = (feature[1:] != feature[:-1]) | (document[at][1:] != document[at][:-1])
    return feature[new], value[new], document[at][new], position[at][new]


class Examples:
    """Accumulates the contexts of every feature; `table` freezes them."""

    def __init__(self, features: int, seed: int = 0) -> None:
        self.top, self.sample = _Kept(features, TOP), _Kept(features, SAMPLE)
        self._rng = np.random.default_rng(seed)

    def update(self, acts: Float[Tensor, "n f"], document: NDArray[np.int64], position: NDArray[np.int64]) -> None:
        """Activations at tokens `position` of documents `document`; a document's tokens come in one call."""
        feature, value, where, at = strongest(acts, document, position)
        self.top.add(feature, value.astype(np.float64), value, where, at)
        self.sample.add(feature, self._rng.random(len(feature)), value, where, at)

    def table(self, documents: Sequence[Document]) -> pd.DataFrame:
        """One row an example, strongest first in each group: `feature`, `group` ('top', or 'q1' (weakest) to 'q4'),
        `rank` from 0, `document` (its id), `position` (token index), `activation`. An example of a quantile is not
        among the top ones."""
        feature, slot = np.nonzero(self.top.document >= 0)
        parts = [_rows(self.top, "top", feature, slot, slot)]
        for one in np.flatnonzero(self.top.document[:, 0] >= 0):
            seen = np.flatnonzero(self.sample.document[one] >= 0)
            seen = seen[~np.isin(self.sample.document[one, seen], self.top.document[one])]
            seen = seen[np.argsort(self.sample.value[one, seen], kind="stable")]
            for q, share in enumerate(np.array_split(seen, QUANTILES), 1):
                drawn = share[np.linspace(len(share) - 1, 0, min(FROM_EACH, len(share))).round().astype(int)]
                parts.append(_rows(self.sample, f"q{q}", np.full(len(drawn), one), drawn, np.arange(len(drawn))))
        groups = np.concatenate([np.full(len(part[0]), group) for group, part in parts])
        columns = ("feature", "rank", "document", "position", "activation")
        out = pd.DataFrame(
            dict(zip(columns, map(np.concatenate, zip(*(p for _, p in parts), strict=True)), strict=True))
        )
        ids = np.array([d.id for d in documents])
        out = out.assign(document=ids[out.document], group=pd.Categorical(groups))
        return out.reindex(columns=["feature", "group", "rank", "document", "position", "activation"])


def _rows(
    kept: _Kept, group: str, feature: NDArray[np.int64], slot: NDArray[np.int64], rank: NDArray[np.int64]
) -> tuple[str, tuple[NDArray[Any], ...]]:
    """(group, the columns of `Examples.table` but the group) of chosen slots."""
    return group, (feature, rank, *(x[feature, slot] for x in (kept.document, kept.position, kept.value)))


def find_examples(
    model: LiveModel, sae: "SAE[Any]", documents: Sequence[Document], layer: int, desc: str = "examples"
) -> pd.DataFrame:
    """The contexts of every feature of `sae` in the residual stream before `layer`; special tokens and rows whose norm
    is above OUTLIER medians are left out. See `Examples.table`."""
    found = Examples(sae.cfg.d_sae)
    limit: float | None = None
    start = 0
    with Progress(desc, sum(len(d.text) for d in documents), "chr") as bar:
        for docs in windows(documents):
            encoded: list[Encoded] = model.encode([d.text for d in docs])
            kept = [np.flatnonzero(e.usable) for e in encoded]
            h = record(model, encoded, kept, [layer])[layer].float()
            norm = h.norm(dim=-1)
            if limit is None and len(norm):
                limit = OUTLIER * float(norm.median())
            keep = (norm <= (limit or 0)).numpy()
            where = np.repeat(np.arange(len(docs)) + start, [len(p) for p in kept])[keep]
            with torch.inference_mode():
                acts = torch.relu(sae.encode(h[torch.from_numpy(keep)]))
            found.update(acts, where, np.concatenate(kept)[keep])
            start += len(docs)
            bar.advance(sum(len(d.text) for d in docs))
    return found.table(documents)


def jaccard(one: Iterable[str], other: Iterable[str]) -> float:
    """Shared documents among all of two lists, in [0, 1]; 0 where both are empty."""
    x, y = set(one), set(other)
    return len(x & y) / len(x | y) if x | y else 0.0


def rank_biased_overlap(one: Sequence[str], other: Sequence[str], p: float = PERSISTENCE) -> float:
    """Extrapolated rank-biased overlap of two ranked lists in [0, 1] (Webber, Moffat and Zobel, 2010, Eq. 32)."""
    short, long = sorted((list(one), list(other)), key=len)
    if not short:
        return 0.0
    overlap = [len(set(short[:d]) & set(long[:d])) for d in range(1, len(long) + 1)]
    s, n = len(short), len(long)
    total = sum(overlap[d - 1] / d * p**d for d in range(1, n + 1))
    total += sum(overlap[s - 1] * (d - s) / (s * d) * p**d for d in range(s + 1, n + 1))
    return (1 - p) / p * total + ((overlap[n - 1] - overlap[s - 1]) / n + overlap[s - 1] / s) * p**n


def overlap(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """How alike the top lists of each feature are in two tables of examples: `feature`, `jaccard`, `rbo`, both over
    documents; features that are active in neither are left out."""
    tops = [
        t.query("group == 'top'").sort_values(["feature", "rank"]).groupby("feature").document.agg(list) for t in (a, b)
    ]
    features = sorted(set(tops[0].index) | set(tops[1].index))
    rows = []
    for f in features:
        one, other = (t.get(f, []) for t in tops)
        rows.append((f, jaccard(one, other), rank_biased_overlap(one, other)))
    return pd.DataFrame(rows, columns=["feature", "jaccard", "rbo"])
