"""What a refusal advises helps: some forty are brought about, followed as they are written, and what
was refused works then."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from core.cli.main import app
from core.models.configuration import look
from core.models.live import Runtime, runtime
from core.models.loading import load
from core.models.pairs import NANO_A, ModelSpec, PairSpec, Source, get_pair
from core.models.prospect import check_key, prospect, register
from core.models.sources import locate
from core.models.training import diverged
from core.saes.card import opposite
from core.saes.sae import load_sae, open_sae, read_sae, sae_of
from core.stitches.files import read_contents
from core.stitches.recognition import recognise
from core.stitches.stitch import load_stitch
from core.stitches.transfer import transfer_sae
from core.text.corpus import ENOUGH, check_splits, load_corpus
from core.workspace import uploads
from core.workspace.artifacts import discard
from core.workspace.disk import only_one
from core.workspace.places import PROJECT
from core.workspace.store import Workspace
from tests.helpers import advice
from tests.helpers.advice import advised, call, refusal, refused
from tests.helpers.documents import parses
from tests.helpers.small import FLOAT32, metaspace, untrained


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shipped `nano` workspace as the only one there is."""
    shutil.copytree(PROJECT / "cache" / "nano", tmp_path / "home" / "nano")
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(tmp_path / "home"))
    return tmp_path / "home"


# the workspace


BROKEN = (
    "",
    "{",
    "[]",
    '{"pair": "nano"}',
    '{"schema_version": 1, "pair": "nano", "artifacts": 3}',
)


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_manifest_is_repaired(broken: str, home: Path) -> None:
    ws = Workspace("nano")
    names = ws.names()
    ws.put_record("notes", {"a": "change, so that there is a manifest before the last"}, {})
    ws.remove("notes")
    (home / "nano" / "manifest.json").write_text(broken)
    sentence = refusal("report", "nano", says="manifest")
    CliRunner().invoke(app, [*advised(sentence), "--no-build"])
    assert set(Workspace("nano").names()) >= set(names)
    call("report", "nano")


def test_a_changed_file_is_set_aside_and_made_again_as_said(home: Path) -> None:
    ws = Workspace("nano")
    path = ws.path("sae_training/L2-L3")
    path.write_bytes(path.read_bytes() + b"more")
    sentence = refused(lambda: ws.path("sae_training/L2-L3"), "the file was changed").todo
    done = CliRunner().invoke(app, [*advised(sentence), "--no-build"])
    assert Workspace("nano").verify() == {}
    again = advised(done.stderr)
    assert again[:3] == ["sae", "train", "nano"] and parses(again)


def test_a_workspace_under_another_name_goes_to_its_own(home: Path) -> None:
    (home / "nano").rename(home / "smollm2-gemma3")
    todo = refused(lambda: Workspace("smollm2-gemma3").manifest(), "a manifest of pair").todo
    (name,) = re.findall(r"'(.+)'", todo)
    (home / "smollm2-gemma3").rename(home / name)
    assert Workspace(name).manifest().pair == "nano"


def test_a_missing_stitch_lists_those_that_do(home: Path, tmp_path: Path) -> None:
    words = ("sae", "transfer", "nano", "--sae", "L2-1024", "--out", tmp_path / "out")
    sentence = refusal(*words, "--stitch", "L9-L9", says="no 'stitches/L9-L9'")
    first = re.findall(r"one of stitches/([\w-]+)", sentence)[0]
    call(*advised(sentence))
    call(*words, "--stitch", first)
    load_sae(tmp_path / "out")


