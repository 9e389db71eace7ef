"""Vectors are what their means say, moved ones are measured anew, and files give back what was put
in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from safetensors.torch import save_file

from core.errors import StitchLensError
from core.models import hooks
from core.models.live import LiveModel
from core.models.pairs import NANO_B
from core.steering.files import load_vector, open_vector, save_vector
from core.steering.formats import neuronpedia_vector, save_gguf
from core.steering.vectors import (
    Means,
    Vector,
    diff_mean,
    language_means,
    load_means,
    means,
    moved,
    random_like,
)
from core.stitches.stitch import Stitch
from core.text.corpus import Corpus, Document
from tests.helpers.small import texts

LAYER = 2


def test_diff_mean_is_that_of_dense_activations(nano: LiveModel, corpus: Corpus) -> None:
    plus, minus = texts(corpus, "fra", 5), texts(corpus, "eng", 5)
    vector = diff_mean(means(nano, plus, minus, LAYER))
    rows = []
    for side in (plus, minus):
        parts = []
        for e in nano.encode(side):
            h = hooks.residuals(nano, nano.pad([e.ids]), [LAYER])[LAYER][0]
            parts.append(h[torch.from_numpy(e.usable)])
        rows.append(torch.cat(parts).double())
    v = rows[0].mean(0) - rows[1].mean(0)
    v = (v / v.norm()).float()
    assert torch.allclose(vector.v, v, atol=1e-4)
    assert vector.mean == pytest.approx(float((rows[0].float() @ v).mean()), rel=1e-3)
    with pytest.raises(StitchLensError, match="the same text"):
        diff_mean(means(nano, plus, plus, LAYER))
    with pytest.raises(StitchLensError, match="without a token"):
        means(nano, [""], plus, LAYER)
    with pytest.raises(StitchLensError, match="layer 99"):
        means(nano, plus, minus, 99)


def test_a_moved_vector_is_renormalised_and_measured_anew(
    nano: LiveModel, corpus: Corpus, french: Vector
) -> None:
    d = nano.spec.d_model
    stitch = Stitch(3 * torch.eye(d), torch.ones(d), torch.eye(d) / 3, torch.zeros(d))
    found = means(nano, texts(corpus, "fra", 5), texts(corpus, "eng", 5), LAYER)
    vector = moved(french, stitch, "up", found)
    assert torch.allclose(vector.v, french.v, atol=1e-5), "the bias takes no part, the scale goes"
    assert vector.mean == pytest.approx(float(found.positive @ vector.v))
    control = random_like(french, found, 1)
    assert float(control.v.norm()) == pytest.approx(1)
    assert abs(float(control.v @ french.v)) < 0.3
    assert control.mean - control.base == pytest.approx(french.mean - french.base, rel=1e-4)


def test_means_of_no_length_are_refused() -> None:
    same = torch.ones(4)
    with pytest.raises(StitchLensError, match="no length"):
        diff_mean(Means(0, same, same))


def test_language_means_are_those_of_the_texts(
    nano: LiveModel, corpus: Corpus, tmp_path: Path
) -> None:
    documents = [
        d for d in corpus.split("fit") if d.label.split("/")[0] in ("fra", "eng", "coding")
    ]
    found = language_means(nano, documents, None, 8)
    assert sorted(found.labels) == ["eng", "fra"] and found.mean.shape == (2, 6, 256)
    wanted = means(nano, texts(corpus, "fra", 8), texts(corpus, "eng", 8), LAYER)
    got = found.of("fra", LAYER)
    assert torch.allclose(got.positive, wanted.positive, atol=1e-5)
    assert torch.allclose(got.negative, wanted.negative, atol=1e-5)
    found.save(tmp_path / "m.safetensors")
    back = load_means(tmp_path / "m.safetensors").of("fra", LAYER)
    cosine = torch.nn.functional.cosine_similarity(diff_mean(back).v, diff_mean(got).v, dim=0)
    assert float(cosine) > 1 - 1e-5, "half precision keeps the direction"
    with pytest.raises(StitchLensError, match="no text in German"):
        found.of("deu", LAYER)
    with pytest.raises(StitchLensError, match="layer 9"):
        found.of("fra", 9)
    with pytest.raises(StitchLensError, match="with a language"):
        language_means(nano, [Document("x@0+0", "prose", "words")])
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(StitchLensError, match="no language means in bad"):
        load_means(tmp_path / "bad.safetensors")


def test_a_file_gives_the_vector_back(french: Vector, tmp_path: Path) -> None:
    path = tmp_path / "french.safetensors"
    save_vector(french, path)
    back = load_vector(path)
    assert torch.equal(back.v, french.v) and back.layer == french.layer
    assert (back.mean, back.base) == (french.mean, french.base)
    assert back.makers["model"] == "nano-b" and back.makers["positive"]


def test_bad_vector_files_are_said(french: Vector, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    for v in (2 * french.v, torch.full((4,), float("nan")), torch.zeros(4)):
        save_vector(Vector(1, v, 0.0), path)
        with pytest.raises(StitchLensError, match=r"bad\.safetensors"):
            load_vector(path)
    for junk in (b"", b"junk", b"\x00" * 64):
        path.write_bytes(junk)
        with pytest.raises(StitchLensError, match=r"bad\.safetensors"):
            load_vector(path)
    with pytest.raises(StitchLensError, match=r"nowhere\.safetensors unreadable"):
        load_vector(tmp_path / "nowhere.safetensors")


def test_a_control_vector_is_read_back(french: Vector, tmp_path: Path) -> None:
    """llama.cpp adds `direction.N` after block N: what acts before layer L is N = L - 1."""
    path = tmp_path / "french.gguf"
    save_gguf(french, NANO_B, path)
    reader = GGUFReader(path)
    (tensor,) = reader.tensors
    assert tensor.name == f"direction.{LAYER - 1}" and tensor.data.dtype == np.float32
    push = french.mean - french.base
    assert np.allclose(tensor.data, push * french.v.numpy(), atol=1e-6)
    fields = {k: f.contents() for k, f in reader.fields.items()}
    assert fields["general.architecture"] == "controlvector"
    assert (
        fields["controlvector.model_hint"] == "nano-b" and fields["controlvector.layer_count"] == 6
    )
    with pytest.raises(StitchLensError, match="before layer 0"):
        save_gguf(Vector(0, french.v, 1.0), NANO_B, path)


def test_an_added_control_vector_does_what_a_clamp_does_on_average(
    nano: LiveModel, french: Vector, corpus: Corpus
) -> None:
    """A negative token's component goes to z̄, on average, where the control vector is added at
    scale 1."""
    (encoded,) = nano.encode(texts(corpus, "eng", 1))
    h = hooks.residuals(nano, nano.pad([encoded.ids]), [LAYER])[LAYER][0, 1:]
    moved_by = (french.mean - french.base) * french.v
    assert float(((h + moved_by) @ french.v).mean()) == pytest.approx(
        french.mean, abs=0.3 * abs(french.mean - french.base)
    )


def test_neuronpedia_gets_what_its_form_asks(french: Vector) -> None:
    body = json.loads(json.dumps(neuronpedia_vector(french, NANO_B, "French")))
    assert (
        body["modelId"] == "nano-b"
        and body["layerNumber"] == LAYER
        and body["hookType"] == "resid-pre"
    )
    assert (
        torch.allclose(torch.tensor(body["vector"]), french.v) and body["vectorLabel"] == "French"
    )
    assert body["vectorDefaultSteerStrength"] == pytest.approx(french.mean - french.base, abs=1e-3)


def neuronpedia(path: Path, v: Any, **fields: Any) -> Path:
    body = {
        "modelId": "nano-b",
        "layerNumber": LAYER,
        "hookType": "hook_resid_pre",
        "vector": v.tolist(),
    }
    body = {k: x for k, x in (body | fields).items() if x != "left out"}
    path.write_text(json.dumps(body))
    return path


@pytest.mark.parametrize("length", [1.0, 1.002, 2.0, 13.5])
@pytest.mark.parametrize("strength", [None, 0, 1, 4, 40, -3.5, 0.0004])
def test_neuronpedia_pushes_by_strength_times_vector(
    length: float, strength: float | None, tmp_path: Path
) -> None:
    v = np.full(16, length / 4)
    found = open_vector(neuronpedia(tmp_path / "v.json", v, vectorDefaultSteerStrength=strength))
    push = (1 if strength is None else strength) * v
    assert np.allclose((found.mean - found.base) * found.v.double().numpy(), push, rtol=1e-6)
    assert abs(float(found.v.norm()) - 1) < 1e-6
    assert found.makers["strength"] == strength and found.makers["length"] == pytest.approx(length)


@pytest.mark.parametrize("push", [4.0, 0.0004, -2.0, 123456.0])
def test_what_goes_to_neuronpedia_comes_back(push: float, tmp_path: Path) -> None:
    v = torch.ones(16) / 4
    (tmp_path / "v.json").write_text(
        json.dumps(neuronpedia_vector(Vector(LAYER, v, 1 + push, 1.0), NANO_B, "x"))
    )
    found = open_vector(tmp_path / "v.json")
    assert torch.allclose((found.mean - found.base) * found.v, push * v, rtol=1e-4, atol=0)


def test_a_record_of_neuronpedia_is_read(tmp_path: Path) -> None:
    v, path = np.full(16, 0.25), tmp_path / "v.json"
    record = {
        "layerNumber": "left out",
        "hookType": "left out",
        "layer": "3-neuronpedia-resid-pre",
        "index": "7",
        "hookName": "blocks.3.hook_resid_pre",
        "vectorDefaultSteerStrength": 4,
        "createdAt": "2025-01-01",
        "pos_str": [],
        "neuron_alignment_indices": [],
        "decoder_weights_dist": [],
        "sourceSetName": "x",
    }
    found = open_vector(neuronpedia(path, v, **record))
    assert found.layer == 3 and found.mean == pytest.approx(4) and "notes" not in found.makers
    assert open_vector(neuronpedia(path, v, **record | {"hookName": "left out"})).layer == 3
    assert (
        open_vector(neuronpedia(path, v, **record | {"hookName": "blocks.2.hook_resid_post"})).layer
        == 3
    )
    (note,) = open_vector(neuronpedia(path, v, **record, steer_scale=2.0)).makers["notes"]
    assert "steer_scale = 2.0" in note
    for fields, says in (
        ({"hookName": "blocks.3.hook_mlp_out"}, "hook_mlp_out"),
        ({"layerNumber": 4}, "layers that differ"),
        ({"layer": "3-x-mlp", "hookName": "left out"}, "3-x-mlp"),
    ):
        with pytest.raises(StitchLensError, match=says):
            open_vector(neuronpedia(path, v, **record | fields))


def test_of_several_layers_one_is_taken_and_the_others_are_said(tmp_path: Path) -> None:
    """As repeng writes them: `direction.N` acts after block N, and the hint is the architecture."""
    writer = GGUFWriter(tmp_path / "v.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "gpt_neox")
    writer.add_uint32("controlvector.layer_count", 4)
    writer.add_float32("controlvector.strength", 2.0)
    for layer in (1, 2, 3, 4):
        writer.add_tensor(f"direction.{layer}", np.full(16, layer, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = open_vector(tmp_path / "v.gguf", "nano-b")
    assert (
        found.layer == 4 and found.mean == pytest.approx(12) and found.makers["hint"] == "gpt_neox"
    )
    said = " ".join(found.makers["notes"])
    assert (
        "layers 2, 3, 4, 5" in said and "--layer" in said and "controlvector.strength = 2.0" in said
    )
    assert open_vector(tmp_path / "v.gguf", "nano-b", 2).mean == pytest.approx(4)
    assert open_vector(tmp_path / "v.gguf").makers["model"] == "gpt_neox"
    with pytest.raises(StitchLensError, match="before layer 2, 3, 4, 5, none before 1"):
        open_vector(tmp_path / "v.gguf", "nano-b", 1)


@pytest.mark.parametrize("ending", ["safetensors", "pt", "pth", "bin", "npz", "npy"])
@pytest.mark.parametrize("shape", [(16,), (1, 16), (1, 1, 16)])
def test_a_row_alone_is_taken_with_its_side_and_layer(
    ending: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    path, row = tmp_path / f"v.{ending}", torch.linspace(-1, 2, 16).reshape(shape)
    if ending == "safetensors":
        save_file({"steering_vector": row}, path, metadata={"format": "pt", "strength": "3"})
    elif ending == "npz":
        np.savez(path, anything=row.numpy())
    elif ending == "npy":
        np.save(path, row.numpy())
    else:
        torch.save({"v": row, "strength": 3, "name": "x"}, path)
    found = open_vector(path, "nano-b", 3)
    assert found.layer == 3 and found.makers["model"] == "nano-b"
    assert torch.allclose((found.mean - found.base) * found.v, row.reshape(-1), atol=1e-6)
    if ending not in ("npz", "npy"):
        assert "strength = 3" in found.makers["notes"][0], "what is beside it is named"
    for model, layer in ((None, 3), ("nano-b", None), (None, None)):
        with pytest.raises(StitchLensError, match=r"does not say its .*--side a\|b and --layer"):
            open_vector(path, model, layer)


def test_directions_by_block_act_before_the_next(tmp_path: Path) -> None:
    """The steering-vectors library adds `layer_activations[N]` to the output of block N."""
    path, rows = tmp_path / "v.pt", {n: torch.full((16,), float(n)) for n in (1, 2, 3)}
    for value in (rows, {"layer_activations": rows, "layer_type": "decoder_block"}):
        torch.save(value, path)
        found = open_vector(path, "nano-b")
        assert found.layer == 3 and found.mean == pytest.approx(8)
        assert "after block N is before layer N + 1" in " ".join(found.makers["notes"])
        assert open_vector(path, "nano-b", 2).mean == pytest.approx(4)
    torch.save({"layer_activations": rows, "layer_type": "mlp"}, path)
    with pytest.raises(StitchLensError, match="layer_type mlp"):
        open_vector(path, "nano-b")
    for value, says in (
        ({"a": rows[1], "b": rows[2]}, r"tensors a \(16,\), b"),
        ({"v": rows[1], "scale": torch.tensor(2.0)}, "scale"),
        ({"v": torch.ones(3, 16)}, r"v \(3, 16\)"),
        ({1: rows[1], "1.0": rows[2]}, "tensors"),
    ):
        torch.save(value, path)
        with pytest.raises(StitchLensError, match=says):
            open_vector(path, "nano-b", 2)


def test_vectors_of_others_are_opened(french: Vector, tmp_path: Path) -> None:
    save_gguf(french, NANO_B, tmp_path / "v.gguf")
    (tmp_path / "v.json").write_text(json.dumps(neuronpedia_vector(french, NANO_B, "French")))
    np.save(tmp_path / "v.npy", 3 * french.v.numpy()[None])
    save_vector(french, tmp_path / "v.safetensors")
    push = french.mean - french.base
    for ending, pushes in (("gguf", push), ("json", push), ("npy", 3.0)):
        path = tmp_path / f"v.{ending}"
        found = open_vector(path, "nano-b", LAYER) if ending == "npy" else open_vector(path)
        assert torch.allclose(found.v, french.v, atol=1e-5) and found.layer == LAYER
        assert found.makers["model"] == "nano-b"
        assert found.mean - found.base == pytest.approx(pushes, rel=1e-3)
    assert torch.equal(open_vector(tmp_path / "v.safetensors").v, french.v)
    with pytest.raises(StitchLensError, match="does not say its model and layer"):
        open_vector(tmp_path / "v.npy")
    with pytest.raises(StitchLensError, match="none before 5"):
        open_vector(tmp_path / "v.gguf", None, 5)
