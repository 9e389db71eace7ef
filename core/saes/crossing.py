"""An SAE of A, the stitch that it crosses by, and what comes of it beside controls, measured as
Table 2 does (3.1)."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from core.activations.harvest import norm_limits, read_window, windows, within
from core.bench import Bench
from core.config import POSITIONS
from core.errors import StitchLensError
from core.models.pairs import SIDES, LayerPair, Side
from core.saes.sae import kept_in, random_sae, reconstruction
from core.saes.settings import ExploreConfig, SaeConfig
from core.saes.train import config_of
from core.stitches import downstream
from core.stitches.stitch import Stitch, load_stitch, random_stitch
from core.stitches.transfer import transfer_sae
from core.text.corpus import Document
from core.workspace.disk import fingerprint

if TYPE_CHECKING:
    from sae_lens import SAE


class Crossing:
    """An SAE of A, a stitch of the workspace that it crosses by, and the layers between.

    The SAE is named, as one of the workspace, or was opened and admitted elsewhere (`sae_of`).
    Raises StitchLensError where SAE and stitch belong to different layers, or the SAE to another
    model or place.
    """

    def __init__(
        self,
        bench: Bench,
        sae: "str | SAE[Any]",
        stitch_name: str,
    ) -> None:
        self.bench, self.stitch_name = bench, stitch_name
        self.sae_name = sae if isinstance(sae, str) else ""
        self.about: Mapping[str, Any] = {}
        if self.sae_name:
            self.about = bench.workspace.entry(f"saes/{self.sae_name}").makers

        self.stitched: Mapping[str, Any] = bench.workspace.entry(f"stitches/{stitch_name}").makers
        self.layers = LayerPair(a=self.stitched["layer_a"], b=self.stitched["layer_b"])
        if self.sae_name and self.about["layer_a"] != self.layers.a:
            raise StitchLensError(
                f"SAE {sae} at layer {self.about['layer_a']} of A, stitch {stitch_name} at"
                f" {self.layers.a}",
                "one layer",
                "choose a stitch from the SAE's layer, or train an SAE at the stitch's",
            )

        self.sae: SAE[Any] = kept_in(bench, sae, self.layers.a) if isinstance(sae, str) else sae

    @property
    def source_config(self) -> SaeConfig:
        """The SAE's settings, where it was trained here; else the defaults at its width and k."""
        if "width" in self.about:
            return config_of(self.about)
        cfg = self.sae.cfg
        return SaeConfig(width=cfg.d_sae, k=int(getattr(cfg, "k", SaeConfig().k)))

    @property
    def source_kinds(self) -> Sequence[str]:
        """The kinds of text that the SAE was trained on; empty for all."""
        return self.about.get("kinds", ())

    @property
    def source_positions(self) -> int | None:
        """Rows that it was trained on, None for the whole fit split; of one that was not trained
        here, as many as are taken where nothing is said."""
        return self.about.get("positions", POSITIONS)

    def own_like(
        self,
        positions: int | None = None,
    ) -> tuple[Bench, Side, int, SaeConfig, int | None, Sequence[str]]:
        """What makes an SAE of B's own one like A's, for `sae_makers` and `kept_sae`; on as many
        rows if not on `positions`."""
        return (
            self.bench,
            "b",
            self.layers.b,
            self.source_config,
            positions or self.source_positions,
            self.source_kinds,
        )

    @cached_property
    def stitch(self) -> Stitch:
        return load_stitch(self.bench.workspace.path(f"stitches/{self.stitch_name}"))

    @cached_property
    def shuffled(self) -> Stitch:
        """The control: fitted on shuffled pairs."""
        return load_stitch(self.bench.workspace.path(f"controls/{self.stitch_name}"))

    @cached_property
    def transferred(self) -> "SAE[Any]":
        """A's SAE as one of B."""
        return transfer_sae(self.sae, self.stitch)

    @property
    def makers(self) -> dict[str, Any]:
        """What an artifact that is measured through it was made from."""
        return {
            "sae": fingerprint(self.about),
            "stitch": fingerprint(self.stitched),
            "sae_name": self.sae_name,
            "stitch_name": self.stitch_name,
            "layer_a": self.layers.a,
            "layer_b": self.layers.b,
        }

    def variants(self, seed: int = 0) -> dict[str, tuple[Side, "SAE[Any]"]]:
        """(model it is for, SAE) by name: the original and its transfer, and what they must
        beat."""
        control = random_sae(self.sae, seed)
        arbitrary = random_stitch(self.stitch, seed)
        return {
            "original": ("a", self.sae),
            "random SAE": ("a", control),
            "transferred": ("b", self.transferred),
            "shuffled-pair stitch": ("b", transfer_sae(self.sae, self.shuffled)),
            "random stitch": ("b", transfer_sae(self.sae, arbitrary)),
            "random SAE, transferred": ("b", transfer_sae(control, self.stitch)),
        }


