"""How much of what a stitch leaves over is for being affine? The same ways with one hidden layer
beside least squares: a ceiling, and no stitch, for no feature and no vector goes through it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import gelu

from core.activations.gram import Gram, Moments
from core.activations.harvest import harvest_config
from core.activations.recording import Recording, harvest_recording
from core.bench import Bench
from core.models.pairs import LayerPair
from core.progress import Progress
from core.stitches import downstream
from core.stitches.fit import fit_moments
from core.stitches.gains import divergence, gains, ways_of, with_unexplained
from core.stitches.refine import Refinement, cosine
from core.stitches.refined_tables import about
from core.stitches.settings import CEILINGS, CeilingConfig, FitConfig, Metric, RefineConfig
from core.stitches.stitch import PARTS, Maps
from core.text.corpus import Split
from core.workspace.disk import beside, disk_faults, fingerprint, only_one
from core.workspace.places import user_cache

ROWS = ("h_a", "h_b")
"""Of a recording of pairs."""
HIDDEN = ("W_up", "c_up", "V_up", "W_down", "c_down", "V_down")


@dataclass(frozen=True)
class HiddenLayer:
    """Up: h_A -> h_A P_up + b_up + s_B (gelu(z W_up + c_up) V_up), with z the standardised h_A and
    s_B the units of B; down as well. float32, row vectors.

    P and b as in a stitch; W_up [d_A, hidden], c_up [hidden], V_up [hidden, d_B]; `means` and
    `spreads` [d] of each dimension and `units` [d], in which errors are measured, of A and of B.
    """

    P_up: Float[Tensor, "d_a d_b"]
    b_up: Float[Tensor, " d_b"]
    P_down: Float[Tensor, "d_b d_a"]
    b_down: Float[Tensor, " d_a"]
    W_up: Float[Tensor, "d_a hidden"]
    c_up: Float[Tensor, " hidden"]
    V_up: Float[Tensor, "hidden d_b"]
    W_down: Float[Tensor, "d_b hidden"]
    c_down: Float[Tensor, " hidden"]
    V_down: Float[Tensor, "hidden d_a"]
    means: tuple[Tensor, Tensor]
    spreads: tuple[Tensor, Tensor]
    units: tuple[Tensor, Tensor]

    @property
    def parts(self) -> tuple[str, ...]:
        return (*PARTS, *HIDDEN)

    def up(self, h: Float[Tensor, "... d_a"]) -> Float[Tensor, "... d_b"]:
        standardised = (h.float() - self.means[0]) / self.spreads[0]
        hidden = gelu(standardised @ self.W_up + self.c_up)
        affine = h.float() @ self.P_up + self.b_up
        return affine + self.units[1] * (hidden @ self.V_up)

    def down(self, h: Float[Tensor, "... d_b"]) -> Float[Tensor, "... d_a"]:
        standardised = (h.float() - self.means[1]) / self.spreads[1]
        hidden = gelu(standardised @ self.W_down + self.c_down)
        affine = h.float() @ self.P_down + self.b_down
        return affine + self.units[0] * (hidden @ self.V_down)


def straight(
    moments: Moments,
    metric: Metric,
    config: CeilingConfig,
) -> HiddenLayer:
    """Least squares, each way by itself, beside a hidden layer that adds nothing yet: its ways in
    are drawn, its ways out are 0. Errors are measured in units of each dimension where `metric`
    does, else of the whole stream."""
    least_squares = FitConfig(
        method="lstsq",
        metric="raw",
        alpha=0.0,
    )
    affine = fit_moments(moments, least_squares)
    spread_a = _spread(moments.aa)
    spread_b = _spread(moments.bb)
    units = spread_a, spread_b
    if metric in ("raw", "rms"):
        units = (
            torch.full_like(spread_a, moments.scale_a),
            torch.full_like(spread_b, moments.scale_b),
        )

    hidden = config.hidden
    d_a = len(spread_a)
    d_b = len(spread_b)
    draws = torch.Generator().manual_seed(config.seed)
    drawn_up = torch.randn(d_a, hidden, generator=draws)
    drawn_down = torch.randn(d_b, hidden, generator=draws)
    return HiddenLayer(
        P_up=affine.P_up,
        b_up=affine.b_up,
        P_down=affine.P_down,
        b_down=affine.b_down,
        W_up=drawn_up / d_a**0.5,
        c_up=torch.zeros(hidden),
        V_up=torch.zeros(hidden, d_b),
        W_down=drawn_down / d_b**0.5,
        c_down=torch.zeros(hidden),
        V_down=torch.zeros(hidden, d_a),
        means=(moments.mean_a.float(), moments.mean_b.float()),
        spreads=(spread_a, spread_b),
        units=units,
    )


def _spread(covariance: Tensor) -> Tensor:
    """The standard deviation of each dimension."""
    variances = covariance.diagonal().float()
    return variances.sqrt().clamp(min=1e-6)


def fitted(
    start: HiddenLayer,
    recording: Recording,
    config: CeilingConfig,
) -> HiddenLayer:
    """Its hidden layers trained on recorded pairs by squared error in `units`, both ways, by
    Adam."""
    layers = {}
    for name in HIDDEN:
        layer = getattr(start, name).clone()
        layers[name] = layer.requires_grad_()
    maps = replace(start, **layers)
    optimiser = torch.optim.Adam(layers.values(), lr=config.lr)
    (group,) = optimiser.param_groups

    read = 0
    total = config.epochs * recording.n
    with Progress("fitting a hidden layer", total, "pos") as bar:
        for epoch in range(config.epochs):
            seed = config.seed + epoch
            for rows_a, rows_b in recording.epoch(config.batch, seed):
                optimiser.zero_grad()
                error_a, error_b = _errors(maps, rows_a, rows_b)
                cost_a = (error_a / maps.units[0]).pow(2).mean()
                cost_b = (error_b / maps.units[1]).pow(2).mean()
                (cost_a + cost_b).backward()

                group["lr"] = config.lr * cosine(read / total)
                optimiser.step()
                n = len(rows_a)
                read += n
                bar.advance(n)

    learned = {name: layer.detach() for name, layer in layers.items()}
    return replace(start, **learned)


def _errors(
    maps: Maps,
    rows_a: Float[Tensor, "n d_a"],
    rows_b: Float[Tensor, "n d_b"],
) -> tuple[Float[Tensor, "n d_a"], Float[Tensor, "n d_b"]]:
    """By how much each side's rows are missed from the other's, in residual units."""
    error_a = maps.down(rows_b) - rows_a
    error_b = maps.up(rows_a) - rows_b
    return error_a, error_b


def moments_of(recording: Recording) -> Moments:
    """Those of recorded pairs."""
    gram: Gram | None = None
    for rows_a, rows_b in recording.in_order(ROWS):
        if gram is None:
            gram = Gram(rows_a.shape[1], rows_b.shape[1])
        gram.update(rows_a, rows_b, control=False)
    assert gram is not None  # a harvest without a row is refused
    return gram.moments()


def unexplained(
    maps: Maps,
    recording: Recording,
    known: Moments,
) -> dict[str, float]:
    """`fuv_up` and `fuv_down` on recorded pairs, whose moments are `known`, as
    `core.stitches.fit.quality` has them from moments alone."""
    left_a = left_b = 0.0
    for rows_a, rows_b in recording.in_order(ROWS):
        error_a, error_b = _errors(maps, rows_a, rows_b)
        left_a += float(error_a.double().pow(2).sum())
        left_b += float(error_b.double().pow(2).sum())

    variance_a = float(known.aa.trace())
    variance_b = float(known.bb.trace())
    return {
        "fuv_up": left_b / known.n / variance_b,
        "fuv_down": left_a / known.n / variance_a,
    }


class Ceiling:
    """Maps with a hidden layer between the layers of a refined stitch of the workspace, on the same
    text and towards the same objective.

    Raises StitchLensError where nothing was measured of a refined stitch of this name, or the one
    that it was refined from is gone.
    """

    def __init__(
        self,
        bench: Bench,
        name: str,
        config: CeilingConfig,
    ) -> None:
        setting = about(bench.workspace, name)
        fitted_one = bench.workspace.entry(f"stitches/{setting['of']}").makers
        self.bench, self.name, self.config = bench, name, config
        self.layers = LayerPair(a=fitted_one["layer_a"], b=fitted_one["layer_b"])
        self.metric: Metric = fitted_one.get("metric") or "std"
        self.stitch = setting["stitch"]
        """Of the refined stitch the fingerprint: it need not be here itself."""
        self.refining = RefineConfig(
            objective=setting["objective"],
            tokens=setting["trained"],
            kinds=setting["kinds"],
            lr=setting["lr"],
            batch=setting["batch"],
            seed=setting["seed"],
            # Nothing holds it back: neither what round trips lose nor what they say.
            inversion=0.0,
            round_trips=0.0,
        )

    @property
    def makers(self) -> dict[str, object]:
        """What decides the table."""
        setting = {
            "tokens": self.bench.config.held_out_tokens,
            "stitch": self.stitch,
        }
        return self.bench.makers | self.config.model_dump() | setting

    def measure(self) -> None:
        """Keep `ceiling/<name>`, a table like `refine/<name>`: least squares, then a hidden layer
        beside it, then that layer refined. What is current is not made again."""
        full = f"ceiling/{self.name}"
        if self.bench.current(full, self.makers):
            return

        with only_one(self.bench.pair.key, f"ceiling-{self.name}"):
            start, known = self.known()
            stages = {
                (CEILINGS[0], "before"): start,
                (CEILINGS[0], "after"): known,
                (CEILINGS[1], "after"): self.refined(known),
            }
            losses = self._losses(stages)

            held_out = self.recording("held-out")
            moments = moments_of(held_out)
            shares = {}
            for key, maps in stages.items():
                shares[key] = unexplained(maps, held_out, moments)
            shares[CEILINGS[1], "before"] = shares[CEILINGS[0], "after"]
            table = with_unexplained(losses, shares)
            self.bench.workspace.put_table(full, table, self.makers)

    def recording(self, split: Split) -> Recording:
        """Pairs of rows: a quarter as many of the held-out split."""
        bench = self.bench
        positions = self.config.positions
        if split != "fit":
            positions //= 4
        config = harvest_config(bench.a, bench.b, bench.corpus.fingerprint, split, positions)
        return harvest_recording(
            bench.a,
            bench.b,
            bench.corpus.split(split),
            self.layers,
            config,
            "reading pairs",
        )

    @property
    def folder(self) -> Path:
        """Where what was fitted lies."""
        setting = [
            self.bench.makers,
            self.layers.name,
            self.metric,
            self.config.model_dump(),
        ]
        return user_cache() / "ceiling" / fingerprint(setting)

    def known(self) -> tuple[HiddenLayer, HiddenLayer]:
        """Least squares, and with a hidden layer that was fitted; read where it was fitted
        before."""
        recording = self.recording("fit")
        start = straight(moments_of(recording), self.metric, self.config)
        kept = self.folder / "hidden.safetensors"
        if kept.exists():
            with safe_open(kept, "pt") as f:
                return start, replace(start, **{name: f.get_tensor(name) for name in HIDDEN})

        maps = fitted(start, recording, self.config)
        with disk_faults(kept):
            kept.parent.mkdir(parents=True, exist_ok=True)
        with beside(kept) as part:
            save_file({name: getattr(maps, name).contiguous() for name in HIDDEN}, part)
        return start, maps

    def refined(self, start: HiddenLayer) -> HiddenLayer:
        """Every part of it trained on what the models predict, as a stitch is refined."""
        bench = self.bench
        folder = self.folder / fingerprint(self.refining.model_dump())
        refinement = Refinement(
            (bench.a, bench.b),
            self.layers,
            start,
            inversion=None,
            config=self.refining,
            folder=folder,
        )
        documents = bench.corpus.split("fit")
        return refinement.train(documents, "refining a hidden layer").maps

    def _losses(self, stages: Mapping[tuple[str, str], HiddenLayer]) -> pd.DataFrame:
        """The table of gains, without what is unexplained."""
        bench = self.bench
        documents = bench.corpus.split("held-out")
        variants = {}
        conditions = downstream.unpatched()
        for (start, when), maps in stages.items():
            ways = ways_of(maps, start, when)
            variants[start, when] = ways
            conditions += ways

        losses = downstream.measure(
            bench.a,
            bench.b,
            documents,
            self.layers,
            conditions,
            f"losses of the ceiling of {self.name}",
            bench.config.held_out_tokens,
        )
        table = gains(pd.DataFrame(losses), documents)
        apart = divergence(bench, self.layers, variants, documents, self.refining.kinds)
        return table.merge(apart, on=["start", "kind", "condition"], how="left")
