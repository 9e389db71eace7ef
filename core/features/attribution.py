"""How alike a feature's part in the next token is before and after transfer: attribution
correlation (5.1, Eq. 10).

The attribution of feature i at a position is its activation there times its logit weight for the
token that in fact came next: decoder direction · unembedding row, with the final norm's gain folded
in. Inactive features have none, so one pass over paired positions costs as much as features are
active, and features x vocabulary is never formed.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.activations.harvest import norm_limits, read_window, windows, within
from core.models.live import LiveModel
from core.models.pairs import LayerPair
from core.progress import Progress
from core.text.corpus import Document

if TYPE_CHECKING:
    from sae_lens import SAE

BLOCKS = 64
"""Groups of positions between which the bootstrap draws."""
BOOTSTRAPS = 400
LEAST_JOINT = 20
"""A feature that is active in both models at fewer positions is marked as unreliable."""
EXTREMES = 8
PART = 16_384
"""Tokens of the vocabulary read at a time."""
ENCODED = 2**26
"""Activations held at a time, active or not: 268 MB for each model."""


def logit_rows(model: LiveModel, ids: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
    """Unembedding rows of tokens as directions of the residual stream, float32: `h · row` is the
    logit times the final norm's scale (its bias left out). A LayerNorm's centring is folded in
    too."""
    rows = (
        model.hf.get_output_embeddings().weight[ids.to(model.where.device)].float()
        * model.logit_scale
    )
    with torch.inference_mode():
        if (projection := model.projection) is not None:
            rows = rows @ projection.weight.float()
        norm = model.final_norm
        if norm is None:  # OPT-350M
            return rows.cpu()
        ones = torch.ones(1, 1, rows.shape[-1], dtype=model.where.dtype, device=model.where.device)
        gain = norm(ones)[0].float()  # an RMS norm gives its gain where every entry is one
        centres = (
            isinstance(norm, torch.nn.LayerNorm) or not gain.any()
        )  # OLMo's norm has no weights at all
        if centres:
            weight = getattr(norm, "weight", None)
            rows = rows if weight is None else rows * weight.float()
            return (rows - rows.mean(-1, keepdim=True)).cpu()
        return (rows * gain).cpu()


def extreme_tokens(
    model: LiveModel, directions: Float[Tensor, "f d"], k: int = EXTREMES
) -> tuple[Float[Tensor, "f k2"], Int[Tensor, "f k2"]]:
    """(logit weights, token ids) of the k tokens that each direction raises most, then the k that
    it lowers most, each from the strongest. The vocabulary is read in parts; features x vocabulary
    is never held. Rows that pad it beyond the tokenizer are no tokens."""
    best: list[tuple[Tensor, Tensor]] = []
    for sign in (1.0, -1.0):
        value, ids = (
            torch.full((len(directions), k), -torch.inf),
            torch.zeros(len(directions), k, dtype=torch.long),
        )
        for part in torch.from_numpy(model.words).split(PART):
            weights = sign * directions @ logit_rows(model, part).T
            more, where = weights.topk(min(k, len(part)), dim=1)
            value, order = torch.cat([value, more], dim=1).topk(k, dim=1)
            ids = torch.cat([ids, part[where]], dim=1).gather(1, order)
        best.append((sign * value, ids))
    return torch.cat([v for v, _ in best], dim=1), torch.cat([i for _, i in best], dim=1)


class Active(NamedTuple):
    """The active features of n positions, m in all, ordered by position and feature: `at` [m] in
    [0, n), `feature` [m], `activation` [m], `attribution` [m]."""

    n: int
    at: Tensor
    feature: Tensor
    activation: Tensor
    attribution: Tensor


def contributions(
    acts: Float[Tensor, "n f"], decoder: Float[Tensor, "f d"], rows: Float[Tensor, "n d"]
) -> Active:
    """Attributions of the active features: a product of `rows` and `decoder` that is formed there
    alone."""
    at, feature = acts.nonzero(as_tuple=True)
    activation = acts[at, feature]
    starts = torch.zeros(len(acts) + 1, dtype=torch.long)
    starts[1:] = torch.bincount(at, minlength=len(acts)).cumsum(0)
    with warnings.catch_warnings():  # torch says once that its CSR tensors are young
        warnings.simplefilter("ignore", UserWarning)
        where = torch.sparse_csr_tensor(
            starts, feature, activation, acts.shape, check_invariants=False
        )
        weights = torch.sparse.sampled_addmm(where, rows, decoder.T, beta=0.0).values()
    return Active(len(acts), at, feature, activation, weights * activation)


class Attribution:
    """Accumulates what Eq. 10 needs, for each block of positions apart; `table` freezes it.

    sums [BLOCKS, 8, features] float64: x, y, x², y², xy, active in A, active in B, active in both.
    """

    def __init__(self, features: int) -> None:
        self.features = features
        self.sums = torch.zeros(BLOCKS, 8, features, dtype=torch.float64)
        self.n = torch.zeros(BLOCKS, dtype=torch.float64)
        self.largest = torch.zeros(2, features)
        """Maximal activation in A and B."""

    def update(self, block: int, a: Active, b: Active) -> None:
        """Paired positions of one block, in A and in B."""
        into = self.sums[block]
        x, y = a.attribution.double(), b.attribution.double()
        key_a, key_b = (
            a.at * self.features + a.feature,
            b.at * self.features + b.feature,
        )  # both rise
        where = torch.searchsorted(key_b, key_a).clamp(max=max(len(key_b) - 1, 0))
        both = key_b[where] == key_a if len(key_b) else torch.zeros(len(key_a), dtype=torch.bool)
        joint = a.feature[both]
        for row, feature, value in (
            (0, a.feature, x),
            (1, b.feature, y),
            (2, a.feature, x * x),
            (3, b.feature, y * y),
            (4, joint, x[both] * y[where[both]]),
            (5, a.feature, torch.ones_like(x)),
            (6, b.feature, torch.ones_like(y)),
            (7, joint, torch.ones_like(x[both])),
        ):
            into[row].index_add_(0, feature, value)
        self.n[block] += a.n
        for side, active in enumerate((a, b)):
            self.largest[side].scatter_reduce_(0, active.feature, active.activation, "amax")

    def table(self, seed: int = 0) -> pd.DataFrame:
        """One row a feature: `feature`; `correlation` (Eq. 10), NaN where one side never varies,
        with `low` and `high` (95 %, bootstrap over blocks); `joint` positions active in both;
        `density_a`, `density_b` in [0, 1]; `max_a`, `max_b`; `reliable` where `joint` is
        LEAST_JOINT or more."""
        n, sums = self.n.sum(), self.sums.sum(0)
        draws = np.random.default_rng(seed).multinomial(
            BLOCKS, np.full(BLOCKS, 1 / BLOCKS), size=BOOTSTRAPS
        )
        weights = torch.from_numpy(draws).double()
        low, high = torch.full((2, self.features), torch.nan, dtype=torch.float64)
        counts = weights @ self.n
        for part in torch.arange(self.features).split(4096):
            drawn = torch.einsum("kb,bsf->skf", weights, self.sums[:, :5, part])
            r = _pearson(counts[:, None], *drawn)
            low[part], high[part] = torch.nanquantile(
                r, torch.tensor([0.025, 0.975], dtype=r.dtype), dim=0
            )
        joint = sums[7].long()
        return pd.DataFrame(
            {
                "feature": np.arange(self.features),
                "correlation": _pearson(n, *sums[:5]).numpy(),
                "low": low.numpy(),
                "high": high.numpy(),
                "joint": joint.numpy(),
                "density_a": (sums[5] / n).numpy(),
                "density_b": (sums[6] / n).numpy(),
                "max_a": self.largest[0].numpy(),
                "max_b": self.largest[1].numpy(),
                "reliable": (joint >= LEAST_JOINT).numpy(),
            }
        )


def _pearson(n: Tensor, x: Tensor, y: Tensor, xx: Tensor, yy: Tensor, xy: Tensor) -> Tensor:
    """Pearson's r from sums; NaN where a variance is zero."""
    cov, var_x, var_y = n * xy - x * y, n * xx - x * x, n * yy - y * y
    scale = (var_x.clamp(min=0) * var_y.clamp(min=0)).sqrt()
    floor = 1e-12 * (n * n * xx * yy).sqrt().clamp(min=1e-300)
    return torch.where(scale > floor, cov / scale.clamp(min=1e-300), torch.nan)


