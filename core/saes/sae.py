"""Sparse autoencoders as SAELens': trained by its trainer on recorded activations, loaded, measured
(3.1, C, D)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from core.activations.harvest import windows
from core.bench import Bench
from core.config import Frozen
from core.errors import StitchLensError
from core.stitches.transfer import save_sae
from core.workspace.artifacts import check_name, name_from
from core.workspace.disk import fingerprint
from core.workspace.store import Workspace

if TYPE_CHECKING:
    from sae_lens import SAE

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from filelock import FileLock
from pydantic import Field

from core.activations.harvest import norm_limit, record
from core.activations.recording import Recording, kept_positions
from core.progress import Progress
from core.saes.files import clean_sae
from core.stitches.transfer import admit, at_rest, check_finite, check_width, hook_layer
from core.workspace.disk import disk_faults, folder_beside
from core.workspace.places import named, user_cache

if TYPE_CHECKING:
    from sae_lens import SAE

    from core.bench import Bench
    from core.models.pairs import Side

NORMALISED = "expected_average_only_in"
"""SAELens' word for an SAE of rows that a factor brings to an average norm of sqrt(d); its weights
do not hold it."""
FACTOR = "norm_scaling_factor"
"""SAELens' word for that factor, kept in the metadata once it is folded into the weights."""
ESTIMATE_ROWS = 5_000
"""Held-out rows from which such a factor is estimated."""


class SaeConfig(Frozen):
    """A TopK SAE and its training; the defaults are the paper's (D) but for width, k and epochs."""

    width: int = Field(default=4096, ge=1)
    k: int = Field(default=32, ge=1)
    epochs: int = Field(default=3, ge=1)
    lr: float = Field(default=1e-4, gt=0, le=1)
    """Constant."""
    batch: int = Field(default=4096, ge=1)
    auxiliary: float = Field(default=0.0, ge=0)
    """Coefficient of the auxiliary loss on dead features; the paper uses none."""
    scaled: bool = True
    """Train on activations scaled to an average norm of sqrt(d); the scale is folded into the
    weights afterwards."""
    seed: int = 0


def train_sae(
    recording: Recording,
    name: str,
    config: SaeConfig,
    about: dict[str, Any],
    desc: str = "training an SAE",
) -> "SAE[Any]":
    """A TopK SAE of the recorded tensor `name`, trained by SAELens' own trainer; decoder norms are
    1 in the result.

    Encoder and decoder are tied at the start and the decoder bias starts at the mean. Raises
    StitchLensError where there are fewer rows than one batch, or the loss is not finite.
    """
    from sae_lens import SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig

    if recording.n < config.batch:
        raise StitchLensError(
            f"{recording.n} positions", f"{config.batch} or more, one batch", "record more text"
        )
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
                    yield rows * scale

    setup = SAETrainerConfig(
        total_training_samples=steps * config.batch,
        train_batch_size_samples=config.batch,
        lr=config.lr,
        lr_end=config.lr,
        autocast=False,
    )
    rows = batches()
    trainer = SAETrainer(setup, sae, rows)
    with Progress(desc, steps * config.batch, "pos") as bar:
        for step in range(steps):
            out = trainer.step(next(rows))
            trainer.n_training_steps += 1
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


def metadata(model: str, layer: int) -> dict[str, Any]:
    """Where an SAE of ours reads, in SAELens' words."""
    return {"model_name": model, "hook_name": f"blocks.{layer}.hook_resid_pre", "prepend_bos": True}


def finished(sae: Any, scale: float, about: Mapping[str, Any]) -> "SAE[Any]":
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
    bench: "Bench", side: "Side", layer: int, config: SaeConfig, positions: int | None
) -> dict[str, Any]:
    """What decides an SAE of one model of a pair, trained on the fit split."""
    return (
        bench.makers
        | {f"layer_{side}": layer, "split": "fit", "positions": positions}
        | config.model_dump()
    )


def kept_sae(
    bench: "Bench", side: "Side", layer: int, config: SaeConfig, positions: int | None
) -> "SAE[Any]":
    """An SAE of one model of a pair that is no artifact of the workspace: trained once, kept in the
    user's cache."""
    folder = user_cache() / "saes" / fingerprint(sae_makers(bench, side, layer, config, positions))
    spec = bench.pair.a if side == "a" else bench.pair.b
    with disk_faults(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "cfg.json").exists():
            rows = bench.rows(side, layer, "fit", positions)
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


