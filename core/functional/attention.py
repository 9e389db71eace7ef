"""A model's attention heads by its own modules: patterns, path patching, and which directions make
a head look away.

A pattern's row p says where position p looks. The first token is where a head looks that has
nothing to do (a sink): what makes it look there deactivates it.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.errors import StitchLensError
from core.models import hooks
from core.models.live import LiveModel

INTERFACE = "stitchlens_look"
"""Under this name transformers' attention modules hand their queries and keys to `_hand_over`."""


@dataclass(frozen=True)
class Look:
    """What the heads of one layer look with (q) and at (k), float32, after norms and rotary
    embedding. Heads that share their keys (GQA) have them repeated. A head sees itself and `window`
    - 1 positions before; None: all before."""

    q: Float[Tensor, "rows heads pos dh"]
    k: Float[Tensor, "rows heads pos dh"]
    scale: float
    window: int | None = None
    cap: float | None = None
    """Of logits, soft."""
    sink: Float[Tensor, " heads"] | None = None
    """A learned logit beside those of the positions, for looking nowhere (GPT-OSS): shares then sum
    to less than 1."""

    @property
    def visible(self) -> Bool[Tensor, "pos pos"]:
        """Which position (column) each position (row) may look at."""
        at = torch.arange(self.q.shape[2], device=self.q.device)
        back = at[:, None] - at
        visible = back >= 0
        if self.window:
            visible &= back < self.window
        return visible

    def capped(self, products: Tensor) -> Tensor:
        """Attention logits of products of queries and keys."""
        logits = products * self.scale
        if not self.cap:
            return logits
        return torch.tanh(logits / self.cap) * self.cap


class _Looked(Exception):
    def __init__(self, look: Look) -> None:
        self.look = look


def _hand_over(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: object,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: object,
) -> NoReturn:
    """In the place of attention: leaves the block with its queries and keys."""
    _, heads, _, width = query.shape
    shared_by = heads // key.shape[1]
    look = Look(
        q=query,
        k=key.repeat_interleave(shared_by, dim=1),
        scale=scaling or width**-0.5,
        window=sliding_window,
        cap=softcap,
        sink=s_aux,
    )
    raise _Looked(look)


class Heads:
    """The heads of a model, in float32 whatever the model's precision: copies of its blocks, made
    when first asked for, which run up to their attention."""

    def __init__(self, model: LiveModel) -> None:
        self.model = model
        self.heads = int(model.plain.config.get_text_config().num_attention_heads)
        self._blocks: dict[int, Any] = {}

    def check(
        self,
        layer: int,
        head: int,
        first: int = 0,
    ) -> None:
        """Raises StitchLensError where there is no such head at or behind layer `first`."""
        last = self.model.spec.n_layers - 1
        if not first <= layer <= last:
            raise StitchLensError(
                f"layer {layer} of {self.model.spec.title}",
                f"{first} to {last}, at or behind the feature's",
                "choose a layer in that range",
            )
        if not 0 <= head < self.heads:
            raise StitchLensError(
                f"head {head} of {self.model.spec.title}",
                f"0 to {self.heads - 1}",
                "choose a head in that range",
            )

    def calls(self, ids: Int[Tensor, "rows pos"], layers: Sequence[int]) -> dict[int, hooks.Call]:
        """One pass of the model, for `look`."""
        return hooks.calls(self.model, ids, layers)

    def look(
        self,
        layer: int,
        call: hooks.Call,
        hidden: Float[Tensor, "rows pos d"] | None = None,
    ) -> Look:
        """The heads of `layer`; with `hidden`, where the residual stream before it is that."""
        block = self._block(layer)
        residual = call.hidden if hidden is None else hidden
        named = {name: _float(value) for name, value in call.kwargs.items()}
        try:
            block(_float(residual), *_float(call.args), **named)
        except _Looked as left:
            return left.look

        raise StitchLensError(
            f"{self.model.spec.title}, whose attention does not go through transformers' interface",
            "a model of a newer kind",
            "functional features of this family cannot be measured",
        )

    def _block(self, layer: int) -> Any:
        if layer in self._blocks:
            return self._blocks[layer]

        from transformers import AttentionInterface

        AttentionInterface.register(INTERFACE, _hand_over)
        block = copy.deepcopy(self.model.plain_blocks[layer]).float()
        for module in block.modules():
            module._forward_pre_hooks.clear()
            if hasattr(module, "config"):
                module.config._attn_implementation = INTERFACE  # the copy's own
        self._blocks[layer] = block
        return block


