"""What is said of two models before anything runs is what the models turn out to be; what cannot be
used is named."""

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import zeros

from core.bench import open_pair
from core.errors import StitchLensError
from core.models import configuration
from core.models import prospect as looking
from core.models.configuration import look
from core.models.estimate import estimate
from core.models.loading import load_shared
from core.models.pairs import (
    NANO_A,
    NANO_B,
    PAIRS,
    LayerPair,
    get_pair,
    known_pairs,
    pairs_with_workspace,
)
from core.models.prospect import prospect, register
from core.stitches.measure import describe_pair
from core.text.corpus import load_corpus
from core.workspace.places import PROJECT, SPEC
from core.workspace.store import Workspace

MODELS = PROJECT / "cache" / "models"
TEXT = "wheel:eng"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(tmp_path / "workspaces"))
    return tmp_path / "workspaces"


@pytest.fixture(scope="module")
def found() -> looking.Prospect:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STITCHLENS_WORKSPACES", "/nowhere")
        return prospect(str(MODELS / "nano-a"), "nano-b", TEXT, "mine")


def test_what_was_found_is_what_the_models_are(found: looking.Prospect) -> None:
    for one, known in ((found.a, NANO_A), (found.b, NANO_B)):
        live = load_shared(known)  # type: ignore[arg-type]
        assert (one.spec.n_layers, one.spec.d_model) == (known.n_layers, known.d_model)
        assert one.parameters == sum(p.numel() for p in live.plain.parameters()) and one.here
        assert (
            one.vocabulary == live.rows == one.tokenizer == len(live.tokenizer)
            and one.architecture == "gpt_neox"
        )
        some = [d.text for d in load_corpus(TEXT).split("select")[:40]]
        rate = sum(int(e.usable.sum()) for e in live.encode(some)) / sum(map(len, some))
        assert one.tokens_per_character == pytest.approx(rate, rel=0.1)
    assert (
        found.same_tokenizer
        and found.share_a == found.share_b == 1
        and found.pair.family == "within-family"
    )
    assert found.pair.key == "mine" and found.pair.layer_pairs == () and not found.notes


def test_a_usual_name_finds_the_registered_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(configuration, "locate", lambda spec: tmp_path)
    assert look("gpt2-small") == (PAIRS["gpt2-small-medium"].a, tmp_path)
    assert look("pythia-19m-deduped") == (PAIRS["pythia-70m-160m"].a, tmp_path)


def test_a_pair_that_was_added_is_one_of_ours(found: looking.Prospect, home: Path) -> None:
    register(found.pair)
    assert get_pair("mine") == found.pair and list(known_pairs()) == [*PAIRS, "mine"]
    assert pairs_with_workspace() == ["mine"], "listed before anything is built"
    with pytest.raises(StitchLensError, match="a pair named 'mine'"):
        register(found.pair)
    bench = open_pair("mine")
    describe_pair(bench)
    assert Workspace("mine").record("pair")["a"]["model"] == "nano-a"


def test_layers_notes_and_other_tokenizers(tmp_path: Path) -> None:
    with pytest.raises(StitchLensError, match="layer 9 for nano-b; wanted 0 to 5"):
        prospect("nano-a", "nano-b", TEXT, "x", (LayerPair(a=1, b=9),))
    other = tmp_path / "other"
    other.mkdir()
    for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (other / file).write_bytes((MODELS / "nano-b" / file).read_bytes())
    raw = json.loads((other / "tokenizer.json").read_text("utf-8"))
    raw["model"]["merges"] = raw["model"]["merges"][:600]
    kept = {"".join(m if isinstance(m, list) else m.split()) for m in raw["model"]["merges"]}
    raw["model"]["vocab"] = {
        k: v for k, v in raw["model"]["vocab"].items() if len(k) == 1 or k in kept or "<" in k
    }
    (other / "tokenizer.json").write_text(json.dumps(raw), "utf-8")
    found = prospect(str(other), "nano-b", TEXT)
    assert not found.same_tokenizer and 0.2 < found.share_a < 1 and found.share_b > found.share_a
    assert found.pair.family == "cross-family" and found.pair.key == "other-nano-b"
    assert any("tokenizers differ" in n for n in found.notes) and any(
        "equally wide" in n for n in found.notes
    )
    assert any("wider" in n for n in prospect("nano-b", "nano-a", TEXT, "y").notes)


def test_the_estimate_grows_with_the_work(found: looking.Prospect) -> None:
    few, many = estimate(found, 4_000), estimate(found, 400_000)
    assert many.steps["reading the text"] > 5 * few.steps["reading the text"]
    assert (
        few.seconds == pytest.approx(sum(few.steps.values()))
        and few.memory > 1e9
        and few.download == 0
    )
    wide = found.model_copy(update={"a": found.a.model_copy(update={"parameters": 10**9})})
    assert estimate(wide).memory - estimate(found).memory > 1.9e9


def folder(tmp_path: Path, config: str | dict[str, object], weights: bool = True) -> str:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if weights:
        save_file({"x": zeros(2)}, tmp_path / "model.safetensors")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("config", "weights", "says"),
    [
        ("{", True, "unreadable config.json"),
        ("[1]", True, "unreadable config.json"),
        ("[" * 100_000, True, "unreadable config.json"),
        (" " * 2_000_000, True, "over 1,000,000 bytes"),
        ({"model_type": "gpt2", "auto_map": {"AutoModel": "evil.py"}}, True, "code of its own"),
        ({"model_type": "gpt2"}, False, "weights in safetensors"),
        ({"model_type": "no-such-type"}, True, "no model"),
        ({"model_type": "t5"}, True, "a decoder-only language model"),
    ],
)
def test_what_cannot_be_used_is_named(
    tmp_path: Path, config: str, weights: bool, says: str
) -> None:
    with pytest.raises(StitchLensError, match=says):
        look(folder(tmp_path / "m", config, weights))


def test_places_and_keys_that_are_none(tmp_path: Path, found: looking.Prospect) -> None:
    for ref in ("/no/where", "../x", "", "a b", "x/y/z", "~/none"):
        with pytest.raises(StitchLensError, match="a model's folder, a hub id"):
            look(ref)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StitchLensError, match=r"no config\.json"):
        look(str(tmp_path / "empty"))
    with pytest.raises(StitchLensError, match="nano-a twice"):
        prospect("nano-a", "nano-a", TEXT)
    for key in ("nano", "Big", "../x", "", "x" * 65):
        with pytest.raises(StitchLensError, match="choose another"):
            register(found.pair.model_copy(update={"key": key}))


@pytest.mark.parametrize("bad", ["{", "[]", '{"key": "mine"}', "x" * 200_000, None])
def test_a_broken_spec_is_named_and_passed_over(
    found: looking.Prospect, home: Path, bad: str | None
) -> None:
    path = register(found.pair)
    path.write_text(
        bad if bad is not None else found.pair.model_copy(update={"key": "nano"}).model_dump_json()
    )
    assert list(known_pairs()) == list(PAIRS)
    with pytest.raises(StitchLensError, match=f"mend .*{SPEC}"):
        get_pair("mine")
    for key in ("../mine", "nobody", "MINE"):
        with pytest.raises(StitchLensError, match="no pair named"):
            get_pair(key)
    assert path.name == SPEC and path.exists()
