"""How an SAE of A is trained and measured; which SAEs of B are trained, from which starts, and
whether they fit: settings alone, nothing heavy (3.1, D)."""

from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from core.config import Frozen
from core.errors import StitchLensError, refusal

Start = Literal["scratch", "transferred", "random stitch", "shuffled stitch"]
STARTS: tuple[Start, ...] = ("scratch", "transferred", "random stitch", "shuffled stitch")
COMPARED: tuple[Start, ...] = ("scratch", "transferred")
TURN_BINS = 80
"""Of the histogram of decoder cosines from -1 to 1 (Fig. 2b)."""


class SaeConfig(Frozen):
    """A TopK SAE and its training. The batch and no auxiliary loss are the paper's (D); the rate is
    not, since it trains for 120 k steps and this for some hundred."""

    width: int = Field(default=4096, ge=1)
    k: int = Field(default=32, ge=1)
    epochs: int = Field(default=3, ge=1)
    lr: float = Field(default=2e-3, gt=0, le=1)
    """Constant; the paper's is 1e-4."""
    batch: int = Field(default=4096, ge=1)
    auxiliary: float = Field(default=0.0, ge=0)
    """Coefficient of the auxiliary loss on dead features; the paper uses none."""
    scaled: bool = True
    """Train on activations scaled to an average norm of sqrt(d); the scale is folded into the
    weights afterwards."""
    seed: int = 0


class ExploreConfig(Frozen):
    """How much is measured. Tokens are of model B."""

    positions: int | None = None
    """Paired held-out positions for Eq. 10; None reads the split whole."""
    reconstruction_positions: int = 20_000
    tokens: int = 5_000
    """Scored for the losses with an SAE in place."""
    sentences: int = 300
    """Each with REWRITES rewrites."""
    seed: int = 0


class RunConfig(Frozen):
    """One run: one pass over `positions` rows, in the same order for every start of a seed."""

    start: str
    """One of STARTS, or the title of a `Begin`."""
    width: int = Field(ge=1)
    k: int = Field(ge=1)
    seed: int = 0
    auxiliary: float = Field(default=0.0, ge=0)
    """Coefficient of SAELens' auxiliary loss on dead features; the paper uses none."""
    positions: int = Field(ge=1)
    batch: int = Field(default=1024, ge=1)
    lr: float = Field(default=2e-3, gt=0)
    """Constant, as in the paper (1e-4 for its 120 k steps)."""
    window: int = Field(default=64, ge=1)
    """A feature that was not active for so many steps is dead."""

    @property
    def steps(self) -> int:
        return self.positions // self.batch

    @property
    def title(self) -> str:
        extra = f", auxiliary {self.auxiliary:g}" if self.auxiliary else ""
        return f"{self.start}, {self.width:,} features, seed {self.seed}{extra}"


def memory(
    d: int,
    width: int,
    batch: int,
) -> int:
    """Bytes that training an SAE needs at most: weights, gradients and Adam's moments, and what a
    step keeps of its batch, or of a process's share of it."""
    return 4 * (2 * d * width * 5 + 8 * batch * width)


PLANNED = {"Gemma-2-2B": 2304, "Gemma-2-9B": 3584, "Llama-3.1-70B": 8192}
"""Width of the residual stream."""
WIDTHS = (16_384, 65_536, 131_072)
DEVICES = (1, 8)


