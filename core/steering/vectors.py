"""One direction of the residual stream: learned from texts (DiffMean), carried by a stitch, drawn
at random (4, F).

z̄, the value that a clamp sets, is always measured in the model that is steered.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.activations.harvest import norm_limit, record
from core.activations.recording import kept_positions
from core.errors import StitchLensError
from core.models.live import Encoded, LiveModel
from core.progress import Progress
from core.stitches.stitch import Stitch
from core.stitches.transfer import Direction, transfer_vector
from core.text.corpus import Document
from core.text.languages import LANGUAGES, by_language
from core.workspace.disk import fingerprint


@dataclass(frozen=True)
class Means:
    """Mean residual streams of one model before `layer`, over positive and over negative tokens."""

    layer: int
    positive: Float[Tensor, " d"]
    negative: Float[Tensor, " d"]
    makers: Mapping[str, Any] = field(default_factory=dict)

    def levels(self, v: Float[Tensor, " d"]) -> tuple[float, float]:
        """⟨h, v⟩ on average over positive tokens, which is z̄ of Eq. 8, and over negative ones."""
        return float(self.positive @ v), float(self.negative @ v)


@runtime_checkable
class Levels(Protocol):
    """What z̄ comes from: `Means`, or what is known of them."""

    @property
    def layer(self) -> int: ...

    def levels(self, v: Tensor) -> tuple[float, float]:
        """See `Means.levels`."""
        ...


@dataclass(frozen=True)
class Vector:
    """A direction `v` [d] of unit norm before `layer`, and `mean`, z̄ of Eq. 8: ⟨h, v⟩ over
    positive tokens, on average, in the model that it steers (residual units)."""

    layer: int
    v: Float[Tensor, " d"]
    mean: float
    base: float = 0.0
    """⟨h, v⟩ over negative tokens, on average: a clamp of strength 1 moves those by `mean -
    base`."""
    makers: Mapping[str, Any] = field(default_factory=dict)


def mean_residuals(
    model: LiveModel,
    encoded: Sequence[Encoded],
    kept: Sequence[NDArray[np.intp]],
    layers: Sequence[int],
) -> tuple[dict[int, Float[Tensor, " d"]], int]:
    """By layer, the mean over the kept positions of each text, and how many there are; at each
    layer rows of outlier norm (massive activations) are left out. Raises StitchLensError where
    nothing is kept."""
    totals = {layer: torch.zeros(model.spec.d_model, dtype=torch.float64) for layer in layers}
    counts, limits = dict.fromkeys(layers, 0), dict[int, float]()
    for i in range(0, len(encoded), 64):
        if not sum(map(len, kept[i : i + 64])):
            continue
        for layer, rows in record(model, encoded[i : i + 64], kept[i : i + 64], layers).items():
            h = rows.double()
            norm = h.norm(dim=-1)
            h = h[norm <= limits.setdefault(layer, norm_limit(norm))]
            totals[layer] += h.sum(0)
            counts[layer] += len(h)
    if not all(counts.values()):
        raise StitchLensError("texts without a token", "some words", "give more text")
    return {layer: (totals[layer] / counts[layer]).float() for layer in layers}, max(
        counts.values()
    )


def means(
    model: LiveModel,
    positive: Sequence[str],
    negative: Sequence[str],
    layer: int,
) -> Means:
    """Both means of one model over every token of texts. Raises StitchLensError where a side has
    none, where the texts are the same, or the layer is out of range."""
    if not 0 <= layer < model.spec.n_layers:
        raise StitchLensError(
            f"layer {layer} of {model.spec.title}", f"0 to {model.spec.n_layers - 1}", "choose one"
        )
    if sorted(positive) == sorted(negative):
        raise StitchLensError(
            "the same text on both sides", "two that differ", "change one of them"
        )
    sides, counts = [], []
    for texts in (positive, negative):
        found, n = mean_residuals(model, *kept_positions(model, texts, None), [layer])
        sides.append(found[layer])
        counts.append(n)
    makers = model.makers | {
        "positive": fingerprint(list(positive)),
        "negative": fingerprint(list(negative)),
    }
    return Means(layer, sides[0], sides[1], makers | {"tokens": counts})


def diff_mean(found: Means) -> Vector:
    """v = (μ₊ - μ₋) / ‖μ₊ - μ₋‖ and z̄ = ⟨μ₊, v⟩. Raises StitchLensError where the means are the
    same."""
    return along(
        found.positive - found.negative, found, {"learned": "DiffMean"} | dict(found.makers)
    )


def along(
    v: Float[Tensor, " d"],
    found: Levels,
    makers: Mapping[str, Any],
) -> Vector:
    """The unit vector in the direction of `v`, with z̄ from `found`. Raises StitchLensError for one
    of no length."""
    norm = float(v.double().norm())
    if not np.isfinite(norm) or norm < 1e-6:
        raise StitchLensError(
            "a direction of no length",
            "two sets of texts that differ",
            "the texts are the same, or too short",
        )
    v = v / norm
    mean, base = found.levels(v)
    return Vector(found.layer, v, mean, base, dict(makers) | {"norm": norm, "layer": found.layer})


def moved(
    vector: Vector,
    stitch: Stitch,
    direction: Direction,
    found: Levels,
) -> Vector:
    """A vector of the other model in this one: `v P` without the bias, renormalised; z̄ from
    `found`, this model's own means."""
    v = transfer_vector(vector.v, stitch, direction)
    return along(
        v,
        found,
        {
            "from": dict(vector.makers),
            "stitch": dict(stitch.makers),
            "direction": direction,
        },
    )


