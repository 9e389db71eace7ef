"""What a transferred start saved: FLOPs to thresholds, the frontier and its law, turning, dead
features (3.1, D).

FLOPs of a start that needs a stitch include the stitch, learned exactly from moments or by the
paper's recipe. Ratios are to a run from scratch of the same seed; intervals over seeds are
Student's, 95 %, on the logarithm.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd

from core.saes.frontier import frontier
from core.saes.settings import STARTS, TURN_BINS
from core.statistics import Floats, half_width
from core.stitches.tables import _need
from core.workspace.store import Workspace

Fitter = Literal["exact", "adam"]
FITTERS: tuple[Fitter, ...] = ("exact", "adam")
STITCHED = ("transferred", "shuffled stitch")
"""Starts that a stitch has to be learned for."""
SHARES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99, 1.0)
"""Thresholds, as shares of the final explained variance from scratch."""
HEADLINE = 0.9
LAST = 0.1
"""Share of the steps whose mean is a run's final explained variance."""
ABLATIONS = "ablations"
"""In the report, beside the sets of runs: what `core.saes.start_tables` says."""
RUN = ["start", "width", "seed", "auxiliary"]


def sets(ws: Workspace) -> list[str]:
    """Sets of runs that are kept in the workspace."""
    if not ws.exists:
        return []
    return [n.removeprefix("sae_training/") for n in ws.names(prefix="sae_training/")]


def reported(measured: Mapping[str, Any]) -> dict[str, Any]:
    """The sets of runs of a report, by name: see `record`."""
    training = measured.get("sae_training", {})
    return {name: found for name, found in training.items() if name != ABLATIONS}


def sources(ws: Workspace) -> list[tuple[str, str]]:
    """(SAE of A, stitch from its layer) of the workspace, to train from; the stitch that features
    crossed by first."""
    artifacts = ws.manifest().artifacts if ws.exists else {}
    saes = [name for name in artifacts if name.startswith("saes/")]
    stitches = [name for name in artifacts if name.startswith("stitches/")]
    layer = {name: entry.makers.get("layer_a") for name, entry in artifacts.items()}

    measured = (entry for name, entry in artifacts.items() if name.startswith("features/"))
    usual = {entry.makers.get("stitch_name") for entry in measured}
    pairs = [
        (sae.removeprefix("saes/"), stitch.removeprefix("stitches/"))
        for sae in saes
        for stitch in stitches
        if layer[stitch] == layer[sae]
    ]
    return sorted(pairs, key=lambda pair: pair[1] not in usual)


def free_name(taken: list[str]) -> str:
    return next(name for i in range(1, len(taken) + 2) if (name := f"mine-{i}") not in taken)


def setup(ws: Workspace, name: str) -> dict[str, Any]:
    """What the runs were made from: `sae_name`, layers, `widths`, `k`, `seeds`, `positions`, `lr`
    and so on."""
    return ws.entry(f"sae_training/{name}").makers


def results(ws: Workspace, name: str) -> pd.DataFrame:
    """A row a run: its settings, `explained_variance` and the rest of
    `core.saes.sae.reconstruction` on held-out text, the median `cosine` of decoder directions to
    their start, `stopped` where it diverged."""
    return ws.table(f"sae_training/{name}")


def costs(ws: Workspace, name: str) -> dict[str, Any]:
    """See `core.saes.measure.SaeTraining.costs`."""
    return ws.record(f"sae_costs/{name}")


def curves(
    ws: Workspace,
    name: str,
    fitter: Fitter = "exact",
) -> pd.DataFrame:
    """Points of every run: RUN, `step`, `explained_variance`, `mse`, `dead`, and `flops`, the
    stitch included."""
    points = ws.table(f"sae_curves/{name}")
    return with_stitch(points, costs(ws, name)["stitch"][fitter])


def with_stitch(table: pd.DataFrame, stitch: float) -> pd.DataFrame:
    needs_one = table.start.isin(STITCHED)
    return table.assign(flops=table.flops.astype(float) + stitch * needs_one)


def finals(table: pd.DataFrame) -> pd.Series:
    """By RUN, the mean explained variance over the last tenth of the steps."""
    last = table.groupby(RUN).step.transform("max")
    end = table.loc[table.step >= (1 - LAST) * last]
    return end.groupby(RUN).explained_variance.mean()


def flops_to(
    flops: Floats,
    variance: Floats,
    threshold: float,
) -> float:
    """FLOPs at which a moving average (three points) of explained variance first reaches a
    threshold; NaN if never."""
    padded = np.pad(variance, 1, "edge")
    smooth = np.convolve(padded, np.ones(3) / 3, "valid")
    above = np.flatnonzero(smooth >= threshold)
    if not len(above):
        return float("nan")

    i = int(above[0])
    if i == 0:
        return float(flops[0])

    share = (threshold - smooth[i - 1]) / (smooth[i] - smooth[i - 1])
    return float(flops[i - 1] + share * (flops[i] - flops[i - 1]))