def memory_as_markdown(batch: int = SaeConfig().batch) -> str:
    """The table of docs/scale.md: GB a device, where one trains an SAE and where several do."""
    devices = [f"{n} device{'s' * (n > 1)}" for n in DEVICES]
    lines = [
        "| features | " + " | ".join(f"{name}, {' and '.join(devices)}" for name in PLANNED) + " |",
        "| ---" * (1 + len(PLANNED)) + " |",
    ]
    for width in WIDTHS:
        cells = [
            " and ".join(f"{memory(d, width, batch // n) / 1e9:.3g}" for n in DEVICES)
            for d in PLANNED.values()
        ]
        lines.append(f"| {width:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def check_fits(d: int, config: RunConfig) -> None:
    """Raises StitchLensError for a run that cannot be: no memory for its width, k above the width,
    less than a step."""
    if config.k > config.width:
        raise StitchLensError(
            f"k = {config.k} of {config.width} features",
            "k at most the width",
            "choose larger widths (--widths)",
        )
    if config.steps < 1:
        raise StitchLensError(
            f"{config.positions} positions",
            f"{config.batch} or more, one batch",
            "ask for more positions (--positions), or a smaller batch (--batch)",
        )

    from psutil import virtual_memory  # pages import this module for its settings alone

    need, free = memory(d, config.width, config.batch), virtual_memory().available
    if need > 0.8 * free:
        most = int(config.width * 0.8 * free / need)
        raise StitchLensError(
            f"{config.width:,} features, which need {need / 1e9:.1f} GB of memory",
            f"at most {0.8 * free / 1e9:.1f} GB, four fifths of what is free",
            f"choose a width up to {most:,}",
        )


class Begin(Frozen):
    """Where a run begins, and what is done about what may be in its way."""

    source: Literal["scratch", "transferred", "shuffled"] = "transferred"
    """SAELens' own start, A's SAE through a stitch, or through one of shuffled pairs."""
    inversion: bool = True
    """Whether the stitch is learned with Eq. 3's inversion terms, or by two regressions, which take
    a fraction of the FLOPs."""
    encoder: Literal["carried", "fitted"] = "carried"
    """Eq. 6's, or one that is fitted to the firings of A's features."""
    decoder: Literal["carried", "fitted"] = "carried"
    """Eq. 6's, or least squares of B's rows on the firings there."""
    least: float = Field(default=0.0, ge=0, le=1)
    """Agreement with A below which a feature begins afresh; 0 keeps them all."""
    balanced: bool = False
    """The norm of a feature lies in encoder and decoder alike, so that one learning rate suits
    both; else in the encoder, as at the end of a training."""
    auxiliary: float = Field(default=0.0, ge=0)

    @property
    def untouched(self) -> bool:
        """Whether it is SAELens' own start."""
        return self.source == "scratch" and self.encoder == self.decoder == "carried"

    @property
    def title(self) -> str:
        source = "shuffled pairs" if self.source == "shuffled" else self.source
        fitted = [part for part in ("encoder", "decoder") if getattr(self, part) == "fitted"]
        parts = [source]
        if not self.inversion:
            parts.append("no inversion terms")
        if fitted:
            parts.append(f"{fitted[0] if len(fitted) == 1 else 'both'} fitted")
        if self.least:
            parts.append(f"agreement ≥ {self.least:g}")
        if self.balanced:
            parts.append("norms balanced")
        if self.auxiliary:
            parts.append(f"auxiliary {Fraction(self.auxiliary).limit_denominator(1000)}")
        return ", ".join(parts)


SMALL_AUXILIARY = 1 / 32
"""The coefficient that TopK SAEs are usually trained with."""
LEAST = 0.3
"""Agreement that a feature is kept for."""
BEGINNINGS = (
    Begin(source="scratch"),
    Begin(source="scratch", auxiliary=SMALL_AUXILIARY),
    Begin(source="scratch", decoder="fitted"),
    Begin(),
    Begin(inversion=False),
    Begin(balanced=True),
    Begin(least=LEAST),
    Begin(decoder="fitted"),
    Begin(encoder="fitted"),
    Begin(encoder="fitted", decoder="fitted"),
    Begin(encoder="fitted", decoder="fitted", least=LEAST),
    Begin(encoder="fitted", decoder="fitted", auxiliary=SMALL_AUXILIARY),
    Begin(inversion=False, encoder="fitted", decoder="fitted"),
    Begin(source="shuffled", encoder="fitted", decoder="fitted"),
)
"""Each mend alone, then together, with controls."""


class StartStudy(Frozen):
    """Which beginnings are compared, and on what."""

    beginnings: tuple[Begin, ...] = Field(default=BEGINNINGS, min_length=1)
    kinds: tuple[str, ...] = ()
    """Of the text that SAEs are trained on; all kinds if empty."""
    rates: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=(3e-3, 6e-3, 12e-3), min_length=1
    )
    """Learning rates; each beginning gets the one that suits it best."""
    seeds: int = Field(default=3, ge=1)
    positions: int = Field(default=400_000, ge=1)
    """Rows of B in one pass, or fewer where the text ends."""
    pairs: int = Field(default=16_000, ge=1)
    """Paired positions that starts are made from, stitch included."""
    batch: int = Field(default=1024, ge=1)
    window: int = Field(default=64, ge=1)

    def run(
        self,
        begin: Begin,
        lr: float,
        seed: int,
        width: int,
        k: int,
        positions: int,
    ) -> RunConfig:
        return RunConfig(
            start=begin.title,
            width=width,
            k=k,
            seed=seed,
            auxiliary=begin.auxiliary,
            positions=positions,
            batch=self.batch,
            lr=lr,
            window=self.window,
        )


