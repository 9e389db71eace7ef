"""The report card of an SAE of A that others trained: what it is, how well it reads our text,
warnings in plain words."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from core.activations.harvest import norm_limits, within
from core.activations.sample import fuv, read_sample
from core.bench import Bench
from core.errors import StitchLensError
from core.models.pairs import LayerPair
from core.saes.adopt import keep_foreign
from core.saes.config import NOTES
from core.saes.crossing import Crossing, zero_shot
from core.saes.sae import reconstruction, sae_of
from core.saes.scale import FACTOR, NORMALISED
from core.saes.settings import ExploreConfig
from core.stitches import tables as stitch_tables
from core.stitches.card import DOCUMENTS, USELESS
from core.workspace.artifacts import check_name, name_from

if TYPE_CHECKING:
    from sae_lens import SAE

ROWS = 500
"""Rows that are read at every layer, to see where an SAE is at home."""
SHOWN = ("original", "random SAE", "transferred", "shuffled-pair stitch")
"""Of `core.saes.crossing.Crossing.variants`, in Table 2."""


def sae_card(
    bench: Bench,
    sae: "SAE[Any]",
    layer: int,
    stitch_name: str | None,
) -> dict[str, Any]:
    """What it is (`architecture`, `d_sae`, `norm` of its decoder directions), how it reads held-out
    text before `layer` of A (`core.saes.sae.reconstruction`), its FUV before every layer, Table 2
    with controls where there is a stitch, and
    `warnings`: `about`, `says` and the `test` behind each."""
    sample = read_sample(bench.a, bench.b, bench.corpus.split("held-out"))
    rows = sample.h_a[layer][within(sample, norm_limits(sample), LayerPair(a=layer, b=0))]
    measured = reconstruction(sae, [rows])
    by_layer = {at: fuv(sae(h[:ROWS]), h[:ROWS]) for at, h in sample.h_a.items()}
    scale = bench.pair.a.d_model**0.5 / float(rows.norm(dim=-1).mean())
    some = rows[:ROWS]
    read, rescaled = sae(some), sae(some * scale) / scale
    about = sae.cfg.metadata
    card: dict[str, Any] = {
        "architecture": sae.cfg.architecture(),
        "d_in": sae.cfg.d_in,
        "d_sae": sae.cfg.d_sae,
        "layer": layer,
        "norm": float(sae.W_dec.norm(dim=-1).mean()),
        "normalised": str(sae.cfg.normalize_activations),
        "by_layer": {str(k): v for k, v in by_layer.items()},
        "stitch": stitch_name,
        **measured,
    }
    if about[FACTOR] is not None:
        card |= {
            "normalised": NORMALISED,
            "scale": float(about[FACTOR]),
            "scale_from": str(about[f"{FACTOR}_from"]),
        }
    normal = Rescaled(scale, fuv(rescaled, some), offset(rescaled, some), offset(read, some))
    card["warnings"] = warnings(
        measured, by_layer, layer, normal if card["normalised"] == "none" else None
    )
    if about[NOTES]:
        card["warnings"].append(
            {
                "about": "config",
                "says": str(about[NOTES]),
                "test": "its cfg.json",
            }
        )
    if stitch_name is not None:
        crossing = Crossing(bench, sae, stitch_name)
        saes = {name: variant for name, variant in crossing.variants().items() if name in SHOWN}
        config = ExploreConfig(reconstruction_positions=len(rows))
        texts = bench.corpus.split("held-out")[:DOCUMENTS]
        card["table_2"] = zero_shot(crossing, saes, config, texts).to_dict("records")
    return card


class Rescaled(NamedTuple):
    """An SAE on rows of mean norm sqrt(d), and on rows as they are."""

    scale: float
    fuv: float
    offset: float
    plain_offset: float


def offset(guess: Tensor, truth: Tensor) -> float:
    """How far the mean of reconstructions is from that of the rows, over the rows' deviation from
    it (rms).

    At the scale of its training this is near 0 whatever the loss: `b_dec` takes up what shrinkage
    by an L1 penalty leaves. So it tells another scale from shrinkage, which a better FUV on larger
    rows does not.
    """
    deviation = (truth - truth.mean(0)).norm(dim=-1).square().mean().sqrt()
    return float((truth - guess).mean(0).norm() / deviation)


def warnings(
    measured: dict[str, float],
    by_layer: dict[int, float],
    layer: int,
    normal: Rescaled | None,
) -> list[dict[str, str]]:
    """What looks wrong with an SAE before `layer`; `normal` is None where it says how its rows were
    normalised."""
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

    here, best = measured["fuv"], min(by_layer, key=lambda at: by_layer[at])
    if by_layer[best] < 0.8 * min(here, by_layer[layer]) and by_layer[best] < USELESS:
        add(
            "layers",
            f"It reads the residual stream before layer {best} better: probably trained there.",
            f"FUV {by_layer[best]:.2f} there, {here:.2f} before layer {layer}",
        )
    elif (
        normal is not None
        and normal.fuv < min(0.8 * here, USELESS)
        and normal.offset < 0.5 * normal.plain_offset
    ):
        add(
            "normalised",
            "It was probably trained on normalised activations, and its cfg.json does not say so:"
            f" bring it again with --scale {normal.scale:.3g}, or the factor of its training.",
            f"FUV {normal.fuv:.2f} on rows scaled to norm √d, {here:.2f} as they are; the mean is"
            f" off by {normal.offset:.2f} and {normal.plain_offset:.2f} deviations",
        )
    elif here >= USELESS:
        add(
            "control",
            "It says no more of A than the mean does: random, damaged, or of another model.",
            f"FUV {here:.2f}, at best {by_layer[best]:.2f} before any layer",
        )
    if measured["dead"] > 0.5:
        add(
            "dead",
            "Most of its features never fire on this sample.",
            f"{measured['dead']:.0%} dead over {measured['n']:,.0f} positions",
        )
    return said


def import_sae(
    bench: Bench,
    ref: str,
    layer: int | None = None,
    name: str | None = None,
    stitch_name: str | None = None,
    scale: float | None = None,
) -> tuple[str, dict[str, Any]]:
    """(name, report card) of an SAE of A from a zip, a folder or RELEASE:ID, kept as `saes/<name>`
    with `sae_cards/<name>`. Table 2 is measured through `stitch_name`, or the workspace's first
    stitch from the SAE's layer. `layer` says what the SAE does not, `scale` by what its rows were
    multiplied; see `core.saes.sae.sae_of`.

    Raises StitchLensError for a name that is taken, a stitch from another layer, and whatever is
    wrong with the SAE; nothing is kept then.
    """
    ws = bench.workspace
    name = name or name_from(ref)
    check_name(ws, "saes", name)
    sae, at = sae_of(bench, ref, "a", layer, scale=scale)
    there = [
        n.removeprefix("stitches/") for n in (ws.names(prefix="stitches/") if ws.exists else [])
    ]
    fitting = [n for n in there if ws.entry(f"stitches/{n}").makers.get("layer_a") == at]
    if stitch_name is not None and stitch_name not in fitting:
        raise StitchLensError(
            f"stitch '{stitch_name}'",
            f"one from layer {at} of A ({', '.join(fitting) or 'none yet'})",
            f"choose one of these, or fit one there: `python -m core stitch fit {bench.pair.key}"
            f" --layer-a {at} --layer-b {opposite(bench, at)}`",
        )
    whole = [
        n
        for n in fitting
        if f"controls/{n}" in ws.names() and both_ways(ws.entry(f"stitches/{n}").makers)
    ]
    card = sae_card(bench, sae, at, stitch_name or next(iter(whole), None))
    keep_foreign(bench, sae, at, ref, name)
    makers = ws.entry(f"saes/{name}").makers
    ws.put_record(f"sae_cards/{name}", _plain(card), makers)
    return name, card


def opposite(bench: Bench, layer: int) -> int:
    """See `core.stitches.tables.opposite`."""
    return stitch_tables.opposite(bench.workspace, bench.pair, layer)


def both_ways(makers: dict[str, Any]) -> bool:
    """Whether a stitch leads up and down; an imported one may lead one way alone."""
    return set(makers.get("ways", ("up", "down"))) == {"up", "down"}


def _plain(value: Any) -> Any:
    """For JSON: NumPy's numbers as Python's, what is not finite as None."""
    match value:
        case dict():
            return {str(k): _plain(v) for k, v in value.items()}
        case list() | tuple():
            return [_plain(v) for v in value]
        case np.generic():
            return _plain(value.item())
        case float() if not np.isfinite(value):
            return None
        case Path():
            return str(value)
    return value


def as_text(name: str, card: dict[str, Any]) -> str:
    lines = [
        (
            f"{name}: {card['architecture']}, {card['d_sae']:,} features before layer"
            f" {card['layer']} of A"
        ),
        (
            f"  explained variance {card['explained_variance']:.3f}, {card['l0']:.0f} active a"
            f" token, {card['dead']:.0%} dead, over {card['n']:,.0f} positions"
        ),
    ]
    if "scale" in card:
        lines.append(
            f"  its rows are scaled by {card['scale']:.4g} ({card['scale_from']}), folded into its"
            " weights"
        )
    for row in card.get("table_2", []):
        lines.append(
            f"  {row['name']:24} {row['model'].upper()}  explained variance"
            f" {row['explained_variance']:+.3f}, loss {row['loss']:.3f} nats/token"
            f" ({row['delta_loss']:+.3f})"
        )
    lines += [f"  WARNING: {w['says']} ({w['test']})" for w in card["warnings"]] or ["  no warning"]
    return "\n".join(lines)
