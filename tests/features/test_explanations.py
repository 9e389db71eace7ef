"""Explanations of features by others: what an export says is kept, whatever else a file holds is
refused, and the tables, a search, the API and the card show it."""

import gzip
import json
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from core.api import answers
from core.api.app import create_app
from core.cli.main import app
from core.errors import StitchLensError
from core.features import explained, explanations, neuronpedia, search
from core.features import tables as feature_tables
from core.models.pairs import get_pair
from core.workspace.artifacts import belongings, command
from core.workspace.places import PROJECT
from core.workspace.store import Workspace
from pages.features.explanations import line

SAE = "L2-1024"
NAME = "nano-a/2-stitchlens-l2-1024"
Row = dict[str, Any]


@pytest.fixture
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """The shipped `nano` workspace, to be written to."""
    shutil.copytree(PROJECT / "cache" / "nano", tmp_path / "workspaces" / "nano")
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(tmp_path / "workspaces"))
    yield Workspace("nano")


def row(index: Any, text: Any, model: Any = "gpt-4o-mini", **more: Any) -> Row:
    """As the bulk export has one."""
    return {
        "id": f"c{index}",
        "modelId": "nano-a",
        "layer": "2-stitchlens-l2-1024",
        "index": index,
        "embedding": [0.25] * 8,
        "description": text,
        "authorId": "someone",
        "scoreV1": 0,
        "typeName": "oai_token-act-pair",
        "explanationModelName": model,
        "createdAt": "2026-01-01T00:00:00Z",
    } | more


def written(path: Path, *rows: Row) -> Path:
    data = "".join(json.dumps(one) + "\n" for one in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(*files: Path, width: int = 1024) -> explanations.Import:
    return explanations.read_exports(files, {NAME}, SAE, width)


# what is read


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
def test_every_field_is_used_or_harmless(tmp_path: Path, ending: str) -> None:
    scores = [{"value": 0.75, "explanationScoreTypeName": "recall_alt"}]
    path = written(
        tmp_path / f"batch-0.{ending}",
        row("7", "  verbs of\nmotion "),
        row(3, "by a person", None, scoreV2=0.5),
        row("3", "scored there", scores=scores),
        row("7", "again", "claude"),
    )
    table, warnings = read(path)
    assert warnings == []
    assert table.feature.tolist() == [3, 3, 7, 7]
    assert table.text.tolist() == ["by a person", "scored there", "verbs of motion", "again"]
    assert table.source.tolist() == [
        "Neuronpedia, no model named",
        "Neuronpedia, gpt-4o-mini",
        "Neuronpedia, gpt-4o-mini",
        "Neuronpedia, claude",
    ]
    assert set(table.type) == {"oai_token-act-pair"} and set(table.origin) == {"Neuronpedia"}
    assert table.claimed.tolist()[:2] == [0.5, 0.75] and table.claimed[2:].isna().all()
    assert table.claimed_by.tolist()[:2] == ["scoreV2", "recall_alt"]
    assert table.f1_a.isna().all() and table.f1_b.isna().all(), (
        "a free text cannot be scored offline"
    )
    assert list(table.columns) == list(explained.COLUMNS)


def test_what_is_left_out_is_said_in_one_sentence(tmp_path: Path) -> None:
    path = written(
        tmp_path / "x.jsonl",
        row(1, "one", mood="good", weather="bad"),
        row(2, "two", mood="good"),
        row(3, ""),
        row(4, None),
        row(1, "one"),
        row(5, "x" * 2_000),
        row(6, "half a pair \ud800, a bell \x07, turned \u202e"),
    )
    table, warnings = read(path)
    assert len(warnings) == 1
    for words in (
        "mood (2 lines)",
        "weather (1 lines)",
        "2 lines without a text",
        "1 texts cut after 1,000",
        "1 lines that say the same",
    ):
        assert words in warnings[0], words
    assert table.feature.tolist() == [1, 2, 5, 6]
    assert len(table.text[2]) == 1_000
    assert table.text[3].isprintable() and table.text[3].startswith("half a pair")


BAD = {
    "HTML": b"<!doctype html><html></html>\n",
    "an array": b"[1, 2]\n",
    "a number": b"7\n",
    "cut off": json.dumps(row(1, "x")).encode()[:60],
    "nested": b"[" * 100_000 + b"\n",
    "no UTF-8": b'{"modelId": "\xff"}\n',
    "nothing": b"\n\n\n",
    "no fields": b"{}\n",
}


@pytest.mark.parametrize("what", BAD)
def test_other_files_are_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(BAD[what])
    with pytest.raises(StitchLensError) as refusal:
        read(path)
    assert "choose" in refusal.value.todo


@pytest.mark.parametrize("index", [True, -1, 1.5, "x", "", None, "1e3", [1], "9" * 5_000])
def test_an_index_that_is_none_is_named(tmp_path: Path, index: Any) -> None:
    path = written(tmp_path / "x.jsonl", row(0, "fine"), row(index, "x"))
    with pytest.raises(StitchLensError, match=r"index .* at line 2 of x\.jsonl"):
        read(path)


@pytest.mark.parametrize(
    "field", ["description", "typeName", "explanationModelName"], ids=lambda x: x
)
def test_a_word_that_is_none_is_named(tmp_path: Path, field: str) -> None:
    path = written(tmp_path / "x.jsonl", row(0, "fine") | {field: {"a": 1}})
    with pytest.raises(StitchLensError, match=f"a dict as {field} at line 1"):
        read(path)


def test_another_sae_is_refused_by_its_name_and_its_width(tmp_path: Path) -> None:
    other = written(tmp_path / "x.jsonl", row(0, "fine"), row(1, "x", layer="6-res-jb"))
    with pytest.raises(StitchLensError, match=r"nano-a/6-res-jb at line 2.*L2-1024.*--of"):
        read(other)

    wide = written(tmp_path / "y.jsonl", *(row(k, "x") for k in (0, 1024, 5_000, 70_000)))
    with pytest.raises(StitchLensError, match=r"3 features out of range \(1024, 5000, 70000\)"):
        read(wide)
    assert len(read(wide, width=100_000).table) == 4


def test_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explanations, "LONGEST_LINE", 1_000)
    long = written(tmp_path / "x.jsonl.gz", row(0, "x"), row(1, "y" * 10**6))
    with pytest.raises(StitchLensError, match=r"line 2 of x\.jsonl\.gz longer than 1,000 bytes"):
        read(long)

    monkeypatch.setattr(explanations, "LARGEST_FILE", 10_000)
    many = [row(0, "x" * 500)] * 50
    with pytest.raises(StitchLensError, match="more than 10,000 bytes"):
        read(written(tmp_path / "y.jsonl", *many))
    packed = written(tmp_path / "z.jsonl.gz", *many)
    assert packed.stat().st_size < 1_000
    with pytest.raises(StitchLensError, match="more than 10,000 bytes"):
        read(packed)

    monkeypatch.setattr(explanations, "MOST_LINES", 3)
    with pytest.raises(StitchLensError, match="more than 3 explanations"):
        read(written(tmp_path / "w.jsonl", *[row(0, "x")] * 4))


