"""Where the training of an SAE of B may begin: from Eq. 6 on, one mend after another (3.1, D).

Across families Eq. 6 leaves an SAE whose encoder reads faint directions of B, so that its features
fire where A's do not, and whose decoder has the rank of A's stream. Paired positions mend both:
what A's features do there is known.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float
from torch import Tensor

from core.activations.gram import Gram
from core.activations.recording import Recording
from core.saes.settings import Begin
from core.stitches.fit import fit_moments
from core.stitches.settings import FitConfig
from core.stitches.transfer import transfer_sae

if TYPE_CHECKING:
    from sae_lens import SAE

ROWS = 4096
"""Paired positions that are encoded at a time."""
CALIBRATED = 256
"""Features that are calibrated at a time."""
RIDGE = 1e-2
"""Of the mean square of what is regressed on: what a ridge regression adds to every square."""


class Pairs(NamedTuple):
    """The same text in both models, float32: h_a [n, d_A], h_b [n, d_B]."""

    h_a: Float[Tensor, "n d_a"]
    h_b: Float[Tensor, "n d_b"]


def read_pairs(recording: Recording, most: int) -> Pairs:
    """The first `most` of the recorded pairs, or all there are."""
    streams: list[tuple[Tensor, ...]] = []
    read = 0
    for rows in recording.in_order(("h_a", "h_b")):
        streams.append(rows)
        read += len(rows[0])
        if read >= most:
            break

    h_a, h_b = (torch.cat(side)[:most].float() for side in zip(*streams, strict=True))
    return Pairs(h_a, h_b)


def shuffled(pairs: Pairs, seed: int = 0) -> Pairs:
    """The control: rows of B in another order."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pairs.h_b), generator=generator)
    return Pairs(pairs.h_a, pairs.h_b[order])


def started(
    begin: Begin,
    source: "SAE[Any]",
    pairs: Pairs,
    fit: FitConfig,
    seed: int = 0,
) -> "SAE[Any]":
    """The SAE of B that a run begins with, at rest, from A's `source`."""
    if begin.source == "shuffled":
        pairs = shuffled(pairs, seed)
    if begin.source == "scratch":
        sae = fresh(source, pairs.h_b.mean(0), seed)
    else:
        gram = Gram(pairs.h_a.shape[1], pairs.h_b.shape[1])
        gram.update(*pairs, control=False)
        if not begin.inversion:
            fit = fit.model_copy(update={"method": "lstsq"})
        sae = transfer_sae(source, fit_moments(gram.moments(), fit))

    if begin.encoder == "fitted":
        sae = calibrated(source, with_fitted_encoder(source, sae, pairs), pairs)
    if begin.least > 0:
        passing = agreement(source, sae, pairs) >= begin.least
        sae = mixed(sae, passing, seed)
    if begin.decoder == "fitted":
        sae = with_fitted_decoder(sae, pairs)
    return sae


def fresh(
    like: "SAE[Any]",
    mean: Float[Tensor, " d"],
    seed: int = 0,
) -> "SAE[Any]":
    """SAELens' own start about the `mean` row, for rows of B: unit decoder directions, the encoder
    tied to them; of the kind, width and k of `like`."""
    from sae_lens import SAE

    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(like.cfg.d_sae, len(mean), generator=generator)
    W_dec = torch.nn.functional.normalize(directions, dim=-1)
    config = like.cfg.to_dict() | {"d_in": len(mean), "apply_b_dec_to_input": False}
    out = SAE.from_dict(config)
    out.load_state_dict(
        {
            "W_enc": W_dec.T.contiguous(),
            "b_enc": -W_dec @ mean,
            "W_dec": W_dec,
            "b_dec": mean,
        }
    )
    return out.eval().requires_grad_(False)


def mixed(
    sae: "SAE[Any]",
    passing: Tensor,
    seed: int = 0,
) -> "SAE[Any]":
    """The SAE with fresh features in the places of those that do not pass [features]."""
    middle: Any = sae.b_dec
    new: Any = fresh(sae, middle, seed)
    old: Any = sae
    return _with(
        sae,
        W_enc=torch.where(passing, old.W_enc, new.W_enc),
        b_enc=torch.where(passing, old.b_enc, new.b_enc),
        W_dec=torch.where(passing[:, None], old.W_dec, new.W_dec),
    )


def agreement(
    source: "SAE[Any]",
    carried: "SAE[Any]",
    pairs: Pairs,
) -> Float[Tensor, " features"]:
    """Of each feature the correlation of its activation in A with that of its carried one in B; 0
    for what does not fire in both."""
    sums = torch.zeros(5, source.cfg.d_sae, dtype=torch.float64)
    both = zip(_encoded(source, pairs.h_a), _encoded(carried, pairs.h_b), strict=True)
    for in_a, in_b in both:
        sums += torch.stack(
            [
                in_a.sum(0),
                in_b.sum(0),
                in_a.pow(2).sum(0),
                in_b.pow(2).sum(0),
                (in_a * in_b).sum(0),
            ]
        )

    mean_a, mean_b, square_a, square_b, product = sums / len(pairs.h_a)
    covariance = product - mean_a * mean_b
    spread = ((square_a - mean_a**2) * (square_b - mean_b**2)).clamp(min=0).sqrt()
    return torch.where(spread > 0, covariance / spread, 0.0).float()


