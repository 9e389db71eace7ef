"""Is mean squared error enough? A fitted stitch, trained a little more on what the models that read
it predict.

Both ways at once: B goes on from A's rows (`P_up`, `b_up`) and A from B's (`P_down`, `b_down`),
each to come near its own next-token distribution. The inversion terms of Eq. 3 stand beside, so
that round trips do not pay for it.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.activations.harvest import batches, windows
from core.errors import StitchLensError
from core.models.live import Encoded, LiveModel
from core.models.pairs import SIDES, LayerPair, Side
from core.progress import Progress
from core.stitches.objective import Reading, descend, read_texts
from core.stitches.settings import RefineConfig
from core.stitches.stitch import Maps
from core.text.corpus import Document
from core.workspace.disk import beside, disk_faults

SAVE_SECONDS = 30.0
"""Between states that a killed run goes on from."""
CURVE = ("up", "down", "inversion_a", "inversion_b")
"""By step, float32: the objective of B going on from A and of A going on from B, and the inversion
terms of the maps before that step."""


AnyMaps = TypeVar("AnyMaps", bound=Maps)


class Change(torch.nn.Module, Generic[AnyMaps]):
    """Maps and what is added to them: a change of each part in units of that part's own root mean
    square, 0 at first."""

    def __init__(self, start: AnyMaps) -> None:
        super().__init__()
        self.start = start
        for name in start.parts:
            part = getattr(start, name)
            size = part.pow(2).mean().sqrt().clamp(min=1e-8)
            self.register_buffer(f"{name}_start", part)
            self.register_buffer(f"{name}_size", size)
            self.register_parameter(name, torch.nn.Parameter(torch.zeros_like(part)))

    def forward(self) -> AnyMaps:
        """The maps as they are now."""
        parts = {
            name: getattr(self, f"{name}_start") + getattr(self, f"{name}_size") * change
            for name, change in self.named_parameters()
        }
        return replace(self.start, **parts)  # type: ignore[type-var]


@dataclass(frozen=True)
class Refined(Generic[AnyMaps]):
    """What came of a run: the maps, CURVE by step, and how long it took."""

    maps: AnyMaps
    curve: dict[str, NDArray[np.float32]]
    seconds: float


class Refinement(Generic[AnyMaps]):
    """A run in its folder: `state.safetensors` while it runs, then `done.safetensors`.

    `inversion` gives the terms of Eq. 3 that hold back the round trips of a stitch; without it they
    are free. With `means`, those stand for every row of A and of B that crosses: what can be
    learned without reading the other model. Raises StitchLensError where there is no text of the
    kinds asked for, or less of it than a step.
    """

    def __init__(
        self,
        models: tuple[LiveModel, LiveModel],
        layers: LayerPair,
        start: AnyMaps,
        inversion: Callable[[AnyMaps], tuple[Tensor, Tensor]] | None,
        config: RefineConfig,
        folder: Path,
        means: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.models, self.layers, self.start = models, layers, start
        self.config, self.folder = config, folder
        self.inversion, self.means = inversion, means

    @cached_property
    def change(self) -> Change[AnyMaps]:
        return Change(self.start)

    @cached_property
    def optimiser(self) -> torch.optim.Adam:
        return torch.optim.Adam(self.change.parameters(), lr=self.config.lr)

    def train(
        self,
        documents: Sequence[Document],
        title: str,
        after_step: Callable[[int], None] = lambda step: None,
        save_seconds: float = SAVE_SECONDS,
    ) -> Refined[AnyMaps]:
        """To the end, or on from where a killed run was: to the same bits."""
        done = self.folder / "done.safetensors"
        if done.exists():
            return self._result(self._resume(done))

        plan = Plan(self.models, documents, self.config)
        state = self.folder / "state.safetensors"
        began = time.perf_counter()
        curve, seconds = self._resume(state) if state.exists() else ({n: [] for n in CURVE}, 0.0)
        first, steps = len(curve["up"]), len(plan.steps)
        saved = time.monotonic()

        read = sum(plan.sizes[:first])
        with Progress(title, sum(plan.sizes), "tok", read) as bar:
            for step in range(first, steps):
                measured = self._step(plan.encoded(step), step / steps)
                for name, value in zip(CURVE, measured, strict=True):
                    curve[name].append(value)
                bar.advance(plan.sizes[step])

                if time.monotonic() - saved >= save_seconds:
                    self._save(state, curve, seconds + time.perf_counter() - began)
                    saved = time.monotonic()
                after_step(step)

        seconds += time.perf_counter() - began
        self._save(done, curve, seconds)
        state.unlink(missing_ok=True)
        return self._result((curve, seconds))

    def _step(
        self,
        encoded: tuple[Sequence[Encoded], Sequence[Encoded]],
        share: float,
    ) -> tuple[float, ...]:
        """Read a batch and step once; `share` of the run is over. CURVE's values."""
        readings = read_texts(self.models, self.layers, encoded)
        self.optimiser.zero_grad()
        up = down = lost_a = lost_b = math.nan
        if self.inversion is not None:
            of_a, of_b = self.inversion(self.change())
            (self.config.inversion * (of_a + of_b)).backward()
            lost_a, lost_b = float(of_a.detach()), float(of_b.detach())

        if readings is not None:
            up, down = self._descend(readings)

        for group in self.optimiser.param_groups:
            group["lr"] = self.config.lr * cosine(share)
        self.optimiser.step()
        return up, down, lost_a, lost_b

    def _descend(self, readings: dict[Side, Reading]) -> tuple[float, float]:
        """Add the gradients of both ways and of the round trips; the objective each way."""
        objective, weight = self.config.objective, self.config.round_trips
        rows_a, rows_b = self._crossing(readings)
        up = descend(objective, readings["b"], self.change().up(rows_a))
        down = descend(objective, readings["a"], self.change().down(rows_b))
        if weight:
            maps = self.change()
            descend(objective, readings["a"], maps.down(maps.up(rows_a)), weight)
            maps = self.change()
            descend(objective, readings["b"], maps.up(maps.down(rows_b)), weight)
        return up, down

    def _crossing(self, readings: dict[Side, Reading]) -> tuple[Tensor, Tensor]:
        """Both models' rows as they are handed to the maps, on their device."""
        rows_a, rows_b = (readings[side].stream.cpu() for side in SIDES)
        if self.means is None:
            return rows_a, rows_b
        return self.means[0].expand_as(rows_a), self.means[1].expand_as(rows_b)

    def _save(
        self,
        path: Path,
        curve: dict[str, list[float]],
        seconds: float,
    ) -> None:
        tensors = {name: torch.tensor(values) for name, values in curve.items()}
        for name, change in self.change.named_parameters():
            tensors[f"change.{name}"] = change.detach().contiguous()
            for part, value in self.optimiser.state.get(change, {}).items():
                tensors[f"adam.{name}.{part}"] = value.contiguous()
        with disk_faults(path):
            self.folder.mkdir(parents=True, exist_ok=True)
        with beside(path) as part:
            save_file(tensors, part, {"seconds": str(seconds)})

    def _resume(self, path: Path) -> tuple[dict[str, list[float]], float]:
        """Put the maps and the optimiser where a saved state was; its curve and seconds."""
        try:
            with safe_open(path, "pt") as f:
                state = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
                seconds = float((f.metadata() or {})["seconds"])
            for name, change in self.change.named_parameters():
                change.data.copy_(state[f"change.{name}"])
                prefix = f"adam.{name}."
                moments = {
                    k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)
                }
                if moments:
                    self.optimiser.state[change] = moments
            curve = {name: [float(value) for value in state[name]] for name in CURVE}
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as e:
            raise StitchLensError(
                f"an unreadable state of a run ({e})",
                "what a run wrote",
                f"delete {path} and start it again",
            ) from e
        return curve, seconds

    def _result(self, state: tuple[dict[str, list[float]], float]) -> Refined[AnyMaps]:
        curve, seconds = state
        with torch.no_grad():
            maps = self.change()
        arrays = {name: np.array(values, dtype=np.float32) for name, values in curve.items()}
        return Refined(maps, arrays, seconds)


