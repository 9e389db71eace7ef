"""Paired activations of two models over the same text: streamed, resumable, in memory that does not
grow.

Documents are read in windows. Within one, each model gets rows of about equal token counts
(scripts differ threefold in tokens per character), stops at the last layer asked for, and keeps
only positions that pair up.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.activations.gram import Gram, load_grams, save_grams
from core.models import hooks
from core.models.align import encode_both, with_first
from core.models.heap import return_freed_memory
from core.models.live import Encoded, LiveModel
from core.models.pairs import LayerPair
from core.progress import Progress
from core.text.corpus import Document
from core.workspace.disk import fingerprint, only_one
from core.workspace.places import user_cache

WINDOW = 64
"""Documents read at a time."""
BATCH_TOKENS = 1024
"""Padded tokens in one forward pass."""
ROW_TOKENS = 2048
"""Tokens in one forward pass of a model that reads texts in a row."""
OUTLIER = 10.0
"""A row whose norm exceeds this many medians (of the first window) is dropped and counted: massive
activations."""
CHECKPOINT_WINDOWS = 8


@dataclass(frozen=True)
class Chunk:
    """The paired positions of one window. h_a[L] [n, d_A] and h_b[L] [n, d_B] in the models'
    dtype."""

    h_a: dict[int, Tensor]
    h_b: dict[int, Tensor]
    document: NDArray[np.intp]
    """[n] index into the window's documents."""
    at_a: NDArray[np.intp]
    at_b: NDArray[np.intp]
    end: NDArray[np.intp]
    """[n] the character of its document up to which both positions have read."""
    tokens: int
    """Tokens read, both models together."""


def windows(documents: Sequence[Document]) -> list[Sequence[Document]]:
    return [documents[i : i + WINDOW] for i in range(0, len(documents), WINDOW)]


def batches(encoded: Sequence[Encoded], budget: int = BATCH_TOKENS) -> list[list[int]]:
    """Indices grouped by length so that each padded batch has at most `budget` tokens (or is a
    single text)."""
    lengths = [len(text.ids) for text in encoded]
    groups: list[list[int]] = []
    for i in sorted(range(len(encoded)), key=lengths.__getitem__):
        # Lengths rise: this one is what the whole group would be padded to.
        if not groups or (len(groups[-1]) + 1) * lengths[i] > budget:
            groups.append([])
        groups[-1].append(i)
    return groups


def groups(
    model: LiveModel,
    encoded: Sequence[Encoded],
) -> list[list[int]]:
    """Indices of the texts that a model reads in one pass: as they come where it reads texts in a
    row, else in padded `batches`."""
    if model.packed is None:
        return batches(encoded)

    rows: list[list[int]] = [[]]
    tokens = 0
    for i, text in enumerate(encoded):
        tokens += len(text.ids)
        if tokens > ROW_TOKENS and rows[-1]:
            rows.append([])
            tokens = len(text.ids)
        rows[-1].append(i)
    return rows


def record(
    model: LiveModel,
    encoded: Sequence[Encoded],
    kept: Sequence[NDArray[np.intp]],
    layers: Sequence[int],
    stay: bool = False,
) -> dict[int, Tensor]:
    """The residual stream before each layer at the kept positions of each text, in text order: [sum
    kept, d], on the processor unless they `stay` on the model's device."""
    rows: list[dict[int, Tensor]] = [{} for _ in encoded]
    for group in groups(model, encoded):
        texts = [encoded[i].ids for i in group]
        lengths = [len(text) for text in texts]
        for layer, stream in hooks.streams(model, texts, layers).items():
            for i, own in zip(group, stream.split(lengths), strict=True):
                chosen = own[torch.from_numpy(kept[i]).to(own.device)]
                rows[i][layer] = chosen if stay else chosen.cpu()
    return {layer: torch.cat([row[layer] for row in rows]) for layer in layers}


