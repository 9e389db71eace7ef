"""Weights that others trained: read from a file without trusting it, and recognised as a stitch.

Nothing is unpickled but what `torch.load(weights_only=True)` allows, and of that only what tensors
need.
"""

import math
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from core.errors import StitchLensError
from core.stitches.stitch import Stitch
from core.workspace.untrusted import (
    HEADER,
    LARGEST_STITCH,
    WEIGHT_FILES,
    counted,
    damaged,
    first_line,
    fits,
    read_npy,
    safetensors_header,
    sized,
    zip_members,
)

DEEPEST = 6
"""Mappings and lists within each other around a tensor."""
VISITED = 20_000
"""Values around the tensors of a pickled file, however often it names the same one."""
Orientation = Literal["linear", "paper"]
"""Of matrices whose widths are equal: nn.Linear's [out, in], or the paper's [in, out]."""


def read_tensors(path: Path, beside: dict[str, object] | None = None) -> dict[str, Tensor]:
    """Named float32 tensors of a safetensors, PyTorch or NumPy file; nested names are joined by
    dots. Numbers and texts beside them in a PyTorch file are put into `beside`.

    Raises StitchLensError that names the fault: what it is not, what is too large, what is not a
    finite number.
    """
    sized(path, WEIGHT_FILES, LARGEST_STITCH)
    readers: dict[str, Callable[[Path], dict[str, Tensor]]] = {
        ".safetensors": _safetensors,
        ".npz": _npz,
    }
    reader = readers.get(path.suffix.lower())
    tensors = _torch(path, {} if beside is None else beside) if reader is None else reader(path)
    if not tensors:
        raise StitchLensError(
            f"no tensor in {path.name}", "the weights of a stitch", "save its state_dict"
        )
    fits([value.shape for value in tensors.values()], LARGEST_STITCH, path.name)
    return {key: finite(value, f"{key[:60]} of {path.name}") for key, value in tensors.items()}


def finite(value: Tensor, name: str) -> Tensor:
    """As float32. Raises StitchLensError for what is not real numbers, or not finite as float32."""
    if (
        value.is_complex()
        or value.dtype == torch.bool
        or value.is_quantized
        or value.layout != torch.strided
    ):
        raise StitchLensError(f"{name} of {value.dtype}", "real numbers", "save it as float32")
    x = value.float()
    if not torch.isfinite(x).all():
        raise StitchLensError(
            f"NaN or infinite numbers in {name}", "finite ones", "check how it was trained"
        )
    return x.contiguous()


def _safetensors(path: Path) -> dict[str, Tensor]:
    safetensors_header(path, LARGEST_STITCH)
    try:
        with safe_open(path, "pt") as f:
            return {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, ValueError, OSError, RuntimeError, AttributeError) as e:
        raise StitchLensError(
            f"no readable safetensors in {path.name} ({first_line(e)})",
            "a whole file",
            "save it again",
        ) from None


TENSORS_NEED = re.compile(
    r"collections OrderedDict|torch\._utils"
    r" _rebuild_(tensor_v2|parameter|parameter_with_state)|torch \w+Storage|"
    r"torch\.storage UntypedStorage|torch (Size|device|b?float\d*|u?int\d+|double|half|long)"
)
"""What a pickle of tensors calls; `torch.load` allows more, some of which takes memory as it is
told."""


