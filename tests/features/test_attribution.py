"""Eq. 10 is SciPy's Pearson correlation of a dense computation; logit rows are the model's own
logits."""

from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import SAE
from scipy.stats import pearsonr

from core.activations.harvest import norm_limits, read_window, within
from core.features import attribution, unembedding
from core.features.attribution import (
    Attribution,
    contributions,
    measure_attribution,
)
from core.features.unembedding import extreme_tokens, logit_rows
from core.models import hooks
from core.models.pairs import LayerPair
from core.stitches.stitch import Stitch
from core.stitches.transfer import transfer_sae
from core.text.corpus import Corpus
from tests.helpers.small import KINDS, Tiny

LAYERS = LayerPair(a=1, b=2)


@pytest.mark.parametrize("kind", KINDS)
def test_logit_rows_are_logits_times_the_norms_scale(tiny: Tiny, kind: str) -> None:
    model = tiny(kind)
    h = torch.randn(5, model.spec.d_model, generator=torch.Generator().manual_seed(0)) * 3
    norm = model.bridge.ln_final.original_component
    layer_norm = isinstance(norm, torch.nn.LayerNorm)
    eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
    spread = h - h.mean(-1, keepdim=True) if layer_norm else h
    scale = (spread.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    with torch.inference_mode():
        normed = norm(h[None])[0]
        if layer_norm:
            normed = normed - norm.bias
        logits = model.hf.get_output_embeddings()(normed)
    ids = torch.arange(0, 40)
    assert torch.allclose(
        h @ logit_rows(model, ids).T, logits[:, :40] * scale, rtol=1e-3, atol=1e-3
    )


def test_extreme_tokens_are_those_of_the_dense_product(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("gemma")
    directions = torch.randn(7, model.spec.d_model, generator=torch.Generator().manual_seed(1))
    dense = directions @ logit_rows(model, torch.arange(len(model.tokenizer))).T
    monkeypatch.setattr(unembedding, "PART", 100)
    values, ids = extreme_tokens(model, directions, 5)
    assert torch.equal(ids[:, :5], dense.topk(5).indices)
    assert torch.equal(ids[:, 5:], (-dense).topk(5).indices)
    assert torch.allclose(values, dense.gather(1, ids), atol=1e-5)


def reference(x: Any, y: Any) -> float:
    """SciPy's Pearson correlation."""
    found: Any = pearsonr(x, y)
    return float(found.statistic)


def sparse(n: int, features: int, seed: int, share: float = 0.2) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    on = torch.rand(n, features, generator=g) < share
    return torch.rand(n, features, generator=g) * on


def test_it_is_scipys_pearson() -> None:
    n, f, d = 900, 30, 16
    acts_a = sparse(n, f, 0)
    acts_b = torch.where(torch.rand(n, f) < 0.7, acts_a, sparse(n, f, 1))
    acts_b[:, 5] = 0
    dec_a, dec_b = torch.randn(f, d), torch.randn(f, d)
    rows_a = torch.randn(n, d)
    rows_b = rows_a + 0.5 * torch.randn(n, d)
    gathered = Attribution(f)
    for k, part in enumerate(torch.arange(n).split(100)):
        both = ((acts_a, dec_a, rows_a), (acts_b, dec_b, rows_b))
        gathered.update(
            k, *(contributions(acts[part], dec, rows[part]) for acts, dec, rows in both)
        )
    table = gathered.table()
    x, y = acts_a * (rows_a @ dec_a.T), acts_b * (rows_b @ dec_b.T)
    for i in range(f):
        row = table.iloc[i]
        if i == 5:
            assert np.isnan(row.correlation), "never active in B"
            continue
        assert row.correlation == pytest.approx(reference(x[:, i], y[:, i]), abs=1e-6)
        assert row.low <= row.correlation <= row.high
        assert row.joint == int(((acts_a[:, i] > 0) & (acts_b[:, i] > 0)).sum())
        assert row.density_a == pytest.approx(float((acts_a[:, i] > 0).float().mean()))
        assert row.max_b == pytest.approx(float(acts_b[:, i].max()))
    assert not table.reliable[5]


def test_the_same_feature_correlates_fully_and_another_does_not() -> None:
    n, f, d = 2000, 12, 8
    acts, decoder, rows = sparse(n, f, 3), torch.randn(f, d), torch.randn(n, d)
    same = contributions(acts, decoder, rows)
    other_acts, other_rows = sparse(n, f, 4), torch.randn(n, d)
    gathered, control = Attribution(f), Attribution(f)
    gathered.update(0, same, same)
    control.update(0, same, contributions(other_acts, decoder, other_rows))
    assert np.allclose(gathered.table().correlation, 1)
    assert abs(control.table().correlation).max() < 0.15


def test_contributions_are_entries_of_the_dense_product() -> None:
    acts, decoder, rows = sparse(50, 9, 5), torch.randn(9, 4), torch.randn(50, 4)
    found = contributions(acts, decoder, rows)
    assert torch.equal(torch.stack([found.at, found.feature], dim=1), acts.nonzero())
    assert torch.equal(found.activation, acts[found.at, found.feature])
    dense = acts * (rows @ decoder.T)
    assert torch.allclose(found.attribution, dense[found.at, found.feature], atol=1e-6)
    none = contributions(torch.zeros(3, 9), decoder, rows[:3])
    assert none.n == 3 and len(none.at) == len(none.attribution) == 0


@pytest.mark.parametrize("limit", [1, 400])
def test_parts_do_not_matter(
    tiny: Tiny, english: Corpus, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    a = tiny("nano-a")
    sae = SAE.from_dict(
        {
            "architecture": "topk",
            "k": 4,
            "d_in": a.spec.d_model,
            "d_sae": 30,
            "dtype": "float32",
            "device": "cpu",
        }
    )

    def table() -> Any:
        return measure_attribution(a, a, {"one": (sae, sae)}, english.split("select")[:2], LAYERS)[
            "one"
        ]

    whole = table()
    monkeypatch.setattr(attribution, "ENCODED", limit)
    assert np.allclose(whole.correlation, table().correlation, atol=1e-6, equal_nan=True)
    assert whole.joint.tolist() == table().joint.tolist()


def test_over_real_models_it_is_the_dense_reference(tiny: Tiny, english: Corpus) -> None:
    """Two tokenizers; the reference forms features x vocabulary, a document at a time, where the
    same text is next."""
    a, b = tiny("nano-a"), tiny("gemma")
    g = torch.Generator().manual_seed(0)
    d_a, d_b = a.spec.d_model, b.spec.d_model
    stitch = Stitch(
        torch.randn(d_a, d_b, generator=g) / 10,
        torch.zeros(d_b),
        torch.randn(d_b, d_a, generator=g) / 10,
        torch.zeros(d_a),
    )
    config = {
        "architecture": "topk",
        "k": 6,
        "d_in": d_a,
        "d_sae": 40,
        "dtype": "float32",
        "device": "cpu",
    }
    torch.manual_seed(0)
    sae_a = SAE.from_dict(config)
    sae_b = transfer_sae(sae_a, stitch)
    documents = english.split("select")[:8]
    table = measure_attribution(a, b, {"one": (sae_a, sae_b)}, documents, LAYERS)["one"]
    chunk = read_window(a, b, documents, [1], [2])
    keep = within(chunk, norm_limits(chunk), LAYERS).numpy()
    values: list[list[torch.Tensor]] = [[], []]
    for k, document in enumerate(documents):
        mine = (chunk.document == k) & keep
        (x,), (y,) = (m.encode([document.text]) for m in (a, b))
        for row in np.flatnonzero(mine):
            i, j = int(chunk.at_a[row]) + 1, int(chunk.at_b[row]) + 1
            if i >= len(x.ids) or j >= len(y.ids) or min(x.ends[i], y.ends[j]) < 0:
                mine[row] = False
            else:  # both go on from the same character
                start = x.ends[i - 1]
                assert start == y.ends[j - 1]
                mine[row] = document.text[start : x.ends[i]] == document.text[start : y.ends[j]]
        encoded = [x.ids, y.ids]
        both = zip(
            (a, b), (sae_a, sae_b), encoded, (chunk.at_a, chunk.at_b), (1, 2), values, strict=True
        )
        for model, sae, ids, at, layer, out in both:
            with torch.inference_mode():
                h = hooks.residuals(model, model.pad([ids]), [layer])[layer][0].float()
                weights = sae.W_dec @ logit_rows(model, torch.arange(len(model.tokenizer))).T
                here = torch.from_numpy(at[mine])
                acts = torch.relu(sae.encode(h[here]))
                out.append(
                    acts * weights[:, torch.from_numpy(ids[at[mine] + 1].astype(np.int64))].T
                )
    x, y = (torch.cat(v).numpy() for v in values)
    checked = 0
    for i in range(40):
        if x[:, i].std() > 0 and y[:, i].std() > 0:
            assert table.correlation[i] == pytest.approx(reference(x[:, i], y[:, i]), abs=1e-3)
            checked += 1
    assert checked > 10
