"""Instructions that can be checked, the requests that they go with, and how a model is asked (F.2).
Light: no torch.
"""

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import Field, ValidationError

from core.config import Frozen
from core.errors import StitchLensError, broken
from core.steering.checkers import Checker, checker
from core.steering.keys import LANE_KINDS
from core.text.reading import read_text

if TYPE_CHECKING:
    from core.models.live import LiveModel

INSTRUCTIONS = Path(__file__).with_name("instructions.toml")
Condition = Literal["none", "own", "transferred", "random", "prompted"]
CONDITIONS: dict[Condition, str] = {
    kind: "instruction in words" if kind == "prompted" else LANE_KINDS[kind][0]
    for kind in get_args(Condition)
}
"""How a response was brought about, and what it is called. Only `prompted` reads the instruction:
the ceiling."""


class Instruction(Frozen):
    """What a response should look like, in words and as a check."""

    key: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    title: str = Field(min_length=1, max_length=60)
    check: str
    """One of `core.steering.checkers`."""
    value: str = ""
    """The word, or the language's code, that the check needs."""
    wordings: tuple[str, ...] = ()
    """Ways to say it; a request takes them in turn."""

    @property
    def follows(self) -> Checker:
        return checker(self.check, self.value)

    def asked(self, requests: tuple[str, ...]) -> list[str]:
        """Each request with the instruction after it."""
        return [
            f"{request} {self.wordings[k % len(self.wordings)]}"
            for k, request in enumerate(requests)
        ]


class InstructionSet(Frozen):
    """Instructions, and two halves of requests that name none of them."""

    choosing: tuple[str, ...] = ()
    """Vectors are learned from these, and settings chosen on them."""
    measured: tuple[str, ...] = ()
    """Figures come from these."""
    instruction: tuple[Instruction, ...] = ()

    def some(self, keys: tuple[str, ...] | None) -> tuple[Instruction, ...]:
        """Those of the keys, None for all. Raises StitchLensError for one that is not there."""
        known = {one.key: one for one in self.instruction}
        if missing := [key for key in keys or () if key not in known]:
            raise StitchLensError(
                f"no instruction {', '.join(missing)}",
                f"of {', '.join(known)}",
                "choose among these",
            )
        return tuple(known[key] for key in (known if keys is None else dict.fromkeys(keys)))


def load_instructions(path: Path = INSTRUCTIONS) -> InstructionSet:
    """Raises StitchLensError where a file is no set of instructions, or one of them, or a half of
    the requests, has no words."""
    todo = f"mend {path.name}; {INSTRUCTIONS.name} shows the form"
    try:
        loaded = InstructionSet.model_validate(tomllib.loads(read_text(path)))
    except tomllib.TOMLDecodeError as e:
        raise StitchLensError(f"{path.name}, which is no TOML ({e})", "TOML", todo) from None
    except ValidationError as e:
        raise broken(e, path.name, "a set of instructions", todo) from None

    wordings = [("instruction", one.key, one.wordings) for one in loaded.instruction]
    halves = [("half", "choosing", loaded.choosing), ("half", "measured", loaded.measured)]
    for what, name, texts in [*wordings, *halves]:
        if not texts or not all(text.strip() for text in texts):
            missing = "a prompt without words" if texts else "no prompts"
            raise StitchLensError(f"{missing} in {what} '{name}'", "some words in each", todo)

    keys = [one.key for one in loaded.instruction]
    if not keys or len(set(keys)) < len(keys):
        raise StitchLensError(
            f"{len(keys)} instructions, {len(set(keys))} keys", "a key of its own for each", todo
        )
    if set(loaded.choosing) & set(loaded.measured):
        raise StitchLensError("a request in both halves", "halves that share none", todo)
    for one in loaded.instruction:
        checker(one.check, one.value)
    return loaded


def chats(model: "LiveModel") -> bool:
    """Whether a model was taught to answer: a base model has no chat template."""
    return bool(getattr(model.tokenizer, "chat_template", None))


def as_prompt(model: "LiveModel", request: str) -> str:
    """What a model goes on from: the request as a turn of the user's in its chat template; for a
    base model the request and an empty line. Raises StitchLensError for a request without words,
    and for a template that does not take one turn."""
    if not request.strip():
        raise StitchLensError("an empty request", "a few words", "say what is asked for")
    if not chats(model):
        return f"{request}\n\n"

    from jinja2 import TemplateError

    tokenizer: Any = model.tokenizer
    turn = [{"role": "user", "content": request}]
    try:
        text = str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
    except (TemplateError, ValueError, TypeError, KeyError) as e:
        raise StitchLensError(
            f"a chat template that fails ({type(e).__name__}: {e})"[:300],
            "one that takes a turn of the user's",
            "check the model's tokenizer_config.json",
        ) from None
    return text.removeprefix(model.makers["bos"] or "")  # `encode` puts it there
