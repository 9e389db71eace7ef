"""How a stitch is fitted and refined: settings alone, nothing heavy (Eq. 3, A)."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from core.config import POSITIONS, Frozen

Metric = Literal["raw", "rms", "std", "whiten"]
Method = Literal["exact", "adam", "lstsq"]
Objective = Literal["kl", "features", "loss"]
METRICS: tuple[Metric, ...] = ("raw", "rms", "std", "whiten")
METHODS: tuple[Method, ...] = ("exact", "adam", "lstsq")
OBJECTIVES: tuple[Objective, ...] = ("kl", "features", "loss")


class FitConfig(Frozen):
    """How a stitch is fitted."""

    method: Method = "exact"
    metric: Metric = "std"
    """Where Eq. 3 measures errors: raw residual units (the paper), each side at unit RMS, each
    dimension at unit standard deviation, or whitened (shrunk)."""
    alpha: float = 1.0
    """α of Eq. 3, the strength of inversion; the paper uses 1."""
    tolerance: float = Field(default=1e-5, gt=0)
    """exact: stops when a round improves Eq. 3 by less than this share."""
    max_rounds: int = Field(default=200, ge=1)
    lr: float = Field(default=1e-4, gt=0, le=1)
    epochs: int = Field(default=2, ge=1, le=10_000)
    batch: int = Field(default=4096, ge=1)
    """adam: the paper's recipe (A)."""
    seed: int = 0

    @classmethod
    def like(cls, makers: Mapping[str, Any]) -> "FitConfig":
        """The metric and α of a stitch, from its makers; the defaults, where others fitted it."""
        known = {key: makers[key] for key in ("metric", "alpha") if key in makers}
        return cls.model_validate(known)


class SinkConfig(Frozen):
    """How the map of first tokens and massive activations is fitted, and measured."""

    documents: int = Field(default=1024, ge=1)
    """Of the fit split, in the order of the corpus."""
    rank: int = Field(default=8, ge=0, le=64)
    """The most that the affine remainder has."""
    ridge: float = Field(default=0.1, ge=0, le=1000)
    """Its penalty, as a share of the whole variance of sink rows."""
    read: int = Field(default=48, ge=2)
    """Held-out documents in which the sink's direction and attention to it are measured."""
    tokens: int = Field(default=10_000, ge=1)
    """Of B, scored on the held-out split."""
    seed: int = 0


STARTS = ("paired", "shuffled pairs", "constant input")
"""Of a refined stitch: the fitted one; one of shuffled pairs; and the fitted one with the mean
stream in the place of every row, which says nothing of the other model."""
CEILINGS = ("one hidden layer", "one hidden layer, refined")
"""What a stitch could do at most: from least squares to a hidden layer beside it, by squared error;
and from there on what the models predict."""


class RefineConfig(Frozen):
    """How a fitted stitch is trained on what the models that read it predict."""

    objective: Objective = "kl"
    """kl: from the model's own next-token distribution, nats; features: squared error of its last
    stream after the final norm, by that stream's mean square; loss: next-token loss, nats."""
    tokens: int = Field(default=65_536, ge=1)
    """Of B, read in training."""
    kinds: tuple[str, ...] = ("English", "code")
    """Of text, as `core.text.corpus.Document.kind` names them; none is all of them."""
    inversion: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of the inversion terms of Eq. 3 beside the objective, in the stitch's metric."""
    round_trips: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of the objective after a round trip; 0 leaves round trips out, at half the time."""
    lr: float = Field(default=2e-2, gt=0, le=1)
    """Adam's, on a change of the maps in units of their own size; it falls as a cosine."""
    batch: int = Field(default=512, ge=1)
    """Padded tokens of B a step."""
    positions: int = Field(default=32_768, ge=1)
    """Pairs of positions that give the moments of the inversion terms."""
    seed: int = 0


class CeilingConfig(Frozen):
    """How maps with one hidden layer are fitted: a ceiling for every affine one."""

    hidden: int = Field(default=2048, ge=1)
    """Units of the hidden layer, each way."""
    positions: int = Field(default=POSITIONS, ge=1)
    """Pairs of positions of the fit split, a quarter as many of the held-out one."""
    epochs: int = Field(default=4, ge=1)
    lr: float = Field(default=1e-3, gt=0, le=1)
    """Adam's; it falls as a cosine."""
    batch: int = Field(default=1024, ge=1)
    """Pairs of positions a step."""
    seed: int = 0
