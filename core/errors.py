"""One error for everything a person can mend: what was found, what was wanted, what to do."""


def printable(text: object, most: int = 300) -> str:
    """Text of others on one line: what cannot be printed becomes a space, and what is over `most`
    letters is cut."""
    line = "".join(c if c.isprintable() else " " for c in str(text)[: most + 1])
    return line if len(line) <= most else line[: most - 1] + "…"


class StitchLensError(Exception):
    """A fault with a remedy. The command line prints it and exits with 2; a page shows it in
    place."""

    def __init__(self, found: str, wanted: str, todo: str) -> None:
        self.found, self.wanted, self.todo = (
            printable(found),
            printable(wanted, 600),
            printable(todo, 600),
        )
        super().__init__(f"Found {self.found}; wanted {self.wanted}: {self.todo}.")
