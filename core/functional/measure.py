"""From an SAE and its stitch to the tables of functional features (5.2, I), and a head's pattern
over a typed text."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from core import statistics
from core.bench import Bench
from core.errors import StitchLensError
from core.features import measure as feature_measure
from core.functional import ablation
from core.functional.ablation import NULL_SHARES, PAPERS_SHARE
from core.functional.heads import heads
from core.functional.sides import MATCHED, STEP, ScanConfig, Subject, lean, top
from core.models import hooks
from core.models.live import LiveModel, runtime
from core.models.loading import load
from core.progress import Progress
from core.saes.crossing import Crossing
from core.saes.sae import random_sae
from core.stitches.stitch import Stitch
from core.stitches.transfer import transfer_sae, transfer_vector
from core.text.corpus import Document
from core.workspace.disk import fingerprint
from core.workspace.store import Workspace

LONGEST = 256
"""Tokens of a document that is read, in either model."""
LEAST = 8
"""Places at which a feature must fire in the documents read, in both models."""


def scan(
    bench: Bench,
    sae_name: str,
    config: ScanConfig | None = None,
) -> None:
    """Measure the functional features of an SAE whose features were measured, through the same
    stitch, and keep `functional/<sae>/null`, `/ablation`, `/heads`, `/tokens` and `/about`. Steps
    that are there and current are kept.

    Raises StitchLensError where the features were not measured, or the stitch was fitted again
    since.
    """
    config = config or ScanConfig()
    ws = bench.workspace
    crossing = Crossing(bench, sae_name, measured_through(ws, sae_name))

    # Differences of predictions are small: whatever the models run in otherwise, here in float32.
    exact = replace(runtime(), dtype=torch.float32)
    a = Subject("a", load(bench.pair.a, exact), crossing.sae, crossing.layers.a)
    b = Subject("b", load(bench.pair.b, exact), crossing.transferred, crossing.layers.b)
    makers = {
        "pair": bench.pair.key,
        "a": a.model.makers,
        "b": b.model.makers,
        "corpus": bench.corpus.fingerprint,
        "measured": fingerprint(ws.entry(f"features/{sae_name}").makers),
        "sae_name": sae_name,
        "stitch_name": crossing.stitch_name,
        "layer_a": a.layer,
        "layer_b": b.layer,
        **config.model_dump(),
    }

    steps = ("null", "ablation", "heads", "tokens", "about")
    names = {step: f"functional/{sae_name}/{step}" for step in steps}

    def current(*wanted: str) -> bool:
        return all(bench.current(names[step], makers) for step in wanted)

    if current(*steps):
        return

    held_out = bench.corpus.split("held-out")
    documents = read_whole(held_out, (a.model, b.model), config.documents, config.seed)
    if not current("null", "about"):
        read = documents[: config.reading]
        null, about = _null(a, b, crossing.stitch, read, config)
        ws.put_table(names["null"], null, makers)
        ws.put_record(names["about"], about | {"documents": len(documents)}, makers)

    subjects = (a, b)
    table = ws.table(f"features/{sae_name}").loc[:, ["feature", *MATCHED]]
    fired = {subject.name: _firing(subject, documents, len(table)) for subject in subjects}
    often = _often(table, fired, len(documents), config)

    if not current("ablation"):
        shares = ws.table(names["null"])
        changes = _ablation(subjects, often, shares, documents, fired, config)
        ws.put_table(names["ablation"], changes, makers)

    if not current("heads", "tokens"):
        moved, tokens = heads(subjects, often, documents, fired, config)
        ws.put_table(names["tokens"], tokens, makers)
        ws.put_table(names["heads"], moved, makers)


def _firing(
    subject: Subject,
    documents: Sequence[Document],
    features: int,
) -> pd.DataFrame:
    """See `ablation.firing`, of all features."""
    return ablation.firing(
        subject.model,
        subject.sae,
        subject.layer,
        documents,
        range(features),
        f"where features fire in {subject.name.upper()}",
    )


def _often(
    table: pd.DataFrame,
    fired: dict[str, pd.DataFrame],
    documents: int,
    config: ScanConfig,
) -> pd.DataFrame:
    """The rows of features that fire at LEAST places in both models. Raises StitchLensError where
    they are too few."""
    counts = []
    for places in fired.values():
        by_feature = places.feature.value_counts().reindex(table.feature)
        counts.append(by_feature.fillna(0).to_numpy())

    often = table.loc[np.minimum(*counts) >= LEAST]
    wanted = 2 * config.features
    if len(often) < wanted:
        raise StitchLensError(
            f"{len(often)} features that fire {LEAST} times in both models in {documents}"
            " documents",
            f"{wanted}, as many candidates as controls",
            "read more documents (--documents) or measure fewer features (--candidates)",
        )
    return often


def measured_through(ws: Workspace, sae: str) -> str:
    """The stitch that the features of an SAE were measured through. Raises StitchLensError where
    they were not, or it was fitted again since."""
    if f"features/{sae}" not in ws.manifest().artifacts:
        known = [n.removeprefix("features/") for n in ws.names(prefix="features/")]
        raise StitchLensError(
            f"no measured features of SAE '{sae}'",
            f"one of {', '.join(known) or 'none yet'}",
            f"run `python -m core features build {ws.pair}`",
        )
    return feature_measure.stitch_of(ws, sae)


def read_whole(
    documents: Sequence[Document],
    models: Sequence[LiveModel],
    number: int,
    seed: int,
) -> list[Document]:
    """A draw of those that the models read in LONGEST tokens or fewer."""
    order = np.random.default_rng(seed).permutation(len(documents))
    drawn: list[Document] = []
    for k in order:
        if len(drawn) == number:
            break

        text = documents[k].text
        lengths = (len(model.encode([text])[0].ids) for model in models)
        if all(length <= LONGEST for length in lengths):
            drawn.append(documents[k])
    return drawn


def _null(
    a: Subject,
    b: Subject,
    stitch: Stitch,
    documents: Sequence[Document],
    config: ScanConfig,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Fig. 5a, a row a feature in their order: `<side>_<per cent>`, the share of its norm in the
    null space in STEPths; and the same of random SAEs' features (5 %, 50 % and 95 % of them) and of
    the directions of the attention sink."""
    control = random_sae(a.sae, config.seed)
    controls = {"a": control, "b": transfer_sae(control, stitch)}

    sink_a = sink_direction(a, documents)
    sink_b = sink_direction(b, documents)
    sinks = {
        "a": {"a": sink_a},
        "b": {"transferred": transfer_vector(sink_a, stitch), "b": sink_b},
    }

    columns: dict[str, NDArray[Any]] = {}
    randoms: dict[str, list[float]] = {}
    of_sinks: dict[str, float] = {}
    for subject in (a, b):
        basis = ablation.null_basis(subject.model)
        decoder = subject.sae.W_dec.float()
        random_decoder = controls[subject.name].W_dec.float()

        for share in NULL_SHARES:
            per_cent = f"{100 * share:g}"
            key = f"{subject.name}_{per_cent}"
            in_null = ablation.null_share(decoder, basis, share)
            columns[key] = (in_null * STEP).round().to(torch.uint8).numpy()

            random = ablation.null_share(random_decoder, basis, share)
            randoms[key] = [float(random.quantile(q)) for q in (0.05, 0.5, 0.95)]

            for name, direction in sinks[subject.name].items():
                (of_sink,) = ablation.null_share(direction[None], basis, share)
                of_sinks[f"{name}_{per_cent}"] = float(of_sink)
    return pd.DataFrame(columns), {"random": randoms, "sink": of_sinks}


