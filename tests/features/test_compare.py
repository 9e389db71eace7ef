"""Agreement, labels and native twins measured on a small pair: tables equal NumPy on dense
activations, controls lose, what is current is kept."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from core.bench import Bench
from core.errors import StitchLensError
from core.features import alike, compare
from core.features.compare import CompareConfig, Comparison
from core.features.firings import WHOLE, fired
from core.features.reading import read
from core.features.recorded import Recorded
from core.features.tables import unpacked
from core.models.pairs import PairSpec, Side
from core.saes import train as sae_train
from core.saes.train import SaeConfig
from core.workspace.store import Workspace
from tests.helpers.small import read_by_both, stitched_bench

SAE = "L1-96"
SMALL = CompareConfig(positions=5000, training=8000)


@pytest.fixture(scope="module")
def bench(tiny_pair: PairSpec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with stitched_bench(tiny_pair, tmp_path_factory) as bench:
        setting = SaeConfig(width=96, k=8, epochs=6, lr=3e-3, batch=512)
        assert sae_train.train(bench, 1, setting, 12_000) == SAE
        compare.compare(bench, SAE, "L1-L2", SMALL)
        yield bench


@pytest.fixture
def ws(bench: Bench) -> Workspace:
    return bench.workspace


@pytest.fixture(scope="module")
def comparison(bench: Bench) -> Comparison:
    return Comparison(bench, SAE, "L1-L2", SMALL)


def test_every_table_is_there_and_kept(bench: Bench, ws: Workspace) -> None:
    groups = ("agreement", "labels", "own_saes", "twins")
    before = {name: artifact.made for name, artifact in ws.manifest().artifacts.items()}
    assert {f"{group}/{SAE}" for group in groups} <= before.keys()
    assert ws.verify() == {}
    compare.compare(bench, SAE, "L1-L2", SMALL)
    assert {name: artifact.made for name, artifact in ws.manifest().artifacts.items()} == before
    with pytest.raises(StitchLensError):
        compare.compare(bench, SAE, "L9-L9", SMALL)


def test_firings_are_the_activations_of_the_sae(comparison: Comparison) -> None:
    text = comparison.held_out
    sae = comparison.crossing.sae
    sparse = comparison.firings("original", text)
    rows = torch.cat(list(text.streams("a")))
    dense = torch.relu(sae.encode(rows)).numpy()
    np.testing.assert_allclose(sparse.toarray(), dense, atol=1e-5)
    assert fired(sae, rows[:0]).shape == (0, 96)
    assert sum(map(len, text.kinds.values())) == 2 * text.n == 2 * len(rows)
    document, at_a, at_b = text.places
    assert (np.diff(document) >= 0).all() and len(at_a) == len(at_b) == text.n


def test_agreement_is_numpys(comparison: Comparison, ws: Workspace) -> None:
    text = comparison.held_out
    table = ws.table(f"agreement/{SAE}")
    whole = table.loc[table.kind == WHOLE].reset_index(drop=True)
    a, b = (comparison.firings(name, text).toarray() for name in ("original", "transferred"))
    for f in range(0, 96, 7):
        joint = ((a[:, f] > 0) & (b[:, f] > 0)).sum()
        assert whole.joint[f] == joint and whole.firings_a[f] == (a[:, f] > 0).sum()
        if a[:, f].any() and b[:, f].any():
            expected = np.corrcoef(a[:, f], b[:, f])[0, 1]
            assert whole.agreement[f] == pytest.approx(expected, abs=1e-4)
            assert whole.precision[f] == pytest.approx(joint / (b[:, f] > 0).sum())
    often = whole.loc[(whole.firings_a >= 20) & (whole.firings_b >= 20)]
    assert often.agreement.median() > often.shuffled.median() + 0.1
    assert (often.low <= often.agreement + 1e-6).all()
    assert (often.agreement <= often.high + 1e-6).all()


def test_twins_are_numpys(comparison: Comparison, ws: Workspace) -> None:
    text = comparison.held_out
    own = comparison.own_sae
    rows = torch.cat(list(text.streams("b")))
    native = torch.relu(own.encode(rows)).numpy().astype(np.float64)
    a = comparison.firings("original", text).toarray().astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.nan_to_num(np.corrcoef(a.T, native.T)[:96, 96:])
    table = alike.twins(ws, SAE)
    np.testing.assert_allclose(table.r, np.maximum(r.max(axis=1), 0), atol=1e-4)
    back = alike.twins(ws, SAE, side="b")
    np.testing.assert_allclose(back.r, np.maximum(r.max(axis=0), 0), atol=1e-4)
    often = table.loc[table.firings >= 20]
    assert often.r.median() > max(often.shuffled.median(), often.random.median())


def test_contexts_are_read_by_the_twin(bench: Bench, comparison: Comparison) -> None:
    """Of each feature's contexts, what B's own SAE says at the twin; by a reading of one text."""
    ws = bench.workspace
    name = f"together_own/{SAE}"
    assert name not in ws.manifest().artifacts, "no contexts were measured"
    documents = [*bench.corpus.split("held-out"), *bench.corpus.split("select")]
    crossing, few = comparison.crossing, documents[:60]
    text = read_by_both(bench.a, bench.b, few, crossing.layers)
    saes: dict[Side, Any] = {"a": crossing.sae, "b": crossing.transferred}
    for side, sae in saes.items():
        table = Recorded([text], side).examples(sae, "examples").table(few)
        ws.put_table(f"examples_{side}/{SAE}", table, comparison.makers)
    comparison.twins_contexts()

    table = ws.table(name)
    twins = alike.twins(ws, SAE).set_index("feature").twin
    assert len(table) and (twins.loc[table.feature] >= 0).all()
    row = unpacked(table).sort_values("activation", ascending=False).iloc[0]
    alone = [d for d in documents if d.id == row.document]
    (window,) = read(bench.b, bench.a, comparison.own_sae, alone, 2, "one text")
    acts = window.acts[:, int(twins[row.feature])].numpy()
    inside = np.isin(window.ends, row.ends[1:])
    np.testing.assert_allclose(acts[inside], row.heat, atol=0.01 * row.activation)


def test_labels_are_scored_where_they_were_not_chosen(
    comparison: Comparison, ws: Workspace
) -> None:
    table = alike.labels(ws, SAE)
    often = table.loc[table.firings_a >= 20]
    assert often.f1_a.median() > often.shuffled.median() + 0.05
    assert often.training_f1.median() >= often.f1_a.median() - 0.05
    held_out = {d.id for d in comparison.held_out.documents}
    assert not held_out & {d.id for d in comparison.training.documents}
    assert set(table.shown) >= {alike.UNNAMED} or table.named.all()


def test_the_ranking_puts_what_fires_too_rarely_last(ws: Workspace) -> None:
    table = alike.agreement(ws, SAE)
    ranked = table.above.dropna()
    assert ranked.is_monotonic_decreasing and len(ranked) > 20
    assert table.above[len(ranked) :].isna().all()
