"""Record and replace the residual stream at `blocks.{L}.hook_resid_pre`; hooks are always
undone."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from core.models.live import LiveModel


Change = Callable[[Tensor], Tensor]
"""The residual stream [rows, pos, d] to what takes its place."""
Texts = Sequence[NDArray[np.int32]]
"""Token ids of each text."""


class _Stop(Exception):
    """Leaves a forward pass once the last wanted layer has been seen."""


def residuals(
    model: "LiveModel",
    ids: Int[Tensor, "rows pos"],
    layers: Sequence[int],
) -> dict[int, Float[Tensor, "rows pos d"]]:
    """The residual stream before each of `layers`, in the model's dtype; nothing above the last is
    computed."""
    with torch.inference_mode():
        seen = calls(model, ids, layers)
    return {layer: call.hidden for layer, call in seen.items()}


def streams(
    model: "LiveModel",
    texts: Texts,
    layers: Sequence[int],
) -> dict[int, Float[Tensor, "pos d"]]:
    """`residuals` of texts of any length, one after another."""
    if model.packed is None:
        inside = _inside(texts)
        padded = residuals(model, model.pad(texts), layers)
        return {layer: stream[inside] for layer, stream in padded.items()}

    reader = model.packed
    with torch.inference_mode():
        seen = _calls(reader.blocks, layers, lambda: reader.read(texts))
    return {layer: call.hidden[0] for layer, call in seen.items()}


class Call(NamedTuple):
    """What a block of `model.plain` was called with: the residual stream [rows, pos, d], and
    everything beside it."""

    hidden: Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def calls(
    model: "LiveModel",
    ids: Int[Tensor, "rows pos"],
    layers: Sequence[int],
) -> dict[int, Call]:
    """The calls of the blocks `layers` in one pass of `model.plain`; nothing above the last is
    computed."""
    body = model.plain.base_model
    with torch.no_grad():
        return _calls(model.plain_blocks, layers, lambda: body(input_ids=ids, use_cache=False))


def _calls(
    blocks: Sequence[Any],
    layers: Sequence[int],
    read: Callable[[], object],
) -> dict[int, Call]:
    """The calls of some blocks while `read` runs, which ends at the last of them."""
    last, thread, seen = max(layers), threading.get_ident(), dict[int, Call]()

    def keep(layer: int) -> Callable[..., None]:
        def hook(
            block: object,
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
        ) -> None:
            if threading.get_ident() == thread:
                seen[layer] = Call(args[0], args[1:], kwargs)
                if layer == last:
                    raise _Stop

        return hook

    with contextlib.ExitStack() as undo, contextlib.suppress(_Stop):
        for layer in layers:
            handle = blocks[layer].register_forward_pre_hook(keep(layer), with_kwargs=True)
            undo.callback(handle.remove)
        read()
    return seen


def below(
    model: "LiveModel",
    ids: Int[Tensor, "rows pos"],
    layer: int,
    cache: Any = None,
) -> Float[Tensor, "rows pos d"]:
    """The residual stream before `layer` at positions that go on where a `transformers` cache
    ends; the cache grows by what the layers below need later, and nothing above is computed."""
    mine, seen = threading.get_ident(), list[Tensor]()

    def keep(block: object, args: tuple[Any, ...]) -> None:
        if threading.get_ident() == mine:
            seen.append(args[0])
            raise _Stop

    handle = model.plain_blocks[layer].register_forward_pre_hook(keep)
    try:
        with torch.inference_mode(), contextlib.suppress(_Stop):
            model.plain.base_model(
                input_ids=ids,
                past_key_values=cache,
                use_cache=cache is not None,
            )
    finally:
        handle.remove()
    return seen[0]


@contextlib.contextmanager
def changed(model: "LiveModel", changes: Mapping[int, Change]) -> Iterator[None]:
    """While it holds, the residual stream of `model.plain` before each of the layers is what its
    callable makes of it.

    Only passes of the thread that asked for it are changed.
    """
    thread = threading.get_ident()

    def through(change: Change) -> Callable[..., tuple[Any, ...] | None]:
        def hook(block: object, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if threading.get_ident() != thread:
                return None
            return change(args[0]).to(args[0]), *args[1:]

        return hook

    with contextlib.ExitStack() as undo:
        for layer, change in changes.items():
            handle = model.plain_blocks[layer].register_forward_pre_hook(through(change))
            undo.callback(handle.remove)
        yield


def final_hidden(
    model: "LiveModel",
    ids: Int[Tensor, "rows pos"],
    layer: int = 0,
    residual: Float[Tensor, "rows pos d"] | None = None,
    gradients: bool = False,
) -> Float[Tensor, "rows pos e"]:
    """What the unembedding sees, after the final norm (and in OPT-350M after a projection to fewer
    dimensions).

    With `residual`, the pass starts before `layer` from it: the layers below are not computed, and
    of `ids` only the shape is used. With `gradients`, what comes out can be differentiated by it.
    """
    body = model.plain.base_model
    with torch.inference_mode(not gradients):
        if residual is None:
            return body(input_ids=ids, use_cache=False).last_hidden_state
        with _resumed(model, model.plain_blocks, layer, residual):
            return body(input_ids=ids, use_cache=False).last_hidden_state


def final_stream(
    model: "LiveModel",
    texts: Texts,
    layer: int,
    residual: Float[Tensor, "pos d"],
) -> Float[Tensor, "pos e"]:
    """`final_hidden` of texts of any length, one after another, from the stream before `layer`."""
    if model.packed is None:
        inside = _inside(texts).to(residual.device)
        padded = residual.new_zeros(*inside.shape, residual.shape[-1])
        padded[inside] = residual
        return final_hidden(model, model.pad(texts), layer, padded)[inside]

    reader = model.packed
    with torch.inference_mode(), _resumed(model, reader.blocks, layer, residual[None]):
        return reader.read(texts)


def last_stream(
    model: "LiveModel",
    ids: Int[Tensor, "rows pos"],
    layer: int,
    residual: Float[Tensor, "rows pos d"],
) -> Float[Tensor, "rows pos d"]:
    """The residual stream after the last block, which the final norm reads, of a pass that starts
    before `layer` from `residual`."""
    seen = list[Tensor]()

    def keep(
        block: object,
        args: object,
        stream: Tensor | tuple[Tensor, ...],
    ) -> None:
        seen.append(stream[0] if isinstance(stream, tuple) else stream)
        raise _Stop

    blocks = model.plain_blocks
    handle = blocks[-1].register_forward_hook(keep)
    try:
        with (
            torch.inference_mode(),
            contextlib.suppress(_Stop),
            _resumed(model, blocks, layer, residual),
        ):
            model.plain.base_model(input_ids=ids, use_cache=False)
    finally:
        handle.remove()
    return seen[0]


def _inside(texts: Texts) -> Bool[Tensor, "rows longest"]:
    """Where a padded batch has a token of a text."""
    lengths = torch.tensor([len(text) for text in texts])
    return torch.arange(int(lengths.max())) < lengths[:, None]


@contextlib.contextmanager
def _resumed(
    model: "LiveModel",
    blocks: Sequence[Any],
    layer: int,
    residual: Tensor,
) -> Iterator[None]:
    """While it holds, a pass enters the block `layer` with this stream, and the blocks below hand
    on what they get."""

    def through(
        hidden_states: Tensor,
        *args: object,
        **kwargs: object,
    ) -> Tensor | tuple[Tensor]:
        return (hidden_states,) if model.blocks_return_tuples else hidden_states

    def enter(block: object, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return residual.to(args[0]), *args[1:]

    handle = blocks[layer].register_forward_pre_hook(enter)
    try:
        for block in blocks[:layer]:
            block.__dict__["forward"] = through
        yield
    finally:
        handle.remove()
        for block in blocks[:layer]:
            block.__dict__.pop("forward", None)
