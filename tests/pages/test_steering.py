"""Steering: lanes, presets, sources and what is wrong with them."""

import shutil
from html import escape
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core.steering import tables as steering_tables
from core.stitches import tables as stitch_tables
from core.text.corpus import load_corpus
from core.workspace import store
from core.workspace.places import PROJECT
from core.workspace.store import Workspace
from pages.shared import studios
from tests.helpers.app import opened, pressed, text
from tests.helpers.planted import MAKERS, plant_features
from tests.helpers.searched import searched


def lanes(app: AppTest) -> dict[str, str]:
    """What each lane of the last run wrote."""
    return {lane["lane"]: lane["text"] for lane in app.session_state["runs"][-1]["lanes"]}


def html(app: AppTest) -> str:
    """All that the page draws as HTML."""
    return "\n".join(str(element.value) for element in app.html)


@pytest.mark.usefixtures("nano_home")
def test_steering_shows_what_the_evaluation_found() -> None:
    app = opened("steering", pair="nano", tab="Evaluation")
    assert not app.exception and not app.error
    said = text(app)
    for words in (
        "Tables 5 and 6",
        "Clopper-Pearson",
        "Fig. 3b",
        "Fig. 3c",
        "Fig. 11",
        "Eq. 16",
        "Control",
        "the paper's",
    ):
        assert words in said, words
    assert "fluency" in html(app) and "nats/token" in html(app)
    app.segmented_control(key="way").set_value("a").run()
    assert (
        not app.exception and not app.error and "nano-a's responses" in text(app).replace("\\", "")
    )


@pytest.mark.usefixtures("nano_home")
def test_each_tab_is_drawn_when_it_is_opened() -> None:
    app = opened("steering", pair="nano")
    assert "As the evaluation wrote it" in text(app), "there is something to read at once"
    assert not app.get("plotly_chart") and [button.label for button in app.button][:1] == ["Go"]

    measured = opened("steering", pair="nano", tab="Evaluation")
    assert measured.get("plotly_chart") and not [b for b in measured.button if b.label == "Go"]

    old = opened("steering", pair="nano", way="A steered")
    assert old.get("plotly_chart"), "a link from before there were tabs"


@pytest.mark.usefixtures("nano_home")
def test_another_target_keeps_the_prompt_and_a_model_brings_its_lanes() -> None:
    app = opened("steering", pair="nano", prompt="My own beginning")
    app.selectbox(key="target").set_value("lang:fr").run()
    assert (app.query_params["lang"], app.text_area(key="prompt").value) == (
        "French",
        "My own beginning",
    )
    for target in ("feature", "concept", "vector", "lang:de"):
        app.selectbox(key="target").set_value(target).run()
        assert not app.exception and app.text_area(key="prompt").value == "My own beginning"
        assert app.selectbox(key="target").value == target

    next(b for b in app.button if str(b.key).startswith("preset-")).click().run()
    assert not app.exception and app.session_state["runs"][-1]["prompt"] == "My own beginning"

    app.selectbox(key="steered").set_value("a").run()
    assert app.query_params["lanes"] == ["A no vector", "A own vector", "A transferred vector"]
    app.selectbox(key="steered").set_value("b").run()
    assert "lanes" not in app.query_params


@pytest.mark.usefixtures("nano_home")
def test_lanes_are_named_in_words_and_marked() -> None:
    lanes = ["B no vector", "B own vector", "B transferred vector", "B random vector"]
    app = opened("steering", pair="nano", tokens="4", lang="French", lanes=lanes)
    pressed(app, "Go")
    assert not app.exception and not app.error
    said = text(app).replace("\\", "")
    for words in (
        "**:violet[○ nano-b] alone**",
        "**:violet[● nano-b] with its own French**",
        "**:violet[◆ nano-b] with nano-a's French**",
        "**:gray[■ nano-b] with a random vector**",
    ):
        assert words in said
    drawn = [str(element.value) for element in app.html if "<div" in str(element.value)]
    blue = [("solid rgb(66,133,244)" in one, "rgba(154,92,214" in one) for one in drawn[:4]]
    assert blue == [(False, True), (False, True), (True, True), (False, False)]


@pytest.mark.usefixtures("nano_home")
def test_a_link_shows_the_run_that_its_sender_saw() -> None:
    asked = {"tokens": "6", "prompt": "<b>שלום</b> 🙂", "strength": "1.5", "lang": "French"}
    app = opened("steering", pair="nano", **asked)
    pressed(app, "Go")
    assert not app.exception and not app.error
    run_id = app.query_params["run"]
    run_id = run_id[0] if isinstance(run_id, list) else run_id
    run = app.session_state["runs"][-1]
    assert run["id"] == run_id

    for query in ({"run": run_id}, asked | {"run": run_id}):
        other = opened("steering", pair="nano", **query)
        assert not other.exception and not other.warning and "runs" not in other.session_state
        drawn = html(other)
        for lane in run["lanes"]:
            assert escape(lane["text"]) in drawn, "no model is asked"
        assert other.text_area(key="prompt").value == asked["prompt"]
        assert other.slider(key="strength").value == 1.5
        assert other.selectbox(key="target").value == "lang:fr"
        assert f"run={run_id}" in other.code[0].value

    strange = opened("steering", pair="nano", run=run_id, strength="-2")
    assert strange.slider(key="strength").value == -2, "what the link says besides counts"


