"""Zips from outside, bounded before a part is unpacked: their list of parts, places, kinds, sizes.

Every fault is a StitchLensError that names it.
"""

import io
import re
import struct
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from numpy.typing import NDArray

from core.errors import StitchLensError
from core.workspace.headers import read_npy
from core.workspace.untrusted import HEADER, MB, TENSORS, first_line

RATIO = 200
"""Most times that a part of a zip may grow."""


class _Bounded(io.FileIO):
    """A file of which a zip's list of parts is not read where it is long."""

    listing = True
    """Whether it is the list that is read, not a part."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.listing and size is not None and size > HEADER:
            raise zipfile.BadZipFile(f"a list of parts of {size:,} bytes, over {HEADER:,}")
        return super().read(-1 if size is None else size)


@contextmanager
def opened_zip(path: Path, limit: int) -> Iterator[tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]]:
    """A zip and its parts, their number, places, kinds and sizes in bounds. Raises
    StitchLensError."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(_Bounded(path))
            archive = stack.enter_context(zipfile.ZipFile(file))
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as e:
            raise StitchLensError(
                f"no zip in {path.name} ({first_line(e)})", "a whole zip", "save it again"
            ) from None

        members = archive.infolist()
        _check(members, path.name, limit)
        file.listing = False
        yield archive, members


def zip_members(path: Path, limit: int) -> list[zipfile.ZipInfo]:
    """The parts of `opened_zip`, for a file that something else reads."""
    with opened_zip(path, limit) as (_, members):
        return members


def _check(
    members: list[zipfile.ZipInfo],
    name: str,
    limit: int,
) -> None:
    if len(members) > 4 * TENSORS:
        raise StitchLensError(
            f"{len(members):,} parts in {name}", f"at most {4 * TENSORS}", "save only the weights"
        )
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        raise StitchLensError(
            f"parts of the same name in {name}", "each name once", "check how it was made"
        )
    for member in members:
        part = f"a part '{member.filename[:60]}' in {name}"
        place = PurePosixPath(member.filename.replace("\\", "/"))
        if place.is_absolute() or ".." in place.parts or re.match(r"[A-Za-z]:", member.filename):
            raise StitchLensError(
                f"{part}, which leads out of it", "parts within the file", "do not use it"
            )
        if (member.external_attr >> 28) == 0xA:
            raise StitchLensError(f"{part}, which is a link", "files", "do not use it")
        if member.flag_bits & 1:
            raise StitchLensError(f"{part} with a password", "an open file", "save it again")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise StitchLensError(
                f"{part} of compression {member.compress_type}",
                "stored or deflated",
                "zip it again",
            )
        if member.compress_type == zipfile.ZIP_STORED and member.file_size != member.compress_size:
            raise StitchLensError(
                f"{part} of {member.compress_size:,} bytes kept as {member.file_size:,}",
                "one size",
                "save it again",
            )
        if member.file_size > max(RATIO * member.compress_size, 4096):
            raise StitchLensError(
                f"{part} that grows {RATIO} times and more", "weights", "do not use it"
            )
    if (total := sum(member.file_size for member in members)) > limit:
        raise StitchLensError(
            f"{name}, which unpacks to {total:,} bytes",
            f"at most {limit:,}",
            "save only the weights",
        )


def unzip(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    target: Path,
    name: str,
) -> None:
    """Write one part to `target`, never more than it claims. Raises StitchLensError where it is
    damaged, OSError where `target` cannot be written."""
    with target.open("wb") as out:
        for piece in _pieces(archive, member, name):
            out.write(piece)


def _pieces(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    name: str,
) -> Iterator[bytes]:
    left = member.file_size
    try:
        with archive.open(member) as source:
            while left > 0 and (piece := source.read(min(left, MB))):
                left -= len(piece)
                yield piece
    except Exception as e:  # noqa: BLE001 - zlib, zipfile and the system raise many kinds
        raise damaged(member, name, e) from None
    if left:
        raise damaged(member, name, EOFError(f"{left:,} bytes are missing"))


@contextmanager
def array_faults(key: str, name: str) -> Iterator[None]:
    """What reading an array of an .npz raises, as a StitchLensError that names the array."""
    try:
        yield
    except StitchLensError:
        raise
    except Exception as e:  # noqa: BLE001 - zlib, NumPy and the header's parser raise many kinds
        raise StitchLensError(
            f"no readable array {key[:60]} in {name} ({first_line(e)})",
            "numbers",
            "save it again",
        ) from None


def npz_array(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    key: str,
    name: str,
) -> NDArray[Any]:
    """The whole of one array of an .npz, see `read_npy`. Raises StitchLensError."""
    with array_faults(key, name), archive.open(member) as part:
        value = read_npy(part, member.file_size, f"{key[:60]} of {name}")
        if part.read(1):  # at its end the part's checksum is compared
            raise ValueError("bytes after the array")
        return value


def damaged(
    member: zipfile.ZipInfo,
    name: str,
    e: BaseException,
) -> StitchLensError:
    return StitchLensError(
        f"a damaged part '{member.filename[:60]}' in {name} ({first_line(e)})",
        "a whole file",
        "save it again",
    )
