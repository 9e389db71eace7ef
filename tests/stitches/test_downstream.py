"""Losses are transformers' own, an identity changes nothing, controls are worse, the summary is
plain arithmetic."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from core.activations import harvest
from core.activations.gram import Gram
from core.models import hooks
from core.models.align import pair_positions
from core.models.live import LiveModel
from core.models.pairs import LayerPair
from core.stitches import downstream
from core.stitches.downstream import (
    Condition,
    controls,
    mean_losses,
    measure,
    stitched,
    summarise,
    token_losses,
    unpatched,
)
from core.stitches.fit import fit_moments
from core.stitches.settings import FitConfig
from core.stitches.stitch import Stitch
from core.text.corpus import Corpus, Document
from tests.helpers.small import KINDS, SCRIPTS, Tiny

PAIR = LayerPair(a=1, b=2)


@pytest.fixture
def documents(english: Corpus) -> list[Document]:
    return english.split("held-out")[:14]


def losses_of(*args: Any, **options: Any) -> pd.DataFrame:
    return pd.DataFrame(measure(*args, **options))


def identity(d: int) -> Stitch:
    return Stitch(torch.eye(d), torch.zeros(d), torch.eye(d), torch.zeros(d))


@pytest.mark.parametrize("kind", KINDS)
def test_token_losses_are_transformers(
    tiny: Tiny, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(kind)
    ids = model.pad([model.encode([SCRIPTS["Latin"] * 4])[0].ids])
    with torch.inference_mode():
        theirs = float(model.hf(input_ids=ids, labels=ids).loss)
    found = token_losses(model, hooks.final_hidden(model, ids), ids)
    assert found.shape == (1, ids.shape[1] - 1)
    assert float(found.mean()) == pytest.approx(theirs, rel=1e-5)
    monkeypatch.setattr(downstream, "LOGIT_ROWS", 7)
    assert torch.allclose(
        token_losses(model, hooks.final_hidden(model, ids), ids), found, atol=1e-5
    )


def alone(model: LiveModel, text: str) -> float:
    """Summed loss of one text by transformers."""
    (e,) = model.encode([text])
    ids = model.pad([e.ids])
    with torch.inference_mode():
        return float(model.hf(input_ids=ids, labels=ids).loss) * (len(e.ids) - 1)


def test_unpatched_losses_are_those_of_the_texts(tiny: Tiny, documents: list[Document]) -> None:
    a, b = tiny("nano-a"), tiny("gemma")
    table = losses_of(a, b, documents, PAIR, unpatched())
    assert list(table.condition.unique()) == ["a", "b"]
    for name, model in (("a", a), ("b", b)):
        rows = table[table.condition == name].set_index("document")
        assert set(rows.index) == {d.id for d in documents}
        for d in documents:
            assert rows.loss[d.id] == pytest.approx(alone(model, d.text), rel=1e-4)
            assert rows.tokens[d.id] == len(model.encode([d.text])[0].ids) - 1
            assert rows.bytes[d.id] == len(d.text.encode())


def test_patched_positions_are_the_pairs(tiny: Tiny, documents: list[Document]) -> None:
    a, b = tiny("nano-a"), tiny("gemma")
    table = losses_of(a, b, documents, PAIR, unpatched())
    for d in documents:
        (x,), (y,) = a.encode([d.text]), b.encode([d.text])
        at_a, at_b = pair_positions(x, y)
        for name, at, e in (("a", at_a, x), ("b", at_b, y)):
            row = table[(table.condition == name) & (table.document == d.id)].iloc[0]
            assert row.patched == sum(at < len(e.ids) - 1), "the last position predicts nothing"
            assert 0 < row.loss_patched <= row.loss


@pytest.mark.parametrize("kind", ["nano-a", "llama", "gemma"])
def test_an_identity_stitch_gives_exactly_the_unpatched_loss(
    tiny: Tiny, documents: list[Document], kind: str
) -> None:
    model = tiny(kind)
    s = identity(model.spec.d_model)
    loss = mean_losses(
        losses_of(model, model, documents, LayerPair(a=1, b=1), [*unpatched(), *stitched(s)])
    )
    assert len(set(loss.values())) == 1, loss
    off = Stitch(s.P_up, s.b_up, s.P_down * 1.2, s.b_down)
    other = mean_losses(
        losses_of(model, model, documents, LayerPair(a=1, b=1), [*unpatched(), *stitched(off)])
    )
    assert other["a"] == other["a_to_b"] == loss["a"]
    assert other["b_to_a"] != other["a"], "a stitch that is off by a fifth is seen"
    assert other["a_to_b_to_a"] != other["a"]


def test_another_layer_is_no_identity(tiny: Tiny, documents: list[Document]) -> None:
    """The same model at two depths: what sits at layer 2 does not do at layer 0."""
    model = tiny("nano-a")
    conditions = [*unpatched(), *stitched(identity(model.spec.d_model))]
    loss = mean_losses(losses_of(model, model, documents, LayerPair(a=0, b=2), conditions))
    assert loss["b_to_a"] != pytest.approx(loss["a"], rel=1e-3)
    assert loss["a_to_b"] != pytest.approx(loss["b"], rel=1e-3)
    assert loss["a_to_b_to_a"] == loss["a"]


@pytest.fixture(scope="module")
def fitted(tiny: Tiny, english: Corpus) -> Callable[[str, str], tuple[Gram, Stitch, Stitch]]:
    """(moments, stitch, shuffled stitch) of two tiny models from the fit split, L1 to L2."""

    def fit(one: str, other: str) -> tuple[Gram, Stitch, Stitch]:
        a, b = tiny(one), tiny(other)
        gram = Gram(a.spec.d_model, b.spec.d_model)
        for k, docs in enumerate(harvest.windows(english.split("fit")[:128])):
            chunk = harvest.read_window(a, b, docs, [1], [2])
            gram.update(chunk.h_a[1], chunk.h_b[2], seed=k)
        true, shuffled = (fit_moments(gram.moments(shuffled=s), FitConfig()) for s in (False, True))
        return gram, true, shuffled

    return fit


def test_a_stitch_of_trained_models_beats_its_controls(
    tiny: Tiny, documents: list[Document], fitted: Callable[[str, str], tuple[Gram, Stitch, Stitch]]
) -> None:
    gram, stitch, shuffled = fitted("nano-a", "nano-b")
    m = gram.moments()
    conditions = [*unpatched(), *stitched(stitch), *controls(shuffled, m.mean_a, m.mean_b)]
    table = losses_of(tiny("nano-a"), tiny("nano-b"), documents, PAIR, conditions)
    loss = mean_losses(table)
    assert max(loss["a"], loss["b"]) < 0.8 * np.log(4096), "they are trained"
    assert loss["a_to_b"] < 0.9 * min(loss["mean_ablated_b"], loss["shuffled_a_to_b"])
    assert loss["b_to_a"] < 0.9 * min(loss["mean_ablated_a"], loss["shuffled_b_to_a"])
    assert loss["a_to_b_to_a"] < 1.05 * loss["a"]
    assert loss["b_to_a_to_b"] < 1.1 * loss["b"]
    found = summarise(table).set_index("condition")
    assert set(found.index) == set(loss)
    assert (found.share_patched > 0.9).all(), "one tokenizer: nearly every position"


def test_mean_ablation_is_what_it_says(tiny: Tiny, documents: list[Document]) -> None:
    """Against transformers with a hook of our own that writes the mean into every position but the
    first."""
    model = tiny("llama")
    mean = torch.linspace(-1, 1, model.spec.d_model)
    conditions = [*unpatched(), *controls(identity(model.spec.d_model), mean, mean)]
    table = losses_of(model, model, documents[:3], LayerPair(a=1, b=1), conditions)

    def write(block: object, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        h = args[0].clone()
        h[:, 1:] = mean
        return (h, *args[1:])

    watch = model.bridge.blocks[1].register_forward_pre_hook(write)
    try:
        expected = [alone(model, d.text) for d in documents[:3]]
    finally:
        watch.remove()
    rows = table[table.condition == "mean_ablated_a"].set_index("document")
    assert [rows.loss[d.id] for d in documents[:3]] == pytest.approx(expected, rel=1e-4)
    assert rows.loss.sum() != pytest.approx(table[table.condition == "a"].loss.sum(), rel=1e-3)


def test_enough_tokens_are_enough(
    tiny: Tiny, english: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harvest, "WINDOW", 4)
    a, b = tiny("nano-a"), tiny("gemma")
    docs = english.split("held-out")[:16]
    whole, part = (losses_of(a, b, docs, PAIR, unpatched(), tokens=n) for n in (None, 900))
    assert len(part) < len(whole) == 32
    read = part[part.condition == "b"].tokens
    assert read.sum() + len(read) >= 900
    assert read[:-4].sum() + len(read) - 4 < 900, "it stopped after the window that reached them"
    first = whole.merge(part, on=["condition", "document"], suffixes=("", "_part"))
    assert np.allclose(first.loss, first.loss_part)


def made_up(documents: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    tokens = rng.integers(20, 200, documents)
    hard = rng.uniform(2, 4, documents)
    rows = []
    for condition, model, worse in (
        ("a", "a", 1.0),
        ("b_to_a", "a", 1.1),
        ("b", "b", 0.8),
        ("a_to_b", "b", 1.2),
    ):
        for k in range(documents):
            n = int(tokens[k] * (1 if model == "a" else 0.7))
            loss = n * hard[k] * worse * rng.uniform(0.99, 1.01)
            rows.append((condition, f"d{k}", loss, n, loss / 2, n // 2, n * 4, model))
    columns = [
        "condition",
        "document",
        "loss",
        "tokens",
        "loss_patched",
        "patched",
        "bytes",
        "model",
    ]
    return pd.DataFrame(rows, columns=columns)


def test_the_summary_is_plain_arithmetic() -> None:
    table = made_up()
    found = summarise(table).set_index("condition")
    for condition, rows in table.groupby("condition"):
        base = table[table.condition == rows.model.iloc[0]]
        s = found.loc[condition]
        loss = rows.loss.sum() / rows.tokens.sum()
        assert s.loss == pytest.approx(loss)
        assert s.relative == pytest.approx(loss / (base.loss.sum() / base.tokens.sum()) - 1)
        assert s.bits_per_byte == pytest.approx(rows.loss.sum() / np.log(2) / rows.bytes.sum())
        assert s.loss_patched == pytest.approx(rows.loss_patched.sum() / rows.patched.sum())
        assert s.share_patched == pytest.approx(rows.patched.sum() / rows.tokens.sum())
        assert (s.tokens, s.documents) == (rows.tokens.sum(), 40)
        assert s.low < s.loss < s.high
    assert found.loc["a", ["relative", "relative_low", "relative_high"]].tolist() == [0, 0, 0]
    assert found.relative["b_to_a"] == pytest.approx(0.1, abs=0.01)
    assert found.relative["a_to_b"] == pytest.approx(0.5, abs=0.01)
    assert mean_losses(table) == pytest.approx(found.loss.to_dict())


def test_intervals_are_those_of_a_plain_bootstrap() -> None:
    table = made_up()
    found = summarise(table).set_index("condition").loc["b_to_a"]
    one, base = (
        np.stack(
            [table.loc[table.condition == c, column].to_numpy() for column in ("loss", "tokens")]
        )
        for c in ("b_to_a", "a")
    )
    rng = np.random.default_rng(7)
    draws, ratios = [], []
    for _ in range(2000):
        k = rng.integers(0, 40, 40)
        draws.append(one[0, k].sum() / one[1, k].sum())
        ratios.append(draws[-1] / (base[0, k].sum() / base[1, k].sum()) - 1)
    assert [found.low, found.high] == pytest.approx(np.quantile(draws, (0.025, 0.975)), abs=0.02)
    assert [found.relative_low, found.relative_high] == pytest.approx(
        np.quantile(ratios, (0.025, 0.975)), abs=5e-4
    )
    assert found.relative_high - found.relative_low < 0.1 * (found.high - found.low) / found.loss, (
        "pairing helps"
    )
    pd.testing.assert_frame_equal(summarise(table), summarise(table))


def test_names_of_conditions_are_their_directions() -> None:
    s = Stitch(torch.ones(2, 3), torch.zeros(3), torch.ones(3, 2), torch.zeros(2))
    x, y = torch.ones(4, 2), torch.ones(4, 3)
    found = [*stitched(s), *controls(s, torch.zeros(2), torch.zeros(3))]
    widths = {c.name: c.rows(x, y).shape[1] for c in found if c.rows}
    assert widths == {c.name: 2 if c.model == "a" else 3 for c in found}, (
        "each puts rows of the scored model's width in place"
    )
    assert {c.name for c in found if c.model == "a"} == {
        "b_to_a",
        "a_to_b_to_a",
        "mean_ablated_a",
        "shuffled_b_to_a",
    }
    assert Condition("a", "a").rows is None


def test_kinds_of_text_are_measured_apart() -> None:
    labels = {"x": "eng/history", "y": "eng", "z": "deu", "w": "coding/python"}
    documents = [Document(id=k, label=label, text="-") for k, label in labels.items()]
    rows = [
        {
            "condition": c,
            "model": "a",
            "document": d,
            "loss": loss * (2 if c == "b_to_a" else 1),
            "tokens": 10,
            "loss_patched": 1.0,
            "patched": 5,
            "bytes": 40,
        }
        for c in ("a", "b_to_a")
        for d, loss in (("x", 10.0), ("y", 30.0), ("z", 70.0), ("w", 5.0))
    ]
    table = downstream.by_kind(pd.DataFrame(rows), documents).set_index(["kind", "condition"])
    assert table.loss[("English", "a")] == pytest.approx(2.0)
    assert table.loss[("other languages", "b_to_a")] == pytest.approx(14.0)
    assert table.documents[("code", "a")] == 1
    assert table.relative[("English", "b_to_a")] == pytest.approx(1.0)
