"""SAEs of either model trained by SAELens' own trainer on recorded activations (3.1, C, D)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock
from torch import Tensor

from core.activations.recording import Recording
from core.bench import Bench
from core.errors import StitchLensError
from core.models.pairs import Side
from core.progress import Progress
from core.saes.parallel import ranks
from core.saes.sae import load_sae, metadata
from core.saes.settings import SaeConfig
from core.stitches.transfer import at_rest, save_sae
from core.workspace.disk import disk_faults, fingerprint, folder_beside
from core.workspace.places import user_cache

if TYPE_CHECKING:
    from sae_lens import SAE


def config_of(makers: Mapping[str, Any]) -> SaeConfig:
    """That of an SAE that was trained here, from its makers."""
    return SaeConfig.model_validate({name: makers[name] for name in SaeConfig.model_fields})


def train_sae(
    recording: Recording,
    name: str,
    config: SaeConfig,
    about: dict[str, Any],
    desc: str = "training an SAE",
) -> "SAE[Any]":
    """A TopK SAE of the recorded tensor `name`, trained by SAELens' own trainer; decoder norms are
    1 in the result.

    Encoder and decoder are tied at the start and the decoder bias starts at the mean. Where
    torchrun started several processes, each of them calls this, and gets the same SAE. Raises
    StitchLensError where there are fewer rows than one batch, or the loss is not finite.
    """
    from sae_lens import SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig

    if recording.n < config.batch:
        raise StitchLensError(
            f"{recording.n} positions", f"{config.batch} or more, one batch", "record more text"
        )
    together = ranks()
    torch.manual_seed(config.seed)
    steps = recording.n // config.batch * config.epochs
    first = next(recording.epoch(min(recording.n, 65_536), config.seed, (name,)))[0]
    scale = first.shape[1] ** 0.5 / float(first.norm(dim=-1).mean()) if config.scaled else 1.0
    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(
            d_in=first.shape[1],
            d_sae=config.width,
            k=config.k,
            aux_loss_coefficient=config.auxiliary,
            decoder_init_norm=1.0,
            rescale_acts_by_decoder_norm=True,
            apply_b_dec_to_input=True,
        )
    )
    with torch.no_grad():
        sae.b_dec.copy_(first.mean(0) * scale)

    def batches() -> Iterator[Tensor]:
        for epoch in range(config.epochs + 1):
            for (rows,) in recording.epoch(config.batch, config.seed + epoch, (name,)):
                if len(rows) == config.batch:
                    yield together.own(rows) * scale

    setup = SAETrainerConfig(
        total_training_samples=steps * config.batch,
        train_batch_size_samples=config.batch,
        lr=config.lr,
        lr_end=config.lr,
        autocast=False,
    )
    rows = batches()
    trainer = SAETrainer(setup, sae, rows)
    together.add_gradients(sae, config.batch)
    with Progress(desc, steps * config.batch, "pos") as bar:
        for step in range(steps):
            out = trainer.step(next(rows))
            trainer.n_training_steps += 1
            together.agree_on_dead(trainer)
            bar.advance(config.batch)
            if step % 100 == 0 and not torch.isfinite(out.loss):
                raise StitchLensError(
                    f"a loss of {out.loss.item()} at step {step}",
                    "a finite one",
                    f"lower the learning rate, {config.lr:g} here (`--lr`)",
                )
    return finished(
        sae, scale, about | {"stitchlens": config.model_dump(), "training_positions": recording.n}
    )


def finished(
    sae: Any,
    scale: float,
    about: Mapping[str, Any],
) -> "SAE[Any]":
    """A training SAE of rows multiplied by `scale` as one at rest for rows as they are, with
    decoder norms of 1; `about` goes into its metadata."""
    sae.fold_activation_norm_scaling_factor(scale)
    sae.fold_W_dec_norm()
    sae.cfg.rescale_acts_by_decoder_norm = False
    out = at_rest(sae)
    for key, value in about.items():
        out.cfg.metadata[key] = value
    return out.eval().requires_grad_(False)


def sae_makers(
    bench: Bench,
    side: Side,
    layer: int,
    config: SaeConfig,
    positions: int | None,
    kinds: Sequence[str] = (),
) -> dict[str, Any]:
    """What decides an SAE of one model of a pair, trained on the fit split."""
    return (
        bench.makers
        | {
            f"layer_{side}": layer,
            "split": "fit",
            "positions": positions,
        }
        | config.model_dump()
        | _of_kinds(kinds)
    )


def _of_kinds(kinds: Sequence[str]) -> dict[str, list[str]]:
    """Nothing where all kinds of text are read, so that makers are those of before there was a
    choice."""
    return {"kinds": sorted(kinds)} if kinds else {}


def with_kinds(name: str, kinds: Sequence[str]) -> str:
    """The name of what is made of these kinds of text alone: `name` and theirs."""
    words = [word.lower() for kind in sorted(kinds) for word in kind.split()]
    return "-".join([name, *words])


def kept_sae(
    bench: Bench,
    side: Side,
    layer: int,
    config: SaeConfig,
    positions: int | None,
    kinds: Sequence[str] = (),
) -> "SAE[Any]":
    """An SAE of one model of a pair that is no artifact of the workspace: trained once, kept in the
    user's cache."""
    makers = sae_makers(bench, side, layer, config, positions, kinds)
    folder = user_cache() / "saes" / fingerprint(makers)
    spec = bench.pair.a if side == "a" else bench.pair.b
    with disk_faults(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "cfg.json").exists():
            rows = bench.rows(side, layer, "fit", positions, kinds)
            about = metadata(spec.key, layer)
            sae = train_sae(
                rows,
                "h",
                config,
                about,
                f"training {side.upper()}'s SAE, {config.width:,} features",
            )
            with folder_beside(folder) as part:
                save_sae(sae, part)
    return load_sae(folder, spec.d_model)


def train(
    bench: Bench,
    layer: int,
    config: SaeConfig,
    positions: int | None = None,
    kinds: Sequence[str] = (),
) -> str:
    """The name of an SAE of A before `layer`, trained on the fit split at positions that pair up
    with one of B (so not on the bytes of scripts that A spells out), kept as `saes/<name>`. On
    these `kinds` of text alone, where some are named; they are in its name then.

    Raises StitchLensError for a kind that the corpus does not hold.
    """
    bench.pair.check_layers(layer, 0)
    name = with_kinds(f"L{layer}-{config.width}", kinds)
    makers = {
        "pair": bench.pair.key,
        "a": bench.a.makers,
        "corpus": bench.corpus.fingerprint,
        "layer_a": layer,
        "hook_a": f"blocks.{layer}.hook_resid_pre",
        "positions": positions,
        **config.model_dump(),
        **_of_kinds(kinds),
    }
    if not bench.current(f"saes/{name}", makers):
        together = ranks()
        with together.first_alone():
            rows = bench.rows("a", layer, "fit", positions, kinds)
        about = metadata(bench.pair.a.key, layer)
        sae = train_sae(rows, "h", config, about, f"training SAE {name}")

        if together.index == 0:
            keep(bench, f"saes/{name}", sae, makers)
        together.wait()
    return name


def keep(
    bench: Bench,
    name: str,
    sae: "SAE[Any]",
    makers: dict[str, Any],
) -> None:
    """In half precision, as the artifact `name`."""
    sae = sae.half()
    sae.cfg.dtype = "float16"
    bench.workspace.put_folder(name, lambda folder: save_sae(sae, folder), "sae", makers)
