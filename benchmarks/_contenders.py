"""Who takes part in the harvest benchmark, each in a process of its own: ours, SAELens' store, and
sparsify's and delphi's ways of recording."""

import importlib
import itertools
import multiprocessing as mp
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from benchmarks._measure import matmul_rate, quiet
from core.activations.harvest import batches, record, windows
from core.models.live import LiveModel, runtime
from core.models.loading import load
from core.models.pairs import GEMMA3_270M
from core.models.sources import locate
from core.text.corpus import load_corpus

LAYER = 9
WAYS = {
    "bridge": f"blocks.{LAYER}.hook_resid_pre",
    "bridge, hook_resid_post": f"blocks.{LAYER - 1}.hook_resid_post",
    "transformers": f"model.layers.{LAYER - 1}",
}
SPARSIFY_CHUNKS, DELPHI_HOOK = "sparsify.data", "delphi.latents.collect_activations"
"""Modules of the peers that need not be installed."""
SIZES = (2048, 4096)
"""Of the square products whose faster one is the peak."""


def texts() -> list[str]:
    return [d.text for d in load_corpus().split("fit")]


@dataclass(frozen=True)
class Pass:
    """Rows delivered, and the seconds that took."""

    tokens: int
    seconds: float
    computed: int
    """Positions that went through the model, padding among them."""
    mean_context: float
    """How many positions a token attended to."""

    @property
    def rate(self) -> float:
        """Tokens/s."""
        return self.tokens / self.seconds


