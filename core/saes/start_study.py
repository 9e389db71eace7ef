"""Which start saves training: runs of an SAE of B from each beginning, at the learning rate that
suits it, kept as tables (3.1, D)."""

from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from filelock import FileLock
from torch import Tensor

from core.activations.harvest import harvest_config
from core.activations.recording import Recording, harvest_recording
from core.bench import Bench
from core.models.pairs import LayerPair
from core.saes import flops
from core.saes.measure import HELD_OUT, curve_of, flops_of
from core.saes.run import Run, RunState, finished_run
from core.saes.sae import metadata
from core.saes.settings import Begin, RunConfig, SaeConfig, StartStudy, check_fits
from core.saes.start_tables import best_rates
from core.saes.starts import Pairs, read_pairs, sparse_products, started
from core.saes.train import config_of, kept_sae, sae_makers, with_kinds
from core.stitches.settings import FitConfig
from core.text.corpus import of_kinds
from core.workspace.artifacts import check_spelling
from core.workspace.disk import disk_faults, fingerprint
from core.workspace.places import user_cache
from core.workspace.units import share

if TYPE_CHECKING:
    from sae_lens import SAE


class Starts:
    """Beginnings of SAEs of B before a layer, from an SAE of A before the layer that a stitch joins
    to it; both are trained on the same kinds of text.

    A's SAE has the settings of `sae_name`, but for its kinds of text and `epochs`. Raises
    StitchLensError for a kind that the corpus does not hold.
    """

    def __init__(
        self,
        bench: Bench,
        sae_name: str,
        stitch_name: str,
        study: StartStudy,
        epochs: int | None = None,
    ) -> None:
        stitched = bench.workspace.entry(f"stitches/{stitch_name}").makers
        like = bench.workspace.entry(f"saes/{sae_name}").makers
        settings = config_of(like) if "width" in like else SaeConfig()
        self.bench, self.study = bench, study
        self.sae_name, self.stitch_name = sae_name, stitch_name
        self.layers = LayerPair(a=stitched["layer_a"], b=stitched["layer_b"])
        self.source_config = settings.model_copy(update={"epochs": epochs or settings.epochs})
        self.fit = FitConfig.like(stitched)
        self.name = with_kinds(stitch_name, study.kinds)
        check_spelling(self.name)

    @property
    def makers(self) -> dict[str, Any]:
        return (
            self.bench.makers
            | self.study.model_dump(mode="json")
            | {
                "sae_name": self.sae_name,
                "stitch_name": self.stitch_name,
                "width": self.source_config.width,
                "k": self.source_config.k,
                "epochs": self.source_config.epochs,
                "layer_a": self.layers.a,
                "layer_b": self.layers.b,
                "metric": self.fit.metric,
                "alpha": self.fit.alpha,
            }
        )

    @cached_property
    def source(self) -> "SAE[Any]":
        """A's SAE."""
        return kept_sae(self.bench, "a", self.layers.a, self.source_config, None, self.study.kinds)

    @cached_property
    def rows(self) -> Recording:
        return self.bench.rows("b", self.layers.b, "fit", None, self.study.kinds)

    @cached_property
    def positions(self) -> int:
        """Rows that a run sees: whole batches."""
        rows = min(self.study.positions, self.rows.n)
        return rows // self.study.batch * self.study.batch

    @cached_property
    def held_out(self) -> list[Tensor]:
        recording = self.bench.rows("b", self.layers.b, "held-out", HELD_OUT, self.study.kinds)
        return [h for (h,) in recording.epoch(4096, 0, ("h",))]

    @cached_property
    def pairs(self) -> Pairs:
        bench, kinds = self.bench, self.study.kinds
        documents = bench.corpus.split("fit")
        if kinds:
            documents = of_kinds(documents, kinds)
        config = harvest_config(bench.a, bench.b, bench.corpus.fingerprint, "fit", self.study.pairs)
        recording = harvest_recording(
            bench.a,
            bench.b,
            documents,
            self.layers,
            config | {"kinds": sorted(kinds)},
            "reading pairs",
        )
        return read_pairs(recording, self.study.pairs)

    def read(self) -> None:
        """Everything that runs need of the text; a second process waits meanwhile."""
        lock = _place() / f"{self.bench.pair.key}-{self.name}.lock"
        with disk_faults(lock):
            lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            self.source  # noqa: B018
            self.rows  # noqa: B018
            self.held_out  # noqa: B018
            self.pairs  # noqa: B018

    def run_of(
        self,
        begin: Begin,
        lr: float,
        seed: int,
    ) -> RunConfig:
        source = self.source_config
        return self.study.run(begin, lr, seed, source.width, source.k, self.positions)

    def folder(
        self,
        begin: Begin,
        run: RunConfig,
    ) -> Path:
        """Where a run is kept: what decides it, and nothing else."""
        about = self.bench.makers | run.model_dump() | begin.model_dump(exclude={"inversion"})
        about |= {"layer_b": self.layers.b, "kinds": sorted(self.study.kinds)}
        if not begin.untouched:
            about |= {
                "source": sae_makers(
                    self.bench,
                    "a",
                    self.layers.a,
                    self.source_config,
                    None,
                    self.study.kinds,
                ),
                "pairs": self.study.pairs,
                "metric": self.fit.metric,
                "alpha": self.fit.alpha,
            }
        return _place() / fingerprint(about)

    def start(self, begin: Begin, seed: int) -> "SAE[Any] | None":
        """What its runs start from; None where the trainer's own start is."""
        if begin.untouched:
            return None
        return started(begin, self.source, self.pairs, self.fit, seed)

    def cost(self, begin: Begin) -> float:
        """FLOPs of making a start, its stitch included."""
        if begin.untouched:
            return 0.0
        dense = flops.counted(lambda: self.start(begin, 0))
        d, k = self.bench.pair.b.d_model, self.source_config.k
        return dense + sparse_products(begin, d, k, len(self.pairs.h_b))

    def train(self, asked: list[tuple[Begin, float, int]]) -> list[tuple[Begin, RunState]]:
        """The runs that are asked for, to their ends, in their order; what is done is not done
        again. Processes with the same settings share them."""
        d = self.bench.pair.b.d_model
        about = metadata(self.bench.pair.b.key, self.layers.b)

        def make(
            begin: Begin,
            run: RunConfig,
            folder: Path,
        ) -> RunState:
            if (done := finished_run(folder)) is not None:
                return done
            with disk_faults(folder):
                folder.mkdir(exist_ok=True)
            start = self.start(begin, run.seed)
            return Run(folder, run, d).train(
                self.rows,
                start,
                about,
                self.held_out,
                begin.balanced,
            )

        units = {}
        for begin, lr, seed in asked:
            run = self.run_of(begin, lr, seed)
            check_fits(d, run)
            folder = self.folder(begin, run)
            units[folder.name] = partial(make, begin, run, folder)
        states = share(_place(), units).values()
        return [(begin, state) for (begin, _, _), state in zip(asked, states, strict=True)]


