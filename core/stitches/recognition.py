"""Named tensors recognised as a stitch: which map leads which way, how it lies, what is with it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import torch
from torch import Tensor

from core.errors import StitchLensError
from core.stitches.folding import (
    fixed_rows,
    folded,
    is_bias,
    open_choices,
    plain_weights,
    refuse_layers,
    statistic,
)
from core.stitches.stitch import Stitch

Orientation = Literal["linear", "paper"]
"""Of matrices whose widths are equal: nn.Linear's [out, in], or the paper's [in, out]."""
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


Way = Literal["up", "down"]
WAYS: tuple[Way, Way] = ("up", "down")
READINGS = 32
"""Ways to read one file that are tried at most."""


@dataclass(frozen=True)
class Foreign:
    """A stitch from a file: one or both ways, and how its parts lay there."""

    stitch: Stitch
    """Of a way that the file does not hold, zeros."""
    ways: tuple[Way, ...]
    layout: dict[str, str]
    """Every name in the file, and what it was taken for or why it is not used."""
    others: "tuple[Foreign, ...]" = ()
    """Other readings of the same file, where its names leave something open."""
    biased: tuple[Way, ...] = ()
    """The ways that have an offset: a bias, or fixed means."""

    def map(self, way: Way) -> tuple[Tensor, Tensor]:
        """P [in, out] and b [out] of one way."""
        s = self.stitch
        return (s.P_up, s.b_up) if way == "up" else (s.P_down, s.b_down)


@dataclass(frozen=True)
class _Map:
    """One matrix of a file under one reading."""

    name: str
    way: Way
    linear: bool
    """Whether it lies as nn.Linear's [out, in]."""


def recognise(
    tensors: Mapping[str, Tensor],
    d_a: int,
    d_b: int,
    orientation: Orientation | None = None,
) -> Foreign:
    """The stitch among named tensors, for widths d_A and d_B; every tensor is accounted for.

    The way follows from names, else from the bias (its length is the output's width); the
    orientation from the widths, and where these are equal from the name (`weight` is nn.Linear's
    [out, in], `P…` the paper's [in, out]) or from `orientation`. What is left open gives several
    readings, `others`, for activations to judge. Weight norm, factors and standardised activations
    are folded in, see `core.stitches.folding`.

    Raises StitchLensError that says what was found and which forms are known, and names a tensor
    that is no part of an affine map.
    """
    shapes = ", ".join(f"{k[:40]} {tuple(v.shape)}" for k, v in list(tensors.items())[:8])
    weights, notes = plain_weights(tensors)
    matrices = {
        k: v for k, v in weights.items() if v.dim() == 2 and sorted(v.shape) == sorted((d_a, d_b))
    }
    if not matrices:
        raise StitchLensError(
            f"no matrix between widths {d_a} and {d_b} ({shapes})",
            FORMS,
            "check which models it is for",
        )
    refuse_layers(weights)
    if len(matrices) > 2:
        raise StitchLensError(
            f"{len(matrices)} matrices between widths {d_a} and {d_b} ({shapes})",
            f"one or two: {FORMS}",
            "save the maps of one stitch alone",
        )

    rest = {k: v for k, v in weights.items() if k not in matrices}
    rows = {
        k: v
        for k, v in rest.items()
        if statistic(k) is not None and max(v.shape, default=1) == v.numel()
    }
    biases = {k: v for k, v in rest.items() if k not in rows and v.dim() == 1 and is_bias(k)}
    unused = {k: v for k, v in rest.items() if k not in rows and k not in biases}
    for name, value in unused.items():
        # What is as wide as a stream acts on a stream; anything else beside the maps is a record.
        if {d_a, d_b} & set(value.shape):
            raise StitchLensError(
                f"{name[:60]} {tuple(value.shape)}, which is no matrix, bias, mean, deviation or"
                " factor",
                "tensors of an affine map alone",
                "rename it if it is one of these, or save the file without it",
            )
        notes[name] = f"not used: {tuple(value.shape)} has the width of neither model"

    readings = []
    for maps in _readings(matrices, biases, d_a, d_b, orientation):
        readings += _assembled(maps, matrices, biases, rows, notes, d_a, d_b)
    if len(readings) > READINGS:
        raise StitchLensError(
            f"{len(readings)} ways to read the file ({shapes})", "names that say more", FORMS
        )
    return replace(readings[0], others=tuple(readings[1:]))


def _readings(
    matrices: Mapping[str, Tensor],
    biases: Mapping[str, Tensor],
    d_a: int,
    d_b: int,
    orientation: Orientation | None,
) -> list[list[_Map]]:
    """Each way and orientation that the names allow, the likeliest first."""
    options = []
    for name, matrix in matrices.items():
        partner = _partner(name, biases)
        known = _way(name, None if partner is None else biases[partner], d_a, d_b)
        own = []
        candidates: tuple[Way, ...] = (known,) if known else WAYS
        for way in candidates:
            out = d_b if way == "up" else d_a
            if d_a != d_b:
                laid = [matrix.shape[0] == out]
            elif orientation is not None:
                laid = [orientation == "linear"]
            elif re.search(r"(^|\.)weight$", name):
                laid = [True]
            elif re.search(r"(^|[._])P(_|$)", name):
                laid = [False]
            else:
                laid = [True, False]
            own += [_Map(name, way, linear) for linear in laid]
        if known is None and name.endswith("weight"):
            own.sort(key=lambda one: not one.linear)  # that name is nn.Linear's
        options.append(own)

    maps = [list(one) for one in product(*options)]
    distinct = [one for one in maps if len({m.way for m in one}) == len(one)]
    if not distinct:
        (way,) = {m.way for m in maps[0]}
        raise StitchLensError(
            f"two matrices that lead {way} ({', '.join(matrices)})",
            "one each way",
            "name them up and down",
        )
    if len(matrices) == 2 and len(distinct) > 1 and d_a != d_b:
        # Nobody saves one map [in, out] and its twin [out, in].
        alike = [one for one in distinct if len({m.linear for m in one}) == 1]
        distinct = alike or distinct
    return distinct


