"""Documents are whole, found again, and never on both sides of a split; what is not text is refused
by name."""

import bz2
import gzip
import json
import lzma
import os
import socket
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import StitchLensError
from core.text import folder
from core.text.corpus import (
    PIECE,
    SECTION,
    SHARES,
    SPLITS,
    Corpus,
    build_corpus,
    load_corpus,
    pieces,
    split_of,
)
from tests.helpers.small import ENGLISH, SCRIPTS

TEXT = st.text(st.sampled_from("ab .!?\n\r\t।。！\u2028é你😀"), max_size=300)


@given(text=TEXT, limit=st.integers(1, 60))
@settings(deadline=None)
def test_pieces_are_the_text(text: str, limit: int) -> None:
    found = list(pieces(text, limit))
    assert "".join(p for _, p in found) == text
    assert all(0 < len(p) <= limit for _, p in found)
    assert all(text[o : o + len(p)] == p for o, p in found)
    assert all(o + len(p) == n for (o, p), (n, _) in pairwise(found)), "no gap, no overlap"


def test_pieces_end_where_text_does() -> None:
    found = [p for _, p in pieces(ENGLISH[:20_000])]
    assert max(map(len, found)) <= PIECE
    assert sum(p[-1].isspace() for p in found) > 0.95 * len(found), "words are not cut"
    blocks = [p for _, p in pieces("x" * 1000, 480)]
    assert [len(b) for b in blocks] == [480, 480, 40], "nothing to cut at: cut at the limit"
    assert [p for _, p in pieces("One is here. Two", 14)] == ["One is here. ", "Two"]


def spread(corpus: Corpus) -> dict[str, set[str]]:
    return {s: {d.id for d in corpus.split(s)} for s in SPLITS}


def test_splits_are_disjoint_and_whole(english: Corpus) -> None:
    found = spread(english)
    ids = [d.id for d in english.documents]
    assert len(set(ids)) == len(ids) > 300
    assert sum(map(len, found.values())) == len(ids)
    assert set.union(*found.values()) == set(ids)
    for name, share in SHARES.items():
        assert len(found[name]) / len(ids) == pytest.approx(share, abs=0.08)
    texts = {s: {d.text for d in english.split(s)} for s in SPLITS}
    assert not texts["fit"] & texts["held-out"]
    assert not texts["fit"] & texts["select"]


