"""An SAE, a probe or a vector of one model as one of the other: weights only, through a stitch
(3.1, Eq. 6).

Row vectors. "up" carries from A to B: into the SAE goes T_down, out of it T_up; "down" carries from
B to A.
"""

import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from core.errors import StitchLensError, printable
from core.models.pairs import ModelSpec, Side, get_pair, same_model
from core.stitches.stitch import Stitch

if TYPE_CHECKING:
    from sae_lens import SAE

Direction = Literal["up", "down"]
ARCHITECTURES = ("standard", "topk", "jumprelu", "gated")
"""Of SAEs at rest; SAELens keeps a trained BatchTopK SAE as a JumpReLU SAE."""
HOOK = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)")


def maps(stitch: Stitch, direction: Direction) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(P_in [d_to, d_from], b_in, P_out [d_from, d_to], b_out) in float64: for rows of the second
    model, the way into an SAE of the first and out of it again."""
    down = (stitch.P_down, stitch.b_down)
    up = (stitch.P_up, stitch.b_up)
    p_in, b_in, p_out, b_out = (
        t.double() for t in ((*down, *up) if direction == "up" else (*up, *down))
    )
    return p_in, b_in, p_out, b_out


def transfer_vector(
    v: Float[Tensor, "... d_from"],
    stitch: Stitch,
    direction: Direction = "up",
) -> Float[Tensor, "... d_to"]:
    """A direction of one residual stream in the other: `v P`, without the bias."""
    return (v.double() @ maps(stitch, direction)[2]).to(v.dtype)


def transfer_probe(
    w: Float[Tensor, "... d_from"],
    c: Float[Tensor, "..."],
    stitch: Stitch,
    direction: Direction = "up",
) -> tuple[Float[Tensor, "... d_to"], Float[Tensor, "..."]]:
    """The linear probe `h·w + c` of one model for rows of the other: `w P_downᵀ`, and `c +
    w·b_down`."""
    p_in, b_in, _, _ = maps(stitch, direction)
    return (w.double() @ p_in.T).to(w.dtype), (c.double() + w.double() @ b_in).to(c.dtype)


def hook_layer(sae: "SAE[Any]") -> int | None:
    """The layer before which it reads the residual stream (`resid_post` of layer L is before L +
    1); None where the SAE does not say. Raises StitchLensError where it reads something else, or
    writes elsewhere than it reads."""
    about = sae.cfg.metadata
    hook = about.hook_name
    place = f"an SAE at {hook or 'no named place'}"
    residual, other = (
        "one of the residual stream (hook_resid_pre or hook_resid_post)",
        "use another SAE",
    )
    if sae.cfg.reshape_activations != "none":
        raise StitchLensError(
            f"{place} of attention outputs ({sae.cfg.reshape_activations})", residual, other
        )
    if about.hook_head_index is not None:
        raise StitchLensError(f"{place} of head {about.hook_head_index}", residual, other)
    if about.hook_name_out not in (None, "", hook):
        raise StitchLensError(
            f"{place} that writes to {about.hook_name_out}, a transcoder,", residual, other
        )
    if not hook:
        return None
    layer = HOOK.fullmatch(str(hook))
    if layer is None:
        raise StitchLensError(place, residual, other)
    return int(layer[1]) + (layer[2] == "post")


def admit(
    sae: "SAE[Any]",
    spec: ModelSpec,
    layer: int | None = None,
    stitched: int | None = None,
) -> int:
    """The layer before which an SAE reads the residual stream of a model. Whatever takes an SAE
    asks this first.

    `layer` says what the SAE does not; `stitched` is the layer that it has to come from. Raises
    StitchLensError for an SAE of another model, of another place, of another width, without a
    layer, with one that the model does not have, and with another than `layer` or `stitched`.
    """
    check_model(sae, spec)
    check_width(sae, spec.d_model)
    at = hook_layer(sae)
    if at is None and layer is None:
        raise StitchLensError(
            "an SAE that does not say its layer",
            "one",
            f"say before which layer of {spec.title} it reads: --layer L",
        )
    at = layer if at is None else at
    assert at is not None
    if not 0 <= at < spec.n_layers:
        raise StitchLensError(
            f"an SAE before layer {at} for {spec.title}",
            f"0 to {spec.n_layers - 1}, before one of its blocks",
            "use an SAE of another layer",
        )
    if layer not in (None, at):
        raise StitchLensError(
            f"an SAE before layer {at}", f"layer {layer}", "leave out the layer: the SAE says it"
        )
    if stitched not in (None, at):
        raise _elsewhere(at, stitched)
    return at


def check_model(sae: "SAE[Any]", spec: ModelSpec) -> None:
    """Raises StitchLensError where it says that it was trained on another model."""
    name = str(sae.cfg.metadata.model_name or "")
    if name and not same_model(name, spec):
        raise StitchLensError(
            f"an SAE of {printable(name, 80)}",
            f"one of {spec.title}",
            f"if that is the same model, write {spec.key} as its `model_name` in cfg.json",
        )


def check_width(sae: "SAE[Any]", d_in: int) -> None:
    if sae.cfg.d_in != d_in:
        raise StitchLensError(
            f"an SAE for width {sae.cfg.d_in}",
            f"{d_in}",
            "check which model and layer it was trained on",
        )


def _elsewhere(at: int, stitched: int | None) -> StitchLensError:
    return StitchLensError(
        f"an SAE before layer {at}",
        f"layer {stitched}, the stitch's",
        "choose a stitch from the SAE's layer",
    )


def at_rest(sae: Any) -> "SAE[Any]":
    """The SAE as SAELens keeps it for use; a training SAE is saved and opened again (BatchTopK
    becomes JumpReLU)."""
    from sae_lens import SAE

    if not hasattr(sae, "save_inference_model"):
        return sae
    with tempfile.TemporaryDirectory(prefix="stitchlens-sae-") as folder:
        sae.save_inference_model(folder)
        return SAE.load_from_disk(folder)


def transfer_sae(
    sae: Any,
    stitch: Stitch,
    direction: Direction = "up",
    scale: float | None = None,
    provenance: Mapping[str, Any] = MappingProxyType({}),
) -> "SAE[Any]":
    """`T_up ∘ SAE ∘ T_down` as one new SAELens SAE (float32, on the CPU); equal to the composition
    to 1e-5.

    `scale` is the factor of `expected_average_only_in` normalisation, which the weights do not hold
    and which is folded first. `provenance` goes into the new SAE's metadata. TopK with decoder
    norms in its selection selects what the composition does: the old norms are folded into the
    encoder. Raises StitchLensError for what is not affine in its input (layer norm, rescaling to a
    constant norm, reshaped attention outputs), for a width, a layer or a model that is not the
    stitch's, for an architecture that we do not know and for weights that are not finite.
    """
    from sae_lens import SAE

    sae = at_rest(sae)
    kind = sae.cfg.architecture()
    p_in, b_in, p_out, b_out = maps(stitch, direction)
    _check(sae, kind, p_in.shape[1], scale)
    _check_place(sae, stitch, "a" if direction == "up" else "b")
    check_finite(sae)
    w = {name: p.detach().cpu().double() for name, p in sae.named_parameters()}
    if sae.cfg.normalize_activations == "expected_average_only_in":
        assert scale is not None
        w |= {
            "W_enc": w["W_enc"] * scale,
            "W_dec": w["W_dec"] / scale,
            "b_dec": w["b_dec"] / scale,
        }
    norms = torch.ones(sae.cfg.d_sae, dtype=torch.float64)
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        norms = w["W_dec"].norm(dim=-1)
    at_zero = (b_in - w["b_dec"] * bool(sae.cfg.apply_b_dec_to_input)) @ w[
        "W_enc"
    ]  # pre-activations where h = 0
    new = {
        "W_enc": p_in @ w["W_enc"] * norms,
        "W_dec": (w["W_dec"] / norms[:, None]) @ p_out,
        "b_dec": w["b_dec"] @ p_out + b_out,
    }
    if kind == "gated":
        new |= {
            "b_gate": at_zero + w["b_gate"],
            "b_mag": at_zero * w["r_mag"].exp() + w["b_mag"],
            "r_mag": w["r_mag"],
        }
    else:
        new["b_enc"] = (at_zero + w["b_enc"]) * norms
    if kind == "jumprelu":
        new["threshold"] = w["threshold"]
    config = sae.cfg.to_dict() | {
        "d_in": p_in.shape[0],
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
    }
    if "rescale_acts_by_decoder_norm" in config:
        config["rescale_acts_by_decoder_norm"] = False
    config["metadata"] = sae.cfg.metadata.to_dict() | dict(provenance)
    out = SAE.from_dict(config)
    out.load_state_dict({name: value.float().contiguous() for name, value in new.items()})
    return out.eval().requires_grad_(False)


def check_finite(sae: "SAE[Any]") -> None:
    """Raises StitchLensError that names the weight where a number is NaN or infinite."""
    for name, weight in sae.state_dict().items():
        if not torch.isfinite(weight).all():
            raise StitchLensError(
                f"NaN or infinite numbers in {name} of the SAE", "finite weights", "use another SAE"
            )


def _check(
    sae: "SAE[Any]",
    kind: str,
    width: int,
    scale: float | None,
) -> None:
    if kind not in ARCHITECTURES:
        raise StitchLensError(
            f"an SAE of kind '{kind}'", f"one of {', '.join(ARCHITECTURES)}", "use another SAE"
        )
    check_width(sae, width)
    if sae.cfg.reshape_activations != "none":
        raise StitchLensError(
            "an SAE of attention outputs (hook_z)", "one of the residual stream", "use another SAE"
        )
    normalised = sae.cfg.normalize_activations
    if normalised == "expected_average_only_in":
        if scale is None:
            raise StitchLensError(
                "an SAE that expects activations scaled to an average norm",
                "the factor, which weights do not hold",
                "give its training's `norm_scaling_factor` as `scale`, or carry it by"
                " `sae transfer`, which estimates it unless you give --scale",
            )
    elif normalised != "none":
        raise StitchLensError(
            f"an SAE that normalises each activation by itself ({normalised})",
            "one that is affine in its input",
            "this cannot be folded into weights: use another SAE",
        )


def _check_place(
    sae: "SAE[Any]",
    stitch: Stitch,
    side: Side,
) -> None:
    """Raises StitchLensError where an SAE says another layer or model than the stitch leads
    from."""
    at, stitched = hook_layer(sae), stitch.makers.get(f"layer_{side}")
    if at is not None and stitched is not None and at != stitched:
        raise _elsewhere(at, stitched)
    pair = None
    with suppress(StitchLensError):  # of a pair that is not known here no model can be compared
        pair = get_pair(str(stitch.makers.get("pair")))
    if pair is not None:
        check_model(sae, pair.a if side == "a" else pair.b)


def save_sae(sae: "SAE[Any]", folder: Path) -> None:
    """An ordinary SAELens folder (`cfg.json`, `sae_weights.safetensors`); `SAE.load_from_disk`
    opens it without us."""
    sae.save_model(folder)
