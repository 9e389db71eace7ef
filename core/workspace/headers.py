"""What files of tensors claim about themselves, compared with the bytes that there are before
anything is allocated: safetensors, NumPy's arrays and GGUF.

Nothing here needs torch. Every fault is a StitchLensError that names it.
"""

import io
import math
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from core.errors import StitchLensError, printable
from core.workspace.untrusted import HEADER, TENSORS, WIDEST, counted, fits, parse_json

NAME = 200
"""Letters of a tensor's name."""
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


def safetensors_header(
    path: Path,
    limit: int,
    name: str | None = None,
) -> dict[str, Claim]:
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
        part = f"{key[:60]} of {name}"
        if len(key) > NAME:
            raise StitchLensError(
                f"a tensor's name of {len(key):,} letters in {name}", f"at most {NAME}", "rename it"
            )
        if not isinstance(entry, dict) or {"dtype", "shape", "data_offsets"} - set(entry):
            raise StitchLensError(
                f"no dtype, shape and data_offsets for {part}", "all three", "save it again"
            )
        dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in BITS:
            raise StitchLensError(
                f"{part} of type {str(dtype)[:20]}", "real numbers", "save it as float32"
            )
        if not _whole(shape) or not _whole(place) or len(place) != 2:
            raise StitchLensError(
                f"{part} of shape {str(shape)[:60]} at {str(place)[:60]}",
                "whole numbers, 0 or more",
                "save it again",
            )
        if 0 in shape:
            raise StitchLensError(
                f"{part} of shape {tuple(shape)}", "widths above 0", "check how it was made"
            )
        if math.prod(shape) * BITS[dtype] // 8 != place[1] - place[0] or place[1] > body:
            raise StitchLensError(
                f"{part} of shape {str(shape)[:60]} at bytes {place[0]} to {place[1]} of {body:,}",
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
    stream: IO[bytes] | io.BufferedIOBase,
    size: int,
    name: str,
    most: int | None = None,
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


_GGUF_BYTES = {
    0: 1,
    1: 1,
    2: 2,
    3: 2,
    4: 4,
    5: 4,
    6: 4,
    7: 1,
    10: 8,
    11: 8,
    12: 8,
}
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
