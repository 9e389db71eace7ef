"""Workspaces that pages are opened on."""

from pathlib import Path

import pytest

from core.workspace.store import Workspace
from tests.helpers.planted import plant


@pytest.fixture
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A planted workspace, the only one there is."""
    monkeypatch.setenv("STITCHLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(tmp_path / "workspaces"))
    return plant(tmp_path / "workspaces")
