"""The report card of a steering vector that others made, from what the workspace holds: no model is
opened."""

from pathlib import Path
from typing import Any, get_args

import torch

from core.bench import Bench
from core.errors import StitchLensError
from core.models.pairs import ModelSpec, PairSpec, same_model
from core.steering.files import open_vector, save_vector
from core.steering.keys import Side
from core.steering.vectors import LanguageMeans, Vector, load_means
from core.stitches.stitch import load_stitch
from core.stitches.transfer import transfer_vector
from core.text.languages import LANGUAGES
from core.workspace.artifacts import check_name
from core.workspace.store import Workspace

ALONG = 0.8
"""Cosine with the mean residual stream from which a vector is rather that mean than a
difference."""
HEAVY, LIGHT = 3.0, 0.01
"""Push over the norm of the mean residual stream, from which and up to which it is named."""


def home(pair: PairSpec, vector: Vector) -> Side:
    """Which model of a pair a vector on file is for. Raises StitchLensError where it is for
    neither, or does not fit."""
    model, hint = (str(vector.makers.get(key, "")) for key in ("model", "hint"))
    specs: dict[Side, ModelSpec] = {"a": pair.a, "b": pair.b}
    side = next((side for side in get_args(Side) if same_model(model, specs[side])), None)
    if side is None:
        raise StitchLensError(
            f"a vector of {model or 'no named model'}",
            f"{pair.a.key} or {pair.b.key}",
            "if it is of one of them say which, by --side a or --side b; else choose the workspace"
            " of its model",
        )
    if any(same_model(hint, spec) for of, spec in specs.items() if of != side):
        raise StitchLensError(
            f"a vector of {hint}", f"one of {specs[side].key}, as was said", "say the other side"
        )
    spec = specs[side]
    if vector.v.shape != (spec.d_model,):
        raise StitchLensError(
            f"a vector of width {len(vector.v)}", f"{spec.d_model}", "check the file"
        )
    if not 0 <= vector.layer < spec.n_layers:
        raise StitchLensError(
            f"a vector before layer {vector.layer}", f"0 to {spec.n_layers - 1}", "check the file"
        )
    return side


def vector_card(
    ws: Workspace,
    vector: Vector,
    side: Side,
) -> dict[str, Any]:
    """`side`, `layer`, `push` (z̄ above the negative mean, residual units) and in words where that
    is `from`, `notes` on what else its file held; where the workspace has language means, `size`
    (norm of the mean residual stream over English), `along` (cosine with it) and `nearest` (the
    three languages whose DiffMean vectors are most alike); for each stitch from that layer the
    cosine of the vector with itself after both ways; and `warnings`: `about`, `says` and the `test`
    behind each."""
    card: dict[str, Any] = {
        "side": side,
        "layer": vector.layer,
        "width": len(vector.v),
    }
    card["push"] = vector.mean - vector.base
    card["from"], card["notes"] = origin(vector), list(vector.makers.get("notes", ()))
    if hint := vector.makers.get("hint"):
        card["notes"].append(
            f"its file says {hint}; taken for {vector.makers['model']}, as was said"
        )
    said = []

    def add(
        about: str,
        says: str,
        test: str,
    ) -> None:
        said.append(
            {
                "about": about,
                "says": says,
                "test": test,
            }
        )

    if f"language_means/{side}" in ws.names():
        means = load_means(ws.path(f"language_means/{side}"))
        base = (
            means.of("eng", vector.layer).negative
            if len(means.labels)
            else torch.zeros(len(vector.v))
        )
        card["size"] = float(base.norm())
        card["along"] = float(base @ vector.v / base.norm())
        card["nearest"] = nearest(means, vector)
        ratio = abs(card["push"]) / card["size"]
        if abs(card["along"]) > ALONG:
            add(
                "mean",
                "It points along the mean residual stream itself: rather a mean than a difference"
                " of two.",
                f"cosine {card['along']:.2f} with the mean over English text",
            )
        if ratio > HEAVY or ratio < LIGHT:
            what = (
                "far more than the residual stream is long" if ratio > HEAVY else "next to nothing"
            )
            add(
                "push",
                f"At strength 1 it pushes by {what}: probably made on normalised activations, or"
                " for another strength.",
                f"push {card['push']:.3g}, mean residual stream {card['size']:.3g}",
            )
    crossing = {}
    for name in ws.names(prefix="stitches/"):
        makers = ws.entry(name).makers
        if makers.get(f"layer_{side}") == vector.layer:
            stitch = load_stitch(ws.path(name))
            there, back = ("up", "down") if side == "a" else ("down", "up")
            moved = transfer_vector(vector.v, stitch, there)  # type: ignore[arg-type]
            round_trip = transfer_vector(moved, stitch, back)  # type: ignore[arg-type]
            cosine = torch.cosine_similarity(round_trip, vector.v, dim=0)
            crossing[name.removeprefix("stitches/")] = round(float(cosine), 3)
    card["crossing"] = crossing
    if not crossing:
        says = f"No stitch leads from layer {vector.layer} of {side.upper()}: it cannot cross."
        add("layers", says, "the stitches of this workspace")
    return card | {"warnings": said}


