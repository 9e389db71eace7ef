"""Steering vectors on file: ours, GGUF, Neuronpedia's JSON, NumPy."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from core.errors import StitchLensError, printable
from core.models.pairs import ModelSpec
from core.steering.vectors import (
    Vector,
)
from core.stitches.files import read_tensors
from core.stitches.transfer import HOOK
from core.workspace.disk import beside
from core.workspace.headers import check_gguf, read_npy, safetensors_header
from core.workspace.untrusted import (
    LARGEST_VECTOR,
    LONGEST_JSON,
    VECTOR_FILES,
    WIDEST,
    first_line,
    parse_json,
    sized,
)

EXPORTS = (".safetensors", ".gguf", ".json")


def export(vector: Vector, model: ModelSpec, label: str, path: Path) -> None:
    """A vector of `model` as a file in the format that its name ends with; makers go along, but in
    Neuronpedia's JSON.

    Raises StitchLensError for another ending.
    """
    vector = replace(vector, makers={"model": model.key} | dict(vector.makers))
    match path.suffix:
        case ".safetensors":
            with beside(path) as part:
                save_vector(vector, part)
        case ".gguf":
            with beside(path) as part:
                save_gguf(vector, model, part)
            about = {
                "layer": vector.layer,
                "mean": vector.mean,
                "base": vector.base,
                "operator": "clamp",
            }
            with beside(path.with_suffix(".gguf.json")) as part:
                part.write_text(
                    json.dumps(about | {"label": label, "makers": dict(vector.makers)}, indent=1),
                    "utf-8",
                )
        case ".json":
            with beside(path) as part:
                part.write_text(
                    json.dumps(neuronpedia_vector(vector, model, label), indent=1), "utf-8"
                )
        case _:
            raise StitchLensError(
                f"'{path.name}'", f"a name that ends with {', '.join(EXPORTS)}", "choose a format"
            )


FORMAT = "stitchlens-vector-1"


def save_vector(vector: Vector, path: Path) -> None:
    """Safetensors: `v` [d] of unit norm; layer, z̄, base and makers in the header."""
    about = {"format": FORMAT, "layer": vector.layer, "mean": vector.mean, "base": vector.base}
    header = {k: str(x) for k, x in about.items()} | {
        "makers": json.dumps(dict(vector.makers), sort_keys=True)
    }
    save_file({"v": vector.v.float().contiguous()}, path, metadata=header)


def load_vector(path: Path) -> Vector:
    """What `save_vector` wrote. Raises StitchLensError that says what the file is not."""
    sized(path, (".safetensors",), LARGEST_VECTOR)
    claims = safetensors_header(path, LARGEST_VECTOR)
    if set(claims) != {"v"} or len(claims["v"].shape) != 1 or claims["v"].shape[0] > WIDEST:
        there = ", ".join(f"{k} {c.shape}" for k, c in claims.items()) or "none"
        raise StitchLensError(
            f"tensors {there} in {path.name}",
            f"one row `v` of at most {WIDEST:,} numbers",
            "export it again",
        )
    try:
        with safe_open(path, "pt") as f:
            about = f.metadata() or {}
            if about.get("format") != FORMAT:
                raise ValueError(f"format {about.get('format')!r}, not {FORMAT}")
            v = f.get_tensor("v").float()
            mean, base = float(about["mean"]), float(about["base"])
            makers = parse_json(about["makers"].encode(), f"the makers of {path.name}")
            vector = Vector(_layer(about["layer"]), v, mean, base, makers)
    except KeyError as e:
        raise StitchLensError(
            f"no {e} in the header of {path.name}", "it", "export it again"
        ) from None
    except (SafetensorError, ValueError, OSError, UnicodeError) as e:
        raise StitchLensError(
            f"no readable vector in {path.name} ({first_line(e)})",
            "one that `vector export` wrote",
            "check the file",
        ) from e
    with np.errstate(over="ignore"):
        sizes = np.asarray([mean, base]).astype(np.float32)
    if not torch.isfinite(v).all() or not np.isfinite(sizes).all():
        raise StitchLensError(
            f"NaN or infinite numbers in {path.name}", "finite ones", "export it again"
        )
    norm = float(v.norm())
    if abs(norm - 1) > 1e-3:
        raise StitchLensError(
            f"a vector of norm {norm:.3g} in {path.name}", "norm 1", "export it again"
        )
    return vector


FORMS = "a GGUF control vector, Neuronpedia's JSON, or one row as .npy, .npz, .safetensors or .pt"


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


def open_vector(path: Path, model: str | None = None, layer: int | None = None) -> Vector:
    """A vector from a file: ours (safetensors), a GGUF control vector, Neuronpedia's JSON, or one
    row of numbers.

    `model` and `layer` say what the file does not (a bare row says neither), and which of several
    layers is taken; the middle one if not given. A vector that is not ours pushes by the file's
    strength times its own length: z̄ is that much above 0. Its makers say which (`strength`,
    `length`), what the file calls the model (`hint`) where `model` is another, and `notes` what
    else there was. Raises StitchLensError, also where the file says another layer.
    """
    sized(path, VECTOR_FILES, LONGEST_JSON if path.suffix.lower() == ".json" else LARGEST_VECTOR)
    try:
        on_file = _read(path)
    except StitchLensError:
        raise
    except Exception as e:  # noqa: BLE001 - parsers of hostile bytes raise many kinds
        raise StitchLensError(
            f"no readable vector in {path.name} ({first_line(e)})", FORMS, "check the file"
        ) from None
    if isinstance(on_file, Vector):
        return _ours(on_file, path.name, model, layer)

    at, v = _chosen(on_file, path.name, layer)
    named = model or on_file.model
    if named is None:
        raise _unsaid(path.name, "its model")
    if v.ndim != 1:
        raise StitchLensError(
            f"numbers of shape {v.shape} in {path.name}", "one row", "save one vector"
        )

    strength = 1.0 if on_file.strength is None else on_file.strength
    with np.errstate(over="ignore", invalid="ignore"):
        norm = float(np.linalg.norm(v))
        push = strength * norm
        sizes = np.asarray([norm, push]).astype(np.float32)
    if not np.isfinite(v).all() or not np.isfinite(sizes).all():
        raise StitchLensError(
            f"NaN, infinite or vast numbers in {path.name}", "finite ones", "check the file"
        )
    if norm < 1e-6:
        raise StitchLensError(
            f"a vector of norm {norm:.3g} in {path.name}", "one that is not all 0", "check the file"
        )

    makers: dict[str, Any] = {
        "learned": "on file",
        "file": path.name,
        "model": printable(named),
        "layer": at,
    }
    makers |= {"length": norm, "strength": on_file.strength}
    if on_file.model is not None and on_file.model != named:
        makers["hint"] = printable(on_file.model)
    notes = [*on_file.notes, *_others(on_file.rows, at, layer)]
    if notes:
        makers["notes"] = [printable(note) for note in notes]
    return Vector(at, torch.from_numpy((v / norm).astype(np.float32)), push, 0.0, makers)


def _read(path: Path) -> OnFile | Vector:
    match path.suffix.lower():
        case ".safetensors":
            safetensors_header(path, LARGEST_VECTOR)
            with safe_open(path, "pt") as f:
                about = f.metadata() or {}
            # Frameworks write their own short names there; another format of ours is refused by
            # `load_vector`.
            if about.get("format") not in (None, "pt", "np", "tf", "flax", "mlx"):
                return load_vector(path)
            return _tensors(path, {k: x for k, x in about.items() if k != "format"})
        case ".gguf":
            return _gguf(path)
        case ".json":
            return _neuronpedia(path)
        case ".npy":
            return OnFile({None: _npy(path)})
    return _tensors(path, {})


def _ours(vector: Vector, name: str, model: str | None, layer: int | None) -> Vector:
    """A vector that `save_vector` wrote, for `model` where its makers do not say one."""
    if layer is not None and layer != vector.layer:
        raise _another_layer(name, [vector.layer], layer)
    known = vector.makers.get("model")
    if model is None or known == model:
        return vector
    said = {"model": model} | ({} if known is None else {"hint": printable(known)})
    return replace(vector, makers=dict(vector.makers) | said)


def _chosen(on_file: OnFile, name: str, layer: int | None) -> tuple[int, NDArray[np.float64]]:
    """The layer and its direction: `layer` where the file has it or says none, else the middle one
    of the file's."""
    if None in on_file.rows:
        if layer is None:
            raise _unsaid(name, "its model and layer" if on_file.model is None else "its layer")
        return layer, on_file.rows[None]
    layers = sorted(at for at in on_file.rows if at is not None)
    if layer is None:
        layer = layers[len(layers) // 2]
    elif layer not in layers:
        raise _another_layer(name, layers, layer)
    return layer, on_file.rows[layer]


def _others(rows: Mapping[int | None, Any], at: int, layer: int | None) -> list[str]:
    """What is said of the layers of a file that were not taken."""
    if len(rows) < 2:
        return []
    layers = ", ".join(str(one) for one in sorted(x for x in rows if x is not None))
    why = "as asked" if layer is not None else "the middle one, was taken"
    return [
        f"it holds directions before layers {layers}; that before {at}, {why}: --layer chooses"
        " another"
    ]


def _unsaid(name: str, what: str) -> StitchLensError:
    return StitchLensError(
        f"{name}, which does not say {what}",
        "both model and layer",
        "say them: --side a|b and --layer L, or as a source file:PATH@b:13 for B's layer 13",
    )


def _another_layer(name: str, layers: Sequence[int], layer: int) -> StitchLensError:
    known = ", ".join(map(str, layers))
    return StitchLensError(
        f"{name} with a direction before layer {known}, none before {layer}",
        f"layer {known}",
        "leave out --layer, or give one that the file has",
    )


def _layer(value: object) -> int:
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


def _npy(path: Path) -> NDArray[np.float64]:
    """A NumPy row, whose claimed size was compared with the file's before anything was
    allocated."""
    with path.open("rb") as f:
        row = read_npy(f, path.stat().st_size, path.name, WIDEST).astype(np.float64)
    return row.reshape(-1) if row.size == max(row.shape, default=1) else row


BLOCK = re.compile(r"(?:layer_activations\.)?(\d{1,3})")
"""How the steering-vectors library names a direction by the block whose output it is added to."""


def _tensors(path: Path, about: Mapping[str, str]) -> OnFile:
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


def _neuronpedia(path: Path) -> OnFile:
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
        layers["layerNumber"] = _layer(body["layerNumber"])
    if (hook := body.get("hookName")) is not None:
        place = HOOK.fullmatch(str(hook))
        if place is None:
            raise ValueError(f"hookName {str(hook)[:40]!r}, not blocks.L.hook_resid_pre or _post")
        layers["hookName"] = _layer(place[1]) + (place[2] == "post")
    elif (source := body.get("layer")) is not None:
        number, _, hook = str(source).partition("-")
        if re.search("resid-post|mlp|att", hook):
            raise ValueError(f"layer {str(source)[:40]!r}, not of resid-pre")
        layers["layer"] = _layer(number)
    if not layers:
        raise ValueError("no layerNumber")
    if len(set(layers.values())) > 1:
        raise ValueError("layers that differ: " + ", ".join(f"{k} {x}" for k, x in layers.items()))
    return next(iter(layers.values()))


def _gguf(path: Path) -> OnFile:
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


def save_gguf(vector: Vector, model: ModelSpec, path: Path) -> None:
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


def neuronpedia_vector(vector: Vector, model: ModelSpec, label: str) -> dict[str, Any]:
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