def with_fitted_encoder(
    source: "SAE[Any]",
    carried: "SAE[Any]",
    pairs: Pairs,
) -> "SAE[Any]":
    """With an encoder that reads from rows of B how strongly A's features fire: ridge regression.

    Eq. 6 reads what the features would read of A's stream, faint directions included; this reads
    their firings alone. Its values are too low where a feature fires, see `calibrated`.
    """
    d = pairs.h_b.shape[1]
    mean = pairs.h_b.mean(0)
    centred = pairs.h_b - mean
    firings = _firings(source, pairs.h_a)
    n = len(centred)

    squares = (centred.T @ centred).double() / n
    squares += RIDGE * squares.diagonal().mean() * torch.eye(d, dtype=torch.float64)
    cross = torch.from_numpy(firings.T @ centred.numpy()).double().T / n
    W_enc = torch.cholesky_solve(cross, torch.linalg.cholesky(squares))
    b_enc = _mean(firings) - mean.double() @ W_enc
    return _with(carried, W_enc=W_enc.float(), b_enc=b_enc.float())


def calibrated(
    source: "SAE[Any]",
    carried: "SAE[Any]",
    pairs: Pairs,
) -> "SAE[Any]":
    """With the encoder of each feature shifted and scaled, so that on these rows of B it is above
    zero as often as the feature fires in A, and as strong on average. What does not fire in A is
    left as it is."""
    n, width = len(pairs.h_b), source.cfg.d_sae
    count = torch.zeros(width, dtype=torch.long)
    total = torch.zeros(width)
    for activations in _encoded(source, pairs.h_a):
        count += (activations > 0).sum(0)
        total += activations.sum(0)

    weights: Any = carried
    W_enc, b_enc = weights.W_enc.clone(), weights.b_enc.clone()
    for features in torch.arange(width).split(CALIBRATED):
        features = features[count[features] > 0]
        values = pairs.h_b @ W_enc[:, features] + b_enc[features]
        often = count[features].clamp(max=n - 1)
        falling = values.sort(dim=0, descending=True).values
        threshold = falling.gather(0, often[None])[0]

        above = (values - threshold).clamp(min=0).sum(0)
        gain = torch.where(above > 0, total[features] / above, 1.0)
        W_enc[:, features] *= gain
        b_enc[features] = (b_enc[features] - threshold) * gain
    return _with(carried, W_enc=W_enc, b_enc=b_enc)


def with_fitted_decoder(
    carried: "SAE[Any]",
    pairs: Pairs,
) -> "SAE[Any]":
    """With the decoder that makes most of B's rows from what the encoder gives there: least
    squares, with a ridge towards the decoder that it has. Its rank has no limit, unlike Eq. 6's."""
    firings = _firings(carried, pairs.h_b)
    n = len(pairs.h_b)
    fires, row = _mean(firings), pairs.h_b.mean(0).double()

    squares = torch.from_numpy((firings.T @ firings).toarray()).double() / n
    squares -= torch.outer(fires, fires)
    cross = torch.from_numpy(firings.T @ pairs.h_b.numpy()).double() / n
    cross -= torch.outer(fires, row)

    before = carried.W_dec.double()
    missing = cross - squares @ before
    squares.diagonal().add_(RIDGE * squares.diagonal().mean())
    W_dec = before + torch.cholesky_solve(missing, torch.linalg.cholesky(squares))
    b_dec = row - fires @ W_dec
    return _with(carried, W_dec=W_dec.float(), b_dec=b_dec.float())


def sparse_products(
    begin: Begin,
    d: int,
    k: int,
    n: int,
) -> float:
    """FLOPs of the products with sparse firings, k a row, that `started` takes and that a counter
    of dense products does not see."""
    encoder = 2 * k * d * n if begin.encoder == "fitted" else 0
    decoder = 2 * k * (k + d) * n if begin.decoder == "fitted" else 0
    return float(encoder + decoder)


def _with(sae: "SAE[Any]", **weights: Tensor) -> "SAE[Any]":
    """An SAE of the same kind with some other weights."""
    from sae_lens import SAE

    out = SAE.from_dict(sae.cfg.to_dict())
    out.load_state_dict(sae.state_dict() | weights)
    return out.eval().requires_grad_(False)


def _encoded(
    sae: "SAE[Any]",
    rows: Float[Tensor, "n d"],
) -> Iterator[Float[Tensor, "rows features"]]:
    for part in rows.split(ROWS):
        with torch.inference_mode():
            activations = sae.encode(part)
        yield activations


def _firings(
    sae: "SAE[Any]",
    rows: Float[Tensor, "n d"],
) -> sp.csr_matrix:
    """[n, features], zeros left out."""
    parts = [sp.csr_matrix(activations.numpy()) for activations in _encoded(sae, rows)]
    return sp.csr_matrix(sp.vstack(parts, format="csr"))


def _mean(firings: sp.csr_matrix) -> Float[Tensor, " features"]:
    return torch.from_numpy(np.asarray(firings.mean(axis=0), dtype=np.float64)[0])
