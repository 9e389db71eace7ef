"""Entropy features by what they do: how sure the next token is with a feature and without it, the
final norm's denominator free to follow, or frozen to what it is with the feature (5.2).

An entropy feature writes where the unembedding hardly reads, so it acts on predictions through that
denominator alone: frozen, its effect is gone (Stolfo et al., 2024). This holds of what it writes on
the direct path, from the residual stream to the final norm. The blocks between read it, too, and
what they make of it is another feature's doing: they are left as they were, unless the `total`
effect is asked for.
"""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from core import statistics
from core.activations.harvest import batches
from core.errors import StitchLensError
from core.functional.ablation import predictions
from core.models import hooks
from core.models.live import LiveModel
from core.progress import Progress
from core.text.corpus import Document


class Clean(NamedTuple):
    """A document as a model reads it, nothing changed: token `ids` [pos]; the residual stream
    `before` the layer and `after` the last block [pos, d], float32; `entropy` and `loss` of what
    each position but the last predicts, in nats."""

    ids: NDArray[np.int32]
    before: Tensor
    after: Tensor
    entropy: Tensor
    loss: Tensor


def read_clean(
    model: LiveModel,
    layer: int,
    documents: Sequence[Document],
) -> list[Clean]:
    """Each document by itself. Raises StitchLensError for a model without a final norm, whose
    denominator nothing can act through."""
    if model.final_norm is None:
        raise StitchLensError(
            f"no final norm in {model.spec.title}",
            "a model that norms its residual stream before the unembedding",
            "use another model",
        )

    encoded = model.encode([document.text for document in documents])
    texts: dict[int, Clean] = {}
    with Progress("what is predicted in each text", sum(len(text.ids) for text in encoded)) as bar:
        for batch in batches(encoded):
            ids = model.pad([encoded[i].ids for i in batch])
            before = hooks.residuals(model, ids, [layer])[layer]
            after = hooks.last_stream(model, ids, layer, before)
            for row, i in enumerate(batch):
                tokens = encoded[i].ids
                stream = after[row, : len(tokens)].float()
                following = ids[row, 1 : len(tokens)]
                entropy, loss = _predicted(model, stream[:-1], following)
                residual = before[row, : len(tokens)].float()
                texts[i] = Clean(tokens, residual.cpu(), stream.cpu(), entropy, loss)
                bar.advance(len(tokens))
    return [texts[i] for i in range(len(documents))]


def denominator(model: LiveModel, stream: Float[Tensor, "n d"]) -> Float[Tensor, "n 1"]:
    """What the final norm divides each row of the residual stream by: its root mean square, or in a
    LayerNorm its standard deviation."""
    norm = model.final_norm
    if centres(norm, stream.shape[-1]):
        stream = stream - stream.mean(-1, keepdim=True)
    small = getattr(norm, "eps", None) or getattr(norm, "variance_epsilon", None) or 1e-5
    return (stream.square().mean(-1, keepdim=True) + float(small)).sqrt()


def centres(norm: Any, d: int) -> bool:
    """Whether a norm takes the mean of a row out: a LayerNorm, and OLMo's, which has no weights."""
    if isinstance(norm, torch.nn.LayerNorm):
        return True
    if getattr(norm, "weight", None) is not None:
        return False
    return not norm(torch.ones(1, 1, d)).any()


def frozen_norm(
    model: LiveModel,
    stream: Float[Tensor, "n d"],
    clean: Float[Tensor, "n d"],
) -> Float[Tensor, "n d"]:
    """The final norm of `stream`, divided by the denominators of `clean` in the place of its
    own."""
    norm: Any = model.final_norm
    own = denominator(model, stream)
    theirs = denominator(model, clean)
    with torch.inference_mode():
        normed = norm(stream)
        bias = getattr(norm, "bias", None)
        if bias is None:
            return normed * (own / theirs)
        return (normed - bias) * (own / theirs) + bias


def _predicted(
    model: LiveModel,
    stream: Float[Tensor, "n d"],
    following: Tensor,
) -> tuple[Tensor, Tensor]:
    """(entropy, loss) from the residual stream after the last block."""
    norm: Any = model.final_norm
    with torch.inference_mode():
        return predictions(model, norm(stream), following)


