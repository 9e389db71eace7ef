"""The stitched layer's own words: a residual stream read by the speaker's final norm and
unembedding alone, as a logit lens does."""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from core.models.live import LiveModel
from core.stitches.passage import ROWS, TOP, Names, Top, crossed, positions
from core.stitches.stitched import Stitched


def lens(
    stitched: Stitched,
    text: str,
    top: int = TOP,
) -> list[dict[str, Top]]:
    """For each position of the speaker: `own`, what its own stream says at the stitched layer;
    `crossed`, what the stream says that crossed (where nothing crossed, the same); `source`, what
    the source's stream says by its own unembedding before it crosses (where nothing crosses, no
    token). Raises StitchLensError for an empty text."""
    at = positions(stitched, text)
    names = Names(stitched)
    side = stitched.speaker
    source = stitched.source

    model = stitched.model(side)
    own = _unembedded(model, at.own[side], top)
    carried = _unembedded(model, crossed(stitched, at), top)
    before = _unembedded(stitched.model(source), at.own[source], top)
    pairs = zip(at.at[side].tolist(), at.at[source].tolist(), strict=True)
    same = dict(pairs)

    rows = []
    for j in range(len(at.ids[side])):
        row = {
            "own": names.top(side, own.ids[j], own.shares[j]),
            "crossed": names.top(side, carried.ids[j], carried.shares[j]),
            "source": [],
        }
        if j in same:
            i = same[j]
            row["source"] = names.top(source, before.ids[i], before.shares[i])
        rows.append(row)
    return rows


class _Likeliest(NamedTuple):
    """[n, top] each."""

    ids: NDArray[Any]
    shares: NDArray[Any]


def _unembedded(
    model: LiveModel,
    h: Float[Tensor, "n d"],
    top: int,
) -> _Likeliest:
    """The likeliest tokens by final norm and unembedding alone."""
    ids, shares = [], []
    final_norm = model.final_norm
    with torch.inference_mode():
        for rows in h.split(ROWS):
            if final_norm is not None:
                rows = final_norm(rows)
            if model.projection is not None:
                rows = model.projection(rows)

            likely = torch.softmax(model.logits(rows), -1).topk(top)
            ids.append(likely.indices.cpu().numpy())
            shares.append(likely.values.cpu().numpy())
    return _Likeliest(
        np.concatenate(ids),
        np.concatenate(shares),
    )
