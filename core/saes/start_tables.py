"""Which start saved training, from a workspace's artifacts to a table and a sentence (3.1, D)."""

from typing import Any

import numpy as np
import pandas as pd

from core.saes.settings import BEGINNINGS
from core.saes.tables import HEADLINE, LAST, flops_to
from core.statistics import Floats, half_width
from core.workspace.store import Workspace

SHARES = (0.5, 0.7, 0.9, 0.99)
"""Thresholds, as shares of the final explained variance of the best run from scratch."""
SCRATCH = tuple(begin.title for begin in BEGINNINGS if begin.untouched)
"""The starts that others are compared with."""
Runs = dict[Any, pd.DataFrame]
"""Curves by start, learning rate and seed."""


def in_per_cent(share: float) -> str:
    """As columns of `summary` call a threshold."""
    return f"{100 * share:.0f}"


def sets(ws: Workspace) -> list[str]:
    """The studies of the workspace."""
    if not ws.exists:
        return []
    return [n.removeprefix("sae_starts/") for n in ws.names(prefix="sae_starts/")]


def setup(ws: Workspace, name: str) -> dict[str, Any]:
    """What the runs were made from: layers, `kinds`, `pairs`, `rates`, `width`, `k` and so on."""
    return ws.entry(f"sae_starts/{name}").makers


def runs(ws: Workspace, name: str) -> pd.DataFrame:
    """A row a run: `start`, `lr`, `seed`; `begins`, the explained variance of its first batch, and
    `explained_variance` on held-out text at the end; `dead`; `made`, FLOPs of the start;
    `stopped`."""
    return ws.table(f"sae_starts/{name}")


def curves(ws: Workspace, name: str) -> pd.DataFrame:
    """Points of every run: `start`, `lr`, `seed`, `step`, `explained_variance`, `dead`, and
    `flops`, the start included."""
    return ws.table(f"sae_start_curves/{name}")


def final(run: pd.DataFrame) -> float:
    """The mean explained variance over the last tenth of the steps of a run."""
    last = run.loc[run.step >= (1 - LAST) * run.step.max()]
    return float(last.explained_variance.mean())


def took(run: pd.DataFrame, threshold: float) -> float:
    """FLOPs of a run until it explains so much; NaN where it never does."""
    variance = run.explained_variance.to_numpy(float)
    return flops_to(run.flops.to_numpy(float), variance, threshold)


def reference(table: pd.DataFrame, seed: int) -> float:
    """The best final explained variance of a run from scratch with this seed."""
    plain = table.loc[table.start.isin(SCRATCH) & (table.seed == seed)]
    return max(final(run) for _, run in plain.groupby(["start", "lr"]))


def best_rates(table: pd.DataFrame) -> dict[str, float]:
    """By start the learning rate with which the run of seed 0 needs the fewest FLOPs to HEADLINE
    of the reference; where none gets there, that with the best end."""
    first = table.loc[table.seed == 0]
    threshold = HEADLINE * reference(first, 0)
    rates: dict[str, float] = {}
    for start, of_start in first.groupby("start"):
        by_rate = {float(lr): run for lr, run in of_start.groupby("lr")}
        flops = {lr: took(run, threshold) for lr, run in by_rate.items()}
        reached = {lr: x for lr, x in flops.items() if np.isfinite(x)}
        if reached:
            rates[str(start)] = min(reached, key=lambda lr: reached[lr])
        else:
            rates[str(start)] = max(by_rate, key=lambda lr: final(by_rate[lr]))
    return rates


def summary(table: pd.DataFrame, results: pd.DataFrame) -> pd.DataFrame:
    """A row a start at its best learning rate, in the order in which they were tried: `lr`,
    `seeds`; means over seeds of `begins`, `explained_variance`, `dead`; `made`, FLOPs of the start
    over those of a whole run; and for each of SHARES, in per cent, `ratio_50` of FLOPs to those of
    the best run from scratch of the same seed, with `low_50`, `high_50` (95 %, Student, NaN for one
    seed); `free`, that to HEADLINE if the start were made for nothing. NaN where a seed never got
    there."""
    rates = best_rates(table)
    by_run: Runs = dict(iter(table.groupby(["start", "lr", "seed"])))
    rows = []
    for start in dict.fromkeys(results.start):
        lr = rates[start]
        own = results.loc[(results.start == start) & (results.lr == lr)]
        whole = max(float(by_run[start, lr, seed].flops.max()) for seed in own.seed)
        row = {
            "start": start,
            "lr": lr,
            "seeds": len(own),
            "begins": float(own.begins.mean()),
            "explained_variance": float(own.explained_variance.mean()),
            "dead": float(own.dead.mean()),
            "made": float(own.made.iloc[0]) / whole,
            "stopped": "; ".join(x for x in own.stopped if x),
        }
        keys = [(start, lr, int(seed)) for seed in own.seed]
        for share in SHARES:
            logs = [_log_ratio(by_run, rates, key, share, table) for key in keys]
            row |= _ratio(np.array(logs), in_per_cent(share))

        made = float(own.made.iloc[0])
        free = [_log_ratio(by_run, rates, key, HEADLINE, table, made) for key in keys]
        row["free"] = float(np.exp(np.mean(free)))
        rows.append(row)
    return pd.DataFrame(rows)


