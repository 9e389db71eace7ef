"""The page of functional features on the shipped workspaces and on an empty one; what is committed
there is whole."""

from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from core import statistics
from core.features import tables as feature_tables
from core.functional import tables as functional_tables
from core.workspace import store
from core.workspace.disk import fingerprint
from core.workspace.places import WORKSPACES
from core.workspace.store import Workspace
from tests.helpers.app import opened, text
from tests.helpers.planted import plant


@pytest.mark.parametrize("pair", ["nano", "smollm2-gemma3"])
def test_the_committed_tables_are_whole(pair: str) -> None:
    ws = Workspace(pair, WORKSPACES)
    (sae,) = functional_tables.scanned(ws)
    assert sae in feature_tables.saes(ws)
    measured = fingerprint(store.makers(ws, f"features/{sae}"))
    assert store.makers(ws, f"functional/{sae}/heads")["measured"] == measured, (
        "of the features that are there"
    )
    table = functional_tables.null_shares(ws, sae)
    assert table.candidate.sum() >= 8
    for side in "ab":  # they stand out by what they were chosen for
        assert (
            table.loc[table.candidate, f"share_{side}"].median() > table[f"share_{side}"].median()
        )
    found = functional_tables.summary(ws, sae)["attention"]
    for side in "ab":
        assert found[side]["spearman"] > 0.1, (
            "the heuristic score finds what path patching measures"
        )
        best = found[side]["clearest"]
        assert best["low"] <= best["change"] <= best["high"] < 0
        assert found[side]["candidates"]["deactivation"] < found[side]["random"]["deactivation"] < 0


def test_scores_of_shuffled_features_find_nothing() -> None:
    """The negative control of the rank correlation above."""
    table = functional_tables.heads(Workspace("nano", WORKSPACES), "L2-1024")
    rows = table[table.side == "b"]
    drawn = np.random.default_rng(0).permutation(rows.score)
    assert abs(statistics.spearman(drawn, -rows.change)) < 0.15


def test_the_page_says_what_was_measured() -> None:
    app = opened("functional", pair="nano")
    assert not app.exception and not app.error
    said = text(app)
    assert "Fig. 5a" in said and "Fig. 5b and 16" in said and "random features" in said.lower()


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"feature": "99999"}, "No feature 99999 here, they run from 0 to 1023"),
        ({"feature": "-3"}, "No feature"),
        ({"layer": "17"}, "No layer 17 here, they run from 2 to 3"),
        ({"head": "two"}, "No head two here, they run from 0 to 1"),
    ],
)
def test_what_does_not_exist_is_a_sentence(query: dict[str, str], says: str) -> None:
    app: AppTest = opened("functional", pair="nano", **query)
    assert not app.exception
    assert says.replace("-", "") in app.warning[0].value.replace("\\", "")


def test_without_a_scan_the_page_is_a_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(tmp_path))
    plant(tmp_path)
    app = opened("functional")
    assert (
        not app.exception and app.code[0].value == "python -m core functional scan smollm2-gemma3"
    )
