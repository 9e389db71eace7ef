"""Attention deactivation: heads that a feature turns to the first token, or away (5.2, I)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from core import statistics
from core.activations.harvest import batches
from core.functional import ablation
from core.functional.attention import Heads, readers, scores
from core.functional.sides import KINDS, MATCHED, PARTS, ScanConfig, Side, lean, top
from core.models.live import LiveModel
from core.progress import Progress
from core.text.corpus import Document

if TYPE_CHECKING:
    pass


def heads(
    sides: Sequence[Side],
    often: pd.DataFrame,
    documents: Sequence[Document],
    fired: dict[str, pd.DataFrame],
    config: ScanConfig,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Attention deactivation, two tables.

    A row a side, feature and downstream head: `random`; `score`, the heuristic score times the mean
    activation where it fires (in attention logits); `before`, mean attention to the first token
    there, and `change`, when the feature's contribution is taken out of the head's input. A row a
    side, feature and `kind` for the head that it moves most that way: `change` with its interval,
    `places`, and at some of these `token`, `before` and `after` in PARTSths.
    """
    heads = {s.name: Heads(s.model) for s in sides}
    features = torch.tensor(often.feature.to_list())
    best: dict[str, dict[str, NDArray[Any]]] = {}
    score: dict[str, Tensor] = {}
    for s in sides:
        read = readers(heads[s.name], reading(s.model, documents[: config.reading]), s.layers)
        score[s.name] = torch.stack(
            [x for _, x in scores(s.sae.W_dec.float(), read)], dim=1
        )  # [f, layers, heads]
        reach = (
            score[s.name][features].flatten(1)
            * torch.tensor(often[f"max_{s.name}"].to_list())[:, None]
        )
        best[s.name] = {
            "deactivation": reach.amax(1).numpy(),
            "activation": (-reach).amax(1).numpy(),
        }
    rankings = [
        (
            np.minimum(*(pd.Series(best[s.name][kind]).rank(pct=True).to_numpy() for s in some))
            if len(some) > 1
            else best[some[0].name][kind]
        )
        for kind, some in (
            ("deactivation", sides[:1]),
            ("deactivation", sides),
            ("activation", sides),
        )
    ]
    chosen = top(often.feature.to_numpy(), rankings, config.features)
    control = ablation.matched(often, chosen, MATCHED, config.seed)
    rows, tokens = [], []
    with Progress(
        "patching attention", len(sides) * (len(chosen) + len(control)), "feature"
    ) as bar:
        for s in sides:
            for f in (*chosen, *control):
                some = ablation.strongest_documents(fired[s.name], f, config.each)
                found = ablation.path_patch(
                    heads[s.name], s.layers, documents, some, s.sae.W_dec[f].float()
                )
                mean, change = found.before.mean(0), (found.after - found.before).mean(0)
                layer, head = (x.reshape(-1) for x in np.indices(mean.shape))
                rows.append(
                    pd.DataFrame(
                        {
                            "side": s.name,
                            "feature": f,
                            "random": f in control,
                            "layer": layer + s.layer,
                            "head": head,
                            "score": (
                                (score[s.name][f] * found.fired.activation.mean())
                                .reshape(-1)
                                .numpy()
                            ),
                            "before": mean.reshape(-1),
                            "change": change.reshape(-1),
                        }
                    )
                )
                tokens += [
                    _tokens(s, f, f in control, kind, found, change, documents, config)
                    for kind in KINDS
                ]
                bar.advance(1)
    table = lean(pd.concat(rows, ignore_index=True))
    return table.round({"score": 2, "before": 2, "change": 4}), lean(pd.DataFrame(tokens))


def reading(model: LiveModel, documents: Sequence[Document]) -> list[tuple[Tensor, Tensor]]:
    """Batches of token ids, and which are text, for `core.functional.attention.readers`."""
    encoded = model.encode([d.text for d in documents])
    out = []
    for some in batches(encoded):
        ids = model.pad([encoded[i].ids for i in some])
        wanted = torch.zeros(ids.shape, dtype=torch.bool)
        for r, i in enumerate(some):
            wanted[r, torch.from_numpy(np.flatnonzero(encoded[i].usable))] = True
        out.append((ids, wanted))
    return out


def _tokens(
    side: Side,
    feature: int,
    random: bool,
    kind: str,
    found: ablation.Patched,
    change: NDArray[Any],
    documents: Sequence[Document],
    config: ScanConfig,
) -> dict[str, Any]:
    """Fig. 5b and 16: the head whose attention to the first token falls (deactivation) or rises
    (activation) most when the feature is ablated, at places spread evenly from the strongest
    activation to the weakest."""
    layer, head = np.unravel_index((change * KINDS[kind]).argmax(), change.shape)
    before, after = found.before[:, layer, head], found.after[:, layer, head]
    mean, low, high = statistics.document_interval(
        after - before, found.fired.document.to_numpy(), config.seed
    )
    order = found.fired.activation.sort_values(ascending=False, kind="stable").index.to_numpy()
    some = order[np.linspace(0, len(order) - 1, min(config.tokens, len(order))).round().astype(int)]
    places = found.fired.loc[some]
    texts = [
        side.model.tokenizer.decode([int(side.model.encode([documents[d].text])[0].ids[p])])
        for d, p in zip(places.document, places.position, strict=True)
    ]
    return {
        "side": side.name,
        "feature": feature,
        "random": random,
        "kind": kind,
        "layer": int(layer) + side.layer,
        "head": int(head),
        "change": round(mean, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "places": len(before),
        "token": texts,
        "before": (before[some] * PARTS).round().astype(np.uint16),
        "after": (after[some] * PARTS).round().astype(np.uint16),
    }
