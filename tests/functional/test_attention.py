"""Patterns and path patching are those of a forward pass written by hand; scores those of a slow
loop."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from core.errors import StitchLensError
from core.functional import attention
from core.functional.attention import Heads
from core.models import hooks
from core.models.live import LiveModel
from tests.helpers.small import KINDS, Tiny

TEXT = "The committee will meet in Paris on Monday, and nobody knows whether they will agree."
LAYER, HEAD = 4, 2
"""Of nano-b."""


def ids_of(model: LiveModel, text: str = TEXT) -> Tensor:
    return model.pad([model.encode([text])[0].ids])


@pytest.mark.parametrize("kind", KINDS)
def test_patterns_are_the_models_own(tiny: Tiny, kind: str) -> None:
    """Of every family: fused and grouped queries, norms of queries and keys, rotary embeddings, a
    sliding window that is shorter than the text."""
    model = tiny(kind)
    ids = ids_of(model, TEXT * 3)
    assert kind != "gemma" or ids.shape[1] > 64
    layers = range(model.spec.n_layers)
    heads = Heads(model)
    eager = copy.deepcopy(model.plain)
    eager.set_attn_implementation("eager")
    with torch.inference_mode():
        theirs = eager(input_ids=ids, output_attentions=True, use_cache=False).attentions
    for layer, call in heads.calls(ids, layers).items():
        mine = attention.pattern(heads.look(layer, call))
        assert torch.allclose(mine, theirs[layer], atol=1e-5), layer


def neox_pattern(
    model: LiveModel, hidden: Tensor, layer: int, head: int, changed: Tensor, at: int
) -> np.ndarray:
    """Row `at` of a GPT-NeoX head's pattern in NumPy, its input at that position being `changed`,
    one step a line."""
    block, config = model.plain_blocks[layer], model.plain.config
    x = hidden.double().numpy().copy()
    x[at] = changed.double().numpy()
    norm = block.input_layernorm
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + norm.eps)
    x = x * norm.weight.double().numpy() + norm.bias.double().numpy()
    fused = block.attention.query_key_value
    size = config.hidden_size // config.num_attention_heads
    w = fused.weight.double().numpy().reshape(config.num_attention_heads, 3, size, -1)[head]
    b = fused.bias.double().numpy().reshape(config.num_attention_heads, 3, size)[head]
    q, k = x @ w[0].T + b[0], x @ w[1].T + b[1]
    turned = size // 4  # partial_rotary_factor
    speed = 10000.0 ** (-np.arange(0, turned, 2) / turned)
    angle = np.arange(len(x))[:, None] * np.r_[speed, speed]

    def rotate(y: np.ndarray) -> np.ndarray:
        first, second = y[:, : turned // 2], y[:, turned // 2 : turned]
        part = y[:, :turned] * np.cos(angle) + np.c_[-second, first] * np.sin(angle)
        return np.c_[part, y[:, turned:]]

    logits = rotate(q)[at] @ rotate(k)[: at + 1].T / np.sqrt(size)
    e = np.exp(logits - logits.max())
    return e / e.sum()


def test_path_patching_is_a_forward_pass_by_hand(nano: LiveModel) -> None:
    """The head's input at the current token alone lacks the contribution, at each position by
    itself."""
    ids = ids_of(nano)
    g = torch.Generator().manual_seed(0)
    direction = torch.randn(nano.spec.d_model, generator=g)
    acts = torch.rand(ids.shape[1], generator=g)
    acts[::3] = 0
    contribution = (acts[:, None] * direction)[None]
    heads = Heads(nano)
    call = heads.calls(ids, [LAYER])[LAYER]
    before, after = attention.ablated(heads, LAYER, call, contribution)
    hidden = call.hidden[0]
    moved = 0.0
    for at in range(ids.shape[1]):
        clean = neox_pattern(nano, hidden, LAYER, HEAD, hidden[at], at)
        patched = neox_pattern(nano, hidden, LAYER, HEAD, hidden[at] - contribution[0, at], at)
        assert np.abs(before[0, HEAD, at, : at + 1].numpy() - clean).max() < 1e-5
        assert np.abs(after[0, HEAD, at, : at + 1].numpy() - patched).max() < 1e-5
        moved = max(moved, np.abs(clean - patched).max())
        if acts[at] == 0:
            assert torch.equal(before[0, HEAD, at], after[0, HEAD, at]), (
                "a feature that does not fire changes nothing"
            )
    assert moved > 0.1, "else the test proves nothing"


def test_taking_out_everywhere_is_another_thing(nano: LiveModel) -> None:
    """The negative control: keys of other positions changed too give another pattern."""
    ids, heads = ids_of(nano), Heads(nano)
    call = heads.calls(ids, [LAYER])[LAYER]
    contribution = torch.randn(call.hidden.shape, generator=torch.Generator().manual_seed(0))
    _, patched = attention.ablated(heads, LAYER, call, contribution)
    everywhere = attention.pattern(heads.look(LAYER, call, call.hidden - contribution))
    assert (patched - everywhere).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["nano-b", "gemma"])
def test_scores_are_those_of_a_slow_loop(tiny: Tiny, kind: str) -> None:
    """A unit of each feature, a position and a head at a time, moves the logit of the first token
    by the score: the central difference of the model's own queries and keys, in NumPy."""
    model = tiny(kind)
    heads = Heads(model)
    layers = [model.spec.n_layers - 2, model.spec.n_layers - 1]
    ids = ids_of(model, TEXT[:40])
    wanted = torch.ones(ids.shape, dtype=torch.bool)
    wanted[0, -2:] = False
    decoder = torch.randn(5, model.spec.d_model, generator=torch.Generator().manual_seed(3))
    read = attention.readers(heads, [(ids, wanted)], layers)
    found = dict(attention.scores(decoder, read, block=2))
    calls = heads.calls(ids, layers)
    step = 1e-2
    for layer in layers:
        assert found[layer].shape == (5, heads.heads)
        clean = heads.look(layer, calls[layer])
        first = clean.k[0, :, 0].double().numpy()
        for f in range(5):
            slow = np.zeros(heads.heads)
            ends = []
            for sign in (1, -1):
                moved = heads.look(
                    layer, calls[layer], calls[layer].hidden + sign * step * decoder[f]
                )
                ends.append(moved.q[0].double().detach().numpy())
            for head in range(heads.heads):
                changes = []
                for at in range(1, ids.shape[1] - 2):
                    up, down = (float(q[head, at] @ first[head]) * clean.scale for q in ends)
                    changes.append((up - down) / (2 * step))
                slow[head] = np.mean(changes)
            assert np.allclose(found[layer][f].numpy(), slow, rtol=2e-2, atol=2e-3), (layer, f)


