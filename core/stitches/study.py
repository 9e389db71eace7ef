"""How the default setting of a stitch is chosen on the select split: metric, then alpha."""

from typing import Any

import pandas as pd

from core.activations.gram import Gram
from core.bench import Bench
from core.models.pairs import LayerPair
from core.stitches import downstream
from core.stitches.fit import METRICS, FitConfig, fit_moments, quality
from core.stitches.stitch import Stitch

ALPHAS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""The sweep of Fig. 7."""


def _table1(
    bench: Bench, pair: LayerPair, stitches: dict[str, Stitch], tokens: int, desc: str
) -> pd.DataFrame:
    """Select-split losses of several stitches at one layer pair, one row a stitch, unpatched models
    in `a` and `b`."""
    conditions = downstream.unpatched()
    for name, s in stitches.items():
        conditions += [
            downstream.Condition(f"{name}/{c.name}", c.model, c.rows)
            for c in downstream.stitched(s)
        ]
    measured = downstream.measure(
        bench.a, bench.b, bench.corpus.split("select"), pair, conditions, desc, tokens
    )
    loss = downstream.mean_losses(measured)
    rows = []
    for name in stitches:
        row: dict[str, Any] = {"name": name, "a": loss["a"], "b": loss["b"]}
        rows.append(row | {k.split("/")[1]: v for k, v in loss.items() if k.startswith(f"{name}/")})
    return pd.DataFrame(rows)


def study(bench: Bench, pair: LayerPair, grams: dict[str, dict[str, Gram]]) -> pd.DataFrame:
    """The `study` table: every metric at two strengths of inversion, and least squares, on the
    select split."""
    configs = {
        f"exact/{m}/{alpha:g}": FitConfig(metric=m, alpha=alpha)
        for m in METRICS
        for alpha in (0.1, 1.0)
    }
    configs["lstsq"] = FitConfig(method="lstsq", metric="raw", alpha=0.0)
    makers = bench.makers | {
        "layers": pair.name,
        "configs": sorted(configs),
        "tokens": bench.config.select_tokens,
        "n_fit": grams["fit"][pair.name].n,
    }
    if not bench.current("study", makers):
        moments = grams["fit"][pair.name].moments()
        stitches = {name.replace("/", "_"): fit_moments(moments, c) for name, c in configs.items()}
        table = _table1(
            bench, pair, stitches, bench.config.select_tokens, f"study of the metric at {pair.name}"
        )
        settings = [
            {
                "layer_a": pair.a,
                "layer_b": pair.b,
                "method": c.method,
                "metric": c.metric,
                "alpha": c.alpha,
                "rounds": s.makers["rounds"],
                "seconds": s.makers["seconds"],
            }
            for c, s in zip(configs.values(), stitches.values(), strict=True)
        ]
        bench.workspace.put_table(
            "study", pd.concat([pd.DataFrame(settings), table.drop(columns="name")], axis=1), makers
        )
    return bench.workspace.table("study")


def best_setting(table: pd.DataFrame, inversion: float = 0.05) -> FitConfig:
    """The exact setting with the least increase of A→B and B→A together, among those whose round
    trips cost at most `inversion` (5 %)."""
    exact = table[table.method == "exact"]
    worst = (
        pd.concat([exact.a_to_b_to_a / exact.a, exact.b_to_a_to_b / exact.b], axis=1).max(axis=1)
        - 1
    )
    good = worst <= inversion if (worst <= inversion).any() else worst <= worst.max()
    row = exact.loc[(exact.a_to_b / exact.b + exact.b_to_a / exact.a).where(good).idxmin()]
    return FitConfig(metric=row.metric, alpha=float(row.alpha))


def alpha_sweep(
    bench: Bench, pair: LayerPair, grams: dict[str, dict[str, Gram]], config: FitConfig
) -> pd.DataFrame:
    """The `alpha_sweep` table (Fig. 7): fits from one set of moments, losses on the select
    split."""
    makers = bench.makers | {
        "layers": pair.name,
        "metric": config.metric,
        "alphas": list(ALPHAS),
        "tokens": bench.config.select_tokens,
        "n_fit": grams["fit"][pair.name].n,
    }
    if not bench.current("alpha_sweep", makers):
        fit, held_out = grams["fit"][pair.name].moments(), grams["held-out"][pair.name].moments()
        stitches = {
            str(k): fit_moments(fit, config.model_copy(update={"alpha": x}))
            for k, x in enumerate(ALPHAS)
        }
        table = _table1(
            bench, pair, stitches, bench.config.select_tokens, f"alpha sweep at {pair.name}"
        )
        extra = [
            {
                "stitch": pair.name,
                "metric": config.metric,
                "alpha": x,
                "seconds": s.makers["seconds"],
            }
            | quality(s, held_out, config.metric, x, fit)
            for x, s in zip(ALPHAS, stitches.values(), strict=True)
        ]
        bench.workspace.put_table(
            "alpha_sweep",
            pd.concat([pd.DataFrame(extra), table.drop(columns="name")], axis=1),
            makers,
        )
    return bench.workspace.table("alpha_sweep")
