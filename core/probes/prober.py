"""From labelled texts to probes of both models: what is read, what is fitted, what crosses the
stitch (4, E).

`a` is read at the positions that pair up with one of B, where the stitch was learned; `b` at every
position.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from core.activations.harvest import norm_limit, record
from core.activations.recording import kept_positions
from core.bench import Bench
from core.config import Frozen
from core.errors import StitchLensError
from core.models.live import TURNS, LiveModel
from core.models.pairs import SIDES, Side
from core.probes.probe import (
    KS,
    Outcome,
    Probe,
    centred,
    differences,
    fit,
    folds,
    live_features,
    moved,
    random_features,
    select,
)
from core.probes.tasks import Dataset, Labelled, offline_datasets, one_against_rest
from core.progress import Progress
from core.saes.crossing import joined
from core.saes.sae import SaeConfig, kept_in, kept_sae, sae_makers
from core.statistics import RESAMPLES
from core.statistics import share_interval as exact_interval
from core.stitches.stitch import Stitch, load_stitch
from core.stitches.transfer import transfer_sae
from core.workspace.disk import beside, fingerprint
from core.workspace.places import user_cache

if TYPE_CHECKING:
    from sae_lens import SAE

BLOCK = 64
"""Texts read at a time; what is read survives a stop."""
OWN_K = 10
"""Features of the sparse probe of one's own labels."""
METHODS = (
    "dense_source",
    "dense_moved",
    "dense_centred",
    "dense_shuffled",
    "dense_own",
    "source",
    "reused",
    "shuffled",
    "retrained",
    "random",
    "own",
)
"""See `crossings`."""
Arrays = dict[str, NDArray[np.float32]]
"""Of n texts, [n, d] or [n, features]: `dense_a`, `source` (A's SAE in A), `dense_b`,
`transferred`, `shuffled` (A's SAE in B through the stitch and through one of shuffled pairs) and
`own` (B's SAE in B)."""


class ProbeConfig(Frozen):
    """What is fitted and how it is measured."""

    ks: tuple[int, ...] = KS
    absolute: bool = False
    """Select features by the size of the difference in means, as SAEBench does; Eq. 7 takes the
    largest."""
    draws: int = 5
    """Sets of random features."""
    resamples: int = RESAMPLES
    seed: int = 0


class Method(NamedTuple):
    """One way to probe; `k` features, 0 for a dense probe."""

    name: str
    k: int


def pool(
    model: LiveModel,
    texts: Sequence[str],
    layer: int,
    saes: Mapping[str, "SAE[Any]"],
    partner: LiveModel | None,
    limit: float | None = None,
) -> tuple[Arrays, float]:
    """A row a text: `dense`, the mean of the residual stream before `layer` over its positions, and
    under the name of each SAE the mean of its activations there. With `partner` the positions that
    pair up with one of it, all where none does. Rows of a norm above `limit` (10 medians of these
    rows if not given) are left out; the limit comes back."""
    encoded, kept = kept_positions(model, texts, partner)
    kept = [k if len(k) else np.flatnonzero(e.usable) for k, e in zip(kept, encoded, strict=True)]
    h = record(model, encoded, kept, [layer])[layer].float()
    of = torch.from_numpy(np.repeat(np.arange(len(texts)), [len(k) for k in kept]))
    norm = h.norm(dim=-1)
    limit = norm_limit(norm) if limit is None else limit
    h, of = h[norm <= limit], of[norm <= limit]
    share = 1 / torch.bincount(of, minlength=len(texts)).clamp(min=1)

    def mean(rows: torch.Tensor) -> NDArray[np.float32]:
        return (
            torch.zeros(len(texts), rows.shape[1]).index_add_(0, of, rows) * share[:, None]
        ).numpy()

    with torch.inference_mode():
        return {"dense": mean(h)} | {name: mean(sae.encode(h)) for name, sae in saes.items()}, limit


