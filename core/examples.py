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
BEFORE, AFTER = 14, 6
"""Tokens kept around the strongest one, with their activations."""
BINS = 60
PERSISTENCE = 0.9
"""p of rank-biased overlap: how fast the weight of lower ranks falls."""


class _Kept:
    """For every feature the `size` contexts with the largest key, merged window by window."""

    def __init__(self, features: int, size: int) -> None:
        self.size = size
        self.columns: dict[str, NDArray[Any]] = {
            "key": np.full((features, size), -np.inf),
            "activation": np.zeros((features, size), dtype=np.float32),
            "document": np.full((features, size), -1, dtype=np.int64),
            "position": np.full((features, size), -1, dtype=np.int64),
            "ends": np.zeros((features, size, BEFORE + 1 + AFTER + 1), dtype=np.int32),
            "heat": np.zeros((features, size, BEFORE + 1 + AFTER), dtype=np.float16),
        }

    @property
    def filled(self) -> NDArray[np.bool_]:
        return self.columns["document"] >= 0

    def add(self, feature: NDArray[np.int64], new: dict[str, NDArray[Any]]) -> None:
        """Candidates, at most one a feature and document; equal keys go to the lower document."""
        order = np.lexsort((new["document"], -new["key"], feature))
        feature = feature[order]
        rank = np.arange(len(feature)) - np.searchsorted(feature, feature)
        near = rank < self.size
        touched, where = np.unique(feature[near], return_inverse=True)
        both = {}
        for name, old in self.columns.items():
            more = np.full((len(touched), *old.shape[1:]), -np.inf if name == "key" else 0, dtype=old.dtype)
            if name == "document":
                more[:] = -1
            more[where, rank[near]] = new[name][order[near]]
            both[name] = np.concatenate([old[touched], more], axis=1)
        best = np.argsort(-both["key"], axis=1, kind="stable")[:, : self.size]
        for name, x in both.items():
            picked = best[..., None] if x.ndim == 3 else best
            self.columns[name][touched] = np.take_along_axis(x, picked, axis=1)


def strongest(
    acts: Float[Tensor, "n f"], document: NDArray[np.int64], position: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]]]:
    """(feature, columns) of each feature and document at its strongest active token: `activation`, `document`,
    `position`; `heat` the activations of BEFORE tokens before it to AFTER behind it (0 outside of the document); `ends`
    where these tokens end in the text, the first entry where the first of them begins (-1 outside)."""
    at, feature = (x.numpy() for x in acts.nonzero(as_tuple=True))
    value = acts.numpy()[at, feature]
    order = np.lexsort((position[at], -value, document[at], feature))
    at, feature, value = at[order], feature[order], value[order]
    new = np.ones(len(at), dtype=bool)
    new[1:] = (feature[1:] != feature[:-1]) | (document[at][1:] != document[at][:-1])
    at, feature, value = at[new], feature[new], value[new]
    around = at[:, None] + np.arange(-BEFORE - 1, AFTER + 1)
    inside = np.clip(around, 0, max(len(acts) - 1, 0))
    same = (inside == around) & (document[inside] == document[at][:, None])
    spans = np.where(same, ends[inside], -1)
    first = np.argmax(same, axis=1)
    cut = np.flatnonzero(first > 0)
    spans[cut, first[cut] - 1] = 0  # the document's first token begins it
    heat = np.where(same[:, 1:], acts.numpy()[inside[:, 1:], feature[:, None]], 0).astype(np.float16)
    return feature, {"activation": value, "document": document[at], "position": position[at], "ends": spans,
                     "heat": heat}  # fmt: skip


def bins(acts: Tensor) -> Tensor:
    """The bin of each positive activation in `Examples.histogram`: half octaves from 2^-10 to 2^20."""
    return (2 * acts.log2() + 20).floor().clamp(0, BINS - 1).long()