class TrainingSet(Frozen):
    """Which runs are made, and from what."""

    widths: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(1024, 2048, 4096, 8192), min_length=1
    )
    starts: tuple[Start, ...] = Field(default=STARTS, min_length=1)
    seeds: int = Field(default=3, ge=1)
    """Of runs from scratch and from a transferred SAE; controls, and runs with an auxiliary loss,
    have the first."""
    auxiliary: float = Field(default=1.0, ge=0)
    """Coefficient of runs with the auxiliary loss, beside those without; 0 makes none."""
    positions: int = Field(default=400_000, ge=1)
    """Rows of B in one pass."""
    stitch_positions: int = Field(default=100_000, ge=1)
    """Pairs of positions that the stitch is learned from: a stitch needs far fewer than an SAE."""
    source_positions: int | None = None
    """Rows that A's SAEs are trained on; None is the fit split."""
    batch: int = Field(default=1024, ge=1)
    lr: float = Field(default=4e-3, gt=0, le=1e3)
    window: int = Field(default=64, ge=1)

    def runs(self, k: int) -> list[RunConfig]:
        """In the order in which they are made: what is compared first, widths rising."""

        def run(
            start: Start,
            width: int,
            seed: int,
            auxiliary: float = 0.0,
        ) -> RunConfig:
            return RunConfig(
                start=start,
                width=width,
                k=k,
                seed=seed,
                auxiliary=auxiliary,
                positions=self.positions,
                batch=self.batch,
                lr=self.lr,
                window=self.window,
            )

        compared: list[Start] = [s for s in COMPARED if s in self.starts]
        others: list[Start] = [s for s in self.starts if s not in COMPARED]
        out = [run(s, w, 0) for w in self.widths for s in compared]
        out += [run(s, w, 0) for w in self.widths for s in others]
        if self.auxiliary:
            out += [run(s, w, 0, self.auxiliary) for w in self.widths for s in compared]
        return out + [
            run(s, w, n) for n in range(1, self.seeds) for w in self.widths for s in compared
        ]


def training_set(given: dict[str, Any]) -> TrainingSet:
    """From what a person asked for. Raises StitchLensError that names what cannot be."""
    try:
        return TrainingSet.model_validate(given)
    except ValidationError as e:
        raise refusal(e, "see `python -m core sae train --help`") from None


def start_study(given: dict[str, Any]) -> StartStudy:
    """As `training_set`."""
    try:
        return StartStudy.model_validate(given)
    except ValidationError as e:
        raise refusal(e, "see `python -m core sae starts --help`") from None


def parsed_widths(text: str) -> list[int]:
    """Rising whole numbers from text such as 1024,4096. Raises StitchLensError for anything
    else."""
    try:
        return sorted({int(x) for x in text.split(",")})
    except ValueError:
        raise StitchLensError(
            f"widths '{text}'", "whole numbers with commas between", "such as 1024,4096"
        ) from None
