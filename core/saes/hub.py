"""The folder of an SAE in a repository of the Hugging Face hub: sparsify's, Gemma Scope's or
SAELens' layout, whether or not SAELens has the release in its table."""

import re
from pathlib import Path

from core.errors import StitchLensError
from core.models.sources import quiet_hub
from core.workspace.untrusted import first_line

HUB = "hub:"
PLACE = re.compile(r"hub:(?P<repository>[\w.-]+/[\w.-]+)/(?P<folder>[\w.-]+(?:/[\w.-]+)*)")
FILES = ("cfg.json", "sae.safetensors", "sae_weights.safetensors", "params.npz")
"""Nothing else of the folder is fetched."""


def fetch(ref: str) -> Path:
    """The local folder of `hub:OWNER/NAME/FOLDER`, downloaded once; its files are not trusted yet.

    Raises StitchLensError where `ref` names no such place, or the hub does not give it.
    """
    from huggingface_hub import snapshot_download

    place = PLACE.fullmatch(ref)
    if place is None or ".." in ref:
        raise StitchLensError(
            f"'{ref}'",
            "hub:OWNER/NAME/FOLDER",
            "name the folder of one SAE, such as hub:EleutherAI/sae-llama-3-8b-32x/layers.10",
        )

    repository, folder = place["repository"], place["folder"]
    quiet_hub()
    try:
        snapshot = snapshot_download(
            repository, allow_patterns=[f"{folder}/{name}" for name in FILES]
        )
    except Exception as e:  # the hub client raises many kinds
        raise StitchLensError(
            f"no SAE from {repository} on the hub ({first_line(e)})",
            "a repository that the hub gives",
            "check its name and the connection, or give a folder",
        ) from e
    local = Path(snapshot, folder)
    if not local.is_dir():
        raise StitchLensError(
            f"no {folder} with {', '.join(FILES)} in {repository} on the hub",
            "the folder of one SAE",
            "check its name",
        )
    return local
