"""Where the residual stream stands along the directions of features, read once for all of them:
what steering by a feature needs to know before its first word.

z̄ of Eq. 8 is the mean of ⟨h, v⟩ over the tokens of a feature's contexts at which it is active.
Reading the contexts of one feature takes seconds to minutes; the table `feature_levels/SAE` holds
that mean, and the one over the other tokens, for the directions that lanes steer along.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from core.activations.harvest import record, windows
from core.bench import Bench
from core.models.live import LiveModel
from core.models.pairs import Side
from core.progress import Progress
from core.saes.crossing import Crossing
from core.steering.contexts import active_ends, active_in, usual
from core.steering.keys import Kind
from core.steering.vectors import Means, random_direction
from core.stitches.transfer import transfer_vector
from core.text.corpus import Document
from core.workspace.disk import beside, fingerprint, only_one
from core.workspace.places import user_cache
from core.workspace.store import Workspace, has

KINDS: dict[Side, tuple[Kind, ...]] = {"a": ("own",), "b": ("transferred", "random", "shuffled")}
"""Of the lanes that steer a side by a feature of A."""
ALIKE = 1 - 1e-5
"""Cosine from which on two unit vectors are the same but for rounding."""
SAVED_EVERY = 4
"""Windows of documents after which what was read is kept in the user's cache."""


@dataclass(frozen=True)
class KnownLevels:
    """What is known along some unit vectors `v` [d], as (v, mean, base); any other is read for."""

    layer: int
    known: Sequence[tuple[Tensor, float, float]]
    read: Callable[[], Means]

    def levels(self, v: Float[Tensor, " d"]) -> tuple[float, float]:
        for direction, mean, base in self.known:
            if float(direction @ v) > ALIKE:
                return mean, base
        return self.read().levels(v)

    @property
    def positive(self) -> Float[Tensor, " d"]:
        return self.read().positive

    @property
    def negative(self) -> Float[Tensor, " d"]:
        return self.read().negative


def directions(
    crossing: Crossing,
    side: Side,
    features: Sequence[int],
) -> dict[Kind, Float[Tensor, "n d"]]:
    """Unit vectors along which lanes of each kind steer that side by the features."""

    def unit(rows: Tensor) -> Tensor:
        return rows / rows.norm(dim=-1, keepdim=True)

    own = unit(crossing.sae.W_dec[list(features)].float())
    if side == "a":
        return {"own": own}

    carried = unit(transfer_vector(own, crossing.stitch))
    drawn = random_direction(carried.shape[-1])
    vectors: dict[Kind, Tensor] = {"transferred": carried, "random": drawn.expand_as(carried)}
    if has(crossing.bench.workspace, f"controls/{crossing.stitch_name}"):
        vectors["shuffled"] = unit(transfer_vector(own, crossing.shuffled))
    return vectors


def measured_from(ws: Workspace, crossing: Crossing) -> dict[str, Any]:
    """Fingerprints of what a table was measured from, as far as the workspace tells."""
    return crossing.makers | {
        name: fingerprint(ws.entry(f"{name}/{crossing.sae_name}").makers)
        for name in ("examples_a", "examples_b")
    }


def known(
    crossing: Crossing,
    feature: int,
    side: Side,
) -> list[tuple[Float[Tensor, " d"], float, float]]:
    """(unit vector, mean, base) of a feature on one side, as `KnownLevels` takes them; none where
    they were not measured, or before something that they were measured from was made again."""
    ws, name = crossing.bench.workspace, f"feature_levels/{crossing.sae_name}"
    if not has(ws, name):
        return []
    wanted, makers = measured_from(ws, crossing), ws.entry(name).makers
    if any(makers.get(key) != value for key, value in wanted.items()):
        return []

    vectors = directions(crossing, side, [feature])
    rows = ws.table(name, feature=feature, side=side)
    return [
        (vectors[row["kind"]][0], float(row["mean"]), float(row["base"]))
        for row in rows.to_dict("records")
        if row["kind"] in vectors
    ]


