"""The manifest of a workspace: every artifact with its place, hash and makers; read untrusted."""

import contextlib
import json
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field, ValidationError

from core import __version__
from core.config import Frozen
from core.errors import StitchLensError, broken

SCHEMA = 1
REPAIR = "run `python -m core doctor --repair`"
"""What to do about a manifest, or a file that it names, that is not as it was written."""


class Artifact(Frozen):
    """One file of a workspace."""

    path: str
    """Relative to the workspace; carries the first 8 hex digits of the hash."""
    sha256: str
    bytes: int
    kind: str
    """'stitch', 'control', 'sae', 'table' or 'record'."""
    makers: dict[str, Any] = Field(default_factory=dict)
    """What it was made from: model ids and weight hashes, hooks, corpus fingerprint, counts,
    config."""
    versions: dict[str, str] = Field(default_factory=dict)
    made: str = ""


class Manifest(Frozen):
    """Everything a workspace holds, by logical name."""

    schema_version: int = SCHEMA
    pair: str
    artifacts: dict[str, Artifact] = Field(default_factory=dict)


def versions() -> dict[str, str]:
    """Versions of what computes, for an artifact's record."""
    installed = {"stitchlens": __version__}
    for name in ("torch", "transformers", "transformer_lens", "numpy", "scipy"):
        with contextlib.suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed


@lru_cache(maxsize=64)
def read_manifest(
    path: Path,
    pair: str,
    stamp: tuple[int, int, int],
) -> Manifest:
    """A manifest that has not changed (`stamp`: its inode, size and time) is read once: a page asks
    a hundred times."""
    try:
        raw = json.loads(path.read_text("utf-8"))
        if not isinstance(raw, dict):
            raise TypeError("not an object")
        schema = raw.get("schema_version")
    except (ValueError, TypeError, OSError, RecursionError) as e:
        raise StitchLensError(f"an unreadable manifest of '{pair}' ({e})", "JSON", REPAIR) from None
    if not isinstance(schema, int):
        raise StitchLensError(
            f"a manifest of '{pair}' without schema_version", f"schema {SCHEMA}", REPAIR
        )
    if schema > SCHEMA:
        raise StitchLensError(
            f"workspace schema {schema!r}",
            f"{SCHEMA} or older",
            "update StitchLens to the version that wrote it",
        )
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as e:
        raise broken(e, "a manifest", f"schema {SCHEMA}", REPAIR) from None
    if out := [a.path for a in manifest.artifacts.values() if _leaves(a.path)]:
        raise StitchLensError(
            f"an artifact at '{out[0][:80]}', outside the workspace or too long",
            "paths within it",
            f"if you do not know who wrote this workspace, do not use it; else {REPAIR}",
        )
    if manifest.pair != pair:
        raise StitchLensError(
            f"a manifest of pair '{manifest.pair}'",
            f"'{pair}'",
            f"name the folder '{manifest.pair}'",
        )
    return manifest


def _leaves(path: str) -> bool:
    """Whether a relative path leads out of its folder, or is none."""
    parts = PurePosixPath(path.replace("\\", "/"))
    try:
        too_long = len(path) > 1000 or any(len(part.encode()) > 255 for part in parts.parts)
    except UnicodeEncodeError:  # half of a surrogate pair
        return True
    return not path or "\0" in path or too_long or parts.is_absolute() or ".." in parts.parts
