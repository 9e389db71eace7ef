"""A link is a page from a server's very first request on, and what a page showed may be taken away."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from typer.testing import CliRunner

from core.cli.main import app
from core.functional import tables as functional_tables
from core.workspace.places import PROJECT
from core.workspace.store import Workspace
from tests.helpers.app import opened
from tests.helpers.resting import listen, settled
from tests.helpers.serving import running

NOTICE = "Page not found"
TITLES = {
    "": "StitchLens",
    "crossing": "Crossing",
    "features": "Features",
    "functional": "Functional",
    "glossary": "Glossary",
    "pair": "New pair",
    "paper": "The paper",
    "probes": "Probes",
    "steering": "Steering",
    "stitches": "Stitches",
    "training": "SAE training",
}
"""The link that is marked in the navigation when a page is open; Home's is the app's name."""


@pytest.mark.browser
@pytest.mark.parametrize("name", TITLES)
def test_a_link_is_the_page_and_no_notice(
    name: str, tmp_path: Path, visit: Callable[..., Page]
) -> None:
    with running(PROJECT / "cache", tmp_path / "cache") as server:
        page = visit(f"{server.url}/{name}?pair=nano", seconds=120)
        current = page.locator("[data-testid=stSidebarNavLink][aria-current=page]")
        expect(page.get_by_text(NOTICE)).to_have_count(0)
        assert page.locator("[data-testid=stMain]").inner_text()
        if name:
            expect(current).to_contain_text(TITLES[name])
        page.goto("about:blank")  # before its server goes


@pytest.mark.browser
def test_a_page_that_is_none_gets_the_notice(tmp_path: Path, browser: Browser) -> None:
    """So the notice that the others lack would be seen."""
    with running(PROJECT / "cache", tmp_path / "cache") as server:
        page = browser.new_page()
        listen(page)
        page.goto(f"{server.url}/nothing?pair=nano")
        settled(page, 120)
        expect(page.get_by_text(NOTICE)).to_be_visible()
        page.close()


@pytest.mark.parametrize("page", TITLES)
def test_every_page_is_whole_without_an_sae_that_was_scanned(page: str, without_sae: None) -> None:
    app = opened(page, pair="nano", sae="L2-1024", feature="3")
    assert not app.exception
    shown = [block.value for block in (*app.markdown, *app.caption, *app.warning, *app.info)]
    assert any(shown)


@pytest.fixture(scope="module")
def without_sae(nano_home: Path) -> None:
    workspace = Workspace("nano", nano_home)
    assert functional_tables.scanned(workspace) == ["L2-1024"], "it was scanned"
    done = CliRunner().invoke(app, ["sae", "remove", "nano", "L2-1024"])
    assert done.exit_code == 0, done.output
    assert functional_tables.scanned(workspace) == []
    assert not [name for name in workspace.names() if name.endswith("/L2-1024")]
