"""Next-token loss with a stitched residual stream: Table 1 of the paper, its controls, and
intervals.

For every document both models run up to the stitched layer once. Each condition then replaces the
residual stream at the positions that pair up and the scored model goes on from there; all other
positions keep their own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.activations.harvest import batches, record, windows
from core.models import hooks
from core.models.align import pair_positions
from core.models.live import Encoded, LiveModel
from core.models.pairs import LayerPair
from core.progress import Progress
from core.stitches.stitch import Stitch
from core.text.corpus import Document

LOGIT_ROWS = 256
"""Rows of logits held at a time: 256 x 262,144 in float32 are 268 MB."""
BOOTSTRAPS = 2000

Rows = Callable[[Tensor, Tensor], Tensor]
"""(h_A [n, d_A], h_B [n, d_B]) at paired positions, float32 -> what to put in their place."""


@dataclass(frozen=True)
class Condition:
    """One measurement: the scored model ('a' or 'b') and what replaces its residual stream (None:
    nothing)."""

    name: str
    model: str
    rows: Rows | None = None


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


def controls(shuffled: Stitch, mean_a: Tensor, mean_b: Tensor) -> list[Condition]:
    """The mean of the fit split in place of every row, and a stitch fitted on shuffled pairs."""
    return [
        Condition("mean_ablated_a", "a", lambda x, y: mean_a.float().expand_as(x)),
        Condition("mean_ablated_b", "b", lambda x, y: mean_b.float().expand_as(y)),
        Condition("shuffled_a_to_b", "b", lambda x, y: shuffled.up(x)),
        Condition("shuffled_b_to_a", "a", lambda x, y: shuffled.down(y)),
    ]


def token_losses(model: LiveModel, hidden: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy in nats of each next token, [rows, pos - 1], computed a few hundred rows of
    logits at a time."""
    flat, targets = hidden[:, :-1].reshape(-1, hidden.shape[-1]), ids[:, 1:].reshape(-1)
    with torch.inference_mode():
        parts = [
            torch.nn.functional.cross_entropy(model.logits(h), t, reduction="none")
            for h, t in zip(flat.split(LOGIT_ROWS), targets.split(LOGIT_ROWS), strict=True)
        ]
    return torch.cat(parts).reshape(len(ids), -1).cpu()


def _score(
    model: LiveModel,
    layer: int,
    encoded: Sequence[Encoded],
    own: Tensor,
    at: Sequence[NDArray[np.intp]],
    new: Mapping[str, Tensor | None],
    out: list[dict[str, object]],
    texts: Sequence[str],
    done: Callable[[int], None],
) -> None:
    """Losses of one model over a window's texts, a row a text and condition, appended to `out`.

    own [sum n, d] the residual stream of all positions in text order; at the patched positions of
    each text; new[condition] [sum patched, d] what goes there.
    """
    starts = np.cumsum([0] + [len(e.ids) for e in encoded])
    firsts = np.cumsum([0] + [len(p) for p in at])
    for batch in batches(encoded):
        ids = model.pad([encoded[i].ids for i in batch])
        base = torch.zeros(*ids.shape, own.shape[-1], dtype=own.dtype)
        for r, i in enumerate(batch):
            base[r, : len(encoded[i].ids)] = own[starts[i] : starts[i + 1]]
        for name, rows in new.items():
            residual = base
            if rows is not None:
                residual = base.clone()
                for r, i in enumerate(batch):
                    residual[r, torch.from_numpy(at[i])] = rows[firsts[i] : firsts[i + 1]].to(
                        base.dtype
                    )
            hidden = hooks.final_hidden(model, ids, layer, residual.to(model.where.device))
            losses = token_losses(model, hidden, ids).double().numpy()
            for r, i in enumerate(batch):
                n = len(encoded[i].ids) - 1
                patched = np.zeros(n + 1, dtype=bool)
                patched[at[i]] = True
                ends = encoded[i].ends
                read = len(texts[i][: ends.max(initial=0)].encode()) if n else 0
                out.append(
                    {
                        "condition": name,
                        "document": i,
                        "loss": losses[r, :n].sum(),
                        "tokens": n,
                        "bytes": read,
                        "loss_patched": losses[r, :n][patched[:-1]].sum(),
                        "patched": int(patched[:-1].sum()),
                    }
                )
            done(int(sum(len(encoded[i].ids) for i in batch)))


