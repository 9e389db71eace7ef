"""An SAE, a probe or a vector of one model as one of the other: weights only, through a stitch (3.1, Eq. 6).

Row vectors. "up" carries from A to B: into the SAE goes T_down, out of it T_up; "down" carries from B to A.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from core.errors import StitchLensError
from core.stitch import Stitch

if TYPE_CHECKING:
    from sae_lens import SAE

Direction = Literal["up", "down"]
ARCHITECTURES = ("standard", "topk", "jumprelu", "gated")
"""Of SAEs at rest; SAELens keeps a trained BatchTopK SAE as a JumpReLU SAE."""


def maps(stitch: Stitch, direction: Direction) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(P_in [d_to, d_from], b_in, P_out [d_from, d_to], b_out) in float64: for rows of the second model, the way into
    an SAE of the first and out of it again."""
    down = (stitch.P_down, stitch.b_down)
    up = (stitch.P_up, stitch.b_up)
    p_in, b_in, p_out, b_out = (t.double() for t in ((*down, *up) if direction == "up" else (*up, *down)))
    return p_in, b_in, p_out, b_out


def transfer_vector(
    v: Float[Tensor, "... d_from"], stitch: Stitch, direction: Direction = "up"
) -> Float[Tensor, "... d_to"]:
    """A direction of one residual stream in the other: `v P`, without the bias."""
    return (v.double() @ maps(stitch, direction)[2]).to(v.dtype)


def transfer_probe(
    w: Float[Tensor, "... d_from"], c: Float[Tensor, "..."], stitch: Stitch, direction: Direction = "up"
) -> tuple[Float[Tensor, "... d_to"], Float[Tensor, "..."]]:
    """The linear probe `h·w + c` of one model for rows of the other: `w P_downᵀ`, and `c + w·b_down`."""
    p_in, b_in, _, _ = maps(stitch, direction)
    return (w.double() @ p_in.T).to(w.dtype), (c.double() + w.double() @ b_in).to(c.dtype)


def at_rest(sae: Any) -> "SAE[Any]":
    """The SAE as SAELens keeps it for use; a training SAE is saved and opened again (BatchTopK becomes JumpReLU)."""
    from sae_lens import SAE

    if not hasattr(sae, "save_inference_model"):
        return sae
    with tempfile.TemporaryDirectory(prefix="stitchlens-sae-") as folder:
        sae.save_inference_model(folder)
        return SAE.load_from_disk(folder)


def transfer_sae(
    sae: Any, stitch: Stitch, direction: Direction = "up", scale: float | None = None,
    provenance: Mapping[str, Any] = MappingProxyType({}),
) -> "SAE[Any]":  # fmt: skip
    """`T_up ∘ SAE ∘ T_down` as one new SAELens SAE (float32, on the CPU); equal to the composition to 1e-5.

    `scale` is the factor of `expected_average_only_in` normalisation, which the weights do not hold and which is folded
    first. `provenance` goes into the new SAE's metadata. TopK with decoder norms in its selection selects what the
    composition does: the old norms are folded into the encoder. Raises StitchLensError for what is not affine in its
    input (layer norm, rescaling to a constant norm, reshaped attention outputs), for a width that is not the stitch's,
    for an architecture that we do not know and for weights that are not finite.
    """
    from sae_lens import SAE

    sae = at_rest(sae)
    kind = sae.cfg.architecture()
    p_in, b_in, p_out, b_out = maps(stitch, direction)
    _check(sae, kind, p_in.shape[1], scale)
    check_finite(sae)
    w = {name: p.detach().cpu().double() for name, p in sae.named_parameters()}
    if sae.cfg.normalize_activations == "expected_average_only_in":
        assert scale is not None
        w |= {"W_enc": w["W_enc"] * scale, "W_dec": w["W_dec"] / scale, "b_dec": w["b_dec"] / scale}
    norms = torch.ones(sae.cfg.d_sae, dtype=torch.float64)
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        norms = w["W_dec"].norm(dim=-1)
    at_zero = (b_in - w["b_dec"] * bool(sae.cfg.apply_b_dec_to_input)) @ w["W_enc"]  # pre-activations where h = 0
    new = {
        "W_enc": p_in @ w["W_enc"] * norms, "W_dec": (w["W_dec"] / norms[:, None]) @ p_out,
        "b_dec": w["b_dec"] @ p_out + b_out,
    }  # fmt: skip
    if kind == "gated":
        new |= {
            "b_gate": at_zero + w["b_gate"], "b_mag": at_zero * w["r_mag"].exp() + w["b_mag"], "r_mag": w["r_mag"],
        }  # fmt: skip
    else:
        new["b_enc"] = (at_zero + w["b_enc"]) * norms
    if kind == "jumprelu":
        new["threshold"] = w["threshold"]
    config = sae.cfg.to_dict() | {
        "d_in": p_in.shape[0], "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": False,
        "normalize_activations": "none",
    }  # fmt: skip
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
            raise StitchLensError(f"NaN or infinite numbers in {name} of the SAE", "finite weights", "use another SAE")


def _check(sae: "SAE[Any]", kind: str, width: int, scale: float | None) -> None:
    if kind not in ARCHITECTURES:
        raise StitchLensError(f"an SAE of kind '{kind}'", f"one of {', '.join(ARCHITECTURES)}", "use another SAE")
    if sae.cfg.d_in != width:
        raise StitchLensError(
            f"an SAE for width {sae.cfg.d_in}",
            f"{width}, the stitch's",
            "check which model and layer it was trained on",
        )
    if sae.cfg.reshape_activations != "none":
        raise StitchLensError("an SAE of attention outputs (hook_z)", "one of the residual stream", "use another SAE")
    normalised = sae.cfg.normalize_activations
    if normalised == "expected_average_only_in":
        if scale is None:
            raise StitchLensError(
                "an SAE that expects activations scaled to an average norm", "the factor",
                "give `scale`, the factor that its training estimated (`norm_scaling_factor`)",
            )  # fmt: skip
    elif normalised != "none":
        raise StitchLensError(
            f"an SAE that normalises each activation by itself ({normalised})", "one that is affine in its input",
            "this cannot be folded into weights: use another SAE",
        )  # fmt: skip


def save_sae(sae: "SAE[Any]", folder: Path) -> None:
    """An ordinary SAELens folder (`cfg.json`, `sae_weights.safetensors`); `SAE.load_from_disk` opens it without us."""
    sae.save_model(folder)
