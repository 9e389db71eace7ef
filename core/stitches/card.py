"""The report card of a stitch that others trained: what it is, how well it carries, and warnings in
plain words.

Everything comes from one sample of the held-out split that both models read at every layer.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from core.activations.gram import Gram
from core.activations.harvest import Chunk, norm_limits, within
from core.activations.sample import fuv, read_sample
from core.bench import Bench
from core.models.pairs import LayerPair
from core.stitches import downstream
from core.stitches.files import read_contents
from core.stitches.fit import fit_moments, quality
from core.stitches.recognition import Foreign, Orientation, recognise
from core.stitches.settings import FitConfig
from core.stitches.stitch import Stitch, load_stitch, save_stitch, with_makers
from core.workspace.artifacts import check_name
from core.workspace.disk import sha256_file

DOCUMENTS = 12
"""Scored for Table 1."""
USELESS = 0.95
"""FUV from which a map says no more than the mean."""


def _centred(guess: Tensor, truth: Tensor) -> float:
    """FUV with the best offset."""
    return fuv(guess - guess.mean(0) + truth.mean(0), truth)


def fits(
    p: Tensor, bias: Tensor, source: dict[int, Tensor], target: dict[int, Tensor]
) -> pd.DataFrame:
    """FUV of one map between every two layers: `source`, `target`, `fuv`; and `rescaled`, FUV once
    a single factor and an offset are fitted to what comes out."""
    rows = []
    for at, x in source.items():
        out = x @ p + bias
        centred = out - out.mean(0)
        for to, y in target.items():
            offset = y.mean(0)
            power = centred.pow(2).sum().clamp(min=1e-12)
            factor = (centred * (y - offset)).sum() / power
            row = {
                "source": at,
                "target": to,
                "fuv": fuv(out, y),
                "rescaled": fuv(factor * centred + offset, y),
                "factor": float(factor),
            }
            rows.append(row)
    return pd.DataFrame(rows)


def effective_rank(p: Tensor) -> float:
    """exp of the entropy of the singular values' shares: between 1 and the smaller width."""
    values = torch.linalg.svdvals(p.double())
    shares = values / values.sum()
    entropy = -(shares * shares.clamp(min=1e-30).log()).sum()
    return float(entropy.exp())


def settled(foreign: Foreign, sample: Chunk, layers: LayerPair) -> tuple[Foreign, str]:
    """(the reading of a file that carries best, why in a sentence): what its names leave open,
    activations decide. The sentence is empty where there is one reading.

    Readings without a bias are compared with the best offset: a missing bias must not decide which
    way a matrix leads.
    """
    readings = (foreign, *foreign.others)
    if len(readings) == 1:
        return foreign, ""

    def unexplained(reading: Foreign) -> float:
        shares = []
        for way in reading.ways:
            p, bias = reading.map(way)
            source, truth = sample.h_a[layers.a], sample.h_b[layers.b]
            if way == "down":
                source, truth = truth, source
            measure = fuv if way in reading.biased else _centred
            shares.append(measure(source @ p + bias, truth))
        return sum(shares) / len(shares)

    shares = [unexplained(reading) for reading in readings]
    order = sorted(range(len(readings)), key=lambda k: shares[k])
    best, next_best = readings[order[0]], readings[order[1]]
    read = "; ".join(f"{k} as {v}" for k, v in best.layout.items() if next_best.layout.get(k) != v)
    why = (
        f"The names leave {len(readings)} readings open; the one that carries best was taken"
        f" ({read}: FUV {shares[order[0]]:.2f} with the best offset, the next"
        f" {shares[order[1]]:.2f})."
    )
    return best, why


@dataclass(frozen=True)
class _Way:
    """One map of a stitch, with the streams of the sample that it leads from and to."""

    name: str
    """'up' or 'down'."""
    p: Tensor
    bias: Tensor
    back: Tensor
    """The matrix of the other way."""
    source: dict[int, Tensor]
    target: dict[int, Tensor]
    at: int
    """The layer that it is said to read, and the one that it is said to write."""
    to: int


