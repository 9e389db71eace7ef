"""Files written beside and renamed into place; hashes; one process at a time."""

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from core.errors import StitchLensError
from core.workspace.places import user_cache, workspaces_dir

if TYPE_CHECKING:
    import pandas as pd

STALE_SECONDS = 86_400
ROW_GROUP = 8_192
"""Rows of a table that are read together, at the least."""
SETTLED = 2.0
"""Seconds after which a file that changes again has another time: clocks of disks are coarse."""
LOCK_SECONDS = 10.0
"""How long a writer waits for another one."""


def sha256_file(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sha256_path(path: Path) -> str:
    """Of a file; of a folder, over the names and hashes of all files in it."""
    if path.is_file():
        return sha256_file(path)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    listed = json.dumps([[str(p.relative_to(path)), sha256_file(p)] for p in files])
    return hashlib.sha256(listed.encode()).hexdigest()


def sha256_unchanged(path: Path) -> str:
    """`sha256_path`, taken again only where size, times or inode of a file are others: a page reads
    an artifact many times. Files that changed a moment ago are always read."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    stats = [file.stat() for file in files]
    if any(time.time() - stat.st_ctime < SETTLED for stat in stats):
        return sha256_path(path)

    states = [(s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in stats]
    return _sha256_at(path, tuple(zip(files, states, strict=True)))


@lru_cache(maxsize=4096)
def _sha256_at(path: Path, state: object) -> str:
    return sha256_path(path)


def forget_hashes() -> None:
    """Read every file again when its hash is next asked for."""
    _sha256_at.cache_clear()


def _gone(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def fingerprint(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


@contextlib.contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` to write to; renamed over it on success, removed on failure.

    Raises StitchLensError where the disk is full or the place is read-only; `target` is then as it
    was. What a killed writer of the same target left there is removed after a day.
    """
    prefix = f".{target.name[:40]}."
    with disk_faults(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(f"{glob.escape(prefix)}*.part"):
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                left.unlink(missing_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=prefix,
            suffix=".part",
            dir=target.parent,
        )
        os.close(handle)
    part = Path(name)
    try:
        with disk_faults(target):
            yield part
            with part.open("rb") as f:
                os.fsync(f.fileno())
            part.chmod(0o644)
            part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def put_once(target: Path, text: str) -> str:
    """Write a small file that is not there yet, and give what it then holds: of several processes,
    on several machines too, the first decides for all. Raises as `beside` does."""
    if not target.exists():
        first = target.with_name(f".{target.name[:40]}.{secrets.token_hex(8)}.part")
        with beside(first) as part:
            part.write_text(text, "utf-8")
        with disk_faults(target):
            _name_once(first, target)
    return target.read_text("utf-8")


def _name_once(first: Path, target: Path) -> None:
    """Give a whole file its name, unless another one has it."""
    try:
        os.link(first, target)  # fails where the name is taken, also over a network
    except FileExistsError:
        pass
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        if not target.exists():  # a file system without links
            first.replace(target)
    finally:
        first.unlink(missing_ok=True)


def save_table(path: Path, table: "pd.DataFrame") -> None:
    """As Parquet. Bytes of equal weight of floats lie together, which packs them by a quarter
    smaller; equal values of other columns are written once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = pa.Table.from_pandas(table, preserve_index=False)
    floats = [field.name for field in columns.schema if pa.types.is_floating(field.type)]
    others = [
        f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name
        for field in columns.schema
        if field.name not in floats
    ]
    by_column: Any = {"use_dictionary": others, "use_byte_stream_split": floats}
    pq.write_table(
        columns,
        path,
        compression="zstd",
        compression_level=15,
        row_group_size=ROW_GROUP,
        **by_column,
    )


def kept_table(path: Path, make: Callable[[], "pd.DataFrame"]) -> "pd.DataFrame":
    """A table that is made once and read from then on."""
    import pandas as pd

    if not path.exists():
        table = make()
        with beside(path) as part:
            save_table(part, table)
    return pd.read_parquet(path)


@contextlib.contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """Like `beside`, for a folder: an empty one to fill, which takes the place of `target` on
    success."""
    with (
        disk_faults(target),
        tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch,
    ):
        folder = Path(scratch) / "folder"
        folder.mkdir()
        yield folder
        if target.exists():
            target.rename(Path(scratch) / "old")
        folder.rename(target)


@contextlib.contextmanager
def disk_faults(target: Path) -> Iterator[None]:
    """Turns what the system says of a full disk or a closed place, on writing `target`, into a
    StitchLensError."""
    try:
        yield
    except OSError as e:
        raise _disk_error(e, target) from e
    except SafetensorError as e:  # its I/O errors carry their number in the text alone
        if (number := re.search(r"os error (\d+)", str(e))) is None:
            raise
        raise _disk_error(OSError(int(number[1]), os.strerror(int(number[1]))), target) from e


def _disk_error(e: OSError, target: Path) -> StitchLensError:
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        return StitchLensError(
            f"a full disk while writing {target.name}",
            "free space",
            f"free some under {target.parent} and run it again",
        )
    home = "another place"
    if target.is_relative_to(user_cache()):
        home = "the user's cache elsewhere, by STITCHLENS_CACHE"
    elif target.is_relative_to(workspaces_dir()):
        home = f"a copy of {workspaces_dir()} that can be written, by STITCHLENS_WORKSPACES"
    return StitchLensError(
        f"{e.strerror or e} at {target}",
        "a place that can be written",
        f"check its permissions, or name {home}",
    )


@contextlib.contextmanager
def only_one(
    pair: str,
    what: str,
    wait: bool = False,
) -> Iterator[None]:
    """Hold the pair's lock for long work; a second holder is refused at once, and loses nothing, or
    is to `wait` for its turn."""
    path = user_cache() / "locks" / f"{pair}-{what}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=-1 if wait else 0)
        lock.acquire()
    except Timeout:
        raise StitchLensError(
            f"another {what} of '{pair}' running",
            "one at a time",
            "wait for it or stop it; its work so far is kept",
        ) from None
    except OSError as e:
        raise _disk_error(e, path) from e
    try:
        yield
    finally:
        lock.release()
