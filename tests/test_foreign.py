"""Files of others: every accepted form gives the same stitch, and every bad one a sentence; nothing of them runs."""

import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from core import foreign
from core.errors import StitchLensError
from core.foreign import read_tensors, recognise
from core.stitch import Stitch

A, B = 3, 5
G = torch.Generator().manual_seed(0)
P_UP, B_UP, P_DOWN, B_DOWN = (torch.randn(*shape, generator=G) for shape in ((A, B), (B,), (B, A), (A,)))
TRUE = Stitch(P_UP, B_UP, P_DOWN, B_DOWN)


def linear(up: str, down: str) -> dict[str, torch.Tensor]:
    return {
        f"{up}.weight": TRUE.P_up.T.contiguous(), f"{up}.bias": TRUE.b_up,
        f"{down}.weight": TRUE.P_down.T.contiguous(), f"{down}.bias": TRUE.b_down,
    }  # fmt: skip


PAPER = {"P_up": TRUE.P_up, "b_up": TRUE.b_up, "P_down": TRUE.P_down, "b_down": TRUE.b_down}
FORMS = {
    **{f"{u}/{d}": linear(u, d) for u, d in (
        ("up", "down"), ("a_to_b", "b_to_a"), ("T_up", "T_down"), ("encoder", "decoder"),
        ("module.stitch.up", "module.stitch.down"), ("0", "1"), ("small_to_large", "large_to_small"),
        ("A2B", "B2A"), ("x", "y"),
    )},
    "paper": PAPER,
    "paper, short": {"up.P": TRUE.P_up, "up.b": TRUE.b_up, "down.P": TRUE.P_down, "down.b": TRUE.b_down},
}  # fmt: skip


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


def same(found: foreign.Foreign, wanted: Stitch = TRUE) -> bool:
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
    assert found.ways == ("up",) and torch.equal(found.stitch.P_up, TRUE.P_up) and "no bias" in str(found.layout)


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
        ({"up": torch.zeros(7, 9)}, "no matrix between widths 3 and 5"), ({"b": torch.zeros(5)}, "no matrix"),
        ({f"m{k}": torch.zeros(3, 5) for k in range(3)}, "3 matrices"),
        ({"up.weight": torch.zeros(5, 3), "encoder.weight": torch.zeros(5, 3)}, "two matrices that lead up"),
        ({"up.weight": torch.zeros(5, 3), "up.bias": torch.zeros(3)}, "5 numbers"),
        ({"this": torch.zeros(5, 3), "that": torch.zeros(3, 5)}, "from A to B or back"),
    ],
)  # fmt: skip
def test_what_is_no_stitch_is_said(tensors: dict[str, torch.Tensor], says: str) -> None:
    with pytest.raises(StitchLensError) as e:
        recognise(tensors, A, B)
    assert says in str(e.value)


