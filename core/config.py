"""Frozen settings, and a sentence for the first value that does not fit."""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import StitchLensError


class Frozen(BaseModel):
    """Base of all configs: immutable, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


C = TypeVar("C", bound=Frozen)


def check(kind: type[C], **values: Any) -> C:
    """A config from what a person typed. Raises StitchLensError that names the first value out of
    range."""
    try:
        return kind.model_validate(values)
    except ValidationError as e:
        first = e.errors()[0]
        raise StitchLensError(
            f"{first['loc'][0]} = {first['input']!r}", first["msg"].lower(), "mend it"
        ) from None
