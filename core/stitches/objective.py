"""What a stitch is refined on: how far from its own prediction each model is on rows that crossed,
and the inversion terms of Eq. 3.

Only positions that have read the same text in both models are scored; the others, the first token
among them, keep their own stream.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from core.activations.gram import Moments
from core.models import hooks
from core.models.align import pair_positions
from core.models.live import Encoded, LiveModel
from core.models.pairs import SIDES, LayerPair, Side
from core.stitches.downstream import LOGIT_ROWS
from core.stitches.fit import metric_maps
from core.stitches.settings import Metric, Objective
from core.stitches.stitch import Stitch


@dataclass(frozen=True)
class Reading:
    """What one model read of a few texts, and what it predicts where the other has read the same.

    `ids` [rows, pos]; `residual` [rows, pos, d] before `layer`, in the model's dtype; `row`,
    `position` [n] where they pair up, text after text; `hidden` [n, e] its own last stream there,
    after the final norm; `following` [n] the next token, -1 where the text ends.
    """

    model: LiveModel
    layer: int
    ids: Int[Tensor, "rows pos"]
    residual: Float[Tensor, "rows pos d"]
    row: Int[Tensor, " n"]
    position: Int[Tensor, " n"]
    hidden: Float[Tensor, "n e"]
    following: Int[Tensor, " n"]

    @property
    def stream(self) -> Float[Tensor, "n d"]:
        """Its rows at the positions that pair up, float32."""
        return self.residual[self.row, self.position].float()

    def going_on(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        """Its last stream, after the final norm, where `rows` take the place of its own at the
        positions that pair up; can be differentiated by them."""
        stitched = self.residual.index_put((self.row, self.position), rows.to(self.residual))
        hidden = hooks.final_hidden(self.model, self.ids, self.layer, stitched, gradients=True)
        return hidden[self.row, self.position]


def read_texts(
    models: tuple[LiveModel, LiveModel],
    layers: LayerPair,
    encoded: tuple[Sequence[Encoded], Sequence[Encoded]],
) -> dict[Side, Reading] | None:
    """Both models over the same texts, by side; None where no position pairs up."""
    same = models[0].tokenizer_hash == models[1].tokenizer_hash
    paired = [pair_positions(x, y, same) for x, y in zip(*encoded, strict=True)]
    row = np.repeat(np.arange(len(paired)), [len(at_a) for at_a, _ in paired])
    if not len(row):
        return None

    readings: dict[Side, Reading] = {}
    for number, side in enumerate(SIDES):
        at = np.concatenate([places[number] for places in paired])
        layer = layers.a if side == "a" else layers.b
        readings[side] = _read(models[number], layer, encoded[number], row, at)
    return readings


def _read(
    model: LiveModel,
    layer: int,
    encoded: Sequence[Encoded],
    row: NDArray[np.intp],
    at: NDArray[np.intp],
) -> Reading:
    ids = model.pad([text.ids for text in encoded])
    # A copy: what was made in inference mode can be no part of a graph.
    residual = hooks.residuals(model, ids, [layer])[layer].clone()
    hidden = hooks.final_hidden(model, ids, layer, residual)

    lengths = np.array([len(text.ids) for text in encoded])
    tokens = ids.cpu().numpy()
    last = at + 1 == lengths[row]
    following = np.where(last, -1, tokens[row, np.minimum(at + 1, tokens.shape[1] - 1)])

    where = ids.device
    rows, positions = torch.from_numpy(row).to(where), torch.from_numpy(at).to(where)
    return Reading(
        model,
        layer,
        ids,
        residual,
        rows,
        positions,
        hidden[rows, positions].clone(),
        torch.from_numpy(following).to(where),
    )


def costs(
    objective: Objective,
    model: LiveModel,
    hidden: Float[Tensor, "n e"],
    own: Float[Tensor, "n e"],
    following: Int[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """The objective at each position, whose last stream is `hidden` and by itself would be `own`.

    kl: KL(own ‖ stitched) of next-token distributions, nats; loss: -log p of the `following` token,
    nats, 0 where there is none; features: mean squared error, by the mean square of `own`.
    """
    if objective == "features":
        truth = own.float()
        return (hidden.float() - truth).pow(2).mean(-1) / truth.pow(2).mean()

    predicted = model.logits(hidden).log_softmax(-1)
    if objective == "loss":
        known = following >= 0
        chosen = predicted.gather(-1, following.clamp(min=0)[:, None])[:, 0]
        return -chosen * known

    with torch.no_grad():
        usual = model.logits(own).log_softmax(-1)
    return (usual.exp() * (usual - predicted)).sum(-1)


def _parts(n: int, objective: Objective) -> Iterator[slice]:
    """Of n positions, as many at a time as there is room for logits."""
    size = n if objective == "features" else LOGIT_ROWS
    return (slice(first, first + size) for first in range(0, n, size))


def descend(
    objective: Objective,
    reading: Reading,
    rows: Float[Tensor, "n d"],
    weight: float = 1.0,
) -> float:
    """The mean objective over a reading's positions, with `rows` in place there; adds its gradient,
    times `weight`, to that of whatever `rows` came from."""
    hidden = reading.going_on(rows)
    gradient = torch.empty_like(hidden)
    total = 0.0
    n = len(hidden)
    # The logits of all positions at once are gigabytes: a part at a time, and back from the sum.
    for part in _parts(n, objective):
        leaf = hidden[part].detach().requires_grad_()
        own, following = reading.hidden[part], reading.following[part]
        cost = costs(objective, reading.model, leaf, own, following).sum() / n
        (gradient[part],) = torch.autograd.grad(cost, leaf)
        total += float(cost.detach())
    hidden.backward(weight * gradient)
    return total


def divergences(reading: Reading, rows: Float[Tensor, "n d"]) -> NDArray[np.float64]:
    """KL, in nats, from what a model predicts by itself to what it does from `rows`, at each
    position [n]."""
    with torch.no_grad():
        hidden = reading.going_on(rows)
        model, own, following = reading.model, reading.hidden, reading.following
        parts = [
            costs("kl", model, hidden[part], own[part], following[part])
            for part in _parts(len(hidden), "kl")
        ]
    return torch.cat(parts).double().cpu().numpy()


class Inversion:
    """The inversion terms of Eq. 3 on the data behind second moments, in a metric, per dimension:
    what A→B→A loses of A, and B→A→B of B. The mean is about 0, where nothing is lost, and 1."""

    def __init__(
        self,
        moments: Moments,
        metric: Metric,
    ) -> None:
        self.moments = {
            "a": (moments.aa.float(), moments.mean_a.float()),
            "b": (moments.bb.float(), moments.mean_b.float()),
        }
        self.metric = {
            "a": metric_maps(metric, moments.aa)[0].float(),
            "b": metric_maps(metric, moments.bb)[0].float(),
        }

    def __call__(self, stitch: Stitch) -> tuple[Tensor, Tensor]:
        up, down = (stitch.P_up, stitch.b_up), (stitch.P_down, stitch.b_down)
        return self._lost("a", up, down), self._lost("b", down, up)

    def _lost(
        self,
        side: Side,
        there: tuple[Tensor, Tensor],
        back: tuple[Tensor, Tensor],
    ) -> Tensor:
        covariance, mean = self.moments[side]
        error = there[0] @ back[0] - torch.eye(len(covariance))
        offset = mean @ error + there[1] @ back[0] + back[1]
        error = error @ self.metric[side]
        offset = offset @ self.metric[side]
        return ((error * (covariance @ error)).sum() + offset.pow(2).sum()) / len(covariance)
