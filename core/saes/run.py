"""One training run of an SAE of B from a chosen start: SAELens' trainer on recorded activations,
resumable (3.1, D)."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.activations.recording import Recording
from core.errors import StitchLensError
from core.progress import Progress
from core.saes.settings import TURN_BINS, RunConfig, check_fits
from core.workspace.disk import beside, disk_faults, folder_beside

if TYPE_CHECKING:
    from sae_lens import SAE, SAETrainer

SAVE_SECONDS = 20.0
"""Between states that a killed run goes on from."""
BLOWN = 100.0
"""A loss of this many times the larger of the first and the variance is a diverged run."""
CURVE = ("error", "variance", "dead", "auxiliary")
"""By step, float32: mean squared error and variance of the batch in scaled units, features not
active for `window` steps, and whether the auxiliary loss was at work. Every batch is new to the
SAE, so this measures it on unseen text."""
Weights = dict[str, Tensor]
"""W_enc [d, M], b_enc [M], W_dec [M, d], b_dec [d]."""


def new_trainer(
    d: int,
    width: int,
    k: int,
    batch: int,
    steps: int,
    lr: float,
    auxiliary: float,
    window: int,
    seed: int,
) -> "SAETrainer[Any, Any]":
    """SAELens' trainer of a TopK SAE at its own start: unit decoder directions, encoder tied to
    them. As in the paper, dead features are not looked for where there is no auxiliary loss."""
    from sae_lens import SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig

    torch.manual_seed(seed)
    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(
            d_in=d,
            d_sae=width,
            k=k,
            aux_loss_coefficient=auxiliary,
            decoder_init_norm=1.0,
            rescale_acts_by_decoder_norm=True,
            apply_b_dec_to_input=False,
        )
    )
    setup = SAETrainerConfig(
        total_training_samples=max(steps, 1) * batch,
        train_batch_size_samples=batch,
        lr=lr,
        lr_end=lr,
        autocast=False,
        dead_feature_window=window if auxiliary else 10**9,
    )
    return SAETrainer(setup, sae, iter(()))


def start_weights(
    scratch: Weights,
    given: "SAE[Any] | None",
    mean: Tensor,
    scale: float,
    balanced: bool = False,
) -> Weights:
    """Where a run starts, for rows multiplied by `scale`: a `given` SAE of B at rest, its decoder
    directions at unit norm and their norms in the encoder (D, 1); or SAELens' own start about the
    `mean` row.

    `balanced` shares the norm of each feature out to encoder and decoder alike, which leaves what
    the SAE computes as it is: Adam moves both by the learning rate, so that what is long hardly
    turns.
    """
    if given is None:
        return scratch | {"b_dec": mean * scale, "b_enc": -(mean * scale) @ scratch["W_enc"]}
    w = {name: p.detach().float() for name, p in given.named_parameters()}
    norms = w["W_dec"].norm(dim=-1).clamp(min=1e-8)
    W_enc = w["W_enc"] * norms
    decoder = W_enc.norm(dim=0).clamp(min=1e-8).sqrt() if balanced else torch.ones_like(norms)
    return {
        "W_enc": W_enc / decoder,
        "b_enc": w["b_enc"] * norms * scale / decoder,
        "W_dec": w["W_dec"] / norms[:, None] * decoder[:, None],
        "b_dec": w["b_dec"] * scale,
    }


@dataclass(frozen=True)
class RunState:
    """What is known of a run: a row a step in `curve` (CURVE), and, once over, its `result`."""

    curve: dict[str, NDArray[np.float32]]
    result: dict[str, Any]

    @property
    def steps(self) -> int:
        return len(self.curve["error"])

    @property
    def explained_variance(self) -> NDArray[np.float32]:
        """By step, of its batch."""
        return 1 - self.curve["error"] / self.curve["variance"]


def read_run(folder: Path) -> RunState | None:
    """A run as far as it got, while it runs or after; None where there is nothing to read."""
    for name in ("done.safetensors", "state.safetensors"):
        try:
            with safe_open(folder / name, "np") as f:
                return RunState(
                    {n: f.get_tensor(n) for n in CURVE},
                    json.loads((f.metadata() or {}).get("result", "{}")),
                )
        except (OSError, SafetensorError, ValueError):
            continue
    return None


def finished_run(folder: Path) -> RunState | None:
    """A run that is over; None for another."""
    run = read_run(folder)
    return run if run is not None and run.result else None


class Run:
    """A run in its folder: `state.safetensors` while it runs, then `done.safetensors` and the
    trained SAE in `sae/`."""

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        d: int,
    ) -> None:
        self.folder, self.config, self.d = folder, config, d

    def train(
        self,
        recording: Recording,
        given: "SAE[Any] | None",
        about: dict[str, Any],
        held_out: list[Tensor],
        balanced: bool = False,
    ) -> RunState:
        """To the end, or on from where a killed run was. `given` is the SAE that it starts from,
        None for scratch, `balanced` as in `start_weights`; `held_out` rows measure the result. A
        run that diverges ends with the last good state, and says so."""
        from core.saes.sae import reconstruction
        from core.saes.train import finished
        from core.stitches.transfer import save_sae

        if (done := finished_run(self.folder)) is not None:
            return done
        check_fits(self.d, self.config)
        c = self.config
        if recording.n < c.positions:
            raise StitchLensError(
                f"{recording.n:,} recorded rows",
                f"{c.positions:,}",
                "ask for fewer positions (--positions)",
            )
        trainer = new_trainer(
            self.d, c.width, c.k, c.batch, c.steps, c.lr, c.auxiliary, c.window, c.seed
        )
        sae = trainer.sae
        some = next(recording.epoch(min(recording.n, 65_536), 0, ("h",)))[0]
        mean, scale = some.mean(0), self.d**0.5 / float(some.norm(dim=-1).mean())
        scratch = {name: p.detach().clone() for name, p in sae.named_parameters()}
        first = start_weights(scratch, given, mean, scale, balanced)
        sae.load_state_dict(first)
        began, seconds = time.perf_counter(), 0.0
        curve: dict[str, list[float]] = {name: [] for name in CURVE}
        if (self.folder / "state.safetensors").exists():
            curve, seconds = self._resume(trainer)
        step, stopped = self._steps(trainer, recording, scale, curve, seconds)
        seconds += time.perf_counter() - began
        turned = torch.cosine_similarity(sae.W_dec.detach(), first["W_dec"], dim=-1)
        final = finished(sae, scale, about | {"stitchlens": c.model_dump()})
        with disk_faults(self.folder), folder_beside(self.folder / "sae") as part:
            save_sae(final, part)
        alive = torch.zeros(c.width, dtype=torch.bool)
        measured = reconstruction(final, held_out, alive)
        counts = torch.histc(turned[alive].clamp(-1, 1), TURN_BINS, -1, 1)
        result = (
            c.model_dump()
            | measured
            | {
                "steps": step,
                "seconds": seconds,
                "stopped": stopped,
                "cosine": float(turned[alive].median()),
                "turning": [int(x) for x in counts],
            }
        )
        arrays = {name: torch.tensor(x[:step]) for name, x in curve.items()}
        with beside(self.folder / "done.safetensors") as part:
            save_file(arrays, part, {"result": json.dumps(result)})
        (self.folder / "state.safetensors").unlink(missing_ok=True)
        found = read_run(self.folder)
        assert found is not None
        return found

    def _steps(
        self,
        trainer: "SAETrainer[Any, Any]",
        recording: Recording,
        scale: float,
        curve: dict[str, list[float]],
        seconds: float,
    ) -> tuple[int, str]:
        """Train; (steps that count, why it stopped early or '')."""
        c, began, saved = self.config, time.perf_counter(), time.monotonic()
        rows = self._rows(recording, scale, len(curve["error"]))
        if not curve["error"]:
            self._save(trainer, curve, 0.0)
        with Progress(c.title, c.steps * c.batch, "pos", len(curve["error"]) * c.batch) as bar:
            for step in range(len(curve["error"]), c.steps):
                h = next(rows)
                dead = trainer.n_forward_passes_since_fired > c.window
                out = trainer.step(h)
                trainer.n_training_steps += 1
                error = float((out.sae_out.detach() - h).pow(2).mean())
                variance = float((h - h.mean(0)).pow(2).mean())
                loss = float(out.loss.detach())
                worst = (
                    BLOWN * max(curve["error"][0] if curve["error"] else error, variance) * self.d
                )
                if not np.isfinite(loss) or loss > worst:
                    kept, _ = self._resume(trainer)
                    for name in CURVE:
                        curve[name][:] = kept[name]
                    good = len(curve["error"])
                    return (
                        good,
                        (
                            f"diverged at step {step} of {c.steps} (loss {loss:.3g}): its state"
                            f" after step {good} is kept; use a learning rate below {c.lr:g}"
                        ),
                    )
                at_work = bool(c.auxiliary) and bool(dead.any())
                for name, x in zip(
                    CURVE, (error, variance, float(dead.sum()), float(at_work)), strict=True
                ):
                    curve[name].append(x)
                bar.advance(c.batch)
                if time.monotonic() - saved > SAVE_SECONDS:
                    self._save(trainer, curve, seconds + time.perf_counter() - began)
                    saved = time.monotonic()
        return c.steps, ""

    def _rows(
        self,
        recording: Recording,
        scale: float,
        skip: int,
    ) -> Iterator[Tensor]:
        """Batches in the order of the seed, from step `skip` on; the short ones at the ends of
        shards are joined."""
        left = torch.zeros(0, self.d)
        for (some,) in recording.epoch(self.config.batch, self.config.seed, ("h",)):
            left = torch.cat([left, some])
            if len(left) >= self.config.batch:
                if skip:
                    skip -= 1
                else:
                    yield left[: self.config.batch] * scale
                left = left[self.config.batch :]

    def _save(
        self,
        trainer: "SAETrainer[Any, Any]",
        curve: dict[str, list[float]],
        seconds: float,
    ) -> None:
        tensors = {name: torch.tensor(x, dtype=torch.float32) for name, x in curve.items()}
        tensors["unfired"] = trainer.n_forward_passes_since_fired
        for name, p in trainer.sae.named_parameters():
            tensors[f"weights.{name}"] = p.detach().contiguous()
            for part, x in trainer.optimizer.state.get(p, {}).items():
                tensors[f"adam.{name}.{part}"] = x.contiguous()
        with beside(self.folder / "state.safetensors") as part:
            save_file(tensors, part, {"seconds": str(seconds)})

    def _resume(self, trainer: "SAETrainer[Any, Any]") -> tuple[dict[str, list[float]], float]:
        """Put the trainer where the last saved state was; its curve and the seconds that it
        took."""
        path = self.folder / "state.safetensors"
        try:
            with safe_open(path, "pt") as f:
                kept = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
                seconds = float((f.metadata() or {})["seconds"])
            for name, p in trainer.sae.named_parameters():
                p.data.copy_(kept[f"weights.{name}"])
                parts = {
                    k.rsplit(".", 1)[1]: v for k, v in kept.items() if k.startswith(f"adam.{name}.")
                }
                trainer.optimizer.state[p] = parts
                if not parts:
                    del trainer.optimizer.state[p]
            trainer.n_forward_passes_since_fired = kept["unfired"]
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as e:
            raise StitchLensError(
                f"an unreadable state of a run ({e})",
                "what a run wrote",
                f"delete {path} and start it again",
            ) from e
        curve = {name: [float(x) for x in kept[name]] for name in CURVE}
        trainer.n_training_steps = len(curve["error"])
        return curve, seconds
