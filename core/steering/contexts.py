"""The texts in which a feature is active: the mean residual stream over its tokens there, and over
the others.

An SAE whose features were measured has pointers to such texts in its tables. Of another one the
first texts of the corpus are searched.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from core.activations.harvest import batches, norm_limit, record
from core.errors import StitchLensError
from core.models.live import Encoded, LiveModel
from core.models.pairs import Side
from core.steering.vectors import Means
from core.workspace.store import has

if TYPE_CHECKING:
    from sae_lens import SAE

    from core.steering.studio import Studio

Reading = Callable[[int, int], None]
"""Hears how many texts were read, and of how many."""
SEARCHED = 96
"""Texts in which a feature without tables is looked for."""
AT_ONCE = 12
"""Of these, before it is seen whether they are enough."""
ENOUGH = 20
"""Tokens at which a feature was active, after which no more texts are searched."""


def unheard(done: int, of: int) -> None:
    """A `Reading` that nobody listens to."""


@dataclass(frozen=True)
class Contexts:
    """Texts as one model reads them, and at which of their tokens a feature is active."""

    encoded: Sequence[Encoded]
    active: Sequence[NDArray[np.bool_]]
    """Of each text, by position."""


def active_means(
    studio: "Studio",
    sae_name: str,
    index: int,
    side: Side,
    layers: Sequence[int],
    reading: Reading = unheard,
) -> dict[int, Means]:
    """By layer, over the tokens of the texts in which a feature is active on that side: positive
    where it is, negative the others; each text is read once. Raises StitchLensError where it is
    active nowhere, or the corpus does not hold its texts."""
    if has(studio.bench.workspace, f"examples_{side}/{sae_name}"):
        contexts = kept(studio, sae_name, index, side)
    else:
        contexts = searched(studio, sae_name, index, side, reading)

    model = studio.model(side)
    streams = {layer: list[Tensor]() for layer in layers}
    active: list[NDArray[np.bool_]] = []
    for group, rows in _by_batch(model, contexts.encoded, layers, reading):
        for layer in layers:
            streams[layer].append(rows[layer])
        for i in group:
            active.append(contexts.active[i][contexts.encoded[i].usable])

    on = torch.from_numpy(np.concatenate(active))
    makers = model.makers | {"contexts": len(contexts.encoded)}
    return {layer: _means(layer, torch.cat(h), on, makers) for layer, h in streams.items()}


def kept(
    studio: "Studio",
    sae_name: str,
    index: int,
    side: Side,
) -> Contexts:
    """Where the tables of the workspace say that a feature is active."""
    bench = studio.bench
    contexts = bench.workspace.table(f"examples_{side}/{sae_name}", feature=index)
    if not len(contexts):
        raise StitchLensError(
            f"feature {index} never active in {side.upper()}",
            "one with contexts",
            "choose another",
        )

    texts = {document.id: document.text for document in bench.corpus.documents}
    ends = {name: at for name, at in active_ends(contexts).items() if name in texts}
    if not ends:
        raise StitchLensError(
            "contexts that this corpus does not hold",
            "the corpus they came from",
            f"run `python -m core features build {bench.pair.key} --sae {sae_name}"
            f" --stitch {studio.stitch_name}`, which finds contexts in the text that is here",
        )

    encoded = studio.model(side).encode([texts[name] for name in ends])
    active = [active_in(text, at) for text, at in zip(encoded, ends.values(), strict=True)]
    return Contexts(encoded, active)


def searched(
    studio: "Studio",
    sae_name: str,
    index: int,
    side: Side,
    reading: Reading = unheard,
) -> Contexts:
    """Texts of the held-out split in which an SAE without tables is active, some at a time until
    it was at ENOUGH tokens."""
    bench, crossing = studio.bench, studio.crossing(sae_name)
    sae = crossing.sae if side == "a" else crossing.transferred
    model, layer = studio.model(side), studio.stitched(side)
    documents = bench.corpus.split("held-out")[:SEARCHED]

    texts, active, tokens = list[Encoded](), list[NDArray[np.bool_]](), 0
    for begin in range(0, len(documents), AT_ONCE):
        some = documents[begin : begin + AT_ONCE]
        encoded = model.encode([document.text for document in some])

        def read(
            done: int,
            of: int,
            before: int = begin,
        ) -> None:
            reading(before + done, before + of)

        for group, rows in _by_batch(model, encoded, [layer], read):
            on = iter(_active(sae, index, rows[layer]).split(_lengths(encoded, group)))
            for i in group:
                mask = np.zeros(len(encoded[i].ids), dtype=bool)
                mask[encoded[i].usable] = next(on).numpy()
                texts.append(encoded[i])
                active.append(mask)
                tokens += int(mask.sum())
        if tokens >= ENOUGH:
            break

    if not tokens:
        raise StitchLensError(
            f"feature {index} of SAE {sae_name} active in none of {len(texts)} texts",
            "one that is",
            f"choose another, or run `python -m core features build {bench.pair.key}"
            f" --sae {sae_name} --stitch {studio.stitch_name}`, which searches all texts",
        )
    return Contexts(texts, active)


def active_ends(contexts: pd.DataFrame) -> dict[str, set[int]]:
    """By document, the characters at which the tokens end where a feature is active."""
    ends: dict[str, set[int]] = {}
    for context in contexts.to_dict("records"):
        token_ends = context["begin"] + np.cumsum(context["lengths"])
        hot = np.asarray(context["heat"]) > 0
        ends.setdefault(context["document"], set()).update(token_ends[hot].tolist())
    return ends


def active_in(text: Encoded, ends: set[int]) -> Bool[np.ndarray, " pos"]:
    """The usable positions of a text whose tokens end there."""
    return np.isin(text.ends, list(ends)) & text.usable


def usual(h: Float[Tensor, "n d"]) -> Bool[Tensor, " n"]:
    """The rows that are no outliers (massive activations)."""
    norms = h.double().norm(dim=-1)
    return norms <= norm_limit(norms)


def _by_batch(
    model: LiveModel,
    encoded: Sequence[Encoded],
    layers: Sequence[int],
    reading: Reading,
) -> Iterator[tuple[list[int], dict[int, Tensor]]]:
    """A padded batch of the texts at a time: which they are, and by layer their residual streams
    at the usable positions, text after text."""
    done = 0
    reading(done, len(encoded))
    for group in batches(encoded):
        some = [encoded[i] for i in group]
        positions = [np.flatnonzero(text.usable) for text in some]
        yield group, record(model, some, positions, layers)
        done += len(group)
        reading(done, len(encoded))


def _lengths(encoded: Sequence[Encoded], group: Sequence[int]) -> list[int]:
    return [int(encoded[i].usable.sum()) for i in group]


def _active(
    sae: "SAE[Any]",
    index: int,
    h: Tensor,
) -> Bool[Tensor, " n"]:
    with torch.inference_mode():
        return sae.encode(h.float())[:, index] > 0


def _means(
    layer: int,
    h: Float[Tensor, "n d"],
    on: Bool[Tensor, " n"],
    makers: dict[str, Any],
) -> Means:
    def mean(rows: Tensor) -> Tensor:
        if not len(rows):
            raise StitchLensError("texts without a token", "some words", "give more text")
        return rows[usual(rows)].double().mean(0).float()

    return Means(layer, mean(h[on]), mean(h[~on]), makers)
