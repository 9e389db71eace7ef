"""From an SAE and its stitch to the tables of functional features (5.2, I), and a head's pattern
over a typed text."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

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
from core.functional.sides import MATCHED, STEP, ScanConfig, Side, lean, top
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

if TYPE_CHECKING:
    pass

LONGEST = 256
"""Tokens of a document that is read, in either model."""
LEAST = 8
"""Places at which a feature must fire in the documents read, in both models."""


def scan(bench: Bench, sae_name: str, config: ScanConfig | None = None) -> None:
    """Measure the functional features of an SAE whose features were measured, through the same
    stitch, and keep `functional/<sae>/null`, `/ablation`, `/heads`, `/tokens` and `/about`. Steps
    that are there and current are kept.

    Raises StitchLensError where the features were not measured, or the stitch was fitted again
    since.
    """
    config = config or ScanConfig()
    ws = bench.workspace
    crossing = Crossing(bench, sae_name, measured_through(ws, sae_name))
    exact = replace(runtime(), dtype=torch.float32)
    a = Side("a", load(bench.pair.a, exact), crossing.sae, crossing.layers.a)
    b = Side("b", load(bench.pair.b, exact), crossing.transferred, crossing.layers.b)
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
    names = {
        what: f"functional/{sae_name}/{what}"
        for what in ("null", "ablation", "heads", "tokens", "about")
    }
    if all(bench.current(name, makers) for name in names.values()):
        return
    documents = _documents(bench.corpus.split("held-out"), (a.model, b.model), config)
    table = ws.table(f"features/{sae_name}")[["feature", *MATCHED]]
    if not (bench.current(names["null"], makers) and bench.current(names["about"], makers)):
        null, about = _null(a, b, crossing.stitch, documents[: config.reading], config)
        ws.put_table(names["null"], null, makers)
        ws.put_record(names["about"], about | {"documents": len(documents)}, makers)
    shares = ws.table(names["null"])
    sides = (a, b)
    fired = {
        s.name: ablation.firing(
            s.model,
            s.sae,
            s.layer,
            documents,
            range(len(table)),
            f"where features fire in {s.name.upper()}",
        )
        for s in sides
    }
    counts = [
        fired[s.name].feature.value_counts().reindex(table.feature).fillna(0).to_numpy()
        for s in sides
    ]
    often = table.loc[np.minimum(*counts) >= LEAST]
    if len(often) < 2 * config.features:
        raise StitchLensError(
            f"{len(often)} features that fire {LEAST} times in both models in {len(documents)}"
            " documents",
            f"{2 * config.features}, as many candidates as controls",
            "read more documents (--documents) or measure fewer features (--candidates)",
        )
    if not bench.current(names["ablation"], makers):
        ws.put_table(
            names["ablation"], _ablation(sides, often, shares, documents, fired, config), makers
        )
    if not (bench.current(names["heads"], makers) and bench.current(names["tokens"], makers)):
        moved, tokens = heads(sides, often, documents, fired, config)
        ws.put_table(names["tokens"], tokens, makers)
        ws.put_table(names["heads"], moved, makers)


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


def _documents(
    documents: Sequence[Document], models: Sequence[LiveModel], config: ScanConfig
) -> list[Document]:
    """A draw of those that both models read in LONGEST tokens or fewer."""
    order = np.random.default_rng(config.seed).permutation(len(documents))
    out: list[Document] = []
    for k in order:
        if len(out) == config.documents:
            break
        if all(len(m.encode([documents[k].text])[0].ids) <= LONGEST for m in models):
            out.append(documents[k])
    return out


def _null(
    a: Side, b: Side, stitch: Stitch, documents: Sequence[Document], config: ScanConfig
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Fig. 5a, a row a feature in their order: `<side>_<per cent>`, the share of its norm in the
    null space in STEPths; and the same of random SAEs' features (5 %, 50 % and 95 % of them) and of
    the directions of the attention sink."""
    control = random_sae(a.sae, config.seed)
    drawn = {"a": control, "b": transfer_sae(control, stitch)}
    sink = {side.name: sink_direction(side, documents) for side in (a, b)}
    columns: dict[str, NDArray[Any]] = {}
    about: dict[str, Any] = {"random": {}, "sink": {}}
    for side in (a, b):
        basis = ablation.null_basis(side.model)
        moved = (
            {"a": sink["a"]}
            if side is a
            else {"transferred": transfer_vector(sink["a"], stitch), "b": sink["b"]}
        )
        for share in NULL_SHARES:
            key = f"{side.name}_{100 * share:g}"
            found = ablation.null_share(side.sae.W_dec.float(), basis, share)
            columns[key] = (found * STEP).round().to(torch.uint8).numpy()
            random = ablation.null_share(drawn[side.name].W_dec.float(), basis, share)
            about["random"][key] = [float(random.quantile(q)) for q in (0.05, 0.5, 0.95)]
            about["sink"] |= {
                f"{name}_{100 * share:g}": float(ablation.null_share(v[None], basis, share)[0])
                for name, v in moved.items()
            }
    return pd.DataFrame(columns), about


def sink_direction(side: Side, documents: Sequence[Document]) -> Float[Tensor, " d"]:
    """What sets the first token apart in the residual stream before the side's layer: less the mean
    of the others."""
    first, total, n = torch.zeros(side.model.spec.d_model), torch.zeros(side.model.spec.d_model), 0
    for encoded in side.model.encode([d.text for d in documents]):
        (h,) = (
            hooks.residuals(side.model, side.model.pad([encoded.ids]), [side.layer])[side.layer]
            .float()
            .cpu()
        )
        first, total, n = first + h[0], total + h[1:].sum(0), n + len(h) - 1
    return first / len(documents) - total / max(n, 1)


def _ablation(
    sides: Sequence[Side],
    often: pd.DataFrame,
    shares: pd.DataFrame,
    documents: Sequence[Document],
    fired: dict[str, pd.DataFrame],
    config: ScanConfig,
) -> pd.DataFrame:
    """The causal check of entropy features, a row a side and feature: `random` for a matched
    control; `activation`, the mean where it fires; `entropy`, `entropy_change` and `loss_change` in
    nats with 95 % intervals; `places`. Half of the candidates stand out in A, half in both."""
    column = f"{100 * PAPERS_SHARE:g}"
    near = shares.iloc[often.feature]
    rank = {
        s.name: ablation.both_high(
            near[f"{s.name}_{column}"].to_numpy(), often[f"max_{s.name}"].to_numpy()
        )
        for s in sides
    }
    chosen = top(
        often.feature.to_numpy(), [rank["a"], np.minimum(rank["a"], rank["b"])], config.features
    )
    control = ablation.matched(often, chosen, MATCHED, config.seed)
    rows = []
    with Progress(
        "ablating entropy features", len(sides) * (len(chosen) + len(control)), "feature"
    ) as bar:
        for side in sides:
            for f in (*chosen, *control):
                some = ablation.strongest_documents(fired[side.name], f, config.each)
                found = ablation.ablation(
                    side.model, side.layer, documents, some, side.sae.W_dec[f].float()
                )
                where = found.document.to_numpy()
                row = {
                    "side": side.name,
                    "feature": f,
                    "random": f in control,
                    "places": len(found),
                }
                row |= {"activation": found.activation.mean(), "entropy": found.entropy.mean()}
                for name in ("entropy_change", "loss_change"):
                    values = statistics.document_interval(
                        found[name].to_numpy(), where, config.seed
                    )
                    row |= dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
                rows.append(row)
                bar.advance(1)
    return lean(pd.DataFrame(rows))
