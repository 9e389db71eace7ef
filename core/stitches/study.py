"""How the default setting of a stitch is chosen on the select split: metric, then alpha."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from core.activations.gram import Gram
from core.bench import Bench
from core.models.pairs import LayerPair
from core.stitches import downstream
from core.stitches.fit import fit_moments, quality
from core.stitches.settings import METRICS, FitConfig
from core.stitches.stitch import Stitch

ALPHAS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""The sweep of Fig. 7."""


def _losses(
    bench: Bench,
    pair: LayerPair,
    stitches: Sequence[Stitch],
    desc: str,
) -> list[dict[str, float]]:
    """Select-split losses of several stitches at one layer pair, in nats/token: by condition, the
    unpatched models in `a` and `b`."""
    conditions = downstream.unpatched()
    for number, stitch in enumerate(stitches):
        for condition in downstream.stitched(stitch):
            conditions.append(replace(condition, name=f"{number}/{condition.name}"))

    documents = bench.corpus.split("select")
    tokens = bench.config.select_tokens
    rows = downstream.measure(bench.a, bench.b, documents, pair, conditions, desc, tokens)
    means = downstream.mean_losses(pd.DataFrame(rows))

    losses: list[dict[str, float]] = [{"a": means["a"], "b": means["b"]} for _ in stitches]
    for name, loss in means.items():
        number, _, condition = name.partition("/")
        if condition:
            losses[int(number)][condition] = loss
    return losses


def study(
    bench: Bench,
    pair: LayerPair,
    grams: dict[str, dict[str, Gram]],
) -> pd.DataFrame:
    """The `study` table: every metric at two strengths of inversion, and least squares, on the
    select split."""
    configs: dict[str, FitConfig] = {}
    for metric in METRICS:
        for alpha in (0.1, 1.0):
            configs[f"exact/{metric}/{alpha:g}"] = FitConfig(metric=metric, alpha=alpha)
    configs["lstsq"] = FitConfig(
        method="lstsq",
        metric="raw",
        alpha=0.0,
    )

    makers = bench.makers | {
        "layers": pair.name,
        "configs": sorted(configs),
        "tokens": bench.config.select_tokens,
        "n_fit": grams["fit"][pair.name].n,
    }
    if bench.current("study", makers):
        return bench.workspace.table("study")

    moments = grams["fit"][pair.name].moments()
    stitches = [fit_moments(moments, config) for config in configs.values()]
    losses = _losses(bench, pair, stitches, f"study of the metric at {pair.name}")
    rows = []
    for config, stitch, by_condition in zip(configs.values(), stitches, losses, strict=True):
        setting = {
            "layer_a": pair.a,
            "layer_b": pair.b,
            "method": config.method,
            "metric": config.metric,
            "alpha": config.alpha,
            "rounds": stitch.makers["rounds"],
            "seconds": stitch.makers["seconds"],
        }
        rows.append(setting | by_condition)
    bench.workspace.put_table("study", pd.DataFrame(rows), makers)
    return bench.workspace.table("study")


def best_setting(table: pd.DataFrame, inversion: float = 0.05) -> FitConfig:
    """The exact setting with the least increase of A→B and B→A together, among those whose round
    trips cost at most `inversion` (5 %)."""
    exact = table[table.method == "exact"]
    round_a = exact.a_to_b_to_a / exact.a
    round_b = exact.b_to_a_to_b / exact.b
    worst = pd.concat([round_a, round_b], axis=1).max(axis=1) - 1
    good = worst <= inversion
    if not good.any():
        good = worst <= worst.max()

    increase = exact.a_to_b / exact.b + exact.b_to_a / exact.a
    row = exact.loc[increase.where(good).idxmin()]
    return FitConfig(metric=row.metric, alpha=float(row.alpha))


def alpha_sweep(
    bench: Bench,
    pair: LayerPair,
    grams: dict[str, dict[str, Gram]],
    config: FitConfig,
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
    if bench.current("alpha_sweep", makers):
        return bench.workspace.table("alpha_sweep")

    fit = grams["fit"][pair.name].moments()
    held_out = grams["held-out"][pair.name].moments()
    configs = [config.model_copy(update={"alpha": alpha}) for alpha in ALPHAS]
    stitches = [fit_moments(fit, setting) for setting in configs]
    losses = _losses(bench, pair, stitches, f"alpha sweep at {pair.name}")
    rows = []
    for alpha, stitch, by_condition in zip(ALPHAS, stitches, losses, strict=True):
        setting = {
            "stitch": pair.name,
            "metric": config.metric,
            "alpha": alpha,
            "seconds": stitch.makers["seconds"],
        }
        errors = quality(stitch, held_out, config.metric, alpha, fit)
        rows.append(setting | errors | by_condition)
    bench.workspace.put_table("alpha_sweep", pd.DataFrame(rows), makers)
    return bench.workspace.table("alpha_sweep")
