"""Weights that others trained: read from a file without trusting it, and recognised as a stitch.

Nothing is unpickled but what `torch.load(weights_only=True)` allows, and every size that a file claims is checked
against the bytes it has before anything is allocated.
"""

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from core.errors import StitchLensError
from core.stitch import Stitch
from core.store import WEIGHT_FILES

LARGEST = 1_000_000_000
"""Bytes of a file, and of all that it unpacks to."""
TENSORS = 256
HEADER = 1_000_000
"""Bytes of a safetensors header or of a pickled index."""
RATIO = 200
"""Most times that a part of a zip may grow."""
DEEPEST = 6
Orientation = Literal["linear", "paper"]
"""Of matrices whose widths are equal: nn.Linear's [out, in], or the paper's [in, out]."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Named float32 tensors of a safetensors, PyTorch or NumPy file; nested names are joined by dots.

    Raises StitchLensError that names the fault: what it is not, what is too large, what is not a finite number.
    """
    readers: dict[str, Callable[[Path], dict[str, Tensor]]] = {".safetensors": _safetensors, ".npz": _npz}
    name = path.name
    if path.suffix.lower() not in WEIGHT_FILES:
        raise StitchLensError(
            f"'{name}'", f"a file that ends with {', '.join(WEIGHT_FILES)}", "save the weights as safetensors"
        )
    try:
        size = path.stat().st_size
    except OSError as e:
        raise StitchLensError(f"{name} unreadable ({e.strerror})", "a readable file", "check the path") from None
    if not path.is_file():
        raise StitchLensError(f"{name}, which is no file", "one file", "name the file itself")
    if size == 0:
        raise StitchLensError(f"{name} empty", "weights", "save it again")
    if size > LARGEST:
        raise StitchLensError(
            f"{name} of {size:,} bytes", f"at most {LARGEST:,}", "save only the weights of the stitch"
        )
    tensors = readers.get(path.suffix.lower(), _torch)(path)
    if not tensors:
        raise StitchLensError(f"no tensor in {name}", "the weights of a stitch", "save its state_dict")
    out = {}
    for key, value in tensors.items():
        if value.is_complex() or value.dtype == torch.bool or value.is_quantized or value.layout != torch.strided:
            raise StitchLensError(f"{key} of {value.dtype} in {name}", "real numbers", "save it as float32")
        if value.numel() == 0:
            raise StitchLensError(
                f"{key} of shape {tuple(value.shape)} in {name}", "a width above 0", "check how it was made"
            )
        x = value.float()
        if not torch.isfinite(x).all():
            raise StitchLensError(
                f"NaN or infinite numbers in {key} of {name}", "finite ones", "check how it was trained"
            )
        out[key] = x.contiguous()
    return out


def _counted(n: int, name: str) -> None:
    if n > TENSORS:
        raise StitchLensError(f"{n:,} tensors in {name}", f"at most {TENSORS}", "save only the stitch")


