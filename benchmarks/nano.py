"""Held-out loss of the two nano models against an interpolated modified Kneser-Ney 5-gram on the
same tokens.

The count model reads the fit split's tokens and predicts every token of the held-out split but the
first of each document, as the models do. Counts of order k < 5 are Kneser-Ney's continuation
counts; discounts are Chen and Goodman's (1998), from the numbers of grams that were seen once to
four times; order 0 is uniform.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._measure import Benchmark, Line, quiet, say

ORDER = 5
Ids = NDArray[np.int64]


def padded(documents: Sequence[NDArray[np.int32]], order: int) -> Ids:
    """[n, order] the gram that ends at each token but a document's first, which also lies before
    the document."""
    out = []
    for d in documents:
        if len(d) > 1:
            long = np.concatenate([np.full(order - 2, d[0], dtype=np.int64), d])
            out.append(np.lib.stride_tricks.sliding_window_view(long, order))
    return np.concatenate(out)


def _code(grams: Ids, vocabulary: int) -> Ids:
    """One number a gram."""
    code = np.zeros(len(grams), dtype=np.int64)
    for k in range(grams.shape[1]):
        code = code * vocabulary + grams[:, k]
    return code


def _look_up(keys: Ids, values: NDArray[np.float64], wanted: Ids) -> NDArray[np.float64]:
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0.0)


class KneserNey:
    """Interpolated modified Kneser-Ney over token ids below `vocabulary`; `vocabulary ** order`
    must fit 63 bits."""

    def __init__(
        self, documents: Sequence[NDArray[np.int32]], vocabulary: int, order: int = ORDER
    ) -> None:
        if order * np.log2(vocabulary) >= 63:
            raise ValueError(f"{order} tokens of {vocabulary} do not fit one 63-bit number")
        self.vocabulary, self.order = vocabulary, order
        self.levels: list[
            tuple[Ids, NDArray[np.float64], Ids, NDArray[np.float64], NDArray[np.float64]]
        ] = []
        codes, counts = np.unique(_code(padded(documents, order), vocabulary), return_counts=True)
        for k in range(order, 0, -1):
            self.levels.insert(0, self._level(codes, counts.astype(np.float64)))
            codes, counts = np.unique(
                codes % vocabulary ** (k - 1), return_counts=True
            )  # distinct left neighbours

    def _level(self, codes: Ids, counts: NDArray[np.float64]) -> Any:
        """(grams, count less discount, contexts, their totals, the mass that their discounts
        free)."""
        seen = [max(int((counts == i).sum()), 1) for i in (1, 2, 3, 4)]
        y = seen[0] / (seen[0] + 2 * seen[1])
        steps = np.clip(
            [0, *(i - (i + 1) * y * seen[i] / seen[i - 1] for i in (1, 2, 3))], 0, [0, 1, 2, 3]
        )
        discount = steps[np.minimum(counts, 3).astype(int)]
        contexts, where = np.unique(codes // self.vocabulary, return_inverse=True)
        totals, freed = np.bincount(where, counts), np.bincount(where, discount)
        return codes, counts - discount, contexts, totals, freed

    def probability(self, grams: Ids) -> NDArray[np.float64]:
        """[n] of the last token of each gram [n, order] after the others."""
        p = np.full(len(grams), 1 / self.vocabulary)
        for k, (codes, less, contexts, totals, freed) in enumerate(self.levels, 1):
            code = _code(grams[:, self.order - k :], self.vocabulary)
            context = code // self.vocabulary
            total = _look_up(contexts, totals, context)
            known = total > 0
            mass = _look_up(codes, less, code) + _look_up(contexts, freed, context) * p
            p = np.where(known, mass / np.where(known, total, 1.0), p)
        return p

    def loss(self, documents: Sequence[NDArray[np.int32]]) -> float:
        """Nats/token."""
        return float(-np.log(self.probability(padded(documents, self.order))).mean())


def run() -> tuple[dict[str, Any], list[Line]]:
    from core.models.loading import load
    from core.models.pairs import get_pair
    from core.models.training import document_loss, unigram_loss
    from core.text.corpus import load_corpus

    pair = get_pair("nano")
    corpus, models = load_corpus(pair.corpus), (load(pair.a), load(pair.b))
    fit, held_out = (
        [e.ids for e in models[0].encode([d.text for d in corpus.split(s)])]
        for s in ("fit", "held-out")
    )
    vocabulary = len(models[0].tokenizer)
    say(f"counting {sum(map(len, fit)):,} tokens")
    counted = KneserNey(fit, vocabulary).loss(held_out)
    losses = [document_loss(m.hf, held_out, m.where) for m in models]
    lines = [
        Line("unigram", unigram_loss(fit, held_out, vocabulary), "nats/token"),
        Line(f"Kneser-Ney, order {ORDER}", counted, "nats/token"),
        *(
            Line(m.spec.key, loss, "nats/token", at_most=counted)
            for m, loss in zip(models, losses, strict=True)
        ),
        Line("nano-a above nano-b", losses[0] - losses[1], "nats/token", at_least=0.10),
    ]
    settings = {
        "fit tokens": sum(map(len, fit)),
        "held-out tokens": sum(len(d) - 1 for d in held_out),
    }
    return settings, lines


def main() -> None:
    quiet()
    p = Benchmark("nano", __doc__)
    p.options()
    settings, lines = run()
    p.show("nano: against count models", settings, lines)


if __name__ == "__main__":
    main()
