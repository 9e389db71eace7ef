"""What is wrong on disk, and how it is put right: rebuilt or set aside, never deleted."""

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.errors import StitchLensError
from core.models.pairs import known_pairs
from core.workspace.store import STALE_SECONDS, Workspace
from core.workspace.uploads import is_brought

if TYPE_CHECKING:
    from core.stitches.measure import BuildConfig

BUILT = ("pair", "svcca", "study", "alpha_sweep", "stitches", "controls", "quality", "downstream", "kinds")
"""Groups of artifacts that `build` makes."""
MAKES = {
    "saes": "features build", "sae_quality": "features build", "features": "features build",
    "language_means": "steer eval", "steering": "steer eval", "steering_choice": "steer eval",
    "generations": "steer eval",
}  # fmt: skip
"""The command that makes others."""


@dataclass(frozen=True)
class Done:
    """One thing that was put right, or could not be."""

    workspace: str
    says: str
    rebuild: bool = False
    """Whether `build` makes it again."""


def repair(ws: Workspace) -> list[Done]:
    """Put one workspace right; empty where nothing was wrong. A manifest of a newer version is left as it is."""
    out: list[Done] = []

    def add(says: str, rebuild: bool = False) -> None:
        out.append(Done(ws.pair, says, rebuild))

    try:
        ws.manifest()
    except StitchLensError as e:
        if "or older" in e.wanted:
            add(f"left as it is: {e}")
            return out
        if ws.restore():
            add("the manifest was broken: it is set aside, and the one before it is back")
        else:
            ws.set_aside(ws.root / "manifest.json")
            add("the manifest was broken, and so was the one before: it is set aside", True)
    if not ws.exists:
        return out
    artifacts, faults = ws.own(), ws.verify()
    for name in faults:
        if name not in artifacts:
            continue
        moved = ws.set_aside(ws.root / artifacts[name].path)
        group = name.split("/")[0]
        made = group in BUILT and not is_brought(artifacts[name].makers)
        todo = "" if made else f"; `python -m core {MAKES[group]} {ws.pair}` makes it again" if group in MAKES else ""
        if is_brought(artifacts[name].makers):
            todo = "; it was brought here: bring it again"
        add(f"{name} {'was changed: it is set aside' if moved else 'is gone'}{todo}", made)
    if faults:
        ws.forget(faults)
    old = [path for path in ws.strays() if time.time() - path.stat().st_mtime > STALE_SECONDS]
    for path in old:
        ws.set_aside(path)
    if old:
        add(f"{len(old)} files that no manifest names are set aside")
    return out


def _settings(ws: Workspace) -> "BuildConfig | None":
    """What it was built with; None where the manifest cannot be read."""
    from core.stitches.measure import built_with

    with suppress(StitchLensError):
        return built_with(ws)
    return None


def repair_all(rebuild: bool = True) -> list[Done]:
    """Every workspace, then `build` for what it makes, where something of it was lost."""
    out: list[Done] = []
    for key, pair in known_pairs().items():
        ws = Workspace(key)
        if not ws.root.exists():
            continue
        settings = _settings(ws)
        done = repair(ws)
        out += done
        if rebuild and any(one.rebuild for one in done):
            from core.stitches.measure import build

            build(pair, settings or _settings(ws))
            out.append(Done(key, "built again"))
    return out
