"""An SAE of A beside its transfer and their controls, measured as Table 2 does (3.1)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from core.activations.harvest import norm_limits, read_window, windows, within
from core.bench import Bench
from core.config import Frozen
from core.errors import StitchLensError
from core.models.pairs import SIDES, LayerPair, Side
from core.saes.sae import random_sae, reconstruction
from core.stitches import downstream
from core.stitches.stitch import Stitch, random_stitch
from core.stitches.transfer import transfer_sae
from core.text.corpus import Document
from core.workspace.store import Workspace

if TYPE_CHECKING:
    from sae_lens import SAE
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sae_lens import SAE

    from core.bench import Bench


class ExploreConfig(Frozen):
    """How much is measured. Tokens are of model B."""

    positions: int | None = None
    """Paired held-out positions for Eq. 10; None reads the split whole."""
    reconstruction_positions: int = 20_000
    tokens: int = 5_000
    """Scored for the losses with an SAE in place."""
    sentences: int = 300
    """Each with REWRITES rewrites."""
    seed: int = 0


def variants(
    sae: "SAE[Any]", stitch: Stitch, shuffled: Stitch, seed: int = 0
) -> dict[str, tuple[Side, "SAE[Any]"]]:
    """(model it is for, SAE) by name: the original and its transfer, and what they must beat."""
    control = random_sae(sae, seed)
    return {
        "original": ("a", sae),
        "random SAE": ("a", control),
        "transferred": ("b", transfer_sae(sae, stitch)),
        "shuffled-pair stitch": ("b", transfer_sae(sae, shuffled)),
        "random stitch": ("b", transfer_sae(sae, random_stitch(stitch, seed))),
        "random SAE, transferred": ("b", transfer_sae(control, stitch)),
    }


def zero_shot(
    bench: Bench,
    saes: dict[str, tuple[Side, "SAE[Any]"]],
    layers: LayerPair,
    config: ExploreConfig,
    documents: Sequence[Document] | None = None,
) -> pd.DataFrame:
    """On the held-out split, or on `documents` of it: Table 2 with controls, a row a variant:
    `name`, `model`; the measures of `core.saes.sae.reconstruction`; `rank` of the decoder; and with
    the reconstruction in the residual stream's place at paired positions, nats/token of that model:
    `loss`, `loss_clean`, `loss_ablated` (zeros in its place), `delta_loss` (loss - loss_clean) and
    `ce_loss_score`, (loss_ablated - loss) / (loss_ablated - loss_clean)."""
    documents = bench.corpus.split("held-out") if documents is None else documents
    kept: dict[str, list[Tensor]] = {"a": [], "b": []}
    limits: dict[str, float] = {}
    for docs in windows(documents):
        chunk = read_window(bench.a, bench.b, docs, [layers.a], [layers.b])
        limits = limits or norm_limits(chunk)
        keep = within(chunk, limits, layers)
        kept["a"].append(chunk.h_a[layers.a][keep].float())
        kept["b"].append(chunk.h_b[layers.b][keep].float())
        if sum(map(len, kept["a"])) >= config.reconstruction_positions:
            break
    conditions = downstream.unpatched()
    for side in SIDES:
        conditions.append(
            downstream.Condition(f"zeros {side}", side, _in_place(side, torch.zeros_like))
        )
    for name, (side, sae) in saes.items():
        conditions.append(downstream.Condition(name, side, _in_place(side, sae)))
    losses = downstream.measure(
        bench.a, bench.b, documents, layers, conditions, "losses with SAEs in place", config.tokens
    )
    loss = downstream.mean_losses(pd.DataFrame(losses))
    rows = []
    for name, (side, sae) in saes.items():
        clean, ablated, mine = loss[side], loss[f"zeros {side}"], loss[name]
        rows.append(
            {
                "name": name,
                "model": side,
                **reconstruction(sae, kept[side]),
                "rank": rank(sae.W_dec),
                "loss": mine,
                "loss_clean": clean,
                "loss_ablated": ablated,
                "delta_loss": mine - clean,
                "ce_loss_score": (ablated - mine) / (ablated - clean),
            }
        )
    return pd.DataFrame(rows)


def rank(weights: Tensor) -> int:
    """Singular values above float32's rounding of the largest: what a product with a narrower map
    leaves."""
    rounding = max(weights.shape) * torch.finfo(torch.float32).eps
    return int(torch.linalg.matrix_rank(weights.double(), rtol=rounding))


def _in_place(side: str, new: Any) -> downstream.Rows:
    """Rows of that side's own residual stream, handed through `new`."""

    def rows(x: Tensor, y: Tensor) -> Tensor:
        with torch.inference_mode():
            return new(x if side == "a" else y)

    return rows


def joined(
    ws: Workspace, sae: str, stitch: str
) -> tuple[dict[str, Any], dict[str, Any], LayerPair]:
    """Makers of an SAE of A and of a stitch, and the layers that it crosses. Raises StitchLensError
    where they belong to different layers."""
    about, stitched = ws.entry(f"saes/{sae}").makers, ws.entry(f"stitches/{stitch}").makers
    if about["layer_a"] != stitched["layer_a"]:
        raise StitchLensError(
            f"SAE {sae} at layer {about['layer_a']} of A, stitch {stitch} at {stitched['layer_a']}",
            "one layer",
            "choose a stitch from the SAE's layer, or train an SAE at the stitch's",
        )
    return about, stitched, LayerPair(a=stitched["layer_a"], b=stitched["layer_b"])