def _float(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, tuple):
        return tuple(_float(part) for part in value)
    return value


def pattern(look: Look) -> Float[Tensor, "rows heads pos pos"]:
    """Where each position looks."""
    return _shares(look, look.capped(look.q @ look.k.mT))


def patched(look: Look, changed: Look) -> Float[Tensor, "rows heads pos pos"]:
    """Where each position would look if the head's input were `changed` at that position alone: row
    p has the changed query and the changed own key of p, all other keys stay."""
    products = changed.q @ look.k.mT
    to_self = torch.diagonal(products, dim1=-2, dim2=-1)
    key_change = changed.k - look.k
    own = to_self + (changed.q * key_change).sum(-1)

    products = torch.diagonal_scatter(products, own, dim1=-2, dim2=-1)
    return _shares(look, look.capped(products))


def _shares(look: Look, logits: Tensor) -> Tensor:
    logits = logits.masked_fill(~look.visible, -torch.inf)
    if look.sink is None:
        return logits.softmax(-1)
    nowhere = look.sink.float()[:, None, None].expand(*logits.shape[:-1], 1)
    return torch.cat([logits, nowhere], dim=-1).softmax(-1)[..., :-1]


def ablated(
    heads: Heads,
    layer: int,
    call: hooks.Call,
    contribution: Float[Tensor, "rows pos d"],
) -> tuple[Float[Tensor, "rows heads pos pos"], Float[Tensor, "rows heads pos pos"]]:
    """(pattern, pattern where `contribution` is taken out of the heads' input at the current
    token): path patching of the direct path from where `contribution` was written to every head of
    `layer`."""
    without = call.hidden.float() - contribution
    before = heads.look(layer, call)
    after = heads.look(layer, call, without)
    return pattern(before), patched(before, after)


def to_first(look: Look) -> Float[Tensor, "rows heads pos"]:
    """Each position's attention logit for the first token, whose key counts as given."""
    first_key = look.k[:, :, :1].detach()
    return look.capped((look.q * first_key).sum(-1))


def readers(
    heads: Heads,
    batches: Sequence[tuple[Tensor, Tensor]],
    layers: Sequence[int],
) -> dict[int, Float[Tensor, "heads d"]]:
    """By layer, the direction of the residual stream that each head reads for the first token, in
    attention logits per unit: the mean gradient of `to_first` with respect to the head's input,
    over the marked positions [rows, pos] of token ids [rows, pos], never the first, and only where
    the first can be seen. It is W_Q k_first of Gurnee et al. (2024) behind the model's own norms
    and rotary embedding."""
    shape = (heads.heads, heads.model.spec.d_model)
    total = {layer: torch.zeros(shape) for layer in layers}
    count = dict.fromkeys(layers, 0)
    for ids, wanted in batches:
        for layer, call in heads.calls(ids, layers).items():
            hidden = call.hidden.float().detach().clone().requires_grad_()
            look = heads.look(layer, call, hidden)
            at = wanted.to(hidden.device) & look.visible[:, 0]
            at[:, 0] = False

            logits = to_first(look)
            for head, sums in enumerate(total[layer]):
                at_places = logits[:, head][at].sum()
                (gradient,) = torch.autograd.grad(at_places, hidden, retain_graph=True)
                sums += gradient.sum((0, 1)).cpu()
            count[layer] += int(at.sum())

    return {layer: sums / max(count[layer], 1) for layer, sums in total.items()}


def scores(
    decoder: Float[Tensor, "f d"],
    read: Mapping[int, Float[Tensor, "heads d"]],
    block: int = 4096,
) -> Iterator[tuple[int, Float[Tensor, "f heads"]]]:
    """By layer, the heuristic score of every feature for every head: what a unit of its activation
    adds to the attention logit of the first token. Above zero it deactivates the head, below it
    activates it."""
    for layer, rows in read.items():
        parts = [part @ rows.T for part in decoder.split(block)]
        yield layer, torch.cat(parts)
