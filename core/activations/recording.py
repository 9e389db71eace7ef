"""Residual streams kept row by row on disk, in shards; what an SAE is trained on, and `adam`."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.activations.harvest import (
    harvest_folder,
    norm_limit,
    norm_limits,
    read_window,
    record,
    windows,
    within,
)
from core.activations.shards import UNDIVIDED, Shard
from core.errors import StitchLensError
from core.models.align import encode_both
from core.models.live import Encoded, LiveModel
from core.models.pairs import LayerPair
from core.progress import Progress
from core.text.corpus import Document
from core.workspace.disk import beside, fingerprint, only_one, put_once

LIMITS = "limits.json"
"""Beside the shards: the norms above which a row is an outlier."""


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

    def window(self, number: int) -> dict[str, Tensor]:
        """The tensors of one window, by its number in the text."""
        return load_file(self.folder / _shard_name(number))

    @property
    def limits(self) -> dict[str, float]:
        """The norms above which a row is an outlier; see `norm_limits`."""
        return json.loads((self.folder / LIMITS).read_text("utf-8"))

    def in_order(self, names: Sequence[str]) -> Iterator[tuple[Tensor, ...]]:
        """The named tensors of each shard, in the order and the dtype in which they were read."""
        for path in self.shards:
            shard = load_file(path)
            yield tuple(shard[name] for name in names)

    def epoch(
        self,
        batch: int,
        seed: int,
        names: Sequence[str] = ("h_a", "h_b"),
    ) -> Iterator[tuple[Tensor, ...]]:
        """The named tensors [batch, d] as float32, shards and rows within eight shards in a seeded
        order."""
        g = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.shards), generator=g).tolist()
        for i in range(0, len(order), 8):
            group = [load_file(self.shards[k]) for k in order[i : i + 8]]
            streams = [torch.cat([shard[name] for shard in group]) for name in names]
            for rows in torch.randperm(len(streams[0]), generator=g).split(batch):
                yield tuple(stream[rows].float() for stream in streams)


def _shard_name(window: int) -> str:
    return f"shard-{window:05d}.safetensors"


def _rows_of(shard: Path) -> int:
    with safe_open(shard, "pt") as f:
        return f.get_slice(next(iter(f.keys()))).get_shape()[0]


Read = Callable[[Sequence[Document], dict[str, float]], tuple[dict[str, Tensor], dict[str, float]]]
"""(documents of a window, norm limits so far) -> (its rows by name, the limits from now on)."""
PLACES = ("document", "at_a", "at_b", "end")
"""Of a chunk: where each row was read."""
WHOLE = {"rows": "all that pair up"}
"""In the identity of a recording that keeps outliers as well."""


def harvest_recording(
    a: LiveModel,
    b: LiveModel,
    documents: Sequence[Document],
    pair: LayerPair,
    config: dict[str, Any],
    desc: str = "record",
) -> Recording:
    """Like `harvest_moments`, but keeps the rows themselves, as `h_a` [n, d_A] and `h_b` [n, d_B];
    needed by the `adam` fitter."""

    folder = harvest_folder("activations", config | {"layer_pair": pair.name})

    def read(
        docs: Sequence[Document], limits: dict[str, float]
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        chunk = read_window(a, b, docs, [pair.a], [pair.b])
        limits = limits or norm_limits(chunk)
        usual = within(chunk, limits, pair)
        return {"h_a": chunk.h_a[pair.a][usual], "h_b": chunk.h_b[pair.b][usual]}, limits

    return _shards(folder, documents, config, read, desc)


def harvest_places(
    a: LiveModel,
    b: LiveModel,
    documents: Sequence[Document],
    pair: LayerPair,
    config: dict[str, Any],
    desc: str = "record",
    shard: Shard = UNDIVIDED,
) -> Recording:
    """Like `harvest_recording`, but with outliers, and with where each row was read: `document`
    [n], within its window, its positions `at_a`, `at_b` [n] in the tokens of A and of B, and the
    character `end` [n] up to which they have read, int32; `usual` [n] bool says which rows are no
    outliers. One `shard` of several records its windows alone."""
    folder = harvest_folder("places", config | WHOLE | {"layer_pair": pair.name})

    def read(
        docs: Sequence[Document], limits: dict[str, float]
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        chunk = read_window(a, b, docs, [pair.a], [pair.b])
        limits = limits or norm_limits(chunk)
        rows = {
            "h_a": chunk.h_a[pair.a],
            "h_b": chunk.h_b[pair.b],
            "usual": within(chunk, limits, pair),
        }
        for name in PLACES:
            rows[name] = torch.from_numpy(getattr(chunk, name).astype(np.int32))
        return rows, limits

    return _shards(folder, documents, config, read, desc, shard)


def kept_positions(
    model: LiveModel,
    texts: Sequence[str],
    partner: LiveModel | None,
) -> tuple[list[Encoded], list[NDArray[np.intp]]]:
    """The texts' tokens, and of each the positions that pair up with one of `partner` (None: every
    usable one)."""
    if partner is None:
        encoded = model.encode(texts)
        return encoded, [np.flatnonzero(tokens.usable) for tokens in encoded]

    encoded, _, paired = encode_both(model, partner, texts)
    return encoded, [own for own, _ in paired]


def harvest_rows(
    model: LiveModel,
    documents: Sequence[Document],
    layer: int,
    config: dict[str, Any],
    desc: str = "record",
    partner: LiveModel | None = None,
) -> Recording:
    """The residual stream of one model before `layer` at `kept_positions`, as `h` [n, d]: what an
    SAE is trained on. Outlier rows are dropped as in `harvest_moments`."""

    def read(
        docs: Sequence[Document], limits: dict[str, float]
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        encoded, kept = kept_positions(model, [document.text for document in docs], partner)
        rows = record(model, encoded, kept, [layer])[layer]
        norms = rows.float().norm(dim=-1)
        if not limits and len(rows):
            limits = {"h": norm_limit(norms)}

        return {"h": rows[norms <= limits.get("h", np.inf)]}, limits

    folder = harvest_folder("activations", config | {"layer": layer})
    return _shards(folder, documents, config, read, desc)


def _shards(
    folder: Path,
    documents: Sequence[Document],
    config: dict[str, Any],
    read: Read,
    desc: str,
    shard: Shard = UNDIVIDED,
) -> Recording:
    """One shard a window until the documents or `config['positions']` are read; those that are
    there are kept. Raises StitchLensError where there is no position to record, unless other
    processes have a share."""
    alone = shard == UNDIVIDED
    what = "recording" if alone else f"recording of shard {shard.index} of {shard.count}"
    with only_one(fingerprint([config, folder.name]), what):
        if not (folder / "finished").exists():
            _write_shards(folder, documents, config["positions"], read, desc, shard)
            if alone:
                with beside(folder / "finished") as part:
                    part.write_text(json.dumps(config))
        recording = Recording(folder)

    if recording.n == 0 and alone:
        raise StitchLensError(
            "no positions to record", "at least one", "use a corpus with text that the models read"
        )
    return recording


def _write_shards(
    folder: Path,
    documents: Sequence[Document],
    positions: int | None,
    read: Read,
    desc: str,
    shard: Shard,
) -> None:
    # The limits come from the first window with a row and lie beside the shards: a recording that
    # goes on, or in which several processes have a share, drops the same rows.
    note = folder / LIMITS
    limits: dict[str, float] = json.loads(note.read_text()) if note.exists() else {}
    if not limits and shard != UNDIVIDED:
        limits = _first_limits(documents, read)
        limits = json.loads(put_once(note, json.dumps(limits)))

    numbered = [(w, docs) for w, docs in enumerate(windows(documents)) if shard.reads(w)]
    expected = positions or sum(len(d.text) for _, docs in numbered for d in docs) / 4
    recorded = 0
    with Progress(desc, expected, "pos") as bar:
        for window, docs in numbered:
            path = folder / _shard_name(window)
            if not path.exists():
                rows, limits = read(docs, limits)
                if limits:
                    put_once(note, json.dumps(limits))
                with beside(path) as part:
                    save_file({name: h.contiguous() for name, h in rows.items()}, part)

            n = _rows_of(path)
            recorded += n
            bar.advance(n)
            if positions is not None and recorded >= positions:
                break


def _first_limits(
    documents: Sequence[Document],
    read: Read,
) -> dict[str, float]:
    """Those of the first window with a row."""
    for docs in windows(documents):
        _, limits = read(docs, {})
        if limits:
            return limits
    return {}
