"""Which decoder rows lie nearest to a feature's: in A's SAE, and in B's own once the feature is
carried there. Light: no torch."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors.numpy import load_file

from core.features.search import nearest
from core.workspace.store import Workspace, has, makers

WEIGHTS = "sae_weights.safetensors"
Near = list[tuple[int, float]]
"""(feature, cosine), the nearest first."""


@lru_cache(maxsize=4)
def _decoder(folder: Path) -> Float[np.ndarray, "f d"]:
    """Decoder rows; a folder is named by what it holds."""
    return load_file(folder / WEIGHTS)["W_dec"].astype(np.float32)


@lru_cache(maxsize=4)
def _up(file: Path) -> Float[np.ndarray, "a b"]:
    return load_file(file)["P_up"].astype(np.float32)


def neighbours(
    ws: Workspace,
    sae: str,
    feature: int,
    most: int = 5,
) -> dict[str, Near]:
    """The features nearest to one of A's SAE: in that SAE ('a', itself left out), and in B's own
    SAE to the row that the stitch carries (Eq. 6; 'b', where B's own was trained)."""
    decoder = _decoder(ws.path(f"saes/{sae}"))
    near = nearest(decoder, decoder[feature], most + 1)
    out = {"a": [(f, cosine) for f, cosine in near if f != feature][:most]}

    own = f"own_saes/{sae}"
    if has(ws, own):
        stitch = ws.path(f"stitches/{makers(ws, own)['stitch_name']}")
        carried = decoder[feature] @ _up(stitch)
        out["b"] = nearest(_decoder(ws.path(own)), carried, most)
    return out
