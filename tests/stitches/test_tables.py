"""Queries give the planted numbers back, tidy and in order, and name what is missing or damaged."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import mannwhitneyu

from core import statistics
from core.config import POSITIONS
from core.errors import StitchLensError
from core.features import tables as feature_tables
from core.models import pairs
from core.models.pairs import LayerPair, get_pair
from core.stitches import conditions
from core.stitches import tables as stitch_tables
from core.stitches.settings import FitConfig
from core.text.corpus import Document
from core.workspace import artifacts, store
from core.workspace.places import PROJECT
from core.workspace.store import Workspace
from tests.helpers.planted import ALPHAS, LOSSES, MAKERS, PAIR, losses, plant, plant_features


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return plant(tmp_path)


def test_pairs_with_workspace(ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "gpt2-small-medium").mkdir()  # a folder without a manifest is no workspace
    assert pairs.pairs_with_workspace(tmp_path) == [PAIR]
    assert pairs.pairs_with_workspace(tmp_path / "nowhere") == []


def test_stamp_follows_every_artifact(ws: Workspace) -> None:
    before = store.stamp(ws)
    assert store.stamp(ws) == before
    ws.put_record("quality/young", {"fuv_up": 0.5}, {})
    after = store.stamp(ws)
    assert after != before
    path = ws.path("svcca")
    path.write_bytes(path.read_bytes()[:-1])
    assert store.stamp(ws) != after  # also where only the file changed


def test_stitches_default_first_and_unmeasured_is_nan(ws: Workspace) -> None:
    table = stitch_tables.stitches(ws)
    assert table.name.to_list() == stitch_tables.stitch_names(ws) == ["L20-L9", "L10-L9", "young"]
    first = table.iloc[0]
    assert (first.layer_a, first.layer_b, first.method, first.metric, first.positions) == (
        20,
        9,
        "exact",
        "std",
        5000,
    )
    assert (
        first.a_to_b == 3.6
        and first.a_to_b_relative == pytest.approx(0.2)
        and first.fuv_down == 0.29
    )
    assert table.iloc[2][["a", "a_to_b_relative", "fuv_up"]].isna().all()


def test_downstream_is_in_the_page_order(ws: Workspace) -> None:
    table = stitch_tables.downstream(ws, "L10-L9")
    assert table.condition.to_list() == [c.key for c in conditions.CONDITIONS]
    assert table.loss.to_list() == [LOSSES[c] for c in table.condition]
    assert table.groupby("model").role.first().to_dict() == {"a": "unpatched", "b": "unpatched"}
    with pytest.raises(StitchLensError, match=r"no 'downstream/young'.*L10-L9"):
        stitch_tables.downstream(ws, "young")


def test_a_table_of_another_make_is_refused(ws: Workspace) -> None:
    ws.put_table("downstream/young", losses().drop(columns="low"), MAKERS)
    with pytest.raises(StitchLensError, match=r"'downstream/young' without low"):
        stitch_tables.downstream(ws, "young")
    ws.put_table("downstream/young", losses().query("condition != 'a_to_b'"), MAKERS)
    table = stitch_tables.stitches(ws).set_index("name")
    assert "without a_to_b;" in table.fault["young"] and table.fault["L20-L9"] == ""
    ws.put_table("svcca", pd.DataFrame({"layer_a": [0]}), MAKERS)
    with pytest.raises(StitchLensError, match="without layer_b, svcca, n, chance"):
        stitch_tables.svcca(ws)


def test_a_flipped_byte_is_named(ws: Workspace) -> None:
    path = ws.path("downstream/L20-L9")
    raw = bytearray(path.read_bytes())
    raw[100] ^= 1
    path.write_bytes(raw)
    with pytest.raises(StitchLensError, match="the file was changed"):
        stitch_tables.downstream(ws, "L20-L9")
    table = stitch_tables.stitches(ws).set_index("name")  # the rest is as readable as before
    assert "the file was changed" in table.fault["L20-L9"] and table.a["L10-L9"] == 4.0
    assert len(stitch_tables.svcca(ws)) == 540


def test_svcca_marks_the_best_layer_and_the_stitches(ws: Workspace) -> None:
    table = stitch_tables.svcca(ws)
    best = table[table.best]
    assert len(best) == 30
    assert best.set_index("layer_a").layer_b.loc[[0, 29]].to_list() == [
        0,
        17,
    ]  # the planted diagonal
    marked = table[table.stitches != ""].set_index(["layer_a", "layer_b"]).stitches.to_dict()
    assert marked == {(20, 9): "L20-L9", (10, 9): "L10-L9", (5, 3): "young"}


def test_alpha_sweep_is_relative_to_the_model_that_comes_last(ws: Workspace) -> None:
    table = stitch_tables.alpha_sweep(ws, 20, 9)
    assert len(table) == 4 * len(ALPHAS)
    up = table[table.condition == "a_to_b"]
    assert up.alpha.to_list() == list(ALPHAS)
    assert up.relative.to_list() == pytest.approx([(3.6 + 0.01 * x) / 3 - 1 for x in ALPHAS])
    assert set(table[table.condition == "a_to_b_to_a"].base) == {4.0}
    assert stitch_tables.alpha_sweep(ws, 10, 9).empty


def test_study_orders_by_loss_and_marks_the_default(ws: Workspace) -> None:
    table = stitch_tables.study(ws)
    assert table.metric.to_list() == ["std", "rms", "raw"]
    assert table.chosen.to_list() == [True, False, False]
    assert table.b_to_a_to_b_relative.to_list() == pytest.approx([0.03] * 3)


def test_table_1_holds_ours_and_the_papers(ws: Workspace) -> None:
    table = stitch_tables.table_1(ws)
    assert (
        table.source.to_list() == ["this workspace"] * 2 + ["the paper"] * 3
    )  # what is not measured is not shown
    paper = table[table.source == "the paper"].set_index("label")
    gemma = paper.loc["gemma-2-2b.20 / gemma-2-9b.33"]
    printed = {"a_to_b": 0.39, "b_to_a": 0.083, "b_to_a_to_b": 0.13}  # Table 1, page 3
    assert all(
        gemma[f"{key}_relative"] == pytest.approx(value, abs=0.005)
        for key, value in printed.items()
    )
    assert (paper.a_to_b_to_a_relative < 0.01).all()


def test_table_1_holds_the_default_stitch_of_the_other_workspaces(ws: Workspace) -> None:
    plant(ws.root.parent, "nano")
    (key, stamp), *more = stitch_tables.others(ws)
    assert (key, more) == ("nano", [])
    table = stitch_tables.table_1(ws, stitch_tables.others(ws))
    other = table[table.source == "another workspace"]
    assert (other.label.tolist(), other.family.tolist()) == (["L20-L9"], ["within-family"])
    assert other.a_to_b_relative.tolist() == pytest.approx([0.2])
    Workspace("nano", ws.root.parent).put_record("quality/young", {"fuv_up": 0.5}, {})
    assert stitch_tables.others(ws) != ((key, stamp),), (
        "so that what is cached by it is asked again"
    )


def test_provenance_names_the_makers(ws: Workspace) -> None:
    rows = artifacts.provenance(ws, "L20-L9").set_index("what").value
    assert rows["hook_a"] == "blocks.20.hook_resid_pre" and rows["a.weights"] == "aa"
    assert (
        rows["corpus.fingerprint"] == "00ff00ff00ff00ff"
        and rows["sha256"] == ws.entry("stitches/L20-L9").sha256
    )
    assert rows["versions.stitchlens"]


def test_computed_groups_artifacts(ws: Workspace) -> None:
    table = artifacts.computed(ws).set_index("group")
    assert table.files.to_dict() == {
        "pair": 1,
        "svcca": 1,
        "study": 1,
        "alpha_sweep": 1,
        "stitches": 3,
        "downstream": 2,
        "quality": 2,
    }
    assert table.what["stitches"] == artifacts.GROUPS["stitches"].title


def test_an_effect_is_the_u_statistic() -> None:
    g = np.random.default_rng(0)
    x, y = g.normal(0.5, 1, 300).round(1), g.normal(0, 1, 200).round(1)
    found = statistics.effect(x, y)
    expected = mannwhitneyu(x, y).statistic / (len(x) * len(y))
    assert found["superiority"] == pytest.approx(expected)
    assert found["superiority_low"] < expected < found["superiority_high"]
    assert found["median_difference"] == pytest.approx(np.median(x) - np.median(y))
    same = statistics.effect(y, y)
    assert same["superiority"] == 0.5 and same["superiority_low"] < 0.5 < same["superiority_high"]


def test_a_feature_in_a_file_and_on_neuronpedia(ws: Workspace) -> None:
    plant_features(ws, [Document(id=f"d@{k}+0", label="eng", text="x" * 50) for k in range(3)])
    record = json.loads(json.dumps(feature_tables.feature_record(ws, "L20-12", 3)))
    assert record["feature"]["feature"] == 3 and record["makers"]["stitch_name"] == "L20-L9"
    assert [c["document"] for c in record["b"]["contexts"]] == ["d@0+0", "d@1+0", "d@2+0"]
    assert len(record["a"]["contexts"][0]["ends"]) == len(record["a"]["contexts"][0]["heat"]) + 1
    assert json.dumps(feature_tables.feature_record(ws, "L20-12", 11)), (
        "a dead one has no correlation"
    )
    assert (
        feature_tables.neuronpedia(ws, "L20-12", 3)
        == "https://www.neuronpedia.org/planted/20-sae/3"
    )
    rows = feature_tables.same_text(ws, "L20-12", 3)
    assert rows.document.tolist() == ["d@0+0", "d@1+0"]
    assert rows.a_activation.tolist() != rows.b_activation.tolist()


def test_names_are_free(ws: Workspace) -> None:
    layers = LayerPair(a=5, b=3)
    names = [stitch_tables.default_name(layers, FitConfig(), n) for n in (POSITIONS, 60_000, None)]
    assert names == [f"L5-L3-exact-std-1{end}" for end in ("", "-60000", "-all")]
    first = stitch_tables.free_name(ws, 5, 3, "exact", "std", 1.0)
    assert first == "L5-L3-exact-std-1"
    ws.put(f"stitches/{first}", lambda p: p.touch(), "stitch", ".safetensors", {})
    assert stitch_tables.free_name(ws, 5, 3, "exact", "std", 1.0) == "L5-L3-exact-std-1-2"
    assert (
        stitch_tables.free_name(Workspace("gpt2-small-medium", ws.root), 6, 10, "lstsq", "raw", 0)
        == "L6-L10-lstsq-raw"
    )
    assert stitch_tables.least_positions(get_pair(PAIR)) == 2 * (576 + 640)


def test_every_condition_of_table_1_is_known() -> None:
    assert set(conditions.TABLE_1) <= set(conditions.BY_KEY)
    assert {c.role for c in conditions.CONDITIONS if c.key not in conditions.TABLE_1} == {"control"}


def test_methods_and_metrics_are_those_of_the_fitters() -> None:
    settings = pytest.importorskip("core.stitches.settings")
    assert set(conditions.METHODS) == set(settings.METHODS)
    assert set(conditions.METRICS) == set(settings.METRICS)


def test_what_pages_import_is_light() -> None:
    code = (
        "import sys, core.stitches.tables, core.jobs\nheavy = {'torch', 'transformers', 'sae_lens',"
        " 'transformer_lens', 'datasets', 'streamlit', 'scipy'}\nprint(*(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("\n", "")
