"""What others' files of steering vectors hold, and how theirs are written: GGUF control vectors,
Neuronpedia's JSON, bare rows."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import StitchLensError, printable
from core.models.pairs import ModelSpec
from core.steering.vectors import (
    Vector,
)
from core.stitches.files import read_tensors
from core.stitches.transfer import HOOK
from core.workspace.headers import check_gguf, read_npy
from core.workspace.untrusted import (
    WIDEST,
    parse_json,
)

DEEPEST = 1_000
"""Layers that a file may name."""


@dataclass(frozen=True)
class OnFile:
    """What a file of others says: a direction for each layer that it acts before (None: the file
    does not say), the model, the strength that multiplies the direction, and `notes` on what else
    is in it."""

    rows: Mapping[int | None, NDArray[np.float64]]
    model: str | None = None
    strength: float | None = None
    notes: tuple[str, ...] = ()


def layer_number(value: object) -> int:
    """A layer's number from a file. Raises ValueError."""
    text = str(value)
    if not re.fullmatch(r"[0-9]{1,4}", text) or int(text) >= DEEPEST:
        raise ValueError(f"layer {text[:40]!r}, not 0 to {DEEPEST - 1}")
    return int(text)


def _unused(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """A note that names the fields of a file that nothing was made of."""
    if not fields:
        return ()
    some = ", ".join(f"{str(k)[:40]} = {str(x)[:20]}" for k, x in list(fields.items())[:8])
    more = f" and {len(fields) - 8} more" if len(fields) > 8 else ""
    return (f"not used of the file: {some}{more}",)


def from_npy(path: Path) -> NDArray[np.float64]:
    """A NumPy row, whose claimed size was compared with the file's before anything was
    allocated."""
    with path.open("rb") as f:
        row = read_npy(f, path.stat().st_size, path.name, WIDEST).astype(np.float64)
    return row.reshape(-1) if row.size == max(row.shape, default=1) else row


BLOCK = re.compile(r"(?:layer_activations\.)?(\d{1,3})")
"""How the steering-vectors library names a direction by the block whose output it is added to."""


def from_tensors(path: Path, about: Mapping[str, str]) -> OnFile:
    """A lone row, whatever its name, or one for each block as the steering-vectors library keeps
    them: what is added after block N acts before layer N + 1."""
    beside: dict[str, object] = {}
    tensors = read_tensors(path, beside)
    shapes = ", ".join(f"{k[:40]} {tuple(x.shape)}" for k, x in list(tensors.items())[:8])
    rows = {
        k: x.double().reshape(-1).numpy()
        for k, x in tensors.items()
        if x.numel() == max(x.shape, default=0) and 1 < x.numel() <= WIDEST
    }
    blocks = {k: int(block[1]) for k in tensors if (block := BLOCK.fullmatch(k))}
    by_block = bool(blocks) and len(set(blocks.values())) == len(tensors)
    if len(rows) != len(tensors) or not (by_block or len(rows) == 1):
        raise StitchLensError(
            f"tensors {shapes} in {path.name}",
            f"one row alone of at most {WIDEST:,} numbers, or one for each block under its number",
            "multiply in what scales it and save the row by itself",
        )
    if (where := beside.pop("layer_type", "decoder_block")) != "decoder_block":
        raise StitchLensError(
            f"layer_type {printable(where, 40)} in {path.name}",
            "decoder_block, the residual stream",
            "use another",
        )
    notes = _unused(dict(about) | beside)
    if not by_block:
        return OnFile({None: next(iter(rows.values()))}, notes=notes)
    said = (
        "its numbers are blocks, as the steering-vectors library has them: after block N is before"
        " layer N + 1"
    )
    return OnFile({block + 1: rows[k] for k, block in blocks.items()}, notes=(*notes, said))


NEURONPEDIA_READ = {
    "modelId",
    "layerNumber",
    "layer",
    "hookType",
    "hookName",
    "vector",
    "vectorLabel",
    "vectorDefaultSteerStrength",
}


NEURONPEDIA_ELSE = re.compile(
    r"index|createdAt|updatedAt|hasVector|(creator|author|source|sourceSet)(Id|Name)?|maxActApprox|umap_\w+|"
    r"topkCosSim\w+|(neuron_alignment|correlated_\w+|freq_hist|logits_hist|neg|pos)_\w+|(decoder_weights|decoderWeights"
    r")_?[dD]ist|frac_nonzero|activations|explanations|lists|comments|model|user"
)
"""What its records hold besides, none of which changes the push."""


def from_neuronpedia(path: Path) -> OnFile:
    """The body of Neuronpedia's `vector/new`, or the record that `vector/get` gives.

    Its strength multiplies the vector, of whatever length that is.
    """
    body = parse_json(path.read_bytes(), path.name)
    for key in ("modelId", "vector"):
        if key not in body:
            raise ValueError(f"no {key}")
    if not re.fullmatch(r"(hook_)?resid[-_]pre", str(body.get("hookType", "resid-pre"))):
        raise ValueError(f"hookType {str(body['hookType'])[:40]!r}, not resid-pre")
    strength, row = body.get("vectorDefaultSteerStrength"), body["vector"]
    if strength is not None and type(strength) not in (int, float):
        raise ValueError(f"vectorDefaultSteerStrength {str(strength)[:40]!r}, no number")
    if (
        not isinstance(row, list)
        or len(row) > WIDEST
        or any(type(x) not in (int, float) for x in row)
    ):
        raise ValueError(f"under vector no list of at most {WIDEST:,} numbers")
    unread = {
        k: x
        for k, x in body.items()
        if k not in NEURONPEDIA_READ and not NEURONPEDIA_ELSE.fullmatch(k)
    }
    v = np.asarray(row, dtype=np.float64)
    layer = _neuronpedia_layer(body)
    return OnFile(
        {layer: v},
        str(body["modelId"]),
        None if strength is None else float(strength),
        _unused(unread),
    )


def _neuronpedia_layer(body: Mapping[str, Any]) -> int:
    """The layer that a vector acts before, by `layerNumber`, `hookName` (blocks.3.hook_resid_pre)
    and `layer` (3-neuronpedia-resid-pre). Raises ValueError where there is none, or two of them
    differ."""
    layers: dict[str, int] = {}
    if "layerNumber" in body:
        layers["layerNumber"] = layer_number(body["layerNumber"])
    if (hook := body.get("hookName")) is not None:
        place = HOOK.fullmatch(str(hook))
        if place is None:
            raise ValueError(f"hookName {str(hook)[:40]!r}, not blocks.L.hook_resid_pre or _post")
        layers["hookName"] = layer_number(place[1]) + (place[2] == "post")
    elif (source := body.get("layer")) is not None:
        number, _, hook = str(source).partition("-")
        if re.search("resid-post|mlp|att", hook):
            raise ValueError(f"layer {str(source)[:40]!r}, not of resid-pre")
        layers["layer"] = layer_number(number)
    if not layers:
        raise ValueError("no layerNumber")
    if len(set(layers.values())) > 1:
        raise ValueError("layers that differ: " + ", ".join(f"{k} {x}" for k, x in layers.items()))
    return next(iter(layers.values()))


def from_gguf(path: Path) -> OnFile:
    """The directions and the model hint of a control vector."""
    from gguf import GGUFReader

    check_gguf(path)
    reader = GGUFReader(path)
    fields = {k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    if fields.get("general.architecture") != "controlvector":
        raise ValueError(
            f"architecture {str(fields.get('general.architecture'))[:40]!r}, not controlvector"
        )
    names = [t.name for t in reader.tensors]
    if strange := [name for name in names if not re.fullmatch(r"direction\.\d{1,3}", name)]:
        raise ValueError(
            f"tensors {', '.join(strange)[:80]}, which are no directions (direction.N)"
        )
    if not names:
        raise ValueError("no directions (direction.N)")
    rows: dict[int | None, NDArray[np.float64]] = {
        int(t.name.split(".")[1]) + 1: np.array(t.data, dtype=np.float64) for t in reader.tensors
    }
    known = (
        "controlvector.model_hint",
        "controlvector.layer_count",
        "stitchlens.mean",
        "stitchlens.base",
    )
    unread = {k: x for k, x in fields.items() if k not in known and not k.startswith("general.")}
    hint = fields.get("controlvector.model_hint")
    return OnFile(rows, str(hint) if hint else None, notes=_unused(unread))


def save_gguf(
    vector: Vector,
    model: ModelSpec,
    path: Path,
) -> None:
    """A control vector for llama.cpp: `direction.N` is added after block N, so what steers before
    layer L is N = L - 1.

    It is scaled so that scale 1 moves an average negative token as a clamp of strength 1 does.
    Raises StitchLensError for a vector before layer 0, which no control vector can reach.
    """
    from gguf import GGUFWriter

    if vector.layer == 0:
        raise StitchLensError(
            "a vector before layer 0", "layer 1 or later", "control vectors act after a block"
        )
    writer = GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", model.key)
    writer.add_uint32("controlvector.layer_count", model.n_layers)
    writer.add_float32("stitchlens.mean", vector.mean)
    writer.add_float32("stitchlens.base", vector.base)
    writer.add_tensor(
        f"direction.{vector.layer - 1}", ((vector.mean - vector.base) * vector.v).float().numpy()
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def neuronpedia_vector(
    vector: Vector,
    model: ModelSpec,
    label: str,
) -> dict[str, Any]:
    """The body of Neuronpedia's `vector/new`: unit vector, and as strength what a clamp of 1 adds
    on average.

    Neuronpedia adds their product, so `open_vector` reads the same push back.
    """
    return {
        "modelId": model.key,
        "layerNumber": vector.layer,
        "hookType": "resid-pre",
        "vector": vector.v.tolist(),
        "vectorDefaultSteerStrength": float(f"{vector.mean - vector.base:.6g}"),
        "vectorLabel": label,
    }
