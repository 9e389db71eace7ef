"""A model that is open: how it reads text, where and in which precision it runs, whose turn it
is."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from core.errors import StitchLensError
from core.models.packed import Packed, blocks_of, packed
from core.models.pairs import ModelSpec
from core.workspace.disk import fingerprint, sha256_file

MAX_TOKENS = 1024
"""Context cap in tokens of the model at hand; longer texts are cut and the cut-off rest is
unpaired."""


@dataclass(frozen=True)
class Runtime:
    """Where and in which precision models run."""

    device: torch.device
    dtype: torch.dtype


def runtime(device: str | None = None, dtype: str | None = None) -> Runtime:
    """The one place that chooses: arguments, then STITCHLENS_DEVICE / STITCHLENS_DTYPE, then what
    the machine has.

    bfloat16 where the hardware multiplies it natively (CUDA, AVX512-BF16 processors), else float32.
    """
    device = device or os.environ.get("STITCHLENS_DEVICE")
    dtype = dtype or os.environ.get("STITCHLENS_DTYPE")
    if device is None:
        device = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    if device == "cuda" and (rank := os.environ.get("LOCAL_RANK", "")).isdecimal():
        # torchrun's processes on one machine: a GPU each, as far as there are as many.
        device = f"cuda:{int(rank) % max(1, torch.cuda.device_count())}"
    if dtype is None:
        asked = getattr(
            torch.cpu, "_is_avx512_bf16_supported", lambda: False
        )  # not every build of torch tells
        native = device.startswith("cuda") or (device == "cpu" and asked())
        dtype = "bfloat16" if native else "float32"
    if dtype not in ("bfloat16", "float32", "float16"):
        raise StitchLensError(
            f"dtype '{dtype}'",
            "bfloat16, float16 or float32",
            "set STITCHLENS_DTYPE to one of them",
        )
    try:
        return Runtime(torch.device(device), getattr(torch, dtype))
    except RuntimeError:
        todo = "set STITCHLENS_DEVICE to one of them"
        raise StitchLensError(f"device '{device}'", "cpu, cuda or mps", todo) from None


@dataclass(frozen=True)
class Encoded:
    """One text in one model's tokens, the special first token included.

    ids [n] token ids; ends [n] the text offset in characters up to which each token has read, -1
    for special tokens, for the tail of a text cut in the middle of a character, and where the next
    token finishes one and begins another.
    """

    ids: NDArray[np.int32]
    ends: NDArray[np.int32]

    @property
    def usable(self) -> NDArray[np.bool_]:
        return self.ends >= 0


class Reader:
    """How a model reads text: its tokenizer, the token that goes before every text, and how much it
    reads at once."""

    def __init__(
        self,
        tokenizer: Any,
        bos: str | None,
        folder: Path,
        limits: "Limits",
    ) -> None:
        """Raises StitchLensError where `bos` is no token, or text could have tokens that the model
        has no row for."""
        self.tokenizer = tokenizer
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        if bos is not None and bos not in vocabulary:
            raise StitchLensError(
                f"no token {bos!r} in {folder.name}",
                "the first token of every text",
                "check the spec's `bos`",
            )
        self._bos_text = bos or tokenizer.bos_token
        self.bos = (
            None if self._bos_text is None else tokenizer.convert_tokens_to_ids(self._bos_text)
        )
        self.tokenizer_hash = fingerprint(
            [sha256_file(folder / "tokenizer.json")]
            if (folder / "tokenizer.json").exists()
            else sorted(vocabulary.items())
        )
        self.special = np.array(sorted(set(tokenizer.all_special_ids)), dtype=np.int32)
        self.rows = limits.rows
        self.context = min(MAX_TOKENS, limits.context or MAX_TOKENS)
        self.words = np.array(sorted(set(vocabulary.values())), dtype=np.int64)
        self.words = self.words[self.words < limits.rows]
        settings = folder / "tokenizer_config.json"
        whole = settings.exists() and (folder / "tokenizer.json").exists()
        self._settings = sha256_file(settings) if whole else None
        added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        beyond = [
            t
            for t, i in vocabulary.items()
            if i >= limits.rows and (i not in added or i == self.bos)
        ]
        if beyond:
            raise StitchLensError(
                f"{max(vocabulary.values()) + 1:,} tokens in the tokenizer of {folder.name} and"
                f" {limits.rows:,} rows in its embedding (no row for {some(beyond)})",
                "a row for every token",
                "bring the tokenizer that the model was trained with, or call"
                " `resize_token_embeddings` and save both",
            )

    def reads_like(self, other: "Reader") -> bool:
        """Whether both are known to make the same tokens of every text: not where a file of a
        tokenizer is missing."""

        def how(reader: Reader) -> tuple[object, ...]:
            return (
                reader.tokenizer_hash,
                reader._settings,
                reader.bos,
                reader.rows,
                reader.context,
            )

        return self._settings is not None and how(self) == how(other)

    def encode(
        self,
        texts: Sequence[str],
        max_tokens: int | None = None,
    ) -> list[Encoded]:
        """Texts to tokens with the ends of their spans, cut after `max_tokens`, by default as many
        as the model reads at once (`context`). An empty text gives the first token alone.

        The first position is never usable, whether it is a special token or, in a model without
        one, a text's own: it carries massive activations. A special token that the model has no row
        for is read as the text that it is.
        """
        if not texts:
            return []
        most = self.context if max_tokens is None else max_tokens
        out = []
        for ids, offsets in self._tokens(texts):
            spans = np.array(offsets, dtype=np.int32).reshape(-1, 2)
            ends = np.maximum.accumulate(spans[:, 1])
            inside = (spans[1:, 0] < ends[:-1]) & (
                ends[:-1] < ends[1:]
            )  # the next token finishes its last character
            i = np.array(ids, dtype=np.int32)
            ends[np.isin(ends, ends[:-1][inside]) | np.isin(i, self.special)] = -1
            lead = 0 if self.bos is None else 1
            if len(i) > most - lead:
                i, ends = i[: most - lead], ends[: most - lead].copy()
                ends[ends == ends[-1]] = -1
            if self.bos is not None:
                i, ends = np.insert(i, 0, self.bos), np.insert(ends, 0, -1)
            ends[:1] = -1
            out.append(Encoded(i.astype(np.int32), ends.astype(np.int32)))
        return out

    def _tokens(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """(ids, spans in characters) of each text."""
        how = {"add_special_tokens": False, "return_offsets_mapping": True}
        encoded = self.tokenizer(list(texts), **how)
        out = list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))
        for k, (ids, _) in enumerate(out):
            if ids and max(ids) >= self.rows:
                spelt = self.tokenizer(texts[k], split_special_tokens=True, **how)
                out[k] = (spelt["input_ids"], spelt["offset_mapping"])
        return out


class LiveModel(Reader):
    """A validated model. Shared and read-only: everything that changes it goes through
    `core.models.hooks`."""

    def __init__(
        self,
        spec: ModelSpec,
        bridge: Any,
        plain: Any,
        tokenizer: Any,
        folder: Path,
        weights: str,
        where: Runtime,
    ) -> None:
        self.spec, self.bridge, self.folder, self.weights, self.where = (
            spec,
            bridge,
            folder,
            weights,
            where,
        )
        self.plain = plain
        """The same weights in transformers' own modules: one token a pass takes two thirds of the
        bridge's time."""
        self.hf = bridge.original_model
        self.plain_blocks = blocks_of(plain, spec.n_layers)
        self.body = self.hf.base_model
        super().__init__(tokenizer, spec.bos, folder, limits_of(plain))
        self.blocks_return_tuples = False

    @cached_property
    def packed(self) -> Packed | None:
        """The same weights again, for many texts in one row; None where this architecture does not
        keep them apart, or has no fast attention."""
        if not getattr(self.plain, "_supports_sdpa", False):
            return None
        texts = [
            text.ids for text in self.encode(["One text, and then", "another one, 1 2 3. " * 4])
        ]
        return packed(self.plain, self.spec.n_layers, texts)

    @property
    def makers(self) -> dict[str, Any]:
        """What an artifact records of this model."""
        return {
            "model": self.spec.key,
            "weights": self.weights,
            "tokenizer": self.tokenizer_hash,
            "bos": self._bos_text,
            "dtype": str(self.where.dtype).removeprefix("torch."),
            "max_tokens": self.context,
        }

    def pad(self, rows: Sequence[NDArray[np.int32]]) -> Int[Tensor, "rows longest"]:
        """Rows to a right-padded batch. Causal attention never looks at what comes after, so no
        mask is needed."""
        ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        for r, row in enumerate(rows):
            ids[r, : len(row)] = row
        return torch.from_numpy(ids).to(self.where.device)

    @property
    def final_norm(self) -> torch.nn.Module | None:
        """Before the unembedding, as transformers made it; OPT-350M has none."""
        bridged = getattr(self.bridge, "ln_final", None)
        if bridged is not None:
            return bridged.original_component
        return getattr(getattr(self.plain.base_model, "decoder", None), "final_layer_norm", None)

    @property
    def projection(self) -> torch.nn.Linear | None:
        """Between the residual stream and a narrower unembedding, in OPT-350M."""
        return getattr(getattr(self.plain.base_model, "decoder", None), "project_out", None)

    @property
    def logit_scale(self) -> float:
        """By which the unembedding's products are multiplied, as in Cohere and Granite."""
        config = self.hf.config.get_text_config()
        return (getattr(config, "logit_scale", None) or 1.0) / (
            getattr(config, "logits_scaling", None) or 1.0
        )

    def logits(self, hidden: Float[Tensor, "n e"]) -> Float[Tensor, "n vocab"]:
        """Float32 logits of final-norm outputs, scaled and soft-capped where the model does so."""
        out = self.hf.get_output_embeddings()(hidden).float()
        if self.logit_scale != 1:  # a pass over as many numbers as the vocabulary has rows
            out = out * self.logit_scale
        cap = getattr(self.hf.config.get_text_config(), "final_logit_softcapping", None)
        return torch.tanh(out / cap) * cap if cap else out