def _ways(foreign: Foreign, sample: Chunk, layers: LayerPair) -> list[_Way]:
    stitch = foreign.stitch
    h_a, h_b = sample.h_a, sample.h_b
    up = _Way("up", stitch.P_up, stitch.b_up, stitch.P_down, h_a, h_b, layers.a, layers.b)
    down = _Way("down", stitch.P_down, stitch.b_down, stitch.P_up, h_b, h_a, layers.b, layers.a)
    return [way for way in (up, down) if way.name in foreign.ways]


def warnings(
    foreign: Foreign, sample: Chunk, layers: LayerPair
) -> tuple[list[dict[str, str]], dict[str, float]]:
    """What looks wrong, each as `about`, `says` and the `test` behind it; and FUV each way at the
    stated layers."""
    faults: list[dict[str, str]] = []
    measured: dict[str, float] = {}
    for way in _ways(foreign, sample, layers):
        table = fits(way.p, way.bias, way.source, way.target)
        stated = table.loc[(table.source == way.at) & (table.target == way.to)].iloc[0]
        measured[f"fuv_{way.name}"] = float(stated.fuv)

        fault = _fault(way, foreign, stated, table.loc[table.fuv.idxmin()])
        if fault is not None:
            about, says, test = fault
            faults.append({"about": about, "way": way.name, "says": says, "test": test})
    return faults, measured


def _fault(
    way: _Way,
    foreign: Foreign,
    stated: Any,
    best: Any,
) -> tuple[str, str, str] | None:
    """(about, says, test) of the likeliest fault of one map: its row at the `stated` layers and its
    `best` one of `fits` tell, and what a transpose or an offset would mend."""
    x, truth = way.source[way.at], way.target[way.to]
    centred = _centred(x @ way.p + way.bias, truth)
    square = way.p.shape[0] == way.p.shape[1]
    transposed = _centred(x @ way.p.T, truth) if square else float("inf")
    other_way = _centred(x @ way.back.T, truth) if len(foreign.ways) == 2 else float("inf")
    turned = min(transposed, other_way)
    source, target = ("A", "B") if way.name == "up" else ("B", "A")

    def explains(unexplained: float, than: float = stated.fuv) -> bool:
        """Whether it fits clearly better than as it is, and says something at all."""
        return bool(unexplained < 0.8 * than and unexplained < USELESS)

    if explains(turned):
        which = "its matrix" if transposed <= other_way else "the matrix of the other way"
        return (
            "transposed",
            f"The map {way.name} looks transposed: {which}, transposed, fits far better.",
            f"FUV {turned:.2f} transposed, {stated.fuv:.2f} as it is",
        )
    if explains(best.fuv):
        return (
            "layers",
            f"The map {way.name} fits other layers better: {source} before layer"
            f" {int(best.source)} to {target} before layer {int(best.target)}.",
            f"FUV {best.fuv:.2f} there, {stated.fuv:.2f} at the stated layers {way.at} and"
            f" {way.to}",
        )
    if explains(centred) and stated.rescaled > 0.8 * centred:
        lacks = "has another" if way.name in foreign.biased else "lacks its"
        return (
            "offset",
            f"The map {way.name} {lacks} bias: what comes out is off by one vector everywhere.",
            f"FUV {centred:.2f} with the best offset, {stated.fuv:.2f} as it is",
        )
    if explains(stated.rescaled, than=min(stated.fuv, centred)):
        times = 1 / stated.factor if stated.factor else float("inf")
        return (
            "normalised",
            f"The map {way.name} was probably trained on normalised activations: what comes out has"
            f" the right direction and {times:.3g} times the right size.",
            f"FUV {stated.rescaled:.2f} once rescaled, {stated.fuv:.2f} as it is",
        )
    if stated.fuv >= USELESS:
        return (
            "control",
            f"The map {way.name} says no more of {target} than its mean does: random, of shuffled"
            " pairs, or for other models or another tokenizer.",
            f"FUV {stated.fuv:.2f} at the stated layers, at best {best.fuv:.2f} between any two",
        )
    return None


