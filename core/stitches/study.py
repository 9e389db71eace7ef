"""How the default setting of a stitch is chosen on the select split: metric, then alpha."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from core.activations.gram import Gram, Moments
from core.bench import Bench
from core.models.pairs import LayerPair
from core.stitches import downstream
from core.stitches.directions import DIRECTIONS
from core.stitches.fit import fit_moments, quality
from core.stitches.settings import METRICS, FitConfig
from core.stitches.stitch import Stitch

ALPHAS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""The sweep of Fig. 7."""


class Fits:
    """Stitches of one layer pair by their settings, each fitted once."""

    def __init__(self, gram: Gram) -> None:
        self.moments = gram.moments()
        self._known: dict[FitConfig, Stitch] = {}

    def __call__(self, config: FitConfig) -> Stitch:
        if config not in self._known:
            self._known[config] = fit_moments(self.moments, config)
        return self._known[config]


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
    fits: Fits,
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
        "n_fit": fits.moments.n,
    }
    if bench.current("study", makers):
        return bench.workspace.table("study")

    stitches = [fits(config) for config in configs.values()]
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


def _known(
    studied: pd.DataFrame,
    config: FitConfig,
) -> dict[float, dict[str, float]]:
    """Losses that the study measured with the metric and fitter of a setting, by alpha."""
    alike = (studied.method == config.method) & (studied.metric == config.metric)
    conditions = ["a", "b", *DIRECTIONS]
    rows = studied.loc[alike, ["alpha", *conditions]].to_dict("records")
    return {float(row.pop("alpha")): row for row in rows}


def alpha_sweep(
    bench: Bench,
    pair: LayerPair,
    fits: Fits,
    held_out: Moments,
    config: FitConfig,
    studied: pd.DataFrame,
) -> pd.DataFrame:
    """The `alpha_sweep` table (Fig. 7): losses on the select split, errors on the `held_out` one.
    Strengths that the `study` of the same layers has measured are not measured again."""
    makers = bench.makers | {
        "layers": pair.name,
        "metric": config.metric,
        "alphas": list(ALPHAS),
        "tokens": bench.config.select_tokens,
        "n_fit": fits.moments.n,
    }
    if bench.current("alpha_sweep", makers):
        return bench.workspace.table("alpha_sweep")

    configs = [config.model_copy(update={"alpha": alpha}) for alpha in ALPHAS]
    stitches = [fits(setting) for setting in configs]
    losses = _known(studied, config)
    unknown = [stitch for stitch in stitches if stitch.makers["alpha"] not in losses]
    measured = _losses(bench, pair, unknown, f"alpha sweep at {pair.name}")
    losses |= {s.makers["alpha"]: loss for s, loss in zip(unknown, measured, strict=True)}
    rows = []
    for alpha, stitch in zip(ALPHAS, stitches, strict=True):
        setting = {
            "stitch": pair.name,
            "metric": config.metric,
            "alpha": alpha,
            "seconds": stitch.makers["seconds"],
        }
        errors = quality(stitch, held_out, config.metric, alpha, fits.moments)
        rows.append(setting | errors | losses[alpha])
    bench.workspace.put_table("alpha_sweep", pd.DataFrame(rows), makers)
    return bench.workspace.table("alpha_sweep")
