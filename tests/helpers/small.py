"""Small real models of several architectures with real tokenizers, and texts for them."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch
from filelock import FileLock
from tokenizers import Tokenizer, decoders, normalizers, trainers
from tokenizers import models as tokenizer_models

from core.activations.harvest import harvest_config
from core.activations.recording import harvest_places
from core.activations.shards import UNDIVIDED, Shard
from core.bench import Bench
from core.config import BuildConfig
from core.features.firings import Text
from core.models.live import LiveModel, Runtime
from core.models.pairs import LayerPair, ModelSpec, PairSpec
from core.stitches.measure import fit_stitch
from core.stitches.settings import FitConfig
from core.text.corpus import Corpus, Document
from core.workspace.disk import fingerprint
from core.workspace.store import Workspace, has

FLOAT32 = Runtime(torch.device("cpu"), torch.float32)


ENGLISH = "\n\n".join(topics[k] for k in sorted(topics)[:40])
"""About 190,000 characters of English that come with Python."""


SCRIPTS = {
    "Latin": "Voilà, le cœur a ses raisons.",
    "Cyrillic": "Привет, мир! Как дела?",
    "Devanagari": "नमस्ते दुनिया, कैसे हैं?",
    "Han": "你好，世界。今天天气很好。",
    "Arabic": "مرحبا بالعالم، كيف الحال؟",
    "emoji": "😀 👍🏽 👩‍👩‍👧 fin",
}


def read_by_both(
    a: LiveModel,
    b: LiveModel,
    documents: Sequence[Document],
    layers: LayerPair,
    shard: Shard = UNDIVIDED,
) -> Text:
    """Documents as both models read them, recorded in the cache of the test."""
    config = harvest_config(a, b, fingerprint([d.id for d in documents]), "select")
    recording = harvest_places(a, b, documents, layers, config, shard=shard)
    return Text(documents, recording, layers)


def metaspace() -> Any:
    """A BPE over characters with ▁ for spaces and bytes for unknown characters, as of Llama and
    Gemma."""
    from transformers import PreTrainedTokenizerFast

    tok = Tokenizer(tokenizer_models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tok.normalizer = normalizers.Replace(" ", "▁")  # type: ignore[assignment]
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tok.decoder = decoders.Sequence(steps)  # type: ignore[assignment]
    special = ["<bos>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=620,
        show_progress=False,
        special_tokens=special + [f"<0x{i:02X}>" for i in range(256)],
    )
    tok.train_from_iterator([ENGLISH[60_000:90_000].replace("\n", " "), "Привет, мир"], trainer)
    plain = json.loads(tok.to_str())  # the bytes are ordinary tokens, not special ones
    plain["added_tokens"] = [t for t in plain["added_tokens"] if t["content"] in special]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(plain)), bos_token="<bos>", unk_token="<unk>"
    )


def untrained(kind: str, vocabulary: int) -> Any:
    import transformers as t

    common: dict[str, Any] = {
        "vocab_size": vocabulary,
        "max_position_embeddings": 1024,
        "num_attention_heads": 4,
    }
    size: dict[str, Any]
    more: dict[str, Any]
    match kind:
        case "llama":
            size = {
                "hidden_size": 40,
                "num_hidden_layers": 3,
                "intermediate_size": 80,
                "num_key_value_heads": 2,
            }
            return t.LlamaForCausalLM(t.LlamaConfig(**common, **size))
        case "gemma":
            size = {
                "hidden_size": 40,
                "num_hidden_layers": 3,
                "intermediate_size": 80,
                "num_key_value_heads": 1,
            }
            more = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64}
            return t.Gemma3ForCausalLM(t.Gemma3TextConfig(**common, **size, **more))
    raise KeyError(kind)


KINDS = {"nano-a": (4, 128), "nano-b": (6, 256), "llama": (3, 40), "gemma": (3, 40)}


TinySpec = Callable[[str], ModelSpec]


Tiny = Callable[[str], LiveModel]


@contextmanager
def stitched_bench(pair: PairSpec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The tiny pair in a workspace of its own, in float32, with a stitch L1-L2 fitted on a little
    English: a copy of one that is fitted once a run."""
    config = BuildConfig(held_out_tokens=200, positions=3000)
    pair = pair.model_copy(update={"corpus": "wheel:eng"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STITCHLENS_DTYPE", "float32")
        fitted = _fitted_once(pair, tmp_path_factory, config, patch)

        root = tmp_path_factory.mktemp("workspaces")
        shutil.copytree(fitted / pair.key, root / pair.key)
        patch.setenv("STITCHLENS_WORKSPACES", str(root))
        yield Bench(pair, config)


def _fitted_once(
    pair: PairSpec,
    tmp_path_factory: pytest.TempPathFactory,
    config: BuildConfig,
    patch: pytest.MonkeyPatch,
) -> Path:
    """The folder with its workspace; a second worker waits for the first one's."""
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    root = place / f"stitched-{pair.key}"
    patch.setenv("STITCHLENS_WORKSPACES", str(root))

    with FileLock(f"{root}.lock"):
        fitted = Workspace(pair.key, root)
        if not (fitted.exists and has(fitted, "downstream/L1-L2")):  # what a fit writes last
            fit_stitch(Bench(pair, config), "L1-L2", pair.layer_pairs[0], FitConfig(), 3000)
    return root


def texts(corpus: Corpus, language: str, n: int = 30) -> list[str]:
    return [d.text for d in corpus.split("fit") if d.label.split("/")[0] == language][:n]
