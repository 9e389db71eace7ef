"""The residual stream is recorded and replaced as transformers computes it, and nothing stays
behind."""

from collections.abc import Iterator

import pytest
import torch

from core.models import hooks
from core.models.live import LiveModel
from tests.helpers.small import KINDS, SCRIPTS, Tiny


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


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, tiny: Tiny) -> Iterator[LiveModel]:
    """Each architecture; its logits must be bitwise the same after the test as before it."""
    found = tiny(request.param)
    before = theirs(found, batch(found))[0]
    yield found
    assert torch.equal(theirs(found, batch(found))[0], before)
    assert not any("forward" in block.__dict__ for block in found.bridge.blocks)


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
        for k, block in enumerate(model.bridge.blocks)
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
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.bridge.modules())


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

    watch = model.bridge.blocks[1].register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        hooks.residuals(model, ids, [0, 2])
    h = torch.zeros(*ids.shape, model.spec.d_model)
    with pytest.raises(ZeroDivisionError):
        hooks.final_hidden(model, ids, 1, h)
    watch.remove()
    assert hook_count(model) == before
    # the fixture compares the logits
