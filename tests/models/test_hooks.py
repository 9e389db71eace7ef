"""The residual stream is recorded and replaced as transformers computes it, and nothing stays
behind."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from core.models import hooks, packed
from core.models.live import LiveModel
from tests.helpers.small import ENGLISH, KINDS, SCRIPTS, Tiny


def batch(model: LiveModel) -> torch.Tensor:
    """Three texts of unequal length, padded on the right."""
    texts = [
        SCRIPTS["Latin"],
        SCRIPTS["Han"],
        "A third text, in English, and a little longer than the others.",
    ]
    return model.pad([e.ids for e in model.encode(texts)])


def theirs(model: LiveModel, ids: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """(logits, hidden states) of transformers' own forward pass."""
    with torch.inference_mode():
        out = model.hf(input_ids=ids, output_hidden_states=True, use_cache=False)
    return out.logits, out.hidden_states


def blocks(model: LiveModel) -> list[Any]:
    """Those of whole batches, and those of texts in a row."""
    return model.plain_blocks + (model.packed.blocks if model.packed else [])


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, tiny: Tiny) -> Iterator[LiveModel]:
    """Each architecture; its logits must be bitwise the same after the test as before it."""
    found = tiny(request.param)
    before = theirs(found, batch(found))[0]
    yield found
    assert torch.equal(theirs(found, batch(found))[0], before)
    assert not any("forward" in block.__dict__ for block in blocks(found))


def test_residuals_are_hidden_states(model: LiveModel) -> None:
    ids = batch(model)
    _, hidden = theirs(model, ids)
    layers = range(model.spec.n_layers)
    found = hooks.residuals(model, ids, layers)
    assert sorted(found) == list(layers)
    for layer in layers:
        assert torch.allclose(found[layer], hidden[layer], atol=1e-5)
        assert torch.equal(hooks.residuals(model, ids, [layer])[layer], found[layer])
    assert not torch.allclose(found[1], hidden[2], atol=1e-3), "the next layer's would be seen"


def test_nothing_above_the_last_layer_is_computed(model: LiveModel) -> None:
    ran: list[int] = []
    watches = [
        block.register_forward_pre_hook(lambda block, args, k=k: ran.append(k))
        for k, block in enumerate(model.plain_blocks)
    ]
    hooks.residuals(model, batch(model), [0, 1])
    for watch in watches:
        watch.remove()
    assert ran == [0, 1], "block 1 is entered, where its input is seen, and left at once"


def test_the_final_hidden_gives_the_logits(model: LiveModel) -> None:
    ids = batch(model)
    logits, _ = theirs(model, ids)
    found = model.logits(hooks.final_hidden(model, ids).flatten(0, 1))
    assert torch.allclose(found, logits.flatten(0, 1).float(), atol=1e-5)


def test_a_resumed_pass_equals_the_whole(model: LiveModel) -> None:
    ids = batch(model)
    whole = hooks.final_hidden(model, ids)
    for layer, h in hooks.residuals(model, ids, range(model.spec.n_layers)).items():
        assert torch.equal(hooks.final_hidden(model, ids, layer, h), whole)
        assert torch.equal(hooks.final_hidden(model, torch.zeros_like(ids), layer, h), whole), (
            "ids are not read"
        )
        other = hooks.final_hidden(model, ids, layer, h.roll(1, dims=0))
        assert not torch.allclose(other, whole, atol=1e-3), "what is put there is what is used"


def test_a_replacement_reaches_its_own_future_only(model: LiveModel) -> None:
    ids = batch(model)
    h = hooks.residuals(model, ids, [1])[1].clone()
    whole = hooks.final_hidden(model, ids)
    h[:, 5] = h[:, 5].flip(-1)
    found = hooks.final_hidden(model, ids, 1, h)
    assert torch.equal(found[:, :5], whole[:, :5])
    assert not torch.allclose(found[:, 5], whole[:, 5], atol=1e-3)


def hook_count(model: LiveModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in blocks(model))


def test_hooks_are_gone_afterwards(model: LiveModel) -> None:
    ids, before = batch(model), hook_count(model)
    h = hooks.residuals(model, ids, [0, 2])
    hooks.final_hidden(model, ids, 2, h[2])
    assert hook_count(model) == before


def test_hooks_are_gone_after_an_exception(model: LiveModel) -> None:
    """Of three kinds: in the embedding, in a block that runs, and in a block after skipped ones."""
    ids, before = batch(model), hook_count(model)
    with pytest.raises(IndexError):
        hooks.residuals(model, ids + 100_000, [1])
    with pytest.raises(RuntimeError):
        hooks.final_hidden(model, ids, 2, torch.zeros(*ids.shape, model.spec.d_model + 1))

    def fail(*args: object) -> None:
        raise ZeroDivisionError

    watch = model.plain_blocks[1].register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        hooks.residuals(model, ids, [0, 2])
    h = torch.zeros(*ids.shape, model.spec.d_model)
    with pytest.raises(ZeroDivisionError):
        hooks.final_hidden(model, ids, 1, h)
    watch.remove()
    assert hook_count(model) == before
    # the fixture compares the logits


def texts_of(model: LiveModel) -> list[np.ndarray]:
    """Of unequal length, one of them longer than any small model's sliding window."""
    texts = [SCRIPTS["Latin"], "", SCRIPTS["Han"], ENGLISH[:900]]
    return [encoded.ids for encoded in model.encode(texts) if len(encoded.ids)]


def test_texts_in_a_row_are_read_apart(model: LiveModel) -> None:
    texts, layers = texts_of(model), range(model.spec.n_layers)
    streams = hooks.streams(model, texts, layers)
    for layer in layers:
        alone = [hooks.residuals(model, model.pad([text]), [layer])[layer][0] for text in texts]
        assert torch.allclose(streams[layer], torch.cat(alone), atol=2e-5)
    turned = hooks.streams(model, texts[::-1], [2])[2]
    parts = turned.split([len(text) for text in texts[::-1]])
    assert torch.allclose(torch.cat(parts[::-1]), streams[2], atol=2e-5)


def test_texts_in_a_row_go_on_from_any_layer(model: LiveModel) -> None:
    texts = texts_of(model)
    whole = torch.cat([hooks.final_hidden(model, model.pad([text]))[0] for text in texts])
    for layer, h in hooks.streams(model, texts, range(model.spec.n_layers)).items():
        assert torch.allclose(hooks.final_stream(model, texts, layer, h), whole, atol=5e-5)
        other = hooks.final_stream(model, texts, layer, h.roll(1, dims=0))
        assert not torch.allclose(other, whole, atol=1e-3), "what is put there is what is used"


def test_the_models_of_both_pairs_read_texts_in_a_row(tiny: Tiny) -> None:
    """Without it nothing is wrong, and everything slower."""
    for kind in ("nano-a", "llama", "gemma"):
        reader = tiny(kind).packed
        assert reader is not None and reader.knows


def test_texts_that_see_each_other_are_not_read_in_a_row(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an attention does not keep texts apart, as one that was not asked to."""
    model = tiny("gemma")
    texts = [text.ids for text in model.encode(["One text", SCRIPTS["Latin"]])]
    assert packed.packed(model.plain, model.spec.n_layers, texts) is not None
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    keeps_apart = packed.attend_apart
    monkeypatch.setattr(packed, "attend_apart", sdpa_attention_forward)
    assert packed.packed(model.plain, model.spec.n_layers, texts) is None
    ALL_ATTENTION_FUNCTIONS.register(packed.ATTENTION, keeps_apart)
