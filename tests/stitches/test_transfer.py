"""A transferred SAE is the composition, for every architecture; what cannot be folded is refused
with its reason."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig

from core.errors import StitchLensError
from core.stitches.stitch import Stitch
from core.stitches.transfer import (
    Direction,
    save_sae,
    transfer_probe,
    transfer_sae,
    transfer_vector,
)

D_A, D_B, D_SAE, ROWS = 24, 40, 96, 300


def stitch() -> Stitch:
    g = torch.Generator().manual_seed(1)
    return Stitch(
        torch.randn(D_A, D_B, generator=g) / 5,
        torch.randn(D_B, generator=g),
        torch.randn(D_B, D_A, generator=g) / 6,
        torch.randn(D_A, generator=g),
    )


def sae(kind: str, d_in: int = D_A, **changed: Any) -> Any:
    """A random SAE with decoder norms that differ threefold."""
    config: dict[str, Any] = {
        "architecture": kind,
        "d_in": d_in,
        "d_sae": D_SAE,
        "dtype": "float32",
        "device": "cpu",
        "metadata": {"hook_name": "blocks.2.hook_resid_pre"},
    }
    out = SAE.from_dict(config | ({"k": 8} if kind == "topk" else {}) | changed)
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, p in out.named_parameters():
            p.copy_(torch.randn(p.shape, generator=g) * (0.3 if name != "threshold" else 0))
        weights = dict(out.named_parameters())
        weights["W_dec"].mul_(torch.linspace(0.5, 1.5, D_SAE)[:, None])
        if kind == "jumprelu":
            weights["threshold"].uniform_(0, 1.0, generator=g)
    return out


def rows(d: int) -> torch.Tensor:
    return torch.randn(ROWS, d, generator=torch.Generator().manual_seed(3)) * 2


def composed(
    s: Any, st: Stitch, x: torch.Tensor, direction: Direction
) -> tuple[torch.Tensor, torch.Tensor]:
    """(activations, output) of the old SAE between the two maps, as SAELens computes them."""
    into, out = (st.down, st.up) if direction == "up" else (st.up, st.down)
    h = into(x)
    return s.encode(h), out(s(h))


CASES = [
    (kind, b_dec, rescale)
    for kind in ("standard", "topk", "jumprelu", "gated")
    for b_dec in (True, False)
    for rescale in ((True, False) if kind == "topk" else (False,))
]


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize(("kind", "b_dec", "rescale"), CASES)
def test_it_is_the_composition(
    kind: str, b_dec: bool, rescale: bool, direction: Direction, tmp_path: Path
) -> None:
    d_from, d_to = (D_A, D_B) if direction == "up" else (D_B, D_A)
    more = {"rescale_acts_by_decoder_norm": rescale} if kind == "topk" else {}
    old, st = sae(kind, d_from, apply_b_dec_to_input=b_dec, **more), stitch()
    new = transfer_sae(old, st, direction, provenance={"stitch": "L2-L3"})
    x = rows(d_to)
    with torch.no_grad():
        acts, out = composed(old, st, x, direction)
        found = new.encode(x)
        assert 0.01 < float((acts > 0).float().mean()) < 0.7, "neither silent nor all on"
        assert torch.equal(acts > 0, found > 0)
        assert float((new(x) - out).norm() / out.norm()) < 1e-5
        assert torch.allclose(found, acts, rtol=1e-4, atol=1e-4)
    save_sae(new, tmp_path)
    again = SAE.load_from_disk(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(x), new(x))
    assert again.cfg.metadata["stitch"] == "L2-L3"
    assert again.cfg.metadata["hook_name"] == "blocks.2.hook_resid_pre"
    assert again.cfg.d_in == d_to


def test_norms_left_out_would_select_others() -> None:
    """The control: the same weights with the flag left on do not select what the composition
    does."""
    old, st, x = sae("topk", rescale_acts_by_decoder_norm=True), stitch(), rows(D_B)
    plain = sae("topk", rescale_acts_by_decoder_norm=False)
    with torch.no_grad():
        true = composed(old, st, x, "up")[0] > 0
        assert not torch.equal(transfer_sae(plain, st).encode(x) > 0, true)
        assert torch.equal(transfer_sae(old, st).encode(x) > 0, true)


def test_an_identity_stitch_gives_the_sae_itself() -> None:
    old = sae("jumprelu")
    eye = Stitch(torch.eye(D_A), torch.zeros(D_A), torch.eye(D_A), torch.zeros(D_A))
    with torch.no_grad():
        assert torch.allclose(
            transfer_sae(old, eye)(rows(D_A)), old(rows(D_A)), rtol=1e-4, atol=1e-4
        )


def test_a_batchtopk_sae_in_training() -> None:
    torch.manual_seed(0)
    training = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=D_A, d_sae=D_SAE, k=8))
    with torch.no_grad():
        training.topk_threshold.fill_(0.7)
        for p in (training.W_enc, training.W_dec, training.b_dec):
            p.normal_(std=0.3)
    old, st, x = training, stitch(), rows(D_B)
    new = transfer_sae(old, st)
    assert new.cfg.architecture() == "jumprelu"
    with torch.no_grad():
        h = st.down(x)
        pre = (
            h - training.b_dec * training.cfg.apply_b_dec_to_input
        ) @ training.W_enc + training.b_enc
        norms = (
            training.W_dec.norm(dim=-1)
            if training.cfg.rescale_acts_by_decoder_norm
            else torch.ones(D_SAE)
        )
        on = pre * norms > 0.7
        assert 0.01 < float(on.float().mean()) < 0.9
        assert torch.equal(new.encode(x) > 0, on)
        out = st.up((pre * on) @ training.W_dec + training.b_dec)
        assert float((new(x) - out).norm() / out.norm()) < 1e-5


def test_average_normalisation_is_folded_first() -> None:
    old, st, x = (
        sae("standard", normalize_activations="expected_average_only_in"),
        stitch(),
        rows(D_B),
    )
    with pytest.raises(StitchLensError, match="norm_scaling_factor"):
        transfer_sae(old, st)
    new = transfer_sae(old, st, scale=0.25)
    with torch.no_grad():
        expected = st.up(old(st.down(x) * 0.25) / 0.25)
        assert float((new(x) - expected).norm() / expected.norm()) < 1e-5
        assert (
            float((transfer_sae(old, st, scale=1.0)(x) - expected).norm() / expected.norm()) > 0.01
        )


def test_what_does_not_fold_is_refused() -> None:
    st = stitch()
    for normalised in ("layer_norm", "constant_norm_rescale"):
        with pytest.raises(StitchLensError, match=normalised):
            transfer_sae(sae("standard", normalize_activations=normalised), st)
    with pytest.raises(StitchLensError, match=r"width 40.*24"):
        transfer_sae(sae("standard", D_B), st)
    spoilt = sae("topk")
    with torch.no_grad():
        spoilt.b_enc[3] = float("nan")
    with pytest.raises(StitchLensError, match="b_enc"):
        transfer_sae(spoilt, st)
    heads = sae("standard")
    heads.cfg.reshape_activations = "hook_z"
    with pytest.raises(StitchLensError, match="hook_z"):
        transfer_sae(heads, st)
    temporal = sae("standard")
    temporal.cfg.architecture = lambda: "temporal"  # type: ignore[method-assign]
    with pytest.raises(StitchLensError, match="'temporal'"):
        transfer_sae(temporal, st)


def test_vectors_and_probes() -> None:
    st, h_b = stitch(), rows(D_B)
    v = torch.randn(3, D_A)
    assert torch.allclose(transfer_vector(v, st), v @ st.P_up, atol=1e-5)
    assert torch.allclose(transfer_vector(rows(D_B), st, "down"), rows(D_B) @ st.P_down, atol=1e-4)
    w, c = torch.randn(D_A), torch.tensor(0.3)
    w_b, c_b = transfer_probe(w, c, st)
    assert torch.allclose(h_b @ w_b + c_b, st.down(h_b) @ w + c, atol=1e-4), (
        "the probe of A on down-stitched rows of B"
    )