def _log_ratio(
    by_run: Runs,
    rates: dict[str, float],
    key: tuple[str, float, int],
    share: float,
    table: pd.DataFrame,
    free: float = 0.0,
) -> float:
    """Of FLOPs, less what is `free` of them, to those of the best run from scratch of that seed;
    NaN where either never gets there, or there is none."""
    seed = key[2]
    plain = [(start, rates[start], seed) for start in SCRATCH if start in rates]
    plain = [run for run in plain if run in by_run]
    if not plain:
        return float("nan")

    threshold = share * reference(table, seed)
    others = [took(by_run[run], threshold) for run in plain]
    reached = [x for x in others if np.isfinite(x)]
    if not reached:
        return float("nan")
    own = took(by_run[key], threshold) - free
    return float(np.log(own / min(reached)))


def _ratio(logs: Floats, share: str) -> dict[str, float]:
    middle = float(logs.mean())
    half = half_width(logs) if np.isfinite(middle) and len(logs) > 1 else float("nan")
    return {
        f"ratio_{share}": float(np.exp(middle)),
        f"low_{share}": float(np.exp(middle - half)),
        f"high_{share}": float(np.exp(middle + half)),
    }


def sentence(rows: pd.DataFrame) -> str:
    """Which start to use: the one that takes the fewest FLOPs to HEADLINE, or that none saves."""
    key = in_per_cent(HEADLINE)
    starts = rows.loc[~rows.start.isin(SCRATCH)]
    reached = starts.loc[starts[f"ratio_{key}"].notna()]
    goal = f"{HEADLINE:.0%} of what training from scratch explains at its best"
    if reached.empty:
        return f"No other start came to {goal}."

    best = reached.loc[reached[f"ratio_{key}"].idxmin()]
    said = f"{_in_words(best, key)} of the FLOPs from scratch, the start included"
    if best[f"ratio_{key}"] >= 1:
        return (
            f"No start saved anything on the way to {goal}; the best, “{best.start}”, took {said}."
        )

    words = f"The start to use is “{best.start}”: it came to {goal} in {said}"
    carried = reached.loc[reached.start.str.startswith("transferred")]
    if best.start.startswith("transferred") or carried.empty:
        return f"{words}."
    first = carried.loc[carried[f"ratio_{key}"].idxmin()]
    return f"{words}; of the transferred ones, “{first.start}” in {_in_words(first, key)}."


def _in_words(start: pd.Series, share: str) -> str:
    """A ratio with its interval."""
    low, high = start[f"low_{share}"], start[f"high_{share}"]
    interval = "" if np.isnan(low) else f" ({low:.2f} to {high:.2f})"
    return f"{start[f'ratio_{share}']:.2f}{interval}"


def measured(ws: Workspace, name: str) -> pd.DataFrame:
    """The rows of `summary` of a study that is kept."""
    return summary(curves(ws, name), runs(ws, name))


def record(ws: Workspace, name: str) -> dict[str, Any]:
    """For the report: how the study was made, `starts`, the rows of `summary`, and the
    `sentence`."""
    about = setup(ws, name)
    rows = measured(ws, name)
    return {
        "layers": [about["layer_a"], about["layer_b"]],
        "kinds": about["kinds"],
        "pairs": about["pairs"],
        "width": about["width"],
        "k": about["k"],
        "sentence": sentence(rows),
        "starts": [
            {key: value for key, value in row.items() if value == value}
            for row in rows.to_dict("records")
        ],
    }


def as_text(name: str, found: dict[str, Any]) -> str:
    """For a terminal."""
    text = ", ".join(found["kinds"]) or "all text"
    lines = [
        f"Starts {name}: SAEs of {found['width']:,} features on {text},"
        f" starts from {found['pairs']:,} pairs. {found['sentence']}",
        "  FLOPs to 50, 70, 90, 99 %    free  made for  begins   ends   dead      lr  start",
    ]
    for row in found["starts"]:
        ratios = [row.get(f"ratio_{in_per_cent(share)}") for share in SHARES]
        cells = " ".join("    –" if x is None else f"{x:5.2f}" for x in ratios)
        free = row.get("free")
        cells += "      –" if free is None else f"   {free:4.2f}"
        lines.append(
            f"  {cells}    {row['made']:6.1%}  {row['begins']:6.3f}"
            f" {row['explained_variance']:6.3f}"
            f" {row['dead']:6.1%} {row['lr']:7.0e}  {row['start']}"
            + (f"; {row['stopped']}" if row["stopped"] else "")
        )
    return "\n".join(lines)