def origin(vector: Vector) -> str:
    """Where its push is from, in words."""
    length, strength = vector.makers.get("length"), vector.makers.get("strength")
    if length is None:
        return "z̄ less its mean over negative tokens, as saved"
    if strength is None:
        return "its length; the file says no strength"
    return f"the file's strength {strength:.4g} times its length {length:.4g}"


def nearest(
    means: LanguageMeans,
    vector: Vector,
    n: int = 3,
) -> list[tuple[str, float]]:
    """(language code, cosine) of the DiffMean vectors before its layer that are most alike, by
    absolute cosine."""
    out = []
    for label in means.labels:
        if label != "eng":
            found = means.of(label, vector.layer)
            cosine = torch.cosine_similarity(found.positive - found.negative, vector.v, dim=0)
            out.append((LANGUAGES.get(label, (label, label))[0], round(float(cosine), 3)))
    return sorted(out, key=lambda one: -abs(one[1]))[:n]


def import_vector(
    bench: Bench,
    path: Path,
    name: str,
    side: Side | None = None,
    layer: int | None = None,
) -> dict[str, Any]:
    """The report card of a vector from a file, kept as `vectors/<name>` with `vector_cards/<name>`;
    `side` and `layer` say what the file does not.

    Raises StitchLensError for a name that is taken and whatever is wrong with the file; nothing is
    kept then.
    """
    ws = bench.workspace
    check_name(ws, "vectors", name)
    specs = {"a": bench.pair.a, "b": bench.pair.b}
    vector = open_vector(path, side and specs[side].key, layer)
    at = home(bench.pair, vector)
    card = vector_card(ws, vector, at)
    makers = {
        "pair": bench.pair.key,
        "side": at,
        "layer": vector.layer,
        "brought": path.name,
        "of": dict(vector.makers),
    }
    ws.put_record(f"vector_cards/{name}", card, makers)
    ws.put(f"vectors/{name}", lambda to: save_vector(vector, to), "vector", ".safetensors", makers)
    return card


def as_text(name: str, card: dict[str, Any]) -> str:
    lines = [
        f"{name}: for {card['side'].upper()} before layer {card['layer']}, pushes by"
        f" {card['push']:.4g} ({card['from']})"
    ]
    lines += [f"  note: {note}" for note in card["notes"]]
    if "size" in card:
        near = ", ".join(f"{code} {cosine:+.2f}" for code, cosine in card["nearest"])
        lines.append(
            f"  mean residual stream {card['size']:.3g}, cosine with it {card['along']:+.2f};"
            f" nearest: {near}"
        )
    lines += [
        f"  through {stitch} and back: cosine {cosine:.2f}"
        for stitch, cosine in card["crossing"].items()
    ]
    lines += [f"  WARNING: {w['says']} ({w['test']})" for w in card["warnings"]] or ["  no warning"]
    return "\n".join(lines)