class Ours:
    """`core.activations.harvest.record` over windows of documents, as `read_window` does for each
    of its two models."""

    def __init__(self, dtype: str) -> None:
        self.model = load(GEMMA3_270M, runtime(dtype=dtype))
        self.documents = windows(load_corpus().split("fit"))
        self.next = 0

    def read(self, tokens: int) -> Pass:
        n, pairs, computed, started = 0, 0, 0, time.perf_counter()
        while n < tokens:
            encoded = self.model.encode(
                [d.text for d in self.documents[self.next % len(self.documents)]]
            )
            self.next += 1
            kept = [np.flatnonzero(e.usable) for e in encoded]
            n += len(record(self.model, encoded, kept, [LAYER])[LAYER])
            pairs += sum(len(e.ids) * (len(e.ids) + 1) // 2 for e in encoded)
            computed += computed_for(self.model, encoded)
        return Pass(n, time.perf_counter() - started, computed, pairs / n)

    def peak(self) -> float:
        """FLOP/s of the faster square product."""
        return max(matmul_rate(self.model.where.dtype, size, 3) for size in SIZES)

    def shape(self) -> dict[str, float]:
        return flop_shape(self.model)

    def lengths(self, documents: int = 4000) -> list[int]:
        """Tokens of the first documents, the special first one included."""
        return [len(e.ids) for e in self.model.encode(texts()[:documents])]


def computed_for(model: LiveModel, encoded: Sequence[Any]) -> int:
    """Positions that go through a model for a window, padding included where there is any."""
    lengths = [len(text.ids) for text in encoded]
    if model.packed is not None:
        return sum(lengths)
    return sum(len(batch) * max(lengths[i] for i in batch) for batch in batches(encoded))


def flop_shape(model: LiveModel) -> dict[str, float]:
    """Matrix parameters of the layers below the hook, and their attention's FLOPs per (token,
    position attended to)."""
    below = [p for block in list(model.bridge.blocks)[:LAYER] for p in block.parameters()]
    matrices = {p.data_ptr(): p.numel() for p in below if p.dim() > 1}
    config = model.hf.config.get_text_config()
    heads = config.num_attention_heads * config.head_dim
    return {"parameters": sum(matrices.values()), "attention": 4.0 * LAYER * heads}


class SaeLens:
    """ActivationsStore with one way to hold the model; `batch` rows of `context` tokens a forward
    pass."""

    def __init__(self, dtype: str, way: str, context: int) -> None:
        from datasets import Dataset

        self.dtype, self.way, self.context = dtype, way, context
        self.model = _sae_lens_model(way, getattr(torch, dtype))
        self.dataset = Dataset.from_dict({"text": texts()})
        self.stores: dict[tuple[int, bool], Iterator[torch.Tensor]] = {}

    def _store(self, batch: int, apart: bool) -> Iterator[torch.Tensor]:
        from sae_lens import ActivationsStore

        with warnings.catch_warnings(action="ignore"):
            return ActivationsStore(
                model=self.model,
                dataset=self.dataset,
                streaming=False,
                hook_name=WAYS[self.way],
                hook_head_index=None,
                context_size=self.context,
                d_in=GEMMA3_270M.d_model,
                n_batches_in_buffer=batch,
                total_training_tokens=1_000_000,
                store_batch_size_prompts=batch,
                train_batch_size_tokens=batch * self.context,
                prepend_bos=True,
                normalize_activations="none",
                device=torch.device("cpu"),
                dtype=self.dtype,
                activations_mixing_fraction=0.0,
                disable_concat_sequences=apart,
            )

    def read(self, tokens: int, batch: int, apart: bool = False) -> Pass:
        if (batch, apart) not in self.stores:
            self.stores[batch, apart] = self._store(batch, apart)
        store = self.stores[batch, apart]
        n, started = 0, time.perf_counter()
        while n < tokens:
            n += len(next(store))
        return Pass(n, time.perf_counter() - started, n, (self.context + 1) / 2)


def _sae_lens_model(way: str, dtype: torch.dtype) -> Any:
    folder = str(locate(GEMMA3_270M))
    if way == "transformers":
        from sae_lens.load_model import load_model

        return load_model("AutoModelForCausalLM", folder, "cpu", {"dtype": dtype}, [WAYS[way]])
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(folder, dtype=dtype, device="cpu")


class Sparsify:
    """sparsify's chunks, `batch` at a time, through a transformers model with its forward hook."""

    def __init__(self, dtype: str, context: int) -> None:
        from datasets import Dataset, disable_progress_bars
        from transformers import AutoModel, AutoTokenizer

        disable_progress_bars()
        self.context = context
        folder = str(locate(GEMMA3_270M))
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(
            folder, dtype=getattr(torch, dtype), num_hidden_layers=LAYER
        )
        self.seen = torch.empty(0)
        self.hook()
        self.chunk: Any = importlib.import_module(SPARSIFY_CHUNKS).chunk_and_tokenize
        self.documents = [Dataset.from_dict({"text": few}) for few in _parts(texts(), 256)]
        self.rows: Iterator[torch.Tensor] = self._rows()

    def hook(self) -> None:
        """Once, before anything is read."""
        self.model.layers[LAYER - 1].register_forward_hook(self._keep)

    def recorded(self, ids: torch.Tensor) -> torch.Tensor:
        """[batch, context, d], of token ids [batch, context]."""
        self.model(ids)
        return self.seen

    def _keep(self, module: object, inputs: object, outputs: Any) -> None:
        self.seen = outputs[0] if isinstance(outputs, tuple) else outputs

    def _rows(self) -> Iterator[torch.Tensor]:
        for documents in itertools.cycle(self.documents):
            chunks = self.chunk(
                documents,
                self.tokenizer,
                max_seq_len=self.context,
                num_proc=None,
                load_from_cache_file=False,
            )
            yield from chunks["input_ids"]

    def read(self, tokens: int, batch: int) -> Pass:
        n, started = 0, time.perf_counter()
        while n < tokens:
            ids = torch.stack(list(itertools.islice(self.rows, batch)))
            n += len(self.recorded(ids).flatten(0, 1))
        return Pass(n, time.perf_counter() - started, n, (self.context + 1) / 2)


class Delphi(Sparsify):
    """delphi reads sparsify's chunks, and hooks the model anew for each batch, by its
    `collect_activations`: what its LatentCache does before an SAE reads the rows."""

    def hook(self) -> None:
        module = importlib.import_module(DELPHI_HOOK)
        self.collect: Any = module.collect_activations

    def recorded(self, ids: torch.Tensor) -> torch.Tensor:
        place = f"layers.{LAYER - 1}"
        with self.collect(self.model, [place]) as activations:
            self.model(ids)
        return activations[place]


def _parts(documents: list[str], size: int) -> list[list[str]]:
    return [documents[i : i + size] for i in range(0, len(documents), size)]


def _serve(
    pipe: Connection, make: Callable[..., Any], arguments: Sequence[Any], threads: int
) -> None:
    """Runs in a contender's own process: calls its methods as they are asked for."""
    quiet()
    torch.set_num_threads(threads)
    with torch.inference_mode():
        contender = make(*arguments)
        pipe.send("ready")
        while (asked := pipe.recv()) is not None:
            name, values = asked
            pipe.send(getattr(contender, name)(*values))


class Contender:
    """A process that holds a model and answers method calls, one at a time."""

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        context = mp.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, make, arguments, torch.get_num_threads()), daemon=True
        )
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def __call__(self, method: str, *values: Any) -> Any:
        self._pipe.send((method, values))
        return self._pipe.recv()

    def close(self) -> None:
        self._pipe.send(None)
        self._process.join()
