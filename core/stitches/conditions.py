"""The columns of Table 1 and its controls, and the words for the ways to fit a stitch."""

from typing import NamedTuple


class Condition(NamedTuple):
    """One row of Table 1 or of its controls."""

    key: str
    label: str
    model: str
    """'a' or 'b': the model that comes last and is scored."""
    role: str
    """'unpatched', 'transferred' or 'control'."""
    says: str


CONDITIONS = (
    Condition("a", "A", "a", "unpatched", "model A as it is"),
    Condition(
        "b_to_a",
        "B→A",
        "a",
        "transferred",
        "B's residual mapped down (Eq. 2), the rest of A after it",
    ),
    Condition(
        "a_to_b_to_a",
        "A→B→A",
        "a",
        "transferred",
        "A's residual up and down again, the rest of A after it",
    ),
    Condition(
        "shuffled_b_to_a", "B→A, shuffled", "a", "control", "a stitch fitted on shuffled pairs"
    ),
    Condition(
        "mean_ablated_a", "A, mean-ablated", "a", "control", "A's residual replaced by its mean"
    ),
    Condition("b", "B", "b", "unpatched", "model B as it is"),
    Condition(
        "a_to_b",
        "A→B",
        "b",
        "transferred",
        "A's residual mapped up (Eq. 1), the rest of B after it",
    ),
    Condition(
        "b_to_a_to_b",
        "B→A→B",
        "b",
        "transferred",
        "B's residual down and up again, the rest of B after it",
    ),
    Condition(
        "shuffled_a_to_b", "A→B, shuffled", "b", "control", "a stitch fitted on shuffled pairs"
    ),
    Condition(
        "mean_ablated_b", "B, mean-ablated", "b", "control", "B's residual replaced by its mean"
    ),
)
BY_KEY = {c.key: c for c in CONDITIONS}
TABLE_1 = ("a", "b", "a_to_b", "b_to_a", "a_to_b_to_a", "b_to_a_to_b")
"""The columns of the paper's Table 1, in its order."""
STITCHED = TABLE_1[2:]
WHOLE = "all text"
"""In the place of a kind of text."""
MEASURED = (
    "loss",
    "low",
    "high",
    "relative",
    "relative_low",
    "relative_high",
    "bits_per_byte",
    "loss_patched",
    "share_patched",
    "tokens",
    "documents",
)

METHODS = {
    "exact": (
        "exact solves",
        "each map given the other is solved exactly from the moments, in turns, to convergence",
    ),
    "adam": ("Adam, as in the paper", "Adam on both maps at once, 2 epochs (A)"),
    "lstsq": ("least squares", "each way by itself, without the inversion terms"),
}
"""Ways to minimise Eq. 3: a short and a longer word for each."""
METRICS = {
    "std": ("std", "every dimension at unit standard deviation"),
    "whiten": ("whitened", "by the inverse of each side's (shrunk) covariance"),
    "rms": ("rms", "each side at unit root mean square"),
    "raw": ("raw, as in the paper", "residual units as they are"),
}
"""Units in which the errors of Eq. 3 are measured: a short and a longer word for each."""