class Turns:
    """First come, first served: one stream at a time computes."""

    def __init__(self) -> None:
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def turn(self, waiting: Callable[[int], None] = lambda place: None) -> Iterator[None]:
        """Holds the turn; meanwhile `waiting` hears how many are ahead, whenever that changes and
        every second."""
        me = object()
        with self._changed:
            self._waiting.append(me)
        try:
            while True:
                with self._changed:
                    place = self._waiting.index(me)
                    if place == 0:
                        break
                waiting(place)
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting.index(me) < place, timeout=1.0)  # noqa: B023
            yield
        finally:
            with self._changed:
                self._waiting.remove(me)
                self._changed.notify_all()


TURNS = Turns()
"""Whoever computes with a shared model in this process takes a turn here."""


@dataclass(frozen=True)
class Limits:
    """What a model can be given: `rows` token ids, and `context` tokens at once (None: as many as
    one likes)."""

    rows: int
    context: int | None


def limits_of(hf: Any) -> Limits:
    """Of transformers' model: the rows of its embedding, the positions that it was made for."""
    text = hf.config.get_text_config()
    sizes = [
        getattr(text, name, None)
        for name in ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")
    ]
    context = next((size for size in sizes if isinstance(size, int) and size > 0), None)
    return Limits(hf.get_input_embeddings().weight.shape[0], context)


def some(names: Sequence[str]) -> str:
    """The first few of many names."""
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(map(str, names[:3])) + more
