"""Asking for a feature: hand-made entries in five scripts, signs and operators, sentences and
directions."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from core.cli.main import app
from core.errors import StitchLensError
from core.features import queries, search
from core.features.search import Entry
from core.workspace.places import WORKSPACES
from core.workspace.store import Workspace

ENTRIES = [
    Entry(0, '"French" "Spanish"', "", "French Spanish", "a Spanish cook and a French one"),
    Entry(1, "in Russian", "", "привет мир", "Привет, мир! Ёлка"),
    Entry(2, "", "", "कुत्ता किताब", "यह एक किताब है"),
    Entry(3, "", "", "世界", "你好，世界。今天天气很好。"),
    Entry(4, "", "", "كِتَاب", "هذا كتاب جديد"),
    Entry(5, "", "", "(", 'print("AND", x) NOT y*'),
    Entry(6, '"café"', "", "café", "the café of a friend"),
    Entry(7, "", "", "cook", "French toast"),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("search") / "index.sqlite"
    search.write_index(path, ENTRIES)
    return path


@pytest.mark.parametrize(
    ("query", "features"),
    [
        ("French", [0, 7]),
        ("fRENCH spanish", [0]),
        ("Привет", [1]),
        ("ёлка", [1]),
        ("किताब", [2]),
        ("世界", [3]),
        ("界世", []),
        ("天气", [3]),
        ("كتاب", [4]),
        ("cafe", [6]),
        ("CAFÉ", [6]),
        ("fren", [0, 7]),
        ("hello", []),
    ],
)
def test_words_in_five_scripts(index: Path, query: str, features: list[int]) -> None:
    assert list(search.look_up(index, query)) == features


@pytest.mark.parametrize(
    ("query", "features"),
    [
        ("(", [5]),
        ('"', [5, 0, 6]),
        ('("', [5]),
        ("AND", [0, 5]),
        ("NOT", [5]),
        ("French OR cook", []),
        ("French NOT Spanish", []),
        ("label:French", []),
        ("y*", [5]),
        ("NEAR(a b)", []),
        ("^French", []),
        ("!!!", []),
        ("'; DROP TABLE features; --", []),
        ("\0", []),
        ("   ", []),
        ("", []),
    ],
)
def test_signs_and_operators_are_looked_up_as_they_are(
    index: Path, query: str, features: list[int]
) -> None:
    assert sorted(search.look_up(index, query)) == sorted(features)
    assert list(search.look_up(index, "French")) == [0, 7], "the index is whole"


def test_a_label_comes_before_what_others_say_before_a_peak_before_a_context(
    tmp_path: Path,
) -> None:
    path = tmp_path / "index"
    rest = [Entry(k, "x", "w", "y", "z") for k in range(4, 9)]
    search.write_index(
        path,
        [
            Entry(0, "x", "w", "y", "cat"),
            Entry(1, "x", "w", "cat", "z"),
            Entry(2, "x", "of a cat", "y", "z"),
            Entry(3, "cat", "w", "y", "z"),
            *rest,
        ],
    )
    found = search.look_up(path, "cat")
    assert list(found.items()) == [(3, "label"), (2, "explanation"), (1, "peak"), (0, "context")]
    assert search.look_up(path, "cat", most=1) == {3: "label"}
    assert set(search.look_up(path, "ca").values()) == {"beginning"}


def test_the_narrowest_label_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "index"
    labels = [
        '"au" "du" "french" "rou" in any case',
        "in Spanish or Polish or French",
        "in French · a whole word or the end of a word or the middle of a word",
        "in Polish",
    ]
    search.write_index(path, [Entry(k, label, "", "", "") for k, label in enumerate(labels)])
    assert search.look_up(path, "French") == {2: "label", 1: "label", 0: "label"}
    assert list(search.look_up(path, "French", most=1)) == [2]
    shares = [queries.share_of_label(queries.normalised(label), "french") for label in labels]
    assert shares == pytest.approx([1 / 4, 1 / 3, 1, 0])


def test_what_only_stands_near_a_word_is_said_to(index: Path) -> None:
    assert queries.caution(search.look_up(index, "French").values()) == ""
    near = search.look_up(index, "toast")
    assert near == {7: "context"} and "fire near it" in queries.caution(near.values())
    longer = search.look_up(index, "toa")
    assert longer == {7: "beginning"} and "begins so" in queries.caution(longer.values())
    assert queries.caution([]) == ""


def test_a_long_query_is_refused_with_advice(index: Path) -> None:
    with pytest.raises(StitchLensError, match=r"10,000 characters.*--sentence"):
        search.look_up(index, "word " * 2000)
    assert search.look_up(index, "( " * 100) == {5: "peak"}


@pytest.mark.parametrize(
    "text", ["Ｆｒｅｎｃｈ", "ΣΊΣΥΦΟΣ", "Straße", "한국어", "がくせい", "ไทย", "a\u200bb"]
)
def test_normal_forms_are_stable(text: str) -> None:
    once = queries.normalised(text)
    assert queries.normalised(once) == once != ""


def table(features: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "max_a": np.full(features, 10.0),
            "max_b": np.full(features, 20.0),
            "density_a": np.full(features, 2.0**-6),
            "density_b": np.full(features, 2.0**-6),
        }
    )


def test_a_sentence_ranks_by_share_of_the_maximum_and_rarity() -> None:
    known = table(4)
    known.loc[3, ["density_a", "density_b"]] = 0.5  # fires everywhere
    peaks = {
        "a": np.array([10.0, 5.0, 0.0, 10.0]),
        "b": np.array([2.0, 10.0, 20.0, 20.0]),
    }
    both = search.by_sentence(peaks, known)
    assert [m.feature for m in both] == [1, 3, 0]
    assert both[0].score == pytest.approx(3.0) and both[0].share_a == pytest.approx(0.5)
    assert [m.feature for m in search.by_sentence(peaks, known, "a")] == [0, 1, 3]
    assert [m.feature for m in search.by_sentence(peaks, known, "b", most=2)] == [2, 1]
    silent = {side: np.zeros(4) for side in ("a", "b")}
    assert search.by_sentence(silent, known) == []


def test_a_direction_finds_its_own_row() -> None:
    decoder = np.random.default_rng(0).standard_normal((40, 8))
    found = search.nearest(decoder, 3 * decoder[17], most=3)
    assert found[0] == (17, pytest.approx(1.0)) and len(found) == 3
    assert found[1][1] < 0.95
    assert search.nearest(decoder, -decoder[17])[0][0] != 17
    with pytest.raises(StitchLensError, match="a vector of zeros"):
        search.nearest(decoder, np.zeros(8))


KEYS = {"feature", "label", "label_f1_a", "label_f1_b", "agreement", "correlation", "twin"}


def find(*words: str) -> dict[str, object]:
    done = CliRunner().invoke(app, ["features", "find", "nano", *words, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_command_line_finds_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHLENS_CACHE", str(tmp_path))
    record = find("French", "--most", "5")
    rows = record["results"]
    assert isinstance(rows, list) and len(rows) == 5 and rows[0].keys() >= KEYS
    assert "French" in rows[0]["label"] and rows[0]["label_f1_a"] > 0.5
    assert rows[0]["found_in"] == "label" and "caution" not in record
    assert find("French", "--most", "5") == record, "from the index that lies there"
    nothing = find("qqzzyyx")
    assert nothing["results"] == [] and "too few" in str(nothing["empty"])
    assert "Nothing to look for" in str(find(" ")["empty"])


def test_an_old_workspace_is_searched_by_its_peaks(tmp_path: Path) -> None:
    shipped = Workspace("nano", WORKSPACES)
    old = Workspace("nano", tmp_path)
    for group in ("features", "examples_a", "examples_b"):
        name = f"{group}/L2-1024"
        old.copy_in(name, shipped.path(name), shipped.entry(name))
    (row,) = search.results(old, "L2-1024", [3])
    assert row["label"] is None and row["twin"] is None and row["correlation"] is not None


@pytest.mark.model
def test_the_command_line_reads_a_sentence_and_a_direction() -> None:
    rows = find("Le président de la République", "--sentence", "--in", "a", "--most", "5")[
        "results"
    ]
    assert isinstance(rows, list) and len(rows) == 5
    assert [row["score"] for row in rows] == sorted((r["score"] for r in rows), reverse=True)
    near = find("feature:L2-1024/391", "--direction", "--most", "2")["results"]
    assert isinstance(near, list) and near[0]["feature"] == 391
    assert near[0]["cosine"] == pytest.approx(1, abs=1e-3)
    wrong = CliRunner().invoke(app, ["features", "find", "nano", "x", "--sentence", "--in", "c"])
    assert wrong.exit_code == 2 and "a, b or both" in wrong.stderr
