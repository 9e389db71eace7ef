"""A demonstration in Chromium: what visitors see, and where they get no further."""

import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from core.workspace.places import PROJECT
from tests.helpers.resting import settled
from tests.helpers.serving import borrow_models, running

pytestmark = pytest.mark.browser

RUNS = 3
PAGES = ("", "stitches", "features", "functional", "steering", "probes", "training", "paper")
SHUT = {
    "": "Bringing anything",
    "stitches": "Fitting a stitch",
    "features": "Bringing an SAE",
    "training": "Training",
    "pair": "Naming models",
}
"""What a page says that it does not do here."""


@pytest.fixture(scope="module")
def demo(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app as a demonstration, with few runs; what it notes beside its own models is told when
    it is over."""
    cache = tmp_path_factory.mktemp("demonstration")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STITCHLENS_CACHE", str(home / "cache"))
        borrow_models(cache)
        patch.setenv("STITCHLENS_DEMO", "1")
        patch.setenv("STITCHLENS_DEMO_RUNS", str(RUNS))
        patch.setenv("STITCHLENS_DEMO_TOKENS", "40")
        before = sorted((home / "workspaces").rglob("*"))
        with running(home / "workspaces", cache) as server:
            yield server.url
        assert sorted((home / "workspaces").rglob("*")) == before
        assert not {path.name for path in cache.iterdir()} & {"jobs", "private", "uploads"}


@pytest.mark.parametrize("name", [*PAGES, "pair"])
def test_pages_offer_no_door(demo: str, visit: Callable[..., Page], name: str) -> None:
    page = visit(f"{demo}/{name}?pair=nano")
    main = page.locator("[data-testid=stMain]")
    expect(page.locator("[data-testid=stSidebar]")).to_contain_text("This is a demonstration")
    if name in SHUT:
        expect(main).to_contain_text(f"{SHUT[name]} is not part of this demonstration")
    expect(page.locator("[data-testid=stFileUploader]")).to_have_count(0)
    for button in ("Fit", "Import", "Train", "Look", "Build", "Compare them", "Add"):
        if name != "functional":
            expect(main.get_by_role("button", name=button, exact=True)).to_have_count(0)
    if name != "pair":
        assert main.locator("[data-testid=stException]").count() == 0
        text = page.locator("body").inner_text()
        assert str(PROJECT) not in text and not re.search(r"/(?:home|root|tmp)/", text)


def test_a_csv_is_no_source_of_labels(demo: str, visit: Callable[..., Page]) -> None:
    page = visit(f"{demo}/probes?pair=nano&own-from=A+CSV")
    expect(page.locator("[data-testid=stFileUploader]")).to_have_count(0)
    expect(page.get_by_text("No source of labels A CSV here", exact=False)).to_be_visible()


@pytest.mark.parametrize("asked", ["length=400", "length=nan", "length=-1", "warmth=nan"])
def test_a_link_asks_for_no_more(demo: str, visit: Callable[..., Page], asked: str) -> None:
    page = visit(f"{demo}/crossing?pair=nano&{asked}")
    expect(page.locator("[data-testid=stAlert]").filter(has_text=" here, ").first).to_be_visible()
    length = page.get_by_label("Tokens", exact=True)
    expect(length).to_have_value("10")


def test_no_file_is_taken(demo: str) -> None:
    """By hand, as a widget would send it."""
    address = f"{demo}/_stcore/upload_file/some-session/some-file"
    request = urllib.request.Request(address, b"0" * 1000, method="PUT")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code == 403
    assert b"takes no files" in refused.value.read()


def test_whoever_presses_on_is_told_to_wait(demo: str, visit: Callable[..., Page]) -> None:
    """A browser has so many runs a minute, in all its tabs; another one has its own."""
    page = visit(f"{demo}/crossing?pair=nano&text=Bread+is+kept+in+a+box.")
    refusal = page.get_by_text("runs from this browser within a minute")
    for _ in range(RUNS + 2):
        if refusal.count():
            break
        page.get_by_role("button", name="Speak").click()
        settled(page, 120)
    expect(refusal.first).to_be_visible()
    expect(refusal.first).to_contain_text(re.compile(r"wait \d+ s"))

    again = page.context.new_page()
    again.goto(f"{demo}/crossing?pair=nano&text=Another+text+for+the+same+browser.")
    settled(again, 120)
    expect(again.get_by_text("runs from this browser within a minute").first).to_be_visible()

    other = visit(f"{demo}/crossing?pair=nano&text=A+text+for+another+browser.")
    settled(other, 120)
    expect(other.get_by_text("runs from this browser")).to_have_count(0)