def repredicted(model: LiveModel, texts: Sequence[Clean]) -> list[Clean]:
    """The same texts with the entropies and losses of a model that reads the same streams by
    another unembedding, such as `emptied`."""
    out = []
    with Progress("the same, with a null space", sum(len(text.ids) for text in texts)) as bar:
        for text in texts:
            following = torch.from_numpy(text.ids[1:].astype(np.int64)).to(model.where.device)
            entropy, loss = _predicted(model, text.after[:-1].to(model.where.device), following)
            out.append(text._replace(entropy=entropy, loss=loss))
            bar.advance(len(text.ids))
    return out


def emptied(model: LiveModel, directions: Float[Tensor, "d n"]) -> LiveModel:
    """The same model with an unembedding that reads nothing of some directions of the residual
    stream (columns), through the final norm's gain: what a model with a null space would be."""
    norm: Any = model.final_norm
    with torch.inference_mode():
        columns = directions.T.to(model.where.device)
        bias = getattr(norm, "bias", None)
        read = norm(columns) if bias is None else norm(columns) - bias
        vectors, sizes, _ = torch.linalg.svd(read.float().T, full_matrices=False)
        unread = vectors[:, sizes > 1e-3 * sizes.max()]

    def logits(hidden: Float[Tensor, "n e"]) -> Float[Tensor, "n vocab"]:
        return model.logits(hidden - (hidden @ unread) @ unread.T)

    other = copy.copy(model)
    other.logits = logits  # type: ignore[method-assign]
    return other


def streams(
    model: LiveModel,
    layer: int,
    texts: Sequence[Clean],
    added: Sequence[Tensor],
) -> list[Tensor]:
    """The residual stream after the last block [pos, d] of each text, with something `added`
    [pos, d] before the layer."""
    ids = model.pad([text.ids for text in texts])
    residual = torch.zeros(*ids.shape, texts[0].before.shape[1])
    for row, (text, more) in enumerate(zip(texts, added, strict=True)):
        residual[row, : len(text.ids)] = text.before + more

    after = hooks.last_stream(model, ids, layer, residual.to(ids.device)).float().cpu()
    return [after[row, : len(text.ids)] for row, text in enumerate(texts)]


class At(NamedTuple):
    """What `Clean` holds at some places of several texts: `before` and `after` [m, d], `entropy`
    and `loss` [m], and the tokens that come next, `targets` [m]."""

    before: Tensor
    after: Tensor
    entropy: Tensor
    loss: Tensor
    targets: Tensor


def gathered(texts: Sequence[Clean], places: pd.DataFrame) -> At:
    """At each row of `places` (`document`, `position`), in its order."""
    rows = list(zip(places.document.to_list(), places.position.to_list(), strict=True))
    following = [int(texts[k].ids[position + 1]) for k, position in rows]

    def stacked(name: str) -> Tensor:
        return torch.stack([getattr(texts[k], name)[position] for k, position in rows])

    return At(
        before=stacked("before"),
        after=stacked("after"),
        entropy=stacked("entropy"),
        loss=stacked("loss"),
        targets=torch.tensor(following),
    )


def compared(
    model: LiveModel,
    at: At,
    present: Float[Tensor, "m d"],
    absent: Float[Tensor, "m d"],
) -> dict[str, NDArray[np.float32]]:
    """What a feature does at some places, from the stream that the final norm reads there with the
    feature `present` and `absent`, one of which is `at.after` itself: `entropy` with it; how much
    taking it out changes that, `free`, and `frozen`, with the denominator as it is with it; and the
    `loss_change`, free. All in nats."""
    device = model.where.device
    targets = at.targets.to(device)

    def predicted(stream: Tensor) -> tuple[Tensor, Tensor]:
        if stream is at.after:  # known already
            return at.entropy, at.loss
        return _predicted(model, stream.to(device), targets)

    entropy, loss = predicted(present)
    free, new_loss = predicted(absent)
    hidden = frozen_norm(model, absent.to(device), present.to(device))
    frozen, _ = predictions(model, hidden, targets)
    return {
        "entropy": entropy.numpy(),
        "free": (free - entropy).numpy(),
        "frozen": (frozen - entropy).numpy(),
        "loss_change": (new_loss - loss).numpy(),
    }