def measure_attribution(
    a: LiveModel,
    b: LiveModel,
    saes: Mapping[str, tuple["SAE[Any]", "SAE[Any]"]],
    documents: Sequence[Document],
    pair: LayerPair,
    desc: str = "attribution correlation",
    positions: int | None = None,
) -> dict[str, pd.DataFrame]:
    """Eq. 10 of every feature of an SAE on A against the same feature of an SAE on B, for several
    such pairs by name in one pass, over paired positions whose next tokens pair up too, so that
    both models are asked for the same text; outlier rows are left out. See `Attribution.table`."""
    same = a.tokenizer_hash == b.tokenizer_hash
    gathered = {name: Attribution(sae_a.cfg.d_sae) for name, (sae_a, _) in saes.items()}
    limits: dict[str, float] = {}
    read = 0
    with Progress(desc, positions or sum(len(d.text) for d in documents) / 4, "pos") as bar:
        for k, docs in enumerate(windows(documents)):
            chunk = read_window(a, b, docs, [pair.a], [pair.b])
            limits = limits or norm_limits(chunk)
            keep = within(chunk, limits, pair)
            following, reached = [], []
            for model, at in ((a, chunk.at_a), (b, chunk.at_b)):
                encoded = model.encode([d.text for d in docs])
                starts = np.cumsum([0] + [len(e.ids) for e in encoded])
                here = starts[chunk.document] + at + 1
                keep &= torch.from_numpy(here < starts[chunk.document + 1])
                ids, ends = (
                    np.append(np.concatenate(x), 0)
                    for x in zip(*((e.ids, e.ends) for e in encoded), strict=True)
                )
                following.append(torch.from_numpy(ids[here].astype(np.int64)))
                reached.append(torch.from_numpy(ends[here]))
            if not same:
                keep &= (reached[0] == reached[1]) & (reached[0] >= 0)
            h = [chunk.h_a[pair.a][keep].float(), chunk.h_b[pair.b][keep].float()]
            rows = [
                logit_rows(model, ids[keep]) for model, ids in zip((a, b), following, strict=True)
            ]
            for name, both in saes.items():
                for part in torch.arange(len(h[0])).split(max(1, ENCODED // both[0].cfg.d_sae)):
                    with torch.inference_mode():
                        found = [
                            contributions(
                                torch.relu(sae.encode(x[part])), sae.W_dec.float(), r[part]
                            )
                            for sae, x, r in zip(both, h, rows, strict=True)
                        ]
                    gathered[name].update(k % BLOCKS, *found)
            read += len(h[0])
            bar.advance(len(h[0] if positions else keep))
            if positions is not None and read >= positions:
                break
    return {name: found.table() for name, found in gathered.items()}
