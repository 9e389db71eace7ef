"""Where a feature is active: its top contexts and a sample from each quantile, as pointers into a
corpus (5.1, H).

One pass over documents. A context is a document; each counts once a feature, at its strongest
token. No text is kept.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from core.features.contexts import AFTER, BEFORE, Contexts, Numbers, chance
from core.features.reading import Read
from core.features.shares import ALONE, Share
from core.text.corpus import Document

TOP = 20
SHOWN = 10
"""Of the top contexts those with the activations around; the others count where tops are
compared."""
QUANTILES = 4
"""Equal shares of a feature's sampled contexts by activation."""
FROM_EACH = 5
SAMPLE = 100
"""Contexts sampled a feature, from which those of the quantiles are taken."""
BINS = 60


def strongest(
    acts: Float[Tensor, "n f"],
    document: Numbers,
    position: Numbers,
) -> tuple[Numbers, Numbers, NDArray[np.float32]]:
    """(row, feature, activation) of each feature and document at its strongest active token, the
    first of equals."""
    rows, features = acts.nonzero(as_tuple=True)
    at, feature = rows.numpy(), features.numpy()
    value = acts.numpy()[at, feature]

    order = np.lexsort((position[at], -value, document[at], feature))
    at, feature, value = at[order], feature[order], value[order]

    # Sorted like this, the strongest token of a feature and document is the first of them.
    text = document[at]
    other_feature = feature[1:] != feature[:-1]
    other_text = text[1:] != text[:-1]
    new = np.ones(len(at), dtype=bool)
    new[1:] = other_feature | other_text
    return at[new], feature[new], value[new]


def around(
    acts: Float[Tensor, "n f"],
    at: Numbers,
    feature: Numbers,
    document: Numbers,
    ends: Numbers,
) -> tuple[Numbers, NDArray[np.float16]]:
    """What lies around rows `at` of `acts` [m], for one feature each: `spans` [m, BEFORE + AFTER +
    2], where the tokens from BEFORE before to AFTER behind end in the text, the first entry where
    the first of them begins (-1 outside of the document), and `heat` [m, BEFORE + AFTER + 1], their
    activations."""
    rows = at[:, None] + np.arange(-BEFORE - 1, AFTER + 1)
    last = max(len(acts) - 1, 0)
    inside = np.clip(rows, 0, last)

    own = document[at][:, None]
    same = (inside == rows) & (document[inside] == own)
    spans = np.where(same, ends[inside], -1)

    # A document's first token has none before it whose end is where it begins: it begins at 0.
    first = np.argmax(same, axis=1)
    cut = np.flatnonzero(first > 0)
    spans[cut, first[cut] - 1] = 0

    values = acts.numpy()[inside[:, 1:], feature[:, None]]
    heat = np.where(same[:, 1:], values, 0)
    return spans, heat.astype(np.float16)


def packed(
    spans: NDArray[Any],
    heat: NDArray[np.float16],
    scale: NDArray[np.float32],
) -> dict[str, Any]:
    """`spans` and `heat` of `around` as small columns: `begin`, the character at which the first
    token shown begins; `lengths` of the tokens in characters; `heat` of each in 255ths of `scale`;
    `peak`, which of them is the middle."""
    shown = (spans[:, 1:] >= 0) & (spans[:, :-1] >= 0)
    first = shown.argmax(axis=1)
    begin = spans[np.arange(len(spans)), first]

    lengths = np.diff(spans, axis=1)[shown]
    share = 255 * heat.astype(np.float32) / np.maximum(scale, 1e-20)[:, None]
    levels = share.round().clip(0, 255)[shown]

    cuts = np.cumsum(shown.sum(axis=1))
    return {
        "begin": begin.astype(np.uint16),
        "peak": (BEFORE - first).astype(np.uint8),
        "lengths": np.split(lengths.astype(np.uint16), cuts)[:-1],
        "heat": np.split(levels.astype(np.uint8), cuts)[:-1],
    }