@pytest.mark.usefixtures("nano_home")
@pytest.mark.parametrize(
    ("run_id", "says"),
    [
        ("aaaaaaaa", "no run aaaaaaaa in workspace"),
        ("p-aaaaaaaa", "private to another browser"),
        ("../../manifest", "8 letters and digits"),
        ("x" * 5000, "8 letters and digits"),
    ],
)
def test_a_run_that_is_not_there_is_answered(run_id: str, says: str) -> None:
    app = opened("steering", pair="nano", run=run_id)
    assert not app.exception and not app.error
    assert says in app.warning[0].value.replace("\\", "")
    pressed(app, "Go")
    assert not app.exception and not app.warning, "a new run takes its place"


@pytest.mark.usefixtures("nano_home")
def test_the_film_strip_shows_the_plain_model_at_0_and_goes_with_the_link() -> None:
    app = opened("steering", pair="nano", tokens="8", prompt="The house")
    pressed(app, "Go")
    pressed(app, "Film strip")
    assert not app.exception and not app.error
    (run,) = app.session_state["runs"]
    frames = {frame["strength"]: frame["text"] for frame in run["strip"]}
    texts = lanes(app)
    assert list(frames) == [-1, 0, 1, 2, 3]
    assert (frames[0], frames[1]) == (texts["b:none"], texts["b:transferred"])
    assert len(set(frames.values())) == 5

    other = opened("steering", pair="nano", run=run["id"])
    assert not other.exception and escape(frames[3]) in html(other)


@pytest.mark.usefixtures("nano_home")
def test_a_run_that_cannot_be_kept_is_shown_all_the_same(nano_home: Path) -> None:
    folder = nano_home / "nano" / "runs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.write_text("a file in the folder's place")
    try:
        app = opened("steering", pair="nano", tokens="4")
        pressed(app, "Go")
        assert not app.exception and not app.error and len(lanes(app)) == 3
        assert "This run has no link" in text(app) and "tokens/s" in text(app)
    finally:
        folder.unlink()


@pytest.mark.usefixtures("nano_home")
def test_a_pair_and_a_stitch_have_one_studio() -> None:
    ws = Workspace("nano")
    studio = studios.studio(ws, "L2-L3")
    assert studio is studios.crossing(ws, "L2-L3").studio is studios.studio(ws, "L2-L3")
    assert studio is not studios.studio(ws, "L3-L4")


@pytest.mark.usefixtures("nano_home")
def test_go_writes_a_lane_each_and_the_dial_keeps_the_run_before() -> None:
    app = opened("steering", pair="nano", tokens="12", prompt="The house of my")
    pressed(app, "Go")
    assert not app.exception and not app.error
    first = lanes(app)
    assert list(first) == ["b:none", "b:own", "b:transferred"] and len(set(first.values())) == 3
    assert "tokens/s" in text(app) and "nats/token" in html(app)
    app.slider(key="strength").set_value(0.0).run()
    assert not app.exception and not app.error
    assert len(app.session_state["runs"]) == 2
    still = lanes(app)
    assert len(set(still.values())) == 1 and still["b:none"] == first["b:none"], (
        "strength 0 changes nothing"
    )
    assert "strength 1" in text(app), "the run before is there to compare"


@pytest.mark.usefixtures("nano_home")
def test_a_preset_sets_everything_and_goes() -> None:
    app = opened("steering", pair="nano", tokens="8")
    preset = next(b for b in app.button if str(b.key).startswith("preset-"))
    preset.click().run()
    assert not app.exception and not app.error
    run = app.session_state["runs"][-1]
    assert run["source"] == f"lang:{str(preset.key).removeprefix('preset-')}"
    assert run["prompt"] == app.text_area(key="prompt").value
    assert run["setting"]["layers_b"] == (
        app.number_input(key="first_b").value,
        app.number_input(key="last_b").value,
    )


