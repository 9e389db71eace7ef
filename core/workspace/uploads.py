"""What a person brings: private to the browser it came from until it is kept; stitches, SAEs and
vectors alike."""

import contextlib
import re
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from core.errors import StitchLensError
from core.workspace import demonstration
from core.workspace.artifacts import COMMANDS, KINDS, Kind, belongings, is_brought
from core.workspace.disk import STALE_SECONDS, beside
from core.workspace.places import user_cache
from core.workspace.store import Workspace


def private_home(token: str) -> Path:
    """The folder of a browser's private workspaces, made when something is first put there; what no
    one has come back to for a day is removed."""
    homes = user_cache() / "private"
    home = homes / re.sub(r"[^A-Za-z0-9]+", "", token)[:64]
    for old in homes.glob("*"):
        with contextlib.suppress(OSError):
            if old == home:
                if time.time() - old.stat().st_mtime > STALE_SECONDS / 24:
                    old.touch()
            elif time.time() - old.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(old)
    return home


def uploaded(name: str, content: bytes) -> Path:
    """Where an uploaded file is kept for a job: in the user's cache, under its own name with odd
    signs taken out. Raises StitchLensError in a demonstration."""
    demonstration.refuse("an upload")
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).name).strip("-.")[-80:] or "upload"
    home = user_cache() / "uploads"
    for old in home.glob("*"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(old)
    folder = home / secrets.token_hex(6)
    folder.mkdir(parents=True)
    with beside(folder / stem) as part:
        part.write_bytes(content)
    return folder / stem


@dataclass(frozen=True)
class Brought:
    """One upload: private to its browser, or kept in the workspace that all share."""

    kind: Kind
    name: str
    private: bool
    bytes: int
    made: str


def brought(ws: Workspace) -> list[Brought]:
    """Every upload that can be seen from here, private ones first."""
    if not ws.exists:
        return []
    artifacts, own = ws.manifest().artifacts, ws.own() if ws.private else {}
    out = []
    for kind in get_args(Kind):
        for full, artifact in artifacts.items():
            name = full.removeprefix(f"{kind}/")
            if name != full and (full in own or is_brought(artifact.makers)):
                size = sum(artifacts[part].bytes for part in belongings(artifacts, kind, name))
                out.append(Brought(kind, name, full in own, size, artifact.made))
    return sorted(out, key=lambda one: (not one.private, one.made))


def keep(
    ws: Workspace,
    kind: Kind,
    name: str,
) -> None:
    """Move an upload from the private workspace into the one that all share.

    A killed move goes on when it is asked for again. Raises StitchLensError where the name is taken
    there by something else; nothing is moved then.
    """
    own = ws.own() if ws.private else {}
    if f"{kind}/{name}" not in own:
        raise StitchLensError(
            f"no private {KINDS[kind]} '{name}'", "one that was brought here", "see the list"
        )
    names = belongings(own, kind, name)
    there = ws.shared.manifest().artifacts if ws.shared.exists else {}
    for full in names:
        if full in there and there[full].sha256 != own[full].sha256:
            raise StitchLensError(
                f"another {KINDS[kind]} named '{name}' in the workspace",
                "a name that is free",
                "bring yours again under another name",
            )
    for full in names:
        if full not in there:
            ws.shared.copy_in(full, ws.path(full), own[full])
    for full in reversed(names):
        ws.remove(full)


def remove(
    ws: Workspace,
    kind: Kind,
    name: str,
) -> None:
    """Take an upload, and what was measured of it, out of wherever it lies: the private workspace
    first.

    Raises StitchLensError for what nobody brought.
    """
    full = f"{kind}/{name}"
    where = ws if full in ws.own() else ws.shared
    artifact = where.entry(full)
    if where.private is None and not is_brought(artifact.makers):
        raise StitchLensError(
            f"{KINDS[kind]} '{name}', which was made here",
            "one that was brought",
            f"`python -m core {COMMANDS[kind]} remove {ws.pair} {name}` removes it all the same",
        )
    for part in reversed(belongings(where.own(), kind, name)):
        where.remove(part)
