"""The report card of a stitch that others trained: what it is, how well it carries, and warnings in
plain words.

Everything comes from one sample of the held-out split that both models read at every layer.
"""

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
    for s, x in source.items():
        out = x @ p + bias
        centred = out - out.mean(0)
        for t, y in target.items():
            y0 = y - y.mean(0)
            factor = (centred * y0).sum() / centred.pow(2).sum().clamp(min=1e-12)
            rows.append((s, t, fuv(out, y), fuv(factor * centred + y.mean(0), y), float(factor)))
    return pd.DataFrame(rows, columns=["source", "target", "fuv", "rescaled", "factor"])


def effective_rank(p: Tensor) -> float:
    """exp of the entropy of the singular values' shares: between 1 and the smaller width."""
    s = torch.linalg.svdvals(p.double())
    share = s / s.sum()
    return float(torch.exp(-(share * share.clamp(min=1e-30).log()).sum()))


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


def warnings(
    foreign: Foreign, sample: Chunk, layers: LayerPair
) -> tuple[list[dict[str, str]], dict[str, float]]:
    """What looks wrong, each as `about`, `says` and the `test` behind it; and FUV each way at the
    stated layers."""
    stitch, said, measured = foreign.stitch, [], dict[str, float]()
    sides = {
        "up": (stitch.P_up, stitch.b_up, stitch.P_down, sample.h_a, sample.h_b, layers.a, layers.b),
        "down": (
            stitch.P_down,
            stitch.b_down,
            stitch.P_up,
            sample.h_b,
            sample.h_a,
            layers.b,
            layers.a,
        ),
    }
    for way in foreign.ways:
        p, bias, back, source, target, at, to = sides[way]
        found = fits(p, bias, source, target)
        here = found.loc[(found.source == at) & (found.target == to)].iloc[0]
        best = found.loc[found.fuv.idxmin()]
        measured[f"fuv_{way}"] = float(here.fuv)
        names = ("A", "B") if way == "up" else ("B", "A")
        truth = target[to]
        centred = _centred(source[at] @ p + bias, truth)

        def add(about: str, says: str, test: str, way: str = way) -> None:
            said.append({"about": about, "way": way, "says": says, "test": test})

        other = _centred(source[at] @ p.T, truth) if p.shape[0] == p.shape[1] else float("inf")
        turned = _centred(source[at] @ back.T, truth) if len(foreign.ways) == 2 else float("inf")
        if min(other, turned) < 0.8 * here.fuv and min(other, turned) < USELESS:
            which = "its matrix" if other <= turned else "the matrix of the other way"
            add(
                "transposed",
                f"The map {way} looks transposed: {which}, transposed, fits far better.",
                f"FUV {min(other, turned):.2f} transposed, {here.fuv:.2f} as it is",
            )
        elif best.fuv < 0.8 * here.fuv and best.fuv < USELESS:
            add(
                "layers",
                f"The map {way} fits other layers better: {names[0]} before layer"
                f" {int(best.source)} to {names[1]} before layer {int(best.target)}.",
                f"FUV {best.fuv:.2f} there, {here.fuv:.2f} at the stated layers {at} and {to}",
            )
        elif centred < 0.8 * here.fuv and centred < USELESS and here.rescaled > 0.8 * centred:
            lacks = "has another" if way in foreign.biased else "lacks its"
            add(
                "offset",
                f"The map {way} {lacks} bias: what comes out is off by the same vector everywhere.",
                f"FUV {centred:.2f} with the best offset, {here.fuv:.2f} as it is",
            )
        elif here.rescaled < 0.8 * min(here.fuv, centred) and here.rescaled < USELESS:
            add(
                "normalised",
                f"The map {way} was probably trained on normalised activations: what comes out has"
                f" the right direction and {1 / here.factor if here.factor else float('inf'):.3g}"
                " times the right size.",
                f"FUV {here.rescaled:.2f} once rescaled, {here.fuv:.2f} as it is",
            )
        elif here.fuv >= USELESS:
            add(
                "control",
                f"The map {way} says no more of {names[1]} than its mean does: random, of shuffled"
                " pairs, or for other models or another tokenizer.",
                f"FUV {here.fuv:.2f} at the stated layers, at best {best.fuv:.2f} between any two",
            )
    return said, measured