def _safetensors(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as f:
        length = int.from_bytes(f.read(8), "little")
        if length > min(HEADER, path.stat().st_size):
            raise StitchLensError(
                f"a header of {length:,} bytes in {path.name}", f"at most {HEADER:,}", "check the file"
            )
        header = f.read(length)
    try:
        names = [k for k, _ in json.loads(header, object_pairs_hook=list) if k != "__metadata__"]
    except (ValueError, TypeError, RecursionError):
        raise StitchLensError(f"no safetensors header in {path.name}", "a safetensors file", "check the file") from None
    _counted(len(names), path.name)
    if twice := {k for k in names if names.count(k) > 1}:
        raise StitchLensError(
            f"{', '.join(sorted(twice))} twice in {path.name}", "each name once", "check how it was made"
        )
    try:
        with safe_open(path, "pt") as f:
            return {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, ValueError, OSError, RuntimeError, AttributeError) as e:
        raise StitchLensError(
            f"no readable safetensors in {path.name} ({first_line(e)})", "a whole file", "save it again"
        ) from None


def _zip(path: Path) -> zipfile.ZipFile:
    """Opened, with every member's place and size in bounds."""
    try:
        archive = zipfile.ZipFile(path)
        members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as e:
        what = "a PyTorch file of 1.6 or later" if path.suffix.lower() != ".npz" else "an .npz file"
        raise StitchLensError(
            f"no zip in {path.name} ({first_line(e)})", what, "save it again, best as safetensors"
        ) from None
    if len(members) > 4 * TENSORS:
        raise StitchLensError(
            f"{len(members):,} parts in {path.name}", f"at most {4 * TENSORS}", "save only the stitch"
        )
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        raise StitchLensError(f"parts of the same name in {path.name}", "each name once", "check how it was made")
    for member in members:
        place = PurePosixPath(member.filename.replace("\\", "/"))
        if place.is_absolute() or ".." in place.parts or (member.external_attr >> 28) == 0xA:
            raise StitchLensError(
                f"a part '{member.filename[:60]}' in {path.name}", "parts within the file", "do not use it"
            )
        if member.flag_bits & 1:
            raise StitchLensError(f"a part with a password in {path.name}", "an open file", "save it again")
        if member.file_size > max(RATIO * member.compress_size, 4096):
            raise StitchLensError(
                f"a part that grows {RATIO} times and more in {path.name}", "weights", "do not use it"
            )
    if sum(member.file_size for member in members) > LARGEST:
        raise StitchLensError(f"{path.name}, which unpacks to over {LARGEST:,} bytes", "less", "save only the stitch")
    return archive


def _torch(path: Path) -> dict[str, Tensor]:
    with _zip(path) as archive:
        index = [m for m in archive.infolist() if PurePosixPath(m.filename).name == "data.pkl"]
        if len(index) != 1:
            raise StitchLensError(
                f"no data.pkl in {path.name}", "a file that torch.save wrote", "save it again as safetensors"
            )
        if index[0].file_size > HEADER:
            raise StitchLensError(f"an index of {index[0].file_size:,} bytes in {path.name}", f"at most {HEADER:,}",
                          "save the state_dict alone")  # fmt: skip
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # noqa: BLE001 - a hostile file makes it raise anything; nothing of it has run
        raise StitchLensError(
            f"{path.name}, which is more than weights or damaged ({first_line(e)})", "a state_dict of tensors alone",
            "save it with `safetensors.torch.save_file(model.state_dict(), path)`",
        ) from None  # fmt: skip
    tensors = dict(_flat(found, path.name))
    _counted(len(tensors), path.name)
    return tensors


def _flat(value: Any, name: str, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    if depth > DEEPEST:
        raise StitchLensError(f"weights nested over {DEEPEST} deep in {name}", "a state_dict", "save it flat")
    if isinstance(value, Tensor):
        if value.numel() * value.element_size() > LARGEST:  # an expanded view may claim more than its bytes
            raise StitchLensError(
                f"{prefix or 'a tensor'} of {value.numel():,} numbers in {name}", "less", "check the file"
            )
        yield prefix or "weight", value.detach()
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, name, f"{prefix}.{key}" if prefix else str(key), depth + 1)
    elif isinstance(value, list | tuple):
        for k, item in enumerate(value):
            yield from _flat(item, name, f"{prefix}.{k}" if prefix else str(k), depth + 1)


def _npz(path: Path) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    with _zip(path) as archive:
        _counted(len(archive.infolist()), path.name)
        for member in archive.infolist():
            key = member.filename.removesuffix(".npy")
            try:
                raw = archive.read(member)
                value = read_npy(io.BytesIO(raw), len(raw), f"{key} in {path.name}")
                out[key] = torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))
            except StitchLensError:
                raise
            except Exception as e:  # noqa: BLE001 - zlib, NumPy and the header's parser raise many kinds
                raise StitchLensError(
                    f"no readable array {key[:60]} in {path.name} ({first_line(e)})", "numbers", "save it again"
                ) from None
    return out


