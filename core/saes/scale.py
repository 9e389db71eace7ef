"""The factor by which an SAE's training scaled rows: found, estimated, folded into the weights."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from core.activations.harvest import norm_limit, record, windows
from core.activations.recording import kept_positions
from core.bench import Bench
from core.errors import StitchLensError
from core.models.pairs import Side

if TYPE_CHECKING:
    from sae_lens import SAE

NORMALISED = "expected_average_only_in"
"""SAELens' word for an SAE of rows that a factor brings to an average norm of sqrt(d); its weights
do not hold it."""
FACTOR = "norm_scaling_factor"
"""SAELens' word for that factor, kept in the metadata once it is folded into the weights."""
ESTIMATE_ROWS = 5_000
"""Held-out rows from which such a factor is estimated."""


def for_plain_rows(
    bench: Bench,
    sae: "SAE[Any]",
    side: Side,
    layer: int,
    scale: float | None = None,
) -> "SAE[Any]":
    """An SAE of rows that are multiplied by a factor, as one of rows as they are: the factor is
    folded into its weights (in place) and named in its metadata.

    The factor is `scale`; else, where the SAE expects one, its metadata's; else it is estimated as
    SAELens does before it trains: sqrt(d) over the mean norm, here of held-out rows. Other SAEs
    come back as they are. Raises StitchLensError for a factor that is not above 0, or beside a
    normalisation that takes none.
    """
    normalised = str(sae.cfg.normalize_activations)
    if scale is None and normalised != NORMALISED:
        return sae
    if normalised not in (NORMALISED, "none"):
        raise StitchLensError(
            f"a scale of {scale:g} beside an SAE that normalises each row by itself ({normalised})",
            "one or the other",
            "leave out the scale",
        )
    about, known = "as given", sae.cfg.metadata[FACTOR]
    if scale is None and type(known) in (int, float):
        scale, about = float(known), "as its cfg.json says"
    if scale is None:
        scale, rows = average_scale(bench, side, layer)
        about = (
            f"estimated from {rows:,} held-out rows of"
            f" {bench.pair.a.title if side == 'a' else bench.pair.b.title}"
        )
    if not 0 < scale < float("inf"):
        raise StitchLensError(
            f"a scale of {scale:g}", "one above 0", "give the factor by which its rows were scaled"
        )
    sae.fold_activation_norm_scaling_factor(scale)
    sae.cfg.metadata[FACTOR] = scale
    sae.cfg.metadata[f"{FACTOR}_from"] = about
    return sae


def average_scale(
    bench: Bench,
    side: Side,
    layer: int,
) -> tuple[float, int]:
    """SAELens' own estimate of the factor that brings rows of a model before `layer` to a mean norm
    of sqrt(d), and the number of held-out rows that it saw; first tokens and rows of outlier norm
    are left out, as everywhere here."""
    from sae_lens.training.activation_scaler import ActivationScaler

    model = bench.a if side == "a" else bench.b
    parts: list[Tensor] = []
    for documents in windows(bench.corpus.split("held-out")):
        rows = record(
            model, *kept_positions(model, [d.text for d in documents[:8]], None), [layer]
        )[layer].float()
        norms = rows.norm(dim=-1)
        parts.append(rows[norms <= norm_limit(norms)])
        if sum(map(len, parts)) >= ESTIMATE_ROWS:
            break
    rows = torch.cat(parts)[:ESTIMATE_ROWS]
    scaler = ActivationScaler()
    scaler.estimate_scaling_factor(rows.shape[1], iter([rows]), 1)
    assert scaler.scaling_factor is not None
    return scaler.scaling_factor, len(rows)