def measure(
    a: LiveModel,
    b: LiveModel,
    documents: Sequence[Document],
    pair: LayerPair,
    conditions: Sequence[Condition],
    desc: str = "downstream",
    tokens: int | None = None,
) -> pd.DataFrame:
    """Summed losses by condition and document: condition, model, document, loss (nats), tokens,
    loss_patched, patched, bytes. Stops after the window in which `tokens` of B are reached."""
    same = a.tokenizer_hash == b.tokenizer_hash
    of = {
        "a": [c for c in conditions if c.model == "a"],
        "b": [c for c in conditions if c.model == "b"],
    }
    tables: list[pd.DataFrame] = []
    read = 0
    whole = sum(len(d.text) for d in documents)
    characters = worked = 0
    with Progress(desc, (tokens or whole / 3.5) * len(conditions), "tok") as bar:
        for docs in windows(documents):
            texts = [d.text for d in docs]
            encoded = {"a": a.encode(texts), "b": b.encode(texts)}
            paired = [
                pair_positions(x, y, same) for x, y in zip(encoded["a"], encoded["b"], strict=True)
            ]
            at = {"a": [i for i, _ in paired], "b": [j for _, j in paired]}
            sides = (("a", a, pair.a), ("b", b, pair.b))
            own, rows = {}, {}
            for side, model, layer in sides:
                everywhere = [np.arange(len(e.ids)) for e in encoded[side]]
                own[side] = record(model, encoded[side], everywhere, [layer])[layer]
                starts = np.cumsum([0] + [len(e.ids) for e in encoded[side]])[:-1]
                index = np.concatenate([p + s for p, s in zip(at[side], starts, strict=True)])
                rows[side] = own[side][torch.from_numpy(index)].float()
            read += sum(len(e.ids) for e in encoded["b"])
            characters += sum(map(len, texts))
            share = min(1.0, read / tokens if tokens else characters / whole)
            work = sum(len(of[side]) * sum(len(e.ids) for e in encoded[side]) for side in of)
            bar.advance(0, total=(worked + work) / share)
            for side, model, layer in sides:
                new = {
                    c.name: None if c.rows is None else c.rows(rows["a"], rows["b"])
                    for c in of[side]
                }
                out: list[dict[str, object]] = []

                def count(n: int) -> None:
                    nonlocal worked
                    worked += n
                    bar.advance(n)

                _score(model, layer, encoded[side], own[side], at[side], new, out, texts, count)
                tables.append(
                    pd.DataFrame(out).assign(
                        model=side, document=lambda t, d=docs: [d[i].id for i in t.document]
                    )
                )
            if tokens is not None and read >= tokens:
                break
    return pd.concat(tables, ignore_index=True)


def summarise(measured: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """One row a condition, with 95 % bootstrap intervals over documents (paired with the unpatched
    model).

    loss, low, high and loss_patched (predictions made at patched positions alone) in nats/token of
    the scored model; relative, relative_low, relative_high against that model unpatched on the same
    documents; bits_per_byte.
    """
    rng = np.random.default_rng(seed)
    out = []
    for model, of_model in measured.groupby("model", sort=True):
        base = of_model[of_model.condition == model].set_index("document")
        weights = rng.multinomial(len(base), np.full(len(base), 1 / len(base)), size=BOOTSTRAPS)
        base_draws = (weights @ base.loss.to_numpy()) / np.maximum(
            weights @ base.tokens.to_numpy(), 1
        )
        base_loss = base.loss.sum() / base.tokens.sum()
        for condition, rows in of_model.groupby("condition", sort=False):
            rows = rows.set_index("document").loc[base.index]
            draws = (weights @ rows.loss.to_numpy()) / np.maximum(
                weights @ rows.tokens.to_numpy(), 1
            )
            ratio = draws / base_draws - 1
            loss = rows.loss.sum() / rows.tokens.sum()
            low, high = np.quantile(draws, (0.025, 0.975))
            relative_low, relative_high = np.quantile(ratio, (0.025, 0.975))
            out.append(
                {
                    "condition": condition,
                    "model": model,
                    "loss": loss,
                    "low": low,
                    "high": high,
                    "relative": loss / base_loss - 1,
                    "relative_low": relative_low,
                    "relative_high": relative_high,
                    "bits_per_byte": rows.loss.sum() / np.log(2) / rows.bytes.sum(),
                    "loss_patched": rows.loss_patched.sum() / max(rows.patched.sum(), 1),
                    "tokens": int(rows.tokens.sum()),
                    "share_patched": rows.patched.sum() / rows.tokens.sum(),
                    "documents": len(rows),
                }
            )
    return pd.DataFrame(out)


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
