"""Moments are those of numpy, whatever the order and the batches in which rows came."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.activations import gram as gram_module
from core.activations.gram import Gram, Moments, load_grams, save_grams
from core.activations.products import product
from core.errors import StitchLensError

N, D_A, D_B = 600, 5, 7
PARTS = ("mean_a", "mean_b", "aa", "ab", "bb")


def rows(n: int = N, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Related rows with means far from 0, as residual streams have."""
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(n, D_A, generator=g) * torch.tensor([1.0, 30.0, 0.1, 5.0, 2.0]) + 20
    return a, a @ torch.randn(D_A, D_B, generator=g) + torch.randn(n, D_B, generator=g) - 3


def gram(a: torch.Tensor, b: torch.Tensor, cuts: list[int] | None = None, seed: int = 0) -> Gram:
    g = Gram(a.shape[1], b.shape[1])
    edges = [0, *sorted(cuts or []), len(a)]
    for k, (i, j) in enumerate(pairwise(edges)):
        g.update(a[i:j], b[i:j], seed=seed + k)
    return g


def close(one: Moments, other: Moments) -> bool:
    return one.n == other.n and all(
        torch.allclose(getattr(one, k), getattr(other, k), rtol=1e-9) for k in PARTS
    )


def test_moments_are_numpys() -> None:
    a, b = rows()
    m = gram(a, b, [100, 350]).moments()
    x, y = a.double().numpy(), b.double().numpy()
    whole = np.cov(np.hstack([x, y]).T, bias=True)
    assert m.n == N
    np.testing.assert_allclose(m.mean_a, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(m.mean_b, y.mean(0), rtol=1e-12)
    np.testing.assert_allclose(m.aa, whole[:D_A, :D_A], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(m.ab, whole[:D_A, D_A:], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(m.bb, whole[D_A:, D_A:], rtol=1e-8, atol=1e-10)
    assert m.scale_a == pytest.approx(float(np.sqrt(((x - x.mean(0)) ** 2).mean())))
    assert m.scale_b == pytest.approx(float(np.sqrt(((y - y.mean(0)) ** 2).mean())))


@given(cuts=st.lists(st.integers(0, N), max_size=6))
@settings(max_examples=30, deadline=None)
def test_streaming_equals_batch(cuts: list[int]) -> None:
    a, b = rows()
    assert close(gram(a, b, cuts).moments(), gram(a, b).moments())


@given(order=st.permutations(range(4)))
@settings(max_examples=24, deadline=None)
def test_merge_order_does_not_matter(order: list[int]) -> None:
    a, b = rows()
    shards = [gram(a[k::4], b[k::4], seed=k) for k in range(4)]
    merged = Gram(D_A, D_B)
    for k in order:
        merged = merged.merge(shards[k])
    assert close(merged.moments(), gram(a, b).moments())
    assert torch.equal(shards[0].merge(shards[1]).S, shards[1].merge(shards[0]).S)
    tree = shards[0].merge(shards[1]).merge(shards[2].merge(shards[3]))
    assert close(tree.moments(shuffled=True), merged.moments(shuffled=True))
    assert not close(merged.moments(), gram(a[1:], b[1:]).moments()), "a missing row would be seen"


def test_merging_other_widths_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(5, 7\) and \(5, 6\)"):
        Gram(5, 7).merge(Gram(5, 6))
    with pytest.raises(ValueError, match="do not add up"):
        Gram(5, 7).merge(Gram(7, 5))


def test_shuffled_pairs_keep_everything_but_the_pairing() -> None:
    a, b = rows(4000)
    g = gram(a, b, [1000, 2000])
    true, control = g.moments(), g.moments(shuffled=True)
    for part in ("mean_a", "mean_b", "aa", "bb"):
        assert torch.equal(getattr(true, part), getattr(control, part))
    spread = torch.outer(true.aa.diagonal().sqrt(), true.bb.diagonal().sqrt())
    assert (true.ab / spread).abs().max() > 0.5
    assert (control.ab / spread).abs().max() < 5 / 4000**0.5, (
        "five standard errors of no correlation"
    )


def test_a_shuffle_is_seeded() -> None:
    a, b = rows()
    assert torch.equal(gram(a, b, seed=3).X, gram(a, b, seed=3).X)
    assert not torch.equal(gram(a, b, seed=3).X, gram(a, b, seed=4).X)


def test_rows_of_lower_precision_add_up_in_float64() -> None:
    ones = torch.full((2048, 1), 1.0 + 2**-7, dtype=torch.bfloat16)
    g = gram(ones, ones, [512])
    assert float(g.S[0, 0]) == 2048 * (1 + 2**-7) ** 2, "exact: bfloat16 would have rounded"


def test_no_rows() -> None:
    g = Gram(D_A, D_B)
    g.update(torch.zeros(0, D_A), torch.zeros(0, D_B))
    assert g.n == 0
    with pytest.raises(StitchLensError, match="no paired positions"):
        g.moments()


def test_saved_grams_come_back_bitwise(tmp_path: Path) -> None:
    a, b = rows()
    grams = {"L1-L2": gram(a, b), "L3-L4": gram(a[:50], b[:50])}
    record: dict[str, Any] = {"window": 3, "limits": {"a1": 1 / 3}, "finished": False}
    save_grams(tmp_path / "new" / "m.safetensors", grams, record)
    found, again = load_grams(tmp_path / "new" / "m.safetensors")
    assert again == record
    assert found.keys() == grams.keys()
    for name, g in grams.items():
        assert torch.equal(found[name].S, g.S)
        assert torch.equal(found[name].X, g.X)
        assert found[name].n == g.n
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize("raw", [b"", b"not a safetensors file", b"\0" * 64])
def test_unreadable_moments_are_named(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(raw)
    with pytest.raises(StitchLensError, match=r"unreadable moments in m\.safetensors"):
        load_grams(path)


def test_cut_off_moments_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_grams(path, {"x": gram(*rows())}, {})
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(StitchLensError, match=r"unreadable moments in m\.safetensors"):
        load_grams(path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_products_without_float64_are_as_exact(dtype: torch.dtype) -> None:
    """Columns of very unequal size, one of zeros, and rows that differ by a thousand."""
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(5000, d, generator=g) for d in (6, 9))
    x *= torch.tensor([1.0, 1e-4, 300.0, 0.0, 1.0, 7.0])
    y *= torch.logspace(-2, 1, 5000)[:, None]
    x, y = x.to(dtype), y.to(dtype)
    exact = product(x, y, "float64")
    scale = torch.outer(x.double().norm(dim=0), y.double().norm(dim=0))
    assert ((product(x, y, "float32") - exact).abs() <= 1e-12 * scale).all()
    rounded = (x.float().T @ y.float()).double()
    assert ((rounded - exact).abs() > 1e-12 * scale).any(), "plain float32 would be seen"


def test_a_gram_without_float64_is_the_same() -> None:
    a, b = (x.bfloat16() for x in rows(3000))
    usual, other = Gram(D_A, D_B), Gram(D_A, D_B)
    usual.update(a, b)
    other.update(a, b, arithmetic="float32")
    assert other.n == usual.n == 3000
    spread = usual.S.triu().diagonal().sqrt()
    for one, another, scale in (
        (usual.S.triu(), other.S.triu(), torch.outer(spread, spread)),
        (usual.X, other.X, torch.outer(spread[:D_A], spread[D_A:-1])),
    ):
        assert ((one - another).abs() <= 1e-12 * scale).all()


def test_blocks_of_the_sum_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = rows()
    whole = gram(a, b).moments()
    for block in (1, 3, 12):
        monkeypatch.setattr(gram_module, "BLOCK", block)
        assert close(gram(a, b).moments(), whole)
