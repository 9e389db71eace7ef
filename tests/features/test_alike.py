"""The agreement, labels and twins that are shipped keep their promises."""

import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from core.cli.main import app
from core.features import alike
from core.features.firings import WHOLE
from core.workspace.places import WORKSPACES
from core.workspace.store import Workspace

WITH_TABLES = [
    pair
    for pair in ("nano", "smollm2-gemma3")
    if Workspace(pair, WORKSPACES).names(prefix="labels/")
]


def test_nano_ships_them() -> None:
    assert "nano" in WITH_TABLES


@pytest.mark.parametrize("pair", WITH_TABLES)
def test_shipped_figures_meet_their_targets(pair: str) -> None:
    done = CliRunner().invoke(app, ["report", pair, "--json"])
    assert done.exit_code == 0, done.output
    features = json.loads(done.stdout)["features"]
    labels = features["labels"]
    assert labels["share"]["f1_a"] >= (0.6 if pair == "nano" else 0.4)
    assert labels["share"]["f1_a"] >= 3 * labels["random"]["share"]
    assert labels["share"]["all_a"] >= 3 * labels["random_all"]["share"]
    assert labels["shuffled"]["share"] < 0.05

    whole = features["agreement"][WHOLE]
    assert whole["carried"]["share_alike"] > 3 * whole["random"]["share_alike"]
    assert abs(whole["shuffled"]["median"]) < 0.05
    assert "NaN" not in done.stdout


def test_shipped_twins_are_beyond_chance() -> None:
    ws = Workspace("nano", WORKSPACES)
    for kind, one in alike.twins_report(ws, "L2-1024").items():
        assert one["shared"] + one["only_a"] == one["n_a"], kind
        assert one["shared"] + one["only_b"] == pytest.approx(one["n_b"], abs=5), kind
        assert one["share_a"]["0.6"] > 10 * max(one["random"]["0.6"], one["shuffled"]["0.6"]), kind
        shares = [one["share_a"][key] for key in sorted(one["share_a"])]
        assert shares == sorted(shares, reverse=True), kind
        assert one["cosine_alike"] > one["cosine_below"], kind


def test_a_label_says_the_predicate_that_it_was_scored_by() -> None:
    table: pd.DataFrame = alike.labels(Workspace("nano", WORKSPACES), "L2-1024")
    one = table.loc[table.first_family == "token"].iloc[0]
    assert all(value.strip('\n\t\r" ') in one.label for value in one.first_values)
    assert table.loc[~table.named, "shown"].eq(alike.UNNAMED).all()