def random_sae(like: "SAE[Any]", seed: int = 0) -> "SAE[Any]":
    """A control of the same shape, kind and norms: random decoder directions, encoder tied to them
    with the norms of `like`, biases as they are."""
    from sae_lens import SAE

    out = SAE.from_dict(like.cfg.to_dict())
    out.load_state_dict(like.state_dict())
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        directions = torch.nn.functional.normalize(
            torch.randn(like.W_dec.shape, generator=g), dim=-1
        )
        out.W_dec.copy_(directions * like.W_dec.norm(dim=-1, keepdim=True))
        out.W_enc.copy_(directions.T * like.W_enc.norm(dim=0, keepdim=True))
    return out.eval().requires_grad_(False)


def load_sae(folder: Path, d_in: int | None = None) -> "SAE[Any]":
    """An SAELens folder. Raises StitchLensError where it is none, or is for another width than
    `d_in`."""
    from sae_lens import SAE

    try:
        sae = SAE.load_from_disk(folder, device="cpu", dtype="float32")
    except Exception as e:  # SAELens raises many kinds
        why = str(e).splitlines()[0][:120] if str(e) else type(e).__name__
        raise StitchLensError(
            f"{folder.name} that SAELens does not open ({why})",
            "a folder with cfg.json and sae_weights.safetensors",
            "save it with SAELens' `save_model`",
        ) from e
    return _fitting(sae, d_in)


def _fitting(sae: "SAE[Any]", d_in: int | None) -> "SAE[Any]":
    if d_in is not None:
        check_width(sae, d_in)
    check_finite(sae)
    return sae.eval().requires_grad_(False)


def read_sae(path: Path, d_in: int | None = None) -> "SAE[Any]":
    """An SAE of others: a zip or a folder as SAELens or sparsify save one. Raises StitchLensError
    (`clean_sae`)."""
    with tempfile.TemporaryDirectory(prefix="stitchlens-sae-") as scratch:
        return load_sae(clean_sae(path, Path(scratch) / (path.stem or "sae")), d_in)


def open_sae(ref: str, workspace: Workspace, d_in: int | None = None) -> "SAE[Any]":
    """`ref` is the name of an SAE of the workspace, a zip or a folder as SAELens or sparsify save
    one, Gemma Scope's `params.npz`, or RELEASE:ID for one that SAELens fetches.

    Raises StitchLensError where it is none of these, or is for another width than `d_in`.
    """
    known = (
        [n.removeprefix("saes/") for n in workspace.names(prefix="saes/")]
        if workspace.exists
        else []
    )
    if ref in known:
        return load_sae(workspace.path(f"saes/{ref}"), d_in)
    path = named(ref)
    if path.exists() or ":" not in ref:
        if not path.exists():
            raise StitchLensError(
                f"no SAE '{ref}'",
                "a zip, a folder or a .npz, RELEASE:ID, or one of the workspace's"
                f" ({', '.join(known) or 'none yet'})",
                f"`python -m core features build {workspace.pair}` trains one",
            )
        return read_sae(path, d_in)
    from sae_lens import SAE

    release, _, name = ref.partition(":")
    try:
        sae = SAE.from_pretrained(release, name, device="cpu")
    except Exception as e:  # unknown release or id, no network, no disk: SAELens raises many kinds
        why = str(e).splitlines()[0][:160] if str(e) else type(e).__name__
        raise StitchLensError(
            f"no SAE '{name}' of release '{release}' ({why})",
            "one that SAELens knows and can fetch",
            "see SAELens' table of pretrained SAEs, check the network, or give a folder",
        ) from e
    return _fitting(sae, d_in)


def sae_of(
    bench: "Bench",
    ref: str,
    side: "Side" = "a",
    layer: int | None = None,
    stitched: int | None = None,
    scale: float | None = None,
) -> tuple["SAE[Any]", int]:
    """An SAE of one model of a pair, for its rows as they are, and the layer before which it reads.
    See `open_sae` for `ref`, `admit` for `layer`, `stitched` and what is refused, and
    `for_plain_rows` for `scale`.

    Of an SAE of the workspace the layer is that under which it was brought or trained. No model is
    opened, unless a factor has to be estimated.
    """
    ws, spec = bench.workspace, bench.pair.a if side == "a" else bench.pair.b
    sae = open_sae(ref, ws, spec.d_model)
    name = f"saes/{ref}"
    if ws.exists and name in ws.names() and hook_layer(sae) is None:
        own = ws.entry(name).makers.get(f"layer_{side}")
        sae.cfg.metadata.hook_name = None if own is None else f"blocks.{own}.hook_resid_pre"
    at = admit(sae, spec, layer, stitched)
    return for_plain_rows(bench, sae, side, at, scale), at