def read_window(
    a: LiveModel,
    b: LiveModel,
    documents: Sequence[Document],
    layers_a: Sequence[int],
    layers_b: Sequence[int],
    stay: bool = False,
    first: bool = False,
) -> Chunk:
    """Both models over the same documents, at the positions that pair up, and with `first` at the
    first position of each text; rows may `stay` on the models' devices."""
    texts = [document.text for document in documents]
    tokens_a, tokens_b, paired = encode_both(a, b, texts)

    at_a = [positions for positions, _ in paired]
    at_b = [positions for _, positions in paired]
    if first:
        at_a = [with_first(positions) for positions in at_a]
        at_b = [with_first(positions) for positions in at_b]
    ends = [text.ends[at] for text, at in zip(tokens_a, at_a, strict=True)]
    return Chunk(
        h_a=record(a, tokens_a, at_a, layers_a, stay),
        h_b=record(b, tokens_b, at_b, layers_b, stay),
        document=np.repeat(np.arange(len(texts)), [len(positions) for positions in at_a]),
        at_a=np.concatenate(at_a),
        at_b=np.concatenate(at_b),
        end=np.concatenate(ends).astype(np.intp),
        tokens=sum(len(text.ids) for text in (*tokens_a, *tokens_b)),
    )


def norm_limit(norms: Tensor) -> float:
    """Above which of the norms [n] a row is an outlier: OUTLIER medians, in residual units; NaN
    where there is no row.

    Massive activations sit at a few positions; one of them would outweigh thousands of ordinary
    rows in a second moment.
    """
    return OUTLIER * float(norms.median())


def norm_limits(chunk: Chunk) -> dict[str, float]:
    """`norm_limit` of each layer of a chunk, by 'a<layer>' and 'b<layer>'.

    Empty where the chunk is: the next one decides.
    """
    if not len(chunk.at_a):
        return {}

    limits_a = {f"a{layer}": norm_limit(_norms(rows)) for layer, rows in chunk.h_a.items()}
    limits_b = {f"b{layer}": norm_limit(_norms(rows)) for layer, rows in chunk.h_b.items()}
    return limits_a | limits_b


def first_limits(
    a: LiveModel,
    b: LiveModel,
    documents: Sequence[Document],
    pair: LayerPair,
) -> dict[str, float]:
    """`norm_limits` of the first window with a pair: what processes that share a text go by. Empty
    where there is none."""
    chunks = (read_window(a, b, docs, [pair.a], [pair.b]) for docs in windows(documents))
    return next(filter(None, map(norm_limits, chunks)), {})


def within(
    chunk: Chunk,
    limits: dict[str, float],
    pair: LayerPair,
) -> Tensor:
    """[n] bool, on the processor: rows whose norm is below the limit on both sides."""
    within_a = _norms(chunk.h_a[pair.a]) <= limits.get(f"a{pair.a}", np.inf)
    within_b = _norms(chunk.h_b[pair.b]) <= limits.get(f"b{pair.b}", np.inf)
    return within_a & within_b


def _norms(rows: Tensor) -> Tensor:
    return rows.float().norm(dim=-1).cpu()


def harvest_config(
    a: LiveModel,
    b: LiveModel,
    corpus_fingerprint: str,
    split: str,
    positions: int | None = None,
) -> dict[str, Any]:
    """All but the layers that decides what a harvest gives: its identity. `positions` None reads
    the split whole."""
    return {
        "a": a.makers,
        "b": b.makers,
        "corpus": corpus_fingerprint,
        "split": split,
        "window": WINDOW,
        "outlier": OUTLIER,
        "positions": positions,
    }


def harvest_folder(kind: str, config: dict[str, Any]) -> Path:
    return user_cache() / kind / fingerprint(config)


def _characters(documents: Sequence[Document], positions: int | None) -> float:
    """Characters to read: all, or enough for `positions` pairs at four characters a pair."""
    if positions is not None:
        return 4.0 * positions
    return sum(len(document.text) for document in documents)


@dataclass
class Ledger:
    """What a harvest has read so far at one layer pair."""

    config: dict[str, Any]
    """Its identity; see `harvest_config`."""
    window: int = 0
    """Windows read; the next one has this number."""
    documents: int = 0
    characters: int = 0
    tokens: int = 0
    """Of both models together."""
    read: int = 0
    """Pairs of positions, outliers among them."""
    dropped: int = 0
    """Outlier rows."""
    limits: dict[str, float] = field(default_factory=dict)
    """The norms above which a row is an outlier, from the first window with a pair."""
    finished: bool = False

    def enter(
        self,
        documents: Sequence[Document],
        chunk: Chunk,
        inside: Tensor,
        last: bool,
    ) -> None:
        """Count one window; `inside` [n] bool says which of its rows were no outliers."""
        self.window += 1
        self.documents += len(documents)
        self.characters += sum(len(document.text) for document in documents)
        self.tokens += chunk.tokens
        self.read += len(inside)
        self.dropped += int((~inside).sum())

        wanted = self.config["positions"]
        self.finished = last or (wanted is not None and self.read >= wanted)


