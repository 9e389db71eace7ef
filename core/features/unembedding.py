"""What a direction of the residual stream does to the next token: unembedding rows, and the tokens
that it raises and lowers most."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.models.live import LiveModel

EXTREMES = 8
PART = 16_384
"""Tokens of the vocabulary read at a time."""


def logit_rows(model: LiveModel, ids: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
    """Unembedding rows of tokens as directions of the residual stream, float32: `h · row` is the
    logit times the final norm's scale (its bias left out). A LayerNorm's centring is folded in
    too."""
    unembedding = model.hf.get_output_embeddings().weight
    chosen = unembedding[ids.to(model.where.device)].float()
    rows = chosen * model.logit_scale

    with torch.inference_mode():
        if (projection := model.projection) is not None:
            rows = rows @ projection.weight.float()

        norm = model.final_norm
        if norm is None:  # OPT-350M
            return rows.cpu()

        # An RMS norm gives its gain where every entry is one.
        where = model.where
        ones = torch.ones(1, 1, rows.shape[-1], dtype=where.dtype, device=where.device)
        gain = norm(ones)[0].float()

        # OLMo's norm centres too, but has no weights at all.
        centres = isinstance(norm, torch.nn.LayerNorm) or not gain.any()
        if not centres:
            return (rows * gain).cpu()

        weight = getattr(norm, "weight", None)
        if weight is not None:
            rows = rows * weight.float()
        return (rows - rows.mean(-1, keepdim=True)).cpu()


def extreme_tokens(
    model: LiveModel,
    directions: Float[Tensor, "f d"],
    k: int = EXTREMES,
) -> tuple[Float[Tensor, "f k2"], Int[Tensor, "f k2"]]:
    """(logit weights, token ids) of the k tokens that each direction raises most, then the k that
    it lowers most, each from the strongest. The vocabulary is read in parts; features x vocabulary
    is never held. Rows that pad it beyond the tokenizer are no tokens."""
    weights: list[Tensor] = []
    tokens: list[Tensor] = []
    for sign in (1.0, -1.0):
        value, ids = _raised(model, sign * directions, k)
        weights.append(sign * value)
        tokens.append(ids)
    return torch.cat(weights, dim=1), torch.cat(tokens, dim=1)


def _raised(
    model: LiveModel,
    directions: Float[Tensor, "f d"],
    k: int,
) -> tuple[Float[Tensor, "f k"], Int[Tensor, "f k"]]:
    """(logit weights, token ids) of the k tokens that each direction raises most."""
    features = len(directions)
    best = torch.full((features, k), -torch.inf)
    ids = torch.zeros(features, k, dtype=torch.long)

    for part in torch.from_numpy(model.words).split(PART):
        weights = directions @ logit_rows(model, part).T
        more, where = weights.topk(min(k, len(part)), dim=1)

        candidates = torch.cat([ids, part[where]], dim=1)
        best, order = torch.cat([best, more], dim=1).topk(k, dim=1)
        ids = candidates.gather(1, order)
    return best, ids
