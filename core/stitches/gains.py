"""What refining gains and what it costs, each start before and after: losses by kind of text,
divergence from a model's own predictions, unexplained variance."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from core.activations.harvest import batches
from core.bench import Bench
from core.models.pairs import LayerPair
from core.statistics import bounds, document_interval
from core.stitches import downstream
from core.stitches.conditions import BY_KEY, STITCHED, WHOLE
from core.stitches.objective import divergences, read_texts
from core.stitches.settings import CEILINGS, STARTS
from core.stitches.stitch import Maps, Stitch
from core.text.corpus import Document

ONE_WAY = STITCHED[:2]
DIVERGENCE_TOKENS = 2_048
"""Of B on held-out text, a kind: what the divergence is measured on."""
Variants = Mapping[tuple[str, str], Sequence[downstream.Condition]]
"""Conditions by start and 'before' or 'after'."""


def variants_of(
    before: Mapping[str, Stitch],
    after: Mapping[str, Stitch],
    means: tuple[Tensor, Tensor],
) -> Variants:
    """Those of each start; a control has no round trips. What stands for nothing learned from a
    constant input is the mean itself."""
    mean_a, mean_b = means
    variants: dict[tuple[str, str], list[downstream.Condition]] = {}
    for when, known in (("before", before), ("after", after)):
        for start in before:
            ways = STITCHED if start == "paired" else ONE_WAY
            variants[start, when] = ways_of(known[start], start, when, ways)

    if fixed := after.get("constant input"):
        learned = fixed.down(mean_b), fixed.up(mean_a)
        for when, (row_a, row_b) in (("before", (mean_a, mean_b)), ("after", learned)):
            fixed_ways = [_constant("a_to_b", row_b), _constant("b_to_a", row_a)]
            variants["constant input", when] = _named("constant input", when, fixed_ways)
    return variants


def ways_of(
    maps: Maps,
    start: str,
    when: str,
    ways: Sequence[str] = ONE_WAY,
) -> list[downstream.Condition]:
    """Those of STITCHED that are among `ways`."""
    every = downstream.stitched(maps)
    return _named(start, when, [one for one in every if one.name in ways])


def _named(
    start: str,
    when: str,
    ways: Sequence[downstream.Condition],
) -> list[downstream.Condition]:
    return [replace(one, name=condition_name(start, when, one.name)) for one in ways]


def _constant(way: str, row: Tensor) -> downstream.Condition:
    """One row in the place of every one."""
    if way == "a_to_b":
        return downstream.Condition(way, "b", lambda x, y: row.expand_as(y))
    return downstream.Condition(way, "a", lambda x, y: row.expand_as(x))


USUAL = {
    ("paired", "after"): {way: way for way in STITCHED},
    ("shuffled pairs", "after"): {way: f"shuffled_{way}" for way in ONE_WAY},
    ("constant input", "before"): {"a_to_b": "mean_ablated_b", "b_to_a": "mean_ablated_a"},
    (CEILINGS[1], "before"): {way: f"{CEILINGS[0]}/after/{way}" for way in ONE_WAY},
}
"""What is measured anyway, in Table 1 mostly, by the name that it has there."""


def condition_name(
    start: str,
    when: str,
    way: str,
) -> str:
    """Of one measurement: as it is called where it is measured anyway, else 'start/when/way'."""
    return USUAL.get((start, when), {}).get(way, f"{start}/{when}/{way}")


def extra(start: str, when: str) -> bool:
    return (start, when) not in USUAL


def gains(losses: pd.DataFrame, documents: Sequence[Document]) -> pd.DataFrame:
    """From losses by document and condition: a row a start, kind of text (WHOLE last) and way.

    `model` that is scored, `documents`, `tokens`, `share_patched`; in nats/token of that model
    `loss_unpatched`, `loss_before`, `loss_after`; `relative_before`, `relative_after` and their
    difference `change`, fractions of the unpatched loss, each with `_low`, `_high`: 95 %, bootstrap
    over documents, which are the same draws for all three.
    """
    kinds = losses.document.map({document.id: document.kind for document in documents})
    groups = [(str(kind), rows) for kind, rows in losses.groupby(kinds, sort=True)]
    rows = []
    for kind, group in (*groups, (WHOLE, losses)):
        known = set(group.condition)
        for start in (*STARTS, *CEILINGS):
            for way in STITCHED:
                names = [condition_name(start, when, way) for when in ("before", "after")]
                if known.issuperset(names):
                    row = {"start": start, "kind": kind, "condition": way}
                    rows.append(row | _gain(group, BY_KEY[way].model, names))
    return pd.DataFrame(rows)


def _gain(
    losses: pd.DataFrame,
    model: str,
    names: Sequence[str],
) -> dict[str, Any]:
    """The columns of `gains` for one way, whose conditions before and after are named."""
    by_condition = {
        condition: losses[losses.condition == condition].set_index("document")
        for condition in (model, *names)
    }
    unpatched = by_condition[model]
    n = len(unpatched)
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=downstream.BOOTSTRAPS)
    row: dict[str, Any] = {
        "model": model,
        "documents": n,
        "tokens": int(unpatched.tokens.sum()),
        "loss_unpatched": unpatched.loss.sum() / unpatched.tokens.sum(),
    }

    usual = downstream.drawn_means(unpatched, weights)
    relative, drawn = {}, {}
    for when, name in zip(("before", "after"), names, strict=True):
        scored = by_condition[name].loc[unpatched.index]
        loss = scored.loss.sum() / scored.tokens.sum()
        row[f"loss_{when}"] = loss
        row["share_patched"] = scored.patched.sum() / scored.tokens.sum()
        relative[f"relative_{when}"] = loss / row["loss_unpatched"] - 1
        drawn[f"relative_{when}"] = downstream.drawn_means(scored, weights) / usual - 1

    relative["change"] = relative["relative_after"] - relative["relative_before"]
    drawn["change"] = drawn["relative_after"] - drawn["relative_before"]
    for name, value in relative.items():
        row[name] = value
        row[f"{name}_low"], row[f"{name}_high"] = bounds(drawn[name])
    return row


def divergence(
    bench: Bench,
    layers: LayerPair,
    variants: Variants,
    documents: Sequence[Document],
    kinds: Sequence[str],
) -> pd.DataFrame:
    """KL from a model's own predictions, nats a position, on held-out text that the run has not
    read: `start`, `kind`, `condition`, and `kl_before`, `kl_after`, each with `_low`, `_high`."""
    rows = []
    for kind in kinds or sorted({document.kind for document in documents}):
        measured = _divergences(bench, layers, variants, documents, kind)
        for start in (*STARTS, *CEILINGS):
            for way in STITCHED:
                row: dict[str, Any] = {"start": start, "kind": kind, "condition": way}
                for when in ("before", "after"):
                    name = condition_name(start, when, way)
                    if name in measured:
                        values = document_interval(*measured[name])
                        names = ("", "_low", "_high")
                        row |= {f"kl_{when}{x}": v for x, v in zip(names, values, strict=True)}
                rows.append(row)
    return pd.DataFrame(rows)


def _divergences(
    bench: Bench,
    layers: LayerPair,
    variants: Variants,
    documents: Sequence[Document],
    kind: str,
) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """By condition: KL at each position of some held-out text of a kind, and its document."""
    chosen: list[Document] = []
    for document in documents:
        if document.kind == kind and sum(len(d.text) for d in chosen) < 4 * DIVERGENCE_TOKENS:
            chosen.append(document)

    texts = [document.text for document in chosen]
    tokens_a, tokens_b = bench.a.encode(texts), bench.b.encode(texts)
    parts: dict[str, list[tuple[NDArray[Any], NDArray[Any]]]] = {}
    for group in batches(tokens_b):
        encoded = [tokens_a[i] for i in group], [tokens_b[i] for i in group]
        readings = read_texts((bench.a, bench.b), layers, encoded)
        if readings is None:
            continue
        rows_a, rows_b = (readings[side].stream.cpu() for side in ("a", "b"))
        numbers = np.array(group)[readings["b"].row.cpu().numpy()]
        for condition in (one for ways in variants.values() for one in ways):
            assert condition.rows is not None
            rows = condition.rows(rows_a, rows_b)
            values = divergences(readings[condition.model], rows)
            parts.setdefault(condition.name, []).append((values, numbers))
    return {
        name: (np.concatenate([v for v, _ in some]), np.concatenate([d for _, d in some]))
        for name, some in parts.items()
    }


def with_unexplained(
    table: pd.DataFrame,
    unexplained: Mapping[tuple[str, str], Mapping[str, float]],
) -> pd.DataFrame:
    """`table` with `unexplained_before`, `unexplained_after` in the rows of all text: the share of
    the variance that a way leaves unexplained, or that a round trip loses."""
    measures = dict(
        zip(STITCHED, ("fuv_up", "fuv_down", "inversion_a", "inversion_b"), strict=True)
    )
    for when in ("before", "after"):
        table[f"unexplained_{when}"] = [
            unexplained.get((start, when), {}).get(measures[condition], np.nan)
            if kind == WHOLE
            else np.nan
            for start, condition, kind in zip(table.start, table.condition, table.kind, strict=True)
        ]
    return table
