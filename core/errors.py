"""One error for everything a person can mend: what was found, what was wanted, what to do."""


class StitchLensError(Exception):
    """A fault with a remedy. The command line prints it and exits with 2; a page shows it in place."""

    def __init__(self, found: str, wanted: str, todo: str) -> None:
        self.found, self.wanted, self.todo = found, wanted, todo
        super().__init__(f"Found {found}; wanted {wanted}: {todo}.")
