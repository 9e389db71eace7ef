"""Where workspaces and caches lie."""

from pathlib import Path

import pytest
from platformdirs import user_cache_path

from core.workspace import places


def test_a_variable_names_a_folder_and_an_empty_one_names_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`STITCHLENS_CACHE= make app` would else scatter caches over the folder that one is in."""
    for name, folder, usual in (
        ("STITCHLENS_WORKSPACES", places.workspaces_dir, places.WORKSPACES),
        ("STITCHLENS_CACHE", places.user_cache, user_cache_path("stitchlens")),
    ):
        monkeypatch.setenv(name, str(tmp_path))
        assert folder() == tmp_path
        monkeypatch.setenv(name, "")
        assert folder() == usual
        monkeypatch.delenv(name)
        assert folder() == usual