class Plan:
    """Which texts are read in which step: known before the first one, so that a run can go on."""

    def __init__(
        self,
        models: tuple[LiveModel, LiveModel],
        documents: Sequence[Document],
        config: RefineConfig,
    ) -> None:
        self.texts: tuple[list[Encoded], list[Encoded]] = ([], [])
        self.steps: list[list[int]] = []
        """Of each step the numbers of its texts."""
        self.sizes: list[int] = []
        """Tokens of B in each step."""

        chosen = of_kinds(documents, config.kinds)
        draws = np.random.default_rng(config.seed)
        read, pass_ = 0, 0
        while read < config.tokens:
            read = self._pass(models, chosen, config, draws, pass_)
            pass_ += 1

    def _pass(
        self,
        models: tuple[LiveModel, LiveModel],
        documents: Sequence[Document],
        config: RefineConfig,
        draws: np.random.Generator,
        pass_: int,
    ) -> int:
        """Go through the documents once, or until enough is read; how much that is in all."""
        order = (
            documents if pass_ == 0 else [documents[i] for i in draws.permutation(len(documents))]
        )
        for window in windows(order):
            texts = [document.text for document in window]
            first = len(self.texts[0])
            tokens_a, tokens_b = (model.encode(texts) for model in models)
            self.texts[0].extend(tokens_a)
            self.texts[1].extend(tokens_b)

            groups = batches(tokens_b, config.batch)
            for group in draws.permutation(len(groups)):
                self.steps.append([first + i for i in groups[group]])
                self.sizes.append(sum(len(tokens_b[i].ids) for i in groups[group]))
                if sum(self.sizes) >= config.tokens:
                    return sum(self.sizes)
        return sum(self.sizes)

    def encoded(self, step: int) -> tuple[list[Encoded], list[Encoded]]:
        """The texts of a step, in A's tokens and in B's."""
        texts_a, texts_b = self.texts
        return [texts_a[i] for i in self.steps[step]], [texts_b[i] for i in self.steps[step]]


def cosine(share: float) -> float:
    """From 1 at the beginning of a run to 0 at its end; `share` of it is over."""
    return (1 + math.cos(math.pi * share)) / 2


def of_kinds(documents: Sequence[Document], kinds: Sequence[str]) -> list[Document]:
    """Those of the kinds, or all where none is named. Raises StitchLensError where there is none of
    one of them: it lists those there are."""
    known = sorted({document.kind for document in documents})
    if unknown := [kind for kind in kinds if kind not in known]:
        raise StitchLensError(
            f"no text of the kind '{unknown[0]}' in the fit split",
            f"some of {', '.join(known[:12])}",
            "choose among them by --kinds, or give --kinds '' for all",
        )
    return [document for document in documents if not kinds or document.kind in kinds]