class Prober:
    """A pair with an SAE of A, the stitch that it crosses by, and what they are compared with;
    opened when needed.

    Raises StitchLensError where SAE and stitch belong to different layers, or the SAE to another
    model or place.
    """

    def __init__(
        self, bench: Bench, sae_name: str, stitch_name: str, own_positions: int | None = None
    ) -> None:
        self.bench, self.sae_name, self.stitch_name = bench, sae_name, stitch_name
        self._own_positions = own_positions
        self.about, self.stitched, self.layers = joined(bench.workspace, sae_name, stitch_name)
        self.sae = kept_in(bench, sae_name, self.layers.a)

    @cached_property
    def stitch(self) -> Stitch:
        return load_stitch(self.bench.workspace.path(f"stitches/{self.stitch_name}"))

    @cached_property
    def shuffled(self) -> Stitch:
        return load_stitch(self.bench.workspace.path(f"controls/{self.stitch_name}"))

    @property
    def own_config(self) -> SaeConfig:
        """A's SAE's, where it was trained here; else the defaults at its width."""
        if "width" in self.about:
            return SaeConfig.model_validate({k: self.about[k] for k in SaeConfig.model_fields})
        return SaeConfig(width=self.sae.cfg.d_sae)

    @property
    def own_positions(self) -> int | None:
        """Rows that B's own SAE is trained on: as many as A's was if not given otherwise; None is
        the whole split."""
        return self._own_positions or self.about.get("positions")

    @property
    def own_makers(self) -> dict[str, Any]:
        return sae_makers(self.bench, "b", self.layers.b, self.own_config, self.own_positions)

    @cached_property
    def own(self) -> "SAE[Any]":
        """B's own SAE, trained as A's was at the same places of the text; kept in the user's cache,
        it is large."""
        return kept_sae(self.bench, "b", self.layers.b, self.own_config, self.own_positions)

    def saes(self, side: Side, own: bool) -> dict[str, "SAE[Any]"]:
        if side == "a":
            return {"source": self.sae}
        crossed = {
            n: transfer_sae(self.sae, s)
            for n, s in (("transferred", self.stitch), ("shuffled", self.shuffled))
        }
        return crossed | ({"own": self.own} if own else {})

    def read(self, texts: Sequence[str], own: bool = True, kept: str | None = None) -> Arrays:
        """Both models over texts; with a name under `kept` in the user's cache, where a stopped
        reading goes on."""
        out: dict[str, list[NDArray[np.float32]]] = {}
        partner = (
            None if self.bench.a.tokenizer_hash == self.bench.b.tokenizer_hash else self.bench.b
        )
        for side in SIDES:
            model, layer = (
                (self.bench.a, self.layers.a) if side == "a" else (self.bench.b, self.layers.b)
            )
            other = partner if side == "a" else None
            saes, limit = self.saes(side, own), None
            with Progress(f"reading texts with {side.upper()}", len(texts), "texts") as bar:
                for k in range(0, len(texts), BLOCK):
                    some = texts[k : k + BLOCK]
                    place = user_cache() / "probes" / (kept or "") / f"{side}-{k:06d}.safetensors"
                    if kept and place.exists():
                        found = load_file(place)
                        limit = float(found.pop("limit")[0])
                    else:
                        found, limit = pool(model, some, layer, saes, other, limit)
                        if kept:
                            with beside(place) as part:
                                save_file(found | {"limit": np.array([limit])}, part)
                    for name, x in found.items():
                        out.setdefault(f"dense_{side}" if name == "dense" else name, []).append(x)
                    bar.advance(len(some))
        return {name: np.concatenate(parts) for name, parts in out.items()}

    def about_probe(self, side: Side, k: int) -> dict[str, Any]:
        """What a probe of that side reads, for its file."""
        spec, layer = (
            (self.bench.pair.a, self.layers.a)
            if side == "a"
            else (self.bench.pair.b, self.layers.b)
        )
        about: dict[str, Any] = {
            "model": spec.key,
            "hook": f"blocks.{layer}.hook_resid_pre",
            "layer": layer,
            "stitch": self.stitch_name,
            "row": "mean over a text's positions, the first special token left out",
        }
        if side == "a" and self.bench.a.tokenizer_hash != self.bench.b.tokenizer_hash:
            about["row"] = "mean over a text's positions that end where a token of B does"
        if k:
            about["row"] += ", of the SAE's activations"
            about["sae"] = self.sae_name + (
                "" if side == "a" else f", carried through {self.stitch_name}"
            )
        return about