def test_broken_and_missing_files_are_refused(tmp_path: Path) -> None:
    whole = written(tmp_path / "x.jsonl.gz", *(row(k, f"text {k}") for k in range(500)))
    data = whole.read_bytes()
    for name, part in (("cut", data[: len(data) // 2]), ("none", b"no gzip"), ("flip", b"")):
        broken = tmp_path / f"{name}.jsonl.gz"
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]
        broken.write_bytes(part or flipped)
        with pytest.raises(StitchLensError):
            read(broken)
    for wrong in (tmp_path / "x.parquet", tmp_path / "nowhere.jsonl", tmp_path):
        with pytest.raises(StitchLensError):
            read(wrong)


def test_many_explanations_stay_cheap(tmp_path: Path) -> None:
    """Against bare JSON, the best of a few rounds: machines are slow and busy. Checks of types at
    run time, which only tests have, take most of it: 12 times JSON's, 2 without."""
    line = json.dumps(row("INDEX", "it fires on INDEX"))
    path = tmp_path / "many.jsonl"
    path.write_text("\n".join(line.replace("INDEX", str(k)) for k in range(20_000)) + "\n")

    ours, bare = [], []
    for _ in range(3):
        begin = time.thread_time()
        table, warnings = read(path, width=20_000)
        ours.append(time.thread_time() - begin)
        assert len(table) == 20_000 and not warnings

        begin = time.thread_time()
        parsed = [json.loads(text) for text in path.read_text().splitlines()]
        bare.append(time.thread_time() - begin)
        assert len(parsed) == len(table)

    assert min(ours) < 40 * min(bare), "a pass over the rows for each row would be over a hundred"


@pytest.mark.whole
def test_many_packed_explanations_are_kept_in_bounded_memory(ws: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl.gz"
    line = json.dumps(row("INDEX", "TEXT"))
    with gzip.open(path, "wt", compresslevel=1) as file:
        for k in range(200_000):
            text = line.replace("INDEX", str(k % 1024)).replace("TEXT", f"it fires on {k}")
            file.write(text + "\n")

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    explanations.bring(ws, SAE, [path], {NAME})
    assert time.process_time() - begin < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 600_000, "600 MB"
    assert len(explained.of_feature(ws, SAE, 7)) in (195, 196)


# what is kept


def bring(ws: Workspace, path: Path, *rows: Row) -> pd.DataFrame:
    explanations.bring(ws, SAE, [written(path, *rows)], {NAME})
    return explained.of_sae(ws, SAE)


def test_importing_again_replaces_what_the_same_source_said(ws: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    bring(ws, path, row(1, "old"), row(2, "old too"), row(1, "other", "claude"))
    table = bring(ws, path, row(1, "new"))
    assert sorted(table.text) == ["new", "other"]
    assert explained.of_feature(ws, SAE, 1).text.tolist() == ["other", "new"]
    assert explained.of_feature(ws, SAE, 2).empty
    assert (
        ws.entry(f"explanations/{SAE}").makers["sae"] == ws.entry(f"features/{SAE}").makers["sae"]
    )


def test_they_go_with_their_sae(ws: Workspace, tmp_path: Path) -> None:
    assert explained.of_sae(ws, SAE).empty, "none yet"
    assert explained.of_another(ws, SAE) == 0
    bring(ws, tmp_path / "x.jsonl", row(1, "of this SAE"))
    assert f"explanations/{SAE}" in belongings(ws.own(), "saes", SAE)
    again = command("nano", f"explanations/{SAE}", ws.entry(f"explanations/{SAE}").makers)
    assert again == "python -m core features explanations --help"

    entry = ws.entry(f"saes/{SAE}")
    ws.copy_in(f"saes/{SAE}", ws.path(f"saes/{SAE}"), entry.model_copy(update={"makers": {"k": 1}}))
    assert explained.of_sae(ws, SAE).empty and explained.of_feature(ws, SAE, 1).empty
    assert explained.of_another(ws, SAE) == 1, "they are kept, and said"

    bring(ws, tmp_path / "x.jsonl", row(2, "of the new one"))
    assert explained.of_another(ws, SAE) == 0


def test_the_command_knows_what_an_export_of_ours_calls_an_sae(
    ws: Workspace, tmp_path: Path
) -> None:
    assert neuronpedia.names_of(ws, get_pair("nano"), SAE) == {NAME}
    path = written(tmp_path / "x.jsonl", row(7, "verbs of motion", mood="good"))
    done = CliRunner().invoke(app, ["features", "explanations", "nano", SAE, str(path)])
    assert done.exit_code == 0, done.output
    assert "1 explanations of 1 features" in done.output and "not scored" in done.output
    assert "mood (1 lines)" in done.stderr

    other = written(tmp_path / "y.jsonl", row(7, "x", layer="6-res-jb"))
    words = ["features", "explanations", "nano", SAE, str(other)]
    assert CliRunner().invoke(app, words).exit_code == 2
    done = CliRunner().invoke(app, [*words, "--of", "nano-a/6-res-jb"])
    assert done.exit_code == 0, done.output
    assert CliRunner().invoke(app, ["features", "explanations", "nano", "L9", str(path)]).exit_code


def test_a_demonstration_imports_nothing(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STITCHLENS_DEMO", "1")
    with pytest.raises(StitchLensError, match="demonstration"):
        bring(ws, tmp_path / "x.jsonl", row(1, "x"))


# what is shown


def test_a_search_and_the_api_know_them(ws: Workspace, tmp_path: Path) -> None:
    corpus = get_pair("nano").corpus
    assert search.in_words(ws, SAE, "quokkas", corpus) == {}
    bring(ws, tmp_path / "x.jsonl", row(7, "Quokkas and their kin"), row(7, "marsupials", "o"))
    assert search.in_words(ws, SAE, "quokkas", corpus) == {7: "explanation"}
    assert search.in_words(ws, SAE, "marsupials", corpus) == {7: "explanation"}

    record = feature_tables.feature_record(ws, SAE, 7)
    assert [one["text"] for one in record["explanations"]] == [
        "Quokkas and their kin",
        "marsupials",
    ]
    assert record["explanations"][0]["f1_a"] is None
    with TestClient(create_app(), base_url="http://127.0.0.1") as client:
        reply = client.get("/pairs/nano/features/7").json()
        answer = answers.Feature.model_validate(reply)
        assert answer.explanations == record["explanations"]
        assert client.get("/pairs/nano/features/8").json()["explanations"] == []


def test_the_card_escapes_what_others_say() -> None:
    names = {"a": "SmolLM2", "b": "Gemma"}
    shown: Row = {
        "text": "<script>alert(1)</script> **bold** :red[x] [a](http://b)",
        "source": "Neuronpedia, <b>",
        "type": "",
        "f1_a": 0.81,
        "f1_b": 0.63,
        "claimed": float("nan"),
        "claimed_by": "",
    }
    text = line(shown, names)
    assert "<script>" not in text and "<b>" not in text.replace("\\<b\\>", "")
    assert "\\*\\*bold" in text and "\\:red\\[" in text and "\\[a\\]\\(" in text
    assert "SmolLM2 :blue[0.81] → Gemma :violet[0.63]" in text
    unscored = shown | {"f1_a": float("nan"), "f1_b": float("nan"), "claimed": 0.5}
    text = line(unscored | {"claimed_by": "recall_alt"}, names)
    assert "Not scored here; its source says 0.50 (recall\\_alt)" in text
