"""The agreement, labels and twins that are shipped keep their promises."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from core.cli.main import app
from core.features import alike
from core.features import tables as feature_tables
from core.features.firings import WHOLE
from core.features.neighbours import neighbours
from core.models.pairs import get_pair
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


NANO = "L2-1024"


def test_a_listing_holds_what_each_table_says() -> None:
    ws = Workspace("nano", WORKSPACES)
    listing = alike.listing(ws, NANO)
    assert listing.feature.tolist() == list(range(1024))
    labels = alike.labels(ws, NANO).set_index("feature")
    agreement = alike.agreement(ws, NANO).set_index("feature")
    twins = alike.twins(ws, NANO).set_index("feature")
    for f in (0, 391, 1023):
        row = listing.iloc[f]
        assert row.label == labels.shown[f] and bool(row.named) == bool(labels.named[f])
        assert row.twin == twins.twin[f] and row.twin_r == twins.r[f]
        joint = agreement.joint[f]
        assert row.fires_a == pytest.approx(joint / agreement.firings_a[f], rel=1e-6)
        assert row.fires_b == pytest.approx(joint / agreement.firings_b[f], rel=1e-6)
    order = alike.usual_order(listing)
    above = listing.above[order].dropna()
    assert above.is_monotonic_decreasing and listing.above[order.iloc[-1:]].isna().all()


def test_an_older_workspace_lists_its_features_by_attribution(tmp_path: Path) -> None:
    shipped = Workspace("nano", WORKSPACES)
    old = Workspace("nano", tmp_path)
    name = f"features/{NANO}"
    old.copy_in(name, shipped.path(name), shipped.entry(name))
    listing = alike.listing(old, NANO)
    assert set(listing.label) == {alike.UNNAMED} and listing.agreement.isna().all()
    best = listing.iloc[alike.usual_order(listing).iloc[0]]
    assert best.correlation == listing.correlation[listing.reliable].max()
    assert alike.worth_asking(listing).empty


@pytest.mark.parametrize("pair", WITH_TABLES)
def test_what_is_worth_asking_is_found_by_asking(pair: str) -> None:
    ws = Workspace(pair, WORKSPACES)
    listing = alike.listing(ws, ws.names(prefix="labels/")[0].removeprefix("labels/"))
    shown = alike.worth_asking(listing)
    assert len(shown) == alike.EXAMPLES == shown.word.str.casefold().nunique()
    assert all(word in label for word, label in zip(shown.word, shown.label, strict=True))
    assert (shown.f1_a >= alike.BAR).all() and shown.agreement.min() > 0.6


def test_neighbours_are_the_largest_cosines() -> None:
    ws = Workspace("nano", WORKSPACES)
    near = neighbours(ws, NANO, 391)
    decoder = load_file(ws.path(f"saes/{NANO}") / "sae_weights.safetensors")["W_dec"]
    rows = decoder.astype(float)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = rows @ rows[391]
    cosines[391] = -1
    assert [f for f, _ in near["a"]] == np.argsort(-cosines)[:5].tolist()
    assert near["a"][0][1] == pytest.approx(cosines.max(), abs=1e-3)

    table = alike.twins(ws, NANO).set_index("feature")
    twin, cosine = int(table.twin[391]), float(table.cosine[391])
    assert dict(near["b"])[twin] == pytest.approx(cosine, abs=2e-3), "the same as the twins' table"


def test_peak_tokens_of_some_features_are_those_of_all(nano_home: Path) -> None:
    """Of the rows of a list alone: nothing else is read."""
    ws, texts = Workspace("nano", nano_home), feature_tables.texts(get_pair("nano").corpus)
    every = feature_tables.peak_tokens(ws, "L2-1024", texts)
    some = feature_tables.peak_tokens(ws, "L2-1024", texts, [700, 3, 391, 5000])
    assert sorted(some.index) == [3, 391, 700]
    assert all(some[feature] == every[feature] for feature in some.index)
    assert len(feature_tables.peak_tokens(ws, "L2-1024", texts, [])) == 0


def test_examples_and_the_usual_order_are_those_of_the_listing(nano_home: Path) -> None:
    ws = Workspace("nano", nano_home)
    table = alike.listing(ws, "L2-1024")
    assert alike.usual(ws, "L2-1024") == alike.usual_order(table).tolist()
    best = alike.worth_asking(table)
    shown = alike.examples(ws, "L2-1024")
    assert shown.feature.tolist() == best.feature.tolist() and len(shown) > 0
    assert shown.word.tolist() == best.word.tolist()