class Canary:
    """Pickled, it writes a file when it is opened."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.place}",)


def zipped(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)
    return path


def header(value: object, length: int | None = None, body: bytes = b"") -> bytes:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + body


def npy(shape: tuple[int, ...], dtype: str = "<f4", body: bytes = b"") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (64 - (10 + len(text) + 1) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin1") + body


F32 = {"dtype": "F32", "shape": [3, 5], "data_offsets": [0, 60]}


def bad_files(root: Path) -> dict[str, Path]:
    """One file a fault."""
    out: dict[str, Path] = {}

    def put(name: str, raw: bytes) -> None:
        out[name] = root / name
        out[name].write_bytes(raw)

    for ending in foreign.WEIGHT_FILES:
        put(f"empty{ending}", b"")
        put(f"junk{ending}", b"not what it says" * 9)
        put(f"zeros{ending}", b"\0" * 4096)
        put(f"html{ending}", b"<!doctype html><script>alert(1)</script>" * 20)
    put("stitch.txt", b"1 2 3")
    put("stitch.pkl", pickle.dumps({"up": 1}))
    put("stitch", b"x")
    put("huge-header.safetensors", header({}, 2**60))
    put("long-header.safetensors", header(b" " * 2_000_000))
    put("no-json.safetensors", header(b"{" * 500))
    put("deep.safetensors", header(b"[" * 20_000))
    put("list.safetensors", header([1, 2]))
    put("number.safetensors", header(b"7"))
    one = json.dumps(F32).encode()
    put("twice.safetensors", header(b'{"a":' + one + b',"a":' + one + b"}", None, b"\0" * 60))
    put("short-body.safetensors", header({"up": F32}, None, b"\0" * 8))
    put("past-the-end.safetensors", header({"up": F32 | {"data_offsets": [0, 10**15]}}, None, b"\0" * 60))
    put("backwards.safetensors", header({"up": F32 | {"data_offsets": [60, 0]}}, None, b"\0" * 60))
    put("vast-shape.safetensors", header({"up": F32 | {"shape": [2**40, 2**40]}}, None, b"\0" * 60))
    put("negative.safetensors", header({"up": F32 | {"shape": [-3, 5]}}, None, b"\0" * 60))
    put("strange-type.safetensors", header({"up": F32 | {"dtype": "Q9"}}, None, b"\0" * 60))
    put("many.safetensors", header({f"t{k}": F32 for k in range(2000)}, None, b"\0" * 60))
    put("zero-width.safetensors", header({"up": F32 | {"shape": [0, 5], "data_offsets": [0, 0]}}))
    save_file({"up": torch.tensor([[float("nan")] * 5] * 3)}, root / "nan.safetensors")
    save_file({"up": torch.full((3, 5), float("inf"))}, root / "inf.safetensors")
    save_file({"up": torch.zeros(3, 5, dtype=torch.bool)}, root / "bool.safetensors")
    torch.save({"up": torch.zeros(3, 5, dtype=torch.complex64)}, root / "complex.pt")
    torch.save({"up": torch.zeros(1).expand(100_000, 100_000)}, root / "expanded.pt")
    torch.save(7, root / "number.pt")
    torch.save({"lr": 1e-4}, root / "no-tensor.pt")
    torch.save({f"t{k}": torch.zeros(1) for k in range(400)}, root / "many.pt")
    torch.save({"up": torch.zeros(3, 5)}, root / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(Canary(root / "CANARY"), root / "canary.pt")
    torch.save({"up": torch.zeros(3, 5), "x": Canary(root / "CANARY")}, root / "canary-beside.pt")
    torch.save(torch.nn.Linear(3, 5), root / "module.pt")
    deep: Any = torch.zeros(3, 5)
    for _ in range(40):
        deep = {"x": deep}
    torch.save(deep, root / "nested.pt")
    raw = (root / "number.pt").read_bytes()
    put("cut.pt", raw[: len(raw) // 2])
    zipped(root / "canary-raw.pt", {"archive/data.pkl": pickle.dumps(Canary(root / "CANARY")), "archive/version": b"3"})
    zipped(root / "no-index.pt", {"archive/weights": b"\0" * 60})
    zipped(root / "two-indexes.pt", {"a/data.pkl": b"N.", "b/data.pkl": b"N."})
    zipped(root / "long-index.pt", {"a/data.pkl": os.urandom(2_000_000)})
    zipped(root / "climbs.pt", {"../../etc/data.pkl": b"N."})
    zipped(root / "rooted.npz", {"/tmp/up.npy": npy((3, 5), body=b"\0" * 60)})
    zipped(root / "bomb.npz", {"up.npy": b"\0" * 50_000_000}, zipfile.ZIP_DEFLATED)
    zipped(root / "many.npz", {f"t{k}.npy": npy((1,), body=b"\0" * 4) for k in range(600)})
    zipped(root / "vast.npz", {"up.npy": npy((2**40, 2**20))})
    zipped(root / "short.npz", {"up.npy": npy((3, 5), body=b"\0" * 8)})
    zipped(root / "objects.npz", {"up.npy": npy((1,), "|O", pickle.dumps([Canary(root / "CANARY")]))})
    zipped(root / "text.npz", {"up.npy": npy((3, 5), "<U9", b"\0" * 540)})
    zipped(root / "no-array.npz", {"up.npy": b"hello"})
    np.savez(root / "nan.npz", up=np.full((3, 5), np.nan))
    np.savez(root / "strings.npz", up=np.array([["a"] * 5] * 3))
    out |= {p.name: p for p in root.iterdir() if p.is_file()}
    (root / "folder.pt").mkdir()
    out["folder.pt"] = root / "folder.pt"
    out["missing.pt"] = root / "missing.pt"
    return out


def test_every_bad_file_is_a_sentence_and_none_runs(tmp_path: Path) -> None:
    files = bad_files(tmp_path)
    assert len(files) > 70
    for name, path in files.items():
        with pytest.raises(StitchLensError) as e:
            recognise(read_tensors(path), A, B)
        said = str(e.value)
        assert said.startswith("Found ") and "\n" not in said and len(said) < 600, (name, said)
    assert not (tmp_path / "CANARY").exists()


@given(seed=st.integers(0, 2**20), kind=st.sampled_from(["safetensors", "pt", "npz"]), flips=st.integers(1, 40))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_are_read_or_refused(tmp_path: Path, seed: int, kind: str, flips: int) -> None:
    """Bytes changed, cut or repeated at random: a stitch of the right widths, or a sentence, and nothing else."""
    save = {"safetensors": as_safetensors, "pt": as_torch, "npz": as_npz}[kind]
    path = save(FORMS["up/down"], tmp_path / f"good{seed}")
    raw = bytearray(path.read_bytes())
    g = np.random.default_rng(seed)
    for at in g.integers(0, len(raw), flips):
        raw[at] = g.integers(0, 256)
    if seed % 3 == 0:
        raw = raw[: g.integers(1, len(raw))]
    elif seed % 3 == 1:
        raw += raw[: g.integers(1, len(raw))]
    path.write_bytes(bytes(raw))
    try:
        found = recognise(read_tensors(path), A, B)
    except StitchLensError:
        pass
    else:
        assert torch.isfinite(found.stitch.P_up).all() and found.stitch.P_up.shape == (A, B)
    path.unlink()
