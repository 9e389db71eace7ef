"""Models at hand for the API: opened once, one question at a time, a few in the queue."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

from core.api.problems import Busy
from core.models.libraries import importing
from core.models.pairs import get_pair
from core.workspace.store import Workspace, stamp

if TYPE_CHECKING:
    from core.features.measure import Live
    from core.steering.crossing import TextCrossing

MOST_WAITING = 8
"""Questions at a time: the one that is computed, and those behind it."""


class Turns:
    """One question at a time, and room for a few."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._room = threading.BoundedSemaphore(MOST_WAITING)
        self._one = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """No other question computes meanwhile. Raises Busy where too many wait already."""
        if not self._room.acquire(blocking=False):
            raise Busy(
                f"{MOST_WAITING} questions to {self._what} before this one",
                "room in the queue",
                "ask again in a moment",
            )
        try:
            with self._one:
                yield
        finally:
            self._room.release()


MODELS = Turns("the models")
"""Whoever opens models or computes with them."""
WORDS = Turns("the index of words")
"""Whoever looks a word up: the index of an SAE is made once."""


def reader(ws: Workspace, sae: str) -> "Live":
    """Both models with an SAE, inside of a turn."""
    return _reader(ws.pair, sae, stamp(ws))


def crossing(ws: Workspace, stitch: str) -> "TextCrossing":
    """Both models with a stitch, inside of a turn."""
    return _crossing(ws.pair, stitch, stamp(ws))


@lru_cache(maxsize=1)
def _reader(pair: str, sae: str, stamped: str) -> "Live":
    with importing():
        from core.features.measure import Live

    return Live(get_pair(pair), sae)


@lru_cache(maxsize=1)
def _crossing(pair: str, stitch: str, stamped: str) -> "TextCrossing":
    with importing():
        from core.bench import open_pair
        from core.steering.crossing import TextCrossing
        from core.steering.studio import Studio

    return TextCrossing(Studio(open_pair(pair), stitch))
