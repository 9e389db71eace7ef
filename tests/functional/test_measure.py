"""From the shipped nano SAE to the tables of functional features, their summary, and a head over a
typed text."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from core.bench import Bench, open_pair
from core.cli.main import app
from core.errors import StitchLensError
from core.functional import live as functional_live
from core.functional import measure as functional_measure
from core.functional import sides as functional_sides
from core.functional import tables as functional_tables
from core.functional.attention import Heads, pattern
from core.models.pairs import get_pair
from core.report import report
from core.workspace import store
from core.workspace.store import Workspace

SMALL = functional_sides.ScanConfig(documents=40, reading=6, features=3, each=2, tokens=4)
SAE = "L2-1024"


@pytest.fixture(scope="module")
def bench(nano_home: Path) -> Bench:
    found = open_pair("nano")
    for name in [n for n in found.workspace.names() if n.startswith("functional/")]:
        found.workspace.remove(name)
    assert functional_tables.scanned(found.workspace) == []
    functional_measure.scan(found, SAE, SMALL)
    return found


@pytest.fixture
def ws(bench: Bench) -> Workspace:
    return bench.workspace


def test_every_table_is_there_and_small(ws: Workspace) -> None:
    assert functional_tables.scanned(ws) == [SAE]
    names = [n for n in ws.names() if n.startswith("functional/")]
    assert len(names) == 5 and ws.verify() == {}
    assert sum(ws.entry(n).bytes for n in names) < 40_000
    assert (functional_tables.STEP, functional_tables.PARTS) == (
        functional_sides.STEP,
        functional_sides.PARTS,
    )
    assert [f"{s / 100:g}" for s in functional_tables.SHARES] == [
        f"{s:g}" for s in functional_measure.NULL_SHARES
    ]


def test_shares_are_of_norms_and_grow_with_the_null_space(ws: Workspace) -> None:
    small, large = (functional_tables.null_shares(ws, SAE, share) for share in (1, 5))
    for side in "ab":
        low, high = (np.asarray(x[f"share_{side}"]) for x in (small, large))
        assert low.min() >= 0 and high.max() <= 1 and np.all(low <= high + 1e-6)
    assert large.candidate.tolist().count(True) in range(1, SMALL.features + 1)
    with pytest.raises(StitchLensError, match="a null space of 3 %"):
        functional_tables.null_shares(ws, SAE, 3)


def test_candidates_and_controls_are_measured_in_both_models(ws: Workspace) -> None:
    tried, patched = functional_tables.ablations(ws, SAE), functional_tables.heads(ws, SAE)
    for table, heads in ((tried, 1), (patched, None)):
        for side, n_heads in (("a", 2 * 2), ("b", 3 * 4)):  # layers behind the features x heads
            rows = table.loc[table.side == side]
            assert rows.feature.nunique() == 2 * SMALL.features
            assert rows.loc[rows.random, "feature"].nunique() == SMALL.features
            assert set(rows.feature.value_counts()) == {heads or n_heads}
    assert (tried.entropy_change_low <= tried.entropy_change_high).all()
    assert (
        patched.before.between(0, 1).all()
        and (patched.before + patched.change).between(-0.01, 1.01).all()
    )
    for row in functional_tables.moved(ws, SAE).to_dict("records"):
        one = patched[(patched.side == row["side"]) & (patched.feature == row["feature"])]
        best = one.change.min() if row["kind"] == "deactivation" else one.change.max()
        assert row["change"] == pytest.approx(best, abs=2e-4)
        assert len(row["token"]) == len(row["before"]) == len(row["after"]) <= SMALL.tokens


def test_what_is_there_is_kept_and_a_killed_scan_goes_on(bench: Bench, ws: Workspace) -> None:
    made = {n: a.sha256 for n, a in ws.manifest().artifacts.items()}
    dates = {n: a.made for n, a in ws.manifest().artifacts.items()}
    functional_measure.scan(bench, SAE, SMALL)
    assert {n: a.made for n, a in ws.manifest().artifacts.items()} == dates
    ws.remove(f"functional/{SAE}/heads")
    assert functional_tables.scanned(ws) == []
    functional_measure.scan(bench, SAE, SMALL)
    assert {n: a.sha256 for n, a in ws.manifest().artifacts.items()} == made


def test_too_few_features_or_no_such_sae_is_said(bench: Bench) -> None:
    with pytest.raises(StitchLensError, match="features that fire"):
        functional_measure.scan(
            bench, SAE, SMALL.model_copy(update={"documents": 2, "features": 500})
        )
    with pytest.raises(StitchLensError, match="no measured features of SAE 'nothing'"):
        functional_measure.scan(bench, "nothing", SMALL)
    done = CliRunner().invoke(app, ["functional", "scan", "nano", "--sae", "nothing"])
    assert done.exit_code == 2 and done.stderr.startswith("Found no measured features")


def test_the_report_says_it_in_numbers(ws: Workspace) -> None:
    found = report(get_pair("nano"))["functional"]
    assert found == functional_tables.summary(ws, SAE)
    json.dumps(found, allow_nan=False)
    table = functional_tables.heads(ws, SAE)
    rows = table[table.side == "b"]
    slow = np.corrcoef(rows.score.rank(), (-rows.change).rank())[0, 1]
    assert found["attention"]["b"]["spearman"] == pytest.approx(slow)
    assert found["attention"]["b"]["heads"] == 12
    for side in "ab":
        best = found["attention"][side]["clearest"]
        assert best["feature"] == functional_tables.clearest(functional_tables.moved(ws, SAE))
        assert 0 <= found["sink"][side] <= 1


def test_a_head_over_a_typed_text(bench: Bench, ws: Workspace) -> None:
    live = functional_live.Live(get_pair("nano"), SAE)
    text = "The house <b>of</b> my mother; print(1)"
    acts = live.read(text)["b"].acts
    f = int(acts.max(0).values.argmax())
    found = live.attend(text, "b", f, 4, 3)
    n = len(found.ends)
    assert found.before.shape == found.after.shape == found.control.shape == (n, n)
    heads = Heads(bench.b)
    call = heads.calls(bench.b.pad([bench.b.encode([text])[0].ids]), [4])[4]
    assert np.allclose(found.before, pattern(heads.look(4, call))[0, 3].detach(), atol=1e-6)
    on = found.activation > 0
    assert on.any() and not on.all()
    assert np.abs(found.after - found.before)[on].max() > 1e-4
    assert np.array_equal(found.after[~on], found.before[~on]), (
        "where it does not fire nothing changes"
    )
    silent = int((acts.max(0).values == 0).nonzero()[0])
    still = live.attend(text, "b", silent, 4, 3)
    assert torch.equal(torch.from_numpy(still.after), torch.from_numpy(still.before))
    for wrong, message in (
        ((1024, 4, 3), "feature 1024; wanted 0 to 1023"),
        ((f, 2, 3), "layer 2 of nano-b; wanted 3 to 5"),
        ((f, 6, 0), "layer 6 of nano-b"),
        ((f, 4, 4), "head 4 of nano-b; wanted 0 to 3"),
    ):
        with pytest.raises(StitchLensError, match=message):
            live.attend(text, "b", *wrong)
    with pytest.raises(StitchLensError, match="a text without a token"):
        live.attend("", "b", f, 4, 3)
    assert np.isfinite(live.attend("half a \ud83d character\0", "b", f, 4, 3).before).all()
    assert (live.read("half a \ud83d")["a"].ends == live.read("half a \ufffd")["a"].ends).all()


def test_a_stitch_that_was_fitted_again_is_refused(ws: Workspace) -> None:
    name = store.makers(ws, f"features/{SAE}")["stitch_name"]
    entry = ws.entry(f"stitches/{name}")
    path = ws.path(f"stitches/{name}")
    makers = entry.makers | {"alpha": 7.0}

    def copy(to: Path) -> None:
        shutil.copyfile(path, to)

    ws.put(f"stitches/{name}", copy, "stitch", ".safetensors", makers)
    with pytest.raises(StitchLensError, match="fitted again since"):
        functional_measure.measured_through(ws, SAE)
