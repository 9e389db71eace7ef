"""What crossing costs where every position crosses, first tokens and massive activations among
them: a stitch in two pieces beside the ordinary one and its controls."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from core.bench import Bench
from core.models.pairs import LayerPair
from core.statistics import bounds
from core.stitches import downstream
from core.stitches.settings import SinkConfig
from core.stitches.sink import Sink, two_piece
from core.stitches.stitch import Stitch

KEPT = "kept"
"""The condition in which the first position does not cross, as everywhere else."""
DRAWS = 500
"""Of a bootstrap over documents."""


class Maps(NamedTuple):
    """What crosses under each condition: a stitch, and whether the first position does, too."""

    stitch: Stitch
    first: bool


def maps_of(
    stitch: Stitch,
    sink: Sink,
    shuffled: Sink,
) -> dict[str, Maps]:
    """By condition: today's, then every position by the ordinary map, in two pieces, and by the
    controls' second pieces."""
    return {
        KEPT: Maps(stitch, False),
        "ordinary": Maps(stitch, True),
        "two_piece": Maps(two_piece(stitch, sink), True),
        "shuffled": Maps(two_piece(stitch, shuffled), True),
        "mean": Maps(two_piece(stitch, sink.mean_alone()), True),
    }


def losses(
    bench: Bench,
    layers: LayerPair,
    maps: Mapping[str, Maps],
    config: SinkConfig,
) -> pd.DataFrame:
    """`core.stitches.downstream.summarise` of every condition, by `kind` of text ('' for all), with
    `direction`; and `more`, the loss over that of today's condition (nats/token), with its
    interval."""
    conditions = [*downstream.unpatched()]
    for name, one in maps.items():
        conditions += _conditions(name, one)

    documents = bench.corpus.split("held-out")
    desc = "losses where the sink crosses"
    measured = pd.DataFrame(
        downstream.measure(bench.a, bench.b, documents, layers, conditions, desc, config.tokens)
    )
    kinds = measured.document.map({document.id: document.kind for document in documents})
    parts = []
    for kind in ("", *sorted(kinds.unique())):
        some = measured if kind == "" else measured.loc[kinds == kind]
        table = downstream.summarise(some, config.seed).assign(kind=kind)
        more = pd.DataFrame([_more(some, condition, config.seed) for condition in table.condition])
        parts.append(pd.concat([table, more], axis=1))

    table = pd.concat(parts, ignore_index=True)
    table["direction"] = table.model.map({"b": "a_to_b", "a": "b_to_a"})
    table["condition"] = [
        "own" if name in ("a", "b") else name.partition("/")[0] for name in table.condition
    ]
    return table


def _conditions(name: str, one: Maps) -> list[downstream.Condition]:
    stitch, first = one

    def up(
        x: Tensor,
        y: Tensor,
        firsts: Tensor | None = None,
    ) -> Tensor:
        return stitch.carry(x, "b", firsts)

    def down(
        x: Tensor,
        y: Tensor,
        firsts: Tensor | None = None,
    ) -> Tensor:
        return stitch.carry(y, "a", firsts)

    return [
        downstream.Condition(f"{name}/a_to_b", "b", up, first),
        downstream.Condition(f"{name}/b_to_a", "a", down, first),
    ]


def _more(
    measured: pd.DataFrame,
    condition: str,
    seed: int,
) -> dict[str, float]:
    """What a condition loses over today's, nats/token, on the same documents."""
    _, _, direction = condition.partition("/")
    if not direction:
        return {"more": math.nan, "more_low": math.nan, "more_high": math.nan}

    by_condition = measured.set_index("document")
    of_condition = by_condition[by_condition.condition == condition]
    today = by_condition[by_condition.condition == f"{KEPT}/{direction}"].loc[of_condition.index]
    weights = weights_of(len(today), seed)
    drawn = drawn_means((of_condition.loss - today.loss).tolist(), today.tokens.to_numpy(), weights)
    low, high = bounds(drawn[1:])
    return {"more": float(drawn[0]), "more_low": float(low), "more_high": float(high)}


def weights_of(n: int, seed: int) -> NDArray[np.float64]:
    """How often each document counts: once in the first row, then as it is drawn."""
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DRAWS)
    return np.vstack([np.ones(n), draws]).astype(np.float64)


def drawn_means(
    values: Sequence[float],
    counts: NDArray[np.int64],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """[draws] of a mean, from each document's sum."""
    return (weights @ np.array(values)) / (weights @ counts)