def savings(
    table: pd.DataFrame,
    start: str = "transferred",
    shares: tuple[float, ...] = SHARES,
) -> pd.DataFrame:
    """Fig. 2a, a row a width and share: `threshold` (mean over seeds), `ratio` of FLOPs to reach it
    with its interval `low`, `high` (NaN for one seed), `seeds` compared, and `reached`, those that
    got there. Without auxiliary loss."""
    plain = table.loc[table.auxiliary == 0]
    ends = {key: float(variance) for key, variance in finals(plain).items()}
    rows = []
    for width, of_width in plain.groupby("width"):
        runs = dict(iter(of_width.groupby(["start", "seed"])))
        seeds = [n for (s, n) in runs if s == start and ("scratch", n) in runs]
        if not seeds:
            continue

        for share in shares:
            limits = [share * ends["scratch", width, n, 0.0] for n in seeds]
            logs = []
            for n, limit in zip(seeds, limits, strict=True):
                took = _run_to(runs[start, n], limit)
                from_scratch = _run_to(runs["scratch", n], limit)
                logs.append(np.log(took / from_scratch))

            row = {
                "width": int(width),
                "share": share,
                "threshold": float(np.mean(limits)),
            }
            rows.append(row | _ratio(np.array(logs)))
    columns = ["width", "share", "threshold", "ratio", "low", "high", "seeds", "reached"]
    return pd.DataFrame(rows, columns=columns)


def _run_to(run: pd.DataFrame, threshold: float) -> float:
    variance = run.explained_variance.to_numpy(float)
    return flops_to(run.flops.to_numpy(), variance, threshold)


def _ratio(logs: Floats) -> dict[str, float]:
    """Of FLOPs, from the logarithm of each seed's; NaN where one of them got nowhere."""
    reached = logs[np.isfinite(logs)]
    middle = half = float("nan")
    if len(reached) == len(logs):
        middle = float(reached.mean())
        half = half_width(reached)
    return {
        "ratio": np.exp(middle),
        "low": np.exp(middle - half),
        "high": np.exp(middle + half),
        "seeds": len(logs),
        "reached": len(reached),
    }


def turning(
    ws: Workspace,
    name: str,
    width: int,
) -> pd.DataFrame:
    """Fig. 2b: for the runs of one width without auxiliary loss, the `share` of active features by
    `cosine` (bin centre) of the decoder direction to its start; means over seeds."""
    table = results(ws, name)
    table = table.loc[(table.width == width) & (table.auxiliary == 0)]
    edges = np.linspace(-1, 1, TURN_BINS + 1)
    centres = (edges[1:] + edges[:-1]) / 2

    parts = []
    for start in STARTS:
        rows = table.loc[table.start == start]
        if rows.empty:
            continue

        shares = [np.array(counts) / max(1, sum(counts)) for counts in rows.turning]
        mean = np.mean(shares, axis=0)
        parts.append(
            pd.DataFrame(
                {
                    "start": start,
                    "cosine": centres,
                    "share": mean,
                }
            )
        )

    if not parts:
        return pd.DataFrame(columns=["start", "cosine", "share"])
    return pd.concat(parts, ignore_index=True)


def summary(ws: Workspace, name: str) -> pd.DataFrame:
    """Means over seeds by start, width and auxiliary loss: `explained_variance`, `dead` share,
    `cosine`, `seeds`."""
    table = results(ws, name)
    by = table.groupby(["auxiliary", "width", "start"])
    out = by.agg(
        explained_variance=("explained_variance", "mean"),
        dead=("dead", "mean"),
        cosine=("cosine", "mean"),
        seeds=("run", "size"),
        stopped=("stopped", lambda x: "; ".join(s for s in x if s)),
    ).reset_index()
    order = out.start.map({s: i for i, s in enumerate(STARTS)})
    return out.iloc[np.lexsort([order, out.width, out.auxiliary])].reset_index(drop=True)