def read_npy(stream: io.BufferedIOBase, size: int, name: str) -> NDArray[Any]:
    """One array of numbers; the size that it claims is compared with the `size` in bytes that there is before anything
    is allocated. Raises StitchLensError for pickled objects, and what NumPy raises for the rest."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream, max_header_size=10_000)
    if dtype.hasobject:
        raise StitchLensError(f"pickled objects under {name}", "numbers", "save arrays of float32")
    if dtype.kind not in "fiu" or int(np.prod(shape, dtype=object)) * dtype.itemsize > size:
        raise ValueError(f"{dtype} of shape {shape} in {size:,} bytes")
    stream.seek(0)
    return np.load(stream, allow_pickle=False)


def first_line(e: BaseException) -> str:
    """What an error of others says, in short."""
    return (str(e).splitlines() or [type(e).__name__])[0][:120] or type(e).__name__


_EDGE, _END = r"(^|[._\-/])", r"([._\-/]|$)"
UP = re.compile(_EDGE + r"(up|[tpb]_?up|a_?to_?b|a2b|ab|enc(oder)?|fwd|forward|to_?b|small_?to_?(big|large))" + _END)
DOWN = re.compile(
    _EDGE + r"(down|[tpb]_?down|b_?to_?a|b2a|ba|dec(oder)?|bwd|backward|to_?a|(big|large)_?to_?small)" + _END
)
FORMS = "two nn.Linear layers (up/down, a_to_b/b_to_a, encoder/decoder …), or P_up, b_up, P_down, b_down"


@dataclass(frozen=True)
class Foreign:
    """A stitch from a file: one or both ways, and how its matrices lay there."""

    stitch: Stitch
    """Of a way that the file does not hold, zeros."""
    ways: tuple[Literal["up", "down"], ...]
    layout: dict[str, str]
    """Name in the file to what it was taken for."""


def recognise(tensors: Mapping[str, Tensor], d_a: int, d_b: int, orientation: Orientation | None = None) -> Foreign:
    """The stitch among named tensors, for widths d_A and d_B.

    The way follows from names, else from the bias (its length is the output's width); the orientation from the widths,
    and where these are equal from the name (`weight` is nn.Linear's [out, in], `P…` the paper's [in, out]) or from
    `orientation`. Raises StitchLensError that says what was found and which forms are known.
    """
    shapes = ", ".join(f"{k} {tuple(v.shape)}" for k, v in list(tensors.items())[:8])
    matrices = {k: v for k, v in tensors.items() if v.dim() == 2 and sorted(v.shape) == sorted((d_a, d_b))}
    biases = {k: v for k, v in tensors.items() if v.dim() == 1 and len(v) in (d_a, d_b)}
    if not matrices:
        raise StitchLensError(
            f"no matrix between widths {d_a} and {d_b} ({shapes})", FORMS, "check which models it is for"
        )
    if len(matrices) > 2:
        raise StitchLensError(
            f"{len(matrices)} matrices between widths {d_a} and {d_b} ({shapes})", "one or two", FORMS
        )
    found: dict[str, tuple[str, Tensor, Tensor | None, str]] = {}
    for name, matrix in matrices.items():
        bias = _partner(name, biases)
        way = _way(name, None if bias is None else biases[bias], d_a, d_b, len(matrices) == 1)
        if way in found:
            raise StitchLensError(f"two matrices that lead {way} ({shapes})", "one each way", "name them up and down")
        out = d_b if way == "up" else d_a
        if d_a != d_b:
            linear = matrix.shape[0] == out
        elif orientation is not None:
            linear = orientation == "linear"
        else:
            linear = bool(re.search(r"(^|\.)weight$", name))
            if not linear and not re.search(r"(^|[._])P(_|$)", name):
                raise StitchLensError(f"{name} between equal widths", "to know which axis is the output",
                              "say whether it is nn.Linear's [out, in] or the paper's [in, out]")  # fmt: skip
        value = None if bias is None else biases[bias]
        if value is not None and len(value) != out:
            raise StitchLensError(
                f"bias {bias} of {len(value)} beside {name}, which leads {way}", f"{out} numbers", "check it"
            )
        found[way] = (name, matrix.T if linear else matrix, value, "[out, in]" if linear else "[in, out]")
    layout, parts = {}, {}
    for way, shape in (("up", (d_a, d_b)), ("down", (d_b, d_a))):
        name, matrix, bias_value, form = found.get(way, ("", torch.zeros(shape), None, ""))
        parts[f"P_{way}"] = matrix.contiguous()
        parts[f"b_{way}"] = torch.zeros(shape[1]) if bias_value is None else bias_value.contiguous()
        if name:
            layout[name] = f"P_{way}, {form}" + ("" if bias_value is not None else ", no bias")
    ways = tuple(way for way in ("up", "down") if way in found)
    return Foreign(Stitch(**parts), ways, layout)  # type: ignore[arg-type]


def _partner(name: str, biases: Mapping[str, Tensor]) -> str | None:
    """The bias that goes with a matrix by its name."""
    stem = re.sub(r"(weight|W|P)(?=$|_)", "\0", name)
    for form in ("bias", "b"):
        if (other := stem.replace("\0", form)) in biases and other != name:
            return other
    mine = [k for k in biases if bool(UP.search(k.lower())) == bool(UP.search(name.lower()))
            and bool(DOWN.search(k.lower())) == bool(DOWN.search(name.lower()))]  # fmt: skip
    return mine[0] if len(mine) == 1 else None


def _way(name: str, bias: Tensor | None, d_a: int, d_b: int, alone: bool) -> str:
    low = name.lower()
    up, down = bool(UP.search(low)), bool(DOWN.search(low))
    if up != down:
        return "up" if up else "down"
    if bias is not None and d_a != d_b:
        return "up" if len(bias) == d_b else "down"
    first = re.match(r"^(?:.*\.)?([01])\.", name)
    if first:
        return "up" if first[1] == "0" else "down"
    if alone:
        return "up"
    raise StitchLensError(
        f"'{name}', which does not say whether it leads from A to B or back", FORMS, "name it up or down"
    )
