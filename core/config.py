"""Frozen settings, and a sentence for the first value that does not fit."""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import refusal


class Frozen(BaseModel):
    """Base of all configs: immutable, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


POSITIONS = 262_144
"""Pairs of positions that a stitch is fitted on where nothing is said, and rows that an SAE is
trained on: benchmarks/positions.py and benchmarks/sae_rows.py say what more of them gain."""


class BuildConfig(Frozen):
    """How much a build measures. Tokens are of model B."""

    held_out_tokens: int = 10_000
    """Scored for Table 1."""
    select_tokens: int = 2_500
    """Scored for each setting of the study and of the alpha sweep."""
    svcca_positions: int = 8_192
    positions: int | None = POSITIONS
    """Pairs of positions to fit on; None is the whole fit split."""


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
