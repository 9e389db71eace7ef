"""A model shown to be what we rely on before it is used: hooks, widths and logits are those of
transformers' own.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from core.errors import StitchLensError
from core.models.live import LiveModel, Reader, Runtime
from core.models.pairs import ModelSpec
from core.workspace.untrusted import first_line


def check_device(where: Runtime) -> None:
    """Raises StitchLensError where this machine or its torch has no such device, or no products in
    that precision."""
    try:
        one = torch.ones(2, 2, dtype=where.dtype, device=where.device)
        (one @ one).sum()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as e:
        raise StitchLensError(
            f"no {str(where.dtype).removeprefix('torch.')} on {where.device} ({first_line(e)})",
            "a device and a precision of this machine",
            "set STITCHLENS_DEVICE to cpu and STITCHLENS_DTYPE to float32",
        ) from None


def check_architecture(config: Any, title: str) -> None:
    """Raises StitchLensError where a configuration is not that of a decoder that reads left to
    right, or TransformerLens does not know its architecture."""
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
    from transformer_lens.model_bridge.sources.transformers import (
        determine_architecture_from_hf_config,
    )
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    decoder = not config.is_encoder_decoder and (
        getattr(config, "is_decoder", False)
        or config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )
    if not decoder:
        raise StitchLensError(
            f"{config.model_type} in {title}",
            "a decoder-only language model",
            "use one, such as GPT-2 or Gemma",
        )
    try:
        name = determine_architecture_from_hf_config(config)
    except ValueError:
        name = config.model_type
    if name not in SUPPORTED_ARCHITECTURES:
        raise StitchLensError(
            f"{title}, of the architecture {name}",
            "one that the installed TransformerLens knows",
            "use another model, such as GPT-2, Llama or Gemma",
        )


class Reference(NamedTuple):
    """What transformers' model gave for token ids [rows, pos], before anything was changed in
    it."""

    ids: Tensor
    hidden: tuple[Tensor, ...]
    """[rows, pos, d] before each layer; the last may be behind the final norm."""
    logits: Tensor


def read_reference(
    hf: Any,
    reader: Reader,
    spec: ModelSpec,
    where: Runtime,
) -> Reference:
    """A pass over a text. Raises StitchLensError where it does not run, is not finite, or a token
    sees what comes after it: another pass, over the same text with another end, tells.

    One text at a time, as `validate` reads it: in half precision a row of a batch of two is rounded
    unlike the same row alone.
    """
    ids = reader.encode(["A check of the residual stream, 1 2 3. " * 3])[0].ids[: reader.context]
    half = len(ids) // 2
    other = np.concatenate([ids[:half], ids[half:][::-1]])
    row, changed = (
        torch.from_numpy(tokens.astype(np.int64))[None].to(where.device) for tokens in (ids, other)
    )
    try:
        with torch.inference_mode():
            out = hf(
                input_ids=row,
                output_hidden_states=True,
                use_cache=False,
            )
            ahead = hf(input_ids=changed, use_cache=False).logits.float()
    except Exception as e:  # whatever a model's own code raises
        raise StitchLensError(
            f"{spec.title}, which opens but does not run ({first_line(e)})",
            "a model that reads text",
            "check that its config.json and weights belong together",
        ) from e
    logits = out.logits.float()
    if not (torch.isfinite(logits).all() and torch.isfinite(ahead).all()):
        raise StitchLensError(
            f"NaN or infinite logits of {spec.title} in {str(where.dtype).removeprefix('torch.')}",
            "finite numbers",
            (
                "check the weights"
                if where.dtype == torch.float32
                else "set STITCHLENS_DTYPE to float32"
            ),
        )
    early = logits[:, :half] - ahead[:, :half]
    if early.abs().max() > SEES_AHEAD * logits.abs().max():
        raise StitchLensError(
            f"{spec.title} ({hf.config.model_type}), whose tokens see what comes after them",
            "a decoder-only language model",
            "use one, such as GPT-2 or Gemma",
        )
    return Reference(row, tuple(out.hidden_states), logits)


SEES_AHEAD = 5e-3
"""Of the largest logit: what another end of a text may change at its beginning, in any
precision."""
TOLERANCE = {
    torch.float32: 1e-4,
    torch.bfloat16: 4e-2,
    torch.float16: 4e-2,
}
"""Of two ways to compute the same numbers: relative to the length of a row of the stream, for most
rows, or to the largest logit. In bfloat16 SmolLM2's rows differ by 1.4 % in the median between two
kinds of attention; those of the layer beside it by a quarter."""
WORST = 5
"""Times as much as `TOLERANCE` that single rows may differ by."""


def validate(model: LiveModel, reference: Reference) -> None:
    """The hooks, widths and logits that we rely on. Raises StitchLensError at the first that
    differs from what transformers' own model gave before the bridge took hold of it."""
    from core.models import hooks

    spec = model.spec
    shape = (len(model.bridge.blocks), model.bridge.cfg.d_model)
    if shape != (spec.n_layers, spec.d_model):
        raise StitchLensError(
            f"{shape[0]} layers of width {shape[1]} in {model.folder.name}",
            f"{spec.n_layers} of {spec.d_model} for {spec.title}",
            "check which model lies in that folder",
        )
    ids, unsupported = (
        reference.ids,
        "this architecture is not supported by the installed TransformerLens",
    )
    layers = sorted({0, spec.n_layers // 2, spec.n_layers - 1})
    if not model.plain_blocks:
        raise StitchLensError(
            f"{spec.title} without a list of {spec.n_layers} blocks",
            "one, before which a vector is added",
            unsupported,
        )
    kinds: list[bool] = []
    watch = model.plain_blocks[0].register_forward_hook(
        lambda block, args, out: kinds.append(isinstance(out, tuple))
    )
    try:
        hooks.residuals(model, ids, [1])
    finally:
        watch.remove()
    model.blocks_return_tuples = kinds[0]
    with torch.inference_mode():
        recorded = hooks.residuals(model, ids, layers)
        last = hooks.final_hidden(model, ids)
        resumed = hooks.final_hidden(model, ids, layers[1], recorded[layers[1]])
    tolerance = TOLERANCE[model.where.dtype]
    for layer in layers:
        hidden = reference.hidden[layer].float()
        difference = (recorded[layer].float() - hidden).norm(dim=-1) / hidden.norm(dim=-1)
        if difference.median() > tolerance or difference.max() > WORST * tolerance:
            raise StitchLensError(
                f"blocks.{layer}.hook_resid_pre of {spec.title} unlike hidden_states[{layer}]",
                "equal tensors",
                unsupported,
            )
    if not torch.equal(last, resumed):
        raise StitchLensError(
            f"{spec.title} resumed before layer {layers[1]} unlike its whole pass",
            "equal outputs",
            unsupported,
        )
    theirs = reference.logits[0]
    seen: list[Tensor] = []
    with torch.inference_mode(), hooks.changed(model, {layers[1]: lambda h: seen.append(h) or h}):
        bridged = model.body(input_ids=ids, use_cache=False).last_hidden_state[0]
        plain = model.plain.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
    differences = [(model.logits(hidden) - theirs).abs().max() for hidden in (bridged, plain)]
    if max(differences) > tolerance * theirs.abs().max():
        raise StitchLensError(
            f"logits of {spec.title} unlike those of transformers",
            "equal logits",
            "the model scales its logits in a way this version does not know",
        )
    with torch.inference_mode():
        out = model.plain.base_model(input_ids=ids[:, :-1], use_cache=True)
        if getattr(out, "past_key_values", None) is None:
            raise StitchLensError(
                f"{spec.title} ({model.hf.config.model_type}) without a cache of keys and values",
                "one, to write with",
                "use a transformer, such as GPT-2 or Gemma",
            )