def sink_direction(subject: Subject, documents: Sequence[Document]) -> Float[Tensor, " d"]:
    """What sets the first token apart in the residual stream before the side's layer: less the mean
    of the others."""
    model, layer = subject.model, subject.layer
    first = torch.zeros(model.spec.d_model)
    others = torch.zeros(model.spec.d_model)
    n = 0
    for encoded in model.encode([d.text for d in documents]):
        ids = model.pad([encoded.ids])
        (h,) = hooks.residuals(model, ids, [layer])[layer].float().cpu()
        first = first + h[0]
        others = others + h[1:].sum(0)
        n += len(h) - 1
    return first / len(documents) - others / max(n, 1)


def _ablation(
    subjects: Sequence[Subject],
    often: pd.DataFrame,
    shares: pd.DataFrame,
    documents: Sequence[Document],
    fired: dict[str, pd.DataFrame],
    config: ScanConfig,
) -> pd.DataFrame:
    """The causal check of entropy features, a row a side and feature: `random` for a matched
    control; `activation`, the mean where it fires; `entropy`, `entropy_change` and `loss_change` in
    nats with 95 % intervals; `places`. Half of the candidates stand out in A, half in both."""
    near = shares.iloc[often.feature]

    def ranked(side: str) -> NDArray[np.float64]:
        share = near[f"{side}_{100 * PAPERS_SHARE:g}"]
        activation = often[f"max_{side}"]
        return ablation.both_high(share.to_numpy(), activation.to_numpy())

    in_a = ranked("a")
    in_both = np.minimum(in_a, ranked("b"))
    chosen = top(often.feature.to_numpy(), [in_a, in_both], config.features)
    control = ablation.matched(often, chosen, MATCHED, config.seed)

    rows = []
    work = len(subjects) * (len(chosen) + len(control))
    with Progress("ablating entropy features", work, "feature") as bar:
        for subject in subjects:
            for feature in (*chosen, *control):
                places = ablation.strongest_documents(fired[subject.name], feature, config.each)
                measured = ablation.ablation(
                    subject.model,
                    subject.layer,
                    documents,
                    places,
                    subject.sae.W_dec[feature].float(),
                )
                about = {
                    "side": subject.name,
                    "feature": feature,
                    "random": feature in control,
                }
                rows.append(about | _changes(measured, config.seed))
                bar.advance(1)
    return lean(pd.DataFrame(rows))


def _changes(measured: pd.DataFrame, seed: int) -> dict[str, float]:
    """The columns of `_ablation` that say what one feature's ablation changed."""
    row = {
        "places": len(measured),
        "activation": measured.activation.mean(),
        "entropy": measured.entropy.mean(),
    }
    documents = measured.document.to_numpy()
    for name in ("entropy_change", "loss_change"):
        values = measured[name].to_numpy()
        mean, low, high = statistics.document_interval(values, documents, seed)
        row |= {
            name: mean,
            f"{name}_low": low,
            f"{name}_high": high,
        }
    return row
