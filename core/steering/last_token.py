"""DiffMean of an instruction (F.2): requests with and without it, at their prompts' last token."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from core.models.live import LiveModel
from core.steering.instructions import Instruction, as_prompt, chats
from core.steering.vectors import Means, mean_residuals
from core.workspace.disk import fingerprint


def last_token_means(
    model: LiveModel,
    requests: Sequence[str],
    layers: Sequence[int],
) -> dict[int, Float[Tensor, " d"]]:
    """By layer, the mean residual stream [d] at the last token of each request's prompt."""
    encoded = model.encode([as_prompt(model, request) for request in requests])
    last = [np.array([len(tokens.ids) - 1]) for tokens in encoded]
    return mean_residuals(model, encoded, last, layers)[0]


def instruction_means(
    model: LiveModel,
    instruction: Instruction,
    requests: tuple[str, ...],
    layers: Sequence[int],
    plain: Mapping[int, Float[Tensor, " d"]] | None = None,
) -> dict[int, Means]:
    """By layer: positive is the last token of requests with the instruction, negative that of the
    same requests without (`plain`, if it was read before)."""
    negative = plain or last_token_means(model, requests, layers)
    positive = last_token_means(model, instruction.asked(requests), layers)
    makers = model.makers | {
        "instruction": instruction.key,
        "requests": fingerprint(requests),
        "chat_template": chats(model),
    }
    return {layer: Means(layer, positive[layer], negative[layer], makers) for layer in layers}
