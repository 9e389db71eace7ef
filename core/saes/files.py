"""An SAE that others saved, as a zip or a folder, read without trusting it: SAELens' own layout, or
sparsify's.

What comes out is a folder of two files that were written here: a config of what is known of it, and
weights whose shapes are those that the config claims. Nothing else of an archive is opened, pickled
files least of all.
"""

import json
import math
import re
import shutil
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import safe_open
from safetensors.torch import save_file

from core.errors import StitchLensError, printable
from core.workspace.archives import unzip, zip_members
from core.workspace.disk import disk_faults
from core.workspace.headers import safetensors_header
from core.workspace.untrusted import (
    HEADER,
    LARGEST_SAE,
    WIDEST,
    first_line,
    fits,
    parse_json,
    sized,
)

CONFIG, SAELENS, SPARSIFY = "cfg.json", "sae_weights.safetensors", "sae.safetensors"
LAYOUTS = (
    f"{CONFIG} with {SAELENS} (SAELens) or {SPARSIFY} (sparsify), at the top or one folder down"
)
PLACE = re.compile(r"(?:[\w.]+\.)?(?:layers|h)[._](\d{1,3})")
"""What sparsify calls the residual stream after a block; `layers.5.mlp` is another place."""


NOTES = "notes"
"""In the metadata of a clean SAE: what its config says that nothing here makes use of, as a
sentence each."""
REFUSED = (
    "transcode",
    "transcoder",
    "is_transcoder",
    "skip_connection",
    "signed",
    "embed_skip",
    "gram_lookup",
    "use_error_term",
    "d_out",
)
"""Fields of a config that make another function of it, unless they are empty."""
ACTIVATIONS = {
    "standard": ("relu",),
    "gated": ("relu",),
    "jumprelu": ("relu", "jumprelu"),
    "topk": ("topk",),
}
"""What `activation_fn` says of each kind, where it says anything."""
FACTORS = ("finetuning_scaling_factor", "scaling_factor")
"""Tensors of SAELens until version 5 that multiply each feature before it is decoded."""
READ = {
    "architecture",
    "d_in",
    "d_sae",
    "k",
    "apply_b_dec_to_input",
    "normalize_activations",
    "reshape_activations",
    "rescale_acts_by_decoder_norm",
    "metadata",
    "activation_fn",
    "activation_fn_str",
    "activation_fn_kwargs",
    "model_name",
    "hook_name",
    "hook_point",
    "hook_head_index",
    "hook_point_head_index",
    "hook_name_out",
    "hook_layer",
    "hook_point_layer",
    "prepend_bos",
    "norm_scaling_factor",
    "model_from_pretrained_kwargs",
    "finetuning_scaling_factor",
    "apply_finetuning_scaling_factor",
}
TRAINING = re.compile(
    r"dtype|device|act_store_device|sae_lens_\w+|training_\w+|dataset\w*|is_dataset_tokenized|streaming|context_size|"
    r"seed|lr\w*|l[01]_\w+|lp_norm|adam_\w+|n_\w+|\w*batch_size\w*|wandb\w*|log\w*|checkpoint\w*|verbose|"
    r"neuronpedia_id|b_dec_init_method|decoder_(orthogonal_init|heuristic_\w+|init_norm)|init_\w+|"
    r"normalize_sae_decoder|scale_sparsity_penalty_by_decoder_norm|mse_loss_normalization|sparsity_\w+|"
    r"aux_loss\w*|jumprelu_\w+|pre_act_loss_\w+|use_ghost_grads|feature_sampling_window|dead_\w+|auto\w*|compile_\w+|"
    r"\w*cached_activations\w*|resume|from_pretrained_path|hook_eval|hook_point_eval|exclude_special_tokens|"
    r"expansion_factor|finetuning_\w+|tokens_per_buffer|train\w*|eval_\w+|model_(class_name|kwargs)|sae_id|trainer|"
    r"disable_concat_sequences|sequence_separator_token|save_\w+|output_path|total_\w+|lm_name|submodule_name|"
    r"stitchlens|transferred_from|stitch|stitch_makers|layout|hf_hook_name|dataset_trust_remote_code|use_sparse_\w+"
)
"""Fields about how it was trained and stored: they do not change what it computes."""
SPARSIFY_READ = {
    "activation",
    "expansion_factor",
    "normalize_decoder",
    "num_latents",
    "k",
    "multi_topk",
    "d_in",
    "hookpoint",
}
"""sparsify normalises the decoder in training and keeps it so; `multi_topk` is a loss."""
HARMLESS_LOADING = {
    "fold_ln",
    "center_unembed",
    "fold_value_biases",
    "refactor_factored_attn_matrices",
    "dtype",
    "torch_dtype",
    "device",
    "trust_remote_code",
}
"""Of `model_from_pretrained_kwargs`: what leaves the residual stream as it is."""


