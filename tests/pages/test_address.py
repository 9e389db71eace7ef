"""A link shows what its sender saw, and what it asks for that is not there is answered."""

import ast
import shutil
from pathlib import Path

import pytest

from core.text.corpus import load_corpus
from core.workspace.places import PROJECT
from core.workspace.store import Workspace
from tests.helpers.app import opened, text
from tests.helpers.planted import PAIR, plant_features

STRANGE = [
    (
        "stitches",
        {
            "stitch": "no*such",
            "layer_a": "77",
            "layer_b": "-1",
            "sweep-unit": "Miles",
        },
        [
            "No stitch named no*such here; showing L2-L3",
            "No layer a 77 here, they run from 0 to 3",
            "No layer b -1 here",
            "No unit of the sweep Miles here, there are Loss, Above unpatched; showing Loss",
        ],
    ),
    (
        "features",
        {
            "sae": "L9-9",
            "feature": "5000",
            "view": "Nope",
            "structural": "7",
            "sentences": "2.5",
            "tab": "Everywhere",
            "ask": "Shout",
            "class": "first",
            "alike": "low",
            "brush": "high",
            "marked": "1~x",
        },
        [
            "No SAE L9-9 here; there is L2-1024",
            "No feature 5000 here, they run from 0 to 1023",
            "No comparison Nope here, there are Same text, Contexts of each, Your own text",
            "No consistency 7 here, it is a number from 0 to 1; showing 0.5",
            "No number of sentences 2.5 here, they run from 1 to 30; showing 3",
            "No tab Everywhere here, there are List, Map, Histograms, Table, My lists",
            "No way to ask Shout here, there are Word, Sentence, Direction",
            "No class first here, there are all, semantic, structural, unseen",
            "No alike low here, it is two correlations",
            "No brush high here, it is two correlations",
            "No marked 1~x here, they are numbers of features below 1024",
        ],
    ),
    (
        "features",
        {
            "tab": "Map",
            "map-colour": "Red",
            "map-drag": "Throw",
            "view": "Contexts of each",
            "group-a": "Loud",
            "group-b": "Quiet",
            "ask": "Sentence",
            "where": "c",
        },
        [
            "No colour Red here, there are Class, Correlation, Density in A",
            "No way to pick Throw here",
            "No contexts of nano-a Loud here",
            "No contexts of nano-b Quiet here",
            "No moved in c here, there are both, a, b",
        ],
    ),
    (
        "features",
        {"ask": "Direction", "near": "Klingon"},
        ["No direction Klingon here"],
    ),
    (
        "functional",
        {
            "sae": "L9-9",
            "share": "50",
            "feature": "-3",
            "side": "c",
            "layer": "77",
            "head": "9",
            "sink_of": "L9-L9",
            "last": "b-L77",
        },
        [
            "No SAE L9-9 here",
            "No sink of a stitch L9-L9 here",
            "No last layer b-L77 here",
            "No share of the null space 50 here",
            "No feature -3 here",
            "No side c here, they are a and b",
            "No layer 77 here",
            "No head 9 here, they run from 0 to 1",
        ],
    ),
    (
        "steering",
        {
            "lanes": "C own vector",
            "source": "Nope",
            "lang": "Klingon",
            "strength": "nan",
            "through": "L0-L0",
            "operator": "shout",
            "on_prompt": "perhaps",
            "first_a": "99",
            "last_a": "99",
            "first_b": "99",
            "last_b": "x",
            "tokens": "0",
            "temperature": "9",
            "top_p": "2",
            "repetition": "inf",
            "seed": "-1",
            "tab": "Nowhere",
            "run": "aaaaaaaa",
            "prompt": "x" * 20_001,
        },
        [
            "No lane C own vector here; there are B no vector",
            "No source of vectors Nope here",
            "No language Klingon here",
            "No strength nan here, it is a number from -5 to 5; showing 1",
            "No stitch L0-L0 here",
            "No operator shout here",
            "No way with the prompt perhaps here, there are true, false; showing true",
            "No first layer of nano-a 99 here",
            "No last layer of nano-a 99 here",
            "No first layer of nano-b 99 here",
            "No last layer of nano-b x here",
            "No tokens 0 here, they run from 1 to 400; showing 60",
            "No temperature 9 here",
            "No top p 2 here",
            "No repetition penalty inf here",
            "No seed -1 here",
            "No tab Nowhere here, there are Live, Evaluation",
            "no run aaaaaaaa in workspace",
            "The prompt of this link is cut after 20,000 of 20,001 characters",
        ],
    ),
    (
        "steering",
        {"way": "C steered", "against": "time", "cell_language": "Klingon", "cell_kind": "loud"},
        [
            "No way C steered here, there are B steered, A steered",
            "No measure to draw the gap against time here",
            "No language Klingon here",
            "No kind of vector loud here",
        ],
    ),
    (
        "steering",
        {"source": "Feature", "steer_sae": "L9-9", "steer_feature": "5000"},
        ["No SAE L9-9 here", "No feature 5000 here"],
    ),
    (
        "steering",
        {"source": "Texts", "plus": "x" * 5001, "minus": "y" * 5001},
        ["The more of this of this link is cut", "The less of this of this link is cut"],
    ),
    (
        "probes",
        {"probes": "L9", "task": "Nope", "k": "11", "own-from": "A dream"},
        [
            "No probes L9 here",
            "No task Nope here",
            "No number of features 11 here",
            "No source of labels A dream here",
        ],
    ),
    ("probes", {"task": "Language: French", "shown-k": "11"}, ["No number of features 11 here"]),
    (
        "training",
        {"set": "mine", "fitter": "hand", "width": "7", "auxiliary": "both", "starts": "L9"},
        [
            "No runs mine here",
            "No study of starts L9 here",
            "No fitter hand here",
            "No width 7 here",
            "No auxiliary loss both here",
        ],
    ),
    ("pair", {"ref_a": "x" * 401}, ["is cut after 400 of 401 characters"]),
    (
        "crossing",
        {
            "direction": "up",
            "across": "L0-L0",
            "control": "none",
            "tint": "red",
            "lens": "perhaps",
        },
        [
            "No direction up here, there are a_to_b",
            "No stitch L0-L0 here",
            "No control none here",
            "No tint red here, there are loss, kl; showing loss",
            "No lens perhaps here",
        ],
    ),
]
LINKS = [
    ("stitches", {"stitch": "L3-L4", "layer_a": "1", "sweep-unit": "Above unpatched"}),
    (
        "features",
        {
            "feature": "7",
            "view": "Your own text",
            "structural": "0.8",
            "sentences": "1",
            "tab": "Map",
            "map-colour": "Density in A",
            "map-drag": "Lasso",
            "brush": "0.2~0.5",
            "alike": "0.1~0.9",
            "class": "semantic",
            "marked": "3~7~9",
        },
    ),
    (
        "features",
        {"feature": "7", "view": "Contexts of each", "group-a": "Weak", "group-b": "Lower"},
    ),
    ("features", {"q": "French", "feature": "7"}),
    ("features", {"tab": "List", "sentences": "1"}),
    ("steering", {"tab": "Live", "prompt": "Once", "cell_kind": "own vector"}),
    ("features", {"ask": "Sentence", "where": "b"}),
    ("features", {"ask": "Direction", "near": "French", "tab": "Table"}),
    (
        "functional",
        {
            "feature": "171",
            "side": "b",
            "layer": "5",
            "head": "1",
            "share": "5",
            "last": "b-L5",
        },
    ),
    (
        "steering",
        {
            "lanes": ["A own vector", "B shuffled stitch"],
            "lang": "French",
            "strength": "-1.5",
            "through": "L3-L4",
            "operator": "add",
            "on_prompt": "false",
            "first_b": "2",
            "last_b": "5",
            "tokens": "5",
            "temperature": "0.7",
            "seed": "3",
            "prompt": "Once",
        },
    ),
    (
        "steering",
        {
            "tab": "Evaluation",
            "prompt": "Once",
            "way": "A steered",
            "against": "Loss of real text",
            "cell_language": "French",
            "cell_kind": "own vector",
        },
    ),
    ("steering", {"source": "Feature", "steer_feature": "12"}),
    ("steering", {"source": "Texts", "plus": "good", "minus": "bad"}),
    ("probes", {"k": "1"}),
    ("probes", {"task": "Language: French", "shown-k": "1", "own-from": "A CSV"}),
    ("training", {"fitter": "adam", "width": "1024", "auxiliary": "with"}),
    ("pair", {"ref_a": "nano-a", "ref_b": "nano-b"}),
    (
        "crossing",
        {
            "direction": "b_to_a",
            "across": "L3-L4",
            "control": "random",
            "tint": "kl",
            "lens": "true",
            "passage": "One day",
        },
    ),
]
NOT_LINKED = {
    "condition",
    "follows",
    "hear",
    "instruction",
    "list",
    "passage",
    "q",
    "run",
    "sweep-metric",
    "text",
    "toward",
    "vector",
    "warmth",
}
"""Of what is not in this workspace, instructions (see test_instructions.py), a list, a run that home shows, a second metric of the sweep, a
vector that somebody brought; of what waits for models; and of texts that may be any."""


