"""The within-family pair that ships with the project: a tokenizer and two GPT-NeoX models, trained
on the corpus wheel.

Both read the same documents of the fit split, each after a first token of its own. The order of an
epoch and the dropout of a step depend on the seed and on their number alone, so a killed training
goes on to the same weights.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import StitchLensError
from core.models.heap import keep_freed_memory
from core.models.live import Runtime, runtime
from core.models.training import FAST, NanoConfig, Tokens, document_loss, train_model, unigram_loss
from core.text.corpus import load_corpus
from core.workspace.disk import fingerprint, folder_beside, only_one, sha256_file
from core.workspace.places import user_cache

FIRST = "<|endoftext|>"
PROMPTS = {
    "English": "The history of the city",
    "French": "La philosophie est une discipline qui",
    "German": "Die Geschichte der",
    "Spanish": "El lenguaje es una herramienta que",
}


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """A byte-level BPE tokenizer with FIRST as its only special token, id 0."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[FIRST],
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=FIRST,
        eos_token=FIRST,
    )


def samples(
    model: Any,
    tokenizer: Any,
    where: Runtime,
    length: int = 40,
) -> dict[str, str]:
    """What the model goes on to write after one prompt a language (temperature 0.7, seeded)."""
    out = {}
    for language, prompt in PROMPTS.items():
        ids = torch.tensor(
            [[0, *tokenizer(prompt, add_special_tokens=False).input_ids]], device=where.device
        )
        torch.manual_seed(0)
        written = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=length,
            do_sample=True,
            temperature=0.7,
            top_p=0.9,
            pad_token_id=0,
        )
        out[language] = tokenizer.decode(written[0, 1:], skip_special_tokens=True)
    return out


def train(
    config: NanoConfig,
    out: Path,
    replace: bool = False,
    where: Runtime | None = None,
) -> dict[str, Any]:
    """Train tokenizer, A and B and leave them as Hugging Face folders `nano-a` and `nano-b` under
    `out`.

    Returns what the model cards say: losses in nats/token, counts, hashes, samples. Raises
    StitchLensError where the folders are there already and `replace` is false.
    """
    where = where or runtime()
    keep_freed_memory()
    taken = [name for name in ("nano-a", "nano-b") if (out / name).exists()]
    if taken and not replace:
        raise StitchLensError(
            f"{' and '.join(taken)} in {out.name}",
            "an empty place",
            "name another --out, or add --replace",
        )
    key = fingerprint(config.model_dump() | {"dtype": str(where.dtype)})
    with only_one(f"nano-{key}", "training"):
        corpus = load_corpus(config.corpus)
        texts = {s: [d.text for d in corpus.split(s)] for s in ("fit", "select", "held-out")}
        texts["fit"] = texts["fit"][: config.documents]
        tokenizer = train_tokenizer(texts["fit"], config.vocabulary)

        def encode(split: str) -> list[NDArray[np.int32]]:
            encoded = tokenizer(texts[split], add_special_tokens=False)["input_ids"]
            return [np.array([0, *ids], dtype=np.int32) for ids in encoded]

        tokens = Tokens(encode("fit"), encode("select"), encode("held-out"))
        report: dict[str, Any] = {
            "config": config.model_dump(),
            "corpus": corpus.fingerprint,
            "dtype": str(where.dtype),
            "device": where.device.type,
            "fit_tokens": sum(map(len, tokens.fit)),
            "held_out_tokens": sum(len(d) - 1 for d in tokens.held_out),
            "unigram": unigram_loss(tokens.fit, tokens.held_out, config.vocabulary),
        }
        out.mkdir(parents=True, exist_ok=True)
        for side, size in (("a", config.a), ("b", config.b)):
            folder = user_cache() / "nano" / key / side
            model, curve = train_model(
                config, size, tokens, where, f"training nano {side.upper()}", folder
            )
            report[side] = {
                "held_out": document_loss(model, tokens.held_out, where),
                "curve": curve,
                "parameters": sum(p.numel() for p in model.parameters()),
                "samples": samples(model, tokenizer, where),
            }
            _write_folder(out / f"nano-{side}", model, tokenizer, report, side)
    return report