def report_card(
    bench: Bench,
    foreign: Foreign,
    layers: LayerPair,
    sample: Chunk,
    makers: dict[str, Any],
) -> tuple[dict[str, Any], Stitch]:
    """(the card, a control fitted on shuffled pairs of the same sample) of a stitch at stated
    layers, on a sample of the held-out split at every layer.

    The card: `ways`, norms, effective ranks, FUV each way, inversion errors, Table 1 with controls
    for the ways there are, on all text and `by_kind`, the distance to our own exact stitch, and
    `warnings`.
    """
    faults, measured = warnings(foreign, sample, layers)
    stitch = foreign.stitch
    gram = Gram(bench.pair.a.d_model, bench.pair.b.d_model)
    inside = within(sample, norm_limits(sample), layers)
    gram.update(sample.h_a[layers.a][inside], sample.h_b[layers.b][inside])
    moments = gram.moments()

    card: dict[str, Any] = {"ways": list(foreign.ways), "positions": int(inside.sum())} | measured
    for way in _ways(foreign, sample, layers):
        card[f"norm_{way.name}"] = float(way.p.norm())
        card[f"norm_b_{way.name}"] = float(way.bias.norm())
        card[f"rank_{way.name}"] = effective_rank(way.p)
    if len(foreign.ways) == 2:
        errors = quality(stitch, moments, "std", 1.0)
        card |= {name: errors[name] for name in ("inversion_a", "inversion_b")}

    ours = own_stitch(bench, layers)
    card["ours"] = "fitted on this sample" if ours is None else "of the workspace"
    ours = ours or fit_moments(moments, FitConfig())
    for way in _ways(foreign, sample, layers):
        exact = ours.P_up if way.name == "up" else ours.P_down
        card[f"distance_{way.name}"] = float((way.p - exact).norm() / exact.norm())

    shuffled = fit_moments(gram.moments(shuffled=True), FitConfig())
    controls = downstream.controls(shuffled, moments.mean_a, moments.mean_b)
    losses = _losses(bench, foreign, layers, controls)
    summary = downstream.summarise(losses)
    card["table_1"] = summary.to_dict("records")
    documents = bench.corpus.split("held-out")[:DOCUMENTS]
    card["by_kind"] = downstream.by_kind(losses, documents).to_dict("records")
    relative = dict(zip(summary.condition, summary.relative, strict=True))
    warned = {fault["way"] for fault in faults}
    unwarned = [way for way in foreign.ways if way not in warned]
    faults += [fault for way in unwarned if (fault := _no_better(way, relative))]
    return card | {"warnings": faults, "makers": makers}, shuffled


def _losses(
    bench: Bench,
    foreign: Foreign,
    layers: LayerPair,
    controls: list[downstream.Condition],
) -> pd.DataFrame:
    """Losses by document and condition on a few held-out documents, as far as there are the ways
    for them."""
    needs = {
        "a_to_b": {"up"},
        "b_to_a": {"down"},
        "a_to_b_to_a": {"up", "down"},
        "b_to_a_to_b": {"up", "down"},
    }
    stitched = [
        condition
        for condition in downstream.stitched(foreign.stitch)
        if needs[condition.name] <= set(foreign.ways)
    ]
    conditions = [*downstream.unpatched(), *controls, *stitched]
    documents = bench.corpus.split("held-out")[:DOCUMENTS]
    losses = downstream.measure(bench.a, bench.b, documents, layers, conditions, "Table 1")
    return pd.DataFrame(losses)


def _no_better(way: str, relative: dict[str, float]) -> dict[str, str]:
    """A warning where a map costs nearly what one of shuffled pairs does; else nothing."""
    crossing = "a_to_b" if way == "up" else "b_to_a"
    cost, control = relative[crossing], relative[f"shuffled_{crossing}"]
    if cost <= 0.9 * control:
        return {}
    return {
        "about": "control",
        "way": way,
        "says": f"The map {way} does hardly better than one of shuffled pairs.",
        "test": f"next-token loss {cost:+.0%}, shuffled pairs {control:+.0%}",
    }


