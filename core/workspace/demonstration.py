"""A demonstration for the web: it shows what was computed and lets visitors cross, speak and steer
within bounds. It starts no job, reads no folder of the machine that a visitor names, and keeps
nothing.

The one place that decides. The environment is read whenever it is asked, never at import, and
what core does asks here where it begins: a page that draws too much gets no further.
"""

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from pydantic import Field

from core.config import Frozen, check
from core.errors import StitchLensError

DEMO_ENV = "STITCHLENS_DEMO"
VARIABLES = {
    "tokens": "STITCHLENS_DEMO_TOKENS",
    "characters": "STITCHLENS_DEMO_CHARACTERS",
    "runs": "STITCHLENS_DEMO_RUNS",
    "runs_of_all": "STITCHLENS_DEMO_RUNS_OF_ALL",
    "texts": "STITCHLENS_DEMO_TEXTS",
}
"""What moves each bound."""
OFF = ("", "0", "false", "no", "off")
MINUTE, DAY = 60.0, 86_400.0


class Bounds(Frozen):
    """What a visitor may ask for."""

    tokens: int = Field(default=400, ge=1)
    """That a run writes, in all of its lanes together."""
    characters: int = Field(default=4_000, ge=1)
    """Of all texts that a run is given."""
    runs: int = Field(default=10, ge=1)
    """In a minute, of one browser."""
    runs_of_all: int = Field(default=30, ge=1)
    """In a minute, of all browsers together: who forgets a cookie is another browser."""
    texts: int = Field(default=200, ge=1)
    """In a day, of one browser: every run reads one."""


def active() -> bool:
    """Whether this is a demonstration: STITCHLENS_DEMO is set, to whatever does not say no."""
    return os.environ.get(DEMO_ENV, "").strip().lower() not in OFF


def bounds() -> Bounds:
    """Those of the environment. Raises StitchLensError where one of them is no whole number from 1
    on: a bound that cannot be read is not taken for none."""
    typed = {field: os.environ.get(name) for field, name in VARIABLES.items()}
    values = {field: text for field, text in typed.items() if text}
    return check(Bounds, "set it to a whole number from 1 on", **values)


def refuse(what: str) -> None:
    """Raises StitchLensError in a demonstration, for `what` it does not do, such as 'a job'."""
    if active():
        raise StitchLensError(
            f"{what} asked of a demonstration",
            "an installation of your own",
            "`make app` starts one there; see the README",
        )


# runs


class Run(NamedTuple):
    """A run that was admitted."""

    at: float
    """Seconds, of a clock that never goes back."""
    visitor: str


class TooSoon(StitchLensError):
    """One run too many for now; after so many `seconds` it is admitted."""

    def __init__(
        self,
        found: str,
        wanted: str,
        seconds: int,
    ) -> None:
        wait = f"{seconds} s" if seconds < 120 else f"{math.ceil(seconds / 3600)} h"
        super().__init__(found, wanted, f"wait {wait}, then ask again")
        self.seconds = seconds


class Gate:
    """Counts the runs that were admitted in the last day. It remembers no more than `runs_of_all`
    a minute, whoever comes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._runs = deque[Run]()

    def admit(self, visitor: str, bounds: Bounds) -> None:
        """Count one run more. Raises TooSoon where it is one too many; that one is not counted."""
        with self._lock:
            now = self._clock()
            while self._runs and now - self._runs[0].at >= DAY:
                self._runs.popleft()

            every = [run.at for run in self._runs if now - run.at < MINUTE]
            today = [run.at for run in self._runs if run.visitor == visitor]
            lately = [at for at in today if now - at < MINUTE]

            full(lately, bounds.runs, "runs from this browser within a minute", MINUTE, now)
            full(every, bounds.runs_of_all, "runs from all visitors within a minute", MINUTE, now)
            full(today, bounds.texts, "texts from this browser within a day", DAY, now)
            self._runs.append(Run(now, visitor))

    def forget(self) -> None:
        """Every run."""
        with self._lock:
            self._runs.clear()


def full(earlier: list[float], most: int, what: str, span: float, now: float) -> None:
    """Raises TooSoon where `most` runs were admitted within `span` seconds already."""
    if len(earlier) < most:
        return

    seconds = math.ceil(earlier[-most] + span - now)
    raise TooSoon(f"{len(earlier) + 1} {what}", f"at most {most}", seconds)


GATE = Gate()
_WHO: list[Callable[[], str]] = []


def visitors(who: Callable[[], str]) -> None:
    """From now on `who` names the visitor that a run is for; until then all are one."""
    _WHO[:] = [who]


def admit(*texts: str, tokens: int = 0) -> None:
    """Let a run begin that is given these texts and writes so many tokens in all of its lanes
    together. Outside of a demonstration nothing is bounded.

    Raises StitchLensError where the run is too large, and TooSoon where it comes too soon.
    """
    if not active():
        return

    check_texts(*texts)
    most = bounds()
    if tokens > most.tokens:
        raise StitchLensError(
            f"{tokens:,} tokens to write in all lanes together",
            f"at most {most.tokens:,} in this demonstration",
            "ask for fewer tokens, or for fewer lanes",
        )
    GATE.admit(_WHO[0]() if _WHO else "", most)


def check_texts(*texts: str) -> None:
    """Raises StitchLensError where texts are too long for a demonstration."""
    if not active():
        return

    characters, most = sum(map(len, texts)), bounds().characters
    if characters > most:
        raise StitchLensError(
            f"{characters:,} characters of text",
            f"at most {most:,} in this demonstration",
            "shorten it",
        )


def at_most(tokens: int, lanes: int = 1) -> int:
    """How many tokens a lane may be asked for, of `tokens` elsewhere, where a run has so many
    lanes."""
    return max(1, min(tokens, bounds().tokens // lanes)) if active() else tokens


def in_words() -> str:
    """What a visitor may do here, in a sentence or two."""
    most = bounds()
    return (
        "This is a demonstration: it shows what was computed, and you may cross, speak and steer."
        f" A run writes up to {most.tokens:,} tokens, all lanes together, after up to"
        f" {most.characters:,} characters; a browser starts up to {most.runs:,} runs a minute and"
        f" {most.texts:,} a day. Nothing of yours is kept."
    )