def _write_folder(
    target: Path,
    model: Any,
    tokenizer: Any,
    report: dict[str, Any],
    side: str,
) -> None:
    """An ordinary Hugging Face folder in float16 with a model card, written beside and renamed into
    place."""
    with folder_beside(target) as folder:
        model.cpu().half().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        report[side]["sha256"] = {
            name: sha256_file(folder / name) for name in ("model.safetensors", "tokenizer.json")
        }
        (folder / "README.md").write_text(card(report, side), "utf-8")


def card(report: dict[str, Any], side: str) -> str:
    """The model card: data, settings, curve, samples, hashes."""
    config, model = report["config"], report[side]
    size = config[side]
    command = "python -m core nano train" + (" --fast" if config == FAST.model_dump() else "")
    settings = {
        "architecture": f"GPT-NeoX, {model['parameters']:,} parameters, embeddings tied",
        "layers, width, heads": f"{size['layers']}, {size['width']}, {size['heads']}",
        "vocabulary": f"{config['vocabulary']:,}, byte-level BPE trained on the same text",
        "text": f"fit split of `dataset-build` (BSD-2), `{config['corpus']}`",
        "corpus fingerprint": (
            f"`{report['corpus']}`; the select and held-out splits were not trained on"
        ),
        "tokens": f"{report['fit_tokens']:,}, {size['epochs']:g} epochs",
        "step": (
            f"{size['rows']} contexts of {config['context']} tokens, gradient norm clipped to 1"
        ),
        "Muon": f"rate {size['muon_lr']:g}, on the blocks' matrices",
        "AdamW": f"rate {size['adam_lr']:g}, betas 0.9 and 0.95, on embeddings, norms and biases",
        "schedule": "5 % warm-up, cosine to a tenth",
        "weight decay, dropout": f"{config['weight_decay']:g} on matrices, {size['dropout']:g}",
        "seed, precision": (
            f"{config['seed']}, {report['dtype'].removeprefix('torch.')} on {report['device']}"
        ),
    }
    curve = [(c["epoch"], c["step"], c["fit"], c["select"], c["seconds"]) for c in model["curve"]]
    return "\n".join(
        [
            "---",
            "license: apache-2.0",
            "library_name: transformers",
            "---",
            f"# nano-{side}",
            "",
            (
                f"The {'smaller' if side == 'a' else 'larger'} model of StitchLens' within-family"
                f" pair, made by `{command}`."
            ),
            (
                "It is for experiments with model stitching and interpretability; it knows little"
                " and makes things up."
            ),
            "",
            "## Settings",
            "",
            "| what | |",
            "| --- | --- |",
            *(f"| {k} | {v} |" for k, v in settings.items()),
            "",
            "## Loss, nats/token",
            "",
            (
                f"Held-out: **{model['held_out']:.3f}** over {report['held_out_tokens']:,} tokens; "
                f"a unigram model: {report['unigram']:.3f}."
            ),
            "",
            "| epoch | step | fit | select | seconds |",
            "| --- | --- | --- | --- | --- |",
            *(
                f"| {e:.1f} | {n} | {fit:.3f} | {select:.3f} | {t:.0f} |"
                for e, n, fit, select, t in curve
            ),
            "",
            "## Samples (temperature 0.7, top-p 0.9, seed 0)",
            "",
            *(
                f"- {language}: {json.dumps(text, ensure_ascii=False)}"
                for language, text in model["samples"].items()
            ),
            "",
            "## SHA-256",
            "",
            *(f"- `{name}`: `{digest}`" for name, digest in model["sha256"].items()),
            "",
        ]
    )
