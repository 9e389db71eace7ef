"""Bytes become the same characters whichever way they were saved; what is no text is refused by
name."""

import io
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import StitchLensError
from core.text.reading import LEGACY, LFS, LONGEST_LINE, clean, decode, lines, read_text, stream

WORDS = "Grüße, 你好 😀\u2028und\x0bmehr\x85\n\nzweite Zeile\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_text_reads_the_same_however_it_was_saved(
    tmp_path: Path, encoding: str, end: str
) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(WORDS.replace("\n", end).encode(encoding))
    assert clean(read_text(path)) == WORDS
    assert lines(read_text(path)) == ["Grüße, 你好 😀\u2028und\x0bmehr\x85", "zweite Zeile"]
    with path.open("rb") as file:
        assert "".join(stream(file, path.name)) == WORDS


def test_line_ends_are_kept_until_a_text_is_cleaned(tmp_path: Path) -> None:
    assert decode(b"a\r\nb\rc\n", "x") == "a\r\nb\rc\n"
    assert clean("a\r\nb\rc\n") == "a\nb\nc\n"


@given(text=st.text(st.characters(), max_size=200))
def test_cleaning_leaves_text_that_can_be_written(text: str) -> None:
    found = clean(text)
    assert found.encode().decode() == found and "\0" not in found and "\r" not in found
    assert clean(found) == found or found.startswith("\ufeff")


def test_what_no_text_can_hold_is_replaced() -> None:
    assert clean("cut \ud83d here") == "cut \ufffd here"
    assert clean("\ude00\ud83d") == "\ufffd\ufffd"
    assert clean("\ud83d\ude00") == "😀", "two halves are one character"
    assert clean("a\0b") == "a\ufffdb"
    assert clean("caf\udce9") == "caf\ufffd", "as arguments that are not UTF-8 come in"
    assert clean("\ufeffsame") == clean("same")
    assert (
        "".join(stream(io.BytesIO("a\ud83db".encode("utf-16", "surrogatepass")), "x")) == "a\ud83db"
    )


FRENCH = "un café très cher, où l'été dure"
RUSSIAN = "Это очень важный вопрос, на который мы должны ответить сегодня. " * 3


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"some text\0\1\2" * 20, r"a binary file x\.txt \(NUL at (byte 9|line 1)\)"),
        (
            FRENCH.encode("latin-1") * 9,
            r"not in UTF-8 \(.*\), perhaps cp1252.*`iconv -f cp1252 -t utf-8`",
        ),
        (RUSSIAN.encode("cp1251"), r"perhaps cp1251.*iconv -f cp1251"),
        (
            "今日は天気がいいので公園を散歩しました。".encode("shift_jis"),
            r"perhaps shift-jis.*iconv -f shift-jis",
        ),
        (
            FRENCH.encode("utf-16-le"),
            r"perhaps utf-16le without a byte order mark.*iconv -f utf-16le",
        ),
        (FRENCH.encode("utf-16-be"), r"perhaps utf-16be without a byte order mark"),
        (FRENCH.encode("utf-16") + b"x", r"begins as UTF-16 and is none"),
        (LFS + b"v1\noid sha256:0\n", r"a Git LFS pointer.*`git lfs pull`"),
    ],
)
def test_what_is_no_text_is_named(raw: bytes, says: str) -> None:
    for read in (lambda: decode(raw, "x.txt"), lambda: list(stream(io.BytesIO(raw), "x.txt"))):
        with pytest.raises(StitchLensError, match=says) as refused:
            read()
        assert "\n" not in str(refused.value)


@pytest.mark.skipif(shutil.which("iconv") is None, reason="no iconv on this machine")
@pytest.mark.parametrize(
    "encoding", [*(name.replace("_", "-") for name in LEGACY), "utf-16le", "utf-16be"]
)
def test_the_advised_command_knows_every_encoding_that_is_named(
    tmp_path: Path, encoding: str
) -> None:
    text = {"cp1252": FRENCH, "cp1251": RUSSIAN}.get(encoding, "plain words")
    (tmp_path / "x.txt").write_bytes(text.encode(encoding))
    done = subprocess.run(
        ["iconv", "-f", encoding, "-t", "utf-8", tmp_path / "x.txt"],
        capture_output=True,
        check=True,
    )
    assert decode(done.stdout, "x.txt") == text


def test_a_bad_byte_far_into_a_file_is_found_by_its_line() -> None:
    raw = b"a line of plain text\n" * 50_000 + b"caf\xe9\n"
    found = stream(io.BytesIO(raw), "rows.jsonl")
    with pytest.raises(
        StitchLensError, match=r"rows\.jsonl not in UTF-8 \(line \d+ or a later one\)"
    ) as refused:
        assert sum(1 for _ in found)
    number = int(str(refused.value).split("line ")[1].split()[0])
    assert 48_000 < number <= 50_001
    with pytest.raises(StitchLensError, match="NUL at line 50001"):
        list(stream(io.BytesIO(raw[:-5] + b"a\0b\n"), "rows.jsonl"))


def test_a_line_without_an_end_is_refused() -> None:
    with pytest.raises(StitchLensError, match=f"line 1 of x with over {LONGEST_LINE:,} characters"):
        list(stream(io.BytesIO(b"x" * (LONGEST_LINE + 2)), "x"))


def test_an_empty_file_and_a_large_one(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    for raw in (b"", b"\xef\xbb\xbf", b"\xff\xfe"):
        path.write_bytes(raw)
        assert read_text(path) == "" and list(stream(path.open("rb"), "x")) == []
    path.write_bytes(b"12345")
    assert read_text(path, 5) == "12345"
    with pytest.raises(StitchLensError, match=r"x\.txt of over 4 bytes"):
        read_text(path, 4)
    with pytest.raises(StitchLensError, match=r"nowhere\.txt unreadable"):
        read_text(tmp_path / "nowhere.txt")
