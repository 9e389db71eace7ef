"""How alike a feature's part in the next token is before and after transfer: attribution
correlation (5.1, Eq. 10).

The attribution of feature i at a position is its activation there times its logit weight for the
token that in fact came next: decoder direction · unembedding row, with the final norm's gain folded
in. Inactive features have none, so one pass over paired positions costs as much as features are
active, and features x vocabulary is never formed.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from core.activations.harvest import first_limits, norm_limits, read_window, windows, within
from core.features.firings import Text, Window
from core.features.shares import ALONE, Share
from core.features.unembedding import logit_rows
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
ENCODED = 2**26
"""Activations held at a time, active or not: 268 MB for each model."""


class Active(NamedTuple):
    """The active features of n positions, m in all, ordered by position and feature: `at` [m] in
    [0, n), `feature` [m], `activation` [m], `attribution` [m]."""

    n: int
    at: Tensor
    feature: Tensor
    activation: Tensor
    attribution: Tensor


def contributions(
    acts: Float[Tensor, "n f"],
    decoder: Float[Tensor, "f d"],
    rows: Float[Tensor, "n d"],
) -> Active:
    """Attributions of the active features: a product of `rows` and `decoder` that is formed there
    alone."""
    n = len(acts)
    at, feature = acts.nonzero(as_tuple=True)
    activation = acts[at, feature]

    starts = torch.zeros(n + 1, dtype=torch.long)
    starts[1:] = torch.bincount(at, minlength=n).cumsum(0)

    with warnings.catch_warnings():  # torch says once that its CSR tensors are young
        warnings.simplefilter("ignore", UserWarning)
        where = torch.sparse_csr_tensor(
            starts,
            feature,
            activation,
            acts.shape,
            check_invariants=False,
        )
        products = torch.sparse.sampled_addmm(where, rows, decoder.T, beta=0.0)

    weights = products.values()
    return Active(n, at, feature, activation, weights * activation)


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

    def update(
        self,
        block: int,
        a: Active,
        b: Active,
    ) -> None:
        """Paired positions of one block, in A and in B."""
        x = a.attribution.double()
        y = b.attribution.double()

        # Both keys rise, so a place in one is found in the other by bisection.
        key_a = a.at * self.features + a.feature
        key_b = b.at * self.features + b.feature
        last = max(len(key_b) - 1, 0)
        where = torch.searchsorted(key_b, key_a).clamp(max=last)
        both = torch.zeros(len(key_a), dtype=torch.bool)
        if len(key_b):
            both = key_b[where] == key_a

        joint = a.feature[both]
        joint_x = x[both]
        joint_y = y[where[both]]
        terms = [
            (a.feature, x),
            (b.feature, y),
            (a.feature, x * x),
            (b.feature, y * y),
            (joint, joint_x * joint_y),
            (a.feature, torch.ones_like(x)),
            (b.feature, torch.ones_like(y)),
            (joint, torch.ones_like(joint_x)),
        ]
        for sums, (feature, value) in zip(self.sums[block], terms, strict=True):
            sums.index_add_(0, feature, value)

        self.n[block] += a.n
        for largest, active in zip(self.largest, (a, b), strict=True):
            largest.scatter_reduce_(0, active.feature, active.activation, "amax")

    def table(self, seed: int = 0) -> pd.DataFrame:
        """One row a feature: `feature`; `correlation` (Eq. 10), NaN where one side never varies,
        with `low` and `high` (95 %, bootstrap over blocks); `joint` positions active in both;
        `density_a`, `density_b` in [0, 1]; `max_a`, `max_b`; `reliable` where `joint` is
        LEAST_JOINT or more."""
        n = self.n.sum()
        sums = self.sums.sum(0)
        active_a, active_b, joint = sums[5:]
        low, high = self._interval(seed)
        return pd.DataFrame(
            {
                "feature": np.arange(self.features),
                "correlation": _pearson(n, *sums[:5]).numpy(),
                "low": low.numpy(),
                "high": high.numpy(),
                "joint": joint.long().numpy(),
                "density_a": (active_a / n).numpy(),
                "density_b": (active_b / n).numpy(),
                "max_a": self.largest[0].numpy(),
                "max_b": self.largest[1].numpy(),
                "reliable": (joint >= LEAST_JOINT).numpy(),
            }
        )

    def _interval(self, seed: int) -> tuple[Tensor, Tensor]:
        """(low, high) of every feature's correlation: 95 %, bootstrap over blocks."""
        rng = np.random.default_rng(seed)
        even = np.full(BLOCKS, 1 / BLOCKS)
        draws = rng.multinomial(BLOCKS, even, size=BOOTSTRAPS)

        weights = torch.from_numpy(draws).double()
        counts = weights @ self.n
        ends = torch.tensor([0.025, 0.975], dtype=torch.float64)

        low, high = torch.full((2, self.features), torch.nan, dtype=torch.float64)
        for part in torch.arange(self.features).split(4096):
            drawn = torch.einsum("kb,bsf->skf", weights, self.sums[:, :5, part])
            r = _pearson(counts[:, None], *drawn)
            low[part], high[part] = torch.nanquantile(r, ends, dim=0)
        return low, high


