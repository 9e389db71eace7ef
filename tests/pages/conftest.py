"""Workspaces that pages are opened on, one server for all that a browser does, and the browser."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect

from core import jobs
from core.errors import StitchLensError
from core.text.corpus import load_corpus
from core.workspace.places import PROJECT
from core.workspace.store import Workspace
from tests.helpers.planted import PAIR, plant, plant_features
from tests.helpers.resting import DESK, listen, settled
from tests.helpers.serving import borrow_models, running

expect.set_options(timeout=30_000)
USERS_CACHE = os.environ.get("STITCHLENS_CACHE", "")
MOBILE = (
    "Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Mobile"
    " Safari/537.36"
)
# On a link to a page, Streamlit's client first looks for its server below that page's address.
PROBES = re.compile(r"/_stcore/(health|host-config)$")
KNOWN_BY = "cookies,file_systems,indexeddb,local_storage,service_workers,cache_storage"
"""What a page can know a browser by, in the words of Chromium's protocol."""
Visit = Callable[..., Page]


@pytest.fixture
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A planted workspace, the only one there is."""
    monkeypatch.setenv("STITCHLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(tmp_path / "workspaces"))
    return plant(tmp_path / "workspaces")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `workspaces`, a planted one and a copy of the shipped nano one, and `cache`."""
    root = tmp_path_factory.mktemp("served")
    plant_features(plant(root / "workspaces"), list(load_corpus().documents))
    shutil.copytree(PROJECT / "cache" / "nano", root / "workspaces" / "nano")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STITCHLENS_CACHE", USERS_CACHE)
        if not USERS_CACHE:
            patch.delenv("STITCHLENS_CACHE")
        borrow_models(root / "cache")
    return root


@pytest.fixture(scope="session")
def first_heard() -> dict[str, str]:
    """What the server's first visitor saw, see `url`."""
    return {}


@pytest.fixture(scope="session")
def url(home: Path, browser: Browser, first_heard: dict[str, str]) -> Iterator[str]:
    """The app, one for the whole run. Its first request is a link to a page: a server that has
    heard nothing yet must know its pages."""
    with running(home / "workspaces", home / "cache") as server:
        page = browser.new_page()
        listen(page)
        page.goto(f"{server.url}/stitches?pair={PAIR}&stitch=L10-L9")
        settled(page)
        first_heard["stitch"] = page.locator("h2").first.inner_text()
        first_heard["pages"] = page.locator("[data-testid=stSidebarNav]").inner_text()
        page.close()
        yield server.url


@pytest.fixture
def no_job_left(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A job outlives the app; here it does not outlive the test."""
    monkeypatch.setenv("STITCHLENS_CACHE", str(home / "cache"))
    yield
    for pair in (PAIR, "nano"):
        for job in jobs.jobs(pair):
            job.cancel()
            with suppress(StitchLensError):  # it takes a moment to end
                job.forget()


class Browsers:
    """Browsers to visit pages with, each as if nobody had used it: what a page knows a browser by
    goes from one test to the next, the app's own files stay, some megabytes of script that need
    not be read again at every visit."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.free: dict[bool, list[BrowserContext]] = {True: [], False: []}

    def take(self, touch: bool) -> BrowserContext:
        if self.free[touch]:
            return self.free[touch].pop()
        context = self.browser.new_context(
            viewport={"width": DESK[0], "height": DESK[1]},
            has_touch=touch,
            is_mobile=touch,
            user_agent=MOBILE if touch else None,
        )
        context.on("page", listen)
        return context

    def give_back(self, context: BrowserContext, touch: bool) -> None:
        for page in context.pages:
            page.close()
        self.free[touch].append(context)

    @staticmethod
    def page_for(context: BrowserContext, address: str) -> Page:
        """A page in a browser that does not know the address's server."""
        page = context.new_page()
        parts = urlsplit(address)
        context.new_cdp_session(page).send(
            "Storage.clearDataForOrigin",
            {"origin": f"{parts.scheme}://{parts.netloc}", "storageTypes": KNOWN_BY},
        )
        context.clear_cookies()
        return page


@pytest.fixture(scope="session")
def browsers(browser: Browser) -> Browsers:
    return Browsers(browser)


@pytest.fixture
def visit(browsers: Browsers) -> Iterator[Visit]:
    """Opens a page in a browser of its own and, when the test is over, finds that nothing was
    complained of and nobody else was asked."""
    faults: list[str] = []
    contexts: list[tuple[BrowserContext, bool]] = []

    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error" and not PROBES.search(message.location.get("url", "")):
            faults.append(f"{message.text} {message.location}")

    def on_request(address: str) -> None:
        if not re.match(r"(http|ws)://127\.0\.0\.1[:/]|data:|blob:", address):
            faults.append(f"asked {address}")

    def open_(
        address: str,
        size: tuple[int, int] = DESK,
        theme: str = "light",
        touch: bool = False,
        seconds: float = 60,
    ) -> Page:
        context = browsers.take(touch)
        contexts.append((context, touch))
        page = browsers.page_for(context, address)
        page.set_viewport_size({"width": size[0], "height": size[1]})
        page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
        page.set_default_timeout(60_000)
        page.on("console", on_console)
        page.on("pageerror", lambda e: faults.append(str(e)))
        page.on("request", lambda r: on_request(r.url))
        page.goto(address)
        return settled(page, seconds)

    yield open_
    for context, touch in contexts:
        browsers.give_back(context, touch)
    assert faults == []