def kept_in(bench: "Bench", name: str, layer: int) -> "SAE[Any]":
    """An SAE of A in the workspace, which reads before `layer`. Raises StitchLensError as `admit`
    does."""
    spec = bench.pair.a
    sae = load_sae(bench.workspace.path(f"saes/{name}"), spec.d_model)
    return for_plain_rows(bench, sae, "a", admit(sae, spec, layer))


def for_plain_rows(
    bench: "Bench", sae: "SAE[Any]", side: "Side", layer: int, scale: float | None = None
) -> "SAE[Any]":
    """An SAE of rows that are multiplied by a factor, as one of rows as they are: the factor is
    folded into its weights (in place) and named in its metadata.

    The factor is `scale`; else, where the SAE expects one, its metadata's; else it is estimated as
    SAELens does before it trains: sqrt(d) over the mean norm, here of held-out rows. Other SAEs
    come back as they are. Raises StitchLensError for a factor that is not above 0, or beside a
    normalisation that takes none.
    """
    normalised = str(sae.cfg.normalize_activations)
    if scale is None and normalised != NORMALISED:
        return sae
    if normalised not in (NORMALISED, "none"):
        raise StitchLensError(
            f"a scale of {scale:g} beside an SAE that normalises each row by itself ({normalised})",
            "one or the other",
            "leave out the scale",
        )
    about, known = "as given", sae.cfg.metadata[FACTOR]
    if scale is None and type(known) in (int, float):
        scale, about = float(known), "as its cfg.json says"
    if scale is None:
        scale, rows = average_scale(bench, side, layer)
        about = (
            f"estimated from {rows:,} held-out rows of"
            f" {bench.pair.a.title if side == 'a' else bench.pair.b.title}"
        )
    if not 0 < scale < float("inf"):
        raise StitchLensError(
            f"a scale of {scale:g}", "one above 0", "give the factor by which its rows were scaled"
        )
    sae.fold_activation_norm_scaling_factor(scale)
    sae.cfg.metadata[FACTOR] = scale
    sae.cfg.metadata[f"{FACTOR}_from"] = about
    return sae


def average_scale(bench: "Bench", side: "Side", layer: int) -> tuple[float, int]:
    """SAELens' own estimate of the factor that brings rows of a model before `layer` to a mean norm
    of sqrt(d), and the number of held-out rows that it saw; first tokens and rows of outlier norm
    are left out, as everywhere here."""
    from sae_lens.training.activation_scaler import ActivationScaler

    model = bench.a if side == "a" else bench.b
    parts: list[Tensor] = []
    for documents in windows(bench.corpus.split("held-out")):
        rows = record(
            model, *kept_positions(model, [d.text for d in documents[:8]], None), [layer]
        )[layer].float()
        norms = rows.norm(dim=-1)
        parts.append(rows[norms <= norm_limit(norms)])
        if sum(map(len, parts)) >= ESTIMATE_ROWS:
            break
    rows = torch.cat(parts)[:ESTIMATE_ROWS]
    scaler = ActivationScaler()
    scaler.estimate_scaling_factor(rows.shape[1], iter([rows]), 1)
    assert scaler.scaling_factor is not None
    return scaler.scaling_factor, len(rows)


def sae_hash(sae: "SAE[Any]") -> str:
    """16 hex digits over the weights and what decides their meaning."""
    config = {k: v for k, v in sae.cfg.to_dict().items() if k not in ("metadata", "device")}
    sums = {
        k: [list(v.shape), float(v.double().sum()), float(v.double().pow(2).sum())]
        for k, v in sae.state_dict().items()
    }
    return fingerprint([config, sums])


