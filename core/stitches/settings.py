"""How a stitch is fitted: settings alone, nothing heavy (Eq. 3, A)."""

from typing import Literal

from pydantic import Field

from core.config import Frozen

Metric = Literal["raw", "rms", "std", "whiten"]
Method = Literal["exact", "adam", "lstsq"]
METRICS: tuple[Metric, ...] = ("raw", "rms", "std", "whiten")
METHODS: tuple[Method, ...] = ("exact", "adam", "lstsq")


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
