"""The short ids under which runs and lists lie, and which their links name."""

import re

from core.errors import StitchLensError

ID = re.compile(r"(?:p-)?[a-z2-7]{8}")
"""40 bits; `p-` stands before those that are private to one browser."""
PRIVATE = "p-"


def check_id(what: str, short_id: str) -> None:
    """Of `what`, such as a run. Raises StitchLensError for what is no id."""
    if not ID.fullmatch(short_id):
        raise StitchLensError(
            f"a {what} '{short_id[:40]}'",
            "8 letters and digits, such as k3v7q2ha",
            "copy the link again, the whole of it",
        )