def measure(
    bench: Bench,
    sae_name: str,
    stitch_name: str,
    features: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Puts `feature_levels/SAE`, one row a feature, side and kind of lane: `feature`, `side`,
    `kind`, `mean` and `base` (see `core.steering.vectors.Vector`, residual units). `features` adds
    these to those that are there; None takes all. A feature that is never active on a side has no
    row there.

    Raises StitchLensError where SAE and stitch belong to different layers, or the features were not
    measured yet.
    """
    ws, crossing = bench.workspace, Crossing(bench, sae_name, stitch_name)
    name = f"feature_levels/{sae_name}"
    makers = bench.makers | measured_from(ws, crossing)
    table = ws.table(name) if bench.current(name, makers) else pd.DataFrame()
    wanted = range(crossing.sae.cfg.d_sae) if features is None else features
    missing = sorted(set(wanted) - (set(table.feature) if len(table) else set()))
    if not missing:
        return table

    with only_one(bench.pair.key, "levels"):
        parts = [_side(crossing, side, missing) for side in get_args(Side)]
        table = pd.concat([table, *parts], ignore_index=True)
        table = table.sort_values(["feature", "side"], kind="stable", ignore_index=True)
        ws.put_table(name, table, makers)
    return table


class _Sums:
    """Sums of ⟨h, v⟩ [features, kinds] over active tokens (1) and over the others (0), and how
    many tokens."""

    def __init__(self, features: int, kinds: int) -> None:
        self.sums = np.zeros((2, features, kinds))
        self.counts = np.zeros((2, features), dtype=np.int64)
        self.windows = 0

    def add(
        self,
        on: NDArray[np.bool_],
        rows: NDArray[np.intp],
        levels: Float[np.ndarray, "n m k"],
    ) -> None:
        """`levels` of n tokens for the features in `rows` [m], and at which tokens these are `on`
        [n, m]."""
        for which, mask in enumerate((~on, on)):
            self.sums[which, rows] += (levels * mask[..., None]).sum(0)
            self.counts[which, rows] += mask.sum(0)

    def table(
        self,
        features: Sequence[int],
        side: Side,
        kinds: Sequence[Kind],
    ) -> pd.DataFrame:
        some = self.counts.min(0) > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            base, mean = self.sums / self.counts[..., None]
        parts = [
            pd.DataFrame(
                {
                    "feature": np.asarray(features, dtype=np.int32)[some],
                    "side": side,
                    "kind": kind,
                    "mean": mean[some, k].astype(np.float32),
                    "base": base[some, k].astype(np.float32),
                }
            )
            for k, kind in enumerate(kinds)
        ]
        return pd.concat(parts, ignore_index=True)


def _side(
    crossing: Crossing,
    side: Side,
    features: Sequence[int],
) -> pd.DataFrame:
    """The rows of one side; what was read survives a stop."""
    bench = crossing.bench
    model, layer = (bench.a, crossing.layers.a) if side == "a" else (bench.b, crossing.layers.b)
    vectors = directions(crossing, side, features)
    stacked = torch.stack(list(vectors.values()), dim=1)
    contexts = bench.workspace.table(f"examples_{side}/{crossing.sae_name}")
    active = _active_by_document(contexts, features)
    documents = [d for d in bench.corpus.documents if d.id in active]

    key = fingerprint([bench.makers, crossing.makers, side, list(features), fingerprint(active)])
    path = user_cache() / "levels" / f"{key}.npz"
    sums = _opened(path, len(features), len(vectors))
    parts = windows(documents)
    total = sum(len(d.text) for d in documents)
    read = sum(len(d.text) for part in parts[: sums.windows] for d in part)
    with Progress(f"levels in {model.spec.title}", total, "chr", read) as bar:
        for part in parts[sums.windows :]:
            _read(sums, model, layer, part, active, stacked)
            sums.windows += 1
            if sums.windows % SAVED_EVERY == 0:
                _save(sums, path)
            bar.advance(sum(len(d.text) for d in part))
    return sums.table(features, side, list(vectors))


def _active_by_document(
    contexts: pd.DataFrame, features: Sequence[int]
) -> dict[str, dict[int, list[int]]]:
    """By document and number of the feature in `features`, where the tokens end at which it is
    active."""
    number = {feature: k for k, feature in enumerate(features)}
    out: dict[str, dict[int, list[int]]] = defaultdict(dict)
    for feature, rows in contexts.loc[contexts.feature.isin(number)].groupby("feature"):
        for document, ends in active_ends(rows).items():
            out[document][number[int(str(feature))]] = sorted(ends)
    return dict(out)


def _read(
    sums: _Sums,
    model: LiveModel,
    layer: int,
    documents: Sequence[Document],
    active: Mapping[str, Mapping[int, Sequence[int]]],
    vectors: Float[Tensor, "f k d"],
) -> None:
    """Adds what one model makes of some documents."""
    encoded = model.encode([d.text for d in documents])
    positions = [np.flatnonzero(text.usable) for text in encoded]
    rows = record(model, encoded, positions, [layer])[layer].float()
    ordinary = usual(rows).split([len(at) for at in positions])
    streams = rows.split([len(at) for at in positions])

    for document, text, h, inside in zip(documents, encoded, streams, ordinary, strict=True):
        features = active[document.id]
        numbers = np.array(list(features), dtype=np.intp)
        on = [active_in(text, set(ends))[text.usable] for ends in features.values()]
        levels = torch.einsum("nd,mkd->nmk", h[inside], vectors[torch.from_numpy(numbers)])
        sums.add(np.stack(on, axis=1)[inside.numpy()], numbers, levels.double().numpy())


def _opened(
    path: Any,
    features: int,
    kinds: int,
) -> _Sums:
    sums = _Sums(features, kinds)
    if path.exists():
        with np.load(path, allow_pickle=False) as arrays:
            sums.sums, sums.counts = arrays["sums"], arrays["counts"]
            sums.windows = int(arrays["windows"])
    return sums


def _save(sums: _Sums, path: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with beside(path) as part, part.open("wb") as file:
        np.savez(
            file,
            sums=sums.sums,
            counts=sums.counts,
            windows=sums.windows,
        )
