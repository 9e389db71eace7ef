"""The stitched layer's own words: a residual stream read by the speaker's final norm and
unembedding alone, as a logit lens does."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from core.models.live import LiveModel
from core.stitches.passage import ROWS, TOP, Names, Top, crossed, positions
from core.stitches.stitched import Stitched


def lens(stitched: Stitched, text: str, top: int = TOP) -> list[dict[str, Top]]:
    """For each position of the speaker: `own`, what its own stream says at the stitched layer;
    `crossed`, what the stream says that crossed (where nothing crossed, the same); `source`, what
    the source's stream says by its own unembedding before it crosses (where nothing crosses, no
    token). Raises StitchLensError for an empty text."""
    at = positions(stitched, text)
    names, side = Names(stitched), stitched.speaker
    model = stitched.model(side)
    streams = {"own": at.own[side], "crossed": crossed(stitched, at)}
    said = {name: _unembedded(model, h, top) for name, h in streams.items()}
    rows = [
        {name: names.top(side, ids[j], shares[j]) for name, (ids, shares) in said.items()}
        for j in range(len(at.ids[side]))
    ]

    source = stitched.source
    before = _unembedded(stitched.model(source), at.own[source], top)
    same = dict(zip(at.at[side].tolist(), at.at[source].tolist(), strict=True))
    for j, row in enumerate(rows):
        i = same.get(j)
        row["source"] = [] if i is None else names.top(source, *(x[i] for x in before))
    return rows


def _unembedded(
    model: LiveModel, h: Float[Tensor, "n d"], top: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """(ids, shares) [n, top] of the likeliest tokens by final norm and unembedding alone."""
    ids, shares = [], []
    with torch.inference_mode():
        for rows in h.split(ROWS):
            normed = rows if model.final_norm is None else model.final_norm(rows)
            normed = normed if model.projection is None else model.projection(normed)
            p, i = torch.softmax(model.logits(normed), -1).topk(top)
            ids.append(i.cpu().numpy())
            shares.append(p.cpu().numpy())
    return np.concatenate(ids), np.concatenate(shares)
