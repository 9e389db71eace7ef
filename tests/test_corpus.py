"""Documents are whole, found again, and never on both sides of a split; what is not text is refused by name."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import ENGLISH, SCRIPTS
from hypothesis import given, settings
from hypothesis import strategies as st

from core.corpus import PIECE, SECTION, SHARES, SPLITS, Corpus, build_corpus, load_corpus, pieces, split_of
from core.errors import StitchLensError

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
    among = spread(build_corpus("among", [mine, *((f"{k}.txt", "other", t) for k, t in enumerate(others))]))
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
    corpus = build_corpus("x", [("one", "l", ENGLISH[:4000]), ("two", "l", ENGLISH[:4000]), ("three", "l", "short")])
    assert {d.id.split("@")[0] for d in corpus.documents} == {"one"}
    for d in corpus.documents:
        offset = int(d.id.split("+")[1])
        assert d.text in ENGLISH[offset : offset + PIECE]


def test_a_folder_is_read_whole(tmp_path: Path) -> None:
    for script, text in SCRIPTS.items():
        (tmp_path / f"{script}.txt").write_text(f"{text} " * 5, "utf-8")
    rows = [{"text": f"{SCRIPTS['Han']} {k} " * 4} for k in range(3)] + [f"a plain string, long enough to be kept {9}"]
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
    [("{not json", "line 2"), ('{"body": "no text"}', "'text'"), ('{"text": 7}', "not a string"), ("[1]", "line 2")],
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
    assert all(whole[d.id].text == d.text and split_of(whole[d.id]) == split_of(d) for d in part.documents)
    assert part.fingerprint != load_corpus("wheel:eng").fingerprint
    with pytest.raises(StitchLensError, match=r"no xx, yy in the corpus wheel.*fra"):
        load_corpus("wheel:eng,yy,xx")
