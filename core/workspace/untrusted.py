"""Files from outside, bounded before anything is allocated: how large one may be, and what its
parts may claim.

Nothing here needs torch. Every fault is a StitchLensError that names it.
"""

import io
import json
import math
import re
import struct
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from core.errors import StitchLensError, printable

MB = 2**20
"""Bytes, as browsers and Streamlit count them."""
LARGEST_STITCH = 1000 * MB
"""Bytes of a stitch's file, of all that it unpacks to, and of its numbers as float32."""
LARGEST_SAE = 2000 * MB
"""The same of an SAE's archive or folder."""
LARGEST_UPLOAD = 1000 * MB
"""Of what a page takes in, which passes through memory; a larger SAE is given to the command line
as a path."""
LARGEST_VECTOR = 50 * MB
"""The same of a vector's file, which may hold one for each layer."""
VECTOR_FILES = (".safetensors", ".gguf", ".json", ".npy", ".npz", ".pt", ".pth", ".bin")
"""Endings of files that may bring a vector."""
WIDEST = 65_536
"""Numbers of one vector; the width of a residual stream."""
TENSORS = 256
HEADER = 1_000_000
"""Bytes of what describes a file's numbers: a safetensors header, a pickled index, a zip's list of
parts."""
LONGEST_JSON = 2 * MB
NESTED, LISTS = 64, 4_000
"""Lists and objects of JSON: within each other, and in all."""
NAME = 200
"""Letters of a tensor's name."""
RATIO = 200
"""Most times that a part of a zip may grow."""
BITS = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "I64": 64,
    "I32": 32,
    "I16": 16,
    "I8": 8,
    "U8": 8,
}
"""Of safetensors' kinds of real numbers."""


class Claim(NamedTuple):
    """What a header says of a tensor."""

    dtype: str
    shape: tuple[int, ...]


def first_line(e: BaseException) -> str:
    """What an error of others says, in short."""
    return (str(e).splitlines() or [type(e).__name__])[0][:120] or type(e).__name__


def sized(path: Path, endings: Collection[str], limit: int) -> int:
    """Bytes of one readable file with such an ending. Raises StitchLensError for anything else."""
    if path.suffix.lower() not in endings:
        raise StitchLensError(
            f"'{path.name}'", f"a name that ends with {', '.join(endings)}", "save it as one"
        )
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise StitchLensError(
                f"{path.name}, which is no file", "one file", "name the file itself"
            )
        with path.open("rb"):
            pass
    except (OSError, ValueError) as e:
        why = getattr(e, "strerror", None) or first_line(e)
        raise StitchLensError(
            f"{path.name} unreadable ({why})", "a readable file", "check the path"
        ) from None
    if size == 0:
        raise StitchLensError(f"{path.name} empty", "one with weights", "save it again")
    if size > limit:
        raise StitchLensError(
            f"{path.name} of {size:,} bytes", f"at most {limit:,}", "save only the weights"
        )
    return size


def fits(shapes: Collection[Collection[int]], limit: int, name: str) -> None:
    """Raises StitchLensError where tensors of these shapes are over `limit` bytes as float32, or
    one has no width."""
    for shape in shapes:
        if 0 in shape:
            raise StitchLensError(
                f"a tensor of shape {tuple(shape)} in {name}",
                "widths above 0",
                "check how it was made",
            )
    if (size := 4 * sum(math.prod(shape) for shape in shapes)) > limit:
        raise StitchLensError(
            f"numbers of {size:,} bytes as float32 in {name}",
            f"at most {limit:,}",
            "save only the weights",
        )


def parse_json(raw: bytes, name: str, limit: int = LONGEST_JSON) -> dict[str, Any]:
    """A JSON object, short, not nested deep, without NaN and with each key once. Raises
    StitchLensError."""

    def fault(what: str) -> StitchLensError:
        return StitchLensError(f"{what} in {name}", "a JSON object", "check how it was made")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(k for i, (k, _) in enumerate(pairs) if k in {x for x, _ in pairs[:i]})
            raise fault(f"'{twice[:60]}' twice")
        return found

    def constant(word: str) -> float:
        raise fault(f"NaN or infinite numbers ({word})")

    if len(raw) > limit:
        raise fault(f"{len(raw):,} bytes of JSON, over {limit:,},")
    try:
        text = raw.decode("utf-8-sig")
        bare = np.frombuffer(
            re.sub(r'"(?:[^"\\]++|\\.)*+"?', "", text, flags=re.S).encode(), dtype=np.uint8
        )
        opened = np.isin(bare, [ord("["), ord("{")]).astype(np.int32) - np.isin(
            bare, [ord("]"), ord("}")]
        )
        if np.cumsum(opened).max(initial=0) > NESTED:
            raise fault(f"brackets nested over {NESTED} deep")
        if np.count_nonzero(opened == 1) > LISTS:
            raise fault(f"over {LISTS:,} lists and objects")
        value = json.loads(text, object_pairs_hook=once, parse_constant=constant)
    except ValueError as e:
        raise fault(f"no JSON ({first_line(e)})") from None
    if not isinstance(value, dict):
        raise fault(f"a JSON {type(value).__name__}, no object,")
    return value


