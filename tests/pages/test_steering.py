"""Steering: lanes, presets, sources and what is wrong with them."""

import shutil
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core.steering import tables as steering_tables
from core.stitches import tables as stitch_tables
from core.text.corpus import load_corpus
from core.workspace.places import PROJECT
from core.workspace.store import Workspace
from tests.helpers.app import opened, pressed, text
from tests.helpers.planted import MAKERS, plant_features


def lanes(app: AppTest) -> dict[str, str]:
    """What each lane of the last run wrote."""
    return {lane["lane"]: lane["text"] for lane in app.session_state["runs"][-1]["lanes"]}


@pytest.mark.usefixtures("nano_home")
def test_steering_shows_what_the_evaluation_found() -> None:
    app = opened("steering", pair="nano")
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
    assert "As the evaluation wrote it" in said, (
        "there is something to read before anything is pressed"
    )
    app.segmented_control(key="way").set_value("a").run()
    assert (
        not app.exception and not app.error and "nano-a's responses" in text(app).replace("\\", "")
    )


@pytest.mark.usefixtures("nano_home")
def test_go_writes_a_lane_each_and_the_dial_keeps_the_run_before() -> None:
    app = opened("steering", pair="nano", tokens="12", prompt="The house of my")
    pressed(app, "Go")
    assert not app.exception and not app.error
    first = lanes(app)
    assert list(first) == ["b:none", "b:own", "b:transferred"] and len(set(first.values())) == 3
    assert "tokens/s" in text(app) and "nats/token" in text(app)
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


def test_steering_without_stitch_or_means_is_a_door(ws: Workspace) -> None:
    app = opened("steering")
    assert not app.exception and "steer eval smollm2-gemma3" in app.code[0].value


def test_a_feature_steers_through_stitches_of_its_layer_alone(nano_home: Path) -> None:
    app = opened("steering", pair="nano", source="Feature")
    assert not app.exception and not app.error
    assert app.selectbox(key="through").options == ["L2-L3"]
    app.segmented_control(key="source").set_value("lang").run()
    assert app.selectbox(key="through").options == ["L2-L3", "L3-L4"]


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
