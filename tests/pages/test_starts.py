"""Which start saves training, as the SAE training page says it."""

from pathlib import Path

from core.saes import start_tables
from core.workspace.places import PROJECT
from core.workspace.store import Workspace
from pages.saes.figures import broken
from tests.helpers.app import opened, text


def test_the_page_says_which_start_to_use(nano_home: Path) -> None:
    app = opened("training", pair="nano")
    assert not app.exception and not app.error
    ws = Workspace("nano")
    (name,) = start_tables.sets(ws)
    rows = start_tables.measured(ws, name)
    said = text(app)
    assert "The start to use is" in said
    table = next(frame.value for frame in app.dataframe if "Made for ↓" in frame.value)
    assert list(table.Start) == list(rows.start)
    assert "1.0 [1.0, 1.0]" in set(table.iloc[:, 3]), "scratch, to 90 %"


def test_a_workspace_without_a_study_says_how_one_is_made(nano_home: Path) -> None:
    ws = Workspace("nano")
    for name in ws.names(prefix="sae_start"):
        ws.remove(name)
    app = opened("training", pair="nano")
    assert not app.exception
    assert "sae starts nano" in text(app)


def test_every_shipped_study_has_its_controls() -> None:
    for pair in ("nano", "smollm2-gemma3"):
        ws = Workspace(pair, PROJECT / "cache")
        for name in start_tables.sets(ws):
            rows = start_tables.measured(ws, name).set_index("start")
            fitted = rows.loc["transferred, both fitted"]
            control = rows.loc["shuffled pairs, both fitted"]
            assert fitted.begins > control.begins + 0.1
            assert rows.loc["scratch", "ratio_90"] >= 1 - 1e-9
            assert (rows.seeds == 3).all()


def test_long_titles_are_broken_behind_commas() -> None:
    assert broken("scratch") == "scratch"
    title = "transferred, both fitted, agreement ≥ 0.3"
    assert broken(title) == "transferred,<br>both fitted,<br>agreement ≥ 0.3"
    assert broken(title, 40).replace("<br>", " ") == title
