"""The language evaluation on the nano pair: tables that fit together, chosen on one half and
measured on the other."""

from pathlib import Path

import pandas as pd
import pytest

from core.bench import open_pair
from core.errors import StitchLensError
from core.models.pairs import get_pair
from core.report import report
from core.statistics import share_interval
from core.steering import measure as steering_measure
from core.steering import tables as steering_tables
from core.steering.measure import STEERED, Candidate, SteerConfig, best, evaluate, summary
from core.text.languages import prompts
from core.workspace.places import user_cache
from core.workspace.store import Workspace

CONFIG = SteerConfig(
    languages=("fr", "nl"),
    stitches=("L2-L3",),
    spans=(1, 9),
    strengths=(1.0, 2.0),
    choosing=2,
    prompts=4,
    tokens=10,
    texts=4,
)


@pytest.fixture(scope="module")
def ws(nano_home: Path) -> Workspace:
    bench = open_pair("nano")
    evaluate(bench, CONFIG)
    return bench.workspace


def test_the_tables_fit_together(ws: Workspace) -> None:
    for side in ("a", "b"):
        table = steering_tables.steering(ws, side)
        assert set(table.language) == {"fr", "nl"} and set(table.kind) == {"none", *STEERED}
        for row in table.to_dict("records"):
            written = steering_tables.generations(ws, side, row["language"], row["kind"])
            assert len(written) == row["n"] == 4
            assert written.prompt.to_list() == prompts()[1][:4], "figures come from the second half"
            hits = int((written.detected == row["language"]).sum())
            assert row["rate"] == hits / 4 and (row["low"], row["high"]) == share_interval(hits, 4)
            assert row["success"] <= row["rate"] and row["loss"] == pytest.approx(
                written.loss.mean()
            )
        assert set(steering_tables.choices(ws, side).span) == {1}, "nine layers do not fit"
        chosen = ws.table("steering_choice", side=side)
        assert len(chosen) == 2 * 2 * 2 and set(chosen.n) == {2}
        gaps = steering_tables.gaps(ws, side)
        assert (
            gaps.gap.between(0, 1).all()
            and (gaps.characters > 1000).all()
            and (gaps.natural > 0).all()
        )
        assert set(steering_tables.means(ws, side).kind) == {"none", *STEERED}


def test_the_report_has_every_cell(ws: Workspace) -> None:
    found = report(get_pair("nano"))["steering"]
    for way in ("a_to_b", "b_to_a"):
        for language in ("fr", "nl"):
            for kind in ("none", "own", "transferred", "random"):
                cell = found[way][language][kind]
                assert 0 <= cell["low"] <= cell["rate"] <= cell["high"] <= 1 and cell["n"] == 4
                assert cell["fluency"] > 0
            assert "gap" in found[way][language]["transferred"]


def test_what_is_done_is_not_done_again(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run reads every part from the cache; a part that is gone is written again, the
    same."""
    parts = sorted((user_cache() / "steering").rglob("b-*.parquet"))
    before = pd.read_parquet(parts[-1])
    parts[-1].unlink()
    wrote: list[int] = []
    original = steering_measure.respond_and_score
    monkeypatch.setattr(
        steering_measure, "respond_and_score", lambda *args: wrote.append(1) or original(*args)
    )
    evaluate(open_pair("nano"), CONFIG)
    assert len(wrote) <= 1
    pd.testing.assert_frame_equal(pd.read_parquet(parts[-1]), before)


def test_languages_that_are_not_there_are_said(ws: Workspace) -> None:
    with pytest.raises(StitchLensError, match=r"no text in ja, xx"):
        evaluate(
            open_pair("nano"),
            CONFIG.model_copy(update={"languages": ("fr", "ja", "xx")}),
        )
    with pytest.raises(StitchLensError, match="no stitch L9-L9"):
        evaluate(
            open_pair("nano"),
            CONFIG.model_copy(update={"stitches": ("L9-L9",)}),
        )


def test_the_best_candidate_is_fluent_first() -> None:
    rows = [
        ("x", 1, 1.0, 0.9, 0.2, 3.0),
        ("x", 1, 1.5, 0.8, 0.7, 4.0),
        ("x", 4, 1.5, 0.9, 0.7, 5.0),
    ]
    choice = pd.DataFrame(rows, columns=["stitch", "span", "strength", "rate", "success", "loss"])
    choice = choice.assign(label="fra", kind="own")
    assert best(choice, "fra", "own") == Candidate("x", 4, 1.5)


def test_gibberish_is_no_success() -> None:
    cell = {"stitch": "x", "span": 1, "strength": 1.0, "repetition": 0.0, "loss": 3.0}
    rows = [
        cell | {"label": label, "kind": kind, "detected": detected, "fluent": fluent}
        for label, kind, detected, fluent in (
            ("eng", "none", "en", True),
            ("fra", "own", "fr", False),
            ("fra", "own", "fr", True),
            ("fra", "transferred", "fr", True),
            ("fra", "transferred", "en", True),
            ("fra", "random", "en", True),
        )
    ]
    found = summary(pd.DataFrame(rows), {"fra": 3.5}).set_index("kind")
    assert found.rate.to_dict() == {"none": 0.0, "own": 1.0, "transferred": 0.5, "random": 0.0}
    assert found.success["own"] == 0.5 and found.gap["transferred"] == 0.5


def test_the_papers_tables() -> None:
    paper = steering_tables.paper().set_index(["side", "language"])
    assert len(paper) == 40
    assert paper.loc[("a", "de")].to_dict() == {
        "name": "German",
        "own": 0.81,
        "transferred": 0.79,
        "gap": 0.79 / 0.81,
    }
    assert paper.loc[("b", "fr"), "gap"] == 1.0 and paper.loc[("b", "lt"), "gap"] == 0.0, (
        "clipped; 0/0 is 0"
    )