def measured_places(
    fired: pd.DataFrame,
    texts: Sequence[Clean],
    documents: int,
    each: int,
) -> pd.DataFrame:
    """Of the rows of one feature (`document`, `position`, `activation`): the strongest `each` that
    a token follows, in each of the `documents` where it fires most strongly."""
    lengths = np.array([len(text.ids) for text in texts])
    followed = fired.loc[fired.position + 1 < lengths[fired.document]]
    top = followed.groupby("document").activation.max().nlargest(documents).index
    rows = followed.loc[followed.document.isin(top)]
    strongest = rows.sort_values("activation", ascending=False).groupby("document").head(each)
    return strongest.sort_values(["document", "position"]).reset_index(drop=True)


def taken_out(
    model: LiveModel,
    layer: int,
    texts: Sequence[Clean],
    fired: pd.DataFrame,
    places: pd.DataFrame,
    direction: Float[Tensor, " d"],
    total: bool = False,
) -> pd.DataFrame:
    """`places` (rows of one feature) with `compared`: its activation times `direction` is taken out
    wherever it has `fired` in their documents, of the stream that the final norm reads, or for the
    `total` effect of the stream before the layer. `size` is what is taken out over the norm of the
    stream before the layer."""
    at = gathered(texts, places)
    activation = torch.tensor(places.activation.to_numpy(np.float32))
    contribution = activation[:, None] * direction
    if total:
        absent = _through_blocks(model, layer, texts, fired, places, direction)
    else:
        absent = at.after - contribution

    effects = compared(model, at, at.after, absent)
    size = contribution.norm(dim=-1) / at.before.norm(dim=-1)
    return places.assign(size=size.numpy(), **effects)


def _through_blocks(
    model: LiveModel,
    layer: int,
    texts: Sequence[Clean],
    fired: pd.DataFrame,
    places: pd.DataFrame,
    direction: Float[Tensor, " d"],
) -> Float[Tensor, "m d"]:
    """The stream that the final norm reads at `places`, the feature taken out before the layer."""
    numbers = places.document.unique().tolist()
    chosen = [texts[k] for k in numbers]
    added = []
    for k, text in zip(numbers, chosen, strict=True):
        rows = fired.loc[fired.document == k]
        contribution = torch.zeros_like(text.before)
        activation = torch.tensor(rows.activation.to_numpy(np.float32))
        contribution[torch.tensor(rows.position.to_numpy())] = activation[:, None] * direction
        added.append(-contribution)

    after = dict(zip(numbers, streams(model, layer, chosen, added), strict=True))
    rows = zip(places.document.to_list(), places.position.to_list(), strict=True)
    return torch.stack([after[k][position] for k, position in rows])


def judged(effects: pd.DataFrame, seed: int = 0) -> dict[str, float]:
    """What `taken_out` measured of one feature: counts of `places` and `documents`, the means of
    `size` and `entropy`, and with 95 % intervals (bootstrap over documents) `free` and `frozen`,
    mean changes of the entropy in nats; `left`, the mean size of the frozen changes over that of
    the free ones; and `loss_change`."""
    documents = effects.document.to_numpy()
    row: dict[str, float] = {
        "places": len(effects),
        "documents": effects.document.nunique(),
        "size": float(effects["size"].to_numpy().mean()),
        "entropy": float(effects.entropy.mean()),
        "loss_change": float(effects.loss_change.mean()),
    }
    free, frozen = (effects[name].to_numpy(np.float64) for name in ("free", "frozen"))
    intervals = {
        "free": statistics.document_interval(free, documents, seed),
        "frozen": statistics.document_interval(frozen, documents, seed),
        "left": statistics.ratio_interval(np.abs(frozen), np.abs(free), documents, seed),
    }
    for name, (value, low, high) in intervals.items():
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return row
