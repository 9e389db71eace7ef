"""A lane: what steers it (Eq. 8-9), which stitched model it speaks for, and both as changes of the
residual stream of a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.errors import StitchLensError
from core.models import hooks
from core.steering.crossed import Row
from core.steering.settings import STRONGEST
from core.steering.vectors import Vector
from core.stitches.stitched import Stitched

Operator = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(h [rows, pos, d], v [rows, 1, d], z̄ [rows, 1, 1], strength [rows, 1, 1]) to the steered h;
float32."""


def clamp(
    h: Tensor,
    v: Tensor,
    mean: Tensor,
    strength: Tensor,
) -> Tensor:
    """Eq. 8 and 9, with c times `strength`: at 1 the component along v is z̄ at every position."""
    return h + strength * (mean - (h * v).sum(-1, keepdim=True)) * v


def add(
    h: Tensor,
    v: Tensor,
    mean: Tensor,
    strength: Tensor,
) -> Tensor:
    """`strength` times z̄ v on top of what is there."""
    return h + strength * mean * v


OPERATORS: dict[str, Operator] = {"clamp": clamp, "add": add}


@dataclass(frozen=True)
class Lane:
    """How one lane is steered: each vector before its own layer. Without one it is the model as it
    is. Raises StitchLensError for an unknown operator and for a strength that is not in
    [-STRONGEST, STRONGEST]."""

    vectors: tuple[Vector, ...] = ()
    operator: str = "clamp"
    """One of OPERATORS."""
    strength: float = 1.0
    prompt: bool = True
    """Also steer the prompt's tokens (special ones never); else what is generated alone."""
    stitched: Stitched | None = None
    """A lane of a stitched model: its speaker is the model that generates."""
    silent: Tensor | None = None
    """Token ids that are never drawn."""

    def __post_init__(self) -> None:
        if self.operator not in OPERATORS:
            raise StitchLensError(
                f"operator '{self.operator}'", f"one of {', '.join(OPERATORS)}", "choose one"
            )
        if not abs(self.strength) <= STRONGEST:
            raise StitchLensError(
                f"strength {self.strength:g}", f"{-STRONGEST:g} to {STRONGEST:g}", "1 is Eq. 8"
            )


@dataclass
class Steered:
    """The rows of a batch that one operator steers before one layer."""

    operator: Operator
    rows: Tensor
    v: Tensor
    mean: Tensor
    strength: Tensor

    def __call__(self, h: Tensor, where: Tensor | None) -> Tensor:
        """A new h; of the positions only those in `where` [rows, pos] are steered."""
        rows = self.rows.to(h.device)
        old = h[rows]
        new = self.operator(old, self.v.to(h), self.mean.to(h), self.strength.to(h))
        if where is not None:
            new = torch.where(where[rows, :, None], new, old)
        return h.index_copy(0, rows, new)


def changes(lanes: Sequence[Lane]) -> dict[int, list[Steered]]:
    """By layer, lanes of the same operator together."""
    found: dict[tuple[int, str], list[tuple[int, Vector, float]]] = {}
    for k, lane in enumerate(lanes):
        for vector in lane.vectors:
            found.setdefault((vector.layer, lane.operator), []).append((k, vector, lane.strength))
    out: dict[int, list[Steered]] = {}
    for (layer, operator), some in found.items():
        column = [
            torch.tensor(x, dtype=torch.float32).view(-1, 1, 1)
            for x in ([v.mean for _, v, _ in some], [s for _, _, s in some])
        ]
        rows, v = (
            torch.tensor([k for k, _, _ in some]),
            torch.stack([v.v for _, v, _ in some])[:, None],
        )
        out.setdefault(layer, []).append(
            Steered(OPERATORS[operator], rows, v, column[0], column[1])
        )
    return out


def together(
    crossing: dict[int, dict[int, tuple[Row, int]]],
    steered: dict[int, list[Steered]],
    where: Tensor | None,
) -> dict[int, hooks.Change]:
    """By layer: first what crosses takes its place, in row k from a position on, then vectors act,
    at `where` [rows, pos]."""

    def change(layer: int) -> hooks.Change:
        def act(h: Tensor) -> Tensor:
            out = h.float()
            for k, (row, first) in crossing.get(layer, {}).items():
                place = torch.tensor([k]).to(out.device)
                crossed = row.put(out[k], first)
                out = out.index_copy(0, place, crossed[None])
            for group in steered.get(layer, []):
                out = group(out, where)
            return out

        return act

    return {layer: change(layer) for layer in {*crossing, *steered}}