def sentence(table: pd.DataFrame) -> str:
    """One sentence: at which widths a transferred start saved FLOPs, how many, and where it saved
    none."""
    rows = savings(table, shares=(HEADLINE,))
    if rows.empty:
        return (
            "There is no run from scratch and from a transferred SAE of the same width and seed to"
            " compare yet."
        )

    low = rows.low.fillna(rows.ratio)
    high = rows.high.fillna(rows.ratio)
    saved = high < 1
    lost = low > 1
    unknown = rows.ratio.isna()

    parts = []
    if fewer := _ratios(rows.loc[saved]):
        parts.append(
            f"a transferred start took {_joined(fewer)} of the FLOPs of one from scratch, its"
            " stitch included"
        )
    if more := _ratios(rows.loc[lost]):
        parts.append(
            "a transferred start saved nothing: it took, its stitch included, the FLOPs of one from"
            " scratch times " + _joined(more)
        )
    if unsure := _ratios(rows.loc[~saved & ~lost & ~unknown]):
        parts.append(f"it is not certain that anything was saved with {_joined(unsure)}")
    if never := [f"{width:,}" for width in rows.loc[unknown].width]:
        parts.append(f"it was not reached at {_joined(never)} features")

    clauses = "; ".join(parts)
    return f"To reach {HEADLINE:.0%} of the final explained variance from scratch, {clauses}."


def _ratios(rows: pd.DataFrame) -> list[str]:
    words = []
    for width, ratio, low, high in zip(rows.width, rows.ratio, rows.low, rows.high, strict=True):
        interval = "" if np.isnan(low) else f" ({low:.2f} to {high:.2f})"
        words.append(f"{ratio:.2f}{interval} at {width:,} features")
    return words


def _joined(words: list[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def record(ws: Workspace, name: str) -> dict[str, Any]:
    """For the report: `costs`, `savings` and `laws` by fitter of the stitch, `runs`, and the
    `sentence`."""
    about = setup(ws, name)
    cost = costs(ws, name)
    stitch = cost["stitch"]
    whole = cost["stitch_whole"]
    out: dict[str, Any] = {
        "sae": about["sae_name"],
        "layers": [about["layer_a"], about["layer_b"]],
        "positions": about["positions"],
        "sentence": sentence(curves(ws, name)),
        "costs": cost,
        "stitch_exact_of_adam": stitch["exact"] / stitch["adam"],
        "whole_stitch_exact_of_adam": whole["exact"] / whole["adam"],
        "runs": _plain(summary(ws, name)),
    }
    for fitter in FITTERS:
        table = curves(ws, name, fitter)
        out[f"savings_{fitter}"] = _plain(savings(table))
        _, out[f"laws_{fitter}"] = frontier(table)
    return out


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for JSON: four significant digits, no NaN."""
    return [
        {name: _number(value) for name, value in row.items() if value == value}
        for row in table.to_dict("records")
    ]


def _number(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if float(value).is_integer():
        return int(value)
    return float(f"{value:.4g}")


def as_text(name: str, found: dict[str, Any]) -> str:
    """For a terminal."""
    stitch = found["costs"]["stitch"]
    lines = [
        f"SAE training {name}, from SAE {found['sae']}: {found['sentence']}",
        (
            f"  stitch on {stitch['positions']:,} pairs: exact {stitch['exact']:.2g} FLOPs, Adam"
            f" {stitch['adam']:.2g} ({found['stitch_exact_of_adam']:.2f}; on all of the text"
            f" {found['whole_stitch_exact_of_adam']:.2f})"
        ),
        "  auxiliary width start            explained variance  dead    cosine to start  seeds",
    ]
    for r in found["runs"]:
        lines.append(
            f"  {r['auxiliary']:9g} {r['width']:5} {r['start']:16} {r['explained_variance']:18.4f}"
            f" {r['dead']:6.1%} {r['cosine']:15.3f}  {r['seeds']:5}"
            + (f"  {r['stopped']}" if r["stopped"] else "")
        )
    for start, law in found["laws_exact"].items():
        interval = f" ({law['beta_low']:.3f}, {law['beta_high']:.3f})" if "beta_low" in law else ""
        lines.append(f"  law {start:16} L(C) = {law['A']:.3g} C^-{law['beta']:.3f}{interval}")
    return "\n".join(lines)


def sae_card(ws: Workspace, name: str) -> dict[str, Any]:
    """The report card of an SAE that was brought: see `core.saes.card.sae_card`."""
    return ws.record(f"sae_cards/{name}")


def cards_of_saes(ws: Workspace) -> list[str]:
    """The SAEs that were brought, by name."""
    return [n.removeprefix("sae_cards/") for n in ws.names(prefix="sae_cards/")]


def sae_quality(ws: Workspace, sae: str) -> pd.DataFrame:
    """Table 2 with its controls, one row a variant: see `core.features.measure.zero_shot`."""
    table = ws.table(f"sae_quality/{sae}")
    _need(
        table.columns,
        ("name", "model", "fuv", "l0", "dead", "delta_loss", "ce_loss_score"),
        f"table 'sae_quality/{sae}'",
    )
    return table
