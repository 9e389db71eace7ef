"""Next-token loss with a stitched residual stream: Table 1 of the paper, its controls, and
intervals.

For every document both models run up to the stitched layer once. Each condition then replaces the
residual stream at the positions that pair up and the scored model goes on from there; all other
positions keep their own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.activations.harvest import groups, record, windows
from core.models import hooks
from core.models.align import encode_both, with_first
from core.models.heap import return_freed_memory
from core.models.live import Encoded, LiveModel
from core.models.pairs import LayerPair, Side
from core.progress import Progress
from core.statistics import bounds
from core.stitches.stitch import Maps, Stitch
from core.text.corpus import Document

LOGIT_ROWS = 256
"""Rows of logits held at a time: 256 x 262,144 in float32 are 268 MB."""
BOOTSTRAPS = 2000

Rows = Callable[..., Tensor]
"""(h_A [n, d_A], h_B [n, d_B]) at paired positions, float32 -> what to put in their place."""


@dataclass(frozen=True)
class Condition:
    """One measurement: the scored model and what replaces its residual stream (None: nothing)."""

    name: str
    model: Side
    rows: Rows | None = None
    first: bool = False
    """Whether the first position of each text is replaced, too; `rows` then also takes which rows
    are first, [n] bool."""


class Loss(NamedTuple):
    """What a model lost on one document under one condition, summed over its next tokens."""

    condition: str
    document: str
    loss: float
    """Nats."""
    tokens: int
    """Predicted: all but the first."""
    bytes: int
    """Of the text that they spell, in UTF-8."""
    loss_patched: float
    """Nats, of predictions made at replaced positions alone."""
    patched: int
    """How many these are."""
    model: Side


def unpatched() -> list[Condition]:
    return [Condition("a", "a"), Condition("b", "b")]


def stitched(maps: Maps) -> list[Condition]:
    """The four columns of Table 1 that need a stitch."""
    return [
        Condition("a_to_b", "b", lambda x, y: maps.up(x)),
        Condition("b_to_a", "a", lambda x, y: maps.down(y)),
        Condition("a_to_b_to_a", "a", lambda x, y: maps.down(maps.up(x))),
        Condition("b_to_a_to_b", "b", lambda x, y: maps.up(maps.down(y))),
    ]


def controls(
    shuffled: Stitch,
    mean_a: Tensor,
    mean_b: Tensor,
) -> list[Condition]:
    """The mean of the fit split in place of every row, and a stitch fitted on shuffled pairs."""
    return [
        Condition("mean_ablated_a", "a", lambda x, y: mean_a.float().expand_as(x)),
        Condition("mean_ablated_b", "b", lambda x, y: mean_b.float().expand_as(y)),
        Condition("shuffled_a_to_b", "b", lambda x, y: shuffled.up(x)),
        Condition("shuffled_b_to_a", "a", lambda x, y: shuffled.down(y)),
    ]


def token_losses(
    model: LiveModel,
    hidden: Tensor,
    ids: Tensor,
) -> Tensor:
    """Cross-entropy in nats of each next token, [rows, pos - 1]."""
    flat, targets = hidden[:, :-1].reshape(-1, hidden.shape[-1]), ids[:, 1:].reshape(-1)
    return _losses(model, flat, targets).reshape(len(ids), -1)


def _losses(
    model: LiveModel,
    hidden: Tensor,
    targets: Tensor,
) -> Tensor:
    """Cross-entropy in nats of `targets` [n], each after its row of `hidden` [n, e], a few hundred
    rows of logits at a time."""
    rows = zip(hidden.split(LOGIT_ROWS), targets.split(LOGIT_ROWS), strict=True)
    with torch.inference_mode():
        parts = [
            torch.nn.functional.cross_entropy(model.logits(h), t, reduction="none") for h, t in rows
        ]
    return_freed_memory()  # logits of 262,144 tokens leave holes that nothing else fits into
    return torch.cat(parts).cpu()


@dataclass(frozen=True)
class _Read:
    """What one model has read of a window of documents."""

    side: Side
    model: LiveModel
    layer: int
    encoded: Sequence[Encoded]
    paired: Sequence[NDArray[np.intp]]
    """Of each text the positions that pair up, which are replaced."""
    residuals: Sequence[Tensor]
    """Of each text [tokens, d] before `layer`."""

    @property
    def tokens(self) -> int:
        return sum(len(text.ids) for text in self.encoded)

    def paired_rows(self) -> Tensor:
        """[sum of the paired positions, d], float32."""
        both = zip(self.residuals, self.paired, strict=True)
        return torch.cat([rows[torch.from_numpy(at)] for rows, at in both]).float()

    def by_text(self, rows: Tensor) -> list[Tensor]:
        """Rows [sum of the paired positions, d] of each text apart."""
        return list(rows.split([len(at) for at in self.paired]))

    def with_first(self) -> "_Read":
        """The same, with the first position of each text among those that are replaced."""
        return replace(self, paired=[with_first(positions) for positions in self.paired])

    def first_rows(self) -> Tensor:
        """Of `paired_rows`, which are the first of a text."""
        return torch.from_numpy(np.concatenate(self.paired) == 0)


def _read_both(
    a: LiveModel,
    b: LiveModel,
    texts: Sequence[str],
    pair: LayerPair,
) -> list[_Read]:
    """Both models over the same texts, up to the stitched layers."""
    tokens_a, tokens_b, paired = encode_both(a, b, texts)

    def up_to(
        side: Side,
        model: LiveModel,
        layer: int,
        encoded: Sequence[Encoded],
    ) -> _Read:
        everywhere = [np.arange(len(text.ids)) for text in encoded]
        rows = record(model, encoded, everywhere, [layer])[layer]
        residuals = rows.split([len(text.ids) for text in encoded])
        positions = [places[0 if side == "a" else 1] for places in paired]
        return _Read(side, model, layer, encoded, positions, residuals)

    return [up_to("a", a, pair.a, tokens_a), up_to("b", b, pair.b, tokens_b)]


def _replaced(
    sides: Sequence[_Read],
    conditions: Sequence[Condition],
) -> Iterator[tuple[_Read, dict[str, Sequence[Tensor] | None]]]:
    """Each model with the rows that take the place of its own, by condition: first those that leave
    the first position as it is."""
    for first in (False, True):
        some = [condition for condition in conditions if condition.first == first]
        if not some:
            continue

        reads = [read.with_first() if first else read for read in sides]
        rows = [read.paired_rows() for read in reads]
        if first:
            rows.append(reads[0].first_rows())
        for read in reads:
            yield (
                read,
                {
                    condition.name: condition.rows and read.by_text(condition.rows(*rows))
                    for condition in some
                    if condition.model == read.side
                },
            )


def _score(
    read: _Read,
    replacements: Mapping[str, Sequence[Tensor] | None],
    documents: Sequence[Document],
) -> Iterator[list[Loss]]:
    """Losses of one model over a window: a list for each group of texts under each condition.

    `replacements` holds by condition and text the rows [paired positions, d] that take the place of
    the model's own there; None leaves it as it is.
    """
    model, encoded, device = read.model, read.encoded, read.model.where.device
    for group in groups(model, encoded):
        texts = [encoded[i].ids for i in group]
        lengths = [len(text) for text in texts]
        own = torch.cat([read.residuals[i] for i in group])
        starts = np.cumsum([0, *lengths[:-1]])
        places = [read.paired[i] + start for i, start in zip(group, starts, strict=True)]
        replaced = torch.from_numpy(np.concatenate(places))

        # The last token of a text predicts nothing, and nothing predicts the first.
        scored = torch.ones(len(own), dtype=torch.bool)
        scored[torch.from_numpy(starts + lengths - 1)] = False
        ids = torch.from_numpy(np.concatenate([text[1:] for text in texts]).astype(np.int64))

        for condition, rows in replacements.items():
            residual = own
            if rows is not None:
                new = torch.cat([rows[i] for i in group])
                residual = own.index_copy(0, replaced, new.to(own))

            hidden = hooks.final_stream(model, texts, read.layer, residual.to(device))
            losses = _losses(model, hidden[scored.to(device)], ids.to(device)).double()
            of_texts = losses.split([length - 1 for length in lengths])
            yield [
                _summed(condition, read, i, documents[i], one.numpy())
                for i, one in zip(group, of_texts, strict=True)
            ]


def _summed(
    condition: str,
    read: _Read,
    i: int,
    document: Document,
    losses: NDArray[np.float64],
) -> Loss:
    """One text's losses [longest - 1], padding among them, as a row."""
    ends = read.encoded[i].ends
    tokens = len(ends) - 1
    patched = np.zeros(tokens + 1, dtype=bool)
    patched[read.paired[i]] = True
    patched = patched[:-1]  # the last position predicts nothing

    spelled = document.text[: ends.max(initial=0)] if tokens else ""
    return Loss(
        condition,
        document.id,
        losses[:tokens].sum(),
        tokens,
        len(spelled.encode()),
        losses[:tokens][patched].sum(),
        int(patched.sum()),
        read.side,
    )