def short(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """To 11 bits of mantissa, three significant digits: what a table keeps is half the size."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded = (bits + 0x1000) & 0xFFFFE000
    return rounded.view(np.float32)


def bins(acts: Tensor) -> Tensor:
    """The bin of each positive activation in `Examples.histogram`: half octaves from 2^-10 to
    2^20."""
    half_octaves = 2 * acts.log2() + 20
    return half_octaves.floor().clamp(0, BINS - 1).long()


class Examples:
    """Accumulates the contexts of every feature; `table` freezes them.

    histogram [features, BINS]: at how many tokens a feature was active in each bin (see `bins`).
    """

    def __init__(
        self,
        features: int,
        seed: int = 0,
    ) -> None:
        self.top = Contexts(features, TOP)
        self.sample = Contexts(features, SAMPLE)
        self.histogram = np.zeros((features, BINS), dtype=np.int64)
        self.seed = seed

    def update(
        self,
        acts: Float[Tensor, "n f"],
        document: Numbers,
        position: Numbers,
        ends: Numbers,
    ) -> None:
        """Activations at tokens `position` of documents `document` that end at character `ends`; a
        document's tokens come in one call and in order."""
        row, active = acts.nonzero(as_tuple=True)
        np.add.at(self.histogram, (active.numpy(), bins(acts[row, active]).numpy()), 1)

        at, feature, value = strongest(acts, document, position)
        by_activation = value.astype(np.float64)
        by_chance = chance(feature, document[at], self.seed)

        for contexts, key in ((self.top, by_activation), (self.sample, by_chance)):
            near = contexts.wants(feature, key)
            tokens = at[near]
            spans, heat = around(acts, tokens, feature[near], document, ends)
            columns = {
                "key": key[near],
                "activation": value[near],
                "document": document[tokens],
                "position": position[tokens],
                "spans": spans,
                "heat": heat,
            }
            contexts.add(feature[near], columns)

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that is accumulated, by name; what is written into them is accumulated."""
        named = {"histogram": self.histogram}
        for group, contexts in (("top", self.top), ("sample", self.sample)):
            for name, column in contexts.columns.items():
                named[f"{group}.{name}"] = column
        return named

    def merge(self, other: "Examples") -> None:
        """Add what was accumulated over other documents: the same as over both together."""
        self.top.merge(other.top)
        self.sample.merge(other.sample)
        self.histogram += other.histogram

    def table(self, documents: Sequence[Document]) -> pd.DataFrame:
        """One row an example, by feature and in each group strongest first: `feature`, `group`
        ('top', or 'q1' (weakest) to 'q4'), `rank` from 0, `document` (its id), `position` (token
        index), `activation`, and the columns of `packed`. An example of a quantile is not among the
        top ones."""
        feature, slot = np.nonzero(self.top.filled)
        parts = [_rows(self.top, "top", feature, slot, slot)]
        for one in np.flatnonzero(self.top.filled[:, 0]):
            parts += self._quantiles(int(one))

        groups = [np.full(len(rows["feature"]), group) for group, rows in parts]
        columns = {}
        for name in parts[0][1]:
            columns[name] = np.concatenate([rows[name] for _, rows in parts])

        ids = _ids(documents)
        table = pd.DataFrame(
            {
                "feature": columns["feature"].astype(np.int32),
                "group": pd.Categorical(np.concatenate(groups)),
                "rank": columns["rank"].astype(np.uint8),
                "document": ids[columns["document"]],
                "position": columns["position"].astype(np.uint16),
                "activation": short(columns["activation"]),
            }
        )
        windows = packed(columns["spans"], columns["heat"], columns["activation"])
        table = table.assign(**windows)
        return table.sort_values("feature", kind="stable", ignore_index=True)

    def _quantiles(self, feature: int) -> "list[Group]":
        """FROM_EACH examples from each quantile of a feature's sample, top contexts left out."""
        sampled = self.sample.columns
        tops = self.top.columns["document"][feature]

        slots = np.flatnonzero(self.sample.filled[feature])
        is_top = np.isin(sampled["document"][feature, slots], tops)
        slots = slots[~is_top]

        rising = np.argsort(sampled["activation"][feature, slots], kind="stable")
        groups = []
        for quantile, share in enumerate(np.array_split(slots[rising], QUANTILES), 1):
            many = min(FROM_EACH, len(share))
            places = np.linspace(len(share) - 1, 0, many).round().astype(int)
            same = np.full(many, feature)
            rank = np.arange(many)
            groups.append(_rows(self.sample, f"q{quantile}", same, share[places], rank))
        return groups


def lean(table: pd.DataFrame) -> pd.DataFrame:
    """`Examples.table` as it is kept: top contexts from rank SHOWN on are pointers without
    `lengths` and `heat`."""
    far = (table.group == "top") & (table["rank"] >= SHOWN)
    empty = np.zeros(0, dtype=np.uint8)

    emptied = {}
    for column in ("lengths", "heat"):
        values = zip(far, table[column], strict=True)
        emptied[column] = [empty if is_far else x for is_far, x in values]
    return table.assign(**emptied)


def _ids(documents: Sequence[Document]) -> NDArray[np.object_]:
    return np.array([d.id for d in documents], dtype=object)


Group = tuple[str, dict[str, NDArray[Any]]]
"""(group, columns of `Examples.table`)."""


def _rows(
    contexts: Contexts,
    group: str,
    feature: Numbers,
    slot: Numbers,
    rank: Numbers,
) -> Group:
    """The contexts in chosen slots of features."""
    columns = {"feature": feature, "rank": rank}
    for name in ("document", "position", "activation", "spans", "heat"):
        columns[name] = contexts.columns[name][feature, slot]
    return group, columns


def gather_into(
    examples: Examples,
    windows: Iterable[Read],
    share: Share = ALONE,
) -> None:
    """Add what was read in the windows that a share has left."""
    for window in windows:
        examples.update(*window)
        share.enter(examples)
    share.finish(examples)


def shared_places(
    a: pd.DataFrame,
    b: pd.DataFrame,
    each: int = 5,
) -> pd.DataFrame:
    """The `each` top contexts of every feature in two tables of examples, a document once:
    `feature`, `document`, `at` (the character where the strongest token ends), `found` ('a' or
    'b')."""
    tops = []
    for side, table in (("a", a), ("b", b)):
        is_top = (table.group == "top") & (table["rank"] < each)
        top = table[is_top]

        at = []
        for begin, lengths, peak in zip(top.begin, top.lengths, top.peak, strict=True):
            up_to_peak = int(np.sum(lengths[: peak + 1]))
            at.append(begin + up_to_peak)

        columns = {"feature": top.feature, "document": top.document, "at": at, "found": side}
        tops.append(pd.DataFrame(columns))

    both = pd.concat(tops).drop_duplicates(["feature", "document"])
    return both.sort_values("feature", kind="stable", ignore_index=True)


FAR = 1_000_000
"""More characters than a document has: (document, character) as one rising number."""


def numbered(
    places: pd.DataFrame,
    documents: Sequence[Document],
) -> pd.DataFrame:
    """Places with the `number` of their document, in its order."""
    number = {d.id: k for k, d in enumerate(documents)}
    wanted = places.assign(number=places.document.map(number))
    return wanted.sort_values("number", kind="stable")


def places_in(
    wanted: pd.DataFrame,
    windows: Iterable[Read],
) -> pd.DataFrame:
    """`wanted`, places that are `numbered`, as a model reads them: `feature`, `document`, `found`,
    `activation` (the largest shown) and the columns of `packed` around the first token that has
    read up to `at`; documents without a token that is kept are left out. `reads` of a place is read
    for its `feature`. `windows` count documents as `number` does."""
    parts = []
    for window in windows:
        in_window = wanted.loc[wanted.number.isin(window.document)]

        token_key = window.document * FAR + window.ends
        place_key = in_window.number.to_numpy() * FAR + in_window["at"].to_numpy()
        at = np.searchsorted(token_key, place_key)
        at = np.minimum(at, len(token_key) - 1)

        # A place behind the last token that is kept goes to that token.
        same_document = window.document[at] == in_window.number
        at = np.where(same_document, at, at - 1)

        features = in_window.get("reads", in_window.feature).to_numpy(np.int64)
        spans, heat = around(window.acts, at, features, window.document, window.ends)
        largest = heat.max(axis=1, initial=0).astype(np.float32)

        part = in_window[["feature", "document", "found"]]
        part = part.assign(activation=short(largest), **packed(spans, heat, largest))
        parts.append(part)

    return pd.concat(parts).sort_values("feature", kind="stable", ignore_index=True)
