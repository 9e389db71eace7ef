"""SAEs of others: a zip or folder of either layout opens to what was saved, and does as its layout
says."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import SAE
from safetensors.torch import save_file

from core.errors import StitchLensError
from core.saes.files import clean_sae
from core.saes.sae import hook_layer, load_sae, open_sae, read_sae, sae_hash
from core.workspace.store import Workspace

D, WIDTH, K = 6, 10, 3
KINDS: dict[str, dict[str, Any]] = {
    "standard": {},
    "topk": {"k": K, "rescale_acts_by_decoder_norm": False},
    "jumprelu": {},
    "gated": {},
}


def saelens(folder: Path, kind: str = "topk", **fields: Any) -> SAE:  # type: ignore[type-arg]
    """An SAE with random weights, as SAELens saves it."""
    about = {"hook_name": "blocks.2.hook_resid_pre", "model_name": "nano-a"}
    config = {
        "d_in": D,
        "d_sae": WIDTH,
        "dtype": "float32",
        "device": "cpu",
        "architecture": kind,
        "metadata": about,
    }
    sae = SAE.from_dict(config | KINDS[kind] | fields)
    g = torch.Generator().manual_seed(4)
    sae.load_state_dict(
        {k: torch.rand(v.shape, generator=g) - 0.3 for k, v in sae.state_dict().items()}
    )
    sae.save_model(folder)
    return sae


def sparsify(folder: Path, **fields: Any) -> dict[str, torch.Tensor]:
    """An SAE with random weights under the names and shapes in which sparsify saves them."""
    g = torch.Generator().manual_seed(5)
    shapes = {
        "encoder.weight": (WIDTH, D),
        "encoder.bias": (WIDTH,),
        "W_dec": (WIDTH, D),
        "b_dec": (D,),
    }
    weights = {k: torch.randn(shape, generator=g) for k, shape in shapes.items()}
    folder.mkdir(parents=True)
    save_file(weights, folder / "sae.safetensors")
    config = {
        "activation": "topk",
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": WIDTH,
        "k": K,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": D,
    }
    (folder / "cfg.json").write_text(json.dumps(config | fields))
    return weights


def packed(
    folder: Path, target: Path, under: str = "", compression: int = zipfile.ZIP_DEFLATED
) -> Path:
    with zipfile.ZipFile(target, "w", compression) as archive:
        for path in folder.iterdir():
            archive.write(path, under + path.name)
    return target


@pytest.mark.parametrize("under", ["", "mine/"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_zip_of_saelens_folder_opens_to_equal_weights(
    kind: str, under: str, tmp_path: Path
) -> None:
    sae = saelens(tmp_path / "mine", kind)
    (tmp_path / "mine" / "sparsity.safetensors").write_bytes(b"ignored")
    (tmp_path / "mine" / "optimizer.pkl").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    path = packed(tmp_path / "mine", tmp_path / "mine.zip", under)
    found = read_sae(path, D)
    assert sae_hash(found) == sae_hash(sae) == sae_hash(read_sae(tmp_path / "mine", D))
    assert all(torch.equal(v, sae.state_dict()[k]) for k, v in found.state_dict().items())
    assert hook_layer(found) == 2 and found.cfg.metadata.model_name == "nano-a"
    rows = torch.randn(20, D)
    assert torch.equal(found.encode(rows), sae.encode(rows))
    assert sae_hash(open_sae(str(path), Workspace("nano", tmp_path), D)) == sae_hash(sae)
    with pytest.raises(StitchLensError, match=f"width {D}"):
        read_sae(path, D + 1)


def as_sparsify_says(h: np.ndarray[Any, Any], w: dict[str, torch.Tensor]) -> tuple[Any, Any]:
    """(activations, reconstruction): the K largest of ReLU((h - b_dec) W_encᵀ + b_enc), times
    W_dec, plus b_dec."""
    at = {k: v.numpy().astype(np.float64) for k, v in w.items()}
    acts = np.maximum((h - at["b_dec"]) @ at["encoder.weight"].T + at["encoder.bias"], 0)
    acts[acts < np.sort(acts, axis=1)[:, [-K]]] = 0
    return acts, acts @ at["W_dec"] + at["b_dec"]


@pytest.mark.parametrize(
    "fields", [{}, {"normalize_decoder": False}, {"num_latents": 0, "expansion_factor": 2}]
)
def test_sparsifys_layout_does_what_sparsify_does(fields: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "layers.3"
    weights = sparsify(folder, **fields)
    if "expansion_factor" in fields:
        grown = {k: torch.cat([v, v[:2]]) if k != "b_dec" else v for k, v in weights.items()}
        weights = {k: v + 0.01 * torch.randn(v.shape) for k, v in grown.items()}
        save_file(weights, folder / "sae.safetensors")
    h = np.random.default_rng(0).normal(size=(50, D))
    acts, back = as_sparsify_says(h, weights)
    inside, bare = (
        packed(folder, tmp_path / "any.zip", "layers.3/"),
        packed(folder, tmp_path / "layers.3.zip"),
    )
    for path in (folder, inside, bare):
        sae = read_sae(path, D)
        rows = torch.from_numpy(h).float()
        assert np.allclose(sae.encode(rows).numpy(), acts, atol=1e-5)
        assert np.allclose(sae(rows).numpy(), back, atol=1e-5)
        assert hook_layer(sae) == 4, "after block 3 is before layer 4"
    assert not np.allclose(sae(torch.from_numpy(h + 1).float()).numpy(), back, atol=1e-2), (
        "else it proves nothing"
    )
    assert hook_layer(read_sae(packed(folder, tmp_path / "mine.zip"), D)) is None


def test_the_clean_folder_holds_what_was_written_here_alone(tmp_path: Path) -> None:
    sparsify(tmp_path / "layers.3")
    saelens(tmp_path / "mine")
    config = json.loads((tmp_path / "mine" / "cfg.json").read_text())
    config["metadata"] |= {"to_dict": "x", "self": 1, "__class__": "x", "a b": 1, "on": [1]}
    (tmp_path / "mine" / "cfg.json").write_text(json.dumps(config))
    for name in ("layers.3", "mine"):
        into = clean_sae(
            packed(tmp_path / name, tmp_path / f"{name}.zip"), tmp_path / "clean" / name
        )
        assert {p.name for p in into.iterdir()} == {"cfg.json", "sae_weights.safetensors"}
        sae = load_sae(into)
        assert sae.cfg.metadata.to_dict()["hook_name"], (
            "an attribute of SAELens' own is not taken over"
        )
    assert "on" not in sae.cfg.metadata


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"transcode": True}, "transcode"),
        ({"skip_connection": True}, "skip_connection"),
        ({"signed": True}, "signed"),
        ({"activation": "groupmax"}, "groupmax"),
        ({"k": WIDTH + 1}, "k 11"),
        ({"d_in": D + 1}, "W_dec of shape"),
    ],
)
def test_what_sparsify_saves_besides_is_said(
    fields: dict[str, Any], says: str, tmp_path: Path
) -> None:
    sparsify(tmp_path / "layers.3", **fields)
    with pytest.raises(StitchLensError, match=says):
        read_sae(tmp_path / "layers.3")


def test_another_place_than_the_residual_stream_is_said(tmp_path: Path) -> None:
    sparsify(tmp_path / "layers.3.mlp")
    with pytest.raises(StitchLensError, match=r"layers\.3\.mlp"):
        read_sae(tmp_path / "layers.3.mlp")


def changed_config(folder: Path, kind: str = "standard", **fields: Any) -> Path:
    """An SAE in SAELens' folder, with fields that are put into its config."""
    saelens(folder, kind)
    config = json.loads((folder / "cfg.json").read_text())
    more = fields.pop("metadata", {})
    config = config | fields | {"metadata": config["metadata"] | more}
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("kind", "fields", "says"),
    [
        ("standard", {"activation_fn": "tanh-relu"}, "activation_fn tanh-relu of a standard SAE"),
        ("standard", {"activation_fn_str": "topk"}, "activation_fn topk of a standard SAE"),
        (
            "topk",
            {"activation_fn": "topk", "activation_fn_kwargs": {"k": 3, "signed": True}},
            "signed True",
        ),
        ("standard", {"use_error_term": True}, "use_error_term"),
        ("standard", {"transcode": True}, "transcode"),
        ("standard", {"skip_connection": True}, "skip_connection"),
        (
            "standard",
            {"architecture": "matryoshka_batchtopk"},
            "matryoshka_batchtopk.*save_inference_model",
        ),
        ("standard", {"architecture": "temporal"}, "temporal.*use another SAE"),
        (
            "standard",
            {"normalize_activations": "covariance_whitening"},
            "covariance_whitening.*no whitening",
        ),
    ],
)
def test_what_would_make_another_function_of_it_is_refused(
    kind: str, fields: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(StitchLensError, match=says):
        read_sae(changed_config(tmp_path / "theirs", kind, **fields))


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"noise_scale": 0.5}, "noise_scale = 0.5"),
        ({"normalize_decoder": True}, "normalize_decoder = True"),
        ({"matryoshka_widths": [2, 4]}, "matryoshka_widths"),
        ({"new_trick": "x"}, "new_trick = x"),
        (
            {"metadata": {"model_from_pretrained_kwargs": {"center_writing_weights": True}}},
            "center_writing_weights",
        ),
        ({"metadata": {"prepend_bos": False}}, "without a first token"),
        ({"hook_layer": 7}, "hook_layer 7"),
        (
            {
                "l1_coefficient": 5,
                "dataset_path": "x/y",
                "context_size": 128,
                "lr": 1e-3,
                "wandb_project": "z",
                "dataset_trust_remote_code": True,
                "noise_scale": 0.0,
                "hook_layer": 2,
                "new_trick": None,
            },
            None,
        ),
    ],
)
def test_what_nothing_is_made_of_is_named(
    fields: dict[str, Any], note: str | None, tmp_path: Path
) -> None:
    said = read_sae(changed_config(tmp_path / "theirs", **fields)).cfg.metadata["notes"]
    assert (said is None) if note is None else note in said