def zero_shot(
    crossing: Crossing,
    saes: Mapping[str, tuple[Side, "SAE[Any]"]],
    config: ExploreConfig,
    documents: Sequence[Document] | None = None,
) -> pd.DataFrame:
    """On the held-out split, or on `documents` of it: Table 2 with controls, a row a variant:
    `name`, `model`; the measures of `core.saes.sae.reconstruction`; `rank` of the decoder; and with
    the reconstruction in the residual stream's place at paired positions, nats/token of that model:
    `loss`, `loss_clean`, `loss_ablated` (zeros in its place), `delta_loss` (loss - loss_clean) and
    `ce_loss_score`, (loss_ablated - loss) / (loss_ablated - loss_clean)."""
    bench, layers = crossing.bench, crossing.layers
    if documents is None:
        documents = bench.corpus.split("held-out")

    conditions = downstream.unpatched()
    for side in SIDES:
        zeros = _in_place(side, torch.zeros_like)
        conditions.append(downstream.Condition(f"zeros {side}", side, zeros))
    for name, (side, sae) in saes.items():
        conditions.append(downstream.Condition(name, side, _in_place(side, sae)))

    measured = downstream.measure(
        bench.a, bench.b, documents, layers, conditions, "losses with SAEs in place", config.tokens
    )
    losses = downstream.mean_losses(pd.DataFrame(measured))
    streams = _paired_rows(crossing, documents, config.reconstruction_positions)

    table = []
    for name, (side, sae) in saes.items():
        clean, ablated, loss = losses[side], losses[f"zeros {side}"], losses[name]
        row: dict[str, Any] = {"name": name, "model": side}
        row |= reconstruction(sae, streams[side])
        row |= {
            "rank": rank(sae.W_dec),
            "loss": loss,
            "loss_clean": clean,
            "loss_ablated": ablated,
            "delta_loss": loss - clean,
            "ce_loss_score": (ablated - loss) / (ablated - clean),
        }
        table.append(row)
    return pd.DataFrame(table)


def _paired_rows(
    crossing: Crossing,
    documents: Sequence[Document],
    most: int,
) -> dict[str, list[Tensor]]:
    """By side, its residual stream at paired positions without outliers, in windows, until `most`
    rows are there."""
    bench, layers = crossing.bench, crossing.layers
    rows: dict[str, list[Tensor]] = {"a": [], "b": []}
    limits: dict[str, float] = {}
    for window in windows(documents):
        chunk = read_window(bench.a, bench.b, window, [layers.a], [layers.b])
        limits = limits or norm_limits(chunk)
        usual = within(chunk, limits, layers)
        rows["a"].append(chunk.h_a[layers.a][usual].float())
        rows["b"].append(chunk.h_b[layers.b][usual].float())
        if sum(map(len, rows["a"])) >= most:
            break
    return rows


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