def test_neighbours_stay_on_one_side(english: Corpus) -> None:
    sections: dict[tuple[str, int], set[str]] = {}
    for d in english.documents:
        source, piece = d.id.split("@")
        sections.setdefault((source, int(piece.split("+")[0]) // SECTION), set()).add(split_of(d))
    assert len(sections) > 50
    assert all(len(s) == 1 for s in sections.values())


@given(others=st.lists(st.text("abcdefgh ", min_size=50, max_size=900), max_size=4))
@settings(max_examples=25, deadline=None)
def test_splits_do_not_depend_on_other_files(others: list[str]) -> None:
    mine = ("mine.txt", "mine", ENGLISH[:30_000])
    alone = spread(build_corpus("alone", [mine]))
    among = spread(
        build_corpus("among", [mine, *((f"{k}.txt", "other", t) for k, t in enumerate(others))])
    )
    assert all(alone[s] <= among[s] for s in SPLITS)


def test_order_is_seeded(english: Corpus) -> None:
    def ids(seed: int) -> list[str]:
        return [d.id for d in english.split("fit", seed)]

    assert ids(0) == ids(0)
    assert ids(0) != ids(1)
    assert sorted(ids(0)) == sorted(ids(1))


def test_fingerprint_knows_every_character() -> None:
    sources = [("s", "l", ENGLISH[:5000])]
    same = build_corpus("x", sources).fingerprint
    assert build_corpus("another name", sources).fingerprint == same
    assert build_corpus("x", [("s", "l", ENGLISH[:5000].replace("e", "é", 1))]).fingerprint != same
    assert build_corpus("x", [("t", "l", ENGLISH[:5000])]).fingerprint != same


def test_repeats_are_kept_once_and_ids_point_at_the_text() -> None:
    corpus = build_corpus(
        "x", [("one", "l", ENGLISH[:4000]), ("two", "l", ENGLISH[:4000]), ("three", "l", "short")]
    )
    assert {d.id.split("@")[0] for d in corpus.documents} == {"one"}
    for d in corpus.documents:
        offset = int(d.id.split("+")[1])
        assert d.text in ENGLISH[offset : offset + PIECE]


def test_a_folder_is_read_whole(tmp_path: Path) -> None:
    for script, text in SCRIPTS.items():
        (tmp_path / f"{script}.txt").write_text(f"{text} " * 5, "utf-8")
    rows = [{"text": f"{SCRIPTS['Han']} {k} " * 4} for k in range(3)] + [
        f"a plain string, long enough to be kept {9}"
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(r) for r in rows) + "\n\n", "utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\0")
    corpus = load_corpus(str(tmp_path))
    assert {d.label for d in corpus.documents} == {*SCRIPTS, "rows"}
    assert sum(d.label == "rows" for d in corpus.documents) == 4
    assert load_corpus(str(tmp_path / "rows.jsonl")).documents[0].id.startswith("rows.jsonl:1@")


def test_a_line_of_json_may_hold_any_line_separator(tmp_path: Path) -> None:
    """U+2028 and its kin are ordinary characters in JSON; only a line feed ends a line."""
    text = "before\u2028after\u0085and\x0bmore, long enough to be kept as a document."
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": text}, ensure_ascii=False) + "\r\n", "utf-8")
    (document,) = load_corpus(str(path)).documents
    assert document.text == text


def refuse(where: Path | str) -> str:
    with pytest.raises(StitchLensError) as e:
        load_corpus(str(where))
    assert "\n" not in str(e.value)
    return str(e.value)


def test_what_is_not_text_is_refused_by_name(tmp_path: Path) -> None:
    assert "nowhere" in refuse(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no text" in refuse(tmp_path / "empty")
    (tmp_path / "blank.txt").write_text(" \n" * 500, "utf-8")
    assert "no text" in refuse(tmp_path / "blank.txt")
    (tmp_path / "zero.txt").write_bytes(b"")
    assert "no text" in refuse(tmp_path / "zero.txt")
    (tmp_path / "binary.txt").write_bytes(b"some text\0\1\2" * 20)
    assert "binary file binary.txt (NUL at byte 9)" in refuse(tmp_path / "binary.txt")
    (tmp_path / "latin1.txt").write_bytes("un café très cher ".encode("latin-1") * 20)
    message = refuse(tmp_path / "latin1.txt")
    assert "latin1.txt not in UTF-8 (byte 6), perhaps cp1252" in message
    assert "iconv -f cp1252 -t utf-8" in message


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{not json", "line 2"),
        ('{"body": "no text"}', "'text'"),
        ('{"text": 7}', "not a string"),
        ("[1]", "line 2"),
    ],
)
def test_a_bad_line_of_json_is_named(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": ENGLISH[:200]}) + "\n" + line + "\n", "utf-8")
    message = refuse(path)
    assert "line 2 of rows.jsonl" in message
    assert says in message


def test_hub_out_of_reach_is_one_sentence() -> None:
    message = refuse("hf:nobody-here/no-such-dataset-stitchlens")
    assert "nobody-here/no-such-dataset-stitchlens" in message
    assert "out of reach" in message


def test_parts_of_the_wheel(tmp_path: Path) -> None:
    part = load_corpus("wheel:eng,fra")
    assert {d.label.split("/")[0] for d in part.documents} == {"eng", "fra"}
    whole = {d.id: d for d in load_corpus().documents}
    assert all(
        whole[d.id].text == d.text and split_of(whole[d.id]) == split_of(d) for d in part.documents
    )
    assert part.fingerprint != load_corpus("wheel:eng").fingerprint
    with pytest.raises(StitchLensError, match=r"no xx, yy in the corpus wheel.*fra"):
        load_corpus("wheel:eng,yy,xx")


# data files

SENTENCES = [
    f'Sentence {k} with a comma, "a quotation"; long enough to be kept.' for k in range(40)
]
TABLE = pa.table({"id": range(40), "text": SENTENCES, "label": ["x"] * 40})
JSON_LINES = "".join(json.dumps({"id": k, "text": text}) + "\n" for k, text in enumerate(SENTENCES))


def as_csv(**options: Any) -> bytes:
    return TABLE.to_pandas().to_csv(index=False, **options).encode()


def zstd(raw: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(raw)
    return sink.getvalue().to_pybytes()


def parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(TABLE, sink, row_group_size=7)
    return sink.getvalue().to_pybytes()


def arrow(whole: bool) -> bytes:
    sink = pa.BufferOutputStream()
    with (pa.ipc.new_file if whole else pa.ipc.new_stream)(sink, TABLE.schema) as out:
        out.write_table(TABLE, max_chunksize=9)
    return sink.getvalue().to_pybytes()


DATA: dict[str, Callable[[], bytes]] = {
    "rows.jsonl": JSON_LINES.encode,
    "mac.jsonl": JSON_LINES.replace("\n", "\r").encode,
    "windows.ndjson": lambda: b"\xef\xbb\xbf" + JSON_LINES.replace("\n", "\r\n").encode(),
    "utf16.jsonl": lambda: JSON_LINES.encode("utf-16"),
    "lines.json": JSON_LINES.encode,
    "list.json": lambda: json.dumps([{"id": 1, "text": t} for t in SENTENCES], indent=1).encode(),
    "wrapped.json": (
        lambda: json.dumps(
            {"version": 2, "data": [{"id": 1, "text": t} for t in SENTENCES]}
        ).encode()
    ),
    "strings.json": lambda: json.dumps(SENTENCES).encode(),
    "comma.csv": as_csv,
    "SEMICOLON.CSV": lambda: as_csv(sep=";"),
    "tab.tsv": lambda: as_csv(sep="\t"),
    "tab.csv": lambda: as_csv(sep="\t", lineterminator="\r\n").decode().encode("utf-16"),
    "excel.csv": lambda: b"\xef\xbb\xbf" + as_csv(sep=";", lineterminator="\r\n"),
    "rows.parquet": parquet,
    "stream.arrow": lambda: arrow(whole=False),
    "whole.arrow": lambda: arrow(whole=True),
    "rows.feather": lambda: arrow(whole=True),
    "rows.jsonl.gz": lambda: gzip.compress(JSON_LINES.encode()),
    "rows.jsonl.xz": lambda: lzma.compress(JSON_LINES.encode()),
    "rows.csv.bz2": lambda: bz2.compress(as_csv()),
    "rows.json.zst": lambda: zstd(JSON_LINES.encode()),
    "rows.parquet.gz": lambda: gzip.compress(parquet()),
    "rows.arrow.zst": lambda: zstd(arrow(whole=False)),
}


@pytest.mark.parametrize("name", DATA)
def test_each_form_of_data_gives_the_same_texts(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / name).write_bytes(DATA[name]())
    for where in (folder / name, folder):
        corpus = load_corpus(str(where))
        assert [d.text for d in corpus.documents] == SENTENCES
        assert corpus.reading is not None and [f[::2] for f in corpus.reading.files] == [
            (name, sum(map(len, SENTENCES)))
        ]
        assert len({d.id for d in corpus.documents}) == 40
    assert [p.name for p in folder.iterdir()] == [name], "nothing is written beside a person's data"


def test_a_data_set_is_never_its_readme(tmp_path: Path) -> None:
    for name in (
        "README.md",
        "LICENSE.txt",
        "LICENCE",
        "CITATION.md",
        "data/readme.txt",
        "data/Dataset card.md",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(
            "This is about the data and is no part of it, at some length.", "utf-8"
        )
    (tmp_path / "data" / "train-00000-of-00001.parquet").write_bytes(parquet())
    corpus = load_corpus(str(tmp_path))
    assert {d.label for d in corpus.documents} == {"train"} and len(corpus.documents) == 40
    said = str(corpus.reading)
    assert "read data/train-00000-of-00001.parquet (column text, not id, label; " in said
    assert (
        "README.md" in said
        and "about the data" in said
        and "LICENCE (neither text nor a table)" in said
    )
    (tmp_path / "data" / "train-00000-of-00001.parquet").unlink()
    assert {d.label for d in load_corpus(str(tmp_path)).documents} == {"CITATION"}, (
        "alone it is text, read once"
    )


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("qa.csv", b"question,answer\nWhat is it?,That\n"),
        ("data.zip", b"PK"),
        ("two.jsonl", b'{"q": "a", "a": "b"}\n'),
    ],
)
def test_a_readme_beside_data_without_a_text_is_not_the_corpus(
    tmp_path: Path, name: str, raw: bytes
) -> None:
    (tmp_path / "README.md").write_text(
        "This is about the data and is no part of it, at some length.", "utf-8"
    )
    (tmp_path / name).write_bytes(raw)
    message = refuse(tmp_path)
    assert name in message and "README.md (about the data)" in message


def test_a_saved_data_set_is_what_its_state_names(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    whole = Dataset.from_dict({"content": SENTENCES, "n": list(range(40))})
    whole.save_to_disk(str(tmp_path / "saved"), num_shards=3)
    other = [f"Another text {k}, which is in the second split and nowhere else." for k in range(5)]
    DatasetDict({"train": whole, "test": Dataset.from_dict({"content": other})}).save_to_disk(
        str(tmp_path / "both")
    )
    (tmp_path / "saved" / "cache-1234.arrow").write_bytes(arrow(whole=False))
    corpus = load_corpus(str(tmp_path / "saved"))
    assert [d.text for d in corpus.documents] == SENTENCES and {
        d.label for d in corpus.documents
    } == {"saved"}
    assert "cache-1234.arrow (a cache of the data)" in str(corpus.reading)
    both = load_corpus(str(tmp_path / "both")).documents
    assert {d.text for d in both} == {*SENTENCES, *other} and {d.label for d in both} == {
        "train",
        "test",
    }
    assert len({d.id for d in both}) == 45, "files of one name in two folders are told apart"
    (tmp_path / "saved" / "data-00001-of-00003.arrow").unlink()
    assert "no data-00001-of-00003.arrow in saved" in refuse(tmp_path / "saved")


def test_text_and_code_are_read_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "What this program does, in a sentence of some length.", "utf-8"
    )
    (tmp_path / "main.py").write_text("print(1)\n" * 20, "utf-8")
    (tmp_path / "package.json").write_text(
        '{"name": "x", "description": "' + "d" * 60 + '"}', "utf-8"
    )
    corpus = load_corpus(str(tmp_path))
    assert [d.label for d in corpus.documents] == ["README"]
    assert "main.py (neither text nor a table)" in str(corpus.reading)
    assert load_corpus(str(tmp_path / "main.py")).documents[0].label == "main"


def test_plain_text_has_the_fingerprint_that_it_had(tmp_path: Path) -> None:
    """Pairs were built on folders like these: what they are read as is part of every artifact's
    makers."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "b.txt").write_bytes(ENGLISH[:9000].encode())
    (folder / "a.md").write_bytes(ENGLISH[9000:12_000].encode())
    (folder / "rows.jsonl").write_text(json.dumps({"text": ENGLISH[12_000:13_000]}) + "\n", "utf-8")
    expected = build_corpus(
        "mine",
        [
            ("mine/a.md", "a", ENGLISH[9000:12_000]),
            ("mine/b.txt", "b", ENGLISH[:9000]),
            ("rows.jsonl:1", "rows", ENGLISH[12_000:13_000]),
        ],
    )
    assert load_corpus(str(folder)).fingerprint == expected.fingerprint
    (folder / "b.txt").write_bytes(b"\xef\xbb\xbf" + ENGLISH[:9000].replace("\n", "\r\n").encode())
    assert load_corpus(str(folder)).fingerprint == expected.fingerprint, "as saved on Windows"


def test_the_wheel_has_the_fingerprints_of_the_committed_workspaces() -> None:
    assert load_corpus().fingerprint == "a7b398860c182ce0"


def test_half_a_character_of_json_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"text": "broken emoji \\ud83d in a sentence which is long enough to be kept, \\u0000"}\n',
        "utf-8",
    )
    corpus = load_corpus(str(path))
    assert (
        corpus.documents[0].text
        == "broken emoji \ufffd in a sentence which is long enough to be kept, \ufffd"
        and corpus.fingerprint
    )


def test_odd_neighbours_are_named_and_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(ENGLISH[:500], "utf-8")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "._a.txt").write_bytes(b"\0\1")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "description.txt").write_text(ENGLISH[500:900], "utf-8")
    (tmp_path / "labels.csv").write_text("file,language\na.txt,en\n", "utf-8")
    (tmp_path / "settings.json").write_text("// not quite JSON\n{}", "utf-8")
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    (tmp_path / "self").symlink_to(tmp_path)
    corpus = load_corpus(str(tmp_path))
    assert {d.label for d in corpus.documents} == {"a"}
    said = str(corpus.reading)
    for name in (
        "._a.txt",
        ".git/description.txt",
        "labels.csv",
        "settings.json",
        "loop.txt",
        "self",
    ):
        assert name in said
    assert (
        "columns: file, language" in said
        and "a.txt (" in said
        and "empty.txt (0 characters)" in said
    )


@pytest.mark.skipif(os.name == "nt", reason="names of files are not bytes")
def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    for name in (b"caf\xe9.txt", b"caf\xe8.txt"):
        (tmp_path / os.fsdecode(name)).write_text(f"{name!r}: {ENGLISH[:300]}", "utf-8")
    corpus = load_corpus(str(tmp_path))
    assert {d.label for d in corpus.documents} == {"caf\\xe8", "caf\\xe9"} and corpus.fingerprint
    odd = tmp_path / os.fsdecode(b"d\xff")
    odd.mkdir()
    assert "not UTF-8" in refuse(odd)


def test_large_data_are_read_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "STREAM_CHARACTERS", 1000)
    for name in ("a.parquet", "b.parquet"):
        (tmp_path / name).write_bytes(parquet())
    corpus = load_corpus(str(tmp_path))
    assert 1000 <= corpus.characters < 1000 + len(SENTENCES[-1])
    assert "the beginning" in str(corpus.reading) and "b.parquet (after the first 1,000" in str(
        corpus.reading
    )


def put_table(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("name", "raw", "says"),
    [
        (
            "x.csv",
            b"question,answer\na,b\n",
            r"no column 'text' in x.csv \(columns: question, answer\)",
        ),
        (
            "x.csv",
            b"text,label\nno quotes, two commas,yes\n",
            "line 2 of x.csv with 3 cells under 2 columns",
        ),
        ("x.csv", b'text,label\n"never closed,yes\n', "line 2 that is no CSV in x.csv"),
        (
            "x.csv",
            b"text\n" + "un café très cher\n".encode("latin-1") * 20,
            "x.csv not in UTF-8.*cp1252",
        ),
        ("x.jsonl", b'{"text": 7, "id": "a"}\n', "no strings in column 'text' of x.jsonl"),
        ("x.jsonl", b'{"text": "' + b"a" * 50 + b'"}\n{"body": "b"}', "line 2 of x.jsonl"),
        ("x.jsonl", b"[" * 100_000, "line 1 of x.jsonl"),
        ("x.json", b"[" * 100_000, "x.json that is no JSON"),
        ("x.json", b'{"name": "a configuration"}', "one object without a text in x.json"),
        ("x.parquet", put_table(q=["a"], a=["b"]), r"columns: q, a"),
        ("x.parquet", put_table(text=[["a"]], title=["b"]), "no strings in column 'text'"),
        ("x.parquet", put_table(text=[b"a"]), "no strings in column 'text'"),
        ("x.parquet", parquet()[:200], "x.parquet damaged"),
        ("x.parquet", b"", "x.parquet damaged"),
        ("x.arrow", arrow(whole=False)[:400], "x.arrow damaged"),
        (
            "x.parquet",
            b"version https://git-lfs.github.com/spec/v1\n",
            "Git LFS pointer.*git lfs pull",
        ),
        ("x.jsonl.gz", gzip.compress(JSON_LINES.encode())[:-30], "x.jsonl.gz damaged"),
        ("x.jsonl.xz", b"not packed", "x.jsonl.xz damaged"),
        ("x.jsonl.zst", zstd(JSON_LINES.encode())[:-20], "x.jsonl.zst damaged"),
    ],
)
def test_data_that_will_not_do(tmp_path: Path, name: str, raw: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(StitchLensError, match=says) as e:
        load_corpus(str(tmp_path / name))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("column", ["content", " Text", "body"])
def test_the_column_of_the_text_is_found(tmp_path: Path, column: str) -> None:
    frame = pd.DataFrame({"id": range(40), column: SENTENCES})
    frame.to_csv(tmp_path / "x.csv", index=False)
    frame.to_parquet(tmp_path / "x.parquet")
    frame.to_json(tmp_path / "x.jsonl", orient="records", lines=True)
    for name in ("x.csv", "x.parquet", "x.jsonl"):
        assert [d.text for d in load_corpus(str(tmp_path / name)).documents] == SENTENCES


def test_a_data_set_of_the_hub_names_its_columns(tmp_path: Path) -> None:
    """`datasets` streams a folder by the same call as a data set of the hub."""
    (tmp_path / "train.jsonl").write_text('{"q": "a", "a": "b"}\n', "utf-8")
    assert "columns: q, a" in refuse(f"hf:{tmp_path}") and "hf:NAME:SPLIT:COLUMN" in refuse(
        f"hf:{tmp_path}"
    )
    (tmp_path / "train.jsonl").write_text(JSON_LINES + '{"id": 1, "text": null}\n', "utf-8")
    assert [d.text for d in load_corpus(f"hf:{tmp_path}").documents] == SENTENCES
    assert "no column 'body'" in refuse(f"hf:{tmp_path}:train:body")
