"""A pair's own instruct model as an explainer: nothing leaves the machine, and its quality is that
of a small model."""

from typing import Any

import torch

from core.bench import Bench
from core.errors import StitchLensError
from core.features.delphi import Messages
from core.models.live import LiveModel


class Local:
    """Answers greedily."""

    def __init__(self, model: LiveModel) -> None:
        self.model = model

    @property
    def who(self) -> dict[str, Any]:
        return {"local": self.model.makers}

    @property
    def title(self) -> str:
        return f"{self.model.spec.title} on this machine"

    def ask(self, messages: Messages, tokens: int) -> str:
        tokenizer = self.model.tokenizer
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        ids = ids.to(self.model.where.device)
        with torch.inference_mode():
            written = self.model.plain.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            )
        return tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)


def instruct_model(bench: Bench) -> Local:
    """The first model of a pair that takes a chat. Raises StitchLensError where neither does."""
    for model in (bench.a, bench.b):
        if getattr(model.tokenizer, "chat_template", None):
            return Local(model)
    raise StitchLensError(
        f"no instruct model in pair '{bench.pair.key}'",
        "a model whose tokenizer has a chat template",
        "ask one behind an address: --address",
    )