class _Config(BaseModel):
    """What of an SAE's config is kept; `_account` has answered for the rest."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    architecture: Literal["standard", "topk", "jumprelu", "gated"]
    d_in: int = Field(ge=1, le=WIDEST)
    d_sae: int = Field(ge=1, le=LARGEST_SAE // 4)
    k: int | None = Field(default=None, ge=1)
    apply_b_dec_to_input: bool = True
    normalize_activations: Literal[
        "none", "expected_average_only_in", "layer_norm", "constant_norm_rescale"
    ] = "none"
    reshape_activations: Literal["none", "hook_z"] = "none"
    rescale_acts_by_decoder_norm: bool = False
    metadata: dict[str, Any] = Field(default_factory=dict)
    finetuning: bool = False
    """Whether a factor of each feature that comes with the weights is to be applied."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of each weight, as SAELens names them."""
        rows = {"gated": ("b_gate", "b_mag", "r_mag"), "jumprelu": ("b_enc", "threshold")}
        out: dict[str, tuple[int, ...]] = dict.fromkeys(
            rows.get(self.architecture, ("b_enc",)), (self.d_sae,)
        )
        return out | {
            "W_enc": (self.d_in, self.d_sae),
            "W_dec": (self.d_sae, self.d_in),
            "b_dec": (self.d_in,),
        }

    def write(self, folder: Path) -> None:
        from sae_lens import __version__

        topk = set() if self.architecture == "topk" else {"k", "rescale_acts_by_decoder_norm"}
        body = self.model_dump(exclude={"finetuning"} | topk)
        body["metadata"] = _metadata(self.metadata) | {"sae_lens_version": __version__}
        (folder / CONFIG).write_text(
            json.dumps(body | {"dtype": "float32", "device": "cpu"}), "utf-8"
        )


def clean_sae(path: Path, into: Path) -> Path:
    """`into`, a new folder that SAELens opens, from a zip or a folder of either layout.

    Raises StitchLensError that names the fault: no SAE in it, too large, a config or weights that
    are not as claimed.
    """
    with disk_faults(into):
        into.mkdir(parents=True)
    config, weights, place = _folder(path, into) if path.is_dir() else _zip(path, into)
    if weights.name == SPARSIFY:
        _sparsify(config, weights, place, into, path.name)
    else:
        found = _saelens(config, path.name)
        weights = _without_factor(found, weights, path.name)
        _fits(found.shapes(), weights, found.architecture, path.name)
        with disk_faults(into):
            found.write(into)
    return into


