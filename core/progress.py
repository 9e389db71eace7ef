"""Progress for people: a bar with rate and time left, and the same as JSON for a background job's
page."""

import json
import os
import time
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

STATUS_ENV = "STITCHLENS_PROGRESS_FILE"


class Progress:
    """A tqdm bar on stderr; where STITCHLENS_PROGRESS_FILE names a file, also written there twice a
    second.

    Use as a context manager and call `advance(n)` with work done, in `unit`s.
    """

    def __init__(
        self,
        desc: str,
        total: float,
        unit: str = "tok",
        initial: float = 0,
    ) -> None:
        self._bar = tqdm(
            total=total,
            desc=desc,
            unit=unit,
            unit_scale=True,
            initial=initial,
            mininterval=0.5,
        )
        self._file = os.environ.get(STATUS_ENV)
        self._last = 0.0
        self._write()

    @property
    def done(self) -> float:
        """How much is done."""
        return self._bar.n

    def advance(self, n: float, total: float | None = None) -> None:
        """`n` more done; `total` where a better estimate of the whole is known now."""
        if total is not None:
            self._bar.total = total
        self._bar.update(n)
        if time.monotonic() - self._last > 0.5:
            self._write()

    def _write(self) -> None:
        self._last = time.monotonic()
        if self._file is None:
            return
        d = self._bar.format_dict
        rate = d["rate"] or ((d["n"] - d["initial"]) / d["elapsed"] if d["elapsed"] else None)
        left = (d["total"] - d["n"]) / rate if rate and d["total"] else None
        beside = Path(self._file + ".part")
        beside.write_text(
            json.dumps(
                {
                    "step": self._bar.desc,
                    "done": d["n"],
                    "total": d["total"],
                    "unit": self._bar.unit,
                    "rate": rate,
                    "seconds_left": left,
                }
            )
        )
        beside.replace(self._file)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        e: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._write()
        self._bar.close()
