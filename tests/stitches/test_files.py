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
from core.stitches import files as stitch_files
from core.stitches.files import read_tensors, recognise
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


def same(found: stitch_files.Foreign, wanted: Stitch = TRUE) -> bool:
    parts = ("P_up", "b_up", "P_down", "b_down")
    return all(torch.equal(getattr(found.stitch, k), getattr(wanted, k)) for k in parts)


@pytest.mark.parametrize("save", [as_safetensors, as_torch, as_nested, as_npz])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_stitch(
    form: str, save: Callable[[dict[str, torch.Tensor], Path], Path], tmp_path: Path
) -> None:
    found = recognise(read_tensors(save(FORMS[form], tmp_path / "stitch")), A, B)
    assert same(found) and found.ways == ("up", "down") and len(found.layout) == 2


def test_one_way_is_enough() -> None:
    found = recognise({"down.weight": TRUE.P_down.T, "down.bias": TRUE.b_down}, A, B)
    assert found.ways == ("down",) and torch.equal(found.stitch.P_down, TRUE.P_down)
    assert not found.stitch.P_up.any() and "no bias" not in str(found.layout)
    found = recognise({"weight": TRUE.P_up.T}, A, B)
    assert (
        found.ways == ("up",)
        and torch.equal(found.stitch.P_up, TRUE.P_up)
        and "no bias" in str(found.layout)
    )


def test_equal_widths_ask_only_where_the_name_says_nothing() -> None:
    square = torch.randn(4, 4)
    assert torch.equal(recognise({"up.weight": square}, 4, 4).stitch.P_up, square.T)
    assert torch.equal(recognise({"P_up": square}, 4, 4).stitch.P_up, square)
    with pytest.raises(StitchLensError, match=r"the paper's \[in, out\]"):
        recognise({"up": square}, 4, 4)
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
        ({"this": torch.zeros(5, 3), "that": torch.zeros(3, 5)}, "from A to B or back"),
    ],
)
def test_what_is_no_stitch_is_said(tensors: dict[str, torch.Tensor], says: str) -> None:
    with pytest.raises(StitchLensError) as e:
        recognise(tensors, A, B)
    assert says in str(e.value)
