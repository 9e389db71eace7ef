"""Which artifacts there are: their names, what belongs together, which command makes each."""

import re
from typing import Any, Literal

import pandas as pd

from core.errors import StitchLensError
from core.workspace.store import Workspace

BUILT = (
    "pair",
    "svcca",
    "study",
    "alpha_sweep",
    "stitches",
    "controls",
    "quality",
    "downstream",
    "kinds",
)
"""Groups of artifacts that `build` makes."""


MAKES = {
    "saes": "features build",
    "sae_quality": "features build",
    "features": "features build",
    "language_means": "steer eval",
    "steering": "steer eval",
    "steering_choice": "steer eval",
    "generations": "steer eval",
}
"""The command that makes others."""


WHAT = {
    "pair": "The pair, its corpus, its alignment",
    "svcca": "Which layers correspond (Fig. 6)",
    "study": "In which metric to measure Eq. 3",
    "alpha_sweep": "How strong inversion should be (Fig. 7)",
    "stitches": "Stitches (Eq. 1 to 3)",
    "downstream": "Downstream losses (Table 1)",
    "kinds": "Downstream losses by kind of text",
    "quality": "Variance unexplained, inversion errors",
    "controls": "Controls: stitches of shuffled pairs",
    "cards": "Report cards of imported stitches",
    "sae_cards": "Report cards of SAEs that were brought",
    "vectors": "Steering vectors that were brought",
    "vector_cards": "Their report cards",
    "saes": "Sparse autoencoders of A",
    "sae_quality": "SAEs before and after transfer (Table 2)",
    "features": "Features: Eq. 10, semantic or structural",
    "examples_a": "Top contexts of features in A",
    "examples_b": "Top contexts of features in B",
    "together_a": "The same contexts as A reads them",
    "together_b": "The same contexts as B reads them",
    "histograms_a": "Activation histograms in A",
    "histograms_b": "Activation histograms in B",
    "logits": "Tokens that features raise and lower",
    "functional": "Functional features: entropy, attention (Fig. 5)",
    "probes": "Probes of both models on every task (Fig. 3a, 9, 10)",
    "probe_features": "Features that were probed (Eq. 7)",
    "sae_training": "SAEs of B trained from several starts (Fig. 2, D)",
    "sae_curves": "Their curves: explained variance, dead features, FLOPs (Fig. 2a)",
    "sae_costs": "FLOPs of SAEs and stitches (Table 3)",
    "language_means": "Mean residual streams of each language",
    "steering": "Response languages under steering (Tables 5, 6)",
    "steering_choice": "Settings that the first half of the prompts chose from",
    "generations": "What was written under steering",
}
"""What each group of artifacts is."""


def provenance(ws: Workspace, name: str) -> pd.DataFrame:
    """What a stitch was made from: `what`, `value`; nested makers as dotted names, then file, hash,
    date, versions."""
    entry = ws.entry(f"stitches/{name}")
    rows = [
        *_flat(entry.makers),
        ("file", entry.path),
        ("sha256", entry.sha256),
        ("bytes", f"{entry.bytes:,}"),
        ("made", entry.made),
        *_flat(entry.versions, "versions."),
    ]
    return pd.DataFrame(rows, columns=["what", "value"])


def computed(ws: Workspace) -> pd.DataFrame:
    """What the workspace holds, a row a kind: `group`, `what`, `files`, `made` (the latest, UTC),
    `megabytes`."""
    rows = [
        (name.split("/")[0], pd.Timestamp(a.made) if a.made else pd.NaT, a.bytes / 1e6)
        for name, a in ws.manifest().artifacts.items()
    ]
    table = (
        pd.DataFrame(rows, columns=["group", "made", "megabytes"])
        .groupby("group", as_index=False)
        .agg(files=("made", "size"), made=("made", "max"), megabytes=("megabytes", "sum"))
    )
    order = {group: i for i, group in enumerate(WHAT)}
    table["what"] = [WHAT.get(group, group) for group in table.group]
    return table.sort_values("group", key=lambda s: s.map(order)).reset_index(drop=True)


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, item in value.items():
        rows += (
            _flat(item, f"{prefix}{key}.")
            if isinstance(item, dict)
            else [(f"{prefix}{key}", str(item))]
        )
    return rows


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


Kind = Literal["stitches", "saes", "vectors"]


PARTS: dict[Kind, tuple[str, ...]] = {
    "stitches": ("controls", "cards", "quality", "kinds", "downstream", "stitches"),
    "saes": (
        "sae_cards",
        "sae_quality",
        "examples_a",
        "examples_b",
        "histograms_a",
        "histograms_b",
        "together_a",
        "together_b",
        "logits",
        "features",
        "saes",
    ),
    "vectors": ("vector_cards", "vectors"),
}
"""The artifacts of one upload, that which makes it visible last."""


KINDS: dict[str, str] = {"stitches": "stitch", "saes": "SAE", "vectors": "vector"}


def name_from(text: str) -> str:
    """A name for an artifact from that of a file or a reference."""
    stem = re.split(r"[/:\\]", text.rstrip("/"))[-1]
    for ending in (
        ".safetensors",
        ".npz",
        ".npy",
        ".zip",
        ".gguf",
        ".json",
        ".pt",
        ".pth",
        ".bin",
        ".ckpt",
    ):
        stem = stem.removesuffix(ending)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:64] or "mine"


def check_name(ws: Workspace, kind: str, name: str) -> None:
    """Of an artifact of that kind. Raises StitchLensError where a name is unfit for a file, or
    taken."""
    if not NAME.fullmatch(name):
        raise StitchLensError(
            f"the name '{name}'",
            "up to 64 letters, digits, '.', '_' and '-', the first a letter or digit",
            "choose another name",
        )
    if ws.exists and f"{kind}/{name}" in ws.manifest().artifacts:
        article, what = "an" if kind == "saes" else "a", KINDS.get(kind, "set")
        raise StitchLensError(
            f"{article} {what} named '{name}'", "a name that is free", "choose another name"
        )


def is_brought(makers: dict[str, Any]) -> bool:
    """Whether an artifact with these makers came from a person, so that nothing here can make it
    again."""
    return makers.get("method") == "imported" or "brought" in makers
