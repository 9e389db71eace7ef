"""Specs are frozen and strict; the registry is consistent and its errors list what exists."""

import re

import pytest
from pydantic import ValidationError

from core.errors import StitchLensError
from core.models.pairs import PAIRS, LayerPair, ModelSpec, Source, get_pair, same_model
from core.models.prospect import prospect
from core.text.corpus import load_corpus
from core.workspace.places import named


def test_registry_is_consistent() -> None:
    for key, pair in PAIRS.items():
        assert key == pair.key
        assert get_pair(key) is pair
        for layers in pair.layer_pairs:
            pair.check_layers(layers.a, layers.b)
    models = [m for p in PAIRS.values() for m in (p.a, p.b)]
    by_key = {m.key: m for m in models}
    assert all(by_key[m.key] == m for m in models), "one key means one model"


def test_paper_rows_are_those_of_table_1() -> None:
    rows = {p.key: p.paper for p in PAIRS.values() if p.paper}
    assert len(rows) == 3
    for row in rows.values():
        assert row.b < row.a, "B is the better model"
        assert row.a <= row.a_to_b_to_a < row.b_to_a, "a round trip costs less than a crossing"
        assert row.b <= row.b_to_a_to_b < row.a_to_b


def test_unknown_pair_lists_those_that_exist() -> None:
    with pytest.raises(StitchLensError) as e:
        get_pair("smollm3-gemma9")
    assert "smollm3-gemma9" in str(e.value)
    assert all(key in str(e.value) for key in PAIRS)


@pytest.mark.parametrize(
    ("layer_a", "layer_b", "named"), [(30, 0, "30"), (-1, 0, "-1"), (0, 18, "18"), (0, -2, "-2")]
)
def test_layers_out_of_range(layer_a: int, layer_b: int, named: str) -> None:
    with pytest.raises(StitchLensError) as e:
        get_pair("smollm2-gemma3").check_layers(layer_a, layer_b)
    assert f"layer {named}" in str(e.value)
    assert ("0 to 29" if layer_b == 0 else "0 to 17") in str(e.value)


def test_layers_at_the_edges_are_fine() -> None:
    get_pair("smollm2-gemma3").check_layers(0, 0)
    get_pair("smollm2-gemma3").check_layers(29, 17)


def test_specs_are_frozen_and_strict() -> None:
    spec = get_pair("smollm2-gemma3").a
    with pytest.raises(ValidationError):
        spec.d_model = 1  # type: ignore[misc]
    source = Source(kind="hub", ref="a/b")
    good = {"key": "k", "title": "t", "n_layers": 2, "d_model": 4, "sources": (source,)}
    assert ModelSpec.model_validate(good).n_layers == 2
    for wrong in ({"d_modell": 4}, {"n_layers": 0}, {"d_model": 0}, {"sources": ()}):
        with pytest.raises(ValidationError):
            ModelSpec.model_validate(good | wrong)
    with pytest.raises(ValidationError):
        LayerPair(a=-1, b=0)


def test_errors_say_what_was_found_wanted_and_what_to_do() -> None:
    e = StitchLensError("a cat", "a dog", "get a dog")
    assert str(e) == "Found a cat; wanted a dog: get a dog."
    assert (e.found, e.wanted, e.todo) == ("a cat", "a dog", "get a dog")


@pytest.mark.parametrize("text", ["x" * 300, "a\0b", "~nobody-of-that-name/x"])
def test_what_can_be_no_path_is_said(text: str) -> None:
    with pytest.raises(StitchLensError, match="wanted a path"):
        named(text)
    for ask in (lambda: prospect(text, "nano-b"), lambda: load_corpus(text)):
        with pytest.raises(StitchLensError):
            ask()


def test_usual_names_are_those_of_transformer_lens() -> None:
    from transformer_lens.supported_models import MODEL_ALIASES

    families = re.compile(
        r"(.*/)?(distil)?(gpt2|pythia|opt|gpt-neo|gpt-neox|gpt-j|gemma|OLMo-7B|Mistral-7B|Llama-2).*"
    )
    checked = 0
    for official, aliases in MODEL_ALIASES.items():
        if not families.fullmatch(official):
            continue
        spec = ModelSpec(
            key="x", title="x", n_layers=1, d_model=1, sources=(Source(kind="hub", ref=official),)
        )
        others = [a for o, names in MODEL_ALIASES.items() if o != official for a in names]
        for alias in (*aliases, official, official.upper()):
            if not alias.startswith("meta-llama-2"):
                assert same_model(alias, spec), (alias, official)
                checked += 1
        assert not any(same_model(other, spec) for other in others), official
    assert checked > 150


def test_a_model_goes_by_its_usual_names() -> None:
    gpt2, pythia = PAIRS["gpt2-small-medium"].a, PAIRS["pythia-70m-160m"].a
    for name in ("gpt2", "gpt2-small", "openai-community/gpt2", "GPT2-small", " gpt2 "):
        assert same_model(name, gpt2), name
    for name in ("", " ", "gpt2-medium", "distilgpt2", "gpt", "models"):
        assert not same_model(name, gpt2), name
    assert same_model("EleutherAI/pythia-70m-deduped", pythia) and same_model(
        "pythia-19m-deduped", pythia
    )
    assert not same_model("pythia-70m", pythia) and not same_model("EleutherAI/pythia-70m", pythia)
    folder = (Source(kind="folder", ref="/models/gpt2-small"),)
    brought = gpt2.model_copy(
        update={"key": "gpt2-small", "title": "gpt2-small", "sources": folder}
    )
    assert same_model("gpt2", brought)
