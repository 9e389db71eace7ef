"""From labelled texts to probes of both nano models: what a row is, what crosses, what is kept,
one's own labels."""

import json
import multiprocessing
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from core.bench import Bench
from core.cli.main import app
from core.errors import StitchLensError
from core.models import hooks
from core.models.pairs import PairSpec
from core.probes import tables as probe_tables
from core.probes.dataset import Dataset
from core.probes.labelled import labelled
from core.probes.labels import own_labels, task_probe
from core.probes.measure import evaluate, measure
from core.probes.methods import METHODS, Method, ProbeConfig, crossings
from core.probes.probe import KS, load_probe, moved
from core.probes.prober import Prober, default_names, pool
from core.probes.templates import template_datasets
from core.saes import train as sae_train
from core.saes.adopt import adopt
from core.saes.sae import load_sae
from core.saes.settings import SaeConfig
from core.stitches.transfer import save_sae
from core.workspace.artifacts import discard
from core.workspace.places import user_cache
from core.workspace.store import Workspace
from tests.helpers.small import stitched_bench
from tests.probes.test_probe import exact_stitch

SMALL = ProbeConfig(ks=(1, 5), draws=2, resamples=40)


@pytest.fixture(scope="module")
def bench(tiny_pair: PairSpec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with stitched_bench(tiny_pair, tmp_path_factory) as found:
        sae_train.train(found, 1, SaeConfig(width=64, k=8, epochs=4, lr=3e-3, batch=512), 4_000)
        yield found


@pytest.fixture(scope="module")
def prober(bench: Bench) -> Prober:
    return Prober(bench, "L1-64", "L1-L2")


@pytest.fixture(scope="module")
def datasets() -> list[Dataset]:
    def few(d: Dataset) -> Dataset:
        train, test = (
            {c: some[:n] for c, some in part.items()} for part, n in ((d.train, 40), (d.test, 30))
        )
        return Dataset(d.name, d.title, d.says, train, test, d.probed)

    return [few(d) for d in template_datasets() if d.name in ("question", "tense")]


def test_the_own_sae_is_like_that_which_was_brought(bench: Bench, tmp_path: Path) -> None:
    """An SAE of others says its width and k alone; B's own, beside it, is trained with both."""
    save_sae(load_sae(bench.workspace.path("saes/L1-64")), tmp_path / "theirs")
    try:
        adopt(bench, str(tmp_path / "theirs"), 1)
        own = Prober(bench, "theirs", "L1-L2").own_config
    finally:
        discard(bench.workspace, "saes", "theirs")
    assert (own.width, own.k) == (64, 8)


def test_a_row_is_a_mean_over_positions(prober: Prober) -> None:
    texts = [
        "The engineers follow the old river.",
        "What a day that was, said the baker to his neighbours.",
    ]
    found, limit = pool(
        prober.bench.b, texts, 2, {"t": prober.saes("b", False)["transferred"]}, None
    )
    sae = prober.saes("b", False)["transferred"]
    for i, (text, encoded) in enumerate(zip(texts, prober.bench.b.encode(texts), strict=True)):
        h = hooks.residuals(prober.bench.b, prober.bench.b.pad([encoded.ids]), [2])[2][
            0, 1:
        ].float()
        h = h[h.norm(dim=-1) <= limit]
        assert len(h) > 3, text
        np.testing.assert_allclose(found["dense"][i], h.mean(0).numpy(), atol=1e-4)
        np.testing.assert_allclose(found["t"][i], sae.encode(h).mean(0).numpy(), atol=1e-3)
    strict, _ = pool(prober.bench.b, texts, 2, {}, None, 1e-6)
    assert not strict["dense"].any(), "rows above the limit are left out"


@pytest.fixture(scope="module")
def results(prober: Prober, datasets: list[Dataset]) -> pd.DataFrame:
    name = evaluate(prober, SMALL, datasets)
    assert name == "L1-64"
    return probe_tables.results(prober.bench.workspace, name)


def test_every_method_is_measured(results: pd.DataFrame) -> None:
    sparse = {"source", "reused", "retrained", "random", "shuffled", "own"}
    dense = {"dense_source", "dense_moved", "dense_centred", "dense_shuffled", "dense_own"}
    assert set(results.method) == sparse | dense == set(METHODS)
    assert len(results) == (2 + 2 + 1) * (len(sparse) * 2 + len(dense)), (
        "tasks, datasets' means, the mean"
    )
    assert (
        results[["accuracy", "low", "high", "auc", "auc_low", "auc_high"]].notna().to_numpy().all()
    )
    assert (results.low <= results.accuracy + 1e-6).all() and (
        results.accuracy <= results.high + 1e-6
    ).all()
    mean = results.loc[(results.dataset == "")].set_index(["method", "k"]).accuracy
    each = (
        results.loc[(results.dataset != "") & (results.label == "")]
        .groupby(["method", "k"])
        .accuracy.mean()
    )
    np.testing.assert_allclose(mean.to_numpy(), each.loc[mean.index].to_numpy(), atol=2e-4)
    wide = results.loc[results.label != ""].pivot_table(
        index=["dataset", "k"], columns="method", values="accuracy"
    )
    gap = (
        results.loc[(results.label != "") & (results.method == "retrained")]
        .set_index(["dataset", "k"])
        .gap
    )
    np.testing.assert_allclose(gap, (wide.retrained - wide.own).loc[gap.index], atol=2e-4)


def test_what_is_there_crosses_and_the_control_does_not(results: pd.DataFrame) -> None:
    value = results.loc[results.dataset == ""].set_index(["method", "k"]).accuracy
    assert value["dense_own", 0] > 0.85
    assert value["dense_moved", 0] > 0.7
    assert 0.3 < value["dense_shuffled", 0] < 0.7
    assert all(0.3 < value["shuffled", k] < 0.7 for k in SMALL.ks)


def test_what_is_current_is_kept_and_a_stopped_reading_goes_on(
    prober: Prober, datasets: list[Dataset], results: pd.DataFrame
) -> None:
    ws = prober.bench.workspace
    before = ws.entry("probes/L1-64").made, ws.entry("probe_features/L1-64").sha256
    evaluate(prober, SMALL, datasets)
    assert (ws.entry("probes/L1-64").made, ws.entry("probe_features/L1-64").sha256) == before
    shards = sorted((user_cache() / "probes").glob("*/b-*.safetensors"))
    assert len(shards) > 2
    shards[-1].unlink()  # as if it had been stopped there
    for fit in (user_cache() / "probes").glob("*/*.parquet"):
        fit.unlink()
    again, features = measure(prober, datasets, SMALL)
    np.testing.assert_allclose(again.accuracy, results.accuracy, atol=1e-3)
    assert shards[-1].exists() and len(features) == 2 * 5
    assert (
        evaluate(prober, SMALL.model_copy(update={"absolute": True}), datasets) == "L1-64-absolute"
    )
    assert probe_tables.evaluated(ws) == ["L1-64", "L1-64-absolute"]


def _evaluated(pair: PairSpec, datasets: list[Dataset], threads: int) -> None:
    """In a process of its own."""
    torch.set_num_threads(threads)
    evaluate(Prober(Bench(pair), "L1-64", "L1-L2"), SMALL, datasets)


@pytest.mark.whole
@pytest.mark.timeout(900)
def test_two_processes_measure_what_one_does(
    bench: Bench,
    datasets: list[Dataset],
    results: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exactly: who reads which texts and fits which probes changes nothing."""
    shutil.copytree(user_cache() / "saes", tmp_path / "cache" / "saes")
    shutil.copytree(bench.workspace.root, tmp_path / "workspaces" / "tiny")
    ws = Workspace("tiny", tmp_path / "workspaces")
    features = ws.table("probe_features/L1-64")
    ws.forget(["probes/L1-64", "probe_features/L1-64"])
    monkeypatch.setenv("STITCHLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(tmp_path / "workspaces"))

    # A process that is spawned runs this one's main module again: a page, if one was tested before.
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    spawn = multiprocessing.get_context("spawn")
    arguments = (bench.pair, datasets, torch.get_num_threads())
    processes = [spawn.Process(target=_evaluated, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    pd.testing.assert_frame_equal(probe_tables.results(ws, "L1-64"), results)
    pd.testing.assert_frame_equal(ws.table("probe_features/L1-64"), features)


def test_only_training_texts_decide() -> None:
    """Neither the labels of test texts nor other test texts change what is said of one."""
    g = np.random.default_rng(0)
    y, train, test = np.repeat([0, 1, 0, 1], 30), np.arange(60), np.arange(60, 120)
    names = ("dense_a", "dense_b", "source", "transferred", "shuffled", "own")
    x = {n: g.normal(size=(120, 6)).astype(np.float32) for n in names}
    stitch, config = exact_stitch(6, 6), ProbeConfig(ks=(2,), draws=2)
    one = dict(crossings(x, y, train, test, stitch, stitch, config))
    assert len(one) == 5 + 6
    flipped = np.r_[y[:60], 1 - y[60:]]
    wild = {n: np.r_[v[:90], 100 * v[90:]] for n, v in x.items()}
    for method, scores in crossings(wild, flipped, train, test, stitch, stitch, config):
        np.testing.assert_array_equal(scores[:, :30], one[method][:, :30])
    other = dict(crossings(x, np.r_[1 - y[:60], y[60:]], train, test, stitch, stitch, config))
    assert not np.allclose(other[Method("own", 2)], one[Method("own", 2)]), "training labels do"


def test_labels_of_ones_own_are_moved_at_once(prober: Prober, datasets: list[Dataset]) -> None:
    question = datasets[0]
    rows = [(d.text, label) for label, some in question.train.items() for d in some[:20]]
    found = own_labels(prober, labelled(rows, "question"), ProbeConfig(ks=(5,), draws=1))
    table = found.table.set_index("method")
    assert found.n == 40 and set(table.index) >= {
        "dense_source",
        "dense_moved",
        "dense_own",
        "reused",
    }
    assert table.accuracy["dense_source"] > 0.8 and table.accuracy["dense_moved"] > 0.6
    assert ((table.low <= table.accuracy) & (table.accuracy <= table.high)).all()
    assert len(found.features) == 5
    dense = moved(found.probes["a"], prober.crossing.stitch)
    np.testing.assert_allclose(found.probes["b"].coef, dense.coef)
    assert (
        found.probes["b"].about["model"] == "nano-b"
        and found.probes["b"].about["fitted_on"] == "nano-a"
    )
    assert "carried through L1-L2" in found.probes["b-sparse"].about["sae"]
    assert found.probes["a-sparse"].features is not None


def test_a_task_is_exported_for_either_model(prober: Prober, datasets: list[Dataset]) -> None:
    a = task_probe(prober, "tense/past", "a", offered=datasets)
    b = task_probe(prober, "tense/past", "b", offered=datasets)
    np.testing.assert_allclose(
        b.coef,
        a.coef @ prober.crossing.stitch.P_down.numpy().T.astype(np.float64),
        rtol=1e-4,
        atol=1e-5,
    )
    assert a.about["model"] == "nano-a" and b.about["model"] == "nano-b"
    assert task_probe(prober, "tense/past", "b", 3, offered=datasets).features is not None
    with pytest.raises(StitchLensError, match=r"one of .*tense/past"):
        task_probe(prober, "tense/future", "a", offered=datasets)
    with pytest.raises(StitchLensError, match="a probe of B for A"):
        task_probe(prober, "tense/past", "a", fitted="b", offered=datasets)


def test_sae_and_stitch_must_meet(bench: Bench, tiny_pair: PairSpec) -> None:
    with pytest.raises(StitchLensError, match="no 'saes/nothing'"):
        Prober(bench, "nothing", "L1-L2")
    with pytest.raises(StitchLensError, match="features build tiny"):
        default_names(bench)


def test_the_command_line_probes_ones_own_labels(nano_home: Path, tmp_path: Path) -> None:
    """On the shipped nano pair: a CSV to probes on file that load again; faults are a sentence."""
    rows = [
        (f"Le {w} est dans la maison avec les enfants.", "fr")
        for w in ("chat", "chien", "roi", "livre", "pain")
    ]
    rows += [
        (f"The {w} is in the house with the children.", "en")
        for w in ("cat", "dog", "king", "book", "bread")
    ]
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(tmp_path / "mine.csv", index=False)
    call, out = CliRunner(), tmp_path / "out"
    done = call.invoke(
        app, ["probes", "own", "nano", str(tmp_path / "mine.csv"), "--out", str(out), "--json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["positive"] == "fr" and found["texts"] == 10
    accuracy = {row["method"]: row["accuracy"] for row in found["methods"]}
    assert accuracy["dense_source"] == accuracy["dense_moved"] == 1.0
    assert sorted(p.name for p in out.iterdir()) == ["a", "a-sparse", "b", "b-sparse"]
    assert load_probe(out / "b").coef.shape == (256,)
    (tmp_path / "one.csv").write_text("text,label\na,x\nb,x\n")
    for command, says in (
        (["own", "nano", str(tmp_path / "one.csv")], "one label, 'x'"),
        (["own", "nano", str(tmp_path / "mine.csv"), "--out", str(out)], "there already"),
        (["export", "nano", "--task", "x", "--side", "c", "--out", str(tmp_path / "p")], "a or b"),
        (["eval", "pythia-70m-160m"], "features build pythia-70m-160m"),
    ):
        refused = call.invoke(app, ["probes", *command])
        assert (
            refused.exit_code == 2 and says in refused.stderr and refused.stderr.count("\n") == 1
        ), refused.output


def test_the_shipped_tables_are_whole(nano_home: Path) -> None:
    ws = Workspace("nano")
    name = probe_tables.evaluated(ws)[0]
    record = probe_tables.record(ws, name)
    assert record["tasks"] >= 20 and len(record["datasets"]) >= 8 and not record["absolute"]
    assert set(record["mean"]) == set(probe_tables.WAYS)
    assert set(record["mean"]["own"]) == {str(k) for k in KS} and set(
        record["mean"]["dense_own"]
    ) == {"0"}
    assert (
        record["mean"]["dense_moved"]["0"]["accuracy"]
        > record["mean"]["dense_shuffled"]["0"]["accuracy"] + 0.2
    )
    table = probe_tables.picker(ws, name)
    assert table.iloc[0].dataset == "" and table.title.is_unique
    for row in table.to_dict("records"):
        curve = probe_tables.curve(ws, name, row["dataset"], row["label"])
        assert len(curve) == 6 * len(KS) + 5, row["title"]
    some = table.loc[table.label != ""].iloc[0]
    features = probe_tables.probed(ws, name, some.dataset, some.label, 10)
    assert features["rank"].tolist() == list(range(10)) and features.raises.str.len().min() > 0
    assert features.difference.is_monotonic_decreasing
