"""The whole chain on look-alikes of models that only the hub has: every command runs on each family,
each figure is finite, and what must be equal is equal."""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE
from safetensors.torch import save_file
from typer.testing import CliRunner

from core.bench import open_pair
from core.cli.main import app
from core.probes import measure as probe_measure
from core.probes import tables as probe_tables
from core.probes.methods import ProbeConfig
from core.probes.prober import Prober, default_names
from core.probes.tasks import corpus_datasets
from core.saes.sae import load_sae
from core.steering.files import open_vector
from core.stitches.stitch import load_stitch
from core.workspace.store import Workspace
from tests.helpers.alike import ACTIVE, FAMILIES, FEATURES, LAYERS, Alike, corpus, make

pytestmark = [pytest.mark.whole, pytest.mark.timeout(900)]

FIT = ("--positions", "6000", "--tokens", "500")
Made = Callable[[str], Alike]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where workspaces go; everything in float32."""
    root = tmp_path_factory.mktemp("workspaces")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STITCHLENS_WORKSPACES", str(root))
        patch.setenv("STITCHLENS_DTYPE", "float32")
        yield root


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    place = tmp_path_factory.mktemp("models")
    return cache(lambda family: make(family, place / family))


def call(*args: object) -> str:
    done = CliRunner().invoke(app, [str(arg) for arg in args])
    assert done.exit_code == 0, (args, done.output, done.exception)
    return done.stdout


def asked(*args: object) -> Any:
    return json.loads(call(*args, "--json"))


def endless(record: Any, path: str = "") -> list[str]:
    """Places of numbers that are not finite."""
    match record:
        case dict():
            return [x for key, value in record.items() for x in endless(value, f"{path}.{key}")]
        case list():
            return [x for k, value in enumerate(record) for x in endless(value, f"{path}.{k}")]
        case float() if not math.isfinite(record):
            return [path]
    return []


def test_a_number_that_is_not_finite_would_be_seen() -> None:
    record = {"a": [1.0, {"b": math.nan}], "c": None, "d": math.inf, "e": 2}
    assert endless(record) == [".a.1.b", ".d"]


def rows(d: int, n: int = 64) -> torch.Tensor:
    return 3 * torch.randn(n, d, generator=torch.Generator().manual_seed(1))


def probed(key: str) -> Any:
    """What `probes eval` measures, of one dataset and few probes."""
    bench = open_pair(key)
    config = ProbeConfig(ks=(1, 8), draws=2, resamples=100)
    prober = Prober(bench, *default_names(bench))
    name = probe_measure.evaluate(prober, config, corpus_datasets(bench.corpus))
    return probe_tables.record(bench.workspace, name)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_chain_runs(
    family: str, made: Made, home: Path, text: Path, tmp_path: Path
) -> None:
    alike, key = made(family), f"{family}-alike"
    layers = "-".join(map(str, LAYERS))
    seen = asked(
        "pair", "new", alike.a, alike.b, "--key", key, "--corpus", text, "--layers", layers
    )
    found = seen["found"]
    assert found["same_tokenizer"] and found["pair"]["family"] == "within-family"
    padded = {side: found[side]["vocabulary"] > found[side]["tokenizer"] for side in "ab"}
    assert padded == dict.fromkeys("ab", family in ("pythia", "qwen"))
    assert ("has no first token" in str(found["notes"])) == (family == "qwen")
    call("build", key, *FIT, "--select-tokens", "200", "--svcca-positions", "1000")
    stitch = "-".join(f"L{layer}" for layer in LAYERS)

    own = ("--width", FEATURES, "--k", ACTIVE, "--positions", "6000")
    call("features", "build", key, *(("--sae", alike.sae) if alike.sae else own))
    (sae,) = [name.removeprefix("features/") for name in Workspace(key).names(prefix="features/")]
    if alike.sae:
        card = asked("sae", "import", key, alike.sae, "--name", "theirs")
        assert (card["layer"], card["d_sae"]) == (LAYERS[0], FEATURES)
        assert 0 < card["l0"] < FEATURES / 2
        assert endless(card) == []

    call("sae", "transfer", key, "--sae", sae, "--out", tmp_path / "carried")
    carried = SAE.load_from_disk(tmp_path / "carried", device="cpu")
    original = load_sae(Workspace(key).path(f"saes/{sae}"))
    maps = load_stitch(Workspace(key).path(f"stitches/{stitch}"))
    h = rows(carried.cfg.d_in)
    with torch.inference_mode():
        composed = maps.up(original(maps.down(h)))
        torch.testing.assert_close(carried(h), composed, rtol=1e-3, atol=1e-3)
    quality = asked("sae", "eval", key, "--sae", sae, "--tokens", "300", "--positions", "1000")
    assert endless(quality) == []

    steered = ("--languages", "fr", "--prompts", "2", "--choosing", "1", "--tokens", "6")
    assert endless(asked("steer", "eval", key, *steered)) == []
    assert endless(probed(key)) == []

    call("export", "neuronpedia", key, sae, "--out", tmp_path / "neuronpedia")
    assert len(list((tmp_path / "neuronpedia").rglob("features/batch-*.jsonl.gz"))) == 2
    call("vector", "export", key, "--source", "lang:fr", "--out", tmp_path / "fr.gguf")
    vector = open_vector(tmp_path / "fr.gguf")
    assert vector.layer == LAYERS[1] and len(vector.v) == carried.cfg.d_in

    assert endless(asked("report", key)) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_models_are_stitched_by_the_identity(
    family: str, made: Made, home: Path, text: Path, tmp_path: Path
) -> None:
    alike, key, layer = made(family), f"{family}-twins", LAYERS[0]
    shutil.copytree(alike.a, tmp_path / "twin")
    call("pair", "new", alike.a, tmp_path / "twin", "--key", key, "--corpus", text)
    ws = Workspace(key)
    d = json.loads((home / key / "spec.json").read_text())["a"]["d_model"]

    place = ("--layer-a", layer, "--layer-b", layer)
    fitted = asked("stitch", "fit", key, *place, *FIT, "--name", "fitted")
    assert endless(fitted) == []
    losses = fitted["downstream"]
    assert losses["a"] == losses["b"]
    for condition in ("a_to_b", "b_to_a", "a_to_b_to_a", "b_to_a_to_b"):
        assert losses[condition] == pytest.approx(losses["a"], rel=1e-5)
    assert abs(losses["shuffled_a_to_b"] - losses["a"]) > 1e-3, "else any map would do"
    maps = load_stitch(ws.path("stitches/fitted"))
    for p in (maps.P_up, maps.P_down):
        torch.testing.assert_close(p, torch.eye(d), rtol=0, atol=1e-3)

    identity = {"P_up": torch.eye(d), "P_down": torch.eye(d)}
    identity |= {"b_up": torch.zeros(d), "b_down": torch.zeros(d)}
    save_file(identity, tmp_path / "identity.safetensors")
    card = asked("stitch", "import", key, tmp_path / "identity.safetensors", *place)
    assert endless(card) == []
    scored = {row["condition"]: row["loss"] for row in card["table_1"]}
    assert len({scored[c] for c in ("a", "b", "a_to_b", "b_to_a", "a_to_b_to_a")}) == 1

    if alike.sae is None:
        return
    call(
        "sae", "transfer", key, "--sae", alike.sae, "--stitch", "identity", "--out", tmp_path / "c"
    )
    carried = load_sae(tmp_path / "c")
    call("sae", "import", key, alike.sae, "--name", "theirs", "--stitch", "fitted")
    original = load_sae(ws.path("saes/theirs"))
    assert torch.equal(carried.W_enc, original.W_enc) and torch.equal(carried.W_dec, original.W_dec)
    h = rows(d)  # what an SAE takes off its rows at first is folded into its bias
    with torch.inference_mode():
        torch.testing.assert_close(carried.encode(h), original.encode(h), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(carried(h), original(h), rtol=1e-4, atol=1e-4)
