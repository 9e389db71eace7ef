"""A stitch in two pieces, so that the sink crosses, too (5.2).

Stitches are fitted without first tokens and massive activations, and so never saw the direction
where heads rest. Such rows get a map of their own: the receiving model's mean row there, and a
small affine remainder. Which piece a row takes is decided by the source's row alone, and by whether
it is the first of its text. All that is linear (SAEs, probes, vectors) goes by the ordinary map.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.activations.gram import Gram, Moments
from core.activations.harvest import OUTLIER, norm_limit, read_window, windows
from core.errors import StitchLensError
from core.models.live import LiveModel
from core.models.pairs import SIDES, LayerPair, Side
from core.progress import Progress
from core.stitches.settings import SinkConfig
from core.stitches.stitch import Stitch, load_stitch
from core.text.corpus import Document
from core.workspace.disk import fingerprint
from core.workspace.store import Workspace

FORMAT = "stitchlens-two-piece-"
VERSION = "1"
SAYS = (
    "The second piece of a stitch: first tokens and rows whose norm is above `limit` take"
    " mean + (h - centre) left right, all others the ordinary map of the stitch."
)
NOISE = 1e-6
"""Share of a mean row's squared norm below which variation about it counts as rounding."""
NAMES: dict[Side, str] = {"b": "up", "a": "down"}
"""Of the piece that leads to a model."""
PARTS = ("limit", "centre", "mean", "left", "right")


@dataclass(frozen=True)
class Piece:
    """The map of sink rows to one model, float32: h -> mean + (h - centre) left right.

    limit: the norm above which a row of the source is massive, in its residual units; centre [d]
    and mean [e], the mean rows of source and receiver at sink positions; left [d, r], right [r, e].
    """

    limit: Float[Tensor, ""]
    centre: Float[Tensor, " d"]
    mean: Float[Tensor, " e"]
    left: Float[Tensor, "d r"]
    right: Float[Tensor, "r e"]

    @property
    def rank(self) -> int:
        """Of the remainder; 0 where the map is the mean sink vector alone."""
        return self.left.shape[1]

    def takes(
        self,
        h: Float[Tensor, "... d"],
        first: Bool[Tensor, "..."] | None = None,
    ) -> Bool[Tensor, "..."]:
        """Which rows of the source are this piece's: the `first` of a text and massive ones."""
        massive = h.float().norm(dim=-1) > self.limit
        return massive if first is None else massive | first

    def carry(self, h: Float[Tensor, "... d"]) -> Float[Tensor, "... e"]:
        return self.mean + (h.float() - self.centre) @ self.left @ self.right

    def mean_alone(self) -> "Piece":
        """A control: the mean sink vector, whatever the row."""
        return replace(self, left=self.left[:, :0], right=self.right[:0])


@dataclass(frozen=True)
class Sink:
    """The second piece of a stitch, both ways; `makers` say of which stitch, and from what."""

    up: Piece
    down: Piece
    makers: dict[str, Any] = field(default_factory=dict, compare=False)

    def toward(self, side: Side) -> Piece:
        return self.up if side == "b" else self.down

    def mean_alone(self) -> "Sink":
        return replace(self, up=self.up.mean_alone(), down=self.down.mean_alone())


@dataclass(frozen=True)
class TwoPiece(Stitch):
    """A stitch that `carry`s sink rows by a map of their own; `up` and `down` are the ordinary
    ones."""

    sink: Sink = field(kw_only=True)

    def carry(
        self,
        h: Float[Tensor, "... d"],
        to: Side,
        first: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "... e"]:
        piece = self.sink.toward(to)
        own = piece.takes(h, first)[..., None]
        return torch.where(own, piece.carry(h), super().carry(h, to))


def two_piece(stitch: Stitch, sink: Sink) -> TwoPiece:
    """Raises StitchLensError where the sink's map was fitted beside another stitch."""
    wanted = fingerprint(stitch.makers)
    if sink.makers.get("stitch") != wanted:
        raise StitchLensError(
            f"a sink's map that belongs to the stitch {sink.makers.get('stitch')}",
            f"{wanted}, the stitch at hand",
            "fit it again (`python -m core stitch sink --help`)",
        )
    widths = (len(sink.up.centre), len(sink.up.mean))
    if widths != tuple(stitch.P_up.shape):
        raise StitchLensError(
            f"a sink's map between widths {widths[0]} and {widths[1]}",
            f"{stitch.P_up.shape[0]} and {stitch.P_up.shape[1]}, those of the stitch",
            "fit it again (`python -m core stitch sink --help`)",
        )
    return TwoPiece(
        stitch.P_up,
        stitch.b_up,
        stitch.P_down,
        stitch.b_down,
        stitch.makers,
        sink=sink,
    )


