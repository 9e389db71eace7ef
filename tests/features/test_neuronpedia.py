"""An export reads back as what the tables hold, in the layout that Neuronpedia imports, and never
takes the place of something else."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from core.bench import open_pair
from core.cli.main import app
from core.errors import StitchLensError
from core.features import alike, neuronpedia
from core.features import tables as feature_tables
from core.models.pairs import Side
from core.saes.crossing import Crossing
from core.workspace.store import Workspace

SAE = "L2-1024"
SOURCES = {
    "a": "nano-a/2-stitchlens-l2-1024",
    "b": "nano-b/3-stitchlens-l2-1024-carried",
}
Row = dict[str, Any]


@pytest.fixture(scope="module")
def ws(nano_home: Path) -> Workspace:
    return Workspace("nano", nano_home)


@pytest.fixture(scope="module")
def exported(nano_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "nano"
    done = CliRunner().invoke(app, ["export", "neuronpedia", "nano", SAE, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "1,024 features" in done.output and "Left out" in done.output
    return out


def lines(folder: Path, name: str) -> list[Row]:
    """All rows of a kind, batch by batch."""
    paths = (folder / name).glob("*.jsonl.gz")
    batches = sorted(paths, key=lambda path: int(re.findall(r"\d+", path.name)[0]))
    return [
        json.loads(line)
        for path in batches
        for line in gzip.decompress(path.read_bytes()).decode().splitlines()
    ]


@pytest.mark.parametrize("side", ["a", "b"])
def test_features_are_those_of_the_tables(exported: Path, ws: Workspace, side: str) -> None:
    folder = exported / SOURCES[side]
    rows = lines(folder, "features")
    table = feature_tables.features(ws, SAE)
    assert [row["index"] for row in rows] == [str(k) for k in range(len(table))]

    crossing = Crossing(open_pair("nano"), SAE, "L2-L3")
    sae = crossing.sae if side == "a" else crossing.transferred
    vectors = np.array([row["vector"] for row in rows])
    np.testing.assert_allclose(vectors, sae.W_dec.detach().float().numpy(), rtol=1e-5, atol=1e-9)

    row = rows[7]
    layer = {"a": 2, "b": 3}[side]
    assert row["hookName"] == f"blocks.{layer}.hook_resid_pre"
    assert row["modelId"] == f"nano-{side}" and row["layer"] == folder.name
    assert row["frac_nonzero"] == pytest.approx(table[f"density_{side}"][7], rel=1e-5)
    logits = feature_tables.feature_logits(ws, SAE, side, 7)
    best = logits.loc[logits["rank"] == 0].iloc[0]
    worst = logits.loc[logits["rank"] == -1].iloc[0]
    assert (row["pos_str"][0], row["neg_str"][0]) == (best.token, worst.token)
    assert row["pos_values"] == sorted(row["pos_values"], reverse=True)
    assert row["neg_values"] == sorted(row["neg_values"])
    bars = feature_tables.feature_histogram(ws, SAE, side, 7)
    assert sum(row["freq_hist_data_bar_heights"]) == bars.tokens.sum()


@pytest.mark.parametrize("side", ["a", "b"])
def test_activations_are_the_contexts_with_their_text(
    exported: Path, ws: Workspace, side: str
) -> None:
    rows = lines(exported / SOURCES[side], "activations")
    examples = ws.table(f"examples_{side}/{SAE}")
    shown = examples.loc[examples.heat.str.len() > 0]
    assert Counter(row["index"] for row in rows) == Counter(shown.feature.astype(str))
    assert len({row["id"] for row in rows}) == len(rows)

    texts = feature_tables.texts(open_pair("nano").pair.corpus)
    of = feature_tables.feature_examples(ws, SAE, side, 7)
    own = [row for row in rows if row["index"] == "7"]
    for row, (_, context) in zip(own, of.iterrows(), strict=True):
        assert row["dataIndex"] == context.document
        text = texts[context.document]
        assert "".join(row["tokens"]) == text[context.ends[0] : context.ends[-1]]
        assert [len(token) for token in row["tokens"]] == np.diff(context.ends).tolist()
        assert row["values"] == pytest.approx(list(context.heat), rel=1e-4, abs=1e-6)
        assert row["maxValue"] == max(row["values"]) == row["values"][row["maxValueTokenIndex"]]


def test_explanations_are_the_labels_that_hold(exported: Path, ws: Workspace) -> None:
    labels = alike.labels(ws, SAE).set_index("feature")
    for side, source in SOURCES.items():
        rows = lines(exported / source, "explanations")
        assert [int(row["index"]) for row in rows] == labels.index[labels.named].tolist()
        for row in rows[:50]:
            label = labels.loc[int(row["index"])]
            assert row["description"] == label.label
            assert f"F1 {label[f'f1_{side}']:.2f}" in row["notes"]


def test_every_row_has_the_columns_of_the_first(exported: Path) -> None:
    """The importer knows the columns of a file by its first line alone."""
    for path in exported.rglob("*.jsonl.gz"):
        rows = [json.loads(x) for x in gzip.decompress(path.read_bytes()).splitlines()]
        assert len({tuple(row) for row in rows}) == 1, path


def test_what_refers_to_something_finds_it(exported: Path) -> None:
    """Foreign keys of the tables that it is imported into."""
    for source in SOURCES.values():
        folder = exported / source
        one = {
            name: json.loads((folder / f"{name}.jsonl").read_text())
            for name in ("model", "release", "sourceset", "source")
        }
        assert one["model"]["id"] == folder.parent.name and one["source"]["id"] == folder.name
        assert one["source"]["modelId"] == one["sourceset"]["modelId"] == one["model"]["id"]
        assert one["source"]["setName"] == one["sourceset"]["name"]
        assert one["sourceset"]["releaseName"] == one["release"]["name"]
        features = {row["index"] for row in lines(folder, "features")}
        for name in ("activations", "explanations"):
            for row in lines(folder, name):
                assert (row["modelId"], row["layer"]) == (one["model"]["id"], one["source"]["id"])
                assert row["index"] in features


def test_it_says_what_it_holds(exported: Path) -> None:
    about = json.loads((exported / neuronpedia.MARK).read_text())
    assert set(about["holds"]) == set(SOURCES.values())
    for source, counts in about["holds"].items():
        for name, count in counts.items():
            assert len(lines(exported / source, name)) == count > 0
    assert about["left_out"] == list(neuronpedia.LEFT_OUT)


def test_it_is_refused_where_something_is(exported: Path, tmp_path: Path) -> None:
    command = ["export", "neuronpedia", "nano", SAE, "--out"]
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    for more in ([], ["--force"]):
        done = CliRunner().invoke(app, [*command, str(precious), *more])
        assert done.exit_code == 2
    assert (precious / "thesis.txt").read_text() == "years of work"

    assert CliRunner().invoke(app, [*command, str(exported)]).exit_code == 2
    with pytest.raises(StitchLensError, match="--force"):
        neuronpedia.check_place(exported, force=False)
    neuronpedia.check_place(exported, force=True)


@pytest.mark.parametrize(
    "more", [["L9", "--out", "x"], [SAE, "--out", "x\0y"], [SAE, "--out", "x", "--creator", "a b"]]
)
def test_bad_input_is_a_sentence(
    nano_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["export", "neuronpedia", "nano", *more])
    assert done.exit_code == 2 and not list(tmp_path.iterdir())


def test_an_export_that_fails_leaves_what_was_there(ws: Workspace, exported: Path) -> None:
    before = (exported / neuronpedia.MARK).read_bytes()
    pair = open_pair("nano").pair
    vectors: dict[Side, NDArray[Any]] = {
        "a": np.zeros((1024, 128)),
        "b": np.zeros((3, 256)),  # too few rows
    }
    with pytest.raises(IndexError):
        neuronpedia.export(ws, pair, SAE, exported, vectors, {"a": 2, "b": 3}, {}, force=True)
    assert (exported / neuronpedia.MARK).read_bytes() == before
    assert [path.name for path in exported.parent.iterdir()] == [exported.name]
    assert len(lines(exported / SOURCES["b"], "features")) == 1024
