"""How a run of steering is set: what steers every lane, and how tokens are drawn. Light: no
torch."""

from pydantic import Field

from core.config import Frozen
from core.steering.keys import Side

STRONGEST = 20.0
"""Of a strength, either way."""


class Setting(Frozen):
    """How every lane of a run is steered."""

    operator: str = "clamp"
    strength: float = Field(default=1.0, ge=-STRONGEST, le=STRONGEST)
    """Multiplies c of Eq. 8."""
    prompt: bool = True
    """Also the prompt's tokens; else only what is generated."""
    layers_a: tuple[int, int] | None = None
    """First and last layer steered in A; None is the stitch's."""
    layers_b: tuple[int, int] | None = None

    def layers(self, side: Side) -> tuple[int, int] | None:
        return self.layers_a if side == "a" else self.layers_b


class Sampling(Frozen):
    """How tokens are drawn. Temperature 0 takes the likeliest."""

    tokens: int = Field(default=60, ge=1, le=1000)
    temperature: float = Field(default=0.5, ge=0, le=5, allow_inf_nan=False)
    top_p: float = Field(default=0.95, gt=0, le=1)
    repetition: float = Field(default=1.1, ge=0.5, le=3, allow_inf_nan=False)
    """Logits of tokens that were used are divided by this where positive, multiplied where
    negative."""
    seed: int = Field(default=0, ge=0, le=2**31)


USUAL = Sampling()
"""What the page and the command line begin with."""