def _assembled(
    maps: list[_Map],
    matrices: Mapping[str, Tensor],
    biases: Mapping[str, Tensor],
    rows: Mapping[str, Tensor],
    notes: Mapping[str, str],
    d_a: int,
    d_b: int,
) -> list[Foreign]:
    """The stitches of one reading of the matrices: several where factors may be meant two ways."""
    ways: dict[str, str | None] = {m.name: m.way for m in maps}
    ways |= {name: _named_way(name) for name in rows}
    fixed = fixed_rows(rows, ways, d_a, d_b)
    partners = {m.name: _partner(m.name, biases) for m in maps}
    for name in biases.keys() - set(partners.values()):
        raise StitchLensError(
            f"{name}, a bias that goes with none of {', '.join(matrices)}",
            "a bias for each matrix at most",
            "give both the same beginning, such as up.weight and up.bias",
        )

    out = []
    choices = open_choices(fixed, any(partners.values()))
    for picks in product(*(options for _, options in choices)):
        chosen = dict(zip((name for name, _ in choices), picks, strict=True))
        parts: dict[str, Tensor] = {}
        layout: dict[str, str] = {}
        for m in maps:
            width = d_b if m.way == "up" else d_a
            partner = partners[m.name]
            bias = torch.zeros(width) if partner is None else biases[partner]
            if len(bias) != width:
                raise StitchLensError(
                    f"bias {partner} of {len(bias)} beside {m.name}, which leads {m.way}",
                    f"{width} numbers",
                    "check it",
                )
            matrix = matrices[m.name].T if m.linear else matrices[m.name]
            parts[f"P_{m.way}"], parts[f"b_{m.way}"] = folded(m.way, matrix, bias, fixed, chosen)
            form = "[out, in]" if m.linear else "[in, out]"
            layout[m.name] = f"P_{m.way}, {form}" + ("" if partner else ", no bias")
            if partner:
                after = ", added after the factor" if chosen.get("bias") == "after" else ""
                layout[partner] = f"b_{m.way}{after}"

        for row in fixed:
            does = {
                "mean": "mean",
                "std": "deviation",
                "var": "variance",
                "scale": "factor",
            }
            pick = f", which {chosen[row.name]}" if row.name in chosen else ""
            layout[row.name] = f"{does[row.kind]} of {row.side.upper()}, folded in{pick}"
        shifted = any(row.kind == "mean" for row in fixed)
        biased: tuple[Way, ...] = tuple(m.way for m in maps if partners[m.name] or shifted)
        out.append(_foreign(parts, layout | dict(notes), biased, d_a, d_b))
    return out


def _foreign(
    parts: dict[str, Tensor],
    layout: dict[str, str],
    biased: tuple[Way, ...],
    d_a: int,
    d_b: int,
) -> Foreign:
    """With zeros for a way that the file does not hold."""
    ways: tuple[Way, ...] = tuple(way for way in WAYS if f"P_{way}" in parts)
    for way, shape in (("up", (d_a, d_b)), ("down", (d_b, d_a))):
        parts.setdefault(f"P_{way}", torch.zeros(shape))
        parts.setdefault(f"b_{way}", torch.zeros(shape[1]))
    for name, value in parts.items():
        if not torch.isfinite(value).all():
            raise StitchLensError(
                f"NaN or infinite numbers in {name} once everything is folded in",
                "deviations and factors above 0",
                "check how it was trained",
            )
    stitch = Stitch(parts["P_up"], parts["b_up"], parts["P_down"], parts["b_down"])
    return Foreign(stitch, ways, layout, biased=biased)


def _partner(name: str, biases: Mapping[str, Tensor]) -> str | None:
    """The bias that goes with a matrix by its name."""
    stem = re.sub(r"(weight|W|P)(?=$|_)", "\0", name)
    for form in ("bias", "b"):
        if (other := stem.replace("\0", form)) in biases and other != name:
            return other
    same_way = [
        k
        for k in biases
        if bool(UP.search(k.lower())) == bool(UP.search(name.lower()))
        and bool(DOWN.search(k.lower())) == bool(DOWN.search(name.lower()))
    ]
    return same_way[0] if len(same_way) == 1 else None


def _named_way(name: str) -> Way | None:
    """The way that a name says; None where it says none, or both."""
    low = name.lower()
    up, down = bool(UP.search(low)), bool(DOWN.search(low))
    if up == down:
        return None
    return "up" if up else "down"


def _way(
    name: str,
    bias: Tensor | None,
    d_a: int,
    d_b: int,
) -> Way | None:
    """The way of a matrix by its name, its bias or its place in a list; None where none says."""
    if way := _named_way(name):
        return way
    if bias is not None and d_a != d_b:
        return "up" if len(bias) == d_b else "down"
    first = re.match(r"^(?:.*\.)?([01])\.", name)
    if first:
        return "up" if first[1] == "0" else "down"
    return None