@dataclass
class SinkGrams:
    """Second moments of exactly the rows that each piece takes, by the side that it leads to."""

    limits: dict[Side, float]
    """Of each model's rows: the norm above which one is massive."""
    pairs: dict[Side, Gram]
    shuffled: dict[Side, Gram]
    """A control: the same rows of the source, with rows of the receiver drawn from all positions
    of their window."""
    first: int = 0
    """Texts, each with one first position."""
    massive: dict[Side, int] = field(default_factory=lambda: {"a": 0, "b": 0})
    """Rows of each model above its limit, behind the first position."""


def harvest_sinks(
    a: LiveModel,
    b: LiveModel,
    documents: Sequence[Document],
    pair: LayerPair,
) -> SinkGrams:
    """Both models over the documents, at positions that pair up and the first. As in every harvest,
    the first window with a pair says above which norm a row is massive."""
    widths = (a.spec.d_model, b.spec.d_model)
    grams = SinkGrams(
        limits={"a": math.inf, "b": math.inf},
        pairs={side: Gram(*widths) for side in SIDES},
        shuffled={side: Gram(*widths) for side in SIDES},
    )
    with Progress("reading sinks", len(documents), "documents") as bar:
        for number, docs in enumerate(windows(documents)):
            chunk = read_window(a, b, docs, [pair.a], [pair.b], first=True)
            h_a, h_b = chunk.h_a[pair.a], chunk.h_b[pair.b]
            first = torch.from_numpy(chunk.at_a == 0)
            if math.isinf(grams.limits["a"]) and not first.all():
                grams.limits = {"a": _limit(h_a[~first]), "b": _limit(h_b[~first])}
            add_sinks(grams, h_a, h_b, first, seed=number)
            bar.advance(len(docs))
    return grams


def _limit(rows: Float[Tensor, "n d"]) -> float:
    return norm_limit(rows.float().norm(dim=-1))


def add_sinks(
    grams: SinkGrams,
    h_a: Float[Tensor, "n d_a"],
    h_b: Float[Tensor, "n d_b"],
    first: Bool[Tensor, " n"],
    seed: int = 0,
) -> None:
    """Add the sink rows among paired rows. `seed` draws the control's partners."""
    massive: dict[Side, Tensor] = {
        "a": h_a.float().norm(dim=-1) > grams.limits["a"],
        "b": h_b.float().norm(dim=-1) > grams.limits["b"],
    }
    grams.first += int(first.sum())
    for side in SIDES:
        grams.massive[side] += int((massive[side] & ~first).sum())

    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(first), generator=generator)
    up, down = massive["a"] | first, massive["b"] | first
    grams.pairs["b"].update(h_a[up], h_b[up], control=False)
    grams.pairs["a"].update(h_a[down], h_b[down], control=False)
    grams.shuffled["b"].update(h_a[up], h_b[drawn][up], control=False)
    grams.shuffled["a"].update(h_a[drawn][down], h_b[down], control=False)


def fit_piece(
    moments: Moments,
    to: Side,
    limit: float,
    config: SinkConfig,
) -> Piece:
    """Reduced-rank ridge regression about the mean rows. The penalty is a share of the whole
    variance, so that a direction in which few rows differ is shrunk the most; what would move the
    receiver's mean row by less than NOISE is left out."""
    m = moments
    centre, mean = m.mean_a, m.mean_b
    xx, xy = m.aa, m.ab
    if to == "a":
        centre, mean = mean, centre
        xx, xy = m.bb, m.ab.T

    penalty = config.ridge * xx.trace() + NOISE * centre.dot(centre)
    eye = torch.eye(len(xx), dtype=xx.dtype)
    c = torch.linalg.cholesky(xx + penalty * eye)
    whitened = torch.linalg.solve_triangular(c, xy, upper=False)
    u, s, vh = torch.linalg.svd(whitened, full_matrices=False)

    large = int((s**2 > NOISE * mean.dot(mean)).sum())
    rank = min(config.rank, large)
    left = torch.linalg.solve_triangular(c.T, u[:, :rank] * s[:rank], upper=True)
    return Piece(
        torch.tensor(limit, dtype=torch.float32),
        centre.float(),
        mean.float(),
        left.float().contiguous(),
        vh[:rank].float().contiguous(),
    )