def keys() -> set[str]:
    """Every key that a page keeps in the address."""
    names = set[str]()
    for path in (PROJECT / "pages").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            function = ast.unparse(call.func)
            named = (
                [k.value for k in call.keywords if k.arg == "key"] if function == "bound" else []
            )
            if function in ("address.settle", "address.choices"):
                named = call.args[:1]
            names |= {str(name.value) for name in named if isinstance(name, ast.Constant)}
    return names


def test_every_key_of_the_address_is_tested() -> None:
    strange = {key for _, query, _ in STRANGE for key in query}
    linked = {key for _, query in LINKS for key in query}
    assert {"view", "lanes", "width"} <= keys()
    assert keys() - NOT_LINKED <= strange
    # There is one to choose from here.
    single = {"sae", "set", "starts", "probes", "steer_sae", "sink_of"}
    assert keys() - NOT_LINKED - single <= linked


@pytest.mark.parametrize(("page", "query", "answers"), STRANGE)
def test_what_a_link_asks_for_that_is_not_there_is_answered(
    nano_home: Path, page: str, query: dict[str, str], answers: list[str]
) -> None:
    app = opened(page, pair="nano", **query)
    assert not app.exception
    sentences = [warning.value.replace("\\", "") for warning in app.warning]
    for answer in answers:
        assert any(answer in sentence for sentence in sentences), (answer, sentences)
    assert not opened(page, pair="nano").warning, "else these prove nothing"


