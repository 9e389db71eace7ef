"""Every way by which an SAE comes in refuses the same bad ones, in the same words, and takes a good
one."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE
from typer.testing import CliRunner

from core.bench import Bench, open_pair
from core.cli.main import app
from core.errors import StitchLensError
from core.functional import measure as functional_measure
from core.models.pairs import NANO_A, PAIRS
from core.probes.prober import Prober
from core.saes import adopt as sae_adopt
from core.saes import card as sae_card
from core.saes.measure import SaeTraining
from core.saes.sae import sae_of
from core.saes.settings import TrainingSet
from core.stitches.stitch import load_stitch
from core.stitches.transfer import admit, transfer_sae
from core.workspace.places import PROJECT

SHIPPED, STITCH, LAYER = "L2-1024", "L2-L3", 2
Metadata = dict[str, Any]
BAD: dict[str, tuple[Metadata, str]] = {
    "another model": (
        {"model_name": "pythia-70m-deduped"},
        "an SAE of pythia-70m-deduped; wanted one of nano-a",
    ),
    "another layer": (
        {"hook_name": "blocks.1.hook_resid_pre"},
        "an SAE before layer 1; wanted layer 2",
    ),
    "the layer after": (
        {"hook_name": "blocks.2.hook_resid_post"},
        "an SAE before layer 3; wanted layer 2",
    ),
    "MLP": (
        {"hook_name": "blocks.2.hook_mlp_out"},
        "an SAE at blocks.2.hook_mlp_out; wanted one of",
    ),
    "heads": (
        {"hook_name": "blocks.2.attn.hook_z"},
        "an SAE at blocks.2.attn.hook_z; wanted one of",
    ),
    "attention": (
        {"hook_name": "blocks.2.hook_attn_out"},
        "an SAE at blocks.2.hook_attn_out; wanted one of",
    ),
    "one head": ({"hook_head_index": 3}, "of head 3; wanted one of the residual stream"),
    "transcoder": (
        {"hook_name_out": "blocks.2.hook_mlp_out"},
        "writes to blocks.2.hook_mlp_out, a transcoder",
    ),
    "after the last block": (
        {"hook_name": "blocks.3.hook_resid_post"},
        "layer 4 for nano-a; wanted 0 to 3",
    ),
    "width": ({"d_in": 64}, "an SAE for width 64; wanted 128"),
    "no layer": ({"hook_name": None}, "an SAE that does not say its layer"),
}


def theirs(folder: Path, **changed: Any) -> str:
    """A small SAE of nano-a before layer 2, as SAELens saves it, with some of its metadata
    changed."""
    about = {"model_name": "nano-a", "hook_name": f"blocks.{LAYER}.hook_resid_pre"}
    d_in = changed.pop("d_in", NANO_A.d_model)
    sae = SAE.from_dict(
        {"architecture": "standard", "d_in": d_in, "d_sae": 16, "metadata": about | changed}
    )
    generator = torch.Generator().manual_seed(0)
    sae.load_state_dict(
        {k: torch.randn(v.shape, generator=generator) for k, v in sae.state_dict().items()}
    )
    sae.save_model(folder)
    return str(folder)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The shipped workspace, to be spoilt; no model of it is opened here."""
    shutil.copytree(PROJECT / "cache" / "nano", tmp_path / "workspaces" / "nano")
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(tmp_path / "workspaces"))
    return open_pair("nano")


def command(*args: str) -> None:
    done = CliRunner().invoke(app, list(args))
    assert done.exit_code in (0, 2), done.output
    if done.exit_code == 2:
        raise StitchLensError(done.stderr, "", "")


def transferred(bench: Bench, ref: str) -> None:
    out = bench.workspace.root.parent.parent / f"{Path(ref).name}-out"
    command("sae", "transfer", "nano", "--sae", ref, "--stitch", STITCH, "--out", str(out))


BY_FILE: dict[str, Callable[[Bench, str], object]] = {
    "sae transfer": transferred,
    "sae eval": lambda bench, ref: command("sae", "eval", "nano", "--sae", ref, "--stitch", STITCH),
    "features build": lambda bench, ref: command(
        "features", "build", "nano", "--sae", ref, "--stitch", STITCH
    ),
    "adopt": lambda bench, ref: sae_adopt.adopt(bench, ref, stitched=LAYER),
    "sae_of": lambda bench, ref: sae_of(bench, ref, "a", stitched=LAYER),
}
SAID: dict[str, Callable[[Bench, str], object]] = {
    "sae import": lambda bench, ref: command("sae", "import", "nano", ref, "--layer", str(LAYER)),
    "import_sae": lambda bench, ref: sae_card.import_sae(bench, ref, LAYER),
}
"""Where the layer is said by a person, as by the form on a page, which starts this very command."""
BY_NAME: dict[str, Callable[[Bench], object]] = {
    "sae train": lambda bench: SaeTraining(bench, SHIPPED, STITCH, TrainingSet()),
    "probes eval": lambda bench: Prober(bench, SHIPPED, STITCH),
    "functional scan": lambda bench: functional_measure.scan(bench, SHIPPED),
    "features build": lambda bench: sae_adopt.adopt(bench, SHIPPED, stitched=LAYER),
    "sae train, command": lambda bench: command("sae", "train", "nano"),
    "probes eval, command": lambda bench: command("probes", "eval", "nano"),
    "functional scan, command": lambda bench: command("functional", "scan", "nano"),
    "sae transfer": lambda bench: transferred(bench, SHIPPED),
}


