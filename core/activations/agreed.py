"""What all processes of a divided run agree on, in a folder that they all see."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.activations.shards import Shard
from core.errors import StitchLensError
from core.workspace.disk import disk_faults, only_one, put_once
from core.workspace.manifest import versions
from core.workspace.places import user_cache

What = Literal["build", "features"]


@dataclass(frozen=True)
class Run:
    """Work on a pair that is divided over shards: `what` they do, and where each leaves it."""

    pair: str
    what: What

    @property
    def home(self) -> Path:
        return user_cache() / "shards" / self.pair

    @property
    def folder(self) -> Path:
        """What shards did so far."""
        return self.home / self.what

    @property
    def record(self) -> Path:
        """What the first shard wrote down for all."""
        return self.home / f"{self.what}.json"

    @property
    def merged(self) -> Path:
        """The record of a run that was merged."""
        return self.home / f"{self.what}.merged.json"

    def agreed(self) -> dict[str, Any] | None:
        """What the shards agreed on; None where no shard has begun since the last merge."""
        return _read(self.record)

    def agreed_before(self) -> dict[str, Any] | None:
        """The same of the last run that was merged."""
        return _read(self.merged)

    @contextmanager
    def joined(
        self,
        shard: Shard,
        setup: Mapping[str, Any],
    ) -> Iterator[None]:
        """Take part as a shard of a run with that setup. Raises StitchLensError where another
        process has this number, or the first shard had another setup."""
        with only_one(self.pair, f"shard {shard.index} of {shard.count} of {self.what}"):
            own = _plain({"shards": shard.count, "versions": versions(), **setup})
            agreed = json.loads(put_once(self.record, json.dumps(own, indent=1)))
            self.compare(f"shard {shard}", own, agreed)
            yield

    def compare(
        self,
        who: str,
        own: Mapping[str, Any],
        agreed: Mapping[str, Any],
    ) -> None:
        """Raises StitchLensError where a setup is not what was agreed on, with both values."""
        theirs = _flat(agreed)
        for name, value in _flat(_plain(own)).items():
            if name in theirs and theirs[name] == value:
                continue
            raise StitchLensError(
                f"{who} of '{self.pair}' with {name} = {json.dumps(value)}",
                f"{json.dumps(theirs.get(name))}, as its first shard has",
                "run all with the same, or throw away what they did so far:"
                f" `python -m core merge {self.pair} --discard`",
            )

    def close(self) -> None:
        """After a merge: the record stays, what it was merged from goes."""
        with disk_faults(self.merged):
            if self.record.exists():
                self.record.replace(self.merged)
        shutil.rmtree(self.folder, ignore_errors=True)

    def discard(self) -> bool:
        """Throw away what shards did so far; whether there was anything."""
        existed = self.record.exists() or self.folder.exists()
        with disk_faults(self.record):
            # The record goes last: without it what is left would be of an unknown setup.
            if self.folder.exists():
                shutil.rmtree(self.folder)
            self.record.unlink(missing_ok=True)
        return existed


def _read(path: Path) -> dict[str, Any] | None:
    """Raises StitchLensError where a record is no such thing."""
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text("utf-8"))
        if not isinstance(record["shards"], int):
            raise TypeError("shards is no number")
    except (ValueError, TypeError, KeyError, OSError) as e:
        raise StitchLensError(
            f"an unreadable record of shards ({e})",
            "what the first shard wrote",
            f"run `python -m core merge {path.parent.name} --discard` and the shards again",
        ) from None
    return record


def _plain(setup: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    return json.loads(json.dumps(setup))


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested entries by dotted names."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    entries: dict[str, Any] = {}
    for key, item in value.items():
        entries |= _flat(item, f"{prefix}.{key}" if prefix else key)
    return entries
