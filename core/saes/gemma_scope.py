"""SAEs as Gemma Scope publishes them (Lieberum et al. 2024): one `params.npz` with the five arrays
of a JumpReLU SAE, `acts = relu(x W_enc + b_enc)` where that is above `threshold`, and `x ≈ acts
W_dec + b_dec`."""

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.errors import StitchLensError
from core.workspace.archives import npz_array, opened_zip
from core.workspace.untrusted import LARGEST_SAE, fits, sized

PARAMS = "params.npz"
ARRAYS = ("W_dec", "W_enc", "b_dec", "b_enc", "threshold")
LAYER = re.compile(r"layer_(\d{1,3})")
"""A folder above the file: the residual stream after that block."""
ELSEWHERE = re.compile(r"gemma-scope[\w.-]*-(att|mlp|transcoders?)\b")
"""Releases that do not read the residual stream."""


def params_of(path: Path) -> Path | None:
    """The `params.npz` that a path names, itself or within a folder that has no other SAE."""
    if path.suffix.lower() == ".npz":
        return path
    files = [*path.glob(PARAMS), *path.glob(f"*/{PARAMS}")] if path.is_dir() else []
    return files[0] if len(files) == 1 and not (path / "cfg.json").exists() else None


def hook_of(path: Path) -> str | None:
    """The place in the model that its folders say, in SAELens' words; None where they do not say.

    Raises StitchLensError for a release that reads another place.
    """
    whole = path.parent.resolve() / path.name  # the hub's cache links files, and folders say it
    if place := ELSEWHERE.search(str(whole)):
        raise StitchLensError(
            f"an SAE of {place[0]}", "one of the residual stream (…-res)", "use another SAE"
        )
    layers = [match for part in whole.parts[-5:-1] if (match := LAYER.fullmatch(part))]
    return f"blocks.{int(layers[0][1])}.hook_resid_post" if len(layers) == 1 else None


def read_params(path: Path) -> dict[str, Tensor]:
    """The five arrays as float32: W_enc [d_in, d_sae], b_enc and threshold [d_sae], W_dec [d_sae,
    d_in], b_dec [d_in]. Nothing is unpickled.

    Raises StitchLensError for a file that is too large, lacks one, has more, or whose shapes do not
    go together.
    """
    sized(path, (".npz",), LARGEST_SAE)
    arrays: dict[str, Tensor] = {}
    with opened_zip(path, LARGEST_SAE) as (archive, parts):
        members = {part.filename.removesuffix(".npy"): part for part in parts}
        wanted = f"{', '.join(ARRAYS)} of a JumpReLU SAE, as Gemma Scope has them"
        if sorted(members) != sorted(ARRAYS):
            listed = ", ".join(sorted(members)[:8]) or "nothing"
            raise StitchLensError(
                f"{listed[:120]} in {path.name}", wanted, "check which file it is"
            )

        for key, member in members.items():
            value = npz_array(archive, member, key, path.name)
            fits([value.shape, *(t.shape for t in arrays.values())], LARGEST_SAE, path.name)
            with np.errstate(over="ignore"):  # what is infinite then is refused as such
                arrays[key] = torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))

    shapes = {key: tuple(value.shape) for key, value in arrays.items()}
    d_in, d_sae = shapes["W_enc"] if len(shapes["W_enc"]) == 2 else (0, 0)
    right = {
        "W_enc": (d_in, d_sae),
        "W_dec": (d_sae, d_in),
        "b_dec": (d_in,),
    }
    right |= {"b_enc": (d_sae,), "threshold": (d_sae,)}
    if shapes != right:
        listed = ", ".join(f"{key} {shapes[key]}" for key in ARRAYS)
        raise StitchLensError(f"{listed} in {path.name}", wanted, "check how it was saved")
    return arrays
