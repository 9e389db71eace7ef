"""What a transferred start saved: FLOPs to thresholds, the frontier and its law, turning, dead
features (3.1, D).

FLOPs of a start that needs a stitch include the stitch, learned exactly from moments or by the
paper's recipe. Ratios are to a run from scratch of the same seed; intervals over seeds are
Student's, 95 %, on the logarithm.
"""

from typing import Any, Literal

import numpy as np
import pandas as pd

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
RUN = ["start", "width", "seed", "auxiliary"]
GRID = 40
RESAMPLES = 1000


def sets(ws: Workspace) -> list[str]:
    """Sets of runs that are kept in the workspace."""
    return (
        [n.removeprefix("sae_training/") for n in ws.names(prefix="sae_training/")]
        if ws.exists
        else []
    )


def sources(ws: Workspace) -> list[tuple[str, str]]:
    """(SAE of A, stitch from its layer) of the workspace, to train from; the stitch that features
    crossed by first."""
    artifacts = ws.manifest().artifacts if ws.exists else {}
    usual = {a.makers.get("stitch_name") for n, a in artifacts.items() if n.startswith("features/")}
    layer = {n: a.makers.get("layer_a") for n, a in artifacts.items()}
    pairs = [
        (sae.removeprefix("saes/"), stitch.removeprefix("stitches/"))
        for sae in artifacts
        if sae.startswith("saes/")
        for stitch in artifacts
        if stitch.startswith("stitches/") and layer[stitch] == layer[sae]
    ]
    return sorted(pairs, key=lambda x: x[1] not in usual)


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


def curves(ws: Workspace, name: str, fitter: Fitter = "exact") -> pd.DataFrame:
    """Points of every run: RUN, `step`, `explained_variance`, `mse`, `dead`, and `flops`, the
    stitch included."""
    return with_stitch(ws.table(f"sae_curves/{name}"), costs(ws, name)["stitch"][fitter])


def with_stitch(table: pd.DataFrame, stitch: float) -> pd.DataFrame:
    return table.assign(flops=table.flops.astype(float) + stitch * table.start.isin(STITCHED))


def finals(table: pd.DataFrame) -> pd.Series:
    """By RUN, the mean explained variance over the last tenth of the steps."""
    last = table.groupby(RUN).step.transform("max")
    return table.loc[table.step >= (1 - LAST) * last].groupby(RUN).explained_variance.mean()


def flops_to(flops: Floats, variance: Floats, threshold: float) -> float:
    """FLOPs at which a moving average (three points) of explained variance first reaches a
    threshold; NaN if never."""
    smooth = np.convolve(np.pad(variance, 1, "edge"), np.ones(3) / 3, "valid")
    above = np.flatnonzero(smooth >= threshold)
    if not len(above):
        return float("nan")
    i = int(above[0])
    if i == 0:
        return float(flops[0])
    share = (threshold - smooth[i - 1]) / (smooth[i] - smooth[i - 1])
    return float(flops[i - 1] + share * (flops[i] - flops[i - 1]))


def savings(
    table: pd.DataFrame, start: str = "transferred", shares: tuple[float, ...] = SHARES
) -> pd.DataFrame:
    """Fig. 2a, a row a width and share: `threshold` (mean over seeds), `ratio` of FLOPs to reach it
    with its interval `low`, `high` (NaN for one seed), `seeds` compared, and `reached`, those that
    got there. Without auxiliary loss."""
    plain = table.loc[table.auxiliary == 0]
    ends = {key: float(x) for key, x in finals(plain).items()}
    out = []
    for width, here in plain.groupby("width"):
        runs = {(s, n): rows for (s, n), rows in here.groupby(["start", "seed"])}
        seeds = [n for (s, n) in runs if s == start and ("scratch", n) in runs]
        for share in shares if seeds else ():
            logs, limits = [], []
            for n in seeds:
                limit = share * ends["scratch", width, n, 0.0]
                one, two = (
                    flops_to(r.flops.to_numpy(), r.explained_variance.to_numpy(float), limit)
                    for r in (runs[start, n], runs["scratch", n])
                )
                limits.append(limit)
                logs.append(np.log(one / two))
            got = np.array([x for x in logs if np.isfinite(x)])
            whole = len(got) == len(seeds)
            middle, half = (
                (float(got.mean()), half_width(got)) if whole else (float("nan"), float("nan"))
            )
            out.append(
                {
                    "width": int(width),
                    "share": share,
                    "threshold": float(np.mean(limits)),
                    "ratio": np.exp(middle),
                    "low": np.exp(middle - half),
                    "high": np.exp(middle + half),
                    "seeds": len(seeds),
                    "reached": len(got),
                }
            )
    columns = ["width", "share", "threshold", "ratio", "low", "high", "seeds", "reached"]
    return pd.DataFrame(out, columns=columns)


def _grid(table: pd.DataFrame) -> Floats:
    """FLOPs that every start has points at; falling where there are none."""
    flops = table.groupby("start").flops
    return np.geomspace(flops.min().max(), flops.max().min(), GRID)


def _best(rows: pd.DataFrame, grid: Floats) -> Floats:
    """[GRID] least mean squared error of a run within so many FLOPs; infinite where it has none
    yet."""
    mse = np.minimum.accumulate(rows.mse.to_numpy(float))
    at = np.searchsorted(rows.flops.to_numpy(), grid, side="right") - 1
    return np.where(at < 0, np.inf, mse[np.maximum(at, 0)])


