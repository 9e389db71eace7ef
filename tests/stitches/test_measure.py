"""A build makes a whole workspace, goes on after a kill, refuses what does not fit; real models
transfer."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from core.activations import harvest
from core.bench import Bench, open_pair
from core.config import POSITIONS, BuildConfig
from core.doctor import repair_all
from core.errors import StitchLensError
from core.models.pairs import PAIRS, LayerPair, PairSpec
from core.report import report
from core.stitches import downstream
from core.stitches import measure as stitch_measure
from core.stitches.fit import fit_moments
from core.stitches.measure import build, evaluate_stitch, fit_stitch, remove_stitch
from core.stitches.settings import FitConfig
from core.stitches.stitch import load_stitch
from core.stitches.study import ALPHAS, best_setting
from core.workspace.disk import only_one
from core.workspace.store import Workspace
from tests.helpers.small import Tiny

pytestmark = pytest.mark.whole

SMALL = BuildConfig(held_out_tokens=400, select_tokens=150, svcca_positions=600, positions=3000)
TABLE_1 = {"a", "b", "a_to_b", "b_to_a", "a_to_b_to_a", "b_to_a_to_b"}
CONTROLS = {"mean_ablated_a", "mean_ablated_b", "shuffled_a_to_b", "shuffled_b_to_a"}


@pytest.fixture(scope="module")
def built(tiny_pair: PairSpec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace of the tiny pair, built once; tests that change it take a copy."""
    root = tmp_path_factory.mktemp("workspaces")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STITCHLENS_DTYPE", "float32")
        patch.setenv("STITCHLENS_WORKSPACES", str(root))
        build(tiny_pair, SMALL)
    yield root


@pytest.fixture
def workspace(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("STITCHLENS_DTYPE", "float32")
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(tmp_path))
    shutil.copytree(built / "tiny", tmp_path / "tiny")
    return Workspace("tiny")


@pytest.fixture
def bench(tiny_pair: PairSpec, workspace: Workspace) -> Bench:
    return Bench(tiny_pair, SMALL)


def state(w: Workspace) -> dict[str, str]:
    return {name: a.sha256 for name, a in w.manifest().artifacts.items()}


def refuse(*args: object, **kwargs: object) -> str:
    what, *rest = args
    assert callable(what)
    with pytest.raises(StitchLensError) as e:
        what(*rest, **kwargs)
    assert "\n" not in str(e.value)
    return str(e.value)


def test_a_build_makes_everything(workspace: Workspace, tiny_pair: PairSpec, tiny: Tiny) -> None:
    names = {"pair", "svcca", "study", "alpha_sweep"} | {
        f"{kind}/L1-L2" for kind in ("stitches", "controls", "quality", "downstream", "kinds")
    }
    assert set(workspace.names()) == names
    assert workspace.verify() == {}
    assert len(workspace.table("svcca")) == 4 * 6
    assert set(workspace.table("study").metric) == {"raw", "rms", "std", "whiten"}
    assert workspace.table("alpha_sweep").alpha.tolist() == list(ALPHAS)
    makers = workspace.entry("stitches/L1-L2").makers
    assert makers["a"] == tiny("nano-a").makers
    assert makers["b"] == tiny("nano-b").makers
    assert (makers["hook_a"], makers["hook_b"]) == (
        "blocks.1.hook_resid_pre",
        "blocks.2.hook_resid_pre",
    )
    assert makers["n_fit"] + makers["dropped"] >= 3000
    record = workspace.record("pair")
    assert record["default_stitch"] == "L1-L2"
    assert record["alignment"]["share_b"] > 0.99


def test_a_workspace_holds_no_text(workspace: Workspace, tiny_pair: PairSpec) -> None:
    corpus = [p.read_text("utf-8") for p in Path(tiny_pair.corpus).glob("*.txt")]
    words = [t[k : k + 60].encode() for t in corpus for k in range(200, len(t) - 60, 997)]
    kept = b"".join(p.read_bytes() for p in workspace.root.rglob("*") if p.is_file())
    assert len(words) > 50
    assert not any(w in kept for w in words)


