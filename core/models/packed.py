"""Texts of unequal length one after another in one row, each apart from the others.

A copy of transformers' modules over the same weights, whose attention looks at one text at a time:
no position is padding, and no mask is made.
"""

import copy
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

ATTENTION = "stitchlens-apart"
"""The name under which transformers knows `attend_apart`."""
TOLERANCE = {
    torch.float32: 1e-3,
    torch.bfloat16: 5e-2,
    torch.float16: 5e-2,
}
"""Of a row of the stream, in the row's own length, read in company and alone."""


REFUSALS = (TypeError, ValueError, RuntimeError, LookupError, AttributeError)
"""With which a model's own code says that it does not know how."""


class _Row(threading.local):
    """What the pass of this thread reads."""

    lengths: Sequence[int] = ()
    """Tokens of each text."""


_row = _Row()


def attend_apart(
    module: torch.nn.Module,
    query: Float[Tensor, "1 heads pos d"],
    key: Float[Tensor, "1 kv_heads pos d"],
    value: Float[Tensor, "1 kv_heads pos e"],
    attention_mask: None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "1 pos heads e"], None]:
    """Causal attention within each text of the row, as transformers' `sdpa` gives it to one."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    parts = []
    streams = (stream.split(list(_row.lengths), dim=2) for stream in (query, key, value))
    for q, k, v in zip(*streams, strict=True):
        mask = _window(q.shape[2], sliding_window, q.device)
        part, _ = sdpa_attention_forward(module, q, k, v, mask, **kwargs)
        parts.append(part)
    return torch.cat(parts, dim=1), None


def _window(
    n: int,
    size: int | None,
    device: torch.device,
) -> Tensor | None:
    """[1, 1, n, n] bool: which of the positions before it each sees; None where it sees them
    all."""
    if size is None or n <= size:
        return None
    at = torch.arange(n, device=device)
    back = at[:, None] - at
    return ((back >= 0) & (back < size))[None, None]


class Packed:
    """Modules that read texts in one row."""

    def __init__(
        self,
        plain: Any,
        layers: int,
    ) -> None:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attend_apart)
        shared: dict[int, Any] = {id(t): t for t in (*plain.parameters(), *plain.buffers())}
        model = copy.deepcopy(plain, shared)
        model.set_attn_implementation(ATTENTION)
        self.knows = model.config.get_text_config()._attn_implementation == ATTENTION
        """Whether these modules let their attention be chosen."""
        self.body = model.base_model
        self.blocks = blocks_of(model, layers)

    def read(self, texts: Sequence[NDArray[np.int32]]) -> Float[Tensor, "pos e"]:
        """The final hidden states of texts, one after another."""
        device = next(self.body.parameters()).device
        ids, positions = (_joined(row).to(device) for row in (texts, list(map(_from_0, texts))))
        with _reading([len(text) for text in texts]):
            out = self.body(
                input_ids=ids,
                position_ids=positions,
                use_cache=False,
            )
        return out.last_hidden_state[0]


def blocks_of(
    model: Any,
    layers: int,
) -> list[Any]:
    """The blocks of transformers' model; none where no list of modules is as long as there are
    layers."""
    stacks: Iterator[list[Any]] = (
        list(m) for m in model.base_model.modules() if isinstance(m, torch.nn.ModuleList)
    )
    return next((stack for stack in stacks if len(stack) == layers), [])


def packed(
    plain: Any,
    layers: int,
    texts: Sequence[NDArray[np.int32]],
) -> Packed | None:
    """`plain`, reading many texts in a row; None where it does not read some `texts` as it reads
    each of them alone: not every architecture leaves its attention and its positions to others."""
    with torch.inference_mode():
        try:
            model = Packed(plain, layers)
            together = model.read(texts)
        except REFUSALS:
            return None
        if not model.knows:
            return None
        device = together.device
        alone = [
            plain.base_model(input_ids=_joined([text]).to(device), use_cache=False)
            for text in texts
        ]
        apart = torch.cat([out.last_hidden_state[0] for out in alone])

    difference = (together - apart).float().norm(dim=-1)
    near = difference <= TOLERANCE[apart.dtype] * apart.float().norm(dim=-1)
    return model if bool(near.all()) else None


def _joined(rows: Sequence[NDArray[Any]]) -> Int[Tensor, "1 pos"]:
    return torch.from_numpy(np.concatenate(rows).astype(np.int64))[None]


def _from_0(text: NDArray[np.int32]) -> NDArray[np.int64]:
    return np.arange(len(text))


@contextmanager
def _reading(lengths: Sequence[int]) -> Iterator[None]:
    _row.lengths = lengths
    try:
        yield
    finally:
        _row.lengths = ()