@pytest.mark.parametrize(("page", "query"), LINKS)
def test_a_link_shows_what_its_sender_saw(
    nano_home: Path, page: str, query: dict[str, str]
) -> None:
    app = opened(page, pair="nano", **query)
    assert not app.exception and not app.warning
    first = text(app)
    assert {key: app.query_params[key] for key in query} == query, "it can be sent on"

    app.run()
    assert not app.exception and text(app) == first
    assert {key: app.query_params[key] for key in query} == query


def test_a_workspace_named_twice_does_no_harm(nano_home: Path) -> None:
    app = opened("features", pair=["nano", "nano"], feature=["3", "7"])
    assert not app.exception and not app.warning and not app.error
    assert [header.value for header in app.header] == ["Feature 7"], "the last one counts"
    app.run()
    assert not app.exception and [header.value for header in app.header] == ["Feature 7"]


def test_selections_on_the_figures_list_the_same_features_for_who_opens_the_link(
    ws: Workspace,
) -> None:
    plant_features(ws, list(load_corpus().documents))
    app = opened("features", marked="3~7~9", tab="Table")
    assert not app.exception and app.dataframe[0].value.feature.to_list() == [3, 7, 9]
    assert "3 of 12 features" in text(app)
    assert len(opened("features", marked="3~7~9").radio(key="rows").options) == 3

    correlation = (
        opened("features", tab="Table").dataframe[0].value.set_index("feature").correlation
    )
    app = opened("features", brush="0~1", tab="Table")
    listed = app.dataframe[0].value
    assert len(listed) and listed.correlation.between(0, 1).all()
    assert len(listed) < len(correlation)

    next(button for button in app.button if button.label == "All features").click().run()
    assert len(app.dataframe[0].value) == 12 and "brush" not in app.query_params


def test_what_was_chosen_of_another_workspace_is_forgotten_without_a_word(ws: Workspace) -> None:
    shutil.copytree(PROJECT / "cache" / "nano", ws.root.parent / "nano")
    query = {"tab": "Histograms", "structural": "0.8", "view": "Contexts of each"}
    app = opened("features", pair="nano", **query, **{"group-a": "Weak"})
    assert app.slider(key="structural").value == 0.8
    plant_features(ws, list(load_corpus().documents))
    app.session_state["pair"] = PAIR
    app.run()
    assert not app.exception and not app.warning
    assert app.slider(key="structural").value == 0.8, "it means the same there"