def _torch(path: Path, beside: dict[str, object]) -> dict[str, Tensor]:
    members = zip_members(path, LARGEST_STITCH)
    index = [m for m in members if PurePosixPath(m.filename).name == "data.pkl"]
    if len(index) != 1:
        raise StitchLensError(
            f"no data.pkl, or several, in {path.name}",
            "a file that torch.save wrote",
            "save it again as safetensors",
        )
    if index[0].file_size > HEADER:
        raise StitchLensError(
            f"an index of {index[0].file_size:,} bytes in {path.name}",
            f"at most {HEADER:,}",
            "save the state_dict alone",
        )
    if any(m.compress_type != zipfile.ZIP_STORED for m in members):
        raise StitchLensError(
            f"compressed parts in {path.name}", "parts as torch.save stores them", "save it again"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            called = list(_called(archive.read(index[0])))
    except Exception as e:  # noqa: BLE001 - zlib, zipfile and pickletools raise many kinds
        raise damaged(index[0], path.name, e) from None
    for what in called:
        if not TENSORS_NEED.fullmatch(what):
            raise StitchLensError(
                f"{path.name}, which calls {what[:80].replace(' ', '.')} when it is opened",
                "tensors alone",
                "save it with `safetensors.torch.save_file(model.state_dict(), path)`",
            )
    try:  # mapped: a tensor that claims more than its part has cannot reach beyond the file
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as e:  # noqa: BLE001 - a hostile file makes it raise anything; nothing of it has run
        raise StitchLensError(
            f"{path.name}, which is more than weights or damaged ({first_line(e)})",
            "a state_dict of tensors alone",
            "save it with `safetensors.torch.save_file(model.state_dict(), path)`",
        ) from None
    tensors: dict[str, Tensor] = {}
    most = max(m.file_size for m in members)
    for visited, (key, value) in enumerate(_flat(found, path.name)):
        if visited >= VISITED:
            raise StitchLensError(
                f"over {VISITED:,} values in {path.name}", "a state_dict", "save the weights alone"
            )
        if isinstance(value, str | int | float):
            beside[key] = value
        if isinstance(value, Tensor):
            if value.device.type == "cpu" and value.untyped_storage().nbytes() > most:
                raise StitchLensError(
                    f"{key[:60]} in {path.name}, which claims more bytes than any part has",
                    "a whole file",
                    "save it again",
                )
            tensors[key] = value
            counted(len(tensors), path.name)
    return tensors


def _called(pickled: bytes) -> Iterator[str]:
    """'module name' of everything that a pickle calls; '?' where it hides the name."""
    for op, value, _ in pickletools.genops(pickled):
        if op.name == "GLOBAL":
            yield str(value)
        elif op.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"):
            yield f"? by {op.name}"


def _flat(value: Any, name: str, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, object]]:
    """Every value within, with its name."""
    if depth > DEEPEST:
        raise StitchLensError(
            f"weights nested over {DEEPEST} deep in {name}", "a state_dict", "save it flat"
        )
    if isinstance(value, Tensor):
        if (
            4 * math.prod(value.shape) > LARGEST_STITCH
        ):  # an expanded view may claim more than its bytes
            raise StitchLensError(
                f"{prefix or 'a tensor'} of {value.numel():,} numbers in {name}",
                "less",
                "check the file",
            )
        yield prefix or "weight", value.detach()
        return
    yield prefix, value
    inside = (
        value.items()
        if isinstance(value, Mapping)
        else enumerate(value)
        if isinstance(value, list | tuple)
        else ()
    )
    for key, item in inside:
        yield from _flat(
            item, name, f"{prefix}.{str(key)[:60]}" if prefix else str(key)[:60], depth + 1
        )


def _npz(path: Path) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    members = zip_members(path, LARGEST_STITCH)
    counted(len(members), path.name)
    with zipfile.ZipFile(path) as archive:
        for member in members:
            key = member.filename.removesuffix(".npy")
            try:
                with archive.open(member) as part:
                    value = read_npy(part, member.file_size, f"{key[:60]} of {path.name}")
                    if part.read(1):  # at its end the part's checksum is compared
                        raise ValueError("bytes after the array")
            except StitchLensError:
                raise
            except Exception as e:  # noqa: BLE001 - zlib, NumPy and the header's parser raise many kinds
                raise StitchLensError(
                    f"no readable array {key[:60]} in {path.name} ({first_line(e)})",
                    "numbers",
                    "save it again",
                ) from None
            fits([value.shape, *(t.shape for t in out.values())], LARGEST_STITCH, path.name)
            with np.errstate(over="ignore"):
                out[key] = torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))
    return out


