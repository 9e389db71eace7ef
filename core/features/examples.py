"""Where a feature is active: its top contexts and a sample from each quantile, as pointers into a
corpus (5.1, H).

One pass over documents. A context is a document; each counts once a feature, at its strongest
token. No text is kept.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from core.features.reading import read
from core.models.live import LiveModel
from core.text.corpus import Document

if TYPE_CHECKING:
    from sae_lens import SAE

TOP = 20
SHOWN = 10
"""Of the top contexts those with the activations around; the others count where tops are
compared."""
QUANTILES = 4
"""Equal shares of a feature's sampled contexts by activation."""
FROM_EACH = 5
SAMPLE = 100
"""Contexts sampled a feature, from which those of the quantiles are taken."""
BEFORE, AFTER = 14, 6
"""Tokens kept around the strongest one, with their activations."""
BINS = 60


class _Kept:
    """For every feature the `size` contexts with the largest key, merged window by window."""

    def __init__(self, features: int, size: int) -> None:
        self.size = size
        self.columns: dict[str, NDArray[Any]] = {
            "key": np.full((features, size), -np.inf),
            "activation": np.zeros((features, size), dtype=np.float32),
            "document": np.full((features, size), -1, dtype=np.int64),
            "position": np.full((features, size), -1, dtype=np.int64),
            "spans": np.zeros((features, size, BEFORE + 1 + AFTER + 1), dtype=np.int32),
            "heat": np.zeros((features, size, BEFORE + 1 + AFTER), dtype=np.float16),
        }

    @property
    def filled(self) -> NDArray[np.bool_]:
        return self.columns["document"] >= 0

    def wants(self, feature: NDArray[np.int64], key: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which candidates exceed the least key that their feature keeps; all where it has room."""
        return key > self.columns["key"].min(axis=1)[feature]

    def add(self, feature: NDArray[np.int64], new: dict[str, NDArray[Any]]) -> None:
        """Candidates, at most one a feature and document; equal keys go to the lower document."""
        order = np.lexsort((new["document"], -new["key"], feature))
        feature = feature[order]
        rank = np.arange(len(feature)) - np.searchsorted(feature, feature)
        near = rank < self.size
        touched, where = np.unique(feature[near], return_inverse=True)
        both = {}
        for name, old in self.columns.items():
            more = np.full(
                (len(touched), *old.shape[1:]), -np.inf if name == "key" else 0, dtype=old.dtype
            )
            if name == "document":
                more[:] = -1
            more[where, rank[near]] = new[name][order[near]]
            both[name] = np.concatenate([old[touched], more], axis=1)
        best = np.argsort(-both["key"], axis=1, kind="stable")[:, : self.size]
        for name, x in both.items():
            picked = best[..., None] if x.ndim == 3 else best
            self.columns[name][touched] = np.take_along_axis(x, picked, axis=1)


def strongest(
    acts: Float[Tensor, "n f"], document: NDArray[np.int64], position: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """(row, feature, activation) of each feature and document at its strongest active token, the
    first of equals."""
    at, feature = (x.numpy() for x in acts.nonzero(as_tuple=True))
    value = acts.numpy()[at, feature]
    order = np.lexsort((position[at], -value, document[at], feature))
    at, feature, value = at[order], feature[order], value[order]
    new = np.ones(len(at), dtype=bool)
    new[1:] = (feature[1:] != feature[:-1]) | (document[at][1:] != document[at][:-1])
    return at[new], feature[new], value[new]


def around(
    acts: Float[Tensor, "n f"],
    at: NDArray[np.int64],
    feature: NDArray[np.int64],
    document: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
    """What lies around rows `at` of `acts` [m], for one feature each: `spans` [m, BEFORE + AFTER +
    2], where the tokens from BEFORE before to AFTER behind end in the text, the first entry where
    the first of them begins (-1 outside of the document), and `heat` [m, BEFORE + AFTER + 1], their
    activations."""
    rows = at[:, None] + np.arange(-BEFORE - 1, AFTER + 1)
    inside = np.clip(rows, 0, max(len(acts) - 1, 0))
    same = (inside == rows) & (document[inside] == document[at][:, None])
    spans = np.where(same, ends[inside], -1)
    first = np.argmax(same, axis=1)
    cut = np.flatnonzero(first > 0)
    spans[cut, first[cut] - 1] = 0  # the document's first token begins it
    heat = np.where(same[:, 1:], acts.numpy()[inside[:, 1:], feature[:, None]], 0).astype(
        np.float16
    )
    return spans, heat


def packed(
    spans: NDArray[Any], heat: NDArray[np.float16], scale: NDArray[np.float32]
) -> dict[str, Any]:
    """`spans` and `heat` of `around` as small columns: `begin`, the character at which the first
    token shown begins; `lengths` of the tokens in characters; `heat` of each in 255ths of `scale`;
    `peak`, which of them is the middle."""
    shown = (spans[:, 1:] >= 0) & (spans[:, :-1] >= 0)
    first = shown.argmax(axis=1)
    cuts = np.cumsum(shown.sum(axis=1))
    lengths = np.diff(spans, axis=1)[shown].astype(np.uint16)
    share = 255 * heat.astype(np.float32) / np.maximum(scale, 1e-20)[:, None]
    return {
        "begin": spans[np.arange(len(spans)), first].astype(np.uint16),
        "peak": (BEFORE - first).astype(np.uint8),
        "lengths": np.split(lengths, cuts)[:-1],
        "heat": np.split(share.round().clip(0, 255)[shown].astype(np.uint8), cuts)[:-1],
    }


def short(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """To 11 bits of mantissa, three significant digits: what a table keeps is half the size."""
    return ((np.ascontiguousarray(x).view(np.uint32) + 0x1000) & 0xFFFFE000).view(np.float32)


def bins(acts: Tensor) -> Tensor:
    """The bin of each positive activation in `Examples.histogram`: half octaves from 2^-10 to
    2^20."""
    return (2 * acts.log2() + 20).floor().clamp(0, BINS - 1).long()


class Examples:
    """Accumulates the contexts of every feature; `table` freezes them.

    histogram [features, BINS]: at how many tokens a feature was active in each bin (see `bins`).
    """

    def __init__(self, features: int, seed: int = 0) -> None:
        self.top, self.sample = _Kept(features, TOP), _Kept(features, SAMPLE)
        self.histogram = np.zeros((features, BINS), dtype=np.int64)
        self._rng = np.random.default_rng(seed)

    def update(
        self,
        acts: Float[Tensor, "n f"],
        document: NDArray[np.int64],
        position: NDArray[np.int64],
        ends: NDArray[np.int64],
    ) -> None:
        """Activations at tokens `position` of documents `document` that end at character `ends`; a
        document's tokens come in one call and in order."""
        at, active = acts.nonzero(as_tuple=True)
        np.add.at(self.histogram, (active.numpy(), bins(acts[at, active]).numpy()), 1)
        at, feature, value = strongest(acts, document, position)
        for kept, key in (
            (self.top, value.astype(np.float64)),
            (self.sample, self._rng.random(len(feature))),
        ):
            near = kept.wants(feature, key)
            spans, heat = around(acts, at[near], feature[near], document, ends)
            kept.add(
                feature[near],
                {
                    "key": key[near],
                    "activation": value[near],
                    "document": document[at[near]],
                    "position": position[at[near]],
                    "spans": spans,
                    "heat": heat,
                },
            )

    def table(self, documents: Sequence[Document]) -> pd.DataFrame:
        """One row an example, by feature and in each group strongest first: `feature`, `group`
        ('top', or 'q1' (weakest) to 'q4'), `rank` from 0, `document` (its id), `position` (token
        index), `activation`, and the columns of `packed`. An example of a quantile is not among the
        top ones."""
        feature, slot = np.nonzero(self.top.filled)
        parts = [_rows(self.top, "top", feature, slot, slot)]
        filled, sampled = self.sample.filled, self.sample.columns
        for one in np.flatnonzero(self.top.filled[:, 0]):
            seen = np.flatnonzero(filled[one])
            seen = seen[~np.isin(sampled["document"][one, seen], self.top.columns["document"][one])]
            seen = seen[np.argsort(sampled["activation"][one, seen], kind="stable")]
            for q, share in enumerate(np.array_split(seen, QUANTILES), 1):
                drawn = share[
                    np.linspace(len(share) - 1, 0, min(FROM_EACH, len(share))).round().astype(int)
                ]
                parts.append(
                    _rows(
                        self.sample, f"q{q}", np.full(len(drawn), one), drawn, np.arange(len(drawn))
                    )
                )
        groups = np.concatenate([np.full(len(part["feature"]), group) for group, part in parts])
        out = {name: np.concatenate([part[name] for _, part in parts]) for name in parts[0][1]}
        table = pd.DataFrame(
            {
                "feature": out["feature"].astype(np.int32),
                "group": pd.Categorical(groups),
                "rank": out["rank"].astype(np.uint8),
                "document": _ids(documents)[out["document"]],
                "position": out["position"].astype(np.uint16),
                "activation": short(out["activation"]),
            }
        )
        table = table.assign(**packed(out["spans"], out["heat"], out["activation"]))
        return table.sort_values("feature", kind="stable", ignore_index=True)


def lean(table: pd.DataFrame) -> pd.DataFrame:
    """`Examples.table` as it is kept: top contexts from rank SHOWN on are pointers without
    `lengths` and `heat`."""
    far = (table.group == "top") & (table["rank"] >= SHOWN)
    empty = np.zeros(0, dtype=np.uint8)
    return table.assign(
        **{
            column: [empty if less else x for less, x in zip(far, table[column], strict=True)]
            for column in ("lengths", "heat")
        }
    )


def _ids(documents: Sequence[Document]) -> NDArray[np.object_]:
    return np.array([d.id for d in documents], dtype=object)


def _rows(
    kept: _Kept,
    group: str,
    feature: NDArray[np.int64],
    slot: NDArray[np.int64],
    rank: NDArray[np.int64],
) -> tuple[str, dict[str, NDArray[Any]]]:
    """(group, columns of `Examples.table`) of chosen slots."""
    names = ("document", "position", "activation", "spans", "heat")
    return group, {"feature": feature, "rank": rank} | {
        name: kept.columns[name][feature, slot] for name in names
    }


def find_examples(
    model: LiveModel,
    partner: LiveModel | None,
    sae: "SAE[Any]",
    documents: Sequence[Document],
    layer: int,
    desc: str = "examples",
) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """(`Examples.table`, `Examples.histogram`) of every feature, from what `read` gives."""
    found = Examples(sae.cfg.d_sae)
    for window in read(model, partner, sae, documents, layer, desc):
        found.update(*window)
    return found.table(documents), found.histogram


def shared_places(a: pd.DataFrame, b: pd.DataFrame, each: int = 5) -> pd.DataFrame:
    """The `each` top contexts of every feature in two tables of examples, a document once:
    `feature`, `document`, `at` (the character where the strongest token ends), `found` ('a' or
    'b')."""
    tops = []
    for side, table in (("a", a), ("b", b)):
        top = table[(table.group == "top") & (table["rank"] < each)]
        at = [
            begin + int(np.sum(x[: peak + 1]))
            for begin, x, peak in zip(top.begin, top.lengths, top.peak, strict=True)
        ]
        tops.append(
            pd.DataFrame(
                {"feature": top.feature, "document": top.document, "at": at, "found": side}
            )
        )
    both = pd.concat(tops).drop_duplicates(["feature", "document"])
    return both.sort_values("feature", kind="stable", ignore_index=True)


def read_places(
    model: LiveModel,
    partner: LiveModel | None,
    sae: "SAE[Any]",
    documents: Sequence[Document],
    layer: int,
    places: pd.DataFrame,
    desc: str,
) -> pd.DataFrame:
    """`places` as `model` reads them: `feature`, `document`, `found`, `activation` (the largest
    shown) and the columns of `packed` around the first token that has read up to `at`; documents
    without a token that is kept are left out."""
    number = {d.id: k for k, d in enumerate(documents)}
    wanted = places.assign(number=places.document.map(number)).sort_values("number", kind="stable")
    order = np.sort(wanted.number.unique())
    needed = [documents[k] for k in order]
    parts = []
    for window in read(model, partner, sae, needed, layer, desc):
        document = order[window.document]
        key = document * 1_000_000 + window.ends
        here = wanted.loc[wanted.number.isin(document)]
        at = np.searchsorted(key, here.number.to_numpy() * 1_000_000 + here["at"].to_numpy())
        at = np.minimum(at, len(key) - 1)
        at = np.where(
            document[at] == here.number, at, at - 1
        )  # where it is behind the last token that is kept
        spans, heat = around(
            window.acts, at, here.feature.to_numpy(np.int64), document, window.ends
        )
        most = heat.max(axis=1, initial=0).astype(np.float32)
        parts.append(
            here[["feature", "document", "found"]].assign(
                activation=short(most), **packed(spans, heat, most)
            )
        )
    return pd.concat(parts).sort_values("feature", kind="stable", ignore_index=True)
