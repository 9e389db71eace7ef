"""Activations of features while a model reads documents, or one text."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.activations.harvest import norm_limit, record, windows
from core.activations.recording import kept_positions
from core.errors import StitchLensError
from core.models.live import LiveModel
from core.progress import Progress
from core.text.corpus import Document
from core.text.reading import clean

if TYPE_CHECKING:
    from sae_lens import SAE


class Read(NamedTuple):
    """Activations [n, f] at the usable tokens of some documents, in their order; `document` counts
    from 0 over all documents, `ends` in characters."""

    acts: Tensor
    document: NDArray[np.int64]
    position: NDArray[np.int64]
    ends: NDArray[np.int64]


def read(
    model: LiveModel,
    partner: LiveModel | None,
    sae: "SAE[Any]",
    documents: Sequence[Document],
    layer: int,
    desc: str,
    limit: float | None = None,
    numbers: Sequence[int] | None = None,
) -> Iterator[Read]:
    """The features of `sae` in the residual stream of `model` before `layer` at `kept_positions`, a
    window of documents at a time, or those windows with the `numbers`; rows whose norm is above
    the `limit`, or else OUTLIER medians (of the first window), are left out."""
    every = windows(documents)
    numbers = range(len(every)) if numbers is None else numbers
    characters = sum(len(d.text) for number in numbers for d in every[number])
    with Progress(desc, characters, "chr") as bar:
        for number in numbers:
            docs, start = every[number], sum(map(len, every[:number]))
            encoded, kept = kept_positions(model, [d.text for d in docs], partner)
            h = record(model, encoded, kept, [layer])[layer].float()
            norm = h.norm(dim=-1)
            if limit is None and len(norm):
                limit = norm_limit(norm)
            keep = (norm <= (limit or 0)).numpy()
            where = np.repeat(np.arange(len(docs)) + start, [len(p) for p in kept])[keep]
            with torch.inference_mode():
                acts = torch.relu(sae.encode(h[torch.from_numpy(keep)]))
            ends = np.concatenate([e.ends[p] for e, p in zip(encoded, kept, strict=True)]).astype(
                np.int64
            )
            yield Read(acts, where, np.concatenate(kept)[keep], ends[keep])
            bar.advance(sum(len(d.text) for d in docs))


def first_limit(
    model: LiveModel,
    partner: LiveModel | None,
    documents: Sequence[Document],
    layer: int,
) -> float | None:
    """The norm above which `read` leaves rows out, from the first window that has any; None where
    no window has."""
    for docs in windows(documents):
        encoded, kept = kept_positions(model, [d.text for d in docs], partner)
        rows = record(model, encoded, kept, [layer])[layer].float()
        if len(rows):
            return norm_limit(rows.norm(dim=-1))
    return None


def read_text(
    model: LiveModel,
    sae: "SAE[Any]",
    layer: int,
    text: str,
) -> Read:
    """One text by itself, cleaned, outliers and all. Raises StitchLensError where no token of it
    can be used."""
    (encoded,), (kept,) = kept_positions(model, [clean(text)], None)
    if not len(kept):
        raise StitchLensError("a text without a token", "a few words", "type some")
    h = record(model, [encoded], [kept], [layer])[layer].float()
    with torch.inference_mode():
        acts = torch.relu(sae.encode(h))
    return Read(
        acts, np.zeros(len(kept), dtype=np.int64), kept, encoded.ends[kept].astype(np.int64)
    )