def own_stitch(bench: Bench, layers: LayerPair) -> Stitch | None:
    """A stitch that this project fitted at these layers, if the workspace has one."""
    ws = bench.workspace
    for name in ws.names(prefix="stitches/") if ws.exists else []:
        makers = ws.entry(name).makers
        at = makers.get("layer_a"), makers.get("layer_b")
        if at == (layers.a, layers.b) and makers.get("method") == "exact":
            return load_stitch(ws.path(name))
    return None


def import_stitch(
    bench: Bench,
    path: Path,
    layers: LayerPair,
    name: str,
    orientation: Orientation | None = None,
) -> dict[str, Any]:
    """Read, measure and keep a stitch from a file as `stitches/<name>`, with `controls/<name>` and
    `cards/<name>`.

    Raises StitchLensError for a name that is taken or unfit, layers out of range, and whatever is
    wrong with the file; nothing is kept then.
    """
    ws = bench.workspace
    check_name(ws, "stitches", name)
    bench.pair.check_layers(layers.a, layers.b)
    contents = read_contents(path)
    widths = bench.pair.a.d_model, bench.pair.b.d_model
    readings = recognise(contents.tensors, *widths, orientation)
    sample = read_sample(bench.a, bench.b, bench.corpus.split("held-out"))
    foreign, reading = settled(readings, sample, layers)
    layout = foreign.layout | contents.passed
    makers = bench.makers | {
        "layer_a": layers.a,
        "layer_b": layers.b,
        "method": "imported",
        "metric": "",
        "alpha": 0.0,
        "positions": None,
        "hook_a": f"blocks.{layers.a}.hook_resid_pre",
        "hook_b": f"blocks.{layers.b}.hook_resid_pre",
        "why": "imported",
        "file": path.name,
        "sha256": sha256_file(path)[:16],
        "ways": list(foreign.ways),
        "layout": layout,
    }
    card, shuffled = report_card(bench, foreign, layers, sample, makers)
    card |= {"layout": layout, "reading": reading}
    control = with_makers(
        shuffled, control="shuffled pairs", of=name, layer_a=layers.a, layer_b=layers.b
    )
    stitch = with_makers(foreign.stitch, **makers)
    for place, kind, one, dtype in (
        ("controls", "control", control, torch.float16),
        ("stitches", "stitch", stitch, torch.float32),
    ):
        ws.put(
            f"{place}/{name}",
            partial(save_stitch, one, dtype=dtype),
            kind,
            ".safetensors",
            one.makers,
        )
    ws.put_record(f"cards/{name}", card, makers)
    if len(foreign.ways) == 2:
        ws.put_table(f"downstream/{name}", pd.DataFrame(card["table_1"]), makers)
        ws.put_table(f"kinds/{name}", pd.DataFrame(card["by_kind"]), makers)
    return card


def as_text(name: str, card: dict[str, Any]) -> str:
    lines = [f"{name}: {' and '.join(card['ways'])}, {card['positions']:,} positions"]
    lines += [f"  {k} is {v}" for k, v in card["layout"].items() if not v.startswith("not used")]
    lines += [f"  {k}: {v}" for k, v in card["layout"].items() if v.startswith("not used")]
    if card.get("reading"):
        lines.append(f"  {card['reading']}")
    for way in card["ways"]:
        lines.append(
            f"  {way}: FUV {card[f'fuv_{way}']:.3f}, effective rank {card[f'rank_{way}']:.0f}, norm"
            f" {card[f'norm_{way}']:.3g}, distance to ours {card[f'distance_{way}']:.2f}"
            f" ({card['ours']})"
        )
    for row in card["by_kind"]:
        if row["condition"] in ("a_to_b", "b_to_a"):
            lines.append(
                f"  {row['kind']}, {row['condition']}: {row['relative']:+.1%},"
                f" {row['share_patched']:.0%} of positions crossed, {row['documents']} documents"
            )
    lines.append("  all text:")
    for row in card["table_1"]:
        lines.append(
            f"  {row['condition']:16} {row['loss']:6.3f} nats/token  {row['relative']:+7.1%}"
        )
    lines += [f"  WARNING: {w['says']} ({w['test']})" for w in card["warnings"]] or ["  no warning"]
    return "\n".join(lines)