def reconstruction(
    sae: "SAE[Any]", rows: Iterable[Tensor], alive: Tensor | None = None
) -> dict[str, float]:
    """How an SAE does on rows [n, d] of a residual stream, under SAEBench's names:

    `explained_variance` 1 - FUV, about the mean; `fuv` the fraction of variance unexplained;
    `cossim` mean cosine of reconstruction and row; `l2_ratio` mean norm of the reconstruction over
    the row's; `l0` active features a row; `frac_alive` features that were active at least once,
    marked in `alive` [d_sae] where it is given; `dead` the others; `n` rows.
    """
    n, cos, ratio, active = 0, 0.0, 0.0, 0.0
    total = error = squares = torch.zeros(sae.cfg.d_in, dtype=torch.float64)
    alive = torch.zeros(sae.cfg.d_sae, dtype=torch.bool) if alive is None else alive
    with torch.inference_mode():
        for h in rows:
            acts = sae.encode(h)
            back = sae.decode(acts)
            h64 = h.double()
            total = total + h64.sum(0)
            error = error + (h64 - back.double()).pow(2).sum(0)
            squares = squares + h64.pow(2).sum(0)
            cos += float(torch.cosine_similarity(h, back, dim=-1).sum())
            ratio += float((back.norm(dim=-1) / h.norm(dim=-1).clamp(min=1e-9)).sum())
            active += float((acts > 0).sum())
            alive |= (acts > 0).any(0)
            n += len(h)
    if n == 0:
        raise StitchLensError("no rows to measure an SAE on", "at least one", "use more text")
    fuv = float(error.sum() / (squares - total.pow(2) / n).sum())
    share = float(alive.double().mean())
    return {
        "explained_variance": 1 - fuv,
        "fuv": fuv,
        "cossim": cos / n,
        "l2_ratio": ratio / n,
        "l0": active / n,
        "frac_alive": share,
        "dead": 1 - share,
        "n": float(n),
    }


def train(bench: Bench, layer: int, config: SaeConfig, positions: int | None = None) -> str:
    """The name of an SAE of A before `layer`, trained on the fit split at positions that pair up
    with one of B (so not on the bytes of scripts that A spells out), kept as `saes/<name>`."""
    bench.pair.check_layers(layer, 0)
    name = f"L{layer}-{config.width}"
    makers = {
        "pair": bench.pair.key,
        "a": bench.a.makers,
        "corpus": bench.corpus.fingerprint,
        "layer_a": layer,
        "hook_a": f"blocks.{layer}.hook_resid_pre",
        "positions": positions,
        **config.model_dump(),
    }
    if not bench.current(f"saes/{name}", makers):
        rows = bench.rows("a", layer, "fit", positions)
        about = metadata(bench.pair.a.key, layer)
        _keep(bench, name, train_sae(rows, "h", config, about, f"training SAE {name}"), makers)
    return name


def _keep(bench: Bench, name: str, sae: "SAE[Any]", makers: dict[str, Any]) -> None:
    """In half precision, as `saes/<name>`."""
    sae = sae.half()
    sae.cfg.dtype = "float16"
    bench.workspace.put_folder(f"saes/{name}", lambda folder: save_sae(sae, folder), "sae", makers)


def foreign_sae(
    bench: Bench,
    ref: str,
    layer: int | None = None,
    stitched: int | None = None,
    scale: float | None = None,
) -> tuple["SAE[Any]", int]:
    """Someone else's SAE of A and the layer before which it reads; `layer` says what the SAE does
    not. See `sae_of`, also for what is refused."""
    return sae_of(bench, ref, "a", layer, stitched, scale)


def adopt(
    bench: Bench,
    ref: str,
    layer: int | None = None,
    name: str | None = None,
    stitched: int | None = None,
    scale: float | None = None,
) -> str:
    """The name of someone else's SAE of A, kept as `saes/<name>` as precise as it came; one that is
    there already is not kept again. Raises StitchLensError as `foreign_sae` does, and where the
    name is another one's."""
    sae, at = foreign_sae(bench, ref, layer, stitched, scale)
    if bench.workspace.exists and f"saes/{ref}" in bench.workspace.names():
        if scale is not None:
            raise StitchLensError(
                f"a scale beside SAE {ref} of the workspace",
                "one with its file",
                "bring the file again under another name with its scale",
            )
        return ref
    return keep_foreign(bench, sae, at, ref, name or name_from(ref))


def keep_foreign(bench: Bench, sae: "SAE[Any]", at: int, ref: str, name: str) -> str:
    """The name of an SAE of A that came as `ref` and was admitted, kept as `saes/<name>` with its
    place in its own metadata. Raises StitchLensError where the name is another one's."""
    ws = bench.workspace
    makers = {
        "pair": bench.pair.key,
        "a": bench.a.makers,
        "layer_a": at,
        "hook_a": f"blocks.{at}.hook_resid_pre",
        "from": sae_hash(sae),
        "name": name,
        "brought": name_from(ref),
    }
    for key, value in metadata(bench.pair.a.key, at).items():
        if sae.cfg.metadata[key] is None:
            sae.cfg.metadata[key] = value
    if not bench.current(f"saes/{name}", makers):
        check_name(ws, "saes", name)
        ws.put_folder(f"saes/{name}", lambda folder: save_sae(sae, folder), "sae", makers)
    return name
