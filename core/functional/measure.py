"""From an SAE and its stitch to the tables of functional features (5.2, I), and a head's pattern
over a typed text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from core import statistics
from core.activations.harvest import batches
from core.bench import Bench
from core.config import Frozen
from core.errors import StitchLensError
from core.features import measure as feature_measure
from core.features.examples import short
from core.functional import ablation
from core.functional.ablation import NULL_SHARES, PAPERS_SHARE
from core.functional.attention import Heads, ablated, readers, scores
from core.models import hooks
from core.models.live import TURNS, LiveModel, runtime
from core.models.loading import load
from core.progress import Progress
from core.saes.crossing import Crossing
from core.saes.sae import random_sae
from core.stitches.stitch import Stitch
from core.stitches.transfer import transfer_sae, transfer_vector
from core.text.corpus import Document
from core.text.reading import clean
from core.workspace.disk import fingerprint
from core.workspace.store import Workspace

if TYPE_CHECKING:
    from sae_lens import SAE

LONGEST = 256
"""Tokens of a document that is read, in either model."""
LEAST = 8
"""Places at which a feature must fire in the documents read, in both models."""
STEP = 200
"""Shares are kept in STEPths."""
PARTS = 1_000
"""Attention at single places is kept in PARTSths."""
MATCHED = ("max_a", "max_b", "density_a", "density_b")
KINDS = {"deactivation": -1, "activation": 1}
"""Of a head by a feature, and the sign of the change in attention to the first token when the
feature is ablated."""


class ScanConfig(Frozen):
    """How much is measured."""

    documents: int = Field(default=320, ge=1)
    """Held-out documents in which features are looked for."""
    reading: int = Field(default=32, ge=1)
    """Documents over which the heads' reading of the first token is averaged."""
    features: int = Field(default=12, ge=1)
    """Candidates of each kind; as many random features are measured beside them."""
    each: int = Field(default=8, ge=1)
    """Documents in which one is ablated, those where it fires most strongly."""
    tokens: int = Field(default=8, ge=1)
    """Places kept for each pair of feature and head, from the strongest to the weakest, for Fig.
    5b."""
    seed: int = 0


@dataclass(frozen=True)
class Side:
    """One model with its SAE (`original` in A, `transferred` in B) before a layer."""

    name: str
    model: LiveModel
    sae: "SAE[Any]"
    layer: int

    @property
    def layers(self) -> range:
        """Whose heads are downstream of the features."""
        return range(self.layer, self.model.spec.n_layers)


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
            "read more documents or measure fewer features",
        )
    if not bench.current(names["ablation"], makers):
        ws.put_table(
            names["ablation"], _ablation(sides, often, shares, documents, fired, config), makers
        )
    if not (bench.current(names["heads"], makers) and bench.current(names["tokens"], makers)):
        heads, tokens = _heads(sides, often, documents, fired, config)
        ws.put_table(names["tokens"], tokens, makers)
        ws.put_table(names["heads"], heads, makers)


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
    chosen = _top(
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
    return _lean(pd.DataFrame(rows))


def _top(features: NDArray[Any], ranks: Sequence[NDArray[Any]], n: int) -> list[int]:
    """`n` features, an equal part from the top of each ranking, none twice."""
    out: list[int] = []
    for k, rank in enumerate(ranks):
        order = [int(f) for f in features[np.argsort(-rank, kind="stable")] if f not in out]
        out += order[: n * (k + 1) // len(ranks) - len(out)]
    return out


def _heads(
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
    chosen = _top(often.feature.to_numpy(), rankings, config.features)
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
    table = _lean(pd.concat(rows, ignore_index=True))
    return table.round({"score": 2, "before": 2, "change": 4}), _lean(pd.DataFrame(tokens))


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


def _lean(table: pd.DataFrame) -> pd.DataFrame:
    """Float columns to three significant digits, small integers, categories: what is committed is
    small."""
    out = {}
    for name, column in table.items():
        if column.dtype.kind == "f":
            out[name] = short(column.to_numpy(np.float32))
        elif column.dtype.kind == "i":
            out[name] = column.to_numpy(np.int32)
        else:
            out[name] = column
    return pd.DataFrame(out)


@dataclass(frozen=True)
class Attended:
    """One head over one text, its input with a feature, without it, and without a random direction
    as long at the same tokens. `ends` [n]: where each token ends in the text, -1 for special ones;
    `activation` [n]; patterns [n, n]."""

    ends: NDArray[np.int32]
    activation: NDArray[np.float32]
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    control: NDArray[np.float32]


class Live(feature_measure.Live):
    """Both models, to look at the heads behind a feature while they read a text that was typed
    in."""

    def attend(
        self, text: str, side: str, feature: int, layer: int, head: int, seed: int = 0
    ) -> Attended:
        """Raises StitchLensError where there is no such feature, layer behind it or head, or no
        token in the text."""
        model, sae, at = self._sides[side]
        heads = self._heads(side)
        if not 0 <= feature < sae.cfg.d_sae:
            raise StitchLensError(
                f"feature {feature}", f"0 to {sae.cfg.d_sae - 1}", "choose one in that range"
            )
        heads.check(layer, head, first=at)
        text = clean(text)
        with TURNS.turn():
            found = feature_measure.read_text(model, sae, at, text)
            (encoded,) = model.encode([text])
            acts = torch.zeros(len(encoded.ids))
            acts[torch.from_numpy(found.position)] = found.acts[:, feature]
            call = heads.calls(model.pad([encoded.ids]), [layer])[layer]
            direction = sae.W_dec[feature].float()
            random = torch.randn(direction.shape, generator=torch.Generator().manual_seed(seed))
            random *= direction.norm() / random.norm()
            with torch.no_grad():
                before, after = ablated(
                    heads, layer, call, (acts[:, None] * direction)[None].to(call.hidden.device)
                )
                _, control = ablated(
                    heads, layer, call, (acts[:, None] * random)[None].to(call.hidden.device)
                )
        patterns = (x[0, head].cpu().numpy() for x in (before, after, control))
        return Attended(encoded.ends, acts.numpy(), *patterns)

    def heads(self, side: str) -> tuple[int, int, int]:
        """(first layer behind the features, last layer, heads a layer)."""
        return self._sides[side][2], self._sides[side][0].spec.n_layers - 1, self._heads(side).heads

    def _heads(self, side: str) -> Heads:
        known: dict[str, Heads] = self.__dict__.setdefault("_known", {})
        return known.setdefault(side, Heads(self._sides[side][0]))