def _place() -> Path:
    """The folder of all runs."""
    return user_cache() / "sae_starts"


def evaluate(starts: Starts) -> str:
    """Make every run and keep what came of them as `sae_starts/` and `sae_start_curves/` of the
    study's name, which comes back: every beginning at every learning rate with the first seed, then
    the further seeds at the rate that suited it. What is current is not made again."""
    bench, name, makers = starts.bench, starts.name, starts.makers
    kinds = ("sae_starts", "sae_start_curves")
    if all(bench.current(f"{kind}/{name}", makers) for kind in kinds):
        return name

    starts.read()
    study = starts.study
    first = [(begin, lr, 0) for begin in study.beginnings for lr in study.rates]
    made = starts.train(first)
    costs = {begin.title: starts.cost(begin) for begin in study.beginnings}
    table, _ = _tables(starts, made, costs)

    rates = best_rates(table)
    more = [
        (begin, rates[begin.title], seed)
        for seed in range(1, study.seeds)
        for begin in study.beginnings
    ]
    table, results = _tables(starts, made + starts.train(more), costs)
    tables = {f"sae_start_curves/{name}": table, f"sae_starts/{name}": results}
    bench.put_tables(tables, makers)
    return name


def _tables(
    starts: Starts,
    made: list[tuple[Begin, RunState]],
    costs: dict[str, float],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(points of every run, a row a run): see `core.saes.start_tables`."""
    d = starts.bench.pair.b.d_model
    width, k, batch = starts.source_config.width, starts.source_config.k, starts.study.batch
    row = {str(width): flops.training_row(d, width, k)}
    curves, results = [], []
    for number, (begin, state) in enumerate(made):
        setting = RunConfig.model_validate(
            {field: state.result[field] for field in RunConfig.model_fields}
        )
        curve = curve_of(number, setting, state)
        curve["flops"] = flops_of(curve, row, batch) + costs[begin.title]
        curves.append(curve.assign(lr=setting.lr))
        results.append(
            {
                "start": begin.title,
                "lr": setting.lr,
                "seed": setting.seed,
                "begins": float(state.explained_variance[0]) if state.steps else float("nan"),
                "explained_variance": state.result["explained_variance"],
                "dead": state.result["dead"],
                "cosine": state.result["cosine"],
                "made": costs[begin.title],
                "stopped": state.result["stopped"],
            }
        )
    columns = ["start", "lr", "seed", "step", "explained_variance", "dead", "flops"]
    points = pd.concat(curves, ignore_index=True)
    return pd.DataFrame(points, columns=columns), pd.DataFrame(results)