def random_direction(d: int, seed: int = 0) -> Float[Tensor, " d"]:
    """Of unit norm."""
    v = torch.randn(d, generator=torch.Generator().manual_seed(seed))
    return v / v.norm()


def random_like(
    vector: Vector,
    found: Levels,
    seed: int = 0,
) -> Vector:
    """A control: a random direction, with z̄ as far from the negative mean's component as that of
    `vector` is, so that a clamp changes as much."""
    v = random_direction(len(vector.v), seed)
    _, base = found.levels(v)
    return Vector(
        vector.layer, v, base + vector.mean - vector.base, base, {"control": "random", "seed": seed}
    )


TEXTS = 60
"""Documents of the fit split for each language's mean; the paper takes 100 to 250."""


class LanguageMeans:
    """Mean residual streams of one model over texts of each language, before every layer."""

    def __init__(
        self,
        mean: Float[Tensor, "languages layers d"],
        labels: Sequence[str],
        makers: dict[str, Any],
    ) -> None:
        self.mean, self.labels, self.makers = mean, list(labels), makers

    def of(self, label: str, layer: int) -> Means:
        """That language as positive, English as negative. Raises StitchLensError for one without
        text."""
        for wanted in (label, "eng"):
            if wanted not in self.labels:
                there = ", ".join(
                    sorted(LANGUAGES.get(x, (x, x))[0] for x in self.labels if x != "eng")
                )
                raise StitchLensError(
                    f"no text in {LANGUAGES.get(wanted, (wanted, wanted))[1]}",
                    f"one of {there or 'none'}",
                    "choose one of these, or bring text of your own",
                )
        if not 0 <= layer < self.mean.shape[1]:
            raise StitchLensError(f"layer {layer}", f"0 to {self.mean.shape[1] - 1}", "choose one")
        plus, minus = (self.mean[self.labels.index(x), layer].float() for x in (label, "eng"))
        return Means(layer, plus, minus, self.makers | {"positive": label, "negative": "eng"})

    def save(self, path: Path) -> None:
        about = {
            "labels": json.dumps(self.labels),
            "makers": json.dumps(self.makers, sort_keys=True),
        }
        save_file({"mean": self.mean.half().contiguous()}, path, metadata=about)


def load_means(path: Path) -> LanguageMeans:
    """Raises StitchLensError where the file is not one of these."""
    try:
        with safe_open(path, "pt") as f:
            about = f.metadata() or {}
            return LanguageMeans(
                f.get_tensor("mean"), json.loads(about["labels"]), json.loads(about["makers"])
            )
    except (SafetensorError, KeyError, ValueError, OSError) as e:
        raise StitchLensError(
            f"no language means in {path.name} ({e})", "their file", "build them again"
        ) from e


def language_means(
    model: LiveModel,
    documents: Sequence[Document],
    partner: LiveModel | None = None,
    texts: int = TEXTS,
) -> LanguageMeans:
    """Over the first `texts` documents of each language: every token, or with `partner` those that
    pair up with it.

    Raises StitchLensError where no document is in a language of LANGUAGES.
    """
    by_label = by_language(documents, texts)
    if not by_label:
        raise StitchLensError(
            "no text with a language", "documents labelled eng, fra …", "use the corpus wheel"
        )
    layers, rows = range(model.spec.n_layers), []
    with Progress(
        f"language means of {model.spec.title}", sum(map(len, by_label.values())), "texts"
    ) as bar:
        for some in by_label.values():
            found, _ = mean_residuals(model, *kept_positions(model, some, partner), layers)
            rows.append(torch.stack([found[layer] for layer in layers]))
            bar.advance(len(some))
    paired = None if partner is None else partner.makers["tokenizer"]
    makers = model.makers | {
        "texts": texts,
        "read": fingerprint(by_label),
        "paired": paired,
    }
    return LanguageMeans(torch.stack(rows), list(by_label), makers)
