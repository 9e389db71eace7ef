"""What the paper printed of the pairs that it stitched: Table 1 and Table 2, by their layers.

Fig. 14 is drawn, without numbers.
"""

from core.config import Frozen


class Carried(Frozen):
    """A figure of Table 2: of A's SAE in A, and of the same one carried to B, untrained."""

    original: float
    transferred: float


class PaperSae(Frozen):
    """A column of the paper's Table 2, and the SAE that it is of."""

    l0: Carried
    """Active features a token."""
    fuv: Carried
    """Fraction of variance unexplained."""
    delta_loss: Carried
    """What an SAE in the residual stream's place adds to the loss, nats/token."""
    dead: Carried
    """Fraction of features that never fire; 0.01 where the paper says less than 1 %."""
    ref: str = ""
    """Where it was published, as `--sae` takes it; empty where the paper trained its own."""
    name: str = ""
    """What it is called in a workspace."""


class PaperRow(Frozen):
    """A row of the paper's Table 1: next-token cross-entropy in nats/token."""

    label: str
    a: float
    b: float
    a_to_b: float
    b_to_a: float
    a_to_b_to_a: float
    b_to_a_to_b: float
    sae: PaperSae | None = None


PYTHIA = PaperRow(
    label="pythia-70m-deduped.3 / pythia-160m-deduped.4",
    a=3.60,
    b=3.14,
    a_to_b=3.99,
    b_to_a=4.21,
    a_to_b_to_a=3.62,
    b_to_a_to_b=3.29,
    sae=PaperSae(
        l0=Carried(original=16.0, transferred=16.0),
        fuv=Carried(original=0.17, transferred=0.52),
        delta_loss=Carried(original=0.36, transferred=2.16),
        dead=Carried(original=0.052, transferred=0.029),
        ref="hub:EleutherAI/sae-pythia-70m-deduped-32k/layers.2",
        name="sparsify-32k",
    ),
)
GPT2 = PaperRow(
    label="gpt2-small.6 / gpt2-medium.10",
    a=3.07,
    b=2.77,
    a_to_b=3.08,
    b_to_a=3.35,
    a_to_b_to_a=3.07,
    b_to_a_to_b=2.81,
    sae=PaperSae(
        l0=Carried(original=32.0, transferred=32.0),
        fuv=Carried(original=0.11, transferred=0.39),
        delta_loss=Carried(original=0.08, transferred=0.96),
        dead=Carried(original=0.01, transferred=0.01),
    ),
)
GEMMA2 = PaperRow(
    label="gemma-2-2b.20 / gemma-2-9b.33",
    a=2.52,
    b=2.36,
    a_to_b=3.28,
    b_to_a=2.73,
    a_to_b_to_a=2.53,
    b_to_a_to_b=2.66,
    sae=PaperSae(
        l0=Carried(original=77.2, transferred=74.7),
        fuv=Carried(original=0.21, transferred=0.42),
        delta_loss=Carried(original=0.50, transferred=0.85),
        dead=Carried(original=0.015, transferred=0.035),
        ref="hub:google/gemma-scope-2b-pt-res/layer_19/width_16k/average_l0_73",
        name="gemma-scope-16k",
    ),
)

SHORT: dict[str, str] = {
    "pythia": "pythia-70m-160m",
    "gpt2": "gpt2-small-medium",
    "gemma2": "gemma2-2b-9b",
}
"""What `make paper PAIR=…` calls the paper's pairs, and their keys."""