Numbered = Sequence[tuple[int, Sequence[Document]]]
"""Windows of documents, each with its number in the split."""


@dataclass
class Account:
    """The Gram and the ledger of one layer pair, and the file that holds them."""

    pair: LayerPair
    path: Path
    gram: Gram
    ledger: Ledger

    def enter(
        self,
        step: int,
        window: tuple[int, Sequence[Document]],
        chunk: Chunk,
        last: bool,
    ) -> None:
        """Add a window, the `step`th to be read, unless its checkpoint holds it; now and then, and
        at the end, save."""
        ledger = self.ledger
        if ledger.window > step:
            return

        number, documents = window
        ledger.limits = ledger.limits or norm_limits(chunk)
        inside = within(chunk, ledger.limits, self.pair)
        rows_a, rows_b = (
            rows[inside.to(rows.device)]
            for rows in (chunk.h_a[self.pair.a], chunk.h_b[self.pair.b])
        )
        # Seeded by the window, so that a harvest that goes on shuffles its control in the same way.
        self.gram.update(rows_a, rows_b, seed=number)
        ledger.enter(documents, chunk, inside, last)

        if ledger.finished or (step + 1) % CHECKPOINT_WINDOWS == 0:
            self.save()

    def save(self) -> None:
        save_grams(self.path, {self.pair.name: self.gram}, asdict(self.ledger))


def open_account(
    pair: LayerPair,
    path: Path,
    widths: tuple[int, int],
    ledger: Ledger,
) -> Account:
    """As its checkpoint left it, or empty with a `ledger`."""
    if not path.exists():
        return Account(pair, path, Gram(*widths), ledger)

    grams, record = load_grams(path)
    return Account(pair, path, grams[pair.name], Ledger(**record))


def moments_path(
    config: dict[str, Any],
    pair: LayerPair,
) -> Path:
    """Where the moments of a layer pair lie."""
    return harvest_folder("moments", config) / f"{pair.name}.safetensors"


def harvest_moments(
    a: LiveModel,
    b: LiveModel,
    documents: Sequence[Document],
    pairs: Sequence[LayerPair],
    config: dict[str, Any],
    desc: str = "harvest",
    after_window: Callable[[int], None] = lambda n: None,
) -> tuple[dict[str, Gram], dict[str, Ledger]]:
    """Grams and ledgers by layer-pair name, over the documents or until `config['positions']` pairs
    were read.

    Both models run once for all layer pairs; pairs that are already there are not read again. The
    state of each is checkpointed: a killed harvest goes on from there to the bitwise same result.
    """
    widths = (a.spec.d_model, b.spec.d_model)
    with only_one(fingerprint(config), "harvest"):
        accounts = [
            open_account(pair, moments_path(config, pair), widths, Ledger(config)) for pair in pairs
        ]
        unfinished = [account for account in accounts if not account.ledger.finished]
        if unfinished:
            numbered = list(enumerate(windows(documents)))
            read_into(unfinished, a, b, numbered, desc, after_window)

    grams = {account.pair.name: account.gram for account in accounts}
    return grams, {account.pair.name: account.ledger for account in accounts}


def read_into(
    accounts: Sequence[Account],
    a: LiveModel,
    b: LiveModel,
    todo: Numbered,
    desc: str,
    after_window: Callable[[int], None],
) -> None:
    """Go on from the window of the account that is least far, until all are finished."""
    layers_a = sorted({account.pair.a for account in accounts})
    layers_b = sorted({account.pair.b for account in accounts})
    least = min((account.ledger for account in accounts), key=lambda ledger: ledger.window)
    every = [document for _, documents in todo for document in documents]
    whole = _characters(every, least.config["positions"])

    tokens, characters = least.tokens, least.characters
    expected = tokens / characters * whole if characters else whole / 2
    with Progress(desc, expected, initial=tokens) as bar:
        for step in range(least.window, len(todo)):
            number, documents = todo[step]
            chunk = read_window(a, b, documents, layers_a, layers_b, stay=True)
            for account in accounts:
                account.enter(step, todo[step], chunk, last=step + 1 == len(todo))

            characters += sum(len(document.text) for document in documents)
            tokens += chunk.tokens
            bar.advance(chunk.tokens, total=tokens / characters * max(whole, characters))
            return_freed_memory()
            after_window(number)
            if all(account.ledger.finished for account in accounts):
                break