def safetensors_header(path: Path, limit: int, name: str | None = None) -> dict[str, Claim]:
    """Names, dtypes and shapes that a safetensors file claims, each compared with the bytes that
    there are.

    Raises StitchLensError for a header that is long, damaged or names a tensor twice, for what is
    not real numbers, has no width, lies outside the file or is over `limit` bytes as float32.
    """
    name = name or path.name
    with path.open("rb") as f:
        length = int.from_bytes(f.read(8), "little")
        body = path.stat().st_size - 8 - length
        if length > HEADER:
            raise StitchLensError(
                f"a header of {length:,} bytes in {name}", f"at most {HEADER:,}", "check the file"
            )
        if body < 0:
            raise StitchLensError(
                f"{name}, which ends within its header", "a whole file", "save it again"
            )
        header = parse_json(f.read(length), f"the safetensors header of {name}", HEADER)
    header.pop("__metadata__", None)
    counted(len(header), name)
    out: dict[str, Claim] = {}
    for key, entry in header.items():
        here = f"{key[:60]} of {name}"
        if len(key) > NAME:
            raise StitchLensError(
                f"a tensor's name of {len(key):,} letters in {name}", f"at most {NAME}", "rename it"
            )
        if not isinstance(entry, dict) or {"dtype", "shape", "data_offsets"} - set(entry):
            raise StitchLensError(
                f"no dtype, shape and data_offsets for {here}", "all three", "save it again"
            )
        dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in BITS:
            raise StitchLensError(
                f"{here} of type {str(dtype)[:20]}", "real numbers", "save it as float32"
            )
        if not _whole(shape) or not _whole(place) or len(place) != 2:
            raise StitchLensError(
                f"{here} of shape {str(shape)[:60]} at {str(place)[:60]}",
                "whole numbers, 0 or more",
                "save it again",
            )
        if 0 in shape:
            raise StitchLensError(
                f"{here} of shape {tuple(shape)}", "widths above 0", "check how it was made"
            )
        if math.prod(shape) * BITS[dtype] // 8 != place[1] - place[0] or place[1] > body:
            raise StitchLensError(
                f"{here} of shape {str(shape)[:60]} at bytes {place[0]} to {place[1]} of {body:,}",
                "as many bytes as the shape says, within the file",
                "save it again",
            )
        out[key] = Claim(dtype, tuple(shape))
    fits([claim.shape for claim in out.values()], limit, name)
    try:
        with safe_open(path, "np"):  # tensors that overlap or leave bytes over
            return out
    except (SafetensorError, ValueError, OSError) as e:
        raise StitchLensError(
            f"{name} unreadable ({printable(e, 120)})", "a whole safetensors file", "save it again"
        ) from None


def _whole(value: object) -> bool:
    """Is it a short list of whole numbers from 0 on?"""
    return (
        isinstance(value, list)
        and len(value) <= 8
        and all(type(n) is int and 0 <= n < 2**63 for n in value)
    )


def counted(n: int, name: str) -> None:
    if n > TENSORS:
        raise StitchLensError(
            f"{n:,} tensors in {name}", f"at most {TENSORS}", "save only the weights"
        )