def test_a_direction_that_is_read_deactivates(nano: LiveModel) -> None:
    """Adding what a head reads for the first token raises its attention there; taking it out lowers
    it."""
    ids, heads = ids_of(nano), Heads(nano)
    wanted = torch.ones(ids.shape, dtype=torch.bool)
    read = attention.readers(heads, [(ids, wanted)], [LAYER])[LAYER][HEAD]
    call = heads.calls(ids, [LAYER])[LAYER]
    contribution = (read / read.norm() * 3).expand_as(call.hidden)
    before, after = attention.ablated(heads, LAYER, call, contribution)
    change = (after - before)[0, HEAD, 1:, 0]
    assert float(change.mean()) < -0.001
    assert float((change < 0).float().mean()) > 0.9


def test_the_model_is_left_as_it_was(nano: LiveModel) -> None:
    ids = ids_of(nano)
    with torch.inference_mode():
        logits = nano.plain(input_ids=ids, use_cache=False).logits
    heads = Heads(nano)
    with hooks.changed(nano, {LAYER: lambda h: h * 0}):  # a copy made meanwhile has none of it
        heads._block(LAYER)
    call = heads.calls(ids, [LAYER])[LAYER]
    assert float(attention.pattern(heads.look(LAYER, call))[0, HEAD, -1].std()) > 0.01
    with torch.inference_mode():
        assert torch.equal(nano.plain(input_ids=ids, use_cache=False).logits, logits)
    assert nano.plain.config._attn_implementation == "sdpa"
    assert not nano.plain_blocks[LAYER]._forward_pre_hooks


def test_a_head_that_is_not_there_is_said(nano: LiveModel) -> None:
    heads = Heads(nano)
    heads.check(5, 3, first=3)
    with pytest.raises(StitchLensError, match="head 4 of nano-b; wanted 0 to 3"):
        heads.check(5, 4)
    for layer in (2, 6):
        with pytest.raises(StitchLensError, match=f"layer {layer} of nano-b; wanted 3 to 5"):
            heads.check(layer, 0, first=3)
