"""One error for everything a person can mend: what was found, what was wanted, what to do."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pydantic import ValidationError


def printable(text: object, most: int = 300) -> str:
    """Text of others on one line: what cannot be printed becomes a space, and what is over `most`
    letters is cut."""
    line = "".join(c if c.isprintable() else " " for c in str(text)[: most + 1])
    return line if len(line) <= most else line[: most - 1] + "…"


class StitchLensError(Exception):
    """A fault with a remedy. The command line prints it and exits with 2; a page shows it in
    place."""

    def __init__(
        self,
        found: str,
        wanted: str,
        todo: str,
    ) -> None:
        self.found, self.wanted, self.todo = (
            printable(found),
            printable(wanted, 600),
            printable(todo, 600),
        )
        super().__init__(f"Found {self.found}; wanted {self.wanted}: {self.todo}.")


class Fault(NamedTuple):
    """The first value that a model of settings does not take."""

    at: str
    """Its place, with dots between; 'its start' where the whole is no such thing."""
    value: str
    why: str
    """What pydantic says of it."""


def first_fault(e: "ValidationError") -> Fault:
    """What a validation found first, as words for a sentence."""
    first = e.errors()[0]
    at = ".".join(map(str, first["loc"])) or "its start"
    return Fault(at, repr(first.get("input")), first["msg"])


def refusal(e: "ValidationError", todo: str = "mend it") -> StitchLensError:
    """The sentence for settings that a person typed."""
    fault = first_fault(e)
    return StitchLensError(f"{fault.at} = {fault.value}", fault.why.lower(), todo)


def broken(
    e: "ValidationError",
    what: str,
    wanted: str,
    todo: str,
) -> StitchLensError:
    """The sentence for `what` was read from a file, such as 'a manifest'."""
    fault = first_fault(e)
    return StitchLensError(f"{what} with a fault at {fault.at} ({fault.why})", wanted, todo)
