"""The monkey sees what it must: one fault planted on each page of an app, found, and found again
from its seed."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser

from tests.helpers.monkey.__main__ import (
    PAGES,
    WORKSPACES,
    Result,
    again,
    bring,
    chromium,
    stored,
    table,
)
from tests.helpers.monkey.looking import Survey, Target, differences
from tests.helpers.monkey.walking import Case, Fault, Walk, choose, offered, walk
from tests.helpers.serving import running

APP = """
import time
from pathlib import Path
import streamlit as st

def clean():
    st.title("Clean")
    st.number_input("Feature", 0, 9, 3, key="feature", bind="query-params")
    st.segmented_control(
        "View", ["one", "two"], default="one", required=True, key="view", bind="query-params"
    )
    with st.form("draft"):
        st.text_input("A draft")
        if st.form_submit_button("Send"):
            st.error("Found nothing; wanted something: type it.")

def raises():
    st.title("Raises")
    if st.toggle("Divide"):
        1 / 0

def complains():
    st.title("Complains")
    if st.toggle("Complain"):
        st.html("<script>console.error('planted')</script>", unsafe_allow_javascript=True)

def forgets():
    st.title("Forgets")
    st.select_slider("Size", ["small", "large"])

def reruns():
    st.title("Reruns")
    if st.toggle("On and on") and not Path(__file__).with_name("enough").exists():
        time.sleep(0.05)
        st.rerun()

def mumbles():
    st.title("Mumbles")
    if st.toggle("Go wrong"):
        st.error("Oops")

def asks():
    st.title("Asks")
    if st.toggle("Ask"):
        st.html("<img src='http://127.0.0.2:9/x.png'>")

pages = (clean, raises, complains, forgets, reruns, mumbles, asks)
st.navigation([st.Page(f) for f in pages]).run()
"""
SEED = 19
"""A walk that comes upon each fault soon."""
PLANTED = {
    "raises": ("server", "ZeroDivisionError"),
    "complains": ("console error", "planted"),
    "forgets": ("forgets", "Size"),
    "reruns": ("dead end", "does not come to rest"),
    "mumbles": ("no sentence", "Oops"),
    "asks": ("asks outside", "x.png"),
}


def done(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """In a thread, for another test's browser may hold this one's event loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(work())).result()


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Walk, Walk]]:
    """By page: a walk, and what its printed command walks again."""
    root = tmp_path_factory.mktemp("monkey")
    (root / "app.py").write_text(APP)
    (root / "workspaces").mkdir()
    files = bring(root / "files")

    async def both(browser: Browser, url: str, log: Path, page: str) -> tuple[Walk, Walk]:
        case = Case("" if page == "clean" else page, "", "phone" if page == "mumbles" else "desk")

        async def once(seed: int, steps: int) -> Walk:
            limit = 15 if page == "reruns" else 30
            return await walk(browser, url, log, files, case, seed, steps, limit=limit, keep=root)

        first = await once(SEED, 6)
        if not first.faults:
            return first, first
        printed = dict(re.findall(r"(\w+)=(\w+)", again(case.name, first.faults[0])))
        return first, await once(int(printed["SEED"]), int(printed["STEPS"]))

    async def every() -> dict[str, tuple[Walk, Walk]]:
        quiet = ["clean", *(page for page in PLANTED if page not in ("raises", "reruns"))]
        with running(root / "workspaces", root / "cache", root / "app.py") as server:
            try:
                async with chromium() as browser:
                    some = await asyncio.gather(
                        *(both(browser, server.url, server.log, page) for page in quiet)
                    )
                    # one fills the log that all share, the other takes the whole of a core
                    alone = {
                        page: await both(browser, server.url, server.log, page)
                        for page in ("raises", "reruns")
                    }
            finally:
                # a script that runs for ever would not let the server end
                (root / "enough").touch()
        return dict(zip(quiet, some, strict=True)) | alone

    return done(every)


@pytest.mark.browser
@pytest.mark.parametrize("page", PLANTED)
def test_a_planted_fault_is_found_and_found_again(
    walks: dict[str, tuple[Walk, Walk]], page: str
) -> None:
    kind, says = PLANTED[page]
    for found in walks[page]:
        assert found.faults, "not found"
        fault = found.faults[0]
        assert (fault.kind, says in fault.key) == (kind, True), fault
        assert fault.step == walks[page][0].faults[0].step


