"""From a stitch to the explorer's tables on the nano pair: every table is there, controls lose,
queries read them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sae_lens import SAE
from typer.testing import CliRunner

from core.bench import Bench
from core.cli.main import app
from core.errors import StitchLensError
from core.features import measure as feature_measure
from core.features import tables as feature_tables
from core.models.pairs import PairSpec
from core.saes import adopt as sae_adopt
from core.saes import crossing
from core.saes import tables as sae_tables
from core.saes import train as sae_train
from core.saes.settings import ExploreConfig, SaeConfig
from core.stitches.measure import fit_stitch
from core.stitches.settings import FitConfig
from core.stitches.stitch import load_stitch
from core.workspace.places import PROJECT
from core.workspace.store import Workspace
from tests.helpers.small import stitched_bench

pytestmark = pytest.mark.whole

SMALL = ExploreConfig(positions=6000, reconstruction_positions=2000, tokens=400, sentences=12)


@pytest.fixture(scope="module")
def bench(tiny_pair: PairSpec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with stitched_bench(tiny_pair, tmp_path_factory) as found:
        name = sae_train.train(
            found, 1, SaeConfig(width=96, k=8, epochs=6, lr=3e-3, batch=512), 12_000
        )
        assert name == "L1-96"
        feature_measure.explore(found, name, "L1-L2", SMALL)
        yield found


@pytest.fixture
def ws(bench: Bench) -> Workspace:
    return bench.workspace


MAPPED = """
import numpy as np, torch
from core.features.measure import _map
torch.set_num_threads(1)
_map(np.random.default_rng(0).standard_normal((64, 8), np.float32), 0)
print(torch.get_num_threads())
"""


def test_the_map_leaves_the_threads_as_they_were() -> None:
    """UMAP sets them once a process: in one of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MAPPED], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"


def test_every_table_is_there(ws: Workspace) -> None:
    kinds = (
        "saes",
        "sae_quality",
        "examples_a",
        "examples_b",
        "histograms_a",
        "histograms_b",
        "logits",
        "features",
    )
    assert {f"{kind}/L1-96" for kind in kinds} < set(ws.names())
    assert ws.verify() == {}
    table = feature_tables.features(ws, "L1-96")
    assert len(table) == 96
    assert table.correlation.dropna().between(-1, 1).all()
    assert "" not in set(table.raises)
    assert np.isfinite(table[["x", "y"]].to_numpy()).all()


def test_the_sae_is_an_ordinary_one(ws: Workspace) -> None:
    sae = SAE.load_from_disk(ws.path("saes/L1-96"))
    assert sae.cfg.metadata["hook_name"] == "blocks.1.hook_resid_pre"
    assert sae.cfg.dtype == "float16"


def test_the_original_and_its_transfer_beat_their_controls(ws: Workspace) -> None:
    table = sae_tables.sae_quality(ws, "L1-96").set_index("name")
    assert table.fuv["original"] < table.fuv["random SAE"]
    controls = ["shuffled-pair stitch", "random stitch", "random SAE, transferred"]
    for measure in ("fuv", "loss"):
        value = dict(zip(table.index, table[measure], strict=True))
        assert value["transferred"] < min(value[c] for c in controls), measure
    score = dict(zip(table.index, table.ce_loss_score, strict=True))
    assert score["original"] > score["random SAE"]
    assert max(table["rank"]) <= 96  # as many as there are features; see also the test of `rank`
    assert table.l0.max() <= 8
    assert (table.delta_loss - (table.loss - table.loss_clean)).abs().max() < 1e-9


def test_a_product_has_the_rank_of_its_narrowest_factor() -> None:
    g = torch.Generator().manual_seed(0)
    wide = torch.randn(400, 30, generator=g) @ torch.randn(30, 80, generator=g)
    assert crossing.rank(wide) == 30
    assert crossing.rank(torch.randn(400, 80, generator=g)) == 80


def test_transferred_features_correlate_and_controls_do_not(ws: Workspace) -> None:
    found = feature_tables.feature_counts(ws, "L1-96")
    assert sum(found["counts"].values()) == 96
    correlation = found["correlation"]
    assert correlation["transferred"]["median"] > correlation["shuffled"]["median"] + 0.1


def test_kinds_follow_the_threshold(ws: Workspace) -> None:
    table = feature_tables.features(ws, "L1-96")
    low, _, high = (feature_tables.kinds_of_features(table, t, 1).tolist() for t in (0.0, 0.5, 1.1))
    assert "semantic" not in low and "structural" not in high
    assert low.count("structural") == high.count("semantic") > 0


def test_one_feature_in_full(ws: Workspace) -> None:
    table = feature_tables.features(ws, "L1-96")
    f = int(table.joint.idxmax())
    for side in ("a", "b"):
        rows = feature_tables.feature_examples(ws, "L1-96", side, f)
        top = rows[rows.group == "top"]
        assert top.activation.tolist() == sorted(top.activation, reverse=True)
        assert len(top) > 3
        assert top.activation.max() <= table[f"max_{side}"][f] * 1.5 + 1e-3
        logits = feature_tables.feature_logits(ws, "L1-96", side, f)
        weights = dict(zip(logits["rank"], logits.weight, strict=True))
        assert min(w for r, w in weights.items() if r >= 0) > max(
            w for r, w in weights.items() if r < 0
        )
        bars = feature_tables.feature_histogram(ws, "L1-96", side, f)
        assert bars.tokens.sum() >= len(top)
        assert (bars.low < bars.high).all()


