"""Features that are planted in the residual stream, to try `core.functional.criterion` on: entropy
features, which it must find if they are large enough, and semantic ones, which it must not.

An entropy feature that is planted in a model as it is can be found only if that model's unembedding
has a null space; one that is planted as `unread` always can: there the unembedding is made to read
nothing of it, so it tells how large one must be to be seen.

A planted feature fires at places of held-out text. There a direction is added to the stream that
the final norm reads, as long as a given share of the stream before the layer: in the null space of
the unembedding for an entropy feature, along one token's row of it for a semantic one.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from core.activations.harvest import norm_limit
from core.features.unembedding import logit_rows
from core.functional import entropy
from core.functional.ablation import PAPERS_SHARE, null_share, reading, spectrum
from core.functional.criterion import is_entropy_feature
from core.functional.entropy import Clean
from core.models.live import LiveModel
from core.progress import Progress

Kind = Literal["unread", "entropy", "semantic"]
KINDS: tuple[Kind, ...] = ("unread", "entropy", "semantic")
SIZES = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
"""Of what is planted, over the norm of the residual stream."""
DOCUMENTS = (4, 16)
"""In which it fires."""
ROWS = 512
"""Tokens whose mean row of the unembedding is taken out of a semantic direction."""


class Unembedding(NamedTuple):
    """See `core.functional.ablation.spectrum`; and whether the final norm `centres`."""

    values: Tensor
    basis: Tensor
    centres: bool

    @classmethod
    def of(cls, model: LiveModel) -> "Unembedding":
        return cls(*spectrum(model), entropy.centres(model.final_norm, model.spec.d_model))

    @property
    def null(self) -> Float[Tensor, "d n"]:
        """Columns that span the null space (the paper's share of it). Without what centring takes
        out, which nothing reads but which does not change the denominator either."""
        columns = max(1, round(PAPERS_SHARE * len(self.values)))
        null = self.basis[:, :columns]
        return null - null.mean(0) if self.centres else null

    @property
    def floor(self) -> float:
        """How strongly the null space itself is read, on average over it (root mean square)."""
        vectors, sizes, _ = torch.linalg.svd(self.null, full_matrices=False)
        inside = vectors[:, sizes > 0.5]
        return float(reading(inside.T, self.values, self.basis).square().mean().sqrt())

    def about(self, directions: Float[Tensor, "n d"]) -> dict[str, Any]:
        """`share`, of the norm of each direction in the null space; `reading`, how strongly it is
        read; arrays [n]."""
        share = null_share(directions, self.basis, PAPERS_SHARE)
        strength = reading(directions, self.values, self.basis)
        return {"share": share.numpy(), "reading": strength.numpy()}


def null_direction(
    unembedding: Unembedding,
    generator: torch.Generator,
) -> Float[Tensor, " d"]:
    """A random unit vector in the null space of the unembedding."""
    null = unembedding.null
    direction = null @ torch.randn(null.shape[1], generator=generator)
    return direction / direction.norm()


def semantic_direction(
    model: LiveModel,
    texts: Sequence[Clean],
    generator: torch.Generator,
) -> Float[Tensor, " d"]:
    """The unit vector that raises one token of the texts above the others."""
    tokens = torch.from_numpy(np.unique(np.concatenate([text.ids for text in texts]))).long()
    drawn = tokens[torch.randperm(len(tokens), generator=generator)[:ROWS]]
    rows = logit_rows(model, drawn)
    direction = rows[0] - rows.mean(0)
    return direction / direction.norm()


def usable(texts: Sequence[Clean]) -> list[NDArray[np.int64]]:
    """Where features are planted in each text: not at its first token, its last, or outliers."""
    limit = norm_limit(torch.cat([text.before for text in texts]).norm(dim=-1))
    inside = [text.before[1:-1].norm(dim=-1) <= limit for text in texts]
    return [np.flatnonzero(ordinary.numpy()) + 1 for ordinary in inside]


def places(
    allowed: Sequence[NDArray[np.int64]],
    documents: int,
    each: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """`document` and `position` of `each` random ones of the `allowed` places in so many of the
    texts."""
    long = [k for k, positions in enumerate(allowed) if len(positions) >= each]
    rows = []
    for k in sorted(rng.choice(long, min(documents, len(long)), replace=False).tolist()):
        drawn = rng.choice(allowed[k], each, replace=False)
        rows += [(k, at) for at in sorted(drawn.tolist())]
    return pd.DataFrame(rows, columns=["document", "position"])


def planted(
    model: LiveModel,
    texts: Sequence[Clean],
    where: pd.DataFrame,
    direction: Float[Tensor, " d"],
    size: float,
) -> pd.DataFrame:
    """`where` with `entropy.compared`: a unit `direction` is planted there, `size` times as long as
    the residual stream before the layer, and taken out again."""
    at = entropy.gathered(texts, where)
    lengths = size * at.before.norm(dim=-1, keepdim=True)
    effects = entropy.compared(model, at, at.after + lengths * direction, at.after)
    return where.assign(size=np.float32(size), **effects)


def plants(
    model: LiveModel,
    texts: Sequence[Clean],
    unembedding: Unembedding,
    draws: int,
    each: int,
    seed: int,
) -> pd.DataFrame:
    """`draws` plants of each kind, of SIZES and DOCUMENTS, a row a plant: `kind`, `planted` (its
    size), `fires_in` (documents), the columns of `entropy.judged`, `share` and `reading` of its
    direction, and whether the criterion has `found` it."""
    allowed = usable(texts)
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    other = entropy.emptied(model, unembedding.null)
    read = dict.fromkeys(KINDS, (model, list(texts)))
    read["unread"] = (other, entropy.repredicted(other, texts))

    settings: list[tuple[Kind, float, int]] = [
        (kind, size, documents) for kind in KINDS for size in SIZES for documents in DOCUMENTS
    ]
    rows = []
    with Progress("planting features", len(settings) * draws, "feature") as bar:
        for kind, size, documents in settings:
            for _ in range(draws):
                if kind == "semantic":
                    direction = semantic_direction(model, texts, generator)
                else:
                    direction = null_direction(unembedding, generator)

                where = places(allowed, documents, each, rng)
                effects = planted(*read[kind], where, direction, size)
                about = {k: x[0] for k, x in unembedding.about(direction[None]).items()}
                if kind == "unread":
                    about["reading"] = 0.0
                row = entropy.judged(effects, seed) | about
                row["found"] = is_entropy_feature(row)
                rows.append({"kind": kind, "planted": size, "fires_in": documents} | row)
                bar.advance(1)
    return pd.DataFrame(rows)
