"""What a scan measures with: its settings, each model with its SAE, and lean tables of what came of
it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from core.config import Frozen
from core.features.examples import short
from core.models.live import LiveModel

if TYPE_CHECKING:
    from sae_lens import SAE

STEP = 200
"""Shares are kept in STEPths."""
PARTS = 1_000
"""Attention at single places is kept in PARTSths."""
MATCHED = ("max_a", "max_b", "density_a", "density_b")
KINDS = {"deactivation": -1, "activation": 1}
"""Of a head by a feature, and the sign of the change in attention to the first token when the
feature is ablated."""


class ScanConfig(Frozen):
    """How much is measured."""

    documents: int = Field(default=320, ge=1)
    """Held-out documents in which features are looked for."""
    reading: int = Field(default=32, ge=1)
    """Documents over which the heads' reading of the first token is averaged."""
    features: int = Field(default=12, ge=1)
    """Candidates of each kind; as many random features are measured beside them."""
    each: int = Field(default=8, ge=1)
    """Documents in which one is ablated, those where it fires most strongly."""
    tokens: int = Field(default=8, ge=1)
    """Places kept for each pair of feature and head, from the strongest to the weakest, for Fig.
    5b."""
    seed: int = 0


@dataclass(frozen=True)
class Subject:
    """One model with its SAE (`original` in A, `transferred` in B) before a layer; `name` is its
    side, 'a' or 'b'."""

    name: str
    model: LiveModel
    sae: "SAE[Any]"
    layer: int

    @property
    def layers(self) -> range:
        """Whose heads are downstream of the features."""
        return range(self.layer, self.model.spec.n_layers)


def top(
    features: NDArray[Any],
    ranks: Sequence[NDArray[Any]],
    n: int,
) -> list[int]:
    """`n` features, an equal part from the top of each ranking, none twice."""
    chosen: list[int] = []
    for k, rank in enumerate(ranks, 1):
        falling = features[np.argsort(-rank, kind="stable")]
        others = [int(feature) for feature in falling if feature not in chosen]
        up_to = n * k // len(ranks)
        chosen += others[: up_to - len(chosen)]
    return chosen


def lean(table: pd.DataFrame) -> pd.DataFrame:
    """Float columns to three significant digits, small integers, categories: what is committed is
    small."""
    out = {}
    for name, column in table.items():
        if column.dtype.kind == "f":
            out[name] = short(column.to_numpy(np.float32))
        elif column.dtype.kind == "i":
            out[name] = column.to_numpy(np.int32)
        else:
            out[name] = column
    return pd.DataFrame(out)
