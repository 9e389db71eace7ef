"""Features, by themselves and by what they do; probes and SAEs that they come from."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from core import jobs
from core.features import alike, explained
from core.features import tables as feature_tables
from core.models.pairs import get_pair
from core.text.corpus import Document, load_corpus
from core.workspace.places import PROJECT
from core.workspace.store import Workspace
from pages.probes.features import links
from tests.helpers.app import opened, pressed, text
from tests.helpers.planted import PAIR, plant_features


def test_features_shows_the_histograms_and_one_feature_twice(ws: Workspace) -> None:
    plant_features(ws, list(load_corpus().documents))
    app = opened("features", tab="Histograms")
    assert not app.exception and not app.error
    said = text(app)
    for words in (
        "Eq. 10",
        "Fig. 14",
        "Fig. 4b",
        "shuffled pairs",
        "Table 2",
        "5 semantic",
        "6 structural",
        "1 dead",
        "features compare",
    ):
        assert words in said, words
    assert app.number_input(key="feature").value == 0, "the one that correlates best"
    assert [h.value for h in app.header] == ["Feature 0"]
    next(b for b in app.button if b.label == "Next").click().run()
    assert not app.exception and [h.value for h in app.header] == ["Feature 1"]
    app.number_input(key="feature").set_value(11).run()
    assert not app.exception and "Not active in any" in text(app)
    app.slider[0].set_value(1.0).run()
    assert not app.exception and "11 semantic" in text(app)


def test_a_word_is_asked_for_and_rows_open_features(nano_home: Path) -> None:
    app = opened("features", pair="nano")
    assert not app.exception and not app.error
    first = app.radio(key="rows")
    assert [f"Feature {first.value}"] == [h.value for h in app.header]
    assert "1,024 of 1,024 features" in text(app)

    app.text_input(key="q").set_value("French").run()
    rows = app.radio(key="rows")
    assert "French" in rows.options[0] and rows.value == int(app.session_state["feature"])
    assert [f"Feature {rows.value}"] == [h.value for h in app.header], "the best one opens"
    assert "French" in text(app) and app.query_params["q"] in ("French", ["French"])

    third = rows.options[2]
    number = int(re.findall(r"\*\*(\d+)\*\*", third)[0])
    rows.set_value(number).run()
    assert [h.value for h in app.header] == [f"Feature {number}"] and not app.exception

    app.text_input(key="q").set_value("zzqqyx").run()
    assert not app.exception and "No feature has it" in text(app)
    app.text_input(key="q").set_value("x" * 1999).run()
    assert "at most 200 characters" in app.error[0].value


def test_the_listed_follow_agreement_and_class(nano_home: Path) -> None:
    app = opened("features", pair="nano", alike="0.9~1", **{"class": "structural"})
    table = alike.listing(Workspace("nano", nano_home), "L2-1024")
    kind = feature_tables.kinds_of_features(table)
    wanted = table.above.notna() & table.agreement.between(0.9, 1) & (kind == "structural")
    assert 0 < wanted.sum() < 1024
    assert f"{wanted.sum():,} of 1,024 features" in text(app)
    next(b for b in app.button if b.label == "All features").click().run()
    assert "1,024 of 1,024 features" in text(app)
    assert "alike" not in app.query_params and "class" not in app.query_params


def test_the_card_has_three_columns(nano_home: Path) -> None:
    app = opened("features", pair="nano", feature="391")
    said = text(app)
    assert not app.exception and not app.error
    assert [h.value for h in app.header] == ["Feature 391"] and "in French" in said
    heads = [m.value for m in app.markdown if m.value.startswith((":blue[**", ":violet[**"))]
    assert len(heads) >= 3 and "own" in heads[2]
    for words in ("Near it in", "Raises", "Native twin", "Agreement"):
        assert words in said, words


def test_every_tab_is_drawn(nano_home: Path) -> None:
    for tab, words in (
        ("Map", "UMAP"),
        ("Histograms", "Which features exist in both"),
        ("Table", "Sort by a head"),
    ):
        app = opened("features", pair="nano", tab=tab)
        said = text(app) + "".join(h.value for h in app.subheader)
        assert not app.exception and not app.error and words in said, tab


def test_a_direction_lists_its_nearest_rows(nano_home: Path) -> None:
    app = opened("features", pair="nano", ask="Direction", near="French")
    assert not app.exception and not app.error
    assert "cosine" in app.radio(key="rows").proto.captions[0]


def test_feature_0_can_be_linked_and_a_workspace_opens_at_its_own(ws: Workspace) -> None:
    plant_features(ws, list(load_corpus().documents))
    shutil.copytree(PROJECT / "cache" / "nano", ws.root.parent / "nano")
    app = opened("features", feature="3")
    assert [h.value for h in app.header] == ["Feature 3"] and app.query_params["feature"] in (
        "3",
        ["3"],
    )
    app = AppTest.from_file(str(PROJECT / "pages" / "main.py"), default_timeout=200)
    app.query_params["pair"], app.query_params["feature"] = "nano", "0"
    app.run()
    app.switch_page("features/page.py").run()
    assert [h.value for h in app.header] == ["Feature 0"] and app.query_params["feature"] in (
        "0",
        ["0"],
    )
    app.session_state["pair"] = PAIR
    app.run()
    assert not app.exception and "feature" not in app.query_params
    assert any("of another SAE" in x.value for x in app.info)


def test_a_feature_that_is_not_there_is_said(ws: Workspace) -> None:
    plant_features(ws, list(load_corpus().documents))
    app = opened("features", feature="99")
    assert not app.exception
    assert any("from 0 to 11" in w.value for w in app.warning)


def test_examples_of_another_corpus_are_said(ws: Workspace) -> None:
    gone = [Document(id=f"gone@{k}+0", label="eng", text="-") for k in range(3)]
    plant_features(ws, gone)
    app = opened("features")
    assert not app.exception and "another version of the corpus" in text(app)


def test_look_shows_something_with_its_own_text(nano_home: Path) -> None:
    app = opened("functional", pair="nano")
    assert not app.exception
    pressed(app, "Look")
    assert not app.exception and not app.error
    assert "fires nowhere" not in text(app) and "Mean change at the" in text(app)
    app.segmented_control(key="side").set_value("b").run()
    pressed(app, "Look")
    assert not app.exception and "fires nowhere" not in text(app)


def test_a_table_of_features_keeps_its_cells(ws: Workspace) -> None:
    table = pd.DataFrame(
        {
            "feature": [0, 1],
            "difference": 0.5,
            "difference_b": -0.5,
            "correlation": [0.25, float("nan")],
            "raises": ["a|b\n`c", ""],
        }
    )
    lines = links(ws, get_pair(PAIR), "L20-12", table).split("\n")
    assert len(lines) == 4 and all(len(re.split(r"(?<!\\)\|", line)) == 7 for line in lines)
    assert "⏎" in lines[2] and "∅" in lines[3]
    alone = links(ws, get_pair(PAIR), "L20-12", table.drop(columns=["correlation", "raises"]))
    assert "Attribution" not in alone and "Raises" not in alone, "no column that is always empty"


def test_probes_are_drawn_and_link_to_features(nano_home: Path) -> None:
    app = opened("probes", pair="nano")
    assert not app.exception and not app.error
    said = text(app)
    for words in (
        "Mean over 10 datasets",
        "Fig. 3a",
        "Fig. 9 and 10",
        "shuffled pairs",
        "Probe your own labels",
    ):
        assert words in said, words
    assert app.dataframe[0].value.shape == (11, 9)
    app.selectbox(key="task").select("language/fra").run()
    assert "(features?pair=nano&sae=L2-1024&feature=" in text(app)
    assert "French" in text(app) and not app.exception


def test_sae_training_says_what_was_saved(nano_home: Path) -> None:
    app = opened("training", pair="nano", width="2048", auxiliary="with")
    assert not app.exception and not app.error
    said = text(app)
    for words in ("To reach 90", "Fig. 2a", "Table 3", "Table 4", "Fig. 1c, 8", "Train more"):
        assert words in said, words
    assert "Fig. 2b" not in said, "the auxiliary runs were not kept for it"
    app.segmented_control(key="auxiliary").set_value("without").run()
    assert "Fig. 2b" in text(app)
    exact = text(app)
    app.segmented_control(key="fitter").set_value("adam").run()
    assert text(app) != exact and not app.exception
    next(field for field in app.text_input if field.label == "Features").set_value("many")
    next(b for b in app.button if b.label == "Train").click().run()
    assert "widths 'many'" in app.error[0].value.replace("\\", "")
    assert jobs.latest("nano") is None


def test_what_others_say_stands_on_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(PROJECT / "cache" / "nano", tmp_path / "nano")
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(tmp_path))
    about = {"source": "a-model at localhost", "type": "delphi detection", "origin": "explainer"}
    row = about | {"feature": 391, "text": "French <b>words</b>", "f1_a": 0.81, "f1_b": 0.63}
    explained.keep(Workspace("nano"), "L2-1024", explained.scored([row]))
    for embed in ("false", "true"):
        app = opened("features", pair="nano", feature="391", embed=embed)
        said = text(app)
        assert not app.exception and not app.error
        assert "French \\<b\\>words" in said and "a\\-model at localhost" in said
        assert ":blue[0.81] → " in said and ":violet[0.63]" in said
    assert "a\\-model" not in text(opened("features", pair="nano", feature="392"))


def test_saes_to_choose_from_say_what_they_were_trained_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(PROJECT / "cache"))
    app = opened("features", pair="smollm2-gemma3", sae="L20-1024-english-code")
    assert not app.exception and not app.error
    chooser = app.selectbox(key="sae")
    assert chooser.value == "L20-1024-english-code"
    assert chooser.options == [
        "L15-4096: 4,096 features before layer 15, all text",
        "L20-1024-english-code: 1,024 features before layer 20, English and code",
    ]