def crossings(
    x: Arrays,
    y: NDArray[np.int64],
    train: NDArray[np.intp],
    test: NDArray[np.intp],
    stitch: Stitch,
    shuffled: Stitch,
    config: ProbeConfig,
) -> Iterator[tuple[Method, NDArray[np.float64]]]:
    """(method, scores [draws, test texts]); `x` and `y` cover all texts. Only the training texts
    are fitted on, and features selected by.

    Sparse, for each k: `source` A's SAE in A; `reused` that very probe on transferred features in
    B; `retrained` the same features with a probe fitted in B; `shuffled` the reused probe through a
    stitch of shuffled pairs; `random` transferred features drawn from those that are active, with a
    probe fitted in B; `own` B's SAE. Dense: `dense_source` in A, `dense_moved` the same carried to
    B (B.2), `dense_centred` that one with its threshold moved by the training texts without their
    labels (`centred`), `dense_shuffled`, and `dense_own` in B.
    """

    def one(probe: Probe, name: str) -> NDArray[np.float64]:
        return probe.score(x[name][test])[None]

    z = y[train]
    source = fit(x["dense_a"][train], z)
    yield Method("dense_source", 0), one(source, "dense_a")
    across = moved(source, stitch)
    yield Method("dense_moved", 0), one(across, "dense_b")
    yield (
        Method("dense_centred", 0),
        one(centred(across, x["dense_b"][train], source, x["dense_a"][train]), "dense_b"),
    )
    yield Method("dense_shuffled", 0), one(moved(source, shuffled), "dense_b")
    yield Method("dense_own", 0), one(fit(x["dense_b"][train], z), "dense_b")
    most = max(config.ks)
    best = select(x["source"][train], z, most, config.absolute)
    mine = select(x["own"][train], z, most, config.absolute) if "own" in x else None
    alive = np.flatnonzero(live_features(x["transferred"][train]))
    for k in config.ks:
        probe = fit(x["source"][train], z, best[:k])
        yield Method("source", k), one(probe, "source")
        yield Method("reused", k), one(probe, "transferred")
        yield Method("shuffled", k), one(probe, "shuffled")
        yield Method("retrained", k), one(fit(x["transferred"][train], z, best[:k]), "transferred")
        picked = [
            alive[random_features(len(alive), k, config.seed + d)] for d in range(config.draws)
        ]
        drawn = [one(fit(x["transferred"][train], z, some), "transferred") for some in picked]
        yield Method("random", k), np.concatenate(drawn)
        if mine is not None:
            yield Method("own", k), one(fit(x["own"][train], z, mine[:k]), "own")


def selected(
    x: Arrays, y: NDArray[np.int64], train: NDArray[np.intp], config: ProbeConfig
) -> pd.DataFrame:
    """The features of A's SAE that Eq. 7 selects: `rank`, `feature`, the `difference` of means in A
    and, transferred to B, `difference_b`."""
    best = select(x["source"][train], y[train], max(config.ks), config.absolute)
    here, there = (
        differences(x[name][train], y[train])[best] for name in ("source", "transferred")
    )
    return pd.DataFrame(
        {"rank": np.arange(len(best)), "feature": best, "difference": here, "difference_b": there}
    )


def default_names(bench: Bench) -> tuple[str, str]:
    """(SAE, stitch) of the feature explorer. Raises StitchLensError where no SAE of A is there."""
    ws = bench.workspace
    names = [n.removeprefix("features/") for n in ws.names(prefix="features/")] if ws.exists else []
    if not names:
        raise StitchLensError(
            f"no features in workspace '{bench.pair.key}'",
            "measured ones",
            f"run `python -m core features build {bench.pair.key}`",
        )
    return names[0], ws.entry(f"features/{names[0]}").makers["stitch_name"]


@dataclass(frozen=True)
class OwnLabels:
    """What came of labels of one's own."""

    table: pd.DataFrame
    """A row a method: `method`, `k`, `accuracy` with its exact interval `low`, `high`, `auc`: each
    text judged by a probe that was fitted without it."""
    features: pd.DataFrame
    """`rank`, `feature`, `difference`, `difference_b` of those that Eq. 7 selects."""
    probes: dict[str, Probe]
    """Fitted on all texts: `a` and `b` dense, `a-sparse` and `b-sparse`; B's are A's, carried
    over."""
    n: int
    positive: str
    left_out: int
    unused: tuple[str, ...] = ()
    """Columns of the file that were not read."""