def report_card(
    bench: Bench, foreign: Foreign, layers: LayerPair, sample: Chunk, makers: dict[str, Any]
) -> tuple[dict[str, Any], Stitch]:
    """(the card, a control fitted on shuffled pairs of the same sample) of a stitch at stated
    layers, on a sample of the held-out split at every layer.

    The card: `ways`, norms, effective ranks, FUV each way, inversion errors and Table 1
    with controls for the ways there are, the distance to our own exact stitch, and `warnings`.
    """
    said, measured = warnings(foreign, sample, layers)
    stitch, both = foreign.stitch, len(foreign.ways) == 2
    gram = Gram(bench.pair.a.d_model, bench.pair.b.d_model)
    keep = within(sample, norm_limits(sample), layers)
    gram.update(sample.h_a[layers.a][keep], sample.h_b[layers.b][keep])
    moments = gram.moments()
    card: dict[str, Any] = {
        "ways": list(foreign.ways),
        "positions": int(keep.sum()),
    } | measured
    for way in foreign.ways:
        p, b = (stitch.P_up, stitch.b_up) if way == "up" else (stitch.P_down, stitch.b_down)
        card |= {
            f"norm_{way}": float(p.norm()),
            f"norm_b_{way}": float(b.norm()),
            f"rank_{way}": effective_rank(p),
        }
    if both:
        found = quality(stitch, moments, "std", 1.0)
        card |= {k: found[k] for k in ("inversion_a", "inversion_b")}
    ours = own_stitch(bench, layers)
    if ours is None:
        ours = fit_moments(moments, FitConfig())
        card["ours"] = "fitted on this sample"
    else:
        card["ours"] = "of the workspace"
    for way in foreign.ways:
        p, q = (stitch.P_up, ours.P_up) if way == "up" else (stitch.P_down, ours.P_down)
        card[f"distance_{way}"] = float((p - q).norm() / q.norm())
    shuffled = fit_moments(gram.moments(shuffled=True), FitConfig())
    conditions = [
        *downstream.unpatched(),
        *downstream.controls(shuffled, moments.mean_a, moments.mean_b),
    ]
    needs = {
        "a_to_b": {"up"},
        "b_to_a": {"down"},
        "a_to_b_to_a": {"up", "down"},
        "b_to_a_to_b": {"up", "down"},
    }
    conditions += [c for c in downstream.stitched(stitch) if needs[c.name] <= set(foreign.ways)]
    scored = bench.corpus.split("held-out")[:DOCUMENTS]
    losses = downstream.measure(bench.a, bench.b, scored, layers, conditions, "Table 1")
    summary = downstream.summarise(pd.DataFrame(losses))
    card["table_1"] = summary.to_dict("records")
    relative = dict(zip(summary.condition, summary.relative, strict=True))
    for way, name, control in (
        ("up", "a_to_b", "shuffled_a_to_b"),
        ("down", "b_to_a", "shuffled_b_to_a"),
    ):
        if (
            way in foreign.ways
            and relative[name] > 0.9 * relative[control]
            and not any(w["way"] == way for w in said)
        ):
            said.append(
                {
                    "about": "control",
                    "way": way,
                    "says": f"The map {way} does hardly better than one of shuffled pairs.",
                    "test": (
                        f"next-token loss {relative[name]:+.0%}, shuffled pairs"
                        f" {relative[control]:+.0%}"
                    ),
                }
            )
    return card | {"warnings": said, "makers": makers}, shuffled


def own_stitch(bench: Bench, layers: LayerPair) -> Stitch | None:
    """A stitch that this project fitted at these layers, if the workspace has one."""
    ws = bench.workspace
    for name in ws.names(prefix="stitches/") if ws.exists else []:
        makers = ws.entry(name).makers
        if (makers.get("layer_a"), makers.get("layer_b"), makers.get("method")) == (
            layers.a,
            layers.b,
            "exact",
        ):
            return load_stitch(ws.path(name))
    return None


def import_stitch(
    bench: Bench, path: Path, layers: LayerPair, name: str, orientation: Orientation | None = None
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
    kept = with_makers(foreign.stitch, **makers)
    for place, kind, one, dtype in (
        ("controls", "control", control, torch.float16),
        ("stitches", "stitch", kept, torch.float32),
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
    for row in card["table_1"]:
        lines.append(
            f"  {row['condition']:16} {row['loss']:6.3f} nats/token  {row['relative']:+7.1%}"
        )
    lines += [f"  WARNING: {w['says']} ({w['test']})" for w in card["warnings"]] or ["  no warning"]
    return "\n".join(lines)
