"""Does a transferred SAE save training? Runs from each start at several widths and seeds, kept as
tables (3.1, D)."""

import json
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from filelock import FileLock
from numpy.typing import NDArray

from core.bench import Bench
from core.errors import StitchLensError
from core.saes import flops
from core.saes.crossing import Crossing
from core.saes.run import Run, RunState, read_run
from core.saes.sae import metadata
from core.saes.settings import RunConfig, SaeConfig, TrainingSet, check_fits
from core.saes.tables import ABLATIONS
from core.saes.train import kept_sae, sae_makers
from core.stitches.fit import fit_moments
from core.stitches.settings import FitConfig
from core.stitches.stitch import Stitch, random_stitch
from core.stitches.transfer import transfer_sae
from core.workspace.artifacts import check_spelling
from core.workspace.disk import beside, disk_faults, fingerprint, only_one
from core.workspace.places import user_cache
from core.workspace.units import share

if TYPE_CHECKING:
    from sae_lens import SAE

HELD_OUT = 20_000
"""Rows that measure the result of a run."""
POINTS = 70
"""Of a curve that is kept, evenly in the logarithm of steps and in steps."""


class SaeTraining:
    """A set of runs for one SAE of A, carried through a stitch between its layer and one of B's.

    Raises StitchLensError where SAE and stitch belong to different layers, or the SAE to another
    model or place.
    """

    def __init__(
        self,
        bench: Bench,
        sae_name: str,
        stitch_name: str,
        config: TrainingSet,
        name: str = "",
    ) -> None:
        self.bench, self.config = bench, config
        self.crossing = Crossing(bench, sae_name, stitch_name)
        self.layers = self.crossing.layers
        self.name = name or self.layers.name
        check_spelling(self.name)
        if self.name == ABLATIONS:
            raise StitchLensError(
                f"the name '{ABLATIONS}' for a set of runs",
                "another: the report has it for what `sae starts` measures",
                "choose one (--name)",
            )

    @cached_property
    def source_config(self) -> SaeConfig:
        """A's SAE's settings, where it was trained here; else the defaults at its k."""
        return self.crossing.source_config

    def _source_setting(self, width: int) -> SaeConfig:
        return self.source_config.model_copy(update={"width": width, "epochs": 1})

    def source_sae(self, width: int) -> "SAE[Any]":
        """A's SAE of a width: the workspace's, or one trained as it was in one epoch and kept in
        the user's cache."""
        if width == self.source_config.width:
            return self.crossing.sae
        return kept_sae(
            self.bench,
            "a",
            self.layers.a,
            self._source_setting(width),
            self.config.source_positions,
            self.crossing.source_kinds,
        )

    @property
    def fit_config(self) -> FitConfig:
        """The stitch's metric and α."""
        return FitConfig.like(self.crossing.stitched)

    @cached_property
    def stitches(self) -> dict[str, Stitch]:
        """By start: the stitch, one fitted on shuffled pairs, one drawn at random."""
        grams, *_ = self.bench.moments("fit", [self.layers], self.config.stitch_positions)
        gram = grams[self.layers.name]
        stitch = fit_moments(gram.moments(), self.fit_config)
        shuffled = fit_moments(gram.moments(shuffled=True), self.fit_config)
        return {
            "transferred": stitch,
            "shuffled stitch": shuffled,
            "random stitch": random_stitch(stitch),
        }

    def run_makers(self, run: RunConfig) -> dict[str, Any]:
        about = self.bench.makers | run.model_dump() | {"layer_b": self.layers.b}
        if run.start == "scratch":
            return about

        source = self.crossing.about
        if self.source_config.width != run.width:
            source = sae_makers(
                self.bench,
                "a",
                self.layers.a,
                self._source_setting(run.width),
                self.config.source_positions,
                self.crossing.source_kinds,
            )
        return about | {
            "source": source,
            "stitch_positions": self.config.stitch_positions,
            "layer_a": self.layers.a,
            "metric": self.fit_config.metric,
            "alpha": self.fit_config.alpha,
        }

    @cached_property
    def runs(self) -> dict[Path, RunConfig]:
        """The runs by their folders in the user's cache."""
        place = user_cache() / "sae_runs"
        runs = self.config.runs(self.source_config.k)
        return {place / fingerprint(self.run_makers(run)): run for run in runs}

    def train(self) -> dict[Path, RunState]:
        """Every run to its end; what is done is not done again. Processes with the same settings
        share the runs."""
        d, bench = self.bench.pair.b.d_model, self.bench
        for run in self.runs.values():
            check_fits(d, run)
        self._announce()
        with FileLock(_listing(bench.pair.key, self.name).with_suffix(".lock")):
            rows = bench.rows("b", self.layers.b, "fit", self.config.positions)
            held_out = bench.rows("b", self.layers.b, "held-out", HELD_OUT)
            if set(self.config.starts) - {"scratch"}:
                for width in self.config.widths:
                    self.source_sae(width)
                self.stitches  # noqa: B018 - learned before anything is trained
        measured = [h for (h,) in held_out.epoch(4096, 0, ("h",))]
        about = metadata(bench.pair.b.key, self.layers.b)

        def make(folder: Path, run: RunConfig) -> RunState:
            given = None
            if run.start != "scratch":
                given = transfer_sae(self.source_sae(run.width), self.stitches[run.start])
            with disk_faults(folder):
                folder.mkdir(exist_ok=True)
            return Run(folder, run, d).train(rows, given, about, measured)

        place = user_cache() / "sae_runs"
        units = {folder.name: partial(make, folder, run) for folder, run in self.runs.items()}
        return {place / name: state for name, state in share(place, units).items()}

    def _announce(self) -> None:
        """So that a page finds the runs of this set while they are made."""
        listed = {folder.name: run.model_dump() for folder, run in self.runs.items()}
        with beside(_listing(self.bench.pair.key, self.name)) as part:
            part.write_text(json.dumps(listed), "utf-8")

    @property
    def makers(self) -> dict[str, Any]:
        own = {
            "sae": fingerprint(self.crossing.about),
            "sae_name": self.crossing.sae_name,
            "layer_a": self.layers.a,
            "layer_b": self.layers.b,
            "metric": self.fit_config.metric,
            "alpha": self.fit_config.alpha,
            "k": self.source_config.k,
        }
        return self.bench.makers | self.config.model_dump(mode="json") | own

    def costs(self) -> dict[str, Any]:
        """Table 3 in FLOPs: the `stitch` by fitter, on the positions that it is learned from here
        and on those of the workspace's; and by width a row of A's and of B's SAE in training, B's
        with the auxiliary loss at work too."""
        a = self.bench.pair.a.d_model
        b = self.bench.pair.b.d_model
        k = self.source_config.k
        fitted = self.stitches["transferred"].makers
        shipped = self.crossing.stitched

        def stitch(n: int, rounds: int) -> dict[str, float]:
            return {
                "positions": n,
                "exact": flops.exact_stitch(a, b, n, rounds),
                "adam": flops.adam_stitch(a, b, n),
            }

        def row(width: int) -> dict[str, float]:
            return {"a": flops.sae_step(a, width, k)} | flops.training_row(b, width, k)

        n = fitted["n_fit"]
        whole = shipped.get("n_fit", n)
        rounds = shipped.get("rounds") or fitted["rounds"]
        return {
            "stitch": stitch(n, fitted["rounds"]),
            "stitch_whole": stitch(whole, rounds),
            "positions": self.config.positions,
            "row": {str(width): row(width) for width in self.config.widths},
        }


