"""An SAE that others saved, as a zip or a folder, read without trusting it: SAELens' own layout,
sparsify's, or Gemma Scope's one file.

What comes out is a folder of two files that were written here: a config of what is known of it, and
weights whose shapes are those that the config claims. Nothing else of an archive is opened, pickled
files least of all.
"""

import json
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from core.errors import StitchLensError, printable
from core.saes.config import (
    CONFIG,
    FACTORS,
    NOTES,
    SPARSIFY_READ,
    CleanConfig,
    account,
    checked,
    saelens,
)
from core.saes.gemma_scope import PARAMS, hook_of, params_of, read_params
from core.workspace.archives import opened_zip, unzip
from core.workspace.disk import disk_faults
from core.workspace.headers import safetensors_header
from core.workspace.untrusted import (
    HEADER,
    LARGEST_SAE,
    first_line,
    fits,
    parse_json,
    sized,
)

SAELENS, SPARSIFY = "sae_weights.safetensors", "sae.safetensors"
LAYOUTS = (
    f"{CONFIG} with {SAELENS} (SAELens) or {SPARSIFY} (sparsify), at the top or one folder down"
)
PLACE = re.compile(r"(?:[\w.]+\.)?(?:layers|h)[._](\d{1,3})")
"""What sparsify calls the residual stream after a block; `layers.5.mlp` is another place."""


def clean_sae(path: Path, into: Path) -> Path:
    """`into`, a new folder that SAELens opens, from a zip or a folder of either layout, or from
    Gemma Scope's `params.npz`.

    Raises StitchLensError that names the fault: no SAE in it, too large, a config or weights that
    are not as claimed.
    """
    with disk_faults(into):
        into.mkdir(parents=True)
    if (params := params_of(path)) is not None:
        _gemma_scope(params, into)
        return into
    config, weights, place = _folder(path, into) if path.is_dir() else _zip(path, into)
    if weights.name == SPARSIFY:
        _sparsify(config, weights, place, into, path.name)
    else:
        found = saelens(config, path.name)
        weights = _without_factor(found, weights, path.name)
        _fits(found.shapes(), weights, found.architecture, path.name)
        with disk_faults(into):
            found.write(into)
    return into


def _gemma_scope(params: Path, into: Path) -> None:
    hook, state = hook_of(params), read_params(params)
    d_in, d_sae = state["W_enc"].shape
    fields = {
        "architecture": "jumprelu",
        "d_in": d_in,
        "d_sae": d_sae,
        "apply_b_dec_to_input": False,
        "metadata": {"hook_name": hook, "layout": "Gemma Scope"},
    }
    config = checked(fields, params.name)
    with disk_faults(into):
        config.write(into)
        save_file(state, into / SAELENS)


def _without_factor(
    config: CleanConfig,
    weights: Path,
    name: str,
) -> Path:
    """The weights with a factor of each feature, where there is one, multiplied into the decoder.
    Raises StitchLensError where that would not be the same SAE."""
    factors = [
        k
        for k in safetensors_header(weights, LARGEST_SAE, f"{weights.name} in {name}")
        if k in FACTORS
    ]
    if not factors:
        return weights
    shapes = config.shapes() | dict.fromkeys(factors, (config.d_sae,))
    _fits(shapes, weights, config.architecture, name)
    with safe_open(weights, "pt") as f:
        state = {key: f.get_tensor(key) for key in shapes}
    factor = math.prod((state.pop(key).float() for key in factors), start=torch.ones(config.d_sae))
    if not torch.equal(factor, torch.ones(config.d_sae)):
        if config.architecture == "topk" or not config.finetuning:
            raise StitchLensError(
                f"{', '.join(factors)} in {weights.name} of {name}, which its {CONFIG} does not"
                " apply",
                "finetuning_scaling_factor true beside it, or weights without",
                "check how it was finetuned",
            )
        state["W_dec"] = state["W_dec"].float() * factor[:, None]
    with disk_faults(weights.parent):
        weights.unlink()  # it may be a link to the file itself
        save_file({key: value.contiguous() for key, value in state.items()}, weights)
    return weights


def _pick(names: Mapping[str, int], path: Path) -> tuple[str, str, str]:
    """(config, weights, folder within) among names and their sizes. Raises StitchLensError where it
    is not one SAE."""
    tops = [PurePosixPath(n).parent for n in names if PurePosixPath(n).name == CONFIG]
    tops = [top for top in tops if len(top.parts) <= 1]
    pairs = [(top, w) for top in tops for w in (SAELENS, SPARSIFY) if str(top / w) in names]
    if len(pairs) != 1:
        there = ", ".join(sorted(names)[:6]) or "nothing"
        many = f"{len(pairs)} SAEs" if pairs else "no SAE"
        raise StitchLensError(
            f"{many} in {path.name} ({there})",
            f"one: {LAYOUTS}; or Gemma Scope's {PARAMS}",
            "give the file of one SAE",
        )
    top, weights = pairs[0]
    config = str(top / CONFIG)
    if names[config] > HEADER:
        raise StitchLensError(
            f"{CONFIG} of {names[config]:,} bytes in {path.name}", f"at most {HEADER:,}", "check it"
        )
    return config, str(top / weights), top.name or path.name.removesuffix(".zip")


