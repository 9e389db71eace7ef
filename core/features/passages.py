"""Passages that an explainer is shown of a feature, and others by which its answer is scored: read
back from pointers to contexts, and, where a feature does not fire, drawn from documents that the
model reads once.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.features import tables as feature_tables
from core.features.delphi import Passage
from core.features.examples import AFTER, BEFORE, around, packed
from core.features.reading import read
from core.models.live import LiveModel
from core.models.pairs import Side
from core.text.corpus import Document
from core.workspace.store import Workspace, has

if TYPE_CHECKING:
    from sae_lens import SAE

EXPLAINED = 10
"""Passages that an explainer is shown, at most."""
SCORED = 10
"""Passages in which the feature fires, and as many in which it does not, that score an
explanation in one model, at most."""
LEAST = 3
"""Of either, at the least."""
DOCUMENTS = 64
"""Of which passages are drawn in which features do not fire."""
EACH = 4
"""Passages of such a document."""


class Contexts(NamedTuple):
    """Of a feature in one model: what it is explained by, and what scores that."""

    shown: list[Passage]
    scored: list[Passage]


class Pool(NamedTuple):
    """Passages drawn at random, and `fires` [passages, features], where a feature fires in one."""

    passages: list[Passage]
    fires: NDArray[np.bool_]


class Sample(NamedTuple):
    """Passages in an order of chance, and in which of them the feature fires."""

    passages: list[Passage]
    truth: NDArray[np.bool_]


def passages_of(table: pd.DataFrame, texts: Mapping[str, str]) -> list[Passage]:
    """Rows with `document`, `ends` and `heat` as passages; those whose text is not there any more
    are left out."""
    rows = zip(table.document, table.ends, table.heat, strict=True)
    passages = []
    for document, ends, heat in rows:
        text = texts.get(document, "")
        if len(ends) > 1 and len(text) >= ends[-1]:
            tokens = tuple(text[i:j] for i, j in pairwise(ends))
            passages.append(Passage(document, tokens, tuple(map(float, heat))))
    return passages


def contexts(
    ws: Workspace,
    sae: str,
    side: Side,
    feature: int,
    texts: Mapping[str, str],
) -> Contexts | None:
    """The top contexts of a feature explain it, those of its quantiles, which are others, score
    that. A rare feature has few of these: then every second top context scores. None where its
    contexts in that model were not measured."""
    if not has(ws, f"examples_{side}/{sae}"):
        return None

    table = feature_tables.feature_examples(ws, sae, side, feature)
    is_top = table.group == "top"
    top = passages_of(table.loc[is_top].sort_values("rank"), texts)
    by_rank = table.loc[~is_top].sort_values(["rank", "group"], ascending=[True, False])
    others = passages_of(by_rank, texts)
    if len(others) < LEAST:
        top, others = top[::2], top[1::2]
    return Contexts(top[:EXPLAINED], others)


def draw_pool(
    model: LiveModel,
    partner: LiveModel,
    sae: "SAE[Any]",
    layer: int,
    documents: Sequence[Document],
    seed: int = 0,
) -> Pool:
    """Passages of DOCUMENTS of the `documents`, as long as contexts are, and which features of an
    SAE fire in them."""
    rng = np.random.default_rng(seed)
    many = min(DOCUMENTS, len(documents))
    chosen = rng.choice(len(documents), many, replace=False)
    wanted = [documents[k] for k in sorted(chosen.tolist())]

    passages: list[Passage] = []
    fires: list[NDArray[np.bool_]] = []
    for window in read(model, partner, sae, wanted, layer, "passages to compare with"):
        for number in np.unique(window.document):
            rows = np.flatnonzero(window.document == number)
            places = rng.choice(rows, min(EACH, len(rows)), replace=False)
            document = wanted[number]
            for at in places.tolist():
                first, last = max(rows[0], at - BEFORE), min(rows[-1], at + AFTER)
                passages.append(_around(window.ends, window.document, at, document))
                active = window.acts[first : last + 1] > 0
                fires.append(active.any(dim=0).numpy())
    return Pool(passages, np.array(fires))


def _around(
    ends: NDArray[np.int64],
    documents: NDArray[np.int64],
    at: int,
    document: Document,
) -> Passage:
    """What lies around one token, cut as contexts are; where a feature fires is not asked."""
    import torch

    nothing = torch.zeros(len(ends), 1)
    rows = np.array([at])
    spans, heat = around(nothing, rows, np.zeros(1, np.int64), documents, ends)
    window = packed(spans, heat, np.ones(1, np.float32))
    lengths, begin = window["lengths"][0], int(window["begin"][0])
    cuts = begin + np.cumsum([0, *lengths])
    tokens = tuple(document.text[i:j] for i, j in pairwise(cuts))
    return Passage(document.id, tokens, (0.0,) * len(tokens))


def sample(
    contexts: Contexts,
    pool: Pool,
    feature: int,
    seen: Collection[str],
    seed: int = 0,
) -> Sample | None:
    """Passages that score an explanation: as many in which the feature fires as others, none of a
    document that was `seen`. None where there are fewer than LEAST of either."""
    rng = np.random.default_rng([seed, feature])
    active = [passage for passage in contexts.scored if passage.document not in seen]
    silent = [
        pool.passages[k]
        for k in rng.permutation(len(pool.passages)).tolist()
        if not pool.fires[k, feature] and pool.passages[k].document not in seen
    ]
    many = min(SCORED, len(active), len(silent))
    if many < LEAST:
        return None

    both = active[:many] + silent[:many]
    truth = np.arange(2 * many) < many
    order = rng.permutation(2 * many)
    return Sample([both[k] for k in order.tolist()], truth[order])
