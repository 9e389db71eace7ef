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
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from core.errors import StitchLensError
from core.workspace.archives import array_faults, damaged, npz_array, opened_zip, zip_members
from core.workspace.headers import npy_kind, safetensors_header
from core.workspace.untrusted import (
    HEADER,
    LARGEST_STITCH,
    WEIGHT_FILES,
    counted,
    first_line,
    fits,
    sized,
)

DEEPEST = 6
"""Mappings and lists within each other around a tensor."""
VISITED = 20_000
"""Values around the tensors of a pickled file, however often it names the same one."""
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How a file begins that torch.save wrote before PyTorch 1.6."""
TRAINING = re.compile(
    r"optim(izer)?(_?states?)?(_?state_dict)?s?|opt_state|(lr_)?schedulers?(_state(_dict)?)?|"
    r"exp_avg(_sq)?|callbacks?|loops?|grad_scaler|scaler_state(_dict)?|rng_states?|amp",
    re.IGNORECASE,
)
"""Parts of a checkpoint that training kept for itself; Adam's averages have the weights' shapes."""
AVERAGED = re.compile(r"(^|[._])ema(_?\w+)?\.", re.IGNORECASE)
"""Names of a running average of the weights beside the weights."""


TEXTS = {
    "U": "text",
    "S": "text",
    "b": "truths",
}
"""Kinds of NumPy arrays that are no numbers and do no harm."""


@dataclass(frozen=True)
class Contents:
    """What a file holds: float32 tensors by name, and what was passed over, with the reason."""

    tensors: dict[str, Tensor]
    passed: dict[str, str]
    values: dict[str, object]
    """Numbers and texts among what was passed over, as they are."""


@dataclass(frozen=True)
class Beside:
    """Something in a file that is no weight, and why it is passed over."""

    why: str
    value: object = None


def read_tensors(path: Path, beside: dict[str, object] | None = None) -> dict[str, Tensor]:
    """The tensors of `read_contents`; its numbers and texts are put into `beside`."""
    contents = read_contents(path)
    if beside is not None:
        beside |= contents.values
    return contents.tensors


def read_contents(path: Path) -> Contents:
    """Named float32 tensors of a safetensors, PyTorch or NumPy file; nested names are joined by
    dots. What training kept for itself, texts and truths are passed over and named.

    Raises StitchLensError that names the fault: what it is not, what is too large, what is not a
    finite number.
    """
    sized(path, WEIGHT_FILES, LARGEST_STITCH)
    readers: dict[str, Callable[[Path], Contents]] = {
        ".safetensors": _safetensors,
        ".npz": _npz,
    }
    contents = readers.get(path.suffix.lower(), _torch)(path)
    tensors, passed = dict(contents.tensors), dict(contents.passed)
    for key, value in contents.tensors.items():
        if value.dtype == torch.bool:
            passed[key] = "not used: truths, no numbers"
            del tensors[key]
    averaged = [key for key in tensors if AVERAGED.search(f"{key}.")]
    if len(averaged) < len(tensors):
        for key in averaged:
            passed[key] = "not used: a running average, beside the weights themselves"
            del tensors[key]

    if not tensors:
        reasons = "; ".join(f"{k}: {v}" for k, v in list(passed.items())[:3])
        beside = f" ({reasons})" if passed else ""
        raise StitchLensError(
            f"no tensor in {path.name}{beside}", "the weights of a stitch", "save its state_dict"
        )
    fits([value.shape for value in tensors.values()], LARGEST_STITCH, path.name)
    finite_ones = {k: finite(v, f"{k[:60]} of {path.name}") for k, v in tensors.items()}
    return Contents(finite_ones, passed, contents.values)


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


def _safetensors(path: Path) -> Contents:
    safetensors_header(path, LARGEST_STITCH)
    try:
        with safe_open(path, "pt") as f:
            names = list(f.keys())
            return Contents({name: f.get_tensor(name) for name in names}, {}, {})
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


def _torch(path: Path) -> Contents:
    with path.open("rb") as f:
        legacy = f.read(len(LEGACY)) == LEGACY
    if legacy:
        raise StitchLensError(
            f"an old torch.save format in {path.name} (from before PyTorch 1.6)",
            "the format of today",
            "open it where you trust it and save it again: "
            "`safetensors.torch.save_file(torch.load(path, weights_only=True), new_path)`",
        )
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
        loaded = torch.load(
            path,
            map_location="cpu",
            weights_only=True,
            mmap=True,
        )
    except Exception as e:  # noqa: BLE001 - a hostile file makes it raise anything; nothing of it has run
        raise StitchLensError(
            f"{path.name}, which is more than weights or damaged ({first_line(e)})",
            "a state_dict of tensors alone",
            "save it with `safetensors.torch.save_file(model.state_dict(), path)`",
        ) from None
    tensors: dict[str, Tensor] = {}
    passed: dict[str, str] = {}
    values: dict[str, object] = {}
    most = max(m.file_size for m in members)
    for visited, (key, value) in enumerate(_flat(loaded, path.name)):
        if visited >= VISITED:
            raise StitchLensError(
                f"over {VISITED:,} values in {path.name}", "a state_dict", "save the weights alone"
            )
        if isinstance(value, Beside):
            passed[key] = value.why
            if isinstance(value.value, str | int | float):
                values[key] = value.value
        elif value is not None:
            if value.device.type == "cpu" and value.untyped_storage().nbytes() > most:
                raise StitchLensError(
                    f"{key[:60]} in {path.name}, which claims more bytes than any part has",
                    "a whole file",
                    "save it again",
                )
            tensors[key] = value
            counted(len(tensors), path.name)
    return Contents(tensors, passed, values)


def _called(pickled: bytes) -> Iterator[str]:
    """'module name' of everything that a pickle calls; '?' where it hides the name."""
    for op, value, _ in pickletools.genops(pickled):
        if op.name == "GLOBAL":
            yield str(value)
        elif op.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"):
            yield f"? by {op.name}"


def _flat(
    value: Any,
    name: str,
    prefix: str = "",
    depth: int = 0,
) -> Iterator[tuple[str, Tensor | Beside | None]]:
    """Every value within, with its name: a tensor, what is passed over, or None for mappings and
    lists."""
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
    if prefix and TRAINING.fullmatch(prefix.rpartition(".")[2]):
        yield prefix, Beside("not used: what training kept for itself")
        return
    if not isinstance(value, Mapping | list | tuple):
        yield prefix, Beside(f"not used: {type(value).__name__}, no tensor", value)
        return

    yield prefix, None
    inside = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, item in inside:
        own = str(key)[:60]
        yield from _flat(item, name, f"{prefix}.{own}" if prefix else own, depth + 1)


def _npz(path: Path) -> Contents:
    out: dict[str, Tensor] = {}
    passed: dict[str, str] = {}
    with opened_zip(path, LARGEST_STITCH) as (archive, members):
        counted(len(members), path.name)
        for member in members:
            key = member.filename.removesuffix(".npy")
            with array_faults(key, path.name), archive.open(member) as part:
                kind = npy_kind(part)
            if kind in TEXTS:
                passed[key] = f"not used: {TEXTS[kind]}, no numbers"
                continue

            value = npz_array(archive, member, key, path.name)
            fits([value.shape, *(t.shape for t in out.values())], LARGEST_STITCH, path.name)
            with np.errstate(over="ignore"):
                out[key] = torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))
    return Contents(out, passed, {})
