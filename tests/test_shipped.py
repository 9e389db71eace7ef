"""The committed workspaces: small and whole; targets met, controls beaten, pointers that lead to what
they say."""

import json

import numpy as np
import pytest
from sae_lens import SAE
from typer.testing import CliRunner

from core.cli.main import app
from core.features import measure as feature_measure
from core.features import tables as feature_tables
from core.models.pairs import get_pair
from core.saes import tables as sae_tables
from core.workspace.places import PROJECT, WORKSPACES
from core.workspace.store import RUNS, Workspace

PAIRS = ("nano", "smollm2-gemma3")


@pytest.fixture(params=PAIRS)
def ws(request: pytest.FixtureRequest) -> Workspace:
    return Workspace(request.param, WORKSPACES)


def test_committed_workspaces_are_small_and_whole() -> None:
    folder = PROJECT / "cache" / "smollm2-gemma3"
    assert (folder / "manifest.json").exists(), "run `python -m core build smollm2-gemma3`"
    workspace = Workspace("smollm2-gemma3", PROJECT / "cache")
    assert workspace.verify() == {}
    listed = {a.path for a in workspace.manifest().artifacts.values()} | {
        "manifest.json",
        ".lock",
        ".gitignore",
    }
    found = [
        p.relative_to(folder)
        for p in folder.rglob("*")
        if p.is_file() and RUNS not in p.parts  # what visitors keep is not committed
    ]  # an SAE is a folder of files
    assert [p for p in found if not {str(p), str(p.parent)} & listed] == [], (
        "nothing lies there that the manifest does not name"
    )
    sizes = {
        f.name: sum(p.stat().st_size for p in f.rglob("*") if p.is_file() and RUNS not in p.parts)
        for f in (PROJECT / "cache").iterdir()
    }
    assert sizes["models"] < 16e6, "the nano pair's weights"
    assert sum(sizes.values()) < 80e6
    stitches = [workspace.entry(n).makers for n in workspace.names("stitch")]
    depths = {m["layer_b"] / 18 for m in stitches}
    assert len(stitches) >= 2
    assert any(abs(d - 0.5) <= 0.2 for d in depths), "one in the middle"
    assert any(abs(d - 0.75) <= 0.15 for d in depths), "one near three quarters of the depth"


def test_the_sae_and_its_transfer_meet_their_targets(ws: Workspace) -> None:
    sae, *_ = feature_tables.saes(ws)
    measured = {row["name"]: row for row in sae_tables.sae_quality(ws, sae).to_dict("records")}
    assert measured["original"]["explained_variance"] >= 0.8
    assert measured["original"]["dead"] < 0.1
    for control in ("shuffled-pair stitch", "random stitch", "random SAE, transferred"):
        assert measured["transferred"]["fuv"] < 0.7 * measured[control]["fuv"], control
        assert measured["transferred"]["loss"] < measured[control]["loss"] - 0.1, control


def test_transferred_features_lie_apart_from_the_controls(ws: Workspace) -> None:
    found = feature_tables.feature_counts(ws, feature_tables.saes(ws)[0])
    superior, apart = (0.75, 0.1) if get_pair(ws.pair).family == "within-family" else (0.58, 0.02)
    for control in ("random", "shuffled"):
        assert found["effect"][control]["superiority_low"] > superior, control
        assert found["effect"][control]["median_difference_low"] > apart, control
    assert min(found["counts"][kind] for kind in ("semantic", "structural")) > 20


def test_one_feature_reads_in_full(ws: Workspace) -> None:
    sae = feature_tables.saes(ws)[0]
    table = feature_tables.features(ws, sae)
    texts = feature_tables.texts(get_pair(ws.pair).corpus)
    f = int(table.joint.idxmax())
    for side in ("a", "b"):
        rows = feature_tables.feature_examples(ws, sae, side, f)
        assert {"top", "q1", "q2", "q3", "q4"} <= set(rows.group)
        for row in rows.to_dict("records"):
            assert row["ends"][-1] <= len(texts[row["document"]])
    both = feature_tables.same_text(ws, sae, f)
    assert 5 <= len(both) <= 10
    assert SAE.load_from_disk(ws.path(f"saes/{sae}")).cfg.d_sae == len(table)


@pytest.mark.model
def test_what_is_read_live_is_what_a_pointer_says() -> None:
    ws = Workspace("nano", WORKSPACES)
    sae = feature_tables.saes(ws)[0]
    live = feature_measure.Live(get_pair("nano"), sae)
    texts = feature_tables.texts(get_pair("nano").corpus)
    f = int(feature_tables.features(ws, sae).joint.idxmax())
    for side in ("a", "b"):
        row = feature_tables.feature_examples(ws, sae, side, f).iloc[0]
        read = live.read(texts[row.document])[side]
        value = float(read.acts[read.position == row.position, f])
        assert value == pytest.approx(row.activation, rel=0.05), "bfloat16, another batch"
        at = int(np.flatnonzero(read.position == row.position)[0])
        assert read.ends[at] == row.ends[row.peak + 1]


@pytest.mark.model
def test_the_command_line_measures_the_sae_again() -> None:
    ws = Workspace("nano", WORKSPACES)
    sae = feature_tables.saes(ws)[0]
    stitch = ws.entry(f"features/{sae}").makers["stitch_name"]
    done = CliRunner().invoke(
        app, ["sae", "eval", "nano", "--sae", sae, "--stitch", stitch, "--json"]
    )
    assert done.exit_code == 0, done.output
    again = {row["name"]: row for row in json.loads(done.stdout)["variants"]}
    for row in sae_tables.sae_quality(ws, sae).to_dict("records"):
        assert again[row["name"]]["fuv"] == pytest.approx(row["fuv"], rel=0.02), row["name"]
        assert again[row["name"]]["loss"] == pytest.approx(row["loss"], rel=0.02), row["name"]
    lost = CliRunner().invoke(app, ["sae", "eval", "nano", "--sae", "no-such"])
    assert lost.exit_code == 2 and "no SAE 'no-such'" in lost.stderr
