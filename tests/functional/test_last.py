"""From nano's last layer to the tables of entropy features, their summary, and refusals."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from core.bench import Bench, open_pair
from core.cli.main import app
from core.errors import StitchLensError
from core.functional import last, last_tables
from core.functional.criterion import PARTS
from core.models.pairs import PAIRS, get_pair
from core.report import report
from core.statistics import share_interval
from core.workspace.artifacts import command
from core.workspace.places import WORKSPACES
from core.workspace.store import Workspace

SMALL = last.LastConfig(
    width=48,
    k=6,
    epochs=1,
    positions=6_000,
    documents=24,
    each=4,
    places=3,
    controls=5,
    plants=1,
)


@pytest.fixture(scope="module")
def bench(nano_home: Path) -> Bench:
    opened = open_pair("nano")
    for name in [n for n in opened.workspace.names() if n.startswith("entropy_last/")]:
        opened.workspace.remove(name)
    assert last_tables.measured(opened.workspace) == []
    assert last.measure(opened, "a", 3, SMALL) == "a-L3"
    return opened


@pytest.fixture
def ws(bench: Bench) -> Workspace:
    return bench.workspace


def test_every_feature_that_fires_is_tried_beside_controls(ws: Workspace) -> None:
    assert last_tables.measured(ws) == ["a-L3"]
    table, about = last_tables.features(ws, "a-L3"), last_tables.about(ws, "a-L3")
    counts = table.kind.value_counts()
    assert counts["random direction"] == 5 and counts["random SAE"] <= 5
    assert counts["feature"] == about["tried"] <= about["fire"] <= about["features"] == 48
    assert table.density.max() > last.DENSE, "what fires often is not left out"
    assert about["dense"] == (table.density[table.kind == "feature"] >= last.DENSE).sum()
    for name in ("free", "frozen", "left"):
        low, high = table[f"{name}_low"].to_numpy(), table[f"{name}_high"].to_numpy()
        assert np.all(low <= high + 1e-6)
    assert table.share.between(0, 1).all() and table["size"].between(0, 5).all()
    assert (table.places >= last.LEAST).all()


def test_planted_ones_are_of_every_size(ws: Workspace) -> None:
    powers = last_tables.power(last_tables.plants(ws, "a-L3"))
    assert len(powers) == 3 * 6 * 2 and set(powers.n) == {1}
    assert (powers.firings == 3 * powers.documents).all()


def test_the_summary_counts_and_says_it_in_numbers(ws: Workspace) -> None:
    measured = report(get_pair("nano"))["entropy_last"]
    assert measured == {"a-L3": last_tables.summary(ws, "a-L3")}
    json.dumps(measured, allow_nan=False)
    one, table = measured["a-L3"], last_tables.features(ws, "a-L3")
    own = table.loc[table.kind == "feature"]
    assert one["found"] == len(one["entropy_features"]) == own.found.sum()
    assert (one["found_low"], one["found_high"]) == share_interval(one["found"], one["tried"])
    assert set(one["criterion"]) == set(PARTS)
    assert one["found"] <= min(one["criterion"].values())


def test_what_is_there_is_kept_and_its_command_makes_it_again(bench: Bench, ws: Workspace) -> None:
    dates = {n: a.made for n, a in ws.manifest().artifacts.items()}
    last.measure(bench, "a", 3, SMALL)
    assert {n: a.made for n, a in ws.manifest().artifacts.items()} == dates
    name = "entropy_last/a-L3/features"
    line = command("nano", name, ws.entry(name).makers)
    assert "functional entropy nano --side a --layer 3 --width 48 --k 6" in line


def test_power_by_hand() -> None:
    """Found from 0.2 on at 64 firings, at no size at 16; a semantic one that is found by chance
    counts for nothing."""
    hits = {16: (0, 2, 5, 7), 64: (0, 9, 8, 10)}
    rows = [
        ("entropy", size, n // 4, n, i < k)
        for n, found in hits.items()
        for size, k in zip((0.05, 0.1, 0.2, 0.5), found, strict=True)
        for i in range(10)
    ]
    rows += [("semantic", 0.05, 16, 64, True)] * 10
    columns = ["kind", "planted", "fires_in", "places", "found"]
    powers = last_tables.power(pd.DataFrame(rows, columns=columns))
    assert last_tables.seen_from(powers, "entropy") == {64: 0.1}
    assert last_tables.seen_from(powers, "unread") == {}
    row = powers.loc[(powers["size"] == 0.1) & (powers.firings == 64)].iloc[0]
    assert (row.share, row.low, row.high) == (0.9, *share_interval(9, 10))


@pytest.mark.parametrize(
    ("side", "layer", "says"),
    [
        ("c", None, "side 'c'; wanted a or b"),
        ("a", 4, "layer 4 for nano-a; wanted 0 to 3"),
        ("b", -1, "layer -1 for nano-b; wanted 0 to 5"),
        (None, 3, "wanted a side"),
    ],
)
def test_what_is_no_place_is_said(side: str | None, layer: int | None, says: str) -> None:
    with pytest.raises(StitchLensError, match=says):
        last.chosen_layers(PAIRS["nano"], side, layer)


def test_layers_unless_one_is_chosen() -> None:
    large = last.chosen_layers(PAIRS["smollm2-gemma3"])
    assert large == [("a", 27), ("a", 28), ("a", 29), ("b", 15), ("b", 16), ("b", 17)]
    assert last.chosen_layers(PAIRS["nano"]) == [("a", 3), ("b", 5)]
    assert last.chosen_layers(PAIRS["nano"], "b", 2) == [("b", 2)]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nano", "--side", "x"], "side 'x'"),
        (["nano", "--side", "a", "--layer", "9"], "layer 9 for nano-a"),
        (["nano", "--side", "a", "--lr", "7"], "lr = 7"),
        (["nano", "--side", "a", "--k", "2000"], "k = 2000 of 1024 features"),
        (["nothing"], "no pair named 'nothing'"),
    ],
)
def test_the_command_refuses_in_a_sentence(words: list[str], says: str) -> None:
    done = CliRunner().invoke(app, ["functional", "entropy", *words])
    assert done.exit_code == 2
    assert done.stderr.startswith("Found") and says in done.stderr


def test_a_pair_without_models_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["functional", "entropy", "gpt2-small-medium", "--side", "a"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2 and done.stderr.startswith("Found")
    assert "gpt2" in done.stderr and "Traceback" not in done.stderr


def test_a_layer_that_was_not_measured_lists_those_that_were(ws: Workspace) -> None:
    with pytest.raises(StitchLensError, match=r"no last layer 'b-L5'.*wanted one of a-L3"):
        last_tables.features(ws, "b-L5")


@pytest.mark.parametrize("name", ["a-L3", "b-L5"])
def test_the_committed_tables_are_whole(name: str) -> None:
    ws = Workspace("nano", WORKSPACES)
    one = last_tables.summary(ws, name)
    assert one["tried"] > 500 and one["controls"]["random direction"]["found"] <= 1
    planted = pd.DataFrame(one["planted"])
    largest = planted.loc[planted["size"] == planted["size"].max()]
    shares = largest.groupby("kind").share.mean()
    assert shares["unread"] > 0.8 and shares["semantic"] == 0
    assert one["seen_from"] and one["floor"] > 0.4
    assert np.isfinite(one["sae"]["explained_variance"])
