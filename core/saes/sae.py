"""Sparse autoencoders as SAELens': opened wherever they are from, and measured (3.1, C)."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from core.bench import Bench
from core.errors import StitchLensError
from core.models.pairs import Side
from core.saes.files import clean_sae
from core.saes.hub import HUB, fetch
from core.saes.scale import for_plain_rows
from core.stitches.transfer import admit, check_finite, check_width, hook_layer
from core.workspace.disk import fingerprint
from core.workspace.places import named
from core.workspace.store import Workspace

if TYPE_CHECKING:
    from sae_lens import SAE


def metadata(model: str, layer: int) -> dict[str, Any]:
    """Where an SAE of ours reads, in SAELens' words."""
    return {
        "model_name": model,
        "hook_name": f"blocks.{layer}.hook_resid_pre",
        "prepend_bos": True,
    }


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


def open_sae(
    ref: str,
    workspace: Workspace,
    d_in: int | None = None,
) -> "SAE[Any]":
    """`ref` is the name of an SAE of the workspace, a zip or a folder as SAELens or sparsify save
    one, Gemma Scope's `params.npz`, RELEASE:ID for one that SAELens fetches, or
    hub:OWNER/NAME/FOLDER for the folder of one in a repository of the hub.

    Raises StitchLensError where it is none of these, or is for another width than `d_in`.
    """
    known = (
        [n.removeprefix("saes/") for n in workspace.names(prefix="saes/")]
        if workspace.exists
        else []
    )
    if ref in known:
        return load_sae(workspace.path(f"saes/{ref}"), d_in)
    path = fetch(ref) if ref.startswith(HUB) else named(ref)
    if path.exists() or ":" not in ref:
        if not path.exists():
            raise StitchLensError(
                f"no SAE '{ref}'",
                "a zip, hub:OWNER/NAME/FOLDER, a folder or a .npz, RELEASE:ID, or one of the"
                " workspace's"
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
    bench: Bench,
    ref: str,
    side: Side = "a",
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


def kept_in(
    bench: Bench,
    name: str,
    layer: int,
) -> "SAE[Any]":
    """An SAE of A in the workspace, which reads before `layer`. Raises StitchLensError as `admit`
    does."""
    spec = bench.pair.a
    sae = load_sae(bench.workspace.path(f"saes/{name}"), spec.d_model)
    return for_plain_rows(bench, sae, "a", admit(sae, spec, layer))


def sae_hash(sae: "SAE[Any]") -> str:
    """16 hex digits over the weights and what decides their meaning."""
    config = {k: v for k, v in sae.cfg.to_dict().items() if k not in ("metadata", "device")}
    sums = {
        k: [list(v.shape), float(v.double().sum()), float(v.double().pow(2).sum())]
        for k, v in sae.state_dict().items()
    }
    return fingerprint([config, sums])


def reconstruction(
    sae: "SAE[Any]",
    rows: Iterable[Tensor],
    alive: Tensor | None = None,
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
