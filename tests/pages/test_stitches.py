"""Stitches and what stands beside them, on a planted workspace."""

import shutil

import pytest
from streamlit.testing.v1 import AppTest

from core import jobs
from core.workspace.places import PROJECT
from core.workspace.store import Workspace
from tests.helpers.app import opened, pressed, text
from tests.helpers.planted import MAKERS, PAIR, losses


def test_stitches_shows_one_in_full_and_a_link_picks_it(ws: Workspace) -> None:
    app = opened("stitches")
    assert not app.exception and not app.error
    assert app.header[0].value == r"L20\-L9"
    assert [n.value for n in app.number_input[:2]] == [20, 9]
    for words in ("Fig. 6", "Fig. 7", "Eq. 3", "Control", "1,200 paired positions", "Fitted here"):
        assert words in text(app), words
    app.selectbox(key="stitch").select("L10-L9").run()
    assert app.header[0].value == r"L10\-L9"
    assert [n.value for n in app.number_input[:2]] == [10, 9]
    assert "α was swept for the layer pairs of the build only" in text(app)


def test_a_closed_fold_is_empty_and_an_opened_one_is_drawn(ws: Workspace) -> None:
    app = opened("stitches")
    provenance = ["what", "value"]
    assert provenance not in [list(table.value.columns) for table in app.dataframe]
    app.session_state["provenance"] = True
    app.run()
    assert not app.exception and not app.error
    assert provenance in [list(table.value.columns) for table in app.dataframe]


@pytest.mark.model
def test_a_stitch_fitted_by_hand_is_removed_from_its_page_and_others_are_not(ws: Workspace) -> None:
    app = opened("stitches")
    assert not any(b.label == "Remove it" for b in app.button), "the build's own stay"
    makers = ws.entry("stitches/L10-L9").makers | {"why": "chosen by hand"}
    ws.put("stitches/mine", lambda p: p.touch(), "stitch", ".safetensors", makers)
    ws.put_table("downstream/mine", losses(), makers)
    app = opened("stitches", stitch="mine")
    assert app.header[0].value == "mine"
    pressed(app, "Remove it")
    assert not app.exception and not app.error and app.header[0].value == r"L20\-L9"
    assert any("mine was removed" in x.value for x in app.success)
    assert not [name for name in ws.names() if name.endswith("/mine")]
    assert not any(b.label == "Remove it" for b in app.button)
    for page in ("", "stitches", "features", "functional", "probes", "training"):
        app = opened(page)
        assert not app.exception and not app.error


def test_a_stitch_that_something_was_made_through_stays(ws: Workspace) -> None:
    makers = ws.entry("stitches/L10-L9").makers | {"why": "chosen by hand"}
    ws.put("stitches/mine", lambda p: p.touch(), "stitch", ".safetensors", makers)
    ws.put_record("probes/one", {}, MAKERS | {"stitch_name": "mine"})
    app = opened("stitches", stitch="mine")
    assert not any(b.label == "Remove it" for b in app.button)
    assert "probes/one were made through mine" in text(app)


@pytest.mark.model
def test_an_unknown_link_is_said(ws: Workspace) -> None:
    app = (
        AppTest.from_file(str(PROJECT / "pages" / "main.py"), default_timeout=200)
        .run()
        .switch_page("stitches/page.py")
    )
    app.query_params["stitch"] = "no*such"
    app.run()
    assert not app.exception
    assert [w.value for w in app.warning] == [r"No stitch named no\*such here; showing L20\-L9."]


def test_a_stitch_of_the_workspace_before_is_no_fault(ws: Workspace) -> None:
    """The picker of workspaces changes while the address still names it."""
    shutil.copytree(PROJECT / "cache" / "nano", ws.root.parent / "nano")
    app = opened("stitches", stitch="L10-L9")
    app.session_state["pair"] = "nano"
    app.run()
    assert not app.exception and not app.warning
    assert app.header[0].value == r"L2\-L3"


def test_a_stitch_that_is_not_measured_says_how(ws: Workspace) -> None:
    app = opened("stitches")
    app.selectbox(key="stitch").select("young").run()
    assert not app.exception and not app.error
    assert any("stitch eval smollm2-gemma3 young" in c.value for c in app.code)


def test_the_form_refuses_and_keeps_what_was_typed(ws: Workspace) -> None:
    app = opened("stitches")
    app.text_input[0].set_value("not a name")
    next(b for b in app.button if b.label == "Fit").click().run()
    assert not app.exception
    assert "choose another name" in app.error[0].value and app.text_input[0].value == "not a name"
    assert jobs.jobs(PAIR) == []


def test_stitches_stand_beside_the_paper_and_what_the_workspace_holds(ws: Workspace) -> None:
    app = opened("stitches")
    assert not app.exception and not app.error
    assert any(name.startswith("*paper*") for name in app.table[0].value.index)
    assert "1.23 M characters" in text(app)

    shutil.copytree(PROJECT / "cache" / "nano", ws.root.parent / "nano")
    names = opened("stitches").table[0].value.index
    assert any(name.startswith("nano") for name in names)

    (ws.root.parent / "nano" / "manifest.json").write_text("{")
    app = opened("stitches")
    assert not app.exception and not app.error
    names = app.table[0].value.index
    assert not any(name.startswith("nano") for name in names), "a damaged neighbour is left out"


@pytest.mark.model
def test_home_says_which_models_are_joined(ws: Workspace) -> None:
    app = opened()
    assert not app.exception and not app.error
    assert app.title[0].value == "StitchLens"
    assert "python -m core showcase smollm2-gemma3" in text(app), "no run is kept here"
