"""Null-space shares of planted directions, ablation and path patching of features against passes
made by hand."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from sae_lens import SAE

from core import statistics
from core.functional import ablation
from core.functional.attention import Heads
from core.models.live import LiveModel
from core.text.corpus import Corpus, Document
from tests.helpers.small import KINDS, Tiny

LAYER, FEATURES = 3, 24


@pytest.fixture(scope="module")
def sae() -> "SAE":
    """TopK, random and tied, before layer 3 of nano-b."""
    config = {
        "architecture": "topk",
        "d_in": 256,
        "d_sae": FEATURES,
        "k": 4,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "metadata": {},
    }
    return SAE.from_dict(config).requires_grad_(False)


@pytest.fixture(scope="module")
def documents(english: Corpus) -> list[Document]:
    return list(english.documents[:24])


@pytest.fixture(scope="module")
def fired(tiny: Tiny, sae: "SAE", documents: list[Document]) -> pd.DataFrame:
    return ablation.firing(tiny("nano-b"), sae, LAYER, documents, range(FEATURES), "test")


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_null_direction_has_share_1_and_an_unembedding_direction_0(
    tiny: Tiny, kind: str
) -> None:
    """The unembedding of a copy is made to read nothing of some directions; norm weights are
    uneven."""
    model = copy.copy(tiny(kind))
    model.hf = copy.deepcopy(model.hf)
    d = model.spec.d_model
    g = torch.Generator().manual_seed(0)
    frame = torch.linalg.qr(torch.randn(d, d, generator=g)).Q
    k = max(2, round(0.1 * d))
    layer_norm = isinstance(model.bridge.ln_final.original_component, torch.nn.LayerNorm)
    if layer_norm:  # its centring reads nothing along 1: that is in the null space by itself
        ones = torch.ones(d, 1) / d**0.5
        frame = torch.linalg.qr(torch.cat([ones, frame[:, :-1]], dim=1)).Q
    null, seen = frame[:, :k], frame[:, k:]
    weight = model.hf.get_output_embeddings().weight
    norm = model.bridge.ln_final.original_component
    gain = norm.weight.float() if layer_norm else norm(torch.ones(1, 1, d))[0, 0].float()
    with torch.no_grad():
        weight.copy_(
            (torch.randn(len(weight), d - k, generator=g) @ seen.T + 3 * seen[:, 0]) / gain
        )
    basis = ablation.null_basis(model)
    share = ablation.null_share(torch.cat([null.T, seen.T[1:]]) * 7, basis, k / d)
    assert torch.allclose(share[:k], torch.ones(k), atol=1e-3)
    assert torch.allclose(share[k:], torch.zeros(d - k - 1), atol=1e-3)
    half = ablation.null_share((null[:, 0] + seen[:, 1])[None], basis, k / d)
    assert float(half) == pytest.approx(0.5**0.5, abs=1e-3)
    mean = ablation.null_share(seen[:, :1].T, basis, k / d)
    assert float(mean) < 0.05, "raised for all tokens alike, but also for some more than for others"
    unfolded = torch.linalg.svd(weight.float()).Vh[-k:].T
    if float(gain.std()) > 0.01:
        assert float((null.T @ unfolded).norm(dim=-1).min()) < 0.999, (
            "without the norm's weights it is another space"
        )


def test_random_directions_have_the_root_of_the_share(nano: LiveModel) -> None:
    basis = ablation.null_basis(nano)
    assert torch.allclose(basis.T @ basis, torch.eye(256), atol=1e-4)
    x = torch.randn(2000, 256, generator=torch.Generator().manual_seed(0))
    for share in ablation.NULL_SHARES:
        squared = float(ablation.null_share(x, basis, share).square().mean())
        assert squared == pytest.approx(max(1, round(share * 256)) / 256, rel=0.1)
    assert float(ablation.null_share(torch.zeros(1, 256), basis)) == 0


def test_the_tail_of_the_unembedding_is_what_numpy_finds(nano: LiveModel) -> None:
    rows = (
        ablation.logit_rows(nano, torch.arange(nano.hf.get_output_embeddings().weight.shape[0]))
        .double()
        .numpy()
    )
    _, _, vh = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    x = torch.randn(9, 256, generator=torch.Generator().manual_seed(1))
    k = round(0.05 * 256)
    slow = np.linalg.norm(x.double().numpy() @ vh[-k:].T, axis=1) / np.linalg.norm(
        x.numpy(), axis=1
    )
    assert np.allclose(
        ablation.null_share(x, ablation.null_basis(nano), 0.05).numpy(), slow, atol=1e-4
    )


def test_both_high_needs_both() -> None:
    share, activation = np.array([0.1, 0.9, 0.9, 0.5]), np.array([9.0, 8.0, 0.0, 1.0])
    assert ablation.both_high(share, activation).argmax() == 1
    assert ablation.both_high(share, activation)[2] == 0


def test_controls_are_matched_and_none_of_the_chosen() -> None:
    g = np.random.default_rng(0)
    table = pd.DataFrame(
        {"feature": np.arange(400), "max_a": np.exp(g.normal(size=400)), "max_b": 1.0}
    )
    chosen = [int(f) for f in table.max_a.nlargest(12).index]
    control = ablation.matched(table, chosen, ("max_a", "max_b"))
    assert len(set(control)) == len(control) == 12 and not set(control) & set(chosen)
    typical = table.max_a.median()
    assert table.max_a[control].min() > 2 * typical, "as active as the chosen, not as any"
    assert control == ablation.matched(table, chosen, ("max_a", "max_b"))
    assert control != ablation.matched(table, chosen, ("max_a", "max_b"), seed=1)


def test_an_ablation_is_two_passes_by_hand(
    nano: LiveModel, sae: "SAE", documents: list[Document], fired: pd.DataFrame
) -> None:
    f = int(fired.feature.mode()[0])
    some = ablation.strongest_documents(fired, f, 4)
    assert some.document.nunique() == 4
    assert some.activation.max() == fired.activation[fired.feature == f].max()
    found = ablation.ablation(nano, LAYER, documents, some, sae.W_dec[f])
    for document in found.document.unique().tolist():
        rows = found.loc[found.document == document]
        ids = nano.pad([nano.encode([documents[document].text])[0].ids])
        with torch.no_grad():
            hidden = (
                nano.hf(input_ids=ids, output_hidden_states=True, use_cache=False)
                .hidden_states[LAYER]
                .clone()
            )
            for at, act in zip(rows.position, rows.activation, strict=True):
                assert float(sae.encode(hidden[0, at])[f]) == pytest.approx(act, rel=1e-3)
                hidden[0, at] -= act * sae.W_dec[f]
            last = some.loc[(some.document == document) & (some.position == ids.shape[1] - 1)]
            for at, act in zip(
                last.position, last.activation, strict=True
            ):  # predicts nothing, but is ablated too
                hidden[0, at] -= act * sae.W_dec[f]
            x = hidden
            cosines = nano.plain.base_model.rotary_emb(x, torch.arange(ids.shape[1])[None])
            for block in nano.plain_blocks[LAYER:]:
                x = block(x, attention_mask=None, position_embeddings=cosines)
                x = x[0] if isinstance(x, tuple) else x
            logs = nano.plain.get_output_embeddings()(nano.plain.base_model.final_layer_norm(x))[
                0
            ].log_softmax(-1)
            clean = nano.plain(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        at = torch.tensor(rows.position.to_list())
        entropy = [-(y[at].exp() * y[at]).sum(-1).numpy() for y in (clean, logs)]
        loss = [-y[at].gather(1, ids[0, at + 1][:, None])[:, 0].numpy() for y in (clean, logs)]
        assert np.allclose(rows.entropy, entropy[0], atol=1e-4)
        assert np.allclose(rows.loss, loss[0], atol=1e-4)
        assert np.allclose(rows.entropy_change, entropy[1] - entropy[0], atol=1e-4)
        assert np.allclose(rows.loss_change, loss[1] - loss[0], atol=1e-4)
    assert found.entropy_change.abs().max() > 1e-3, "else the test proves nothing"


def test_a_feature_that_does_not_fire_changes_nothing(
    nano: LiveModel, sae: "SAE", documents: list[Document], fired: pd.DataFrame
) -> None:
    f = int(fired.feature.mode()[0])
    silent = ablation.strongest_documents(fired, f, 3).assign(activation=0.0)
    found = ablation.ablation(nano, LAYER, documents, silent, sae.W_dec[f])
    assert len(found) and (found.entropy_change == 0).all() and (found.loss_change == 0).all()
    patched = ablation.path_patch(Heads(nano), [3, 5], documents, silent, sae.W_dec[f])
    assert np.array_equal(patched.before, patched.after)


def test_patching_a_feature_is_patching_its_places(
    nano: LiveModel, sae: "SAE", documents: list[Document], fired: pd.DataFrame
) -> None:
    """Attention to the first token by the model's own pass, with the residual stream of one layer
    changed at one position: what that position's row of the pattern says."""
    f = int(fired.feature.mode()[0])
    some = ablation.strongest_documents(fired, f, 2).head(12)
    found = ablation.path_patch(Heads(nano), [LAYER, 4], documents, some, sae.W_dec[f])
    assert found.before.shape == (len(some), 2, 4)
    eager = copy.deepcopy(nano.plain)
    eager.set_attn_implementation("eager")
    for k, row in enumerate(found.fired.to_dict("records")):
        ids = nano.pad([nano.encode([documents[row["document"]].text])[0].ids])
        with torch.no_grad():
            clean = eager(input_ids=ids, use_cache=False, output_attentions=True).attentions

            def change(
                block: object, args: tuple[torch.Tensor], row: dict = row
            ) -> tuple[torch.Tensor]:
                x = args[0].clone()
                x[0, row["position"]] -= row["activation"] * sae.W_dec[f]
                return (x, *args[1:])

            handle = eager.base_model.layers[4].register_forward_pre_hook(change)
            after = eager(input_ids=ids, use_cache=False, output_attentions=True).attentions
            handle.remove()
        at = row["position"]
        assert np.allclose(found.before[k, 1], clean[4][0, :, at, 0], atol=1e-5)
        assert np.allclose(found.after[k, 1], after[4][0, :, at, 0], atol=1e-5)
        assert np.allclose(found.before[k, 0], clean[LAYER][0, :, at, 0], atol=1e-5)
    assert np.abs(found.after - found.before).max() > 1e-3


def test_intervals_resample_documents() -> None:
    g = np.random.default_rng(0)
    level = g.normal(size=40).repeat(50)
    values = level + 0.01 * g.normal(size=2000)
    mean, low, high = statistics.document_interval(values, np.arange(40).repeat(50))
    assert low < mean < high and 0.4 < high - low < 0.9  # 2 x 1.96 / sqrt(40), not / sqrt(2000)
    _, tight, wide = statistics.document_interval(values, np.arange(2000))
    assert wide - tight < 0.15
    assert np.isnan(statistics.document_interval(np.array([]), np.array([]))).all()