def frontier(
    table: pd.DataFrame, seed: int = 0
) -> tuple[pd.DataFrame, dict[str, dict[str, float]]]:
    """Fig. 1c: (points, laws). A row a start and FLOPs: the least `mse` of any width (means over
    seeds). Laws by start, Eq. 14, L(C) = A C^-β fitted in logarithms: `A`, `beta`, and where there
    are several seeds `A_low`, `beta_high` and so on, 95 % by a bootstrap over them (Table 4). Both
    are empty where the starts share no FLOPs."""
    plain = table.loc[table.auxiliary == 0]
    starts = [s for s in STARTS if s in set(plain.start)]
    grid, rng = _grid(plain), np.random.default_rng(seed)
    if not starts or grid[0] >= grid[-1]:
        return pd.DataFrame(columns=["start", "flops", "mse"]), {}
    points, laws = [], {}
    for start in starts:
        runs = {
            w: np.stack([_best(r, grid) for _, r in rows.groupby("seed")])
            for w, rows in plain.loc[plain.start == start].groupby("width")
        }
        mse = np.min([r.mean(0) for r in runs.values()], axis=0)
        points.append(pd.DataFrame({"start": start, "flops": grid, "mse": mse}))
        fitted = dict(zip(("A", "beta"), _law(grid, mse[None])[0].tolist(), strict=True))
        if all(len(r) > 1 for r in runs.values()):
            drawn = [
                np.min(
                    [r[rng.integers(len(r), size=len(r))].mean(0) for r in runs.values()], axis=0
                )
                for _ in range(RESAMPLES)
            ]
            for end, q in (("low", 0.025), ("high", 0.975)):
                values = np.quantile(_law(grid, np.stack(drawn)), q, axis=0).tolist()
                fitted |= dict(zip((f"A_{end}", f"beta_{end}"), values, strict=True))
        laws[start] = fitted
    return pd.concat(points, ignore_index=True), laws


def _law(flops: Floats, mse: Floats) -> Floats:
    """A and β of each row of `mse` [n, GRID]: [n, 2]."""
    slope, offset = np.polyfit(np.log(flops), np.log(mse).T, 1)
    return np.stack([np.exp(offset), -slope], axis=1)


def turning(ws: Workspace, name: str, width: int) -> pd.DataFrame:
    """Fig. 2b: for the runs of one width without auxiliary loss, the `share` of active features by
    `cosine` (bin centre) of the decoder direction to its start; means over seeds."""
    table = results(ws, name)
    table = table.loc[(table.width == width) & (table.auxiliary == 0)]
    edges = np.linspace(-1, 1, TURN_BINS + 1)
    out = []
    for start in (s for s in STARTS if s in set(table.start)):
        rows = table.loc[table.start == start]
        shares = np.mean([np.array(x) / max(1, sum(x)) for x in rows.turning], axis=0)
        out.append(
            pd.DataFrame({"start": start, "cosine": (edges[1:] + edges[:-1]) / 2, "share": shares})
        )
    return (
        pd.concat(out, ignore_index=True)
        if out
        else pd.DataFrame(columns=["start", "cosine", "share"])
    )


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

    def said(r: Any) -> str:
        interval = "" if np.isnan(r.low) else f" ({r.low:.2f} to {r.high:.2f})"
        return f"{r.ratio:.2f}{interval} at {r.width:,} features"

    if rows.empty:
        return (
            "There is no run from scratch and from a transferred SAE of the same width and seed to"
            " compare yet."
        )
    low, high = rows.low.fillna(rows.ratio), rows.high.fillna(rows.ratio)
    fewer, more, unsure = (
        [said(r) for r in rows.loc[which].itertuples()]
        for which in (high < 1, low > 1, ~(high < 1) & ~(low > 1) & rows.ratio.notna())
    )
    never = [f"{r.width:,}" for r in rows.loc[rows.ratio.isna()].itertuples()]
    parts = []
    if fewer:
        parts.append(
            f"a transferred start took {_joined(fewer)} of the FLOPs of one from scratch, its"
            " stitch included"
        )
    if more:
        parts.append(
            "a transferred start saved nothing: it took, its stitch included, the FLOPs of one from"
            " scratch times " + _joined(more)
        )
    if unsure:
        parts.append(f"it is not certain that anything was saved with {_joined(unsure)}")
    if never:
        parts.append(f"it was not reached at {_joined(never)} features")
    return (
        f"To reach {HEADLINE:.0%} of the final explained variance from scratch, "
        + "; ".join(parts)
        + "."
    )


def _joined(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def record(ws: Workspace, name: str) -> dict[str, Any]:
    """For the report: `costs`, `savings` and `laws` by fitter of the stitch, `runs`, and the
    `sentence`."""
    about, found = setup(ws, name), costs(ws, name)
    out: dict[str, Any] = {
        "sae": about["sae_name"],
        "layers": [about["layer_a"], about["layer_b"]],
        "positions": about["positions"],
        "sentence": sentence(curves(ws, name)),
        "costs": found,
        "stitch_exact_of_adam": found["stitch"]["exact"] / found["stitch"]["adam"],
        "whole_stitch_exact_of_adam": (
            found["stitch_whole"]["exact"] / found["stitch_whole"]["adam"]
        ),
        "runs": _plain(summary(ws, name)),
    }
    for fitter in FITTERS:
        table = curves(ws, name, fitter)
        out[f"savings_{fitter}"] = _plain(savings(table))
        out[f"laws_{fitter}"] = frontier(table)[1]
    return out


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for JSON: four significant digits, no NaN."""
    rows = []
    for row in table.to_dict("records"):
        rows.append(
            {
                k: (
                    v
                    if isinstance(v, str)
                    else int(v)
                    if float(v).is_integer()
                    else float(f"{v:.4g}")
                )
                for k, v in row.items()
                if v == v
            }
        )
    return rows


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