def test_again_changes_nothing_and_layers_must_fit(
    bench: Bench, ws: Workspace, tiny_pair: PairSpec
) -> None:
    before = {n: a.made for n, a in ws.manifest().artifacts.items()}
    feature_measure.explore(bench, "L1-96", "L1-L2", SMALL)
    assert {n: a.made for n, a in ws.manifest().artifacts.items()} == before
    other = tiny_pair.layer_pairs[0].model_copy(update={"a": 2, "b": 3})
    fit_stitch(bench, "L2-L3", other, FitConfig(), 3000)
    with pytest.raises(StitchLensError, match="one layer"):
        feature_measure.explore(bench, "L1-96", "L2-L3", SMALL)


def test_an_sae_from_elsewhere_is_checked_and_kept(
    bench: Bench, ws: Workspace, tmp_path: Path
) -> None:
    mine = SAE.load_from_disk(ws.path("saes/L1-96"), dtype="float32").requires_grad_(False)
    mine.save_model(tmp_path / "my sae")
    name = sae_adopt.adopt(bench, str(tmp_path / "my sae"), 1)
    assert name == "my-sae" == sae_adopt.adopt(bench, name, 1)
    assert torch.equal(
        SAE.load_from_disk(ws.path("saes/my-sae"), dtype="float32").W_dec, mine.W_dec
    )
    with pytest.raises(StitchLensError, match="before layer 1; wanted layer 2"):
        sae_adopt.adopt(bench, str(tmp_path / "my sae"), 2)
    config = json.loads((tmp_path / "my sae" / "cfg.json").read_text())

    def changed(**metadata: str) -> str:
        text = json.dumps(config | {"metadata": config["metadata"] | metadata})
        (tmp_path / "my sae" / "cfg.json").write_text(text)
        return str(tmp_path / "my sae")

    with pytest.raises(StitchLensError, match="an SAE of gpt2; wanted one of"):
        sae_adopt.adopt(bench, changed(model_name="gpt2"), 1)
    with pytest.raises(StitchLensError, match="hook_z"):
        sae_adopt.adopt(bench, changed(hook_name="blocks.1.attn.hook_z"), 1)
    with pytest.raises(StitchLensError, match="before layer 2"):
        sae_adopt.adopt(bench, changed(hook_name="blocks.1.hook_resid_post"), 1)
    for wrong in ("nowhere", str(tmp_path / "nowhere")):
        with pytest.raises(
            StitchLensError, match=r"a folder or a \.npz, RELEASE:ID, or one of the workspace's"
        ):
            sae_adopt.adopt(bench, wrong, 1)
    with pytest.raises(StitchLensError, match="release 'no-such-release'"):
        sae_adopt.adopt(bench, "no-such-release:layer_1", 1)


def test_the_command_line_carries_an_sae(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a plain SAELens script: what it opens is T_up(SAE(T_down(x)))."""
    ws.root.rename(tmp_path / "nano")
    manifest = tmp_path / "nano" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"pair": "tiny"', '"pair": "nano"', 1))
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(tmp_path))
    call = CliRunner()
    transfer = [
        "sae",
        "transfer",
        "nano",
        "--sae",
        "L1-96",
        "--out",
        str(tmp_path / "out"),
        "--stitch",
        "L1-L2",
    ]
    done = call.invoke(app, transfer)
    assert done.exit_code == 0, done.output
    nano = Workspace("nano", tmp_path)
    old, new = (
        SAE.load_from_disk(nano.path("saes/L1-96"), dtype="float32"),
        SAE.load_from_disk(tmp_path / "out"),
    )
    stitch = load_stitch(nano.path("stitches/L1-L2"))
    x = torch.randn(50, 256, generator=torch.Generator().manual_seed(0)) * 3
    with torch.no_grad():
        expected = stitch.up(old(stitch.down(x)))
        assert float((new(x) - expected).norm() / expected.norm()) < 1e-5
    assert new.cfg.metadata["hook_name"] == "blocks.2.hook_resid_pre"
    again = call.invoke(app, transfer)
    assert again.exit_code == 2 and "there already" in again.stderr
    shown = call.invoke(app, ["features", "show", "nano", "3", "--json"])
    assert json.loads(shown.stdout)["feature"] == 3
    assert call.invoke(app, ["features", "show", "nano", "96"]).exit_code == 2


@pytest.mark.parametrize("n", [1, 2, 3, 4, 16, 17])
def test_few_directions_have_a_place_each(n: int) -> None:
    x, y = feature_measure._map(np.random.default_rng(0).standard_normal((n, 8)), 0)
    assert x.shape == y.shape == (n,) and np.isfinite(x).all() and np.isfinite(y).all()
    assert len(set(zip(x.tolist(), y.tolist(), strict=True))) == n