def _zip(path: Path, into: Path) -> tuple[bytes, Path, str]:
    sized(path, (".zip", ".npz"), LARGEST_SAE)
    with opened_zip(path, LARGEST_SAE) as (archive, parts):
        members = {str(PurePosixPath(part.filename)): part for part in parts}
        config, weights, place = _pick({name: m.file_size for name, m in members.items()}, path)
        with disk_faults(into):
            unzip(archive, members[config], into / CONFIG, path.name)
            unzip(archive, members[weights], into / PurePosixPath(weights).name, path.name)
    return (into / CONFIG).read_bytes(), into / PurePosixPath(weights).name, place


def _folder(path: Path, into: Path) -> tuple[bytes, Path, str]:
    try:
        files = [p for p in (*path.iterdir(), *path.glob("*/*")) if p.is_file()]
        sizes = {p.relative_to(path).as_posix(): p.stat().st_size for p in files}
    except OSError as e:
        raise StitchLensError(
            f"{path.name} unreadable ({e.strerror})", "a readable folder", "check it"
        ) from None
    config, weights, place = _pick(sizes, path.resolve())
    sized(path / config, (".json",), HEADER)
    sized(path / weights, (".safetensors",), LARGEST_SAE)
    with disk_faults(into):
        target = into / PurePosixPath(weights).name
        try:
            target.symlink_to((path / weights).resolve())
        except OSError:  # no links here
            shutil.copyfile(path / weights, target)
    return (path / config).read_bytes(), target, place


def _fits(
    shapes: Mapping[str, tuple[int, ...]],
    weights: Path,
    kind: str,
    name: str,
) -> None:
    """Raises StitchLensError unless the file claims exactly these tensors, with as many bytes as
    they take."""
    fits(list(shapes.values()), LARGEST_SAE, name)
    claims = safetensors_header(weights, LARGEST_SAE, f"{weights.name} in {name}")
    if set(claims) != set(shapes):
        missing, extra = (
            ", ".join(sorted(x)) for x in (set(shapes) - set(claims), set(claims) - set(shapes))
        )
        raise StitchLensError(
            f"{'no ' + missing if missing else extra + ' besides'} in {weights.name} of {name}",
            f"{', '.join(shapes)}, as the {kind} SAE of its {CONFIG} has",
            "check how it was saved",
        )
    for key, claim in claims.items():
        if claim.shape != shapes[key]:
            raise StitchLensError(
                f"{key} of shape {claim.shape} in {name}",
                f"{shapes[key]}, as its {CONFIG} says",
                "check how it was saved",
            )


def _sparsify(
    raw: bytes,
    weights: Path,
    place: str,
    into: Path,
    name: str,
) -> None:
    """sparsify's layout by SAELens' own reader of it, written as SAELens keeps it.

    That reader (6.54) is helped in four places: 0 latents mean the expansion factor, the decoder
    lies [latents, d_in], weights keep their precision, and sparsify subtracts b_dec whether or not
    decoder norms are 1.
    """
    from sae_lens.loading.pretrained_sae_loaders import (
        handle_config_defaulting,
        sparsify_disk_loader,
    )

    config = parse_json(raw, f"the {CONFIG} of {name}", HEADER)
    if (activation := config.get("activation", "topk")) != "topk":
        raise StitchLensError(
            f"activation {printable(activation, 60)} in the {CONFIG} of {name}",
            "a TopK SAE",
            "use another SAE",
        )
    notes = account(config, "topk", name, SPARSIFY_READ)
    if (hook := PLACE.fullmatch(place)) is None and "layers" in place:
        raise StitchLensError(
            f"an SAE at {place}", "one of the residual stream (layers.L)", "use another SAE"
        )
    d_in, latents = config.get("d_in"), config.get("num_latents")
    if type(d_in) is int and not latents and type(config.get("expansion_factor")) is int:
        latents = d_in * config["expansion_factor"]
    found = checked(
        {
            "architecture": "topk",
            "d_in": d_in,
            "d_sae": latents,
            "k": config.get("k", 32),
        },
        name,
    )
    wide = (found.d_sae, found.d_in)
    shapes = {
        "encoder.weight": wide,
        "encoder.bias": wide[:1],
        "W_dec": wide,
        "b_dec": wide[1:],
    }
    _fits(shapes, weights, "sparsify", name)
    folder = into / f"layers.{hook[1] if hook else 0}"
    with disk_faults(into):
        folder.mkdir()
        weights = weights.rename(folder / SPARSIFY)
        (folder / CONFIG).write_text(
            json.dumps(
                {
                    "d_in": found.d_in,
                    "num_latents": found.d_sae,
                    "k": found.k,
                }
            ),
            "utf-8",
        )
    overrides = {"dtype": "float32", "apply_b_dec_to_input": True}
    try:
        fields, state = sparsify_disk_loader(folder, "cpu", overrides)
        with safe_open(weights, "pt") as f:
            state["W_dec"] = f.get_tensor("W_dec").float()
    except Exception as e:
        raise StitchLensError(
            f"no readable {SPARSIFY} in {name} ({first_line(e)})", "a whole file", "save it again"
        ) from e
    fields = handle_config_defaulting(fields)
    fields["metadata"] = {
        "hook_name": fields["metadata"]["hook_name"] if hook else None,
        "layout": "sparsify",
    }
    fields["metadata"] |= {NOTES: " ".join(notes)} if notes else {}
    with disk_faults(into):
        checked(fields, name).write(into)
        save_file({key: value.contiguous() for key, value in state.items()}, into / SAELENS)
        for gone in (*folder.iterdir(), folder):
            gone.rmdir() if gone.is_dir() else gone.unlink()
