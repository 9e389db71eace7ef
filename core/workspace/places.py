"""Where things live: the project, workspaces, and the user's cache."""

import os
import re
from pathlib import Path

from platformdirs import user_cache_path

from core.errors import StitchLensError

PROJECT = Path(__file__).resolve().parent.parent.parent
WORKSPACES = PROJECT / "cache"
PRIVATE_ENV = "STITCHLENS_PRIVATE"


def named(text: str) -> Path:
    """The path that a person, or a file from outside, named. Raises StitchLensError where it can be
    none: too long, with a null, in the home of nobody, with bytes that are not UTF-8 (specs and
    labels keep paths, as JSON)."""
    try:
        if "\0" in text:
            raise ValueError("a null character")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ValueError("a name that is not UTF-8")
        path = Path(text).expanduser()
        path.exists()
    except (OSError, ValueError, RuntimeError) as e:
        why = e.strerror if isinstance(e, OSError) else e
        raise StitchLensError(f"'{text[:60]}' ({why})", "a path", "check it") from None
    return path


def workspaces_dir() -> Path:
    """Where workspaces live: `cache/` of the project, or STITCHLENS_WORKSPACES."""
    return Path(os.environ.get("STITCHLENS_WORKSPACES") or WORKSPACES)


def private_dir() -> Path | None:
    """Where a command writes what belongs to one person alone: PRIVATE_ENV, which a page sets for
    its jobs."""
    folder = os.environ.get(PRIVATE_ENV)
    return Path(folder) if folder else None


def user_cache() -> Path:
    """Where large things that can be made again live: dequantised weights, moments, recorded
    activations."""
    return Path(os.environ.get("STITCHLENS_CACHE") or user_cache_path("stitchlens"))


KEY = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""Of a pair: it names folders."""


SPEC = "spec.json"
"""Beside the manifest of a workspace: the spec of a pair that a person added."""