class _Bounded(io.FileIO):
    """A file of which a zip's list of parts is not read where it is long."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > HEADER:
            raise zipfile.BadZipFile(f"a list of parts of {size:,} bytes, over {HEADER:,}")
        return super().read(-1 if size is None else size)


def zip_members(path: Path, limit: int) -> list[zipfile.ZipInfo]:
    """The parts of a zip, their number, places, kinds and sizes in bounds. Raises
    StitchLensError."""
    name = path.name
    try:
        with _Bounded(path) as f, zipfile.ZipFile(f) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as e:
        raise StitchLensError(
            f"no zip in {name} ({first_line(e)})", "a whole zip", "save it again"
        ) from None
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
    return members


def unzip(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, name: str) -> None:
    """Write one part to `target`, never more than it claims. Raises StitchLensError where it is
    damaged, OSError where `target` cannot be written."""
    with target.open("wb") as out:
        for piece in _pieces(archive, member, name):
            out.write(piece)


def _pieces(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> Iterator[bytes]:
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


def damaged(member: zipfile.ZipInfo, name: str, e: BaseException) -> StitchLensError:
    return StitchLensError(
        f"a damaged part '{member.filename[:60]}' in {name} ({first_line(e)})",
        "a whole file",
        "save it again",
    )


def _npy_header(
    stream: IO[bytes] | io.BufferedIOBase,
) -> tuple[tuple[int, ...], "np.dtype[Any]"]:
    """The shape and the dtype that an array claims. Raises what NumPy raises for a header that is
    none."""
    version = np.lib.format.read_magic(stream)
    first = version == (1, 0)
    read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream, max_header_size=10_000)
    return shape, dtype


def npy_kind(stream: IO[bytes] | io.BufferedIOBase) -> str:
    """NumPy's letter for what an array holds: f, i, u for numbers, U and S for text, O for objects.
    Raises as `_npy_header` does."""
    return _npy_header(stream)[1].kind


def read_npy(
    stream: IO[bytes] | io.BufferedIOBase, size: int, name: str, most: int | None = None
) -> NDArray[Any]:
    """One array of at most `most` numbers; the size that it claims is compared with the `size` in
    bytes that there is before anything is allocated. Raises StitchLensError for what is no such
    array, and what NumPy raises besides."""
    shape, dtype = _npy_header(stream)
    if dtype.hasobject:
        raise StitchLensError(f"pickled objects under {name}", "numbers", "save arrays of float32")
    if dtype.kind not in "fiu":
        raise StitchLensError(
            f"an array of {dtype.str[:20]} under {name}", "real numbers", "save arrays of float32"
        )
    if 0 in shape:
        raise StitchLensError(
            f"an array of shape {shape} under {name}", "widths above 0", "check how it was made"
        )
    body = size - stream.tell()
    if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize > body:
        raise StitchLensError(
            f"an array of shape {str(shape)[:60]} under {name}, which has {max(body, 0):,} bytes",
            "as many bytes as the shape says",
            "save it again",
        )
    if most is not None and math.prod(shape) > most:
        raise StitchLensError(
            f"{math.prod(shape):,} numbers in {name}", f"at most {most:,}", "check the file"
        )
    stream.seek(0)
    return np.load(stream, allow_pickle=False)


_GGUF_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_GGUF_STRING, _GGUF_ARRAY = 8, 9


def check_gguf(path: Path) -> None:
    """Raises StitchLensError unless the header of a GGUF file is short, whole, and describes rows
    of real numbers."""
    name = path.name
    with path.open("rb") as f:
        header = io.BytesIO(f.read(HEADER))

    def fault(what: str, wanted: str = "a GGUF control vector") -> StitchLensError:
        return StitchLensError(f"{what} in {name}", wanted, "check the file")

    def number(width: int) -> int:
        raw = header.read(width)
        if len(raw) < width:
            raise fault(f"a header that does not end within the file or {HEADER:,} bytes")
        return int.from_bytes(raw, "little")

    def text() -> str:
        if (length := number(8)) > HEADER:
            raise fault(f"a text of {length:,} bytes", f"at most {HEADER:,}")
        return header.read(length).decode("utf-8", "replace")

    def value(kind: int, deep: bool = False) -> None:
        if kind == _GGUF_STRING:
            text()
        elif kind == _GGUF_ARRAY and not deep:
            of, count = number(4), number(8)
            if count > 4 * TENSORS:
                raise fault(f"a list of {count:,} values", f"at most {4 * TENSORS}")
            for _ in range(count):
                value(of, deep=True)
        elif kind in _GGUF_BYTES:
            number(_GGUF_BYTES[kind])
        else:
            raise fault(f"a value of kind {kind}")

    def unique(seen: set[str], key: str) -> None:
        if key in seen:
            raise fault(f"'{key[:60]}' twice", "each name once")
        seen.add(key)

    if header.read(4) != b"GGUF":
        raise fault("no GGUF mark")
    if (version := number(4)) not in (2, 3):
        raise fault(f"GGUF version {version:,}", "2 or 3, little-endian")
    tensors, fields = number(8), number(8)
    counted(max(tensors, fields), name)
    keys, names = set[str](), set[str]()
    for _ in range(fields):
        unique(keys, text())
        value(number(4))
    for _ in range(tensors):
        key = text()
        unique(names, key)
        if (axes := number(4)) > 4:
            raise fault(f"{key[:60]} of {axes:,} axes", "one")
        shape = [number(8) for _ in range(axes)]
        kind, place = number(4), number(8)
        if kind not in (0, 1):
            raise fault(f"{key[:60]} of GGML type {kind}", "F32 or F16")
        if not 0 < math.prod(shape) <= WIDEST or place > path.stat().st_size:
            raise fault(
                f"{key[:60]} of shape {str(shape)[:60]} at byte {place:,}",
                f"1 to {WIDEST:,} numbers in the file",
            )


WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".npz")
"""Endings of files that may bring weights."""
