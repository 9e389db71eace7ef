"""Next-token loss with a stitched residual stream: Table 1 of the paper, its controls, and
intervals.

For every document both models run up to the stitched layer once. Each condition then replaces the
residual stream at the positions that pair up and the scored model goes on from there; all other
positions keep their own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.activations.harvest import batches, record, windows
from core.models import hooks
from core.models.align import pair_positions
from core.models.live import Encoded, LiveModel
from core.models.pairs import LayerPair, Side
from core.progress import Progress
from core.statistics import bounds
from core.stitches.stitch import Stitch
from core.text.corpus import Document

LOGIT_ROWS = 256
"""Rows of logits held at a time: 256 x 262,144 in float32 are 268 MB."""
BOOTSTRAPS = 2000

Rows = Callable[[Tensor, Tensor], Tensor]
"""(h_A [n, d_A], h_B [n, d_B]) at paired positions, float32 -> what to put in their place."""


@dataclass(frozen=True)
class Condition:
    """One measurement: the scored model and what replaces its residual stream (None: nothing)."""

    name: str
    model: Side
    rows: Rows | None = None


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


def stitched(s: Stitch) -> list[Condition]:
    """The four columns of Table 1 that need a stitch."""
    return [
        Condition("a_to_b", "b", lambda x, y: s.up(x)),
        Condition("b_to_a", "a", lambda x, y: s.down(y)),
        Condition("a_to_b_to_a", "a", lambda x, y: s.down(s.up(x))),
        Condition("b_to_a_to_b", "b", lambda x, y: s.up(s.down(y))),
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
    """Cross-entropy in nats of each next token, [rows, pos - 1], computed a few hundred rows of
    logits at a time."""
    flat, targets = hidden[:, :-1].reshape(-1, hidden.shape[-1]), ids[:, 1:].reshape(-1)
    with torch.inference_mode():
        parts = [
            torch.nn.functional.cross_entropy(model.logits(h), t, reduction="none")
            for h, t in zip(flat.split(LOGIT_ROWS), targets.split(LOGIT_ROWS), strict=True)
        ]
    return torch.cat(parts).reshape(len(ids), -1).cpu()


@dataclass(frozen=True)
class _Read:
    """What one model has read of a window of documents."""

    side: Side
    model: LiveModel
    layer: int
    encoded: Sequence[Encoded]
    paired: Sequence[NDArray[np.intp]]
    """Of each text the positions that pair up, which are replaced."""
    residual: Tensor
    """[sum of the texts' tokens, d] before `layer`, text after text."""

    @property
    def tokens(self) -> int:
        return sum(len(text.ids) for text in self.encoded)

    @property
    def starts(self) -> NDArray[np.intp]:
        """Where each text begins in `residual`, and where the last one ends."""
        return np.cumsum([0] + [len(text.ids) for text in self.encoded])

    def paired_rows(self) -> Tensor:
        """[sum of the paired positions, d], float32."""
        places = zip(self.paired, self.starts[:-1], strict=True)
        index = np.concatenate([positions + start for positions, start in places])
        return self.residual[torch.from_numpy(index)].float()


def _read_both(
    a: LiveModel,
    b: LiveModel,
    texts: Sequence[str],
    pair: LayerPair,
) -> list[_Read]:
    """Both models over the same texts, up to the stitched layers."""
    tokens_a, tokens_b = a.encode(texts), b.encode(texts)
    same = a.tokenizer_hash == b.tokenizer_hash
    paired = [pair_positions(x, y, same) for x, y in zip(tokens_a, tokens_b, strict=True)]

    def up_to(
        side: Side,
        model: LiveModel,
        layer: int,
        encoded: Sequence[Encoded],
    ) -> _Read:
        everywhere = [np.arange(len(text.ids)) for text in encoded]
        residual = record(model, encoded, everywhere, [layer])[layer]
        positions = [places[0 if side == "a" else 1] for places in paired]
        return _Read(side, model, layer, encoded, positions, residual)

    return [up_to("a", a, pair.a, tokens_a), up_to("b", b, pair.b, tokens_b)]


def _score(
    read: _Read,
    replacements: Mapping[str, Tensor | None],
    documents: Sequence[Document],
) -> Iterator[list[Loss]]:
    """Losses of one model over a window: a list for each batch under each condition.

    `replacements` holds by condition the rows [sum of the paired positions, d] that take the place
    of the model's own there; None leaves it as it is.
    """
    model, encoded, starts = read.model, read.encoded, read.starts
    firsts = np.cumsum([0] + [len(positions) for positions in read.paired])
    for batch in batches(encoded):
        ids = model.pad([encoded[i].ids for i in batch])
        own = torch.zeros(*ids.shape, read.residual.shape[-1], dtype=read.residual.dtype)
        for row, i in enumerate(batch):
            own[row, : len(encoded[i].ids)] = read.residual[starts[i] : starts[i + 1]]

        for condition, rows in replacements.items():
            residual = own
            if rows is not None:
                residual = own.clone()
                for row, i in enumerate(batch):
                    new = rows[firsts[i] : firsts[i + 1]]
                    residual[row, torch.from_numpy(read.paired[i])] = new.to(own.dtype)

            hidden = hooks.final_hidden(model, ids, read.layer, residual.to(model.where.device))
            losses = token_losses(model, hidden, ids).double().numpy()
            yield [
                _summed(condition, read, i, documents[i], losses[row])
                for row, i in enumerate(batch)
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
            rows_a, rows_b = (read.paired_rows() for read in sides)

            tokens_b += sides[1].tokens
            characters += sum(map(len, texts))
            share = min(1.0, tokens_b / tokens if tokens else characters / whole)
            work = sum(
                read.tokens * sum(condition.model == read.side for condition in conditions)
                for read in sides
            )
            bar.advance(0, total=(worked + work) / share)

            for read in sides:
                replacements = {
                    condition.name: condition.rows and condition.rows(rows_a, rows_b)
                    for condition in conditions
                    if condition.model == read.side
                }
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
