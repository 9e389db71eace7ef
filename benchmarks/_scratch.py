"""Caches and workspaces of a benchmark's own, for what must not find its work done already."""

import os
from pathlib import Path

from core.models.pairs import get_pair
from core.models.sources import locate
from core.workspace.places import user_cache


def make_models(pair: str) -> None:
    """Make the folders of a pair's models first, so that dequantising them is in no measurement."""
    for spec in (get_pair(pair).a, get_pair(pair).b):
        locate(spec)


def empty_caches(folder: Path) -> dict[str, str]:
    """The environment of a process whose caches and workspaces lie in `folder`, empty but for the
    models, which are shared with this one."""
    models = user_cache() / "models"
    models.mkdir(parents=True, exist_ok=True)
    (folder / "models").symlink_to(models, target_is_directory=True)
    return os.environ | {
        "STITCHLENS_CACHE": str(folder),
        "STITCHLENS_WORKSPACES": str(folder / "cache"),
    }
