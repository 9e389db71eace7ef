"""Attention deactivation: heads that a feature turns to the first token, or away (5.2, I)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from core import statistics
from core.activations.harvest import batches
from core.functional import ablation
from core.functional.attention import Heads, readers, scores
from core.functional.sides import KINDS, MATCHED, PARTS, ScanConfig, Subject, lean, top
from core.models.live import LiveModel
from core.progress import Progress
from core.text.corpus import Document


def heads(
    subjects: Sequence[Subject],
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
    features = often.feature.to_numpy()
    heads = {subject.name: Heads(subject.model) for subject in subjects}
    score: dict[str, Tensor] = {}
    reach: dict[str, Tensor] = {}
    for subject in subjects:
        batches = reading(subject.model, documents[: config.reading])
        read = readers(heads[subject.name], batches, subject.layers)
        by_layer = [of_layer for _, of_layer in scores(subject.sae.W_dec.float(), read)]
        of_all = torch.stack(by_layer, dim=1)  # [f, layers, heads]

        largest = torch.tensor(often[f"max_{subject.name}"].to_list())
        of_often = of_all[torch.from_numpy(features)].flatten(1)
        score[subject.name] = of_all
        reach[subject.name] = of_often * largest[:, None]

    chosen = top(features, _rankings(reach), config.features)
    control = ablation.matched(often, chosen, MATCHED, config.seed)

    rows: list[pd.DataFrame] = []
    tokens: list[dict[str, Any]] = []
    work = len(subjects) * (len(chosen) + len(control))
    with Progress("patching attention", work, "feature") as bar:
        for subject in subjects:
            for feature in (*chosen, *control):
                places = ablation.strongest_documents(fired[subject.name], feature, config.each)
                patched = ablation.path_patch(
                    heads[subject.name],
                    subject.layers,
                    documents,
                    places,
                    subject.sae.W_dec[feature].float(),
                )
                about = {
                    "side": subject.name,
                    "feature": feature,
                    "random": feature in control,
                }
                of_feature = score[subject.name][feature]
                rows.append(_moved(subject, about, patched, of_feature))
                for kind in KINDS:
                    shown = _tokens(subject, kind, patched, documents, config)
                    tokens.append(about | {"kind": kind} | shown)
                bar.advance(1)

    table = lean(pd.concat(rows, ignore_index=True))
    rounded = table.round(
        {
            "score": 2,
            "before": 2,
            "change": 4,
        }
    )
    return rounded, lean(pd.DataFrame(tokens))


def _rankings(reach: dict[str, Tensor]) -> list[NDArray[Any]]:
    """What candidates are taken by, the larger the sooner: how far a feature can turn a head to the
    first token in A, in both models (the lower of its ranks), and away from it in both."""
    turned = [of_heads.amax(1).numpy() for of_heads in reach.values()]
    away = [(-of_heads).amax(1).numpy() for of_heads in reach.values()]

    def in_both(sides: list[NDArray[Any]]) -> NDArray[Any]:
        ranks = (pd.Series(side).rank(pct=True).to_numpy() for side in sides)
        return np.minimum(*ranks)

    return [turned[0], in_both(turned), in_both(away)]


def _moved(
    subject: Subject,
    about: dict[str, Any],
    patched: ablation.Patched,
    score: Tensor,
) -> pd.DataFrame:
    """A row a head of what one feature does to it."""
    before = patched.before.mean(0)
    change = (patched.after - patched.before).mean(0)
    layer, head = np.indices(before.shape)
    reached = score * patched.fired.activation.mean()
    return pd.DataFrame(
        about
        | {
            "layer": layer.reshape(-1) + subject.layer,
            "head": head.reshape(-1),
            "score": reached.reshape(-1).numpy(),
            "before": before.reshape(-1),
            "change": change.reshape(-1),
        }
    )


def reading(model: LiveModel, documents: Sequence[Document]) -> list[tuple[Tensor, Tensor]]:
    """Batches of token ids, and which are text, for `core.functional.attention.readers`."""
    encoded = model.encode([d.text for d in documents])
    parts = []
    for some in batches(encoded):
        ids = model.pad([encoded[i].ids for i in some])
        wanted = torch.zeros(ids.shape, dtype=torch.bool)
        for row, i in enumerate(some):
            usable = np.flatnonzero(encoded[i].usable)
            wanted[row, torch.from_numpy(usable)] = True
        parts.append((ids, wanted))
    return parts


def _tokens(
    subject: Subject,
    kind: str,
    patched: ablation.Patched,
    documents: Sequence[Document],
    config: ScanConfig,
) -> dict[str, Any]:
    """Fig. 5b and 16: the head whose attention to the first token falls (deactivation) or rises
    (activation) most when the feature is ablated, at places spread evenly from the strongest
    activation to the weakest."""
    change = (patched.after - patched.before).mean(0)
    most = (change * KINDS[kind]).argmax()
    layer, head = np.unravel_index(most, change.shape)
    before = patched.before[:, layer, head]
    after = patched.after[:, layer, head]

    fired = patched.fired
    mean, low, high = statistics.document_interval(
        after - before,
        fired.document.to_numpy(),
        config.seed,
    )

    falling = fired.activation.sort_values(ascending=False, kind="stable").index.to_numpy()
    many = min(config.tokens, len(falling))
    spread = np.linspace(0, len(falling) - 1, many).round().astype(int)
    shown = falling[spread]

    texts = []
    model = subject.model
    places = fired.loc[shown]
    for document, position in zip(places.document, places.position, strict=True):
        (encoded,) = model.encode([documents[document].text])
        texts.append(model.tokenizer.decode([int(encoded.ids[position])]))

    return {
        "layer": int(layer) + subject.layer,
        "head": int(head),
        "change": round(mean, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "places": len(before),
        "token": texts,
        "before": (before[shown] * PARTS).round().astype(np.uint16),
        "after": (after[shown] * PARTS).round().astype(np.uint16),
    }
