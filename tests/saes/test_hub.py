"""An SAE in a repository of the hub opens from the hub's cache as its folder does."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from core.errors import StitchLensError
from core.saes.sae import hook_layer, open_sae, read_sae, sae_hash
from core.workspace.store import Workspace
from tests.helpers.alike import gemma_scope, on_hub, sparsify

D = 12


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of the hub's client, which asks no network in tests."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def rows() -> torch.Tensor:
    return torch.randn(200, D, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("repository", "layout", "place"),
    [
        ("EleutherAI/sae-pythia-70m-deduped-32k", "sparsify", "layers.2"),
        (
            "google/gemma-scope-2b-pt-res",
            "Gemma Scope",
            "layer_2/width_16k/average_l0_8",
        ),
    ],
)
def test_it_is_the_one_of_the_folder(
    repository: str, layout: str, place: str, hub: Path, tmp_path: Path
) -> None:
    """Its layer, too, though the cache's files are links to others without a name."""
    release = repository.split("/")[1]
    folder = (
        sparsify(tmp_path, rows(), 3, release)
        if layout == "sparsify"
        else gemma_scope(tmp_path, rows(), 3)
    )
    assert folder == tmp_path / release / place
    (tmp_path / release / "README.md").write_text("# Not fetched")
    on_hub(hub, repository, tmp_path / release)

    sae = open_sae(f"hub:{repository}/{place}", Workspace("nano", tmp_path), D)
    assert sae_hash(sae) == sae_hash(read_sae(folder, D))
    assert hook_layer(sae) == 3
    assert sae.cfg.metadata.layout == layout


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("hub:EleutherAI", "wanted hub:OWNER/NAME/FOLDER"),
        ("hub:EleutherAI/sae", "wanted hub:OWNER/NAME/FOLDER"),
        ("hub:EleutherAI/sae/../../x", "wanted hub:OWNER/NAME/FOLDER"),
        ("hub:EleutherAI/sae//x", "wanted hub:OWNER/NAME/FOLDER"),
        ("hub:EleutherAI/nothing/layers.2", "no SAE from EleutherAI/nothing on the hub"),
        ("hub:EleutherAI/there/layers.3", "no layers.3 with cfg.json"),
    ],
)
def test_what_the_hub_does_not_give_is_a_sentence(
    ref: str, says: str, hub: Path, tmp_path: Path
) -> None:
    sparsify(tmp_path, rows(), 3, "there")
    on_hub(hub, "EleutherAI/there", tmp_path / "there")
    with pytest.raises(StitchLensError, match=says) as e:
        open_sae(ref, Workspace("nano", tmp_path), D)
    assert "\n" not in str(e.value)
