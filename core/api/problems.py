"""Refusals of the API: every StitchLensError as JSON, with the status that fits."""

from core.errors import StitchLensError, printable
from core.workspace.demonstration import TooSoon

Record = dict[str, str]


class Missing(StitchLensError):
    """Nothing of that name."""


class Busy(StitchLensError):
    """Too much at once."""


def status(problem: StitchLensError) -> int:
    match problem:
        case Missing():
            return 404
        case Busy() | TooSoon():
            return 429
    return 400


def headers(problem: StitchLensError) -> dict[str, str]:
    """When to ask again, in seconds, where that is known: a queue does not know how long it is."""
    match problem:
        case TooSoon():
            return {"Retry-After": str(problem.seconds)}
    return {}


def record(problem: StitchLensError) -> Record:
    return {
        "found": problem.found,
        "wanted": problem.wanted,
        "do": problem.todo,
    }


def misfit(faults: list[dict[str, object]]) -> Record:
    """What FastAPI says of parameters that do not fit, in one sentence: the first, and how many
    more there are."""
    first = faults[0]
    place = first["loc"]
    name = place[-1] if isinstance(place, (list, tuple)) and place else "a parameter"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    missing = first["type"] == "missing"
    value = "nothing" if missing else repr(first.get("input"))
    return {
        "found": printable(f"{name} = {value}{more}"),
        "wanted": printable(str(first["msg"]).lower()),
        "do": "see the parameters of this address at /",
    }
