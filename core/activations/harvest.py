"""Paired activations of two models over the same text: streamed, resumable, in memory that does not
grow.

Documents are read in windows. Within one, each model gets batches of about equal token counts
(scripts differ threefold in tokens per character), stops at the last layer asked for, and keeps
only positions that pair up.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.activations.gram import Gram, load_grams, save_grams
from core.errors import StitchLensError
from core.models import hooks
from core.models.align import pair_positions
from core.models.live import Encoded, LiveModel
from core.models.pairs import LayerPair
from core.progress import Progress
from core.text.corpus import Document
from core.workspace.disk import beside, fingerprint, only_one
from core.workspace.places import user_cache

WINDOW = 64
"""Documents read at a time."""
BATCH_TOKENS = 1024
"""Padded tokens in one forward pass."""
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
    tokens: int
    """Tokens read, both models together."""


def windows(documents: Sequence[Document]) -> list[Sequence[Document]]:
    return [documents[i : i + WINDOW] for i in range(0, len(documents), WINDOW)]


def batches(encoded: Sequence[Encoded], budget: int = BATCH_TOKENS) -> list[list[int]]:
    """Indices grouped by length so that each padded batch has at most `budget` tokens (or is a
    single text)."""
    out: list[list[int]] = []
    for i in sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids)):
        if not out or (len(out[-1]) + 1) * len(encoded[i].ids) > budget:
            out.append([])
        out[-1].append(i)
    return out


def record(
    model: LiveModel,
    encoded: Sequence[Encoded],
    kept: Sequence[NDArray[np.intp]],
    layers: Sequence[int],
) -> dict[int, Tensor]:
    """The residual stream before each layer at the kept positions of each text, in text order: [sum
    kept, d]."""
    rows: list[dict[int, Tensor]] = [{} for _ in encoded]
    for batch in batches(encoded):
        seen = hooks.residuals(model, model.pad([encoded[i].ids for i in batch]), layers)
        for r, i in enumerate(batch):
            rows[i] = {layer: h[r, torch.from_numpy(kept[i])].cpu() for layer, h in seen.items()}
    return {layer: torch.cat([row[layer] for row in rows]) for layer in layers}


def read_window(
    a: LiveModel,
    b: LiveModel,
    documents: Sequence[Document],
    layers_a: Sequence[int],
    layers_b: Sequence[int],
) -> Chunk:
    """Both models over the same documents, at the positions that pair up."""
    texts = [d.text for d in documents]
    tokens_a, tokens_b = a.encode(texts), b.encode(texts)
    same = a.tokenizer_hash == b.tokenizer_hash
    paired = [pair_positions(x, y, same) for x, y in zip(tokens_a, tokens_b, strict=True)]
    at_a, at_b = [i for i, _ in paired], [j for _, j in paired]
    return Chunk(
        record(a, tokens_a, at_a, layers_a),
        record(b, tokens_b, at_b, layers_b),
        np.repeat(np.arange(len(texts)), [len(i) for i in at_a]),
        np.concatenate(at_a),
        np.concatenate(at_b),
        sum(len(x.ids) for x in tokens_a) + sum(len(y.ids) for y in tokens_b),
    )


def norm_limits(chunk: Chunk) -> dict[str, float]:
    """Largest norm kept, by 'a<layer>' and 'b<layer>': OUTLIER medians of this chunk's rows, in
    residual units.

    Empty where the chunk is: the next one decides.
    """
    if not len(chunk.at_a):
        return {}
    sides = (("a", chunk.h_a), ("b", chunk.h_b))
    return {
        f"{side}{layer}": OUTLIER * float(h.float().norm(dim=-1).median())
        for side, hs in sides
        for layer, h in hs.items()
    }


def within(chunk: Chunk, limits: dict[str, float], pair: LayerPair) -> Tensor:
    """[n] bool: rows whose norm is below the limit on both sides."""
    keep_a = chunk.h_a[pair.a].float().norm(dim=-1) <= limits.get(f"a{pair.a}", np.inf)
    keep_b = chunk.h_b[pair.b].float().norm(dim=-1) <= limits.get(f"b{pair.b}", np.inf)
    return keep_a & keep_b


def harvest_config(
    a: LiveModel, b: LiveModel, corpus_fingerprint: str, split: str, positions: int | None = None
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


def _folder(kind: str, config: dict[str, Any]) -> Path:
    return user_cache() / kind / fingerprint(config)


def _plan(
    documents: Sequence[Document], positions: int | None
) -> tuple[list[Sequence[Document]], float]:
    """The windows to read and the characters in them; enough for `positions` pairs at three
    characters a pair."""
    todo = windows(documents)
    return todo, sum(len(d.text) for d in documents) if positions is None else 4.0 * positions


def harvest_moments(
    a: LiveModel,
    b: LiveModel,
    documents: Sequence[Document],
    pairs: Sequence[LayerPair],
    config: dict[str, Any],
    desc: str = "harvest",
    after_window: Callable[[int], None] = lambda n: None,
) -> tuple[dict[str, Gram], dict[str, dict[str, Any]]]:
    """Grams and records by layer-pair name, over the documents or until `config['positions']` pairs
    were read.

    Both models run once for all layer pairs; pairs that are already there are not read again. The
    state of each is checkpointed: a killed harvest goes on from there to the bitwise same result. A
    record counts windows, documents, characters, tokens (both models), pairs read, and outlier rows
    dropped, and holds the norm limits and the config.
    """
    folder = _folder("moments", config)
    with only_one(fingerprint(config), "harvest"):
        grams: dict[str, Gram] = {}
        records: dict[str, dict[str, Any]] = {}
        for p in pairs:
            if (folder / f"{p.name}.safetensors").exists():
                found, records[p.name] = load_grams(folder / f"{p.name}.safetensors")
                grams[p.name] = found[p.name]
            else:
                grams[p.name] = Gram(a.spec.d_model, b.spec.d_model)
                records[p.name] = {
                    "window": 0,
                    "documents": 0,
                    "characters": 0,
                    "tokens": 0,
                    "read": 0,
                    "dropped": 0,
                    "limits": {},
                    "finished": False,
                    "config": config,
                }
        open_pairs = [p for p in pairs if not records[p.name]["finished"]]
        if not open_pairs:
            return grams, records
        layers_a, layers_b = sorted({p.a for p in open_pairs}), sorted({p.b for p in open_pairs})
        todo, whole = _plan(documents, config["positions"])
        first = min((records[p.name] for p in open_pairs), key=lambda r: r["window"])
        tokens, characters = first["tokens"], first["characters"]
        with Progress(
            desc, tokens / characters * whole if characters else whole / 2, initial=tokens
        ) as bar:
            for k in range(first["window"], len(todo)):
                chunk = read_window(a, b, todo[k], layers_a, layers_b)
                for p in open_pairs:
                    r = records[p.name]
                    if r["window"] > k:
                        continue
                    r["limits"] = r["limits"] or norm_limits(chunk)
                    keep = within(chunk, r["limits"], p)
                    grams[p.name].update(chunk.h_a[p.a][keep], chunk.h_b[p.b][keep], seed=k)
                    r["window"], r["documents"] = k + 1, r["documents"] + len(todo[k])
                    r["characters"] += sum(len(d.text) for d in todo[k])
                    r["tokens"] += chunk.tokens
                    r["read"] += len(keep)
                    r["dropped"] += int((~keep).sum())
                    most = config["positions"]
                    r["finished"] = k + 1 == len(todo) or (most is not None and r["read"] >= most)
                    if r["finished"] or (k + 1) % CHECKPOINT_WINDOWS == 0:
                        save_grams(folder / f"{p.name}.safetensors", {p.name: grams[p.name]}, r)
                characters += sum(len(d.text) for d in todo[k])
                tokens += chunk.tokens
                bar.advance(chunk.tokens, total=tokens / characters * max(whole, characters))
                after_window(k)
                if all(records[p.name]["finished"] for p in open_pairs):
                    break
        return grams, records


class Recording:
    """Recorded activations on disk, in shards of one window; each holds the same named tensors of
    equal length."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards = sorted(folder.glob("shard-*.safetensors"))
        self.rows = [_rows_of(s) for s in self.shards]

    @property
    def n(self) -> int:
        return sum(self.rows)

    def epoch(
        self, batch: int, seed: int, names: Sequence[str] = ("h_a", "h_b")
    ) -> Iterator[tuple[Tensor, ...]]:
        """The named tensors [batch, d] as float32, shards and rows within eight shards in a seeded
        order."""
        g = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.shards), generator=g).tolist()
        for i in range(0, len(order), 8):
            group = [load_file(self.shards[k]) for k in order[i : i + 8]]
            together = [torch.cat([s[name] for s in group]) for name in names]
            for rows in torch.randperm(len(together[0]), generator=g).split(batch):
                yield tuple(h[rows].float() for h in together)


