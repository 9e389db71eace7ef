"""The heads behind a feature, while they read a text that was typed in (5.2)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.errors import StitchLensError
from core.features import measure as feature_measure
from core.functional.attention import Heads, ablated
from core.models.live import TURNS
from core.text.reading import clean
from core.workspace import demonstration


@dataclass(frozen=True)
class Attended:
    """One head over one text, its input with a feature, without it, and without a random direction
    as long at the same tokens. `ends` [n]: where each token ends in the text, -1 for special ones;
    `activation` [n]; patterns [n, n]."""

    ends: NDArray[np.int32]
    activation: NDArray[np.float32]
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    control: NDArray[np.float32]


class Live(feature_measure.Live):
    """Both models, to look at the heads behind a feature while they read a text that was typed
    in."""

    def attend(
        self,
        text: str,
        side: str,
        feature: int,
        layer: int,
        head: int,
        seed: int = 0,
    ) -> Attended:
        """Raises StitchLensError where there is no such feature, layer behind it or head, no token
        in the text, or a demonstration does not admit it."""
        demonstration.admit(text)
        model, sae, at = self._sides[side]
        heads = self._heads(side)
        width = sae.cfg.d_sae
        if not 0 <= feature < width:
            raise StitchLensError(
                f"feature {feature}",
                f"0 to {width - 1}",
                "choose one in that range",
            )
        heads.check(layer, head, first=at)

        text = clean(text)
        with TURNS.turn():
            read = feature_measure.read_text(model, sae, at, text)
            (encoded,) = model.encode([text])
            acts = torch.zeros(len(encoded.ids))
            acts[torch.from_numpy(read.position)] = read.acts[:, feature]

            direction = sae.W_dec[feature].float()
            generator = torch.Generator().manual_seed(seed)
            random = torch.randn(direction.shape, generator=generator)
            random *= direction.norm() / random.norm()

            ids = model.pad([encoded.ids])
            call = heads.calls(ids, [layer])[layer]
            where = call.hidden.device
            written = (acts[:, None] * direction)[None].to(where)
            at_random = (acts[:, None] * random)[None].to(where)
            with torch.no_grad():
                before, after = ablated(heads, layer, call, written)
                _, control = ablated(heads, layer, call, at_random)

        def of_head(patterns: Tensor) -> NDArray[np.float32]:
            return patterns[0, head].cpu().numpy()

        return Attended(
            ends=encoded.ends,
            activation=acts.numpy(),
            before=of_head(before),
            after=of_head(after),
            control=of_head(control),
        )

    def heads(self, side: str) -> tuple[int, int, int]:
        """(first layer behind the features, last layer, heads a layer)."""
        model, _, first = self._sides[side]
        last = model.spec.n_layers - 1
        return first, last, self._heads(side).heads

    def _heads(self, side: str) -> Heads:
        model, _, _ = self._sides[side]
        known: dict[str, Heads] = self.__dict__.setdefault("_known", {})
        return known.setdefault(side, Heads(model))
