"""A workspace on disk: one folder a model pair, whose manifest names every artifact, its hash and
its makers.

An artifact is written beside its final place and renamed into it under a name that carries its
hash; then the manifest is replaced the same way. Whatever the moment of a kill, the manifest points
at whole files, old or new.
"""

import contextlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from core.errors import StitchLensError
from core.workspace import demonstration
from core.workspace.artifacts import missing
from core.workspace.disk import (
    LOCK_SECONDS,
    _disk_error,
    _gone,
    beside,
    disk_faults,
    fingerprint,
    forget_hashes,
    save_table,
    sha256_file,
    sha256_path,
    sha256_unchanged,
)
from core.workspace.manifest import REPAIR, Artifact, Manifest, read_manifest, versions
from core.workspace.places import SPEC, private_dir, workspaces_dir

PREVIOUS = ".manifest.previous.json"
"""The manifest before the last change."""
ASIDE = "aside"
"""Where a repair puts what it takes out of the way."""
RUNS = "runs"
"""Where runs of steering lie that links show again; they are no artifacts."""
LISTS = "lists"
"""Where lists of features lie; they are no artifacts."""


class Workspace:
    """One pair's folder. Reads need no lock; writes take one and are atomic.

    With a `private` folder beside it, what one person brought lies over what all share: reads find
    both, writes and removals touch the private part alone.
    """

    def __init__(self, pair: str, root: Path | None = None, private: Path | None = None) -> None:
        self.pair = pair
        shared, private = root or workspaces_dir(), private or private_dir()
        self.shared = Workspace._plain(pair, shared) if private else self
        """The workspace that all share; itself, where nothing is private."""
        self.root = (private or shared) / pair

    @classmethod
    def _plain(cls, pair: str, home: Path) -> "Workspace":
        one = cls.__new__(cls)
        one.pair, one.root, one.shared = pair, home / pair, one
        return one

    @property
    def exists(self) -> bool:
        return (self.root / "manifest.json").exists() or (
            self.shared is not self and self.shared.exists
        )

    @property
    def private(self) -> Path | None:
        """The folder of what one person brought, if there is one."""
        return None if self.shared is self else self.root.parent

    def manifest(self) -> Manifest:
        """Everything that is here. Raises StitchLensError where a manifest is missing, broken, of
        another pair or from a newer schema."""
        if self.shared is self:
            return self._manifest()
        artifacts: dict[str, Artifact] = {}
        if self.shared.exists:
            for name, artifact in self.shared.manifest().artifacts.items():
                artifacts[name] = artifact.model_copy(
                    update={"path": str(self.shared.root / artifact.path)}
                )
        return Manifest(pair=self.pair, artifacts=artifacts | self.own())

    def own(self) -> dict[str, Artifact]:
        """What lies in this folder alone, by name; nothing where there is no manifest yet."""
        return self._manifest().artifacts if (self.root / "manifest.json").exists() else {}

    def _manifest(self, path: Path | None = None) -> Manifest:
        path = path or self.root / "manifest.json"
        try:
            stat = path.stat()
        except FileNotFoundError:
            raise StitchLensError(
                f"no workspace for '{self.pair}'",
                "a built one",
                f"run `python -m core build {self.pair}`",
            ) from None
        except OSError as e:
            raise StitchLensError(
                f"an unreadable manifest ({e.strerror})", "a readable one", "check its permissions"
            ) from None
        return read_manifest(path, self.pair, (stat.st_ino, stat.st_size, stat.st_mtime_ns))

    @contextlib.contextmanager
    def _only_writer(self) -> Iterator[None]:
        """The workspace's lock. Raises StitchLensError where another process keeps it, or the place
        is read-only, and in a demonstration, which keeps nothing."""
        demonstration.refuse("a change of the workspace")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / ".lock", timeout=LOCK_SECONDS):
                yield
        except Timeout:
            raise StitchLensError(
                f"another process writing to workspace '{self.pair}'",
                "to be the only writer",
                "wait for it to finish",
            ) from None
        except OSError as e:
            raise _disk_error(e, self.root) from e

    def _replace_manifest(self, artifacts: dict[str, Artifact]) -> None:
        now, part = self.root / "manifest.json", self.root / f".{secrets.token_hex(4)}.part"
        with contextlib.suppress(
            OSError
        ):  # a second name for the old one, which `restore` goes back to
            os.link(now, part)
            part.replace(self.root / PREVIOUS)
        text = Manifest(pair=self.pair, artifacts=dict(sorted(artifacts.items()))).model_dump_json(
            indent=1
        )
        with beside(self.root / "manifest.json") as part:
            part.write_text(text + "\n", "utf-8")

    def put(
        self,
        name: str,
        write: Callable[[Path], Any],
        kind: str,
        suffix: str,
        makers: dict[str, Any],
    ) -> Artifact:
        """Write one artifact (`write` fills the path it is given) and point the manifest at it."""
        with self._only_writer():
            target = self.root / f"{name}{suffix}"
            with beside(target) as part:
                write(part)
                digest = sha256_file(part)
                size = part.stat().st_size
            final = target.with_name(f"{target.name.removesuffix(suffix)}.{digest[:8]}{suffix}")
            target.replace(final)
            return self._point(name, final, digest, size, kind, makers)

    def put_folder(
        self, name: str, write: Callable[[Path], Any], kind: str, makers: dict[str, Any]
    ) -> Artifact:
        """Like `put`, for an artifact that is a folder of files (an SAELens SAE)."""
        target = self.root / name
        with self._only_writer(), disk_faults(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(
                prefix=f".{target.name[:40]}.", dir=target.parent
            ) as scratch:
                part = Path(scratch) / "folder"
                part.mkdir()
                write(part)
                digest = sha256_path(part)
                size = sum(p.stat().st_size for p in part.rglob("*") if p.is_file())
                final = target.with_name(f"{target.name}.{digest[:8]}")
                _gone(final)
                part.rename(final)
            return self._point(name, final, digest, size, kind, makers)

    def _point(
        self, name: str, final: Path, digest: str, size: int, kind: str, makers: dict[str, Any]
    ) -> Artifact:
        """Point the manifest at a finished artifact and remove the one that it replaces."""
        old = self.own()
        new = Artifact(
            path=str(final.relative_to(self.root)),
            sha256=digest,
            bytes=size,
            kind=kind,
            makers=makers,
            versions=versions(),
            made=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._replace_manifest(old | {name: new})
        if name in old and old[name].path != new.path:
            _gone(self.root / old[name].path)
        return new

    def copy_in(self, name: str, source: Path, artifact: Artifact) -> Artifact:
        """A copy of another workspace's artifact, with its makers."""
        if source.is_dir():
            return self.put_folder(
                name,
                lambda to: shutil.copytree(source, to, dirs_exist_ok=True),
                artifact.kind,
                artifact.makers,
            )
        return self.put(
            name,
            lambda to: shutil.copyfile(source, to),
            artifact.kind,
            source.suffix,
            artifact.makers,
        )

    def put_table(self, name: str, table: pd.DataFrame, makers: dict[str, Any]) -> Artifact:
        return self.put(
            name,
            lambda to: save_table(to, table),
            "table",
            ".parquet",
            makers,
        )

    def put_record(self, name: str, record: dict[str, Any], makers: dict[str, Any]) -> Artifact:
        text = json.dumps(record, indent=1, sort_keys=True)

        def write(path: Path) -> None:
            path.write_text(text + "\n", "utf-8")

        return self.put(name, write, "record", ".json", makers)

    def remove(self, name: str) -> None:
        """Take one artifact out of this folder; what others share stays."""
        with self._only_writer():
            artifacts = dict(self.own())
            gone = artifacts.pop(name, None)
            self._replace_manifest(artifacts)
            if gone:
                _gone(self.root / gone.path)

    def set_aside(self, path: Path) -> Path | None:
        """Move a file or folder of this workspace into its folder `aside`; nothing is deleted. None
        where it is gone."""
        if not path.exists():
            return None
        to = (
            self.root
            / ASIDE
            / datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
            / path.relative_to(self.root)
        )
        with self._only_writer(), disk_faults(to):
            to.parent.mkdir(parents=True, exist_ok=True)
            while to.exists():
                to = to.with_name(f"{to.name}.again")
            path.rename(to)
        return to

    def forget(self, names: Iterable[str]) -> None:
        """Take artifacts out of the manifest; their files stay where they are."""
        with self._only_writer():
            gone = set(names)
            self._replace_manifest({k: v for k, v in self.own().items() if k not in gone})

    def restore(self) -> bool:
        """Put the manifest before the last one in the place of a broken one, which is set aside.
        False where it cannot be read either."""
        previous = self.root / PREVIOUS
        try:
            known = self._manifest(previous).artifacts
        except StitchLensError:
            return False
        self.set_aside(self.root / "manifest.json")
        with self._only_writer():
            self._replace_manifest(known)
        return True

    def strays(self) -> list[Path]:
        """Files and folders in the place of artifacts that no manifest names: what a killed writer
        left, or a person put there."""
        named = {self.root / a.path for a in self.own().values()}
        beside_them = {"manifest.json", PREVIOUS, ".lock", SPEC, ASIDE, RUNS, LISTS}
        out = []
        for path in sorted(self.root.rglob("*")):
            inside = (
                path in named
                or any(p in named for p in path.parents)
                or any(path in n.parents for n in named)
            )
            if (
                not inside
                and path.relative_to(self.root).parts[0] not in beside_them
                and path.is_file()
            ):
                out.append(path)
        return out

    def names(self, kind: str | None = None, prefix: str = "") -> list[str]:
        return [
            n
            for n, a in self.manifest().artifacts.items()
            if n.startswith(prefix) and kind in (None, a.kind)
        ]

    def entry(self, name: str) -> Artifact:
        """Raises StitchLensError where `name` is missing: it lists those of the same group, and
        says which command makes one."""
        artifacts = self.manifest().artifacts
        if name not in artifacts:
            raise missing(self.pair, name, artifacts)
        return artifacts[name]

    def path(self, name: str) -> Path:
        """The artifact's file or folder, hash checked. Raises StitchLensError where a byte differs
        or it is gone."""
        entry = self.entry(name)
        path = self.root / entry.path
        if not path.exists():  # replaced between the two reads?
            entry = self.entry(name)
            path = self.root / entry.path
            if not path.exists():
                raise StitchLensError(
                    f"{entry.path} missing from workspace '{self.pair}'",
                    "the file its manifest names",
                    f"restore it, or {REPAIR}, which says how it is made again",
                )
        digest = sha256_unchanged(path)
        if digest != entry.sha256:
            raise StitchLensError(
                f"{entry.path} with hash {digest[:12]}",
                f"{entry.sha256[:12]} as in its manifest",
                f"the file was changed: restore it, or {REPAIR}, which sets it aside",
            )
        return path

    def table(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        **equal: Any,
    ) -> pd.DataFrame:
        """Whole, or some `columns` of it; of all rows, or of those in which columns are `equal` to
        given values, or to one of a list: where a table is sorted by such a column, only the parts
        that hold them are read."""
        filters = [
            (column, "in" if isinstance(value, list) else "==", value)
            for column, value in equal.items()
        ]
        return pd.read_parquet(
            self.path(name),
            columns=None if columns is None else list(columns),
            filters=filters or None,
        )

    def record(self, name: str) -> dict[str, Any]:
        return json.loads(self.path(name).read_text("utf-8"))

    def verify(self) -> dict[str, str]:
        """Faults by artifact name, every file read anew; empty where all is well."""
        forget_hashes()
        faults = {}
        for name in self.manifest().artifacts:
            try:
                self.path(name)
            except StitchLensError as e:
                faults[name] = str(e)
        return faults


def stamp(ws: Workspace) -> str:
    """Changes whenever an artifact does: hashes from the manifest, sizes and times from the
    disk."""
    files = []
    for name, artifact in ws.manifest().artifacts.items():
        state = None
        with contextlib.suppress(OSError):
            stat = (ws.root / artifact.path).stat()
            state = stat.st_size, stat.st_mtime_ns
        files.append((name, artifact.sha256, state))
    return fingerprint(files)


def makers(ws: Workspace, name: str) -> dict[str, Any]:
    """What an artifact was made from."""
    return ws.entry(name).makers


def has(ws: Workspace, name: str) -> bool:
    return name in ws.manifest().artifacts