def _rows_of(shard: Path) -> int:
    with safe_open(shard, "pt") as f:
        return f.get_slice(next(iter(f.keys()))).get_shape()[0]


def harvest_recording(
    a: LiveModel,
    b: LiveModel,
    documents: Sequence[Document],
    pair: LayerPair,
    config: dict[str, Any],
    desc: str = "record",
) -> Recording:
    """Like `harvest_moments`, but keeps the rows themselves, as `h_a` and `h_b`; needed by the
    `adam` fitter."""

    def read(
        docs: Sequence[Document], limits: dict[str, float]
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        chunk = read_window(a, b, docs, [pair.a], [pair.b])
        limits = limits or norm_limits(chunk)
        keep = within(chunk, limits, pair)
        return {"h_a": chunk.h_a[pair.a][keep], "h_b": chunk.h_b[pair.b][keep]}, limits

    folder = _folder("activations", config | {"layer_pair": pair.name})
    return _shards(folder, documents, config, read, desc)


def kept_positions(
    model: LiveModel, texts: Sequence[str], partner: LiveModel | None
) -> tuple[list[Encoded], list[NDArray[np.intp]]]:
    """The texts' tokens, and of each the positions that pair up with one of `partner` (None: every
    usable one)."""
    encoded = model.encode(texts)
    if partner is None:
        return encoded, [np.flatnonzero(e.usable) for e in encoded]
    same = model.tokenizer_hash == partner.tokenizer_hash
    pairs = zip(encoded, partner.encode(texts), strict=True)
    return encoded, [pair_positions(x, y, same)[0] for x, y in pairs]


def harvest_rows(
    model: LiveModel,
    documents: Sequence[Document],
    layer: int,
    config: dict[str, Any],
    desc: str = "record",
    partner: LiveModel | None = None,
) -> Recording:
    """The residual stream of one model before `layer` at `kept_positions`, as `h`: what an SAE is
    trained on. Outlier rows are dropped as in `harvest_moments`."""

    def read(
        docs: Sequence[Document], limits: dict[str, float]
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        encoded, kept = kept_positions(model, [d.text for d in docs], partner)
        h = record(model, encoded, kept, [layer])[layer]
        norm = h.float().norm(dim=-1)
        if not limits and len(h):
            limits = {"h": OUTLIER * float(norm.median())}
        return {"h": h[norm <= limits.get("h", np.inf)]}, limits

    return _shards(_folder("activations", config | {"layer": layer}), documents, config, read, desc)


def _shards(
    folder: Path,
    documents: Sequence[Document],
    config: dict[str, Any],
    read: Callable[
        [Sequence[Document], dict[str, float]], tuple[dict[str, Tensor], dict[str, float]]
    ],
    desc: str,
) -> Recording:
    """One shard a window until the documents or `config['positions']` are read; those that are
    there are kept."""
    most = config["positions"]
    with only_one(fingerprint([config, folder.name]), "recording"):
        if not (folder / "finished").exists():
            note = folder / "limits.json"
            limits: dict[str, float] = json.loads(note.read_text()) if note.exists() else {}
            n = 0
            with Progress(desc, most or _plan(documents, None)[1] / 4, "pos") as bar:
                for k, docs in enumerate(windows(documents)):
                    shard = folder / f"shard-{k:05d}.safetensors"
                    if not shard.exists():
                        rows, limits = read(docs, limits)
                        with beside(note) as part:
                            part.write_text(json.dumps(limits))
                        with beside(shard) as part:
                            save_file({name: h.contiguous() for name, h in rows.items()}, part)
                    here = _rows_of(shard)
                    n += here
                    bar.advance(here)
                    if most is not None and n >= most:
                        break
            with beside(folder / "finished") as part:
                part.write_text(json.dumps(config))
        recording = Recording(folder)
    if recording.n == 0:
        raise StitchLensError(
            "no positions to record", "at least one", "use a corpus with text that the models read"
        )
    return recording
