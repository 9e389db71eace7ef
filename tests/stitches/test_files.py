"""Stitches of others: every accepted form gives the same stitch. What is malformed is
tests/test_fuzz.py's."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from core.errors import StitchLensError
from core.stitches.files import read_contents, read_tensors
from core.stitches.recognition import Foreign, recognise
from core.stitches.stitch import Stitch
from tests.helpers.malformed import TRUE, A, B


def linear(up: str, down: str) -> dict[str, torch.Tensor]:
    return {
        f"{up}.weight": TRUE.P_up.T.contiguous(),
        f"{up}.bias": TRUE.b_up,
        f"{down}.weight": TRUE.P_down.T.contiguous(),
        f"{down}.bias": TRUE.b_down,
    }


PAPER = {"P_up": TRUE.P_up, "b_up": TRUE.b_up, "P_down": TRUE.P_down, "b_down": TRUE.b_down}
FORMS = {
    **{
        f"{u}/{d}": linear(u, d)
        for u, d in (
            ("up", "down"),
            ("a_to_b", "b_to_a"),
            ("T_up", "T_down"),
            ("encoder", "decoder"),
            ("module.stitch.up", "module.stitch.down"),
            ("0", "1"),
            ("small_to_large", "large_to_small"),
            ("A2B", "B2A"),
            ("x", "y"),
        )
    },
    "paper": PAPER,
    "paper, short": {
        "up.P": TRUE.P_up,
        "up.b": TRUE.b_up,
        "down.P": TRUE.P_down,
        "down.b": TRUE.b_down,
    },
}


def as_safetensors(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    save_file(tensors, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def as_torch(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    torch.save(OrderedDict(tensors), path.with_suffix(".pt"))
    return path.with_suffix(".pt")


def as_nested(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    torch.save({"epoch": 3, "state_dict": tensors, "lr": 1e-4}, path.with_suffix(".ckpt"))
    return path.with_suffix(".ckpt")


def as_npz(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    arrays: dict[str, Any] = {k: v.numpy() for k, v in tensors.items()}
    np.savez(path.with_suffix(".npz"), **arrays)
    return path.with_suffix(".npz")


def same(found: Foreign, wanted: Stitch = TRUE) -> bool:
    parts = ("P_up", "b_up", "P_down", "b_down")
    return all(torch.equal(getattr(found.stitch, k), getattr(wanted, k)) for k in parts)


@pytest.mark.parametrize("save", [as_safetensors, as_torch, as_nested, as_npz])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_stitch(
    form: str, save: Callable[[dict[str, torch.Tensor], Path], Path], tmp_path: Path
) -> None:
    found = recognise(read_tensors(save(FORMS[form], tmp_path / "stitch")), A, B)
    assert same(found) and found.ways == ("up", "down") and not found.others
    laid = "[in, out]" if "paper" in form else "[out, in]"
    assert set(found.layout.values()) == {f"P_up, {laid}", f"P_down, {laid}", "b_up", "b_down"}


def test_one_way_is_enough() -> None:
    found = recognise({"down.weight": TRUE.P_down.T, "down.bias": TRUE.b_down}, A, B)
    assert found.ways == ("down",) and torch.equal(found.stitch.P_down, TRUE.P_down)
    assert not found.stitch.P_up.any() and "no bias" not in str(found.layout)
    found = recognise({"weight": TRUE.P_up.T}, A, B)
    assert found.ways == ("up",) and torch.equal(found.stitch.P_up, TRUE.P_up)
    assert "no bias" in str(found.layout) and not found.biased


def test_equal_widths_ask_only_where_the_name_says_nothing() -> None:
    square = torch.randn(4, 4)
    assert torch.equal(recognise({"up.weight": square}, 4, 4).stitch.P_up, square.T)
    assert torch.equal(recognise({"P_up": square}, 4, 4).stitch.P_up, square)
    both = recognise({"up": square}, 4, 4)
    assert torch.equal(both.stitch.P_up, square.T)
    assert [torch.equal(other.stitch.P_up, square) for other in both.others] == [True]
    assert torch.equal(recognise({"up": square}, 4, 4, "linear").stitch.P_up, square.T)
    assert torch.equal(recognise({"up": square}, 4, 4, "paper").stitch.P_up, square)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"up": torch.zeros(7, 9)}, "no matrix between widths 3 and 5"),
        ({"b": torch.zeros(5)}, "no matrix"),
        ({f"m{k}": torch.zeros(3, 5) for k in range(3)}, "3 matrices"),
        (
            {"up.weight": torch.zeros(5, 3), "encoder.weight": torch.zeros(5, 3)},
            "two matrices that lead up",
        ),
        ({"up.weight": torch.zeros(5, 3), "up.bias": torch.zeros(3)}, "5 numbers"),
    ],
)
def test_what_is_no_stitch_is_said(tensors: dict[str, torch.Tensor], says: str) -> None:
    with pytest.raises(StitchLensError) as e:
        recognise(tensors, A, B)
    assert says in str(e.value)


def test_what_names_leave_open_gives_every_reading() -> None:
    down = recognise({"weight": TRUE.P_down.T}, A, B)
    assert down.ways == ("down",) and torch.equal(down.stitch.P_down, TRUE.P_down)
    assert [other.ways for other in down.others] == [("up",)]
    assert torch.equal(down.others[0].stitch.P_up, TRUE.P_down.T), "read [in, out]"

    two = recognise({"this": TRUE.P_up.T, "that": TRUE.P_down.T}, A, B)
    assert [reading.ways for reading in (two, *two.others)] == [("up", "down")] * 2
    assert torch.equal(two.stitch.P_up, TRUE.P_up) and torch.equal(two.stitch.P_down, TRUE.P_down)
    assert torch.equal(two.others[0].stitch.P_up, TRUE.P_down.T), "both read [in, out]"


X = torch.randn(9, A, generator=torch.Generator().manual_seed(1))
STREAMS = {"up": X, "down": torch.randn(9, B, generator=torch.Generator().manual_seed(2))}
ROWS = {k: torch.rand(n) + 0.5 for k, n in (("a", A), ("b", B), ("mean_a", A), ("mean_b", B))}


def out(found: Foreign, way: str = "up") -> torch.Tensor:
    p, bias = found.map(way)  # type: ignore[arg-type]
    return STREAMS[way] @ p + bias


def close(found: Foreign, wanted: torch.Tensor, way: str = "up") -> bool:
    return torch.allclose(out(found, way), wanted, atol=1e-5)


@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_is_what_pytorch_computes(dim: int | None) -> None:
    layer = torch.nn.Linear(A, B)
    new = torch.nn.utils.parametrizations.weight_norm(layer, dim=dim)  # type: ignore[arg-type]
    with torch.no_grad():
        new.parametrizations.weight.original0.mul_(1.7)  # type: ignore[union-attr, operator]
        wanted = new(X)
    tensors = {f"up.{k}": v.detach() for k, v in new.state_dict().items()}
    found = recognise(tensors, A, B)
    assert close(found, wanted) and found.layout.keys() >= tensors.keys()

    old = {
        k.replace("parametrizations.weight.original0", "weight_g"): v for k, v in tensors.items()
    }
    old = {k.replace("parametrizations.weight.original1", "weight_v"): v for k, v in old.items()}
    assert close(recognise(old, A, B), wanted)


def test_spectral_norm_is_what_pytorch_computes() -> None:
    layer = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(A, B)).eval()
    found = recognise({f"up.{k}": v.detach() for k, v in layer.state_dict().items()}, A, B)
    assert close(found, layer(X).detach())


def test_standardised_streams_are_folded_in_both_ways() -> None:
    std_a, std_b, mean_a, mean_b = (ROWS[k] for k in ("a", "b", "mean_a", "mean_b"))
    tensors = PAPER | {"std_a": std_a, "std_b": std_b, "mean_a": mean_a, "mean_b": mean_b}
    found = recognise(tensors, A, B)
    up = ((X - mean_a) / std_a @ TRUE.P_up + TRUE.b_up) * std_b + mean_b
    y = STREAMS["down"]
    down = ((y - mean_b) / std_b @ TRUE.P_down + TRUE.b_down) * std_a + mean_a
    assert close(found, up) and close(found, down, "down") and found.layout.keys() == tensors.keys()

    variances = PAPER | {"scaler_a.mean_": mean_a, "scaler_a.var_": std_a**2}
    only_a = (X - mean_a) / std_a @ TRUE.P_up + TRUE.b_up
    assert close(recognise(variances, A, B), only_a)

    places = {"x_mean": mean_a, "x_std": std_a, "y_mean": mean_b, "y_std": std_b}
    one_way = {"weight": TRUE.P_up.T, "bias": TRUE.b_up, **places}
    assert close(recognise(one_way, A, B), up)


def test_a_factor_is_never_added() -> None:
    scale = ROWS["b"]
    found = recognise({"up.weight": TRUE.P_up.T, "up.scale": scale}, A, B)
    assert close(found, X @ TRUE.P_up * scale) and not found.biased and not found.others
    entering = recognise({"up.weight": TRUE.P_up.T, "up.scale": ROWS["a"]}, A, B)
    assert close(entering, X * ROWS["a"] @ TRUE.P_up)

    with_bias = {"up.weight": TRUE.P_up.T, "up.bias": TRUE.b_up, "up.scale": scale}
    found = recognise(with_bias, A, B)
    assert close(found, (X @ TRUE.P_up + TRUE.b_up) * scale)
    assert close(found.others[0], X @ TRUE.P_up * scale + TRUE.b_up)


def test_factors_of_both_streams_are_undone_on_the_way_out() -> None:
    a, b = torch.tensor(2.0), torch.tensor(0.5)
    found = recognise({"P_up": TRUE.P_up, "scale_a": a, "scale_b": b}, A, B)
    wanted = {
        "multiplies multiplies": X * a @ TRUE.P_up / b,
        "divides divides": X / a @ TRUE.P_up * b,
    }
    readings = [out(one) for one in (found, *found.others)]
    for value in wanted.values():
        assert any(torch.allclose(value, reading, atol=1e-5) for reading in readings)


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"norm_a.weight": torch.ones(A), "norm_a.bias": torch.ones(A)}, "norm_a.weight"),
        ({"ln.weight": torch.ones(A)}, "ln.weight"),
        ({"bn.running_mean": torch.ones(A), "bn.running_var": torch.ones(A)}, "bn.running_mean"),
        ({"up.lora_A.weight": torch.ones(2, A)}, "adapter"),
        ({"parametrizations.weight.0.base": torch.ones(A, A)}, "parametrisation"),
        ({"mystery": torch.ones(B)}, "mystery"),
        ({"rotation": torch.ones(A, A)}, "rotation"),
        ({"down.bias": torch.ones(A)}, "down.bias"),
        ({"mean": torch.ones(7)}, "whose place"),
        ({"std_a": torch.zeros(A)}, "deviations and factors above 0"),
    ],
)
def test_what_is_not_affine_or_not_understood_is_named(
    extra: dict[str, torch.Tensor], says: str
) -> None:
    one_way = {"up.weight": TRUE.P_up.T, "up.bias": TRUE.b_up}
    with pytest.raises(StitchLensError) as e:
        recognise(one_way | extra, A, B)
    assert says in str(e.value)


def test_what_has_no_models_width_is_named_as_unused() -> None:
    found = recognise(PAPER | {"losses": torch.ones(40), "step": torch.tensor(3.0)}, A, B)
    assert same(found) and "not used" in found.layout["losses"] and "step" in found.layout


def test_a_checkpoint_of_a_training_gives_its_weights(tmp_path: Path) -> None:
    layers = torch.nn.ModuleDict({"up": torch.nn.Linear(A, B), "down": torch.nn.Linear(B, A)})
    optimizer = torch.optim.Adam(layers.parameters())
    (layers["down"](layers["up"](X))).sum().backward()
    optimizer.step()
    weights = layers.state_dict()
    files = {
        "adam.pt": {"model_state_dict": weights, "optimizer_state_dict": optimizer.state_dict()},
        "lightning.ckpt": {
            "state_dict": {f"model.{k}": v for k, v in weights.items()},
            "optimizer_states": [optimizer.state_dict()],
            "lr_schedulers": [{"last_epoch": 3}],
            "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.1)}},
            "pytorch-lightning_version": "2.4.0",
        },
        "ema.pt": {"model": weights, "ema_model": {k: v + 1 for k, v in weights.items()}},
        "compiled.pt": {f"_orig_mod.module.{k}": v for k, v in weights.items()},
        "flags.pt": weights | {"initialised": torch.tensor(True), "note": "mine", "epoch": 2},
    }
    passed: dict[str, str] = {}
    for name, content in files.items():
        torch.save(content, tmp_path / name)
        contents = read_contents(tmp_path / name)
        found = recognise(contents.tensors, A, B)
        assert torch.equal(found.stitch.P_up, weights["up.weight"].T), name
        assert found.ways == ("up", "down") and not found.others
        passed = dict(contents.passed)
        assert all(reason.startswith("not used") for reason in passed.values())
    assert {"initialised", "note", "epoch"} <= passed.keys()


def test_an_npz_with_texts_beside_its_weights_is_read(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {k: v.numpy() for k, v in PAPER.items()}
    np.savez(tmp_path / "s.npz", note="trained by hand", done=np.array(True), **arrays)
    contents = read_contents(tmp_path / "s.npz")
    assert same(recognise(contents.tensors, A, B)) and contents.passed.keys() == {"note", "done"}


def test_an_old_torch_format_is_named_and_its_advice_works(tmp_path: Path) -> None:
    path = tmp_path / "legacy.pt"
    torch.save(PAPER, path, _use_new_zipfile_serialization=False)
    with pytest.raises(StitchLensError, match="an old torch") as e:
        read_tensors(path)
    new_path = tmp_path / "new.safetensors"
    save = e.value.todo.split("`")[1]
    assert save == "safetensors.torch.save_file(torch.load(path, weights_only=True), new_path)"
    save_file(torch.load(path, weights_only=True), new_path)
    assert same(recognise(read_tensors(new_path), A, B))
