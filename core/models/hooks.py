"""Record and replace the residual stream at `blocks.{L}.hook_resid_pre`; hooks are always
undone."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from core.models.live import LiveModel


Change = Callable[[Tensor], Tensor]
"""The residual stream [rows, pos, d] to what takes its place."""


class _Stop(Exception):
    """Leaves a forward pass once the last wanted layer has been seen."""


def _name(layer: int) -> str:
    return f"blocks.{layer}.hook_in"  # TransformerBridge's own name of hook_resid_pre


def residuals(
    model: "LiveModel",
    ids: Int[Tensor, "rows pos"],
    layers: Sequence[int],
) -> dict[int, Float[Tensor, "rows pos d"]]:
    """The residual stream before each of `layers`, in the model's dtype; nothing above the last is
    computed."""
    last, seen = max(layers), {}

    def keep(layer: int) -> Callable[..., None]:
        def hook(tensor: Tensor, hook: object) -> None:
            seen[layer] = tensor
            if layer == last:
                raise _Stop

        return hook

    wanted = [(_name(k), keep(k)) for k in layers]
    with torch.inference_mode(), contextlib.suppress(_Stop), model.bridge.hooks(fwd_hooks=wanted):
        model.body(input_ids=ids, use_cache=False)
    return seen


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

    with contextlib.ExitStack() as undo, torch.no_grad(), contextlib.suppress(_Stop):
        for layer in layers:
            undo.callback(
                model.plain_blocks[layer]
                .register_forward_pre_hook(keep(layer), with_kwargs=True)
                .remove
            )
        model.plain.base_model(input_ids=ids, use_cache=False)
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


@contextlib.contextmanager
def _skipping(model: "LiveModel", layers: int) -> Iterator[None]:
    """The first `layers` blocks hand their input on untouched while the body runs."""

    def through(
        hidden_states: Tensor,
        *args: object,
        **kwargs: object,
    ) -> Tensor | tuple[Tensor]:
        return (hidden_states,) if model.blocks_return_tuples else hidden_states

    skipped = list(model.bridge.blocks)[:layers]
    try:
        for block in skipped:
            block.__dict__["forward"] = through
        yield
    finally:
        for block in skipped:
            block.__dict__.pop("forward", None)


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
    if residual is None:
        with torch.inference_mode():
            return model.body(input_ids=ids, use_cache=False).last_hidden_state

    def replace(tensor: Tensor, hook: object) -> Tensor:
        return residual.to(tensor)

    with (
        torch.inference_mode(not gradients),
        _skipping(model, layer),
        model.bridge.hooks(fwd_hooks=[(_name(layer), replace)]),
    ):
        return model.body(input_ids=ids, use_cache=False).last_hidden_state