def measure(
    a: LiveModel,
    b: LiveModel,
    documents: Sequence[Document],
    pair: LayerPair,
    conditions: Sequence[Condition],
    desc: str = "downstream",
    tokens: int | None = None,
) -> Iterator[Loss]:
    """A row a document and condition, window by window; stops after the window in which `tokens` of
    B are reached."""
    whole = sum(len(document.text) for document in documents)
    characters = tokens_b = worked = 0
    with Progress(desc, (tokens or whole / 3.5) * len(conditions), "tok") as bar:
        for docs in windows(documents):
            texts = [document.text for document in docs]
            sides = _read_both(a, b, texts, pair)
            tokens_b += sides[1].tokens
            characters += sum(map(len, texts))
            share = min(1.0, tokens_b / tokens if tokens else characters / whole)
            work = sum(
                read.tokens * sum(condition.model == read.side for condition in conditions)
                for read in sides
            )
            bar.advance(0, total=(worked + work) / share)

            for read, replacements in _replaced(sides, conditions):
                for losses in _score(read, replacements, docs):
                    scored = sum(loss.tokens + 1 for loss in losses)
                    worked += scored
                    bar.advance(scored)
                    yield from losses

            if tokens is not None and tokens_b >= tokens:
                break


def summarise(measured: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """One row a condition, with 95 % bootstrap intervals over documents (paired with the unpatched
    model).

    loss, low, high and loss_patched (predictions made at patched positions alone) in nats/token of
    the scored model; relative, relative_low, relative_high against that model unpatched on the same
    documents; bits_per_byte.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for model, scored in measured.groupby("model", sort=True):
        unpatched = scored[scored.condition == model].set_index("document")
        # One set of draws for all conditions keeps what they share: which texts are hard.
        n = len(unpatched)
        weights = rng.multinomial(n, np.full(n, 1 / n), size=BOOTSTRAPS)
        for condition, losses in scored.groupby("condition", sort=False):
            losses = losses.set_index("document").loc[unpatched.index]
            row = {"condition": condition, "model": model}
            rows.append(row | _intervals(losses, unpatched, weights))
    return pd.DataFrame(rows)


def _intervals(
    losses: pd.DataFrame,
    unpatched: pd.DataFrame,
    weights: NDArray[np.int64],
) -> dict[str, float | int]:
    """The columns of `summarise` for one condition: `losses` and `unpatched` in the same order of
    documents, `weights` [draws, documents] how often each is drawn."""
    draws = drawn_means(losses, weights)
    relative = draws / drawn_means(unpatched, weights) - 1
    low, high = bounds(draws)
    relative_low, relative_high = bounds(relative)

    loss = losses.loss.sum() / losses.tokens.sum()
    unpatched_loss = unpatched.loss.sum() / unpatched.tokens.sum()
    return {
        "loss": loss,
        "low": low,
        "high": high,
        "relative": loss / unpatched_loss - 1,
        "relative_low": relative_low,
        "relative_high": relative_high,
        "bits_per_byte": losses.loss.sum() / np.log(2) / losses.bytes.sum(),
        "loss_patched": losses.loss_patched.sum() / max(losses.patched.sum(), 1),
        "tokens": int(losses.tokens.sum()),
        "share_patched": losses.patched.sum() / losses.tokens.sum(),
        "documents": len(losses),
    }


def drawn_means(losses: pd.DataFrame, weights: NDArray[np.int64]) -> NDArray[np.float64]:
    """Nats per token of each draw of documents."""
    tokens = np.maximum(weights @ losses.tokens.to_numpy(), 1)
    return (weights @ losses.loss.to_numpy()) / tokens


def by_kind(measured: pd.DataFrame, documents: Sequence[Document]) -> pd.DataFrame:
    """`summarise` for each kind of text apart (column `kind`): what a model has hardly read it
    cannot hand on."""
    kinds = measured.document.map({d.id: d.kind for d in documents})
    parts = [summarise(rows).assign(kind=kind) for kind, rows in measured.groupby(kinds, sort=True)]
    return pd.concat(parts, ignore_index=True)


def mean_losses(measured: pd.DataFrame) -> dict[str, float]:
    """Loss in nats/token by condition."""
    out: dict[str, float] = {}
    for condition, rows in measured.groupby("condition", sort=False):
        out[str(condition)] = float(rows.loss.sum() / rows.tokens.sum())
    return out