def _pearson(
    n: Tensor,
    x: Tensor,
    y: Tensor,
    xx: Tensor,
    yy: Tensor,
    xy: Tensor,
) -> Tensor:
    """Pearson's r from sums; NaN where a variance is zero."""
    cov = n * xy - x * y
    var_x = n * xx - x * x
    var_y = n * yy - y * y

    tiny = 1e-300
    scale = (var_x.clamp(min=0) * var_y.clamp(min=0)).sqrt()
    floor = 1e-12 * (n * n * xx * yy).sqrt().clamp(min=tiny)
    r = cov / scale.clamp(min=tiny)
    return torch.where(scale > floor, r, torch.nan)


class _Next(NamedTuple):
    """The tokens that came next in one model, at n positions: their ids, whether there is one, and
    where in the text each ends."""

    ids: Tensor
    exists: Tensor
    ends: Tensor


def _following(
    model: LiveModel,
    texts: Sequence[str],
    document: NDArray[np.integer],
    position: NDArray[np.integer],
) -> _Next:
    """What came next at each `position` of the text `document`."""
    encoded = model.encode(texts)
    starts = np.cumsum([0] + [len(text.ids) for text in encoded])
    at = starts[document] + position + 1
    exists = at < starts[document + 1]

    # One more entry: behind the last token of the last text nothing comes.
    ids = np.append(np.concatenate([text.ids for text in encoded]), 0)
    ends = np.append(np.concatenate([text.ends for text in encoded]), 0)
    return _Next(
        torch.from_numpy(ids[at].astype(np.int64)),
        torch.from_numpy(exists),
        torch.from_numpy(ends[at]),
    )


