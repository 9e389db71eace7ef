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
