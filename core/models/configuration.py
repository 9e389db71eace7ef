"""A model by its configuration and the headers of its weights alone: no weight is loaded."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from core.errors import StitchLensError
from core.models.loading import open_plain
from core.models.pairs import (
    USUAL_NAMES,
    ModelSpec,
    Source,
    known_pairs,
    same_model,
)
from core.models.sources import locate, quiet_hub
from core.models.validation import check_architecture
from core.workspace.places import named
from core.workspace.untrusted import first_line

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
CONFIG_BYTES = 1_000_000


def look(ref: str) -> tuple[ModelSpec, Path | None]:
    """The spec of a model by a local folder, a hub id, or the key or another usual name of a
    registered one; and its folder, None on the hub.

    Only its config.json is read. Raises StitchLensError where there is none, or it is not a
    decoder-only language model.
    """
    ref = ref.strip()
    known = {m.key: m for p in known_pairs().values() for m in (p.a, p.b)}
    if ref in known:
        return known[ref], locate(known[ref])
    folder = named(ref)
    local = bool(ref) and folder.is_dir()
    if not local and "/" not in ref:
        for spec in known.values():
            if same_model(ref, spec):
                return spec, locate(spec)
        ref = USUAL_NAMES.get(ref.casefold(), ref)
    if not local and (ref.startswith((".", "/", "~")) or not HUB_ID.fullmatch(ref)):
        raise StitchLensError(
            f"no folder '{ref}'",
            f"a model's folder, a hub id (owner/name), or one of {', '.join(known)}",
            "check the path",
        )
    config = _config(ref, folder if local else None)
    text = config.get_text_config()
    layers, width = getattr(text, "num_hidden_layers", None), getattr(text, "hidden_size", None)
    if config.is_encoder_decoder or not isinstance(layers, int) or not isinstance(width, int):
        raise StitchLensError(
            f"{config.model_type} in {ref}",
            "a decoder-only language model",
            "use another model, such as GPT-2 or Gemma",
        )
    name = (folder.resolve().name if local else ref.split("/")[-1]) or "model"
    slug = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:40] or "model"
    source = (
        Source(kind="folder", ref=str(folder.resolve())) if local else Source(kind="hub", ref=ref)
    )
    spec = ModelSpec(
        key=slug,
        title=name[:60],
        n_layers=layers,
        d_model=width,
        sources=(source,),
    )
    return spec, folder if local else None


def _config(ref: str, folder: Path | None) -> Any:
    from transformers import AutoConfig

    if folder is not None:
        path = folder / "config.json"
        if not path.is_file():
            raise StitchLensError(
                f"no config.json in {folder.name}", "a Hugging Face model folder", "check the path"
            )
        try:
            if path.stat().st_size > CONFIG_BYTES:
                raise ValueError(f"over {CONFIG_BYTES:,} bytes")
            raw = json.loads(path.read_text("utf-8"))
            if not isinstance(raw, dict):
                raise TypeError("no object")
        except (OSError, ValueError, TypeError, RecursionError) as e:
            raise StitchLensError(
                f"an unreadable config.json in {folder.name} ({e})", "JSON", "restore the folder"
            ) from None
        if "auto_map" in raw:
            raise StitchLensError(
                f"{folder.name}, which brings code of its own",
                "an architecture that transformers knows",
                "code of a model is never run here",
            )
        if not list(folder.glob("*.safetensors")):
            raise StitchLensError(
                f"no *.safetensors in {folder.name}",
                "weights in safetensors",
                "load it with transformers and save it with `save_pretrained`",
            )
    quiet_hub()
    try:
        return AutoConfig.from_pretrained(folder or ref, trust_remote_code=False)
    except Exception as e:  # noqa: BLE001 - no network, no such repository, a gate, an unknown type: many kinds
        why = (str(e).splitlines() or [type(e).__name__])[0][:160]
        raise StitchLensError(
            f"no model '{ref}' ({why})",
            "a folder, or a hub id that can be reached",
            "check the name and the network; `hf auth login` opens gated ones",
        ) from None


def open_empty(
    ref: str,
    spec: ModelSpec,
    folder: Path | None,
) -> tuple[Any, list[str]]:
    """transformers' model without its weights, and the tensors on file that are no part of it (of a
    folder alone)."""
    config = _config(spec.sources[-1].ref, folder)
    check_architecture(config, spec.title)
    if folder is not None:
        return open_plain(folder, torch.float32, "meta")
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False), []
    except Exception as e:  # noqa: BLE001 - configurations that fit no model: many kinds
        raise StitchLensError(
            f"no language model in {ref} ({first_line(e)})",
            "one that transformers opens",
            "use another model",
        ) from None


def weights_size(spec: ModelSpec, folder: Path | None) -> tuple[int, int]:
    """(parameters, bytes) from the headers of the weights, or from what the hub says of them."""
    if folder is None:
        from huggingface_hub import HfApi

        try:
            info = HfApi().model_info(spec.sources[-1].ref, files_metadata=True)
        except Exception as e:  # noqa: BLE001 - the hub client raises many kinds
            why = (str(e).splitlines() or [type(e).__name__])[0][:160]
            raise StitchLensError(
                f"no word of {spec.title} from the hub ({why})", "one", "try later"
            ) from None
        files = [f for f in info.siblings or [] if f.rfilename.endswith(".safetensors")]
        if not files:
            raise StitchLensError(
                f"no safetensors of {spec.title} on the hub",
                "weights in safetensors",
                "use another",
            )
        size = sum(f.size or 0 for f in files)
        return (info.safetensors.total if info.safetensors else size // 2), size
    count = 0
    files = sorted(folder.glob("*.safetensors"))
    for path in files:
        try:
            with safe_open(path, "pt") as f:
                for key in f.keys():  # noqa: SIM118 - no mapping
                    n = 1
                    for width in f.get_slice(key).get_shape():
                        n *= width
                    count += n
        except (SafetensorError, OSError) as e:
            raise StitchLensError(
                f"{path.name} unreadable ({e})", "safetensors", "restore the folder"
            ) from None
    return count, sum(path.stat().st_size for path in files)
