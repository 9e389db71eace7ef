"""Steering vectors on file: ours, GGUF, Neuronpedia's JSON, NumPy."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from core.errors import StitchLensError, printable
from core.models.pairs import ModelSpec
from core.steering.formats import (
    OnFile,
    from_gguf,
    from_neuronpedia,
    from_npy,
    from_tensors,
    layer_number,
    neuronpedia_vector,
    save_gguf,
)
from core.steering.vectors import (
    Vector,
)
from core.workspace.disk import beside
from core.workspace.headers import safetensors_header
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


def export(
    vector: Vector,
    model: ModelSpec,
    label: str,
    path: Path,
) -> None:
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
    about = {
        "format": FORMAT,
        "layer": vector.layer,
        "mean": vector.mean,
        "base": vector.base,
    }
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
            vector = Vector(layer_number(about["layer"]), v, mean, base, makers)
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


def open_vector(
    path: Path,
    model: str | None = None,
    layer: int | None = None,
) -> Vector:
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
            return from_tensors(path, {k: x for k, x in about.items() if k != "format"})
        case ".gguf":
            return from_gguf(path)
        case ".json":
            return from_neuronpedia(path)
        case ".npy":
            return OnFile({None: from_npy(path)})
    return from_tensors(path, {})


def _ours(
    vector: Vector,
    name: str,
    model: str | None,
    layer: int | None,
) -> Vector:
    """A vector that `save_vector` wrote, for `model` where its makers do not say one."""
    if layer is not None and layer != vector.layer:
        raise _another_layer(name, [vector.layer], layer)
    known = vector.makers.get("model")
    if model is None or known == model:
        return vector
    said = {"model": model} | ({} if known is None else {"hint": printable(known)})
    return replace(vector, makers=dict(vector.makers) | said)


def _chosen(
    on_file: OnFile,
    name: str,
    layer: int | None,
) -> tuple[int, NDArray[np.float64]]:
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


def _others(
    rows: Mapping[int | None, Any],
    at: int,
    layer: int | None,
) -> list[str]:
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


def _another_layer(
    name: str,
    layers: Sequence[int],
    layer: int,
) -> StitchLensError:
    known = ", ".join(map(str, layers))
    return StitchLensError(
        f"{name} with a direction before layer {known}, none before {layer}",
        f"layer {known}",
        "leave out --layer, or give one that the file has",
    )
