"""The final norm's denominator frozen and free against passes made by hand; the criterion finds
planted entropy features and no planted semantic ones."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sae_lens import SAE

from core import statistics
from core.functional import ablation, entropy, planted
from core.functional.criterion import is_entropy_feature, parts
from core.functional.entropy import Clean
from core.functional.planted import Unembedding
from core.models import hooks
from core.models.live import LiveModel
from core.text.corpus import Corpus, Document
from tests.helpers.small import KINDS, Tiny

LAYER = 5
"""Of nano-b: its last."""
TEXT = "The committee will meet in Paris on Monday, and nobody knows whether they will agree."


@pytest.fixture(scope="module")
def documents(english: Corpus) -> list[Document]:
    """Short ones: the heads of long texts."""
    return [replace(d, text=d.text[:300]) for d in english.documents[:24]]


@pytest.fixture(scope="module")
def texts(tiny: Tiny, documents: list[Document]) -> list[Clean]:
    return entropy.read_clean(tiny("nano-b"), LAYER, documents)


@pytest.fixture(scope="module")
def unembedding(tiny: Tiny) -> Unembedding:
    return Unembedding.of(tiny("nano-b"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_stream_is_what_the_final_norm_reads(tiny: Tiny, kind: str) -> None:
    model = tiny(kind)
    ids = model.pad([model.encode([TEXT])[0].ids])
    layer = model.spec.n_layers - 1
    before = hooks.residuals(model, ids, [layer])[layer]
    after = hooks.last_stream(model, ids, layer, before)
    read = hooks.final_hidden(model, ids)
    with torch.inference_mode():
        assert torch.allclose(model.final_norm(after), read, atol=1e-5)  # type: ignore[misc]
    assert torch.equal(hooks.final_hidden(model, ids), read), "and the hooks are undone"


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_norm_is_one_written_by_hand(tiny: Tiny, kind: str) -> None:
    """In NumPy: a LayerNorm of nano, RMS norms of Llama and Gemma (whose gain is 1 + weight)."""
    model = tiny(kind)
    g = torch.Generator().manual_seed(0)
    clean, stream = (torch.randn(9, model.spec.d_model, generator=g) * s for s in (3.0, 5.0))
    frozen = entropy.frozen_norm(model, stream, clean).numpy()
    norm = model.final_norm
    x, y = stream.double().numpy(), clean.double().numpy()
    weight = norm.weight.double().numpy()  # type: ignore[union-attr]
    if isinstance(norm, torch.nn.LayerNorm):
        scale = np.sqrt(y.var(-1, keepdims=True) + norm.eps)
        slow = (x - x.mean(-1, keepdims=True)) / scale * weight + norm.bias.double().numpy()
    else:
        gain = 1 + weight if kind == "gemma" else weight
        slow = x / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6) * gain
    assert np.allclose(frozen, slow, atol=1e-4)
    with torch.inference_mode():
        free = norm(stream).numpy()  # type: ignore[misc]
    assert np.allclose(entropy.frozen_norm(model, stream, stream), free, atol=1e-5)
    assert np.abs(frozen - free).max() > 0.1, "else the test proves nothing"


@pytest.mark.parametrize("total", [False, True])
def test_taking_a_feature_out_is_two_passes_by_hand(
    nano: LiveModel, documents: list[Document], texts: list[Clean], total: bool
) -> None:
    """The last block by transformers' own modules, the norm in NumPy, its denominator free or that
    of the clean pass; the last block reads the feature or, on the direct path, does not."""
    config = {
        "architecture": "topk",
        "d_in": 256,
        "d_sae": 24,
        "k": 4,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "metadata": {},
    }
    sae = SAE.from_dict(config).requires_grad_(False)
    fired = ablation.firing(nano, sae, LAYER, documents, range(24), "test")
    feature = int(fired.feature.mode()[0])
    own = fired.loc[fired.feature == feature]
    places = entropy.measured_places(own, texts, 4, 3)
    assert places.document.nunique() == 4
    assert int(places.document.value_counts().max()) == 3
    effects = entropy.taken_out(nano, LAYER, texts, own, places, sae.W_dec[feature], total)

    norm = nano.plain.base_model.final_layer_norm
    weight, bias = (x.double().numpy() for x in (norm.weight, norm.bias))
    unembedding = nano.plain.get_output_embeddings().weight.double().numpy()

    def spread(stream: np.ndarray, denominators: np.ndarray) -> np.ndarray:
        """The entropies of the next tokens."""
        hidden = (stream - stream.mean(-1, keepdims=True)) / denominators * weight + bias
        logits = hidden @ unembedding.T
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        return -(shares * np.log(shares)).sum(-1)

    for k, rows in effects.groupby("document"):
        text = documents[int(str(k))].text
        ids = nano.pad([nano.encode([text])[0].ids])
        with torch.no_grad():
            states = nano.plain(input_ids=ids, output_hidden_states=True, use_cache=False)
            residual = states.hidden_states[LAYER].clone()
            cosines = nano.plain.base_model.rotary_emb(residual, torch.arange(ids.shape[1])[None])

            def last_block(x: torch.Tensor, cosines: tuple = cosines) -> np.ndarray:
                out = nano.plain_blocks[LAYER](x, attention_mask=None, position_embeddings=cosines)
                return (out[0] if isinstance(out, tuple) else out)[0].double().numpy()

            clean = last_block(residual)
            for row in own.loc[own.document == k].to_dict("records"):
                residual[0, row["position"]] -= row["activation"] * sae.W_dec[feature]
            removed = (states.hidden_states[LAYER] - residual)[0].double().numpy()
            changed = last_block(residual) if total else clean - removed
        at = rows.position.to_numpy()
        own_scale = [np.sqrt(x.var(-1, keepdims=True) + norm.eps) for x in (clean, changed)]
        before = spread(clean[at], own_scale[0][at])
        assert np.allclose(rows.entropy, before, atol=1e-4)
        assert np.allclose(rows.free, spread(changed[at], own_scale[1][at]) - before, atol=1e-4)
        assert np.allclose(rows.frozen, spread(changed[at], own_scale[0][at]) - before, atol=1e-4)
        norms = np.linalg.norm(states.hidden_states[LAYER][0].numpy()[at], axis=1)
        taken = rows.activation * float(sae.W_dec[feature].norm())
        assert np.allclose(rows["size"], taken / norms, rtol=1e-3)
    assert np.abs(effects.free - effects.frozen).max() > 1e-3, "else the test proves nothing"


def test_what_is_silent_changes_nothing_and_is_no_entropy_feature(
    nano: LiveModel, texts: list[Clean], unembedding: Unembedding
) -> None:
    rows = [(k, at, 0.0) for k in range(4) for at in range(2, 8)]
    fired = pd.DataFrame(rows, columns=["document", "position", "activation"])
    direction = unembedding.basis[:, 0]
    effects = entropy.taken_out(nano, LAYER, texts, fired, fired, direction)
    assert effects.free.abs().max() < 1e-5 and effects.frozen.abs().max() < 1e-5
    assert not is_entropy_feature(entropy.judged(effects) | {"reading": 0.0})


def with_null_space(model: LiveModel, unembedding: Unembedding) -> LiveModel:
    """A copy whose unembedding reads nothing of what it reads least: nano's own has no null space
    to speak of."""
    copied = copy.copy(model)
    copied.hf = copy.deepcopy(model.hf)
    weight = copied.hf.get_output_embeddings().weight
    norm: Any = copied.final_norm
    unread = torch.linalg.svd(norm.weight[:, None] * unembedding.null, full_matrices=False)
    inside = unread.U[:, unread.S > 0.1]
    with torch.no_grad():
        weight -= (weight @ inside) @ inside.T
    return copied


def test_planted_entropy_features_are_found_and_semantic_ones_are_not(
    nano: LiveModel, documents: list[Document], unembedding: Unembedding
) -> None:
    assert unembedding.floor > 0.4, "else the model can be taken as it is"
    model = with_null_space(nano, unembedding)
    read = Unembedding.of(model)
    assert read.floor < 0.01
    texts = entropy.read_clean(model, LAYER, documents)

    rng, g = np.random.default_rng(0), torch.Generator().manual_seed(0)
    allowed = planted.usable(texts)
    found: dict[tuple[str, float], list[bool]] = {}
    for kind, size in (("entropy", 0.3), ("entropy", 0.01), ("semantic", 0.3)):
        for _ in range(5):
            if kind == "entropy":
                direction = planted.null_direction(read, g)
            else:
                direction = planted.semantic_direction(model, texts, g)
            where = planted.places(allowed, 8, 4, rng)
            effects = planted.planted(model, texts, where, direction, size)
            row = entropy.judged(effects)
            row |= {name: x[0] for name, x in read.about(direction[None]).items()}
            assert (row["reading"] < 0.5) == (kind == "entropy")
            found.setdefault((kind, size), []).append(is_entropy_feature(row))
    assert sum(found["entropy", 0.3]) == 5
    assert not any(found["entropy", 0.01]), "too small to be seen"
    assert not any(found["semantic", 0.3])


def test_an_emptied_unembedding_is_one_whose_weights_read_nothing(
    nano: LiveModel, unembedding: Unembedding
) -> None:
    other = entropy.emptied(nano, unembedding.null)
    hidden = torch.randn(5, 256, generator=torch.Generator().manual_seed(0))
    slow = with_null_space(nano, unembedding).logits(hidden)
    assert torch.allclose(other.logits(hidden), slow, atol=1e-3)
    assert (nano.logits(hidden) - slow).abs().max() > 0.1, "and nano itself is left as it was"


def test_planting_adds_as_much_as_is_said(nano: LiveModel, texts: list[Clean]) -> None:
    where = pd.DataFrame({"document": [0, 0, 3], "position": [3, 9, 5]})
    direction = torch.nn.functional.normalize(torch.ones(256), dim=0)
    effects = planted.planted(nano, texts, where, direction, 0.3)
    text = texts[3]
    stream = text.after[5] + 0.3 * text.before[5].norm() * direction
    with torch.inference_mode():
        hidden = nano.final_norm(stream[None])  # type: ignore[misc]
    (planted_entropy,), _ = ablation.predictions(nano, hidden, torch.tensor([0]))
    row = effects.loc[effects.document == 3].iloc[0]
    assert row.entropy == pytest.approx(float(planted_entropy), abs=1e-4)
    assert row.free == pytest.approx(float(text.entropy[5] - planted_entropy), abs=1e-4)


def test_reading_is_the_spread_of_the_logits(nano: LiveModel, unembedding: Unembedding) -> None:
    size = nano.hf.get_output_embeddings().weight.shape[0]
    rows = ablation.logit_rows(nano, torch.arange(size)).double()
    g = torch.Generator().manual_seed(0)
    directions = torch.randn(400, 256, generator=g)
    spread = (directions.double() @ rows.T).std(1, correction=0) / directions.norm(dim=1)
    read = ablation.reading(directions, unembedding.values, unembedding.basis).double()
    ratio = spread / read
    assert torch.allclose(ratio, ratio[0].expand(400), rtol=1e-3)
    assert float(read.square().mean()) == pytest.approx(1, rel=0.05)
    assert (
        float(ablation.reading(unembedding.basis[:, :1].T, unembedding.values, unembedding.basis))
        < 0.1
    )


def test_each_part_of_the_criterion_is_needed() -> None:
    row = {"free_low": 0.06, "free_high": 0.1, "left_high": 0.3, "reading": 0.4}
    assert is_entropy_feature(row)
    assert is_entropy_feature(row | {"free_low": -0.2, "free_high": -0.06})
    for change in (
        {"free_low": 0.04},
        {"free_low": -0.2, "free_high": 0.1},
        {"left_high": 0.4},
        {"reading": 0.6},
        {"free_low": float("nan"), "free_high": float("nan")},
    ):
        assert not is_entropy_feature(row | change)
    table = pd.DataFrame([row, row | {"reading": 0.6}])
    assert parts(table)["unread"].tolist() == [True, False]


def test_a_ratio_and_its_interval() -> None:
    g = np.random.default_rng(0)
    below = g.uniform(1, 2, 600)
    documents = np.arange(30).repeat(20)
    above = 0.25 * below + 0.1 * g.normal(size=30).repeat(20)
    ratio, low, high = statistics.ratio_interval(above, below, documents)
    assert ratio == pytest.approx(above.sum() / below.sum())
    assert low < ratio < high and high - low == pytest.approx(
        2 * 1.96 * 0.1 / 1.5 / 30**0.5, rel=0.4
    )
    assert np.isnan(statistics.ratio_interval(above * 0, below * 0, documents)).all()