def _listing(pair: str, name: str) -> Path:
    return user_cache() / "sae_runs" / f"{pair}-{name}.json"


def under_way(pair: str, name: str) -> pd.DataFrame:
    """Runs of a set as far as they got on this machine: the columns of `curves`, without FLOPs;
    empty where none is."""
    listing = _listing(pair, name)
    try:
        listed = json.loads(listing.read_text("utf-8"))
    except (OSError, ValueError):
        return pd.DataFrame()

    curves = []
    for folder, setting in listed.items():
        state = read_run(listing.parent / folder)
        if state is not None:
            run = RunConfig.model_validate(setting)
            curves.append(curve_of(len(curves), run, state))
    return pd.concat(curves) if curves else pd.DataFrame()


def curve_of(
    index: int,
    run: RunConfig,
    state: RunState,
) -> pd.DataFrame:
    """A run as points: means over the steps since the point before. A run that diverged at once has
    none."""
    half = POINTS // 2
    in_logarithm = np.geomspace(1, run.steps, half)
    even = np.linspace(1, run.steps, half)
    ends = np.unique(np.r_[in_logarithm, even].round().astype(int))
    ends = ends[ends <= state.steps]

    first = np.r_[0, ends][: len(ends)]
    last = ends.max(initial=0)

    def mean(name: str) -> NDArray[Any]:
        sums = np.add.reduceat(state.curve[name][:last], first)
        return sums / (ends - first)

    error = mean("error")
    at_work = np.cumsum(state.curve["auxiliary"])
    return pd.DataFrame(
        {
            "run": np.int16(index),
            "start": run.start,
            "width": np.int32(run.width),
            "seed": np.int16(run.seed),
            "auxiliary": np.float32(run.auxiliary),
            "step": ends.astype(np.int32),
            "explained_variance": (1 - error / mean("variance")).astype(np.float32),
            "mse": error.astype(np.float32),
            "dead": state.curve["dead"][ends - 1].astype(np.int32),
            "at_work": at_work[ends - 1].astype(np.int32),
        }
    )


def evaluate(training: SaeTraining) -> str:
    """Make every run and keep what came of them as `sae_curves/`, `sae_costs/` and `sae_training/`
    of the set's name, which comes back. What is current is not made again."""
    bench, name, makers = training.bench, training.name, training.makers
    kinds = ("sae_costs", "sae_curves", "sae_training")
    if all(bench.current(f"{kind}/{name}", makers) for kind in kinds):
        return name

    states = list(training.train().values())
    costs = training.costs()

    parts, rows = [], []
    for i, state in enumerate(states):
        setting = {field: state.result[field] for field in RunConfig.model_fields}
        parts.append(curve_of(i, RunConfig.model_validate(setting), state))
        rows.append({"run": i} | state.result)
    curves = pd.concat(parts)
    curves["flops"] = flops_of(curves, costs["row"], training.config.batch)
    results = pd.DataFrame(rows)

    with only_one(bench.pair.key, f"sae-training-{name}", wait=True):
        if all(bench.current(f"{kind}/{name}", makers) for kind in kinds):
            return name
        bench.workspace.put_record(f"sae_costs/{name}", costs, makers)
        bench.workspace.put_table(f"sae_curves/{name}", curves.drop(columns="at_work"), makers)
        bench.workspace.put_table(f"sae_training/{name}", results, makers)
    return name


def flops_of(
    curves: pd.DataFrame,
    rows: dict[str, dict[str, float]],
    batch: int,
) -> pd.Series:
    """Of the SAE alone, from what a row costs by width; the start comes on top."""
    row = {int(w): c for w, c in rows.items()}
    plain = curves.width.map({w: c["b"] for w, c in row.items()})
    extra = curves.width.map({w: c["b_auxiliary"] - c["b"] for w, c in row.items()})
    return (batch * (plain * curves.step + extra * curves.at_work)).astype(np.float32)