class Attributions:
    """The attribution of several pairs of SAEs by name, gathered in one pass."""

    def __init__(self, features: Mapping[str, int]) -> None:
        self.by_name = {name: Attribution(width) for name, width in features.items()}

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that is accumulated, by name; what is written into them is accumulated."""
        named = {}
        for name, attribution in self.by_name.items():
            for what in ("sums", "n", "largest"):
                named[f"{name}.{what}"] = getattr(attribution, what).numpy()
        return named

    def merge(self, other: "Attributions") -> None:
        """Add what was gathered over other blocks."""
        for name, attribution in self.by_name.items():
            more = other.by_name[name]
            attribution.sums += more.sums
            attribution.n += more.n
            attribution.largest = torch.maximum(attribution.largest, more.largest)

    def tables(self) -> dict[str, pd.DataFrame]:
        """See `Attribution.table`."""
        return {name: attribution.table() for name, attribution in self.by_name.items()}


SaePairs = Mapping[str, tuple["SAE[Any]", "SAE[Any]"]]
"""By name, an SAE on A and one on B whose features are compared."""


def gather_attribution(
    a: LiveModel,
    b: LiveModel,
    saes: SaePairs,
    documents: Sequence[Document],
    pair: LayerPair,
    desc: str = "attribution correlation",
    positions: int | None = None,
    share: Share = ALONE,
    text: Text | None = None,
) -> Attributions:
    """Eq. 10 of every feature of an SAE on A against the same feature of an SAE on B, for several
    such pairs by name in one pass, over paired positions whose next tokens pair up too, so that
    both models are asked for the same text; outlier rows are left out.

    A `share` of the documents has whole blocks; it has no budget of `positions`. What was read of
    the documents as a `text` is not read again.
    """
    same = a.tokenizer_hash == b.tokenizer_hash
    gathered = Attributions({name: sae_a.cfg.d_sae for name, (sae_a, _) in saes.items()})
    every = windows(documents)
    numbers = share.begin(gathered, range(len(every)))
    unread = [document for number in numbers for document in every[number]]
    expected = positions or sum(len(d.text) for d in unread) / 4

    window = text.window if text else _reading(a, b, every, pair, share)
    read = 0
    with Progress(desc, expected, "pos") as bar:
        for k in numbers:
            at = window(k)
            texts = [d.text for d in every[k]]
            next_a = _following(a, texts, at.document, at.at_a)
            next_b = _following(b, texts, at.document, at.at_b)
            keep = next_a.exists & next_b.exists
            if not same:
                keep &= (next_a.ends == next_b.ends) & (next_a.ends >= 0)

            h_a, h_b = at.h_a[keep].float(), at.h_b[keep].float()
            rows_a = logit_rows(a, next_a.ids[keep])
            rows_b = logit_rows(b, next_b.ids[keep])

            n = len(h_a)
            for name, (sae_a, sae_b) in saes.items():
                attribution = gathered.by_name[name]
                at_a_time = max(1, ENCODED // sae_a.cfg.d_sae)
                for part in torch.arange(n).split(at_a_time):
                    attribution.update(
                        k % BLOCKS,
                        _attributed(sae_a, h_a[part], rows_a[part]),
                        _attributed(sae_b, h_b[part], rows_b[part]),
                    )

            share.enter(gathered)
            read += n
            bar.advance(n)
            if positions is not None and read >= positions:
                break
    share.finish(gathered)
    return gathered


def _reading(
    a: LiveModel,
    b: LiveModel,
    every: Sequence[Sequence[Document]],
    pair: LayerPair,
    share: Share,
) -> Callable[[int], Window]:
    """The windows of a text by their numbers, without outliers, as both models read them now."""
    documents = [document for docs in every for document in docs]
    limits = share.agreed("limits", lambda: first_limits(a, b, documents, pair)) or {}

    def window(number: int) -> Window:
        chunk = read_window(a, b, every[number], [pair.a], [pair.b])
        limits.update({} if limits else norm_limits(chunk))
        usual = within(chunk, limits, pair)
        columns = (chunk.document, chunk.at_a, chunk.at_b, chunk.end)
        places = (column[usual.numpy()].astype(np.int32) for column in columns)
        return Window(chunk.h_a[pair.a][usual], chunk.h_b[pair.b][usual], *places)

    return window


def measure_attribution(
    a: LiveModel,
    b: LiveModel,
    saes: SaePairs,
    documents: Sequence[Document],
    pair: LayerPair,
    desc: str = "attribution correlation",
    positions: int | None = None,
) -> dict[str, pd.DataFrame]:
    """The tables of `gather_attribution`; see `Attribution.table`."""
    return gather_attribution(a, b, saes, documents, pair, desc, positions).tables()


def _attributed(
    sae: "SAE[Any]",
    h: Float[Tensor, "n d"],
    rows: Float[Tensor, "n d"],
) -> Active:
    with torch.inference_mode():
        acts = torch.relu(sae.encode(h))
        return contributions(acts, sae.W_dec.float(), rows)
