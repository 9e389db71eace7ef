"""Features by what they do: entropy features write where the unembedding hardly reads,
attention-deactivation features make heads look at the first token (5.2, I). Which these are, and
what their ablation changes, beside random features.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from core.activations.harvest import batches
from core.features.reading import read
from core.features.unembedding import PART, logit_rows
from core.functional import attention
from core.functional.attention import Heads
from core.models import hooks
from core.models.heap import return_freed_memory
from core.models.live import LiveModel
from core.stitches.downstream import LOGIT_ROWS
from core.text.corpus import Document

if TYPE_CHECKING:
    from sae_lens import SAE

NULL_SHARES = (0.01, 0.02, 0.05)
"""Lowest shares of the singular values that count as the effective null space; the paper's is 2
%."""
PAPERS_SHARE = 0.02
NEAREST = 20
"""Features among which a matched control is drawn."""


def null_basis(model: LiveModel) -> Float[Tensor, "d d"]:
    """The right singular vectors of the unembedding as columns, see `spectrum`."""
    return spectrum(model)[1]


def spectrum(model: LiveModel) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """(squared singular values over the size of the vocabulary, right singular vectors as columns)
    of the unembedding, smallest first, float32: what a unit of a vector adds to the variance of the
    logits over the vocabulary.

    The final norm's gain is folded in, and for a LayerNorm its centring; the mean over the
    vocabulary, which shifts all logits alike and so changes no prediction, is taken out.
    """
    d = model.spec.d_model
    vocabulary = model.hf.get_output_embeddings().weight.shape[0]

    second = torch.zeros(d, d, dtype=torch.float64)
    first = torch.zeros(d, dtype=torch.float64)
    for part in torch.arange(vocabulary).split(PART):
        rows = logit_rows(model, part).double()
        second += rows.T @ rows
        first += rows.sum(0)

    scatter = second - first.outer(first) / vocabulary
    values, vectors = torch.linalg.eigh(scatter / vocabulary)
    return values.clamp(min=0).float(), vectors.float()


def reading(
    directions: Float[Tensor, "n d"],
    values: Float[Tensor, " d"],
    basis: Float[Tensor, "d d"],
) -> Float[Tensor, " n"]:
    """How strongly the unembedding reads each direction, by its `spectrum`: the spread over the
    vocabulary of the logits that it writes, over that of a random direction as long. 0 in the null
    space, about 1 for a random direction."""
    units = directions / directions.norm(dim=-1, keepdim=True).clamp(min=1e-20)
    variances = (units @ basis).square() @ values
    return (variances / values.mean()).sqrt()


def null_share(
    directions: Float[Tensor, "n d"],
    basis: Float[Tensor, "d d"],
    share: float = PAPERS_SHARE,
) -> Float[Tensor, " n"]:
    """The share of each direction's norm in the span of the first `share` of the columns of
    `basis`, at least one: in [0, 1], about the root of `share` for a random direction; 0 for a
    direction of norm 0."""
    columns = max(1, round(share * basis.shape[1]))
    null = basis[:, :columns]
    inside = (directions @ null).norm(dim=-1)
    return inside / directions.norm(dim=-1).clamp(min=1e-20)


def both_high(share: NDArray[Any], activation: NDArray[Any]) -> NDArray[np.float64]:
    """How clearly a feature is an entropy feature: the lower of its two ranks, in [0, 1], by share
    of its norm in the null space and by maximal activation; 0 where it never fires."""
    by_share = pd.Series(share).rank(pct=True)
    by_activation = pd.Series(activation).rank(pct=True)
    lower = np.minimum(by_share.to_numpy(np.float64), by_activation.to_numpy(np.float64))

    fires = np.asarray(activation) > 0
    return np.where(fires, lower, 0.0)


def matched(
    table: pd.DataFrame,
    chosen: Sequence[int],
    columns: Sequence[str],
    seed: int = 0,
) -> list[int]:
    """For each of the `chosen` features a random one, no two the same, drawn from the NEAREST by
    the logarithms of `columns` (activations, densities); never one of the chosen. `table` has
    `feature` and holds those that may be drawn."""
    rng = np.random.default_rng(seed)
    values = table.set_index("feature")[list(columns)]
    place = np.log(values.clip(lower=1e-9))
    place = place / place.std().clip(lower=1e-9)

    free = place.drop(index=[f for f in chosen if f in place.index])
    controls: list[int] = []
    for feature in chosen:
        if not len(free):
            break

        distance = ((free - place.loc[feature]) ** 2).sum(axis=1)
        nearest = distance.nsmallest(NEAREST).index
        control = int(rng.choice(nearest.to_numpy()))
        controls.append(control)
        free = free.drop(index=control)
    return controls


def firing(
    model: LiveModel,
    sae: "SAE[Any]",
    layer: int,
    documents: Sequence[Document],
    features: Sequence[int],
    desc: str,
) -> pd.DataFrame:
    """Where some features of an SAE fire: `feature`, `document` (its number), `position`,
    `activation`; special tokens and outlier rows are left out."""
    wanted = torch.tensor(features)
    parts = []
    for window in read(model, None, sae, documents, layer, desc):
        acts = window.acts[:, wanted]
        rows, columns = acts.nonzero(as_tuple=True)
        at, which = rows.numpy(), columns.numpy()
        fired = {
            "feature": wanted.numpy()[which],
            "document": window.document[at],
            "position": window.position[at],
            "activation": acts.numpy()[at, which],
        }
        parts.append(pd.DataFrame(fired))
    return pd.concat(parts, ignore_index=True)


def strongest_documents(
    fired: pd.DataFrame,
    feature: int,
    documents: int,
) -> pd.DataFrame:
    """The rows of one feature in the documents where it fires most strongly."""
    rows = fired.loc[fired.feature == feature]
    top = rows.groupby("document").activation.max().nlargest(documents).index
    return rows.loc[rows.document.isin(top)].reset_index(drop=True)


class Batch(NamedTuple):
    """Some documents of one feature: token ids [rows, pos], what it contributes to the residual
    stream [rows, pos, d], and its places there: `row`, `position` [m], whether a token comes next,
    and `places`, the rows of the table that they come from."""

    ids: Tensor
    contribution: Tensor
    row: Tensor
    position: Tensor
    followed: Tensor
    places: NDArray[np.int64]


def contributions(
    model: LiveModel,
    documents: Sequence[Document],
    fired: pd.DataFrame,
    direction: Float[Tensor, " d"],
) -> list[Batch]:
    """The documents of `fired` (the rows of one feature, see `firing`) with activation times
    `direction` where it fires and zero elsewhere."""
    numbers = fired.document.unique()
    encoded = model.encode([documents[k].text for k in numbers])
    parts = []
    for some in batches(encoded):
        ids = model.pad([encoded[i].ids for i in some])
        lengths = torch.tensor([len(encoded[i].ids) for i in some])

        rank = {int(numbers[i]): r for r, i in enumerate(some)}
        places = fired.loc[fired.document.isin(rank.keys())]
        row = torch.tensor([rank[k] for k in places.document])
        position = torch.tensor(places.position.to_list())
        activation = torch.tensor(places.activation.to_list())

        contribution = torch.zeros(*ids.shape, len(direction))
        contribution[row, position] = activation[:, None] * direction
        batch = Batch(
            ids=ids,
            contribution=contribution.to(ids.device),
            row=row,
            position=position,
            followed=position + 1 < lengths[row],
            places=places.index.to_numpy(np.int64),
        )
        parts.append(batch)
    return parts


def predictions(
    model: LiveModel,
    hidden: Float[Tensor, "n d"],
    targets: Tensor,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """(entropy, loss) in nats of the next-token prediction from final-norm outputs."""
    entropies: list[Tensor] = []
    losses: list[Tensor] = []
    parts = zip(hidden.split(LOGIT_ROWS), targets.split(LOGIT_ROWS), strict=True)
    with torch.inference_mode():
        for rows, following in parts:
            logs = model.logits(rows).log_softmax(-1)
            entropy = -(logs.exp() * logs).sum(-1)
            loss = -logs.gather(1, following[:, None])[:, 0]
            entropies.append(entropy.cpu())
            losses.append(loss.cpu())
    return_freed_memory()  # logits of 262,144 tokens: the holes between them would take 17 GB
    return torch.cat(entropies), torch.cat(losses)


def ablation(
    model: LiveModel,
    layer: int,
    documents: Sequence[Document],
    fired: pd.DataFrame,
    direction: Float[Tensor, " d"],
) -> pd.DataFrame:
    """`fired` (one feature) with the prediction of the next token at each place: `entropy` and
    `loss` in nats, and `entropy_change`, `loss_change` where the feature's contribution is taken
    out before `layer` wherever it fires. The last token of a document predicts nothing and is left
    out."""
    parts = []
    for batch in contributions(model, documents, fired, direction):
        row = batch.row[batch.followed]
        position = batch.position[batch.followed]
        if not len(row):
            continue

        residual = hooks.residuals(model, batch.ids, [layer])[layer]
        ablated = (residual.float() - batch.contribution).to(residual.dtype)
        targets = batch.ids[row, position + 1]

        clean_hidden = hooks.final_hidden(model, batch.ids, layer, residual)
        entropy, loss = predictions(model, clean_hidden[row, position], targets)
        ablated_hidden = hooks.final_hidden(model, batch.ids, layer, ablated)
        new_entropy, new_loss = predictions(model, ablated_hidden[row, position], targets)

        places = batch.places[batch.followed.numpy()]
        part = fired.loc[places].assign(
            entropy=entropy.numpy(),
            loss=loss.numpy(),
            entropy_change=(new_entropy - entropy).numpy(),
            loss_change=(new_loss - loss).numpy(),
        )
        parts.append(part)

    if parts:
        return pd.concat(parts, ignore_index=True)
    measured = ["entropy", "loss", "entropy_change", "loss_change"]
    return pd.DataFrame(columns=[*fired.columns, *measured])


class Patched(NamedTuple):
    """Attention to the first token at the places of one feature, for every head of every layer
    asked for: `fired`, the places [m]; `before` and `after` its contribution is taken out of the
    head's input, [m, layers, heads]."""

    fired: pd.DataFrame
    before: NDArray[np.float32]
    after: NDArray[np.float32]


def path_patch(
    heads: Heads,
    layers: Sequence[int],
    documents: Sequence[Document],
    fired: pd.DataFrame,
    direction: Float[Tensor, " d"],
) -> Patched:
    """Take a feature's contribution out of the input of each head at the current token, one head at
    a time."""
    places: list[NDArray[np.int64]] = []
    befores: list[Tensor] = []
    afters: list[Tensor] = []
    for batch in contributions(heads.model, documents, fired, direction):
        clean: list[Tensor] = []
        changed: list[Tensor] = []
        for layer, call in heads.calls(batch.ids, layers).items():
            with torch.no_grad():
                before, after = attention.ablated(heads, layer, call, batch.contribution)
                clean.append(before[batch.row, :, batch.position, 0].cpu())
                changed.append(after[batch.row, :, batch.position, 0].cpu())

        places.append(batch.places)
        befores.append(torch.stack(clean, dim=1))
        afters.append(torch.stack(changed, dim=1))

    return Patched(
        fired=fired.loc[np.concatenate(places)].reset_index(drop=True),
        before=torch.cat(befores).numpy(),
        after=torch.cat(afters).numpy(),
    )
