"""Frozen settings, and a sentence for the first value that does not fit."""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import refusal


class Frozen(BaseModel):
    """Base of all configs: immutable, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BuildConfig(Frozen):
    """How much a build measures. Tokens are of model B."""

    held_out_tokens: int = 10_000
    """Scored for Table 1."""
    select_tokens: int = 2_500
    """Scored for each setting of the study and of the alpha sweep."""
    svcca_positions: int = 8_192
    positions: int | None = 262_144
    """Pairs of positions to fit on; None is the whole fit split. The shipped corpus holds four
    times as many, which lower Eq. 3 by a fifth of a per cent at most: benchmarks/positions.py."""


C = TypeVar("C", bound=Frozen)


def check(
    kind: type[C],
    todo: str = "mend it",
    **values: Any,
) -> C:
    """A config from what a person typed. Raises StitchLensError that names the first value out of
    range."""
    try:
        return kind.model_validate(values)
    except ValidationError as e:
        raise refusal(e, todo) from None
