"""What lies in a file beside matrices and biases: folded into them where that is exact, else named.

A stitch is an affine map. Weight norm, spectral norm, factors and standardised activations are
affine, too: they are multiplied in. What is not affine is refused by name, never passed over.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from core.errors import StitchLensError
from core.models.pairs import Side

Place = Literal["in", "out"]
Statistic = Literal["mean", "std", "var", "scale"]

STATISTICS: dict[str, Statistic] = {
    **dict.fromkeys(("mean", "means", "mu", "center", "centre"), "mean"),
    **dict.fromkeys(("std", "stds", "stdev", "sigma"), "std"),
    **dict.fromkeys(("var", "variance"), "var"),
    **dict.fromkeys(("scale", "scales", "gain", "factor", "multiplier"), "scale"),
}
"""Words of a name that say what a row of numbers is."""
WORDS: dict[str, Side] = {
    "a": "a",
    "small": "a",
    "b": "b",
    "large": "b",
    "big": "b",
}
PLACES: dict[str, Place] = {
    **dict.fromkeys(("in", "input", "inputs", "x", "src", "source"), "in"),
    **dict.fromkeys(("out", "output", "outputs", "y", "tgt", "target"), "out"),
}
BIASES = {"b", "bias", "intercept", "offset"}
LAYERS = re.compile(
    r"(^|[._/])((layer|rms|batch|group|instance)_?norm|ln|norm|bn|rms|batchnorm\w*)(_?[a-z0-9]{1,6})?[._/]",
    re.IGNORECASE,
)
"""Names of what normalises by the row at hand, or by running statistics whose place is unclear."""
ADAPTERS = re.compile(r"lora_|(^|[._])(adapter|hada_|lokr_)", re.IGNORECASE)


def words(name: str) -> list[str]:
    """The parts of a tensor's name, lower case: `scaler_a.mean_` is scaler, a, mean."""
    return [word for word in re.split(r"[._\-/\s]+", name.lower()) if word]


def statistic(name: str) -> Statistic | None:
    """What a name says that a row of numbers is; None where it says nothing of the kind."""
    kinds: list[Statistic] = [STATISTICS[word] for word in words(name) if word in STATISTICS]
    return kinds[0] if len(set(kinds)) == 1 else None


def is_bias(name: str) -> bool:
    """Only names that say so: a factor that is added is a wrong map without a word."""
    return statistic(name) is None and bool(BIASES & set(words(name)))


