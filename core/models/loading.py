"""A spec to a live model: found in a folder, a wheel or the hub, opened by TransformerBridge,
validated before use."""

import contextlib
import copy
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from core.errors import StitchLensError
from core.models.heap import keep_freed_memory
from core.models.libraries import no_collection
from core.models.live import LiveModel, Reader, Runtime, limits_of, runtime, some
from core.models.pairs import ModelSpec
from core.models.sources import locate, repair, weights_hash
from core.models.validation import check_architecture, check_device, read_reference, validate
from core.workspace.untrusted import first_line


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


HARMLESS = ("inv_freq", "masked_bias", "attn.bias", "attention.bias")
"""Ends of names of tensors that older files hold and that follow from the configuration."""


def open_plain(
    folder: Path,
    dtype: torch.dtype,
    device: str | None = None,
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


@no_collection()
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
    reference = read_reference(hf, Reader(tokenizer, spec.bos, folder, limits_of(hf)), spec, where)
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
            tokenizer=_for_bridge(tokenizer),
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


LARGE = 10_000
"""Entries of a table of a tokenizer (its vocabulary, its merges) above which it is not copied."""


def _for_bridge(tokenizer: Any) -> Any:
    """A copy that TransformerLens may change; the large tables, which are only read, are shared.

    It says of itself that it adds the first token, though it does not: TransformerLens would open
    the tokenizer once more to have it do so, for Gemma's 262 thousand entries seconds in which no
    other thread runs. First tokens are added here, and by the bridge where it sees none.
    """

    def is_large(table: Any) -> bool:
        return isinstance(table, (dict, list)) and len(table) > LARGE

    tables = [*vars(tokenizer).values(), *tokenizer.init_kwargs.values()]
    shared = {id(table): table for table in tables if is_large(table)}
    twin = copy.deepcopy(tokenizer, shared)
    small = {name: value for name, value in twin.init_kwargs.items() if not is_large(value)}
    twin.init_kwargs = small | {"add_bos_token": True}
    return twin


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


_one_at_a_time = threading.Lock()
_remembered = lru_cache(maxsize=4)(load)


def load_shared(spec: ModelSpec) -> LiveModel:
    """`load`, remembered within this process for each device and precision; a second caller waits
    for the first."""
    where = runtime()
    with _one_at_a_time:
        return _remembered(spec, where)  # type: ignore[arg-type]