@pytest.mark.browser
def test_a_clean_page_has_no_fault(walks: dict[str, tuple[Walk, Walk]]) -> None:
    first, _ = walks["clean"]
    assert first.faults == []
    assert first.steps == 6
    assert 0 < first.longest < 30


TARGETS = (
    *(Target("choice", f"View: {k}", 1, k) for k in range(30)),
    Target("submit", "Fit", 1, 30),
)
NOTHING = Survey(
    TARGETS, {}, {}, "http://127.0.0.1:1/features?pair=nano", (), (), (), False, False, 8
)


def test_a_seed_chooses_the_same_and_what_else_is_offered_hardly_matters() -> None:
    case = Case("features", "nano", "desk")
    _, weights = offered(NOTHING, 9, Counter())
    chosen = [choose(case, 7, step, weights) for step in range(300)]
    assert chosen == [choose(case, 7, step, weights) for step in range(300)]
    assert len(set(chosen)) > 20
    more = [choose(case, 7, step, weights | {"button 'Cancel'": 1.0}) for step in range(300)]
    other = {a for a, b in zip(more, chosen, strict=True) if a != b}
    assert other == {"button 'Cancel'"}
    assert more.count("button 'Cancel'") < 40
    assert chosen != [choose(case, 8, step, weights) for step in range(300)]


def test_long_work_is_pressed_late_and_once() -> None:
    assert "submit 'Fit'" not in offered(NOTHING, 6, Counter())[0]
    assert "submit 'Fit'" in offered(NOTHING, 7, Counter())[0]
    assert "submit 'Fit'" not in offered(NOTHING, 7, Counter({"Fit": 1}))[0]


def test_what_a_page_forgets() -> None:
    before = replace(
        NOTHING,
        widgets={"Colour by": "Class"},
        headings={"h1#": "Features", "h2#feature": "Feature 3"},
    )
    assert differences(before, before, worked=False) == []
    other = replace(
        before,
        widgets={"Colour by": "Density"},
        headings={"h1#": "Features", "h2#feature": "Feature 0"},
    )
    assert differences(before, other, worked=True) == [
        "h2#feature: was 'Feature 3', is 'Feature 0'",
        "Colour by: was 'Class', is 'Density'",
    ]
    less = replace(before, headings={"h1#": "Features"})
    assert differences(before, less, worked=False) == ["h2#feature: is gone"]
    assert differences(before, less, worked=True) == [], "the result of a button"
    waiting = replace(less, opening=True)
    assert differences(waiting, before, worked=False) == [], "the models are open by now"
    assert differences(less, before, worked=False) == ["h2#feature: was not there before"]
    moved = replace(before, url="http://127.0.0.1:1/features?pair=other")
    assert differences(before, moved, worked=True) == ["address: pair was 'nano', is 'other'"]
    assert differences(before, replace(before, url="http://127.0.0.1:1/"), worked=True) == [
        "shows /, not /features"
    ]


def test_the_table_counts_and_a_result_is_taken_up_again(tmp_path: Path) -> None:
    fault = Fault("server", "KeyError: 0", "…", seed=17, step=42, first=40)
    result = Result("features/nano/phone", 0, 60.0)
    assert result.add(Walk(steps=42, longest=3.0, faults=[fault])) == [fault]
    assert result.add(Walk(steps=60, longest=5.0, faults=[replace(fault, seed=18)])) == []
    assert (
        again(result.case, fault)
        == "make monkey PAGE=features WORKSPACE=nano SIZE=phone SEED=17 STEPS=42 FROM=40"
    )
    shown = table([result], 90)
    assert re.search(r"^features +nano +phone +2 +102 +1 +5\.0 s$", shown, re.M)
    assert re.search(r"^target +0 +≤ 90 s$", shown, re.M)
    path = tmp_path / "one.json"
    assert stored(path, 0, 60.0) is None
    result.write(path)
    assert stored(path, 0, 60.0) == result
    assert stored(path, 1, 60.0) is None
    path.write_text(path.read_text()[:50])
    assert stored(path, 0, 60.0) is None


def test_every_page_and_shipped_workspace_is_visited() -> None:
    assert len(PAGES) == len(set(PAGES)) == 11
    assert WORKSPACES == ["nano", "smollm2-gemma3"]
