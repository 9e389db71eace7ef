"""Does the sink cross? What a stitch in two pieces does to the first token's place in the null
space, to attention to it, and to the loss where every position crosses (5.2)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from core.bench import Bench
from core.errors import StitchLensError
from core.functional import ablation
from core.functional.attention import Heads, pattern
from core.models import hooks
from core.models.pairs import LayerPair, Side, other
from core.progress import Progress
from core.statistics import bounds
from core.stitches.directions import Direction, ways
from core.stitches.passage import Positions, crossed, positions
from core.stitches.settings import SinkConfig
from core.stitches.sink import (
    Sink,
    fit_sink,
    harvest_sinks,
    load_sink,
    save_sink,
)
from core.stitches.sink_losses import KEPT, Maps, drawn_means, losses, maps_of, weights_of
from core.stitches.stitch import Stitch, load_stitch
from core.stitches.stitched import Stitched
from core.text.corpus import Document
from core.workspace.disk import fingerprint

LONGEST = 256
"""Tokens of a document in which attention is measured, in either model."""
DIRECTIONS: tuple[Direction, Direction] = ("a_to_b", "b_to_a")


def measure(
    bench: Bench,
    name: str,
    config: SinkConfig | None = None,
) -> None:
    """Fit the second piece of a stitch of the workspace, and keep `sinks/<stitch>/map`, its
    control `/shuffled`, and what was measured: `/crossing`, `/losses`. Steps that are there and
    current are kept.

    Raises StitchLensError where there is no such stitch, or it leads one way only.
    """
    config = config or SinkConfig()
    ws = bench.workspace
    stitch = load_stitch(ws.path(f"stitches/{name}"))
    check_ways(bench, name)

    layers = LayerPair(a=stitch.makers["layer_a"], b=stitch.makers["layer_b"])
    of_stitch = {"stitch": fingerprint(stitch.makers), "layer_a": layers.a, "layer_b": layers.b}
    makers = bench.makers | config.model_dump() | of_stitch
    maps = maps_of(stitch, *_fitted(bench, name, stitch, layers, config, makers))

    if not bench.current(f"sinks/{name}/crossing", makers):
        ws.put_table(f"sinks/{name}/crossing", _crossing(bench, layers, maps, config), makers)
    if not bench.current(f"sinks/{name}/losses", makers):
        ws.put_table(f"sinks/{name}/losses", losses(bench, layers, maps, config), makers)


def check_ways(bench: Bench, name: str) -> None:
    """Raises StitchLensError for a stitch that was brought and leads one way only."""
    there = ways(bench.workspace, name)
    if set(there) != {"up", "down"}:
        raise StitchLensError(
            f"stitch {name}, which leads {' and '.join(there)} only",
            "one that leads both ways",
            "choose one",
        )


def _fitted(
    bench: Bench,
    name: str,
    stitch: Stitch,
    layers: LayerPair,
    config: SinkConfig,
    makers: dict[str, object],
) -> tuple[Sink, Sink]:
    """The second piece and its control, from the workspace or from the fit split."""
    ws = bench.workspace
    names = {"map": f"sinks/{name}/map", "shuffled": f"sinks/{name}/shuffled"}
    if not all(bench.current(full, makers) for full in (*names.values(), f"sinks/{name}/about")):
        documents = bench.corpus.split("fit")[: config.documents]
        grams = harvest_sinks(bench.a, bench.b, documents, layers)
        for key, full in names.items():
            sink = fit_sink(grams, stitch, config, shuffled=key == "shuffled")
            ws.put(full, lambda path, s=sink: save_sink(s, path), "sink", ".safetensors", makers)
            if key == "map":
                ws.put_record(f"sinks/{name}/about", about(sink), makers)
    return load_sink(ws.path(names["map"])), load_sink(ws.path(names["shuffled"]))


def about(sink: Sink) -> dict[str, object]:
    """What the second piece was fitted on, and what came of it: rows, ranks, and the norm above
    which a row of either model is massive."""
    counts = ("first", "massive_a", "massive_b")
    return {key: sink.makers[key] for key in counts} | {
        "rank_up": sink.up.rank,
        "rank_down": sink.down.rank,
        "limit_a": float(sink.up.limit),
        "limit_b": float(sink.down.limit),
    }


# the sink's direction, and attention to it


@dataclass
class _Sums:
    """Of each document under one condition: what its first row and its attention add up to."""

    first: list[Tensor]
    others: list[Tensor]
    """Sums over the positions behind the first."""
    attention: list[float]
    """To the first position, summed over heads and later positions."""

    def add(
        self,
        rows: Float[Tensor, "n d"],
        attention: float,
    ) -> None:
        self.first.append(rows[0])
        self.others.append(rows[1:].sum(0))
        self.attention.append(attention)


def _crossing(
    bench: Bench,
    layers: LayerPair,
    maps: Mapping[str, Maps],
    config: SinkConfig,
) -> pd.DataFrame:
    """A row a direction and condition (`own`: the receiver's, `source`: the other model's own):
    `share` of the sink's direction in the null space (bottom 2 %) and `attention` to the first
    position, mean over the receiver's heads from the stitched layer on and later positions, each
    with `_low`, `_high` and `_of_own` (over the receiver's own, with its interval); `norm` and
    `cosine` of the first row against the receiver's own; `documents`, `positions`."""
    documents = _documents(bench, config)
    rows = []
    with Progress("where the sink crosses", 2 * len(documents), "documents") as bar:
        read = []
        for document in documents:
            stitched = Stitched(bench.a, bench.b, layers, maps[KEPT].stitch, first=True)
            read.append(positions(stitched, document.text))
            bar.advance(1)

        bases: dict[Side, Tensor] = {
            "a": ablation.null_basis(bench.a),
            "b": ablation.null_basis(bench.b),
        }
        for direction in DIRECTIONS:
            receiver = Stitched(bench.a, bench.b, layers, maps[KEPT].stitch, direction).speaker
            sums = {name: _Sums([], [], []) for name in ("own", *maps)}
            counts: list[tuple[int, int]] = []
            heads = Heads(bench.a if receiver == "a" else bench.b)
            for at in read:
                streams = _streams(bench, layers, maps, direction, at)
                attention, cells = _attention(heads, layers, receiver, at, streams)
                for name, stream in streams.items():
                    sums[name].add(stream.float().cpu(), attention[name])
                counts.append((len(at.ids[receiver]) - 1, cells))
                bar.advance(0.5)
            rows += _compared(direction, bases[receiver], sums, counts, config)

            source = other(receiver)
            own = _Sums([], [], [])
            for at in read:
                own.add(at.own[source].float().cpu(), math.nan)
            behind = np.array([len(at.ids[source]) - 1 for at in read])
            rows.append(_source(direction, bases[source], own, behind, config))
    return pd.DataFrame(rows)


def _documents(bench: Bench, config: SinkConfig) -> list[Document]:
    """A draw of held-out documents that both models read whole, in two tokens to LONGEST."""
    held_out = bench.corpus.split("held-out")
    order = np.random.default_rng(config.seed).permutation(len(held_out))
    drawn: list[Document] = []
    for k in order:
        text = held_out[k].text
        lengths = [len(model.encode([text])[0].ids) for model in (bench.a, bench.b)]
        if min(lengths) > 2 and max(lengths) <= LONGEST and text.strip():
            drawn.append(held_out[k])
        if len(drawn) == config.read:
            return drawn
    if len(drawn) < 2:
        raise StitchLensError(
            f"{len(drawn)} held-out documents of {LONGEST} tokens or fewer",
            "two or more",
            "use a corpus with shorter documents",
        )
    return drawn


def _streams(
    bench: Bench,
    layers: LayerPair,
    maps: Mapping[str, Maps],
    direction: Direction,
    at: Positions,
) -> dict[str, Float[Tensor, "n d"]]:
    """The receiver's own stream, and under each condition with what crosses in place."""
    streams = dict[str, Tensor]()
    for name, (stitch, first) in maps.items():
        stitched = Stitched(bench.a, bench.b, layers, stitch, direction, first)
        streams.setdefault("own", at.own[stitched.speaker])
        streams[name] = crossed(stitched, at)
    return streams


def _attention(
    heads: Heads,
    layers: LayerPair,
    receiver: Side,
    at: Positions,
    streams: Mapping[str, Float[Tensor, "n d"]],
) -> tuple[dict[str, float], int]:
    """(attention to the first position, summed over heads, layers from the stitched one on and the
    later positions that can see it; how many these are), by condition."""
    layer = layers.a if receiver == "a" else layers.b
    batch = torch.stack(list(streams.values()))
    ids = at.ids[receiver].expand(len(batch), -1)
    above = range(layer, heads.model.spec.n_layers)

    totals = torch.zeros(len(batch), dtype=torch.float64)
    cells = 0
    with torch.no_grad(), hooks.changed(heads.model, {layer: lambda _: batch}):
        calls = heads.calls(ids, above)
    with torch.no_grad():
        for at_layer, call in calls.items():
            look = heads.look(at_layer, call)
            seen = look.visible[1:, 0]
            to_first = pattern(look)[:, :, 1:, 0] * seen
            totals += to_first.sum((1, 2)).double().cpu()
            cells += int(seen.sum()) * to_first.shape[1]
    return dict(zip(streams, totals.tolist(), strict=True)), cells


def _compared(
    direction: Direction,
    basis: Float[Tensor, "d d"],
    sums: Mapping[str, _Sums],
    counts: Sequence[tuple[int, int]],
    config: SinkConfig,
) -> list[dict[str, object]]:
    """The rows of one direction, on the same draws of documents."""
    behind, cells = (np.array(column) for column in zip(*counts, strict=True))
    weights = weights_of(len(behind), config.seed)

    own_share = _shares(sums["own"], behind, weights, basis)
    own_attention = drawn_means(sums["own"].attention, cells, weights)
    own_first = torch.stack(sums["own"].first).mean(0)
    rows = []
    for name, of_name in sums.items():
        share = _shares(of_name, behind, weights, basis)
        attention = drawn_means(of_name.attention, cells, weights)
        first = torch.stack(of_name.first).mean(0)
        row: dict[str, object] = {"direction": direction, "condition": name}
        row |= _interval("share", share) | _interval("share_of_own", share / own_share)
        row |= _interval("attention", attention)
        row |= _interval("attention_of_own", attention / own_attention)
        cosine = torch.nn.functional.cosine_similarity(first, own_first, dim=0)
        row |= {
            "norm": float(first.norm() / own_first.norm()),
            "cosine": float(cosine),
            "documents": len(behind),
            "positions": int(behind.sum()),
        }
        rows.append(row)
    return rows


def _source(
    direction: Direction,
    basis: Float[Tensor, "d d"],
    own: _Sums,
    behind: NDArray[np.int64],
    config: SinkConfig,
) -> dict[str, object]:
    """The row of what the sink is before it crosses: its share in its own model's null space."""
    weights = weights_of(len(behind), config.seed)
    share = _shares(own, behind, weights, basis)
    about: dict[str, object] = {"direction": direction, "condition": "source"}
    return about | _interval("share", share) | {"documents": len(behind)}


def _shares(
    sums: _Sums,
    behind: NDArray[np.int64],
    weights: NDArray[np.float64],
    basis: Float[Tensor, "d d"],
) -> NDArray[np.float64]:
    """[draws] of the share in the null space of what sets the first row apart from the mean of
    the others."""
    drawn = torch.from_numpy(weights).float()
    n = torch.from_numpy(behind).float()
    first = drawn @ torch.stack(sums.first) / drawn.sum(1, keepdim=True)
    others = drawn @ torch.stack(sums.others) / (drawn @ n)[:, None]
    return ablation.null_share(first - others, basis).double().numpy()


def _interval(name: str, drawn: NDArray[np.float64]) -> dict[str, object]:
    """The sample's own value comes first among `drawn`."""
    low, high = bounds(drawn[1:])
    return {name: float(drawn[0]), f"{name}_low": float(low), f"{name}_high": float(high)}