def test_the_report_has_table_1_and_its_controls(workspace: Workspace, tiny_pair: PairSpec) -> None:
    found = json.loads(json.dumps(report(tiny_pair), allow_nan=False))
    (name, stitch), *_ = found["stitches"].items()
    assert name == found["default_stitch"] == "L1-L2"
    loss = stitch["downstream"]
    assert set(loss) == TABLE_1 | CONTROLS
    assert loss["a_to_b"] < min(loss["mean_ablated_b"], loss["shuffled_a_to_b"])
    assert loss["b_to_a"] < min(loss["mean_ablated_a"], loss["shuffled_b_to_a"])
    for d in stitch["downstream_details"].values():
        assert d["low"] < d["high"]
    assert 0 < stitch["quality"]["fuv_up"] < 1
    assert found["corpus"]["splits"].keys() == {"fit", "select", "held-out"}


def test_building_again_changes_nothing(workspace: Workspace, tiny_pair: PairSpec) -> None:
    before, made = state(workspace), workspace.entry("stitches/L1-L2").made
    build(tiny_pair, SMALL)
    assert state(workspace) == before
    assert workspace.entry("stitches/L1-L2").made == made


def test_a_build_that_was_cut_off_ends_the_same(
    workspace: Workspace, tiny_pair: PairSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is missing is made again to the same numbers; seconds that a fit took are no part of
    them."""
    loss = workspace.table("downstream/L1-L2")
    weights = load_stitch(workspace.path("stitches/L1-L2"))
    for name in ("downstream/L1-L2", "stitches/L1-L2", "svcca", "alpha_sweep"):
        workspace.remove(name)
    build(tiny_pair, SMALL)
    assert workspace.verify() == {}
    again = load_stitch(workspace.path("stitches/L1-L2"))
    assert (again.P_up == weights.P_up).all()
    assert np.allclose(workspace.table("downstream/L1-L2").loss, loss.loss)


def test_two_builds_at_once(workspace: Workspace, tiny_pair: PairSpec) -> None:
    before = state(workspace)
    with only_one("tiny", "build"):
        assert "another build of 'tiny'" in refuse(build, tiny_pair, SMALL)
    assert state(workspace) == before


def test_a_stitch_of_ones_own(bench: Bench, workspace: Workspace) -> None:
    layers, config = LayerPair(a=2, b=3), FitConfig(metric="raw", alpha=0.5)
    stitch = fit_stitch(bench, "mine", layers, config, 3000)
    kept = load_stitch(
        workspace.path("stitches/mine"), {"layer_a": 2, "layer_b": 3, "metric": "raw", "alpha": 0.5}
    )
    assert (kept.P_up == stitch.P_up).all()
    before = state(workspace)
    fit_stitch(bench, "mine", layers, config, 3000)
    assert state(workspace) == before, "an identical one is not made again"
    assert "another stitch named 'mine'" in refuse(
        fit_stitch, bench, "mine", layers, FitConfig(metric="std"), 3000
    )
    assert state(workspace) == before
    remove_stitch(workspace, "mine")
    assert not [n for n in workspace.names() if n.endswith("/mine")]
    assert "no 'stitches/mine'" in refuse(remove_stitch, workspace, "mine")


def test_a_build_replaces_what_a_build_made_and_nothing_else(
    bench: Bench, workspace: Workspace, tiny_pair: PairSpec
) -> None:
    mine = LayerPair(a=1, b=2, why="chosen by hand")
    fit_stitch(bench, "mine", mine, FitConfig(), 3000)
    (layers,) = tiny_pair.layer_pairs
    fit_stitch(bench, "L1-L2", layers, FitConfig(metric="raw"), 3000, replace=True)
    assert workspace.entry("stitches/L1-L2").makers["metric"] == "raw"
    message = refuse(fit_stitch, bench, "mine", layers, FitConfig(metric="raw"), 3000, replace=True)
    assert "another stitch named 'mine'" in message
    assert workspace.verify() == {}


def test_adam_goes_the_same_way(bench: Bench, workspace: Workspace) -> None:
    config = FitConfig(method="adam", metric="std", lr=0.01, epochs=4, batch=256)
    fit_stitch(bench, "by-adam", LayerPair(a=1, b=2), config, 3000)
    makers = workspace.entry("stitches/by-adam").makers
    assert (makers["method"], makers["epochs"], makers["lr"]) == ("adam", 4, 0.01)
    fit_stitch(bench, "exactly", LayerPair(a=1, b=2), FitConfig(metric="std"), 3000)
    eq3 = {n: workspace.record(f"quality/{n}")["eq3_fit"] for n in ("by-adam", "exactly")}
    assert eq3["exactly"] < eq3["by-adam"], "on the same rows nothing is below the optimum"
    assert set(workspace.table("downstream/by-adam").condition) == TABLE_1 | CONTROLS


@pytest.mark.parametrize("name", ["", "../up", "a/b", "white space", ".hidden", "x" * 65, "ü"])
def test_bad_names_are_refused(bench: Bench, name: str) -> None:
    assert repr(name) in refuse(fit_stitch, bench, name, LayerPair(a=1, b=2), FitConfig(), 3000)


def test_what_cannot_be_fitted_is_refused(bench: Bench, workspace: Workspace) -> None:
    before = state(workspace)
    layers = LayerPair(a=1, b=2)
    for alpha in (-1.0, float("nan"), float("inf")):
        assert f"alpha {alpha}" in refuse(
            fit_stitch, bench, "x", layers, FitConfig(alpha=alpha), 3000
        )
    message = refuse(fit_stitch, bench, "x", layers, FitConfig(), 767)
    assert "767 positions" in message
    assert "768" in message
    assert "layer 4" in refuse(fit_stitch, bench, "x", LayerPair(a=4, b=0), FitConfig(), 3000)
    assert "layer 6" in refuse(fit_stitch, bench, "x", LayerPair(a=0, b=6), FitConfig(), 3000)
    assert state(workspace) == before


def test_a_stitch_of_other_weights_is_not_measured(bench: Bench, workspace: Workspace) -> None:
    """A stitch that says it was made from other weights of B: refused, with both hashes."""
    stitch = load_stitch(workspace.path("stitches/L1-L2"))
    pretend = stitch_measure.with_makers(
        stitch, b=stitch.makers["b"] | {"weights": "0123456789abcdef"}
    )
    workspace.put(
        "stitches/L1-L2",
        lambda p: stitch_measure.save_stitch(pretend, p),
        "stitch",
        ".safetensors",
        pretend.makers,
    )
    message = refuse(evaluate_stitch, bench, "L1-L2")
    assert "b.weights = '0123456789abcdef'" in message
    assert bench.b.weights in message


def test_measuring_again_on_more_tokens(
    bench: Bench, workspace: Workspace, tiny_pair: PairSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        harvest, "WINDOW", 2
    )  # documents read at a time: the held-out split is a few of them
    found = []
    for tokens in (100, 3000):
        evaluate_stitch(
            Bench(tiny_pair, SMALL.model_copy(update={"held_out_tokens": tokens})), "L1-L2"
        )
        found.append(workspace.table("downstream/L1-L2").set_index("condition"))
    few, many = found
    assert (few.tokens < many.tokens).all()
    assert (few.documents < many.documents).all()
    assert many.loss["b"] == pytest.approx(few.loss["b"], rel=0.2)
    assert "no 'stitches/L9-L9'" in refuse(evaluate_stitch, bench, "L9-L9")


def test_the_best_setting_pays_for_inversion_first(workspace: Workspace) -> None:
    table = workspace.table("study").copy()
    exact = table.method == "exact"
    table.loc[exact, ["a_to_b_to_a", "b_to_a_to_b"]] = (
        table.loc[exact, ["a", "b"]].to_numpy() * 1.01
    )
    table.loc[exact, "a_to_b"] = np.arange(exact.sum(), 0, -1) + 3.0
    table.loc[exact, "b_to_a"] = table.loc[exact, "a"] * 1.1
    cheapest = table[exact].iloc[-1]
    assert best_setting(table) == FitConfig(metric=cheapest.metric, alpha=float(cheapest.alpha))
    table.loc[table[exact].index[-1], "a_to_b_to_a"] *= 1.2
    second = table[exact].iloc[-2]
    assert best_setting(table) == FitConfig(metric=second.metric, alpha=float(second.alpha))
    assert best_setting(table, inversion=1.0) == FitConfig(
        metric=cheapest.metric, alpha=float(cheapest.alpha)
    )


@pytest.mark.model
def test_the_real_pair_transfers() -> None:
    """A few thousand positions of real text: far under the controls, and round trips near the
    unpatched loss."""
    bench, layers = open_pair("smollm2-gemma3"), LayerPair(a=10, b=9)
    a, b, corpus = bench.a, bench.b, bench.corpus
    english = [d for d in corpus.split("fit") if d.label.startswith("eng")]
    held_out = [d for d in corpus.split("held-out") if d.label.startswith("eng")][:10]
    gram, limits, read = harvest.Gram(a.spec.d_model, b.spec.d_model), {}, 0
    for k, docs in enumerate(harvest.windows(english)):
        chunk = harvest.read_window(a, b, docs, [layers.a], [layers.b])
        limits = limits or harvest.norm_limits(chunk)
        keep = harvest.within(chunk, limits, layers)
        gram.update(chunk.h_a[layers.a][keep], chunk.h_b[layers.b][keep], seed=k)
        read += len(keep)
        if read >= 10_000:
            break
    assert read >= 6_000
    m = gram.moments()
    stitch, shuffled = (
        fit_moments(gram.moments(shuffled=s), FitConfig(metric="std")) for s in (False, True)
    )
    conditions = [
        *downstream.unpatched(),
        *downstream.stitched(stitch),
        *downstream.controls(shuffled, m.mean_a, m.mean_b),
    ]
    loss = downstream.mean_losses(
        pd.DataFrame(downstream.measure(a, b, held_out, layers, conditions))
    )
    assert loss["a"] < 5
    assert loss["b"] < 5
    assert loss["a_to_b"] < 0.85 * min(loss["mean_ablated_b"], loss["shuffled_a_to_b"]), loss
    assert loss["b_to_a"] < 0.85 * min(loss["mean_ablated_a"], loss["shuffled_b_to_a"]), loss
    assert loss["a_to_b_to_a"] < 1.10 * loss["a"], loss
    assert loss["b_to_a_to_b"] < 1.25 * loss["b"], loss


def test_what_is_lost_is_built_again_as_it_was(
    workspace: Workspace, tiny_pair: PairSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PAIRS, "tiny", tiny_pair)
    before = state(workspace)
    assert stitch_measure.built_with(workspace) == SMALL
    assert stitch_measure.positions_to_fit(workspace, None) == 3000
    (workspace.root / workspace.entry("quality/L1-L2").path).write_text("{}")
    (workspace.root / workspace.entry("kinds/L1-L2").path).unlink()
    assert next(d.says for d in repair_all(rebuild=False)).startswith("kinds/L1-L2 is gone")
    assert set(before) - set(workspace.names()) == {"quality/L1-L2", "kinds/L1-L2"}
    assert repair_all() == [], "nothing is wrong any more"
    stitch_measure.build(tiny_pair, stitch_measure.built_with(workspace))
    assert state(workspace) == before and not workspace.verify(), "the same bytes again"


def test_a_build_goes_on_with_as_many_positions_as_before(nano_home: Path, tmp_path: Path) -> None:
    """The shipped stitches were fitted on all of the text; a new workspace needs less."""
    shipped, new = Workspace("nano"), Workspace("nano", tmp_path)
    assert stitch_measure.positions_to_fit(shipped, None) is None
    assert stitch_measure.positions_to_fit(new, None) == POSITIONS
    for workspace in (shipped, new):
        assert stitch_measure.positions_to_fit(workspace, 0) is None
        assert stitch_measure.positions_to_fit(workspace, 5000) == 5000