def fit_sink(
    grams: SinkGrams,
    stitch: Stitch,
    config: SinkConfig,
    shuffled: bool = False,
) -> Sink:
    """The second piece of `stitch`; with `shuffled`, the control's. Raises StitchLensError where
    there is no row to fit."""
    source = grams.shuffled if shuffled else grams.pairs
    up = fit_piece(source["b"].moments(), "b", grams.limits["a"], config)
    down = fit_piece(source["a"].moments(), "a", grams.limits["b"], config)
    makers = config.model_dump() | {
        "stitch": fingerprint(stitch.makers),
        "outlier": OUTLIER,
        "first": grams.first,
        "massive_a": grams.massive["a"],
        "massive_b": grams.massive["b"],
    }
    return Sink(up, down, makers | {"control": "shuffled pairs"} if shuffled else makers)


def save_sink(sink: Sink, path: Path) -> None:
    """Safetensors; `path` is written directly."""
    tensors = {
        f"{NAMES[side]}.{part}": getattr(sink.toward(side), part).contiguous()
        for side in SIDES
        for part in PARTS
    }
    metadata = {
        "format": f"{FORMAT}{VERSION}",
        "says": SAYS,
        "makers": json.dumps(sink.makers, sort_keys=True),
    }
    save_file(tensors, path, metadata=metadata)


def load_sink(path: Path) -> Sink:
    """What `save_sink` wrote. Raises StitchLensError that names another version, or says what the
    file is not."""
    try:
        with safe_open(path, "pt") as f:
            metadata = f.metadata() or {}
            _check_version(metadata.get("format"), path.name)
            pieces = {side: _piece(f, NAMES[side], path.name) for side in SIDES}
            makers = json.loads(metadata["makers"])
    except (SafetensorError, KeyError, ValueError, OSError) as e:
        raise StitchLensError(
            f"no readable sink's map in {path.name} ({e})",
            "what `stitch sink` wrote",
            "fit it again (`python -m core stitch sink --help`)",
        ) from e

    up, down = pieces["b"], pieces["a"]
    if (len(up.centre), len(up.mean)) != (len(down.mean), len(down.centre)):
        raise StitchLensError(
            f"two maps of other widths in {path.name}",
            "one as wide as the other is high",
            "fit it again (`python -m core stitch sink --help`)",
        )
    return Sink(up, down, makers)


def _check_version(name: str | None, file: str) -> None:
    if name == f"{FORMAT}{VERSION}":
        return
    version = (name or "").removeprefix(FORMAT)
    if version != name:
        raise StitchLensError(
            f"version {version} of a two-piece stitch in {file}",
            f"version {VERSION}",
            "fit it again with this version (`python -m core stitch sink --help`)",
        )
    raise StitchLensError(
        f"format {name!r} in {file}", f"{FORMAT}{VERSION}", "give the file of a sink's map"
    )


def _piece(
    f: Any,
    name: str,
    file: str,
) -> Piece:
    """Raises StitchLensError for shapes that do not fit together, or numbers that are none."""
    parts = {part: f.get_tensor(f"{name}.{part}").float() for part in PARTS}
    d, e = parts["centre"].numel(), parts["mean"].numel()
    rank = parts["left"].shape[-1] if parts["left"].dim() else 0
    shapes = [tuple(parts[part].shape) for part in PARTS]
    if shapes != [(), (d,), (e,), (d, rank), (rank, e)]:
        raise StitchLensError(
            ", ".join(f"{name}.{p} {s}" for p, s in zip(PARTS, shapes, strict=True))
            + f" in {file}",
            "a limit, two rows, and two factors between them",
            "fit it again (`python -m core stitch sink --help`)",
        )
    finite = all(bool(torch.isfinite(parts[part]).all()) for part in PARTS[1:])
    if not finite or not parts["limit"] > 0:
        raise StitchLensError(
            f"NaN or infinite numbers in {file}",
            "finite ones",
            "fit it again (`python -m core stitch sink --help`)",
        )
    return Piece(**parts)


def load_two_piece(
    ws: Workspace,
    name: str,
    control: bool = False,
) -> TwoPiece:
    """A stitch of the workspace with its second piece; with `control`, that of shuffled pairs.
    Raises StitchLensError where it has none, or was fitted again since."""
    stitch = load_stitch(ws.path(f"stitches/{name}"))
    piece = "shuffled" if control else "map"
    return two_piece(stitch, load_sink(ws.path(f"sinks/{name}/{piece}")))
