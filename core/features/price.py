"""What the features of an SAE pay for a refined stitch: the same measures through the stitch before
and after (Table 2, agreement, attribution correlation)."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.bench import Bench
from core.features.agreement import LEAST, pearson, sums
from core.features.compare import CompareConfig, Comparison
from core.features.measure import Passes
from core.saes.crossing import zero_shot
from core.saes.settings import ExploreConfig
from core.statistics import EFFECT_RESAMPLES, bounds
from core.workspace.store import makers

POSITIONS = 20_000
"""Paired held-out positions, at most, that agreement and attribution are measured on."""
TOKENS = 3_000
"""Of B, scored with reconstructions in place."""
VARIANTS = {"transferred": "transferred SAE", "shuffled-pair stitch": "shuffled-pair stitch"}
"""Of `core.saes.crossing.Crossing.variants`, and what each is called here."""


def price(
    bench: Bench,
    before: str,
    after: str,
    positions: int = POSITIONS,
) -> None:
    """Keep `refine_price/<after>` of two stitches between the same layers, measured with the first
    SAE of the workspace from that layer of A; nothing where there is none, or it is current.

    A row a measure: `sae`, `measure`, `before`, `after`, and the change with its interval where
    features can be drawn, `change`, `change_low`, `change_high` (95 %, bootstrap over features).
    """
    ws = bench.workspace
    layer = makers(ws, f"stitches/{after}").get("layer_a")
    saes = [
        name.removeprefix("saes/")
        for name in ws.names(prefix="saes/")
        if makers(ws, name).get("layer_a") == layer
    ]
    if not saes:
        return
    sae = saes[0]
    config = ExploreConfig(positions=positions, tokens=TOKENS)
    passes = {stitch: Passes(bench, sae, stitch, config) for stitch in (before, after)}
    about = dict(makers(ws, f"refine/{after}")) | passes[after].makers
    about |= {"tokens": bench.config.held_out_tokens, "stitch_before": before}
    del about["stitch_name"]  # it is part of that stitch and goes with it, not made through it
    if bench.current(f"refine_price/{after}", about):
        return

    rows = _reconstruction(passes, before, after)
    rows += _correlations(passes, before, after)
    rows += _agreement(bench, sae, before, after, positions)
    table = pd.DataFrame(rows)
    table.insert(0, "sae", sae)
    ws.put_table(f"refine_price/{after}", table, about)


def _reconstruction(
    passes: dict[str, Passes],
    before: str,
    after: str,
) -> list[dict[str, Any]]:
    """Table 2: what a transferred SAE explains of B's variance, and the loss that it costs B."""
    tables = {}
    for stitch, one in passes.items():
        saes = {name: one.saes[name] for name in VARIANTS}
        tables[stitch] = zero_shot(one.crossing, saes, one.config).set_index("name")

    rows = []
    for name, title in VARIANTS.items():
        explained = [1 - float(tables[stitch].fuv[name]) for stitch in (before, after)]
        losses = [float(tables[stitch].delta_loss[name]) for stitch in (before, after)]
        rows.append(_row(f"explained variance, {title}", *explained))
        rows.append(_row(f"loss with it in place above B's own, {title}", *losses))
    return rows


def _correlations(
    passes: dict[str, Passes],
    before: str,
    after: str,
) -> list[dict[str, Any]]:
    """Attribution correlation (Eq. 10), the median over features."""
    columns = [
        passes[stitch].attribution().tables()["correlation"].correlation.to_numpy(float)
        for stitch in (before, after)
    ]
    return [_medians("attribution correlation, median", *columns)]


def _agreement(
    bench: Bench,
    sae: str,
    before: str,
    after: str,
    positions: int,
) -> list[dict[str, Any]]:
    """Agreement of activations, over features that fire often enough in A and, through either
    stitch, in B."""
    columns = []
    for stitch in (before, after):
        comparison = Comparison(bench, sae, stitch, CompareConfig(positions=positions))
        columns.append(_agreements(comparison))
    return [_medians("agreement, median", *columns)]


def _agreements(comparison: Comparison) -> NDArray[np.float64]:
    """Of each feature over all text; NaN below LEAST firings in either model."""
    text = comparison.held_out
    in_a = comparison.firings("original", text)
    in_b = comparison.firings("transferred", text)
    every = sums(in_a, in_b, np.zeros(text.n, dtype=np.int64), 1)
    x, y, xx, yy, xy, firings_a, firings_b, _ = every.sums[0]
    often = (firings_a >= LEAST) & (firings_b >= LEAST)
    return np.where(often, pearson(float(text.n), x, y, xx, yy, xy), np.nan)


def _medians(
    measure: str,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
) -> dict[str, Any]:
    """The row of a measure that every feature has, over those that have it before and after."""
    known = ~np.isnan(before) & ~np.isnan(after)
    pairs = np.stack([before[known], after[known]])
    n = pairs.shape[1]
    drawn = np.random.default_rng(0).integers(0, max(n, 1), (EFFECT_RESAMPLES, n))
    medians = np.median(pairs, axis=1)
    low, high = bounds([np.diff(np.median(pairs[:, some], axis=1))[0] for some in drawn])
    return _row(measure, *medians) | {
        "change_low": float(low),
        "change_high": float(high),
        "features": n,
    }


def _row(
    measure: str,
    before: float,
    after: float,
) -> dict[str, Any]:
    return {
        "measure": measure,
        "before": float(before),
        "after": float(after),
        "change": float(after - before),
    }
