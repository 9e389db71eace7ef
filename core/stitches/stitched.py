"""The stitched model: computation starts in the layers of one model and finishes in another's
(Fig. 1a).

At positions that have read the same text as one of the other model's, the residual stream of the
model that speaks is what the stitch makes of the other's; all other positions keep their own.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from core.errors import StitchLensError
from core.models import hooks
from core.models.align import pair_positions, with_first
from core.models.live import MAX_TOKENS, Encoded, LiveModel, limits_of
from core.models.pairs import LayerPair, Side, other
from core.stitches.directions import Direction
from core.stitches.stitch import Stitch


@dataclass(frozen=True)
class Stitched:
    """Two models and a stitch between them, as one model. Raises StitchLensError for layers that a
    model does not have."""

    a: LiveModel
    b: LiveModel
    layers: LayerPair
    stitch: Stitch
    direction: Direction = "a_to_b"
    first: bool = False
    """Whether the first position crosses, too."""

    def __post_init__(self) -> None:
        both = (
            (self.a, self.layers.a),
            (self.b, self.layers.b),
        )
        for model, layer in both:
            if not 0 <= layer < model.spec.n_layers:
                raise StitchLensError(
                    f"a stitch at layer {layer}",
                    f"0 to {model.spec.n_layers - 1}, those of {model.spec.title}",
                    "use a stitch of this pair",
                )

    @property
    def source(self) -> Side:
        """Whose residual stream crosses."""
        return "a" if self.direction.startswith("a") else "b"

    @property
    def speaker(self) -> Side:
        """Whose upper layers speak."""
        return "a" if self.direction.endswith("a") else "b"

    @property
    def other(self) -> Side:
        """The model that does not speak."""
        return other(self.speaker)

    @property
    def returns(self) -> bool:
        """Whether the stream comes back to the model that it left."""
        return self.source == self.speaker

    @property
    def same_tokens(self) -> bool:
        return self.a.tokenizer_hash == self.b.tokenizer_hash

    def model(self, side: Side) -> LiveModel:
        return self.a if side == "a" else self.b

    def layer(self, side: Side) -> int:
        return self.layers.a if side == "a" else self.layers.b

    def pairs(
        self,
        one: Encoded,
        two: Encoded,
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Positions that cross between one model's and the other's tokens of a text."""
        at_one, at_two = pair_positions(one, two, self.same_tokens)
        if self.first:
            return with_first(at_one), with_first(at_two)
        return at_one, at_two

    def cross(
        self,
        h: Float[Tensor, "... d_source"],
        first: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "... d_speaker"]:
        """Rows of the source's stream, of which some are the `first` of a text, to rows of the
        speaker's, float32."""
        there = self.stitch.carry(h, other(self.source), first)
        return self.stitch.carry(there, self.source, first) if self.returns else there


class Listener:
    """The model below the stitch, hearing a text that grows.

    After each token both tokenizers read the text so far. What the listener had read of it stays
    in its cache up to where its tokens part from those before.
    """

    def __init__(self, stitched: Stitched) -> None:
        self.stitched = stitched
        self.pairs: NDArray[np.intp] = np.zeros(0, dtype=np.intp)
        """For each position of the speaker the listener's that has read the same text; -1 where
        there is none."""
        self.rows: Tensor = torch.zeros(0)
        """[listener's positions, d_speaker], float32; empty where the stream returns."""
        self._ids: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self._cache: Any = None

    def hear(
        self,
        text: str,
        spoken: Encoded,
    ) -> int:
        """Takes in the text so far, which the speaker reads as `spoken`. The first position of the
        speaker at which anything crosses otherwise than before: the ones from there on have to be
        computed again."""
        heard = self._read(text, spoken)
        common = _common(self._ids, heard.ids)
        pairs = np.full(len(spoken.ids), -1, dtype=np.intp)
        i, j = self.stitched.pairs(heard, spoken)
        pairs[j] = i

        n = min(len(self.pairs), len(pairs))
        before = self.pairs[:n]
        now = pairs[:n]
        if self.stitched.returns:
            differs = (now >= 0) != (before >= 0)
        else:
            self._compute(heard.ids, common)
            differs = (now != before) | (now >= common)

        self.pairs = pairs
        self._ids = heard.ids
        if not differs.any():
            return n
        return int(np.flatnonzero(differs)[0])

    def put(
        self,
        h: Float[Tensor, "pos d"],
        first: int,
    ) -> Float[Tensor, "pos d"]:
        """The speaker's own stream at positions from `first` on, float32, with what crosses in
        place."""
        pairs = torch.from_numpy(self.pairs[first : first + len(h)])
        paired = pairs >= 0
        at = paired.nonzero()[:, 0].to(h.device)
        if self.stitched.returns:
            rows = self.stitched.cross(h[at], at + first == 0)
        else:
            there = pairs[paired].to(self.rows.device)
            rows = self.rows[there]
        return h.index_copy(0, at, rows.to(h))

    def _read(
        self,
        text: str,
        spoken: Encoded,
    ) -> Encoded:
        if self.stitched.same_tokens:
            return spoken
        model = self.stitched.model(self.stitched.other)
        most = limits_of(model.plain).context or 2 * MAX_TOKENS
        return model.encode([text], max_tokens=most)[0]

    def _compute(
        self,
        ids: NDArray[np.int32],
        common: int,
    ) -> None:
        """Rows of the positions from `common` on."""
        side = self.stitched.other
        model = self.stitched.model(side)
        layer = self.stitched.layer(side)
        if layer == 0:
            common = 0  # nothing lies below: there is no cache, and embedding costs little
        elif self._cache is None:
            self._cache = new_cache()
        else:
            extra = self._cache.get_seq_length() - common
            if extra > 0:
                self._cache.crop(-extra)
        if common == len(ids):
            self.rows = self.rows[:common]
            return

        new = tensor_of(ids[common:]).to(model.where.device)
        h = hooks.below(model, new[None], layer, self._cache)
        first = torch.arange(common, len(ids), device=h.device) == 0
        rows = self.stitched.cross(h[0].float(), first)
        if common:
            rows = torch.cat([self.rows[:common], rows])
        self.rows = rows


def new_cache() -> Any:
    """Of keys and values, whole in every layer: one that keeps a window alone cannot be cropped."""
    from transformers import DynamicCache

    return DynamicCache()


def tensor_of(ids: NDArray[np.int32]) -> Int[Tensor, " n"]:
    return torch.from_numpy(ids.astype(np.int64))


def _common(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """Length of the beginning that both share."""
    n = min(len(one), len(other))
    apart = np.flatnonzero(one[:n] != other[:n])
    if not len(apart):
        return n
    return int(apart[0])