def own_labels(prober: Prober, given: Labelled, config: ProbeConfig | None = None) -> OwnLabels:
    """Probes of A from a person's texts, moved to B at once; accuracy on both by
    cross-validation."""
    config = config or ProbeConfig(ks=(OWN_K,))
    with TURNS.turn():
        x = prober.read(given.texts, own=False)
    y, scores = given.y, dict[Method, NDArray[np.float64]]()
    for train, test in folds(y, config.seed):
        for method, some in crossings(x, y, train, test, prober.stitch, prober.shuffled, config):
            scores.setdefault(method, np.zeros((len(some), len(y))))[:, test] = some
    rows, equal = [], np.ones((1, len(y)))
    for method, some in scores.items():
        outcome = Outcome(some, y)
        low, high = exact_interval(round(float(outcome.right.sum())), len(y))
        accuracy, auc = float(outcome.right.mean()), float(outcome.auc(equal)[0])
        rows.append(
            {
                "method": method.name,
                "k": method.k,
                "accuracy": accuracy,
                "low": low,
                "high": high,
                "auc": auc,
            }
        )
    classes = {
        "classes": [0, 1],
        "class_names": ["not " + given.positive, given.positive],
        "texts": len(y),
    }
    dense = fit(x["dense_a"], y, **classes, **prober.about_probe("a", 0))
    best = select(x["source"], y, max(config.ks), config.absolute)
    sparse = fit(x["source"], y, best, **classes, **prober.about_probe("a", len(best)))
    probes = {"a": dense, "a-sparse": sparse} | {
        "b": _at_b(moved(dense, prober.stitch), prober, 0),
        "b-sparse": _at_b(sparse, prober, len(best)),
    }
    everything = np.arange(len(y))
    return OwnLabels(
        pd.DataFrame(rows),
        selected(x, y, everything, config),
        probes,
        len(y),
        given.positive,
        given.left_out,
        given.unused,
    )


def _at_b(probe: Probe, prober: Prober, k: int) -> Probe:
    about = dict(probe.about) | prober.about_probe("b", k) | {"fitted_on": prober.bench.pair.a.key}
    return Probe(probe.coef, probe.intercept, probe.features, about)


def task_probe(
    prober: Prober,
    task: str,
    side: Side,
    k: int = 0,
    fitted: Side = "a",
    offered: Sequence[Dataset] | None = None,
) -> Probe:
    """A probe of a task, `DATASET/CLASS` of those offered (the offline ones if not given), for one
    side, fitted on that or the other; `k` features, 0 for a dense one. Raises StitchLensError for a
    task that is not there, and for a probe of A fitted on B."""
    datasets = {
        d.name: d for d in (offline_datasets(prober.bench.corpus) if offered is None else offered)
    }
    name, _, label = task.partition("/")
    if name not in datasets or label not in datasets[name].probed:
        there = ", ".join(f"{d.name}/{c}" for d in datasets.values() for c in d.probed)
        raise StitchLensError(f"no task '{task}'", f"one of {there}", "choose one")
    if side == "a" and fitted == "b":
        raise StitchLensError(
            "a probe of B for A", "one of A for B, or of the model itself", "choose --fitted a"
        )
    documents, y = one_against_rest(datasets[name].train, label)
    x = prober.read(
        [d.text for d in documents],
        own=False,
        kept=fingerprint(
            [
                prober.bench.makers,
                prober.about,
                prober.stitched,
                [(d.id, d.text) for d in documents],
            ]
        ),
    )
    about = {"task": task, "class_names": ["other", label], "texts": len(y), "fitted_on": fitted}
    dense, sparse = ("dense_b", "transferred") if fitted == "b" else ("dense_a", "source")
    best = select(x["source"], y, k) if k else None
    probe = fit(x[sparse if k else dense], y, best, **about, **prober.about_probe(fitted, k))
    if side == fitted:
        return probe
    return _at_b(probe if k else moved(probe, prober.stitch), prober, k)