@pytest.mark.parametrize("tensor", ["scaling_factor", "finetuning_scaling_factor"])
def test_a_finetuned_factor_is_multiplied_into_the_decoder(tensor: str, tmp_path: Path) -> None:
    """SAELens 5 decoded `(activations * factor) @ W_dec + b_dec`."""
    folder = tmp_path / "theirs"
    sae = saelens(folder, "standard")
    factor = torch.linspace(0.5, 2, WIDTH)
    save_file(dict(sae.state_dict()) | {tensor: factor}, folder / "sae_weights.safetensors")
    kept = (folder / "sae_weights.safetensors").read_bytes()
    with pytest.raises(StitchLensError, match=f"{tensor}.*does not apply"):
        read_sae(folder)
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | {"finetuning_scaling_factor": True}))
    rows = torch.randn(20, D)
    with torch.no_grad():
        wanted = (sae.encode(rows) * factor) @ sae.W_dec + sae.b_dec
        assert torch.allclose(read_sae(folder)(rows), wanted, atol=1e-5)
        assert not torch.allclose(sae(rows), wanted, atol=1e-2), "else it proves nothing"
    assert (folder / "sae_weights.safetensors").read_bytes() == kept, (
        "the file that was given stays as it is"
    )
    save_file(
        dict(sae.state_dict()) | {tensor: torch.ones(WIDTH)}, folder / "sae_weights.safetensors"
    )
    (folder / "cfg.json").write_text(json.dumps(config))
    assert sae_hash(read_sae(folder)) == sae_hash(sae)


def test_bytes_that_no_tensor_claims_are_a_sentence(tmp_path: Path) -> None:
    """safetensors refuses such a file only when it is opened, which a factor needs early."""
    folder = tmp_path / "theirs"
    weights = dict(saelens(folder, "standard").state_dict()) | {"scaling_factor": torch.ones(WIDTH)}
    save_file(weights, folder / "sae_weights.safetensors")
    whole = (folder / "sae_weights.safetensors").read_bytes()
    read_sae(folder)

    (folder / "sae_weights.safetensors").write_bytes(whole + b"\0" * 4)
    with pytest.raises(StitchLensError, match="not fully covered"):
        read_sae(folder)
