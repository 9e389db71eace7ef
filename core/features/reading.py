"""Activations of features while a model reads documents, or one text."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
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
) -> Iterator[Read]:
    """The features of `sae` in the residual stream of `model` before `layer` at `kept_positions`, a
    window of documents at a time; rows whose norm is above OUTLIER medians (of the first window)
    are left out."""
    limit, start = None, 0
    with Progress(desc, sum(len(d.text) for d in documents), "chr") as bar:
        for docs in windows(documents):
            encoded, kept = kept_positions(model, [d.text for d in docs], partner)
            h = record(model, encoded, kept, [layer])[layer].float()
            if limit is None and len(h):
                limit = norm_limit(h.norm(dim=-1))
            ends = np.concatenate([e.ends[p] for e, p in zip(encoded, kept, strict=True)])
            document = np.repeat(np.arange(len(docs)) + start, [len(p) for p in kept])
            yield activations(sae, h, (document, np.concatenate(kept), ends), limit or 0)
            start += len(docs)
            bar.advance(sum(len(d.text) for d in docs))


def activations(
    sae: "SAE[Any]",
    h: Float[Tensor, "n d"],
    places: tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.integer]],
    limit: float,
) -> Read:
    """What an SAE gives at rows of the stream whose norm is no more than the `limit`; `places` are
    their documents, positions and ends."""
    usual = h.norm(dim=-1) <= limit
    with torch.inference_mode():
        acts = torch.relu(sae.encode(h[usual]))
    document, position, ends = (column[usual.numpy()].astype(np.int64) for column in places)
    return Read(acts, document, position, ends)


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
