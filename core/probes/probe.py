"""Linear probes, sparse and dense, and the same probes on the other model (4, B.2, E).

Each text is one row: the mean over its positions of the residual stream, or of an SAE's
activations. Logistic regression is scikit-learn's as SAEBench calls it: an L2 penalty of C = 1,
inputs as they are, not standardised.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from core.errors import StitchLensError
from core.stitches.stitch import Stitch
from core.stitches.transfer import transfer_probe
from core.workspace.disk import disk_faults, folder_beside

KS = (1, 2, 5, 10, 20, 50)
"""Features of a sparse probe (Fig. 3a)."""
C = 1.0
"""Inverse strength of the L2 penalty: scikit-learn's default, and SAEBench's."""
ITERATIONS = 1_000

Rows = Float[np.ndarray, "n d"]
Labels = Int[np.ndarray, " n"]


@dataclass(frozen=True)
class Probe:
    """Says yes to a row x [d] where `x[features] · coef + intercept > 0`; `features` None takes
    every coordinate."""

    coef: Float[np.ndarray, " k"]
    intercept: float
    features: Int[np.ndarray, " k"] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    """What it reads and which classes it tells apart."""

    def score(self, x: Rows) -> Float[np.ndarray, " n"]:
        """Log-odds of a yes."""
        chosen = x if self.features is None else x[:, self.features]
        return chosen.astype(np.float64) @ self.coef + self.intercept


def centred(probe: Probe, x: Rows, like: Probe, rows: Float[np.ndarray, "n e"]) -> Probe:
    """The probe with its threshold moved so that its mean score over `x` is that of `like` over
    `rows`, the same texts in another model: no label is used."""
    shift = float(like.score(rows).mean() - probe.score(x).mean())
    return Probe(probe.coef, probe.intercept + shift, probe.features, probe.about)


def differences(x: Rows, y: Labels) -> Float[np.ndarray, " d"]:
    """Mean over rows with y = 1 less the mean over those with y = 0: the argument of Eq. 7."""
    x = x.astype(np.float64)
    return x[y == 1].mean(0) - x[y == 0].mean(0)


def select(x: Rows, y: Labels, k: int, absolute: bool = False) -> Int[np.ndarray, " k"]:
    """The k features with the largest `differences`, largest first (Eq. 7); `absolute` takes the
    largest in size, as SAEBench does. Ties go to the lower index."""
    d = differences(x, y)
    return np.argsort(-(np.abs(d) if absolute else d), kind="stable")[:k]


def fit(x: Rows, y: Labels, features: Int[np.ndarray, " k"] | None = None, **about: Any) -> Probe:
    """A probe of all coordinates or of some, by logistic regression.

    Raises StitchLensError where only one class is there, or a number is not finite.
    """
    from sklearn.linear_model import LogisticRegression

    if not 0 < y.sum() < len(y):
        raise StitchLensError("texts of one class", "two classes", "add texts of the other")
    chosen = (x if features is None else x[:, features]).astype(np.float64)
    if not np.isfinite(chosen).all():
        raise StitchLensError(
            "activations that are not finite", "finite ones", "use another SAE or stitch"
        )
    found = LogisticRegression(C=C, max_iter=ITERATIONS).fit(chosen, y)
    return Probe(found.coef_[0], float(found.intercept_[0]), features, about)


def moved(probe: Probe, stitch: Stitch) -> Probe:
    """A dense probe of A for rows of B: `w P_downᵀ` and `c + w · b_down` (B.2). Raises
    StitchLensError for a sparse one, which crosses with its SAE as it is."""
    if probe.features is not None:
        raise StitchLensError(
            "a probe of SAE features", "one of the residual stream", "carry its SAE across"
        )
    w, c = transfer_probe(
        torch.from_numpy(probe.coef), torch.tensor(probe.intercept, dtype=torch.float64), stitch
    )
    return Probe(w.numpy(), float(c), None, dict(probe.about) | {"moved": True})


@dataclass(frozen=True)
class Outcome:
    """What one or several probes (draws of a control) said of n test rows."""

    scores: Float[np.ndarray, "draws n"]
    y: Labels

    @property
    def right(self) -> Float[np.ndarray, " n"]:
        """Share of the probes that were right; a score of exactly 0 is a no, as in scikit-learn."""
        return ((self.scores > 0) == (self.y == 1)).mean(0)

    def accuracy(self, weights: Float[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
        """Under each row of weights; NaN where all of them are 0."""
        total = weights.sum(1)
        return np.divide(
            weights @ self.right, total, out=np.full(len(weights), np.nan), where=total > 0
        )

    def auc(self, weights: Float[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
        """Area under the ROC curve, ties counted half, mean over the probes; NaN where a class has
        no weight."""
        yes, no = self.y == 1, self.y == 0
        over = np.zeros((int(yes.sum()), int(no.sum())))
        for s in self.scores:
            over += np.sign(s[yes][:, None] - s[no][None, :]) / 2 + 0.5
        plus, minus = weights[:, yes], weights[:, no]
        pairs = plus.sum(1) * minus.sum(1)
        won = ((plus @ (over / len(self.scores))) * minus).sum(1)
        return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def random_features(width: int, k: int, seed: int = 0) -> Int[np.ndarray, " k"]:
    return np.random.default_rng([seed, k]).permutation(width)[:k]


def folds(
    y: Labels, seed: int = 0, most: int = 5
) -> list[tuple[Int[np.ndarray, " m"], Int[np.ndarray, " l"]]]:
    """(training, test) indices of a stratified cross-validation, `most` folds or one for each text
    of the smaller class."""
    from sklearn.model_selection import StratifiedKFold

    n = int(min(most, y.sum(), (1 - y).sum()))
    return list(StratifiedKFold(n, shuffle=True, random_state=seed).split(np.zeros(len(y)), y))


def live_features(x: Rows) -> Bool[np.ndarray, " d"]:
    """Those that are active in any row."""
    return np.asarray((x > 0).any(0))


FORMAT = "stitchlens-probe-1"


def save_probe(probe: Probe, folder: Path) -> None:
    """A folder of `probe.safetensors` (`coef` [1, k], `intercept` [1] and, of a sparse probe,
    `features` [k]) and `probe.json` (`classes` and what it reads): all that scikit-learn's
    LogisticRegression needs to predict."""
    weights = {
        "coef": probe.coef[None].astype(np.float64),
        "intercept": np.array([probe.intercept]),
    }
    if probe.features is not None:
        weights["features"] = probe.features.astype(np.int64)
    about = {"format": FORMAT, "classes": [0, 1], "C": C} | dict(probe.about)
    with disk_faults(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with folder_beside(folder) as part:
        save_file(weights, part / "probe.safetensors")
        (part / "probe.json").write_text(
            json.dumps(about, indent=1, sort_keys=True) + "\n", "utf-8"
        )


def load_probe(folder: Path) -> Probe:
    """What `save_probe` wrote. Raises StitchLensError that says what is wrong with it."""
    try:
        about = json.loads((folder / "probe.json").read_text("utf-8"))
        if about.get("format") != FORMAT:
            raise ValueError(f"format {about.get('format')!r}")
        weights = load_file(folder / "probe.safetensors")
        coef, intercept = weights["coef"][0], weights["intercept"]
        features = weights.get("features")
        if (
            coef.ndim != 1
            or intercept.shape != (1,)
            or (features is not None and features.shape != coef.shape)
        ):
            raise ValueError(f"shapes {coef.shape}, {intercept.shape}")
        if not (np.isfinite(coef).all() and np.isfinite(intercept).all()):
            raise ValueError("numbers that are not finite")
    except (OSError, ValueError, KeyError, IndexError, AttributeError, SafetensorError) as e:
        raise StitchLensError(
            f"no readable probe in {folder.name} ({e})",
            "a folder that `probes export` wrote",
            "export it again",
        ) from e
    return Probe(coef, float(intercept[0]), features, about)