def plain_weights(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors in which each reparametrised weight is an ordinary one, what each part of it was).

    Weight norm (`weight_g`, `weight_v`, or `parametrizations.weight.original0`, `…1`) and spectral
    norm at rest are exact. Raises StitchLensError for a parametrisation that is neither.
    """
    weights, notes = dict(tensors), dict[str, str]()

    for name in tensors:
        for magnitude, direction in (
            ("weight_g", "weight_v"),
            ("parametrizations.weight.original0", "parametrizations.weight.original1"),
        ):
            stem = name.removesuffix(magnitude)
            if stem == name or f"{stem}{direction}" not in tensors:
                continue
            weights[f"{stem}weight"] = _weight_norm(
                tensors[name], tensors[f"{stem}{direction}"], name
            )
            notes[name] = f"magnitudes of {stem}weight (weight norm)"
            notes[f"{stem}{direction}"] = f"directions of {stem}weight (weight norm)"

        for original, left, right in (
            ("weight_orig", "weight_u", "weight_v"),
            (
                "parametrizations.weight.original",
                "parametrizations.weight.0._u",
                "parametrizations.weight.0._v",
            ),
        ):
            stem = name.removesuffix(original)
            parts = (f"{stem}{left}", f"{stem}{right}")
            if stem == name or not all(part in tensors for part in parts):
                continue
            u, v = (tensors[part].flatten() for part in parts)
            matrix = tensors[name]
            if matrix.dim() != 2 or (len(u), len(v)) != tuple(matrix.shape):
                raise StitchLensError(
                    f"{name} of {tuple(matrix.shape)} beside vectors of {len(u)} and {len(v)}",
                    "spectral norm's own",
                    "save the weight as it is used",
                )
            # At rest the stored vectors stand still, and the largest singular value is u W v.
            weights[f"{stem}weight"] = matrix / torch.dot(u, matrix @ v)
            notes[name] = f"{stem}weight before spectral norm"
            notes |= dict.fromkeys(parts, f"a singular vector of {stem}weight (spectral norm)")

    for name in notes:
        del weights[name]
    for name in weights:
        if "parametrizations." in name:
            raise StitchLensError(
                f"{name}, a parametrisation that is not known here",
                "weight norm or spectral norm",
                "call `torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')` and"
                " save again",
            )
    return weights, notes


def _weight_norm(
    magnitude: Tensor,
    direction: Tensor,
    name: str,
) -> Tensor:
    """g v / |v|, with the norm over every axis along which there is one magnitude."""
    if magnitude.numel() == 1:
        return magnitude.reshape(1, 1) * direction / direction.norm()
    if magnitude.dim() != direction.dim() or any(
        m not in (1, v) for m, v in zip(magnitude.shape, direction.shape, strict=True)
    ):
        raise StitchLensError(
            f"{name} of shape {tuple(magnitude.shape)} beside directions {tuple(direction.shape)}",
            "one magnitude a row or column",
            "save the weight as it is used",
        )
    shared = [axis for axis, size in enumerate(magnitude.shape) if size == 1]
    return magnitude * direction / direction.norm(dim=shared, keepdim=True)


def refuse_layers(names: Mapping[str, Tensor]) -> None:
    """Raises StitchLensError for parts that make the map something other than affine."""
    for name in names:
        if ADAPTERS.search(name):
            raise StitchLensError(
                f"{name}, part of an adapter", "whole matrices", "merge the adapter and save again"
            )
        running = "running" in words(name)
        if running or (LAYERS.search(name) and statistic(name) is None):
            raise StitchLensError(
                f"{name}, part of a normalisation layer, which is not affine or whose place is not"
                " said",
                "matrices and biases, at most with fixed means, deviations and factors",
                "train the map without the layer, or fold a BatchNorm into the matrix and the bias",
            )


@dataclass(frozen=True)
class Fixed:
    """A row of fixed numbers of one side's stream, or of one map's input or output."""

    name: str
    kind: Statistic
    numbers: Tensor
    way: str | None
    """Of the map that it belongs to; None for every map that touches the side."""
    side: Side


def fixed_rows(
    rows: Mapping[str, Tensor],
    ways: Mapping[str, str | None],
    d_a: int,
    d_b: int,
) -> list[Fixed]:
    """Means, deviations and factors among `rows`, each with the side that it is of.

    `ways` holds the ways of the maps in the file, and for each row the one that its name says.
    Raises StitchLensError that names a row whose place is not said.
    """
    maps = sorted({way for name, way in ways.items() if way and name not in rows})
    out = []
    for name, numbers in rows.items():
        kind = statistic(name)
        assert kind is not None
        own = ways.get(name)
        way = own or (maps[0] if len(maps) == 1 else None)
        side = _side(name, numbers, way, d_a, d_b)
        if side is None or numbers.numel() not in (1, d_a if side == "a" else d_b):
            raise StitchLensError(
                f"{name} of {numbers.numel()} numbers, whose place in the map is not said",
                "a name with its side, such as mean_a or std_b",
                "rename it, or fold it into the matrix and the bias",
            )
        out.append(Fixed(name, kind, numbers.flatten(), own, side))
    return out


def _side(
    name: str,
    numbers: Tensor,
    way: str | None,
    d_a: int,
    d_b: int,
) -> Side | None:
    """The side whose stream a row belongs to: by its name, else by its length."""
    parts = words(name)
    sides: list[Side] = [WORDS[word] for word in parts if word in WORDS]
    if len(set(sides)) == 1:
        return sides[0]

    places = {PLACES[word] for word in parts if word in PLACES}
    if len(places) == 1 and way is not None:
        return "a" if (places.pop() == "in") == (way == "up") else "b"
    if d_a != d_b and numbers.numel() in (d_a, d_b):
        return "a" if numbers.numel() == d_a else "b"
    if numbers.numel() == 1 and way is not None:
        return "b" if way == "up" else "a"  # one factor may stand on either side of the matrix
    return None


def folded(
    way: str,
    matrix: Tensor,
    bias: Tensor,
    fixed: list[Fixed],
    choices: Mapping[str, str],
) -> tuple[Tensor, Tensor]:
    """P [in, out] and b [out] of a map with its fixed rows multiplied in.

    The input is (x - mean) / std, the output y std + mean, as in every standardisation. `choices`
    settles what a name leaves open, see `open_choices`.
    """
    source: Side = "a" if way == "up" else "b"
    before = torch.ones(matrix.shape[0])
    shift = torch.zeros(matrix.shape[0])
    factor, spread = torch.ones(matrix.shape[1]), torch.ones(matrix.shape[1])
    centre = torch.zeros(matrix.shape[1])

    for row in fixed:
        if row.way not in (None, way):
            continue
        numbers = row.numbers.sqrt() if row.kind == "var" else row.numbers
        entering = row.side == source
        match row.kind:
            case "mean" if entering:
                shift = shift + numbers
            case "mean":
                centre = centre + numbers
            case "scale":
                divides = choices.get(row.name) == "divides"
                numbers = 1 / numbers if divides else numbers
                # What a stream is scaled by on its way in, it is scaled back by on its way out,
                # unless the row is part of one map: then it multiplies where it stands.
                if row.way is None and not entering and _of_side(row.name):
                    numbers = 1 / numbers
                if entering:
                    before = before * numbers
                else:
                    factor = factor * numbers
            case _ if entering:
                before = before / numbers
            case _:
                spread = spread * numbers

    p = before[:, None] * matrix * (factor * spread)[None, :]
    offset = -(shift * before) @ matrix
    late = choices.get("bias") == "after"
    moved = offset * factor + bias if late else (offset + bias) * factor
    return p.contiguous(), (moved * spread + centre).contiguous()


def _of_side(name: str) -> bool:
    return any(word in WORDS for word in words(name))


def open_choices(fixed: list[Fixed], biased: bool) -> list[tuple[str, tuple[str, ...]]]:
    """What names leave open, each with its options: whether a factor of a side multiplies or
    divides, and whether a bias is added before a factor or after it."""
    scales = [row for row in fixed if row.kind == "scale"]
    open_ones: list[tuple[str, tuple[str, ...]]] = [
        (row.name, ("multiplies", "divides")) for row in scales if _of_side(row.name)
    ]
    if biased and scales:
        open_ones.append(("bias", ("before", "after")))
    return open_ones
