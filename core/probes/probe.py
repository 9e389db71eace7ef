"""Linear probes, sparse and dense, and the same probes on the other model (4, B.2, E).

Each text is one row: the mean over its positions of the residual stream, or of an SAE's
activations. Logistic regression is scikit-learn's as SAEBench calls it: an L2 penalty of C = 1,
inputs as they are, not standardised.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
        rows = _chosen(x, self.features).astype(np.float64)
        return rows @ self.coef + self.intercept


def _chosen(x: Rows, features: Int[np.ndarray, " k"] | None) -> Float[np.ndarray, "n c"]:
    """The columns that a probe reads."""
    return x if features is None else x[:, features]


def centred(
    probe: Probe,
    x: Rows,
    like: Probe,
    rows: Float[np.ndarray, "n e"],
) -> Probe:
    """The probe with its threshold moved so that its mean score over `x` is that of `like` over
    `rows`, the same texts in another model: no label is used."""
    shift = float(like.score(rows).mean() - probe.score(x).mean())
    return replace(probe, intercept=probe.intercept + shift)


def differences(x: Rows, y: Labels) -> Float[np.ndarray, " d"]:
    """Mean over rows with y = 1 less the mean over those with y = 0: the argument of Eq. 7."""
    x = x.astype(np.float64)
    yes = x[y == 1].mean(0)
    no = x[y == 0].mean(0)
    return yes - no


def select(
    x: Rows,
    y: Labels,
    k: int,
    absolute: bool = False,
) -> Int[np.ndarray, " k"]:
    """The k features with the largest `differences`, largest first (Eq. 7); `absolute` takes the
    largest in size, as SAEBench does. Ties go to the lower index."""
    size = differences(x, y)
    if absolute:
        size = np.abs(size)
    return np.argsort(-size, kind="stable")[:k]


def fit(
    x: Rows,
    y: Labels,
    features: Int[np.ndarray, " k"] | None = None,
    **about: Any,
) -> Probe:
    """A probe of all coordinates or of some, by logistic regression.

    Raises StitchLensError where only one class is there, or a number is not finite.
    """
    from sklearn.linear_model import LogisticRegression

    if not 0 < y.sum() < len(y):
        raise StitchLensError("texts of one class", "two classes", "add texts of the other")

    rows = _chosen(x, features).astype(np.float64)
    if not np.isfinite(rows).all():
        raise StitchLensError(
            "activations that are not finite",
            "finite ones",
            "use another SAE or stitch",
        )

    regression = LogisticRegression(C=C, max_iter=ITERATIONS).fit(rows, y)
    intercept = float(regression.intercept_[0])
    return Probe(regression.coef_[0], intercept, features, about)


def moved(probe: Probe, stitch: Stitch) -> Probe:
    """A dense probe of A for rows of B: `w P_downᵀ` and `c + w · b_down` (B.2). Raises
    StitchLensError for a sparse one, which crosses with its SAE as it is."""
    if probe.features is not None:
        raise StitchLensError(
            "a probe of SAE features",
            "one of the residual stream",
            "carry its SAE across",
        )

    w = torch.from_numpy(probe.coef)
    c = torch.tensor(probe.intercept, dtype=torch.float64)
    moved_w, moved_c = transfer_probe(w, c, stitch)

    about = dict(probe.about) | {"moved": True}
    return Probe(moved_w.numpy(), float(moved_c), None, about)


@dataclass(frozen=True)
class Outcome:
    """What one or several probes (draws of a control) said of n test rows."""

    scores: Float[np.ndarray, "draws n"]
    y: Labels

    @property
    def right(self) -> Float[np.ndarray, " n"]:
        """Share of the probes that were right; a score of exactly 0 is a no, as in scikit-learn."""
        says_yes = self.scores > 0
        return (says_yes == (self.y == 1)).mean(0)

    def accuracy(self, weights: Float[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
        """Under each row of weights; NaN where all of them are 0."""
        return _ratio(weights @ self.right, weights.sum(1))

    def auc(self, weights: Float[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
        """Area under the ROC curve, ties counted half, mean over the probes; NaN where a class has
        no weight."""
        yes = self.y == 1
        no = self.y == 0

        # Of each yes and each no: did the yes score higher, mean over the probes.
        over = np.zeros((int(yes.sum()), int(no.sum())))
        for score in self.scores:
            apart = score[yes][:, None] - score[no][None, :]
            over += np.sign(apart) / 2 + 0.5
        over /= len(self.scores)

        of_yes = weights[:, yes]
        of_no = weights[:, no]
        won = ((of_yes @ over) * of_no).sum(1)
        return _ratio(won, of_yes.sum(1) * of_no.sum(1))


def _ratio(
    part: Float[np.ndarray, " r"],
    whole: Float[np.ndarray, " r"],
) -> Float[np.ndarray, " r"]:
    """NaN where the whole is 0."""
    unknown = np.full(len(whole), np.nan)
    return np.divide(part, whole, out=unknown, where=whole > 0)


def random_features(
    width: int,
    k: int,
    seed: int = 0,
) -> Int[np.ndarray, " k"]:
    return np.random.default_rng([seed, k]).permutation(width)[:k]


def folds(
    y: Labels,
    seed: int = 0,
    most: int = 5,
) -> list[tuple[Int[np.ndarray, " m"], Int[np.ndarray, " l"]]]:
    """(training, test) indices of a stratified cross-validation, `most` folds or one for each text
    of the smaller class."""
    from sklearn.model_selection import StratifiedKFold

    smaller = min(y.sum(), (1 - y).sum())
    n = int(min(most, smaller))
    split = StratifiedKFold(n, shuffle=True, random_state=seed)
    return list(split.split(np.zeros(len(y)), y))


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

    about = {
        "format": FORMAT,
        "classes": [0, 1],
        "C": C,
    } | dict(probe.about)
    text = json.dumps(about, indent=1, sort_keys=True) + "\n"

    with disk_faults(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with folder_beside(folder) as part:
        save_file(weights, part / "probe.safetensors")
        (part / "probe.json").write_text(text, "utf-8")


def load_probe(folder: Path) -> Probe:
    """What `save_probe` wrote. Raises StitchLensError that says what is wrong with it."""
    try:
        return _opened(folder)
    except (OSError, ValueError, KeyError, IndexError, AttributeError, SafetensorError) as e:
        raise StitchLensError(
            f"no readable probe in {folder.name} ({e})",
            "a folder that `probes export` wrote",
            "export it again",
        ) from e


def _opened(folder: Path) -> Probe:
    """Raises one of many errors where a file is missing or is not what `save_probe` writes."""
    about = json.loads((folder / "probe.json").read_text("utf-8"))
    if about.get("format") != FORMAT:
        raise ValueError(f"format {about.get('format')!r}")

    weights = load_file(folder / "probe.safetensors")
    coef = weights["coef"][0]
    intercept = weights["intercept"]
    features = weights.get("features")

    one_each = features is None or features.shape == coef.shape
    if coef.ndim != 1 or intercept.shape != (1,) or not one_each:
        raise ValueError(f"shapes {coef.shape}, {intercept.shape}")

    if not (np.isfinite(coef).all() and np.isfinite(intercept).all()):
        raise ValueError("numbers that are not finite")
    return Probe(coef, float(intercept[0]), features, about)
