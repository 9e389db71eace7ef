"""Files as they were before they were packed (gzip, xz, bzip2, zstd); damaged ones are named."""

import bz2
import gzip
import io
import lzma
import tempfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from core.errors import StitchLensError
from core.text.reading import HEAD, check_fetched, decode
from core.workspace.untrusted import first_line

PACKED = (".gz", ".xz", ".bz2", ".zst")
WHOLE = 200_000_000
"""Bytes of what is not read row by row: JSON in one piece, and packed text."""
UNPACKED = 4_000_000_000
"""Bytes of a packed Parquet or Arrow file, which is unpacked to a temporary one."""


def form(path: Path) -> tuple[str, str]:
    """The ending that says what is in a file, and the one that says how it is packed: ('.jsonl',
    '.gz')."""
    endings = [x.lower() for x in path.suffixes]
    packing = endings.pop() if endings and endings[-1] in PACKED else ""
    return (endings[-1] if endings else ""), packing


@contextmanager
def faults(name: str) -> Generator[None]:
    """Raises StitchLensError for what the libraries raise on a damaged or unreadable file."""
    try:
        yield
    except StitchLensError:
        raise
    except FileNotFoundError:
        raise StitchLensError(
            f"no file {name}", "the whole data set", "fetch or save it again"
        ) from None
    except (
        OSError,
        EOFError,
        ValueError,
        zlib.error,
        lzma.LZMAError,
        MemoryError,
        NotImplementedError,
    ) as e:
        # ArrowInvalid is a ValueError, ArrowNotImplementedError a NotImplementedError,
        # UnicodeDecodeError a ValueError
        raise StitchLensError(
            f"{name} damaged or unreadable ({first_line(e)})",
            "a whole file",
            "fetch or save it again, or leave it out",
        ) from None


def unpacked(path: Path, name: str) -> io.BufferedIOBase:
    """A file as it was before it was packed, to be read from its beginning to its end."""
    with path.open("rb") as file:
        check_fetched(file.read(HEAD), name)
    match form(path)[1]:
        case ".gz":
            return gzip.open(path)
        case ".xz":
            return lzma.open(path)
        case ".bz2":
            return bz2.open(path)
        case ".zst":
            import pyarrow as pa

            return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"), HEAD)  # type: ignore[arg-type]
        case _:
            return path.open("rb")


def whole_text(path: Path, name: str) -> str:
    """A packed text, or JSON in one piece. Raises StitchLensError where it is over WHOLE bytes or
    not text."""
    with faults(name), unpacked(path, name) as file:
        raw = file.read(WHOLE + 1)
    if len(raw) > WHOLE:
        raise StitchLensError(
            f"{name} of over {WHOLE:,} bytes in one piece",
            "JSON lines or plain text",
            "write a row a line, as with `jq -c .[]`, and name it .jsonl",
        )
    return decode(raw, name)


@contextmanager
def seekable(path: Path, name: str) -> Generator[io.BufferedIOBase]:
    """A packed file is unpacked to a temporary one, in the system's folder for them."""
    if not form(path)[1]:
        with unpacked(path, name) as file:
            yield file
        return
    with unpacked(path, name) as packed, tempfile.TemporaryFile(prefix="stitchlens-") as file:
        size = 0
        while piece := packed.read(2**20):
            size += len(piece)
            if size > UNPACKED:
                raise StitchLensError(
                    f"{name}, which unpacks to over {UNPACKED:,} bytes", "less", "split it"
                )
            file.write(piece)
        file.seek(0)
        yield cast("io.BufferedIOBase", file)
