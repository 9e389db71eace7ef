"""Tokenizers of the kinds that the hub's models have, trained on a little text and written in the
files that the hub has of each: tokenizer.json, tokenizer_config.json, and vocabularies beside."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers.models import BPE

SIZE = 512
"""Ids that are learned, before special ones are added at the end."""
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3 and Qwen cut text before pairs are merged."""
END = "<|endoftext|>"


def byte_level(text: str, first: list[str], split: str | None = None) -> Tokenizer:
    """A BPE over bytes, with special tokens first."""
    tok = Tokenizer(BPE(ignore_merges=split is not None))
    bytes_alone: Any = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    tok.pre_tokenizer = bytes_alone
    if split is not None:
        cut = pre_tokenizers.Split(Regex(split), behavior="isolated", invert=False)
        tok.pre_tokenizer = pre_tokenizers.Sequence([cut, bytes_alone])  # type: ignore[assignment]
    tok.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        show_progress=False,
        special_tokens=first,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tok.train_from_iterator([text], trainer)
    return tok


def write(tok: Tokenizer, folder: Path, config: dict[str, Any]) -> int:
    """The files; returns how many ids there are."""
    folder.mkdir(parents=True)
    tok.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))
    return tok.get_vocab_size()


def gpt2(folder: Path, text: str) -> int:
    """`<|endoftext|>` last; its configuration names no class."""
    tok = byte_level(text, [])
    tok.add_special_tokens([END])
    tok.post_processor = processors.ByteLevel(trim_offsets=False)  # type: ignore[assignment]
    ids = write(tok, folder, {"model_max_length": 1024})
    model = json.loads(tok.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"] | {END: ids - 1}))
    merges = [" ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", "utf-8")
    return ids


def pythia(folder: Path, text: str) -> int:
    """`<|endoftext|>` first, runs of spaces last, text in composed form."""
    tok = byte_level(text, [END, "<|padding|>"])
    tok.normalizer = normalizers.NFC()  # type: ignore[assignment]
    tok.add_tokens([AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)])
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END)
    config = {"tokenizer_class": "GPTNeoXTokenizer", "add_prefix_space": False, **names}
    ids = write(tok, folder, config)
    (folder / "special_tokens_map.json").write_text(json.dumps(names))
    return ids


def gemma2(folder: Path, text: str) -> int:
    """Pieces as of SentencePiece: `▁` for a space, bytes for letters that it has not seen."""
    tok = Tokenizer(BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tok.normalizer = normalizers.Replace(" ", "▁")  # type: ignore[assignment]
    tok.pre_tokenizer = pre_tokenizers.Split(  # type: ignore[assignment]
        " ", behavior="merged_with_previous", invert=False
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tok.decoder = decoders.Sequence(steps)  # type: ignore[assignment]
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    bytes_of = [f"<0x{i:02X}>" for i in range(256)]
    words = [f" {word}" for line in text.splitlines() for word in line.split(" ")]
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE + 256, show_progress=False, special_tokens=special + bytes_of
    )
    tok.train_from_iterator(words, trainer)

    whole = json.loads(tok.to_str())  # bytes are ordinary tokens, not special ones
    whole["added_tokens"] = [t for t in whole["added_tokens"] if t["content"] in special]
    tok = Tokenizer.from_str(json.dumps(whole))
    tok.add_special_tokens(["<start_of_turn>", "<end_of_turn>"])
    tok.add_tokens([AddedToken("\n" * n, normalized=False) for n in range(1, 5)])
    tok.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<bos> $A", special_tokens=[("<bos>", 2)]
    )
    config = {
        "tokenizer_class": "GemmaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        **{f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")},
    }
    return write(tok, folder, config)


def llama(folder: Path, text: str) -> int:
    """Special tokens last, `<|begin_of_text|>` put before a text by the tokenizer itself."""
    tok = byte_level(text, [], WORDS)
    begin = "<|begin_of_text|>"
    tok.add_special_tokens([begin, "<|end_of_text|>", "<|start_header_id|>", "<|eot_id|>"])
    first = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tok.token_to_id(begin))]
    )
    steps = [processors.ByteLevel(trim_offsets=True), first]
    tok.post_processor = processors.Sequence(steps)  # type: ignore[assignment]
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": begin,
        "eos_token": "<|end_of_text|>",
    }
    return write(tok, folder, config)


def qwen(folder: Path, text: str) -> int:
    """No token begins a text; a chat template, also in base models."""
    tok = byte_level(text, [], WORDS.replace("{1,3}", ""))
    tok.normalizer = normalizers.NFC()  # type: ignore[assignment]
    tok.add_special_tokens([END, "<|im_start|>", "<|im_end|>"])
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "bos_token": None,
        "eos_token": END,
        "pad_token": END,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "chat_template": (
            "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
            "<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        ),
    }
    return write(tok, folder, config)


TOKENIZERS: dict[str, Callable[[Path, str], int]] = {
    "gpt2": gpt2,
    "pythia": pythia,
    "gemma2": gemma2,
    "llama": llama,
    "qwen": qwen,
}
"""By family: (folder, text) to the number of ids."""