def _account(config: Mapping[str, Any], kind: str, name: str, read: Collection[str]) -> list[str]:
    """Notes on the fields of a config that are not in `read` and may matter. Raises StitchLensError
    for those that make another function of an SAE of this kind."""
    flat = dict(config) | (config["metadata"] if isinstance(config.get("metadata"), dict) else {})
    kwargs = flat.get("activation_fn_kwargs")
    fields = {k: x for k, x in flat.items() if x not in (None, False, 0, "", "none", [], {})}
    refused = [f"{k} {x}" for k, x in fields.items() if k in REFUSED]
    refused += [
        f"{k} {x}"
        for k, x in (kwargs.items() if isinstance(kwargs, dict) else ())
        if k != "k" and x
    ]
    activation = fields.get("activation_fn", fields.get("activation_fn_str"))
    if activation is not None and activation not in ACTIVATIONS.get(kind, (activation,)):
        refused.append(f"activation_fn {activation} of a {kind} SAE")
    if refused:
        raise StitchLensError(
            f"{printable(', '.join(refused), 160)} in the {CONFIG} of {name}",
            "an SAE that reads and writes one stream by ReLU, TopK or JumpReLU",
            "use another SAE",
        )

    notes = []
    loading = fields.get("model_from_pretrained_kwargs")
    loaded = loading if isinstance(loading, dict) else {}
    if changed := {k: x for k, x in loaded.items() if x and k not in HARMLESS_LOADING}:
        said = ", ".join(f"{k} = {x}" for k, x in changed.items())
        notes.append(f"Its model was loaded with {said}: here it is loaded as it was published.")
    if flat.get("prepend_bos") is False:
        notes.append(
            "It was trained on texts without a first token (prepend_bos is false); here every text"
            " has one."
        )
    hook, block = str(flat.get("hook_name", flat.get("hook_point", ""))), flat.get("hook_layer")
    number = re.match(r"blocks\.(\d+)\.", hook)
    if number is not None and type(block) is int and block != int(number[1]):
        notes.append(f"Its hook_layer {block} is not that of its hook {hook}; the hook was taken.")
    rest = {
        k: x
        for k, x in fields.items()
        if k not in read and k not in REFUSED and not TRAINING.fullmatch(k)
    }
    if rest:
        said = ", ".join(f"{k} = {str(x)[:30]}" for k, x in list(rest.items())[:8])
        more = f" and {len(rest) - 8} more" if len(rest) > 8 else ""
        notes.append(f"Its {CONFIG} has fields that nothing was made of: {said}{more}.")
    return [printable(note) for note in notes]


def _without_factor(config: _Config, weights: Path, name: str) -> Path:
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
            f"{many} in {path.name} ({there})", f"one: {LAYOUTS}", "give the file of one SAE"
        )
    top, weights = pairs[0]
    config = str(top / CONFIG)
    if names[config] > HEADER:
        raise StitchLensError(
            f"{CONFIG} of {names[config]:,} bytes in {path.name}", f"at most {HEADER:,}", "check it"
        )
    return config, str(top / weights), top.name or path.name.removesuffix(".zip")


def _zip(path: Path, into: Path) -> tuple[bytes, Path, str]:
    sized(path, (".zip",), LARGEST_SAE)
    members = {str(PurePosixPath(m.filename)): m for m in zip_members(path, LARGEST_SAE)}
    config, weights, place = _pick({name: m.file_size for name, m in members.items()}, path)
    with disk_faults(into), zipfile.ZipFile(path) as archive:
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


def _checked(fields: Mapping[str, Any], name: str) -> _Config:
    if fields.get("normalize_activations") == "covariance_whitening":
        raise StitchLensError(
            f"normalize_activations covariance_whitening in the {CONFIG} of {name}, whose files"
            " hold no whitening",
            "an SAE with the whitening folded into its weights",
            "save it at the end of its training, or fold it with SAELens'"
            " `fold_activation_whitening`",
        )
    kind = fields.get("architecture")
    if isinstance(kind, str) and kind not in ("standard", "topk", "jumprelu", "gated"):
        trained = (
            "topk" in kind
        )  # BatchTopK and Matryoshka become JumpReLU when their training ends
        raise StitchLensError(
            f"architecture {printable(kind, 60)} in the {CONFIG} of {name}",
            "standard, topk, jumprelu or gated",
            "save it with SAELens' `save_inference_model`" if trained else "use another SAE",
        )
    try:
        found = _Config.model_validate(dict(fields))
    except ValidationError as e:
        first = e.errors()[0]
        at, value = ".".join(map(str, first["loc"])), printable(repr(first.get("input")), 60)
        raise StitchLensError(
            f"{at} {value} in the {CONFIG} of {name} ({first['msg']})",
            "an SAE's config",
            "check how it was saved",
        ) from None
    if found.architecture == "topk" and (found.k is None or found.k > found.d_sae):
        raise StitchLensError(
            f"k {found.k} beside d_sae {found.d_sae} in the {CONFIG} of {name}",
            "k from 1 to d_sae",
            "check how it was saved",
        )
    return found


