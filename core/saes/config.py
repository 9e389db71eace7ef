"""What of an SAE's config is kept, what is refused, and what its user is told."""

import json
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import StitchLensError, first_fault, printable
from core.workspace.untrusted import (
    HEADER,
    LARGEST_SAE,
    WIDEST,
    first_line,
    parse_json,
)

CONFIG = "cfg.json"
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


class CleanConfig(BaseModel):
    """What of an SAE's config is kept; `account` has answered for the rest."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        strict=True,
    )

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


def account(
    config: Mapping[str, Any],
    kind: str,
    name: str,
    read: Collection[str],
) -> list[str]:
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


def checked(fields: Mapping[str, Any], name: str) -> CleanConfig:
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
        found = CleanConfig.model_validate(dict(fields))
    except ValidationError as e:
        fault = first_fault(e)
        raise StitchLensError(
            f"{fault.at} {printable(fault.value, 60)} in the {CONFIG} of {name} ({fault.why})",
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


def saelens(raw: bytes, name: str) -> CleanConfig:
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
    found = checked(config | {"finetuning": bool(finetuned)}, name)
    notes = account(written, found.architecture, name, READ)
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