_EDGE, _END = r"(^|[._\-/])", r"([._\-/]|$)"
UP = re.compile(
    _EDGE
    + r"(up|[tpb]_?up|a_?to_?b|a2b|ab|enc(oder)?|fwd|forward|to_?b|small_?to_?(big|large))"
    + _END
)
DOWN = re.compile(
    _EDGE
    + r"(down|[tpb]_?down|b_?to_?a|b2a|ba|dec(oder)?|bwd|backward|to_?a|(big|large)_?to_?small)"
    + _END
)
FORMS = (
    "two nn.Linear layers (up/down, a_to_b/b_to_a, encoder/decoder …), or P_up, b_up, P_down,"
    " b_down"
)


@dataclass(frozen=True)
class Foreign:
    """A stitch from a file: one or both ways, and how its matrices lay there."""

    stitch: Stitch
    """Of a way that the file does not hold, zeros."""
    ways: tuple[Literal["up", "down"], ...]
    layout: dict[str, str]
    """Name in the file to what it was taken for."""


def recognise(
    tensors: Mapping[str, Tensor], d_a: int, d_b: int, orientation: Orientation | None = None
) -> Foreign:
    """The stitch among named tensors, for widths d_A and d_B.

    The way follows from names, else from the bias (its length is the output's width); the
    orientation from the widths, and where these are equal from the name (`weight` is nn.Linear's
    [out, in], `P…` the paper's [in, out]) or from `orientation`. Raises StitchLensError that says
    what was found and which forms are known.
    """
    shapes = ", ".join(f"{k[:40]} {tuple(v.shape)}" for k, v in list(tensors.items())[:8])
    matrices = {
        k: v for k, v in tensors.items() if v.dim() == 2 and sorted(v.shape) == sorted((d_a, d_b))
    }
    biases = {k: v for k, v in tensors.items() if v.dim() == 1 and len(v) in (d_a, d_b)}
    if not matrices:
        raise StitchLensError(
            f"no matrix between widths {d_a} and {d_b} ({shapes})",
            FORMS,
            "check which models it is for",
        )
    if len(matrices) > 2:
        raise StitchLensError(
            f"{len(matrices)} matrices between widths {d_a} and {d_b} ({shapes})",
            "one or two",
            FORMS,
        )
    found: dict[str, tuple[str, Tensor, Tensor | None, str]] = {}
    for name, matrix in matrices.items():
        bias = _partner(name, biases)
        way = _way(name, None if bias is None else biases[bias], d_a, d_b, len(matrices) == 1)
        if way in found:
            raise StitchLensError(
                f"two matrices that lead {way} ({shapes})", "one each way", "name them up and down"
            )
        out = d_b if way == "up" else d_a
        if d_a != d_b:
            linear = matrix.shape[0] == out
        elif orientation is not None:
            linear = orientation == "linear"
        else:
            linear = bool(re.search(r"(^|\.)weight$", name))
            if not linear and not re.search(r"(^|[._])P(_|$)", name):
                raise StitchLensError(
                    f"{name} between equal widths",
                    "to know which axis is the output",
                    "say whether it is nn.Linear's [out, in] or the paper's [in, out]",
                )
        value = None if bias is None else biases[bias]
        if value is not None and len(value) != out:
            raise StitchLensError(
                f"bias {bias} of {len(value)} beside {name}, which leads {way}",
                f"{out} numbers",
                "check it",
            )
        found[way] = (
            name,
            matrix.T if linear else matrix,
            value,
            "[out, in]" if linear else "[in, out]",
        )
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
    mine = [
        k
        for k in biases
        if bool(UP.search(k.lower())) == bool(UP.search(name.lower()))
        and bool(DOWN.search(k.lower())) == bool(DOWN.search(name.lower()))
    ]
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
        f"'{name}', which does not say whether it leads from A to B or back",
        FORMS,
        "name it up or down",
    )
