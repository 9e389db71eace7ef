"""Work in units that processes share: each takes those that no other is at.

Any number of processes, on machines that see one folder, may run the same command: started by hand,
as ranks of torchrun or as tasks of a SLURM array. None of them is special and none need live.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from filelock import FileLock, Timeout

from core.workspace.disk import disk_faults, kept_table

if TYPE_CHECKING:
    import pandas as pd

PAUSE = 1.0
"""Seconds between two looks at units that others are at."""

T = TypeVar("T")


def share(
    folder: Path | None,
    units: Mapping[str, Callable[[], T]],
) -> dict[str, T]:
    """What each unit gives, in their order, once all of them are done, by whichever process.

    A unit keeps what it made in `folder`, and gives what is kept there when it is called again:
    what other processes have done is read, and what one was at when it was killed is taken up.
    Without a folder nothing is shared. Raises StitchLensError where the folder cannot be written.
    """
    if folder is None:
        return {name: unit() for name, unit in units.items()}
    with disk_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)

    done: dict[str, T] = {}
    while len(done) < len(units):
        before = len(done)
        for name in [name for name in units if name not in done]:
            with _taken(folder / f"{name}.lock") as free:
                if free:
                    done[name] = units[name]()
        if len(done) == before:
            time.sleep(PAUSE)
    return {name: done[name] for name in units}


def share_tables(
    folder: Path,
    makes: Mapping[str, Callable[[], "pd.DataFrame"]],
) -> "dict[str, pd.DataFrame]":
    """`share` for units that are a table each, kept in the folder under their names."""
    units = {
        name: partial(kept_table, folder / f"{name}.parquet", make) for name, make in makes.items()
    }
    return share(folder, units)


@contextmanager
def _taken(path: Path) -> Iterator[bool]:
    """Hold a lock; False where another process does."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
