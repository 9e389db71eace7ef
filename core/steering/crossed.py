"""A lane whose model is a stitched one: what crosses takes its place in the row of a batch."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.models import hooks
from core.models.live import Encoded, LiveModel
from core.stitches.stitched import Listener, Stitched, new_cache, tensor_of


class Row:
    """One row of a batch and the listener at its side: the text so far, as the speaker said it."""

    def __init__(self, stitched: Stitched, prompt: str) -> None:
        """`prompt` is cleaned."""
        self.model: LiveModel = stitched.model(stitched.speaker)
        self.layer = stitched.layer(stitched.speaker)
        self.listener = Listener(stitched)
        self.text = prompt

        (encoded,) = self.model.encode([prompt], max_tokens=10**6)
        self.prompt = len(encoded.ids)
        self._ids: list[int] = encoded.ids.tolist()
        self._ends: list[int] = encoded.ends.tolist()
        self._before = len(self._decoded())

    def __len__(self) -> int:
        return len(self._ids)

    def hear(self, ids: list[int]) -> int:
        """Takes in the tokens written so far, one more at most than before. The first position
        whose stream is another than it was."""
        known = len(self._ids) - self.prompt
        for token in ids[known:]:
            self._ids.append(token)
            self._ends.append(self._end())
        return self.listener.hear(self.text_so_far, self.spoken)

    @property
    def written(self) -> str:
        """What follows the prompt; a character whose last bytes are still to come is U+FFFD."""
        return self._decoded()[self._before :]

    @property
    def text_so_far(self) -> str:
        return self.text + self.written.removesuffix("\ufffd")

    @property
    def spoken(self) -> Encoded:
        return Encoded(
            np.array(self._ids, dtype=np.int32),
            np.array(self._ends, dtype=np.int32),
        )

    def _end(self) -> int:
        """Up to where the newest token has read; -1 inside a character, and where nothing came."""
        written = self.written
        if written.endswith("\ufffd"):
            return -1

        end = len(self.text) + len(written)
        grown = end > max(self._ends)
        if grown or self.listener.stitched.same_tokens:
            return end
        return -1

    def put(self, h: Float[Tensor, "pos d"], first: int) -> Float[Tensor, "pos d"]:
        return self.listener.put(h, first)

    def again(
        self,
        cache: Any,
        k: int,
        first: int,
        changes: dict[int, hooks.Change],
    ) -> None:
        """Computes row `k` of a batch's cache anew from position `first` on, by itself, so that
        its numbers do not depend on other rows."""
        alone = new_cache()
        for layer, held in enumerate(cache.layers):
            keys = held.keys[k, :, :first]
            values = held.values[k, :, :first]
            alone.update(keys[None], values[None], layer)

        read = cache.get_seq_length()
        ids = tensor_of(self.spoken.ids[first:read])
        with torch.inference_mode(), hooks.changed(self.model, changes):
            self.model.plain.base_model(
                input_ids=ids[None].to(self.model.where.device),
                past_key_values=alone,
                use_cache=True,
            )
            for held, layer in zip(cache.layers, alone.layers, strict=True):
                held.keys[k, :, first:] = layer.keys[0, :, first:]
                held.values[k, :, first:] = layer.values[0, :, first:]

    def _decoded(self) -> str:
        return self.model.tokenizer.decode(self._ids, skip_special_tokens=True)
