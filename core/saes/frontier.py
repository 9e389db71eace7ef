"""How low the error of an SAE gets within a number of FLOPs, by its start, and the law behind it
(Fig. 1c, Eq. 14, Table 4)."""

import numpy as np
import pandas as pd

from core.saes.settings import STARTS
from core.statistics import Floats, bounds

GRID = 40
"""Numbers of FLOPs at which starts are compared."""
RESAMPLES = 1000


def _grid(table: pd.DataFrame) -> Floats:
    """FLOPs that every start has points at; falling where there are none."""
    flops = table.groupby("start").flops
    least = flops.min().max()
    most = flops.max().min()
    return np.geomspace(least, most, GRID)


def _best(rows: pd.DataFrame, grid: Floats) -> Floats:
    """[GRID] least mean squared error of a run within so many FLOPs; infinite where it has none
    yet."""
    mse = np.minimum.accumulate(rows.mse.to_numpy(float))
    reached = np.searchsorted(rows.flops.to_numpy(), grid, side="right")
    last = reached - 1
    return np.where(last < 0, np.inf, mse[np.maximum(last, 0)])


def frontier(
    table: pd.DataFrame, seed: int = 0
) -> tuple[pd.DataFrame, dict[str, dict[str, float]]]:
    """Fig. 1c: (points, laws). A row a start and FLOPs: the least `mse` of any width (means over
    seeds). Laws by start, Eq. 14, L(C) = A C^-β fitted in logarithms: `A`, `beta`, and where there
    are several seeds `A_low`, `beta_high` and so on, 95 % by a bootstrap over them (Table 4). Both
    are empty where the starts share no FLOPs."""
    plain = table.loc[table.auxiliary == 0]
    starts = [start for start in STARTS if start in set(plain.start)]
    grid = _grid(plain)
    rng = np.random.default_rng(seed)
    if not starts or grid[0] >= grid[-1]:
        return pd.DataFrame(columns=["start", "flops", "mse"]), {}

    points = []
    laws: dict[str, dict[str, float]] = {}
    for start in starts:
        of_start = plain.loc[plain.start == start]
        by_width = [_seeds(rows, grid) for _, rows in of_start.groupby("width")]

        mse = np.min([errors.mean(0) for errors in by_width], axis=0)
        points.append(
            pd.DataFrame(
                {
                    "start": start,
                    "flops": grid,
                    "mse": mse,
                }
            )
        )

        ((factor, exponent),) = _law(grid, mse[None]).tolist()
        laws[start] = {"A": factor, "beta": exponent}
        if all(len(errors) > 1 for errors in by_width):
            laws[start] |= _law_interval(grid, by_width, rng)
    return pd.concat(points, ignore_index=True), laws


def _seeds(rows: pd.DataFrame, grid: Floats) -> Floats:
    """[seeds, GRID] of the runs of one width, see `_best`."""
    return np.stack([_best(run, grid) for _, run in rows.groupby("seed")])


def _law_interval(
    grid: Floats,
    by_width: list[Floats],
    rng: np.random.Generator,
) -> dict[str, float]:
    """The ends of a law's A and β, by a bootstrap over the seeds of each width."""
    drawn = []
    for _ in range(RESAMPLES):
        means = []
        for errors in by_width:
            seeds = rng.integers(len(errors), size=len(errors))
            means.append(errors[seeds].mean(0))
        drawn.append(np.min(means, axis=0))

    low, high = bounds(_law(grid, np.stack(drawn))).tolist()
    ends: dict[str, float] = {}
    for end, (factor, exponent) in (("low", low), ("high", high)):
        ends |= {f"A_{end}": factor, f"beta_{end}": exponent}
    return ends


def _law(flops: Floats, mse: Floats) -> Floats:
    """A and β of each row of `mse` [n, GRID]: [n, 2]."""
    x = np.log(flops)
    y = np.log(mse).T
    slope, offset = np.polyfit(x, y, 1)
    return np.stack([np.exp(offset), -slope], axis=1)