class Examples:
    """Accumulates the contexts of every feature; `table` freezes them.

    histogram [features, BINS]: at how many tokens a feature was active in each bin (see `bins`).
    """

    def __init__(self, features: int, seed: int = 0) -> None:
        self.top, self.sample = _Kept(features, TOP), _Kept(features, SAMPLE)
        self.histogram = np.zeros((features, BINS), dtype=np.int64)
        self._rng = np.random.default_rng(seed)

    def update(
        self, acts: Float[Tensor, "n f"], document: NDArray[np.int64], position: NDArray[np.int64],
        ends: NDArray[np.int64],
    ) -> None:  # fmt: skip
        """Activations at tokens `position` of documents `document` that end at character `ends`; a document's tokens
        come in one call and in order."""
        at, active = acts.nonzero(as_tuple=True)
        np.add.at(self.histogram, (active.numpy(), bins(acts[at, active]).numpy()), 1)
        feature, columns = strongest(acts, document, position, ends)
        self.top.add(feature, columns | {"key": columns["activation"].astype(np.float64)})
        self.sample.add(feature, columns | {"key": self._rng.random(len(feature))})

    def table(self, documents: Sequence[Document]) -> pd.DataFrame:
        """One row an example, strongest first in each group: `feature`, `group` ('top', or 'q1' (weakest) to 'q4'),
        `rank` from 0, `document` (its id), `position` (token index), `activation`, `ends` and `heat` (see `strongest`).
        An example of a quantile is not among the top ones."""
        feature, slot = np.nonzero(self.top.filled)
        parts = [_rows(self.top, "top", feature, slot, slot)]
        filled, sampled = self.sample.filled, self.sample.columns
        for one in np.flatnonzero(self.top.filled[:, 0]):
            seen = np.flatnonzero(filled[one])
            seen = seen[~np.isin(sampled["document"][one, seen], self.top.columns["document"][one])]
            seen = seen[np.argsort(sampled["activation"][one, seen], kind="stable")]
            for q, share in enumerate(np.array_split(seen, QUANTILES), 1):
                drawn = share[np.linspace(len(share) - 1, 0, min(FROM_EACH, len(share))).round().astype(int)]
                parts.append(_rows(self.sample, f"q{q}", np.full(len(drawn), one), drawn, np.arange(len(drawn))))
        groups = np.concatenate([np.full(len(part["feature"]), group) for group, part in parts])
        out = {name: np.concatenate([part[name] for _, part in parts]) for name in parts[0][1]}
        ids = np.array([d.id for d in documents])
        return pd.DataFrame({
            "feature": out["feature"], "group": pd.Categorical(groups), "rank": out["rank"],
            "document": ids[out["document"]], "position": out["position"], "activation": out["activation"],
            "ends": list(out["ends"]), "heat": list(out["heat"]),
        })  # fmt: skip


def _rows(
    kept: _Kept, group: str, feature: NDArray[np.int64], slot: NDArray[np.int64], rank: NDArray[np.int64]
) -> tuple[str, dict[str, NDArray[Any]]]:
    """(group, columns of `Examples.table`) of chosen slots."""
    names = ("document", "position", "activation", "ends", "heat")
    return group, {"feature": feature, "rank": rank} | {name: kept.columns[name][feature, slot] for name in names}


def find_examples(
    model: LiveModel, sae: "SAE[Any]", documents: Sequence[Document], layer: int, desc: str = "examples"
) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """(`Examples.table`, `Examples.histogram`) of every feature of `sae` in the residual stream before `layer`; special
    tokens and rows whose norm is above OUTLIER medians are left out."""
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
            ends = np.concatenate([e.ends[p] for e, p in zip(encoded, kept, strict=True)]).astype(np.int64)
            found.update(acts, where, np.concatenate(kept)[keep], ends[keep])
            start += len(docs)
            bar.advance(sum(len(d.text) for d in docs))
    return found.table(documents), found.histogram


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