def _saelens(raw: bytes, name: str) -> _Config:
    """SAELens' config, of any of its versions."""
    from sae_lens.loading.pretrained_sae_loaders import handle_config_defaulting

    written = parse_json(raw, f"the {CONFIG} of {name}", HEADER)
    try:
        config = handle_config_defaulting(written)
    except Exception as e:  # noqa: BLE001 - what SAELens makes of a hostile config is anything
        raise StitchLensError(
            f"a {CONFIG} in {name} that SAELens does not read ({first_line(e)})",
            "an SAE's config",
            "save it with SAELens' `save_model`",
        ) from None
    finetuned = written.get("finetuning_scaling_factor") or written.get(
        "apply_finetuning_scaling_factor"
    )
    found = _checked(config | {"finetuning": bool(finetuned)}, name)
    notes = _account(written, found.architecture, name, READ)
    more: dict[str, Any] = {NOTES: " ".join(notes)} if notes else {}
    if type(factor := written.get("norm_scaling_factor")) in (int, float):
        more["norm_scaling_factor"] = factor
    return found.model_copy(update={"metadata": found.metadata | more})


def _metadata(found: Mapping[str, Any]) -> dict[str, Any]:
    """Names and texts, numbers and truths: what SAELens' metadata may take as attributes without
    losing its own."""
    from sae_lens.saes.sae import SAEMetadata

    return {
        k: printable(v) if isinstance(v, str) else v
        for k, v in found.items()
        if k.isidentifier()
        and len(k) < 64
        and k != "self"
        and not hasattr(SAEMetadata, k)
        and (isinstance(v, str | int | None) or (isinstance(v, float) and math.isfinite(v)))
    }


def _fits(shapes: Mapping[str, tuple[int, ...]], weights: Path, kind: str, name: str) -> None:
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


def _sparsify(raw: bytes, weights: Path, place: str, into: Path, name: str) -> None:
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
    notes = _account(config, "topk", name, SPARSIFY_READ)
    if (hook := PLACE.fullmatch(place)) is None and "layers" in place:
        raise StitchLensError(
            f"an SAE at {place}", "one of the residual stream (layers.L)", "use another SAE"
        )
    d_in, latents = config.get("d_in"), config.get("num_latents")
    if type(d_in) is int and not latents and type(config.get("expansion_factor")) is int:
        latents = d_in * config["expansion_factor"]
    found = _checked(
        {"architecture": "topk", "d_in": d_in, "d_sae": latents, "k": config.get("k", 32)}, name
    )
    wide = (found.d_sae, found.d_in)
    shapes = {"encoder.weight": wide, "encoder.bias": wide[:1], "W_dec": wide, "b_dec": wide[1:]}
    _fits(shapes, weights, "sparsify", name)
    folder = into / f"layers.{hook[1] if hook else 0}"
    with disk_faults(into):
        folder.mkdir()
        weights = weights.rename(folder / SPARSIFY)
        (folder / CONFIG).write_text(
            json.dumps({"d_in": found.d_in, "num_latents": found.d_sae, "k": found.k}), "utf-8"
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
        _checked(fields, name).write(into)
        save_file({key: value.contiguous() for key, value in state.items()}, into / SAELENS)
        for gone in (*folder.iterdir(), folder):
            gone.rmdir() if gone.is_dir() else gone.unlink()
