"""Files from outside, bounded before anything is allocated: how large one may be, and what its
parts may claim.

Nothing here needs torch. Every fault is a StitchLensError that names it.
"""

import json
import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import StitchLensError

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


def first_line(e: BaseException) -> str:
    """What an error of others says, in short."""
    return (str(e).splitlines() or [type(e).__name__])[0][:120] or type(e).__name__


def sized(
    path: Path,
    endings: Collection[str],
    limit: int,
) -> int:
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


def fits(
    shapes: Collection[Collection[int]],
    limit: int,
    name: str,
) -> None:
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


def parse_json(
    raw: bytes,
    name: str,
    limit: int = LONGEST_JSON,
) -> dict[str, Any]:
    """A JSON object, short, not nested deep, without NaN and with each key once. Raises
    StitchLensError."""

    def fault(what: str) -> StitchLensError:
        return StitchLensError(f"{what} in {name}", "a JSON object", "check how it was made")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            twice = next(k for i, (k, _) in enumerate(pairs) if k in {x for x, _ in pairs[:i]})
            raise fault(f"'{twice[:60]}' twice")
        return value

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


def counted(n: int, name: str) -> None:
    if n > TENSORS:
        raise StitchLensError(
            f"{n:,} tensors in {name}", f"at most {TENSORS}", "save only the weights"
        )


WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".npz")
"""Endings of files that may bring weights."""