@pytest.mark.usefixtures("nano_home")
def test_features_that_a_search_found_are_choices_beside_a_feature() -> None:
    ws, name = Workspace("nano"), "feature_steering/L2-1024"
    before = (ws.table(name), ws.entry(name).makers) if store.has(ws, name) else None
    ws.put_table(name, searched(), {"stitch_name": "L2-L3"})
    try:
        languages = opened("steering", pair="nano", tokens="4")
        assert not [b for b in languages.button if b.key == "preset-1"]

        app = opened("steering", pair="nano", tokens="4", source="Feature", prompt="A house is")
        chips = [b for b in app.button if str(b.key).startswith("preset-")]
        expected = [("preset-1", "the word 1"), ("preset-6", "the word 6")]
        assert [(b.key, b.label) for b in chips] == expected
        assert "wrote in the search (5.0\u202f% alone" in chips[0].help

        chips[0].click().run()
        assert not app.exception
        assert [error.value for error in app.error] == []
        run = app.session_state["runs"][-1]
        assert (run["source"], run["stitch"]) == ("feature:L2-1024/1", "L2-L3")
        assert (run["setting"]["strength"], run["prompt"]) == (2.0, "A house is")
        assert list(lanes(app)) == ["b:none", "b:transferred", "a:own"]
    finally:
        if before is None:
            ws.remove(name)
        else:
            ws.put_table(name, *before)


@pytest.mark.usefixtures("nano_home")
@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"prompt": "   "}, "an empty prompt"),
        ({"prompt": "a " * 4000}, "shorten it"),
        ({"source": "Texts", "plus": "same", "minus": "same"}, "the same text in both boxes"),
        ({"source": "Your own"}, "no vector"),
        ({"first_b": "5", "last_b": "2"}, "layers 5 to 2 of B"),
    ],
)
def test_steering_says_what_is_wrong(query: dict[str, str], says: str) -> None:
    app = opened("steering", pair="nano", tokens="4", **query)
    pressed(app, "Go")
    assert not app.exception
    assert says in "\n".join(e.value for e in app.error).replace("\\", "")


@pytest.mark.usefixtures("nano_home")
@pytest.mark.parametrize(
    "prompt", ["שלום עולם", "🙂👩‍👩‍👧", "x" * 10_000, "<script>alert(1)</script>"]
)
def test_odd_prompts_are_written_on(prompt: str) -> None:
    app = opened("steering", pair="nano", tokens="3", prompt=prompt)
    pressed(app, "Go")
    assert not app.exception
    wrote = "runs" in app.session_state and len(app.session_state["runs"][-1]["lanes"]) == 3
    assert wrote if len(prompt) < 1000 else "shorten it" in app.error[0].value


@pytest.mark.usefixtures("nano_home")
def test_no_lane_is_said() -> None:
    app = opened("steering", pair="nano")
    app.button_group(key="lanes").set_value([]).run()
    pressed(app, "Go")
    assert not app.exception and "No lane is chosen" in app.warning[0].value


@pytest.mark.model
def test_steering_without_stitch_or_means_is_a_door(ws: Workspace) -> None:
    app = opened("steering")
    assert not app.exception and "steer eval smollm2-gemma3" in app.code[0].value


def test_a_feature_steers_through_stitches_of_its_layer_alone(nano_home: Path) -> None:
    app = opened("steering", pair="nano", source="Feature")
    assert not app.exception and not app.error
    assert app.selectbox(key="through").options == ["L2-L3", "L2-L3-kl"]
    app.selectbox(key="target").set_value("lang:hu").run()
    assert app.selectbox(key="through").options == ["L2-L3", "L2-L3-kl", "L3-L4"]


def test_without_a_stitch_of_its_layer_a_feature_cannot_steer(ws: Workspace) -> None:
    plant_features(ws, list(load_corpus().documents))
    for sae in ("L20-12", "L7-12"):
        ws.put_folder(
            f"saes/{sae}",
            lambda p: (p / "cfg.json").write_text("{}"),
            "sae",
            MAKERS | {"layer_a": int(sae[1:].split("-")[0])},
        )
    assert (
        stitch_tables.stitches_from(ws, "L20-12") == ["L20-L9"]
        and stitch_tables.stitches_from(ws, "L7-12") == []
    )


def test_a_preset_whose_stitch_is_gone_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(PROJECT / "cache" / "nano", tmp_path / "nano")
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(tmp_path))
    ws = Workspace("nano", tmp_path)
    table = ws.table("steering")
    table["stitch"] = ["L2-L3", "gone"] * (len(table) // 2) + ["gone"] * (len(table) % 2)
    ws.put_table("steering", table, ws.entry("steering").makers)
    names = {preset["stitch"] for preset in steering_tables.presets(ws)}
    assert names == {"L2-L3"}
    app = opened("steering", pair="nano")
    assert not app.exception and not app.error
    assert "As the evaluation wrote it" in text(app)

    ws.put_table("steering", table.assign(stitch="gone"), ws.entry("steering").makers)
    app = opened("steering", pair="nano")
    assert not app.exception and not app.error
    assert not [button for button in app.button if str(button.key).startswith("preset-")]