@pytest.mark.parametrize("fault", BAD)
@pytest.mark.parametrize("entry", [*BY_FILE, *SAID])
def test_a_bad_file_is_refused_by_every_entry(
    entry: str, fault: str, bench: Bench, tmp_path: Path
) -> None:
    changed, says = BAD[fault]
    ref = theirs(tmp_path / "theirs", **changed)
    before = bench.workspace.names()
    if entry in SAID and fault == "no layer":
        return  # there it is said
    with pytest.raises(StitchLensError, match=says):
        (BY_FILE | SAID)[entry](bench, ref)
    assert bench.workspace.names() == before and not (tmp_path / "theirs-out").exists(), (
        "nothing is left of it"
    )
    assert "a" not in vars(bench) and "b" not in vars(bench), "no model was opened for it"


@pytest.mark.parametrize("fault", [fault for fault in BAD if fault not in ("no layer", "width")])
@pytest.mark.parametrize("entry", BY_NAME)
def test_a_bad_sae_of_the_workspace_is_refused_by_every_entry(
    entry: str, fault: str, bench: Bench, tmp_path: Path
) -> None:
    changed, says = BAD[fault]
    ws, name = bench.workspace, f"saes/{SHIPPED}"
    shutil.copytree(ws.path(name), tmp_path / "spoilt")
    path = tmp_path / "spoilt" / "cfg.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"metadata": config["metadata"] | changed}))
    spoil = partial(shutil.copytree, path.parent, dirs_exist_ok=True)
    ws.put_folder(name, spoil, "sae", ws.entry(name).makers)
    with pytest.raises(StitchLensError, match=says):
        BY_NAME[entry](bench)


@pytest.mark.parametrize("hook", ["blocks.2.hook_resid_pre", "blocks.1.hook_resid_post"])
def test_after_a_block_is_before_the_next(hook: str, bench: Bench, tmp_path: Path) -> None:
    ref = theirs(tmp_path / "theirs", hook_name=hook)
    sae, at = sae_of(bench, ref, "a", stitched=LAYER)
    assert at == admit(sae, NANO_A) == admit(sae, NANO_A, LAYER) == LAYER
    transferred(bench, ref)
    moved = SAE.load_from_disk(tmp_path / "theirs-out")
    stitch = load_stitch(bench.workspace.path(f"stitches/{STITCH}"))
    x = torch.randn(20, 256, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(moved(x), stitch.up(sae(stitch.down(x))), rtol=1e-3, atol=1e-3)


def test_a_layer_that_the_sae_does_not_say_is_taken_from_the_option(
    bench: Bench, tmp_path: Path
) -> None:
    ref = theirs(tmp_path / "theirs", hook_name=None)
    command(
        "sae",
        "transfer",
        "nano",
        "--sae",
        ref,
        "--stitch",
        STITCH,
        "--layer",
        "2",
        "--out",
        f"{ref}-out",
    )
    assert (tmp_path / "theirs-out" / "cfg.json").exists()
    for layer, says in (
        ("3", "before layer 3; wanted layer 2, the stitch's"),
        ("9", "wanted 0 to 3"),
    ):
        with pytest.raises(StitchLensError, match=says):
            command(
                "sae",
                "transfer",
                "nano",
                "--sae",
                ref,
                "--stitch",
                STITCH,
                "--layer",
                layer,
                "--out",
                f"{ref}-2",
            )


def test_an_sae_and_a_stitch_of_other_layers_are_not_joined(bench: Bench, tmp_path: Path) -> None:
    """Also by hand, without a command: the weights fit, and would give plausible numbers."""
    sae, _ = sae_of(bench, SHIPPED)
    other = load_stitch(bench.workspace.path("stitches/L3-L4"))
    with pytest.raises(StitchLensError, match="before layer 2; wanted layer 3"):
        transfer_sae(sae, other)
    with pytest.raises(StitchLensError, match="before layer 2; wanted layer 3"):
        command(
            "sae",
            "transfer",
            "nano",
            "--sae",
            SHIPPED,
            "--stitch",
            "L3-L4",
            "--out",
            str(tmp_path / "out"),
        )
    sae.cfg.metadata.model_name = "gpt2"
    with pytest.raises(StitchLensError, match="an SAE of gpt2"):
        transfer_sae(sae, load_stitch(bench.workspace.path(f"stitches/{STITCH}")))


def test_the_advice_on_another_name_works(bench: Bench, tmp_path: Path) -> None:
    """Of a config before SAELens 6, flat, and of one since."""
    about = {"model_name": "mine", "hook_name": "blocks.2.hook_resid_pre"}
    for number, flat in enumerate((True, False)):
        ref = theirs(tmp_path / f"theirs{number}")
        path = Path(ref) / "cfg.json"
        config = {
            "architecture": "standard",
            "d_in": 128,
            "d_sae": 16,
            "dtype": "float32",
            "device": "cpu",
        }
        newer = json.loads(path.read_text())
        path.write_text(
            json.dumps(config | about if flat else newer | {"metadata": newer["metadata"] | about})
        )
        with pytest.raises(StitchLensError, match="write nano-a as its `model_name`"):
            transferred(bench, ref)
        path.write_text(path.read_text().replace('"mine"', '"nano-a"'))
        transferred(bench, ref)


def test_gpt2_goes_by_its_usual_name(tmp_path: Path) -> None:
    spec = PAIRS["gpt2-small-medium"].a
    sae = SAE.load_from_disk(theirs(tmp_path / "theirs", d_in=768, model_name="gpt2-small"))
    assert admit(sae, spec) == LAYER
    sae.cfg.metadata.model_name = "gpt2-medium"
    with pytest.raises(StitchLensError, match="an SAE of gpt2-medium; wanted one of gpt2"):
        admit(sae, spec)
