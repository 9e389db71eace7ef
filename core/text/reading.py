"""Text from outside: bytes to characters in one way, whether a file, an upload, a row, a prompt or
an argument.

A line ends with CR, LF or CRLF and with nothing else: U+2028 and its kin are ordinary characters.
"""

import codecs
import io
import re
from collections.abc import Iterator
from pathlib import Path

from core.errors import StitchLensError

LONGEST_LINE = 20_000_000
"""Characters of one line of a file that is read line by line."""
HEAD = 65_536
"""Bytes at a file's beginning that tell what it is."""
LFS = b"version https://git-lfs.github.com/spec/"
BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Those of UTF-32 before those of UTF-16, which they begin with."""
LEGACY = (
    "cp1252",
    "cp1250",
    "cp1251",
    "koi8_r",
    "cp1253",
    "cp1254",
    "cp1256",
    "shift_jis",
    "euc_jp",
    "gb18030",
    "big5",
    "euc_kr",
)
"""Encodings that a file in none of Unicode's is likely in; iconv knows them by these names with '-'
for '_'."""
_ENDS = re.compile("\r\n?")
_NO_CHARACTER = re.compile("[\0\ud800-\udfff]")


def characters(text: str) -> str:
    """What no text can hold is U+FFFD, as in HTML: NUL, and half of a surrogate pair (from JSON
    such as "\\ud83d", or an argument that is not UTF-8)."""
    if not _NO_CHARACTER.search(text):
        return text
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return joined.replace("\0", "\ufffd")


def clean(text: str) -> str:
    """Text as both models may read it: its lines end with LF, it begins with no byte order mark,
    and what no text can hold is U+FFFD, see `characters`."""
    return _ENDS.sub("\n", characters(text).removeprefix("\ufeff"))


def lines(text: str) -> list[str]:
    """The lines of a cleaned text that are not blank."""
    return [line for line in clean(text).split("\n") if line.strip()]


def decode(raw: bytes, name: str) -> str:
    """Bytes as they stand, line ends too: UTF-8, or UTF-16 or UTF-32 with a byte order mark.

    Raises StitchLensError that names the byte where they are binary or in another encoding.
    """
    check_fetched(raw, name)
    encoding, errors = _encoding(raw)
    try:
        text = raw.decode(encoding, errors)
    except UnicodeDecodeError as e:
        raise _other(raw, name, encoding, f"byte {e.start}") from None
    if (at := text.find("\0")) >= 0:
        raise _other(raw, name, encoding, f"byte {raw.index(0) if encoding == 'utf-8' else at}")
    return text


def read_text(path: Path, most: int | None = None) -> str:
    """A file's text, by `decode`. Raises StitchLensError where it cannot be read, or is over `most`
    bytes."""
    try:
        with path.open("rb") as f:
            raw = f.read() if most is None else f.read(most + 1)
    except OSError as e:
        raise StitchLensError(
            f"{path.name} unreadable ({e.strerror})", "a readable file", "check the path"
        ) from None
    if most is not None:
        check_size(raw, most, path.name)
    return decode(raw, path.name)


def check_size(
    raw: bytes,
    most: int,
    name: str,
) -> None:
    if len(raw) > most:
        raise StitchLensError(
            f"{name} of over {most:,} bytes", f"at most {most:,}", "take a random sample of it"
        )


def check_fetched(head: bytes, name: str) -> None:
    """Raises StitchLensError for what Git leaves in the place of a large file that has not been
    fetched."""
    if head.startswith(LFS):
        raise StitchLensError(
            f"{name}, a Git LFS pointer in the place of the file",
            "the file itself",
            "fetch it, as with `git lfs pull`",
        )


def stream(file: io.BufferedIOBase, name: str) -> Iterator[str]:
    """The lines of a binary file, decoded as `decode` does while they are read; each ends with LF,
    but perhaps the last. The file is closed at its end.

    Raises StitchLensError that names the line where they are binary, in another encoding or longer
    than LONGEST_LINE.
    """
    buffered = io.BufferedReader(file, HEAD)  # type: ignore[arg-type]
    head = buffered.peek(HEAD)
    check_fetched(head, name)
    encoding, errors = _encoding(head)
    text = io.TextIOWrapper(buffered, encoding, errors)  # all three line ends become LF
    number = 0
    try:
        while line := text.readline(LONGEST_LINE + 1):
            number += 1
            if "\0" in line:
                raise _other(head, name, encoding, f"line {number}", nul=True)
            if len(line) > LONGEST_LINE:
                raise StitchLensError(
                    f"line {number} of {name} with over {LONGEST_LINE:,} characters",
                    "shorter lines",
                    "check that it is a file of lines",
                )
            yield line
    except UnicodeDecodeError as e:
        raise _other(e.object, name, encoding, f"line {number + 1} or a later one") from None
    finally:
        text.close()


def _encoding(head: bytes) -> tuple[str, str]:
    """What the byte order mark says, and how errors are met: half surrogates of UTF-16 are kept,
    for `clean`."""
    for mark, name in BOMS:
        if head.startswith(mark):
            return name, "strict" if name == "utf-8-sig" else "surrogatepass"
    return "utf-8", "strict"


def _other(
    raw: bytes,
    name: str,
    encoding: str,
    where: str,
    nul: bool = False,
) -> StitchLensError:
    """Why bytes are no text in `encoding`, and what they may be instead."""
    head = raw[:HEAD]
    if encoding in ("utf-16", "utf-32"):
        return StitchLensError(
            f"{name}, which begins as {encoding.upper()} and is none ({where})",
            "whole text",
            "save it again as UTF-8",
        )
    if b"\0" not in raw and not nul:
        guess = _guess(raw)
        known, convert = "", "save it as UTF-8"
        if guess:
            known, convert = (
                f", perhaps {guess}",
                f"convert it, as with `iconv -f {guess} -t utf-8`",
            )
        return StitchLensError(
            f"{name} not in UTF-8 ({where}){known}", "UTF-8 text", f"{convert}, or leave it out"
        )
    for order, zeros in (("utf-16le", head[1::2]), ("utf-16be", head[0::2])):
        if len(head) > 3 and zeros.count(0) > len(zeros) / 2:
            return StitchLensError(
                f"{name} not in UTF-8 ({where}), perhaps {order} without a byte order mark",
                "UTF-8 text",
                f"convert it, as with `iconv -f {order} -t utf-8`",
            )
    at = where if where.startswith("line") or 0 not in raw else f"byte {raw.index(0)}"
    return StitchLensError(f"a binary file {name} (NUL at {at})", "UTF-8 text", "leave it out")


def _guess(raw: bytes) -> str:
    """The legacy encoding that bytes are likeliest in, '' for none; of equals the commonest."""
    from charset_normalizer import from_bytes

    odd = next((i for i, b in enumerate(raw) if b > 127), 0)
    guess = from_bytes(raw[max(0, odd - 2000) :][:8000], cp_isolation=list(LEGACY))
    best = guess.best()
    if best is None:
        return ""
    equal = {
        name
        for one in guess
        if (one.chaos, one.coherence) == (best.chaos, best.coherence)
        for name in one.could_be_from_charset
    }
    return ("cp1252" if "cp1252" in equal else best.encoding).replace("_", "-")