def test_a_place_that_cannot_be_written_is_moved(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file stands where the folder should be: what holds for root as well."""
    (tmp_path / "file").write_text("")
    for variable, act in (
        ("STITCHLENS_WORKSPACES", lambda: Workspace("nano").put_record("notes", {}, {})),
        ("STITCHLENS_CACHE", lambda: only_one("nano", "test").__enter__()),
    ):
        monkeypatch.setenv(variable, str(tmp_path / "file" / "inside"))
        todo = refused(act, "Not a directory|a place that can be written").todo
        assert re.findall(advice.VARIABLE, todo) == [variable]
        shutil.copytree(home, tmp_path / variable)
        monkeypatch.setenv(variable, str(tmp_path / variable))
        act()


def test_what_was_made_here_is_removed_by_its_own_command(home: Path) -> None:
    ws = Workspace("nano")
    for kind, name in (("saes", "L2-1024"), ("stitches", "L2-L3")):
        todo = refused(lambda k=kind, n=name: uploads.remove(ws, k, n), "made here").todo  # type: ignore[misc]
        call(*advised(todo))
        assert f"{kind}/{name}" not in ws.names()
    assert "downstream/L2-L3" not in ws.names()
    assert not [name for name in ws.names() if name.startswith("features/")]
    assert "saes" in refused(lambda: discard(ws, "saes", "L2-1024"), "no 'saes").found


def test_what_was_brought_under_a_taken_name_takes_another(home: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "row.npy", np.ones(256, np.float32))
    words = ("vector", "import", "nano", tmp_path / "row.npy")
    refusal(*words, says="--side a.b and --layer L")
    words = (*words, "--side", "b", "--layer", "3")
    call(*words)
    refusal(*words, says="choose another name")
    call(*words, "--name", "other")
    call("vector", "remove", "nano", "other")
    assert [n for n in Workspace("nano").names() if n.startswith("vector")] == [
        "vector_cards/row",
        "vectors/row",
    ]


# pairs and their text


def test_a_broken_spec_is_named_and_the_pair_added_again(home: Path, tmp_path: Path) -> None:
    pair = PairSpec(
        key="mine", title="mine", a=NANO_A, b=get_pair("nano").b, family="within-family",
        corpus="wheel:eng",
    )  # fmt: skip
    register(pair)
    spec = home / "mine" / "spec.json"
    spec.write_text("{")
    sentence = refusal("report", "mine", says="a spec with a fault")
    assert str(spec) in sentence
    assert advised(CliRunner().invoke(app, ["doctor"]).output) == advised(sentence)
    refused(lambda: check_key("mine"), "a pair named 'mine'")
    spec.parent.rename(tmp_path / "away")
    words = advised(sentence)
    again = ["nano-a" if x == "A" else "nano-b" if x == "B" else x for x in words]
    assert parses(again) and again[-2:] == ["--key", "mine"]
    register(pair)
    assert get_pair("mine") == pair


def test_a_taken_key_and_an_unknown_pair_are_chosen_anew(home: Path) -> None:
    refused(lambda: check_key("nano"), "choose another")
    check_key("nano-too")
    assert "nano " in call(*advised(refusal("report", "nemo", says="no pair named")))


def test_a_small_corpus_is_refused_as_small_and_grows(tmp_path: Path, home: Path) -> None:
    path = tmp_path / "text.txt"
    whole = "\n\n".join(f"Of {name}:\n{topics[name]}" for name in sorted(topics))
    path.write_text(whole[:3000])
    act = lambda: prospect("nano-a", "nano-b", str(path), "small")  # noqa: E731
    e = refused(act, "none of them in the split select")
    assert f"{ENOUGH:,} characters" in e.todo
    for start in range(0, len(whole) - ENOUGH, 40_000):
        path.write_text(whole[start : start + ENOUGH])
        check_splits(load_corpus(str(path)))
    assert act().share_a == 1


def test_text_in_another_encoding_is_converted_as_said(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    text = topics["assert"]
    path.write_bytes(text.encode("utf-16le"))
    todo = refused(lambda: load_corpus(str(path)), "utf-16le").todo
    (command,) = advice.QUOTED.findall(todo)
    if shutil.which("iconv"):
        done = subprocess.run([*command.split(), str(path)], capture_output=True, check=True)
        path.write_bytes(done.stdout)
    else:
        path.write_text(path.read_bytes().decode(command.split()[2]), "utf-8")
    assert text.startswith(load_corpus(str(path)).documents[0].text[:200])


def test_a_csv_and_a_column_are_mended_as_said(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    text = "A sentence, with a comma, that is long enough to be read."
    path.write_text(f"text,label\n{text},x\n")
    assert "double quotes" in refused(lambda: load_corpus(str(path)), "cells under").todo
    path.write_text(f'text,label\n"{text}",x\n')
    assert [d.text for d in load_corpus(str(path)).documents] == [text]


# models


def test_a_device_and_a_precision_are_set_as_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in (("STITCHLENS_DTYPE", "float32"), ("STITCHLENS_DEVICE", "cpu")):
        monkeypatch.setenv(variable, "seven")
        e = refused(runtime, "seven")
        assert variable in e.todo and value in e.wanted
        monkeypatch.setenv(variable, value)
    assert runtime() == FLOAT32
    coarse = Runtime(torch.device("cpu"), torch.bfloat16)
    todos = [diverged(float("nan"), 3, where).todo for where in (coarse, FLOAT32)]
    assert re.findall(advice.VARIABLE, todos[0]) == ["STITCHLENS_DTYPE", "STITCHLENS_DEVICE"]
    assert parses(advised(todos[1]))


def test_a_model_is_saved_again_as_said(tmp_path: Path) -> None:
    """Its weights as safetensors, its tokenizer beside them, a row for every token."""
    tokenizer = metaspace()
    model = untrained("llama", len(tokenizer) - 7)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert "`save_pretrained`" in refused(lambda: look(str(tmp_path)), r"no \*\.safetensors").todo
    model.save_pretrained(tmp_path)
    look(str(tmp_path))

    source = Source(kind="folder", ref=str(tmp_path))
    spec = ModelSpec(key="tiny", title="tiny", n_layers=3, d_model=40, sources=(source,))
    todo = refused(lambda: load(spec, FLOAT32), "no tokenizer").todo
    assert "`save_pretrained`" in todo
    tokenizer.save_pretrained(tmp_path)
    todo = refused(lambda: load(spec, FLOAT32), "rows in its embedding").todo
    assert "`resize_token_embeddings`" in todo
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path)
    assert load(spec, FLOAT32).rows == len(tokenizer)


# stitches


def test_a_stitch_is_saved_again_as_said(tmp_path: Path) -> None:
    path, new_path = tmp_path / "stitch.pt", tmp_path / "new.safetensors"
    up, down = torch.nn.Linear(6, 8), torch.nn.Linear(8, 6)
    model = torch.nn.ModuleDict({"up": up, "down": down})
    torch.save(model, path)
    for _ in range(2):
        todo = refused(lambda: read_contents(path), "called|calls|old torch.save").todo
        (code,) = advice.QUOTED.findall(todo)
        import safetensors.torch

        names = {"safetensors": safetensors, "torch": torch, "model": model}
        exec(code, names | {"path": new_path if "model" in code else path, "new_path": new_path})
        foreign = recognise(read_contents(new_path).tensors, 6, 8)
        assert torch.equal(foreign.stitch.P_up, up.weight.T)
        new_path.unlink()
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)


def test_a_parametrisation_is_removed_as_said() -> None:
    layer = torch.nn.Linear(8, 6)
    torch.nn.utils.parametrizations.orthogonal(layer)
    weight = layer.weight.detach().clone()
    todo = refused(lambda: recognise(layer.state_dict(), 6, 8), "parametrisation").todo
    exec(advice.QUOTED.findall(todo)[0], {"torch": torch, "layer": layer})
    assert torch.allclose(recognise(layer.state_dict(), 6, 8).stitch.P_down, weight.T)


# SAEs


def sae_folder(folder: Path, **fields: Any) -> Path:
    """The workspace's own SAE as others would save it; `fields` change its config."""
    load_sae(Workspace("nano").path("saes/L2-1024")).save_model(folder)
    path = folder / "cfg.json"
    config = json.loads(path.read_text())
    config["metadata"] |= fields.pop("metadata", {})
    path.write_text(json.dumps(config | fields))
    return folder


def test_an_sae_that_does_not_say_its_layer_is_told_it(home: Path, tmp_path: Path) -> None:
    folder = sae_folder(tmp_path / "sae", metadata={"hook_name": None})
    words = ("sae", "transfer", "nano", "--sae", folder, "--stitch", "L2-L3")
    sentence = refusal(*words, "--out", tmp_path / "out", says="does not say its layer")
    (option,) = set(advice.OPTION.findall(sentence))
    call(*words, "--out", tmp_path / "out", option, "2")
    for command in ("features build nano --sae x", "sae import nano x", "sae eval nano --sae x"):
        assert parses([*command.split(), option, "2"]), "wherever that advice is given"

    says = sae_folder(tmp_path / "says")
    sentence = refusal(*words[:4], says, "--out", tmp_path / "2", "--layer", 1, says="leave out")
    sentence = refusal(*words[:3], "--sae", says, "--out", tmp_path / "out", says="another --out")
    call(*words[:3], "--sae", says, "--out", tmp_path / "2")
    sentence = refusal(
        *words[:3], "--sae", says, "--out", tmp_path / "3", "--stitch", "L3-L4", says="stitch from"
    )
    call(*words[:3], "--sae", says, "--out", tmp_path / "3", "--stitch", "L2-L3")


def test_an_sae_of_the_same_model_under_another_name_says_so(home: Path, tmp_path: Path) -> None:
    from core.bench import open_pair

    bench = open_pair("nano")
    folder = sae_folder(tmp_path / "sae", metadata={"model_name": "theirs"})
    todo = refused(lambda: sae_of(bench, str(folder)), "an SAE of theirs").todo
    value, field = re.findall(r"write (\S+) as its `(\w+)` in cfg.json", todo)[0]
    config = json.loads((folder / "cfg.json").read_text())
    config["metadata"] |= {field: value}
    (folder / "cfg.json").write_text(json.dumps(config))
    assert sae_of(bench, str(folder))[1] == 2
    todo = refused(lambda: open_sae("nothing", bench.workspace), "no SAE 'nothing'").todo
    assert parses(advised(todo))
    assert opposite(bench, 2) == 3 and 0 <= opposite(bench, 0) < bench.pair.b.n_layers


def test_an_sae_of_scaled_rows_takes_its_factor(home: Path, tmp_path: Path) -> None:
    fields = {"normalize_activations": "expected_average_only_in"}
    sae = read_sae(sae_folder(tmp_path / "sae", **fields))
    stitch = load_stitch(Workspace("nano").path("stitches/L2-L3"))
    todo = refused(lambda: transfer_sae(sae, stitch), "scaled to an average norm").todo
    assert "`scale`" in todo and "--scale" in todo
    assert transfer_sae(sae, stitch, scale=0.5).cfg.d_in == 256
    out = tmp_path / "out"
    call("sae", "transfer", "nano", "--sae", tmp_path / "sae", "--scale", 0.5, "--out", out)


# steering


def test_a_lane_a_strength_and_a_file_are_chosen_as_said(home: Path, tmp_path: Path) -> None:
    words = ("vector", "export", "nano", "--lane", "b:own", "--out")
    sentence = refusal(*words[:4], "b:none", "--out", tmp_path / "v.json", says="with a vector")
    lane = re.findall(r"such as (\S+?)\.\n", sentence)[0]
    call(*words[:4], lane, "--out", tmp_path / "v.json")
    sentence = refusal(*words, tmp_path / "v.txt", says="a name that ends with")
    ending = re.findall(r"ends with (\.\w+)", sentence)[0]
    call(*words, tmp_path / f"v{ending}")
    assert (tmp_path / "v.json").exists() and not (tmp_path / "v.txt").exists()


def test_text_on_both_sides_is_changed_as_said(home: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text("The same sentence.\n")
    source = f"concept:{tmp_path}/one.txt,{tmp_path}/two.txt"
    words = ("vector", "export", "nano", "--source", source, "--lane", "b:own", "--out")
    refusal(*words, tmp_path / "v.json", says="change one of them")
    (tmp_path / "two.txt").write_text("Another sentence.\n")
    call(*words, tmp_path / "v.json")


def test_a_model_that_is_not_here_goes_where_is_said(tmp_path: Path) -> None:
    place = tmp_path / "models" / "tiny"
    sources = (Source(kind="folder", ref=str(place)), Source(kind="wheel", ref="no_such_wheel"))
    spec = NANO_A.model_copy(update={"sources": sources})
    todo = refused(lambda: locate(spec), "no Nano A|no nano").todo
    assert "`make app`" in todo and "hub" not in todo
    (path,) = re.findall(r"folder at (\S+?),", todo)
    shutil.copytree(PROJECT / NANO_A.sources[0].ref, path)
    assert load(spec, FLOAT32).spec.n_layers == NANO_A.n_layers


def test_contexts_of_another_corpus_are_found_anew(home: Path, tmp_path: Path) -> None:
    from core.bench import Bench
    from core.steering.sources import Feature
    from core.steering.studio import Studio

    pair = get_pair("nano").model_copy(update={"corpus": str(tmp_path)})
    (tmp_path / "text.txt").write_text(topics["assert"])
    # with its levels at hand a feature steers without its contexts
    Workspace("nano").remove("feature_levels/L2-1024")
    studio = Studio(Bench(pair), "L2-L3")
    source = studio.directions(Feature("L2-1024", 3))
    todo = refused(lambda: source.own("a", 2), "does not hold").todo
    assert parses(advised(todo)) and "--sae L2-1024 --stitch L2-L3" in " ".join(advised(todo))


def test_a_damaged_file_is_made_again_at_the_layer_that_it_had(home: Path) -> None:
    """Stitches from another layer come first in the workspace."""
    ws = Workspace("nano")
    makers = ws.entry("saes/L2-1024").makers | {"layer_a": 3}
    ws.put_record("saes/L3-1024", {}, makers)
    ws.path("saes/L3-1024").write_text("changed")
    done = CliRunner().invoke(app, ["doctor", "--repair", "--no-build"])
    line = next(x for x in done.stderr.splitlines() if "saes/L3-1024" in x)
    assert parses(advised(line)) and "--stitch L3-L4" in " ".join(advised(line))
