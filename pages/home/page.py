"""The first page: one model thinks, another speaks, and you can try it. It shows a run that was
kept, so nothing waits for a model; below, a tile for each of the other views."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

from core import jobs
from core.models.pairs import PairSpec, get_pair
from core.steering import showcase
from core.stitches import tables as stitch_tables
from core.workspace import store
from core.workspace.store import Workspace
from pages.home import figures, live, tiles
from pages.shared import frame, panels, studios
from pages.shared.address import bound
from pages.shared.frame import ask, section
from pages.shared.words import plain, short_names

CROSSING = "crossing/page.py"
LONGEST = 2000
"""Letters of a beginning."""
DRAWN_WITH = ("PlotlyChart", "DataFrame", "StreamlitSyntaxHighlighter")
"""Figures, tables and commands, as Streamlit calls the scripts that draw them."""
AHEAD = """<script>
{
  const scripts = %s;
  const idle = window.requestIdleCallback ?? (call => setTimeout(call, 1000));  // Safari has none
  const fetchOne = () => {
    const next = scripts.shift();
    if (next) import(new URL(next, document.baseURI)).catch(() => {}).then(() => idle(fetchOne));
  };
  idle(fetchOne);
}
</script>"""
"""One after another, and only while nothing else is to be done."""


def page() -> None:
    ws = frame.workspace()
    with section():
        pair = get_pair(ws.pair)
        short = short_names(pair)
        st.title("StitchLens", anchor=False)
        st.markdown(
            "Does a feature of one language model exist in another? A *stitch* carries the thought"
            " of one into the other, half-way: **one thinks, the other speaks.**"
        )
        panels.refusal()
        panels.job_panel(ws.pair)
        st.html(figures.joined(pair.a, pair.b, short, seam(ws)))
        if not ws.exists:
            empty(pair)
            return

        with section():
            stage(ws)
        with section():
            tiles.tiles(ws, pair, short)
        ahead()
        # last: importing torch beside it would slow the page
        studios.opening(ws.pair)


def seam(ws: Workspace) -> tuple[int, int] | None:
    """The layers that the stitch of the run that is shown joins, or the default one's."""
    if not ws.exists:
        return None
    names = ask(stitch_tables.stitch_names, ws)
    kept = ask(showcase.read, ws)
    name = kept["stitch"] if kept else next(iter(names), None)
    if name not in names:
        return None
    makers = ask(store.makers, ws, f"stitches/{name}")
    return int(makers["layer_a"]), int(makers["layer_b"])


def empty(pair: PairSpec) -> None:
    panels.door(
        f"**No workspace for {plain(pair.title)} yet.** Building one reads the corpus with both"
        " models, compares their layers, fits stitches and measures them. It may be stopped and"
        " goes on where it was.",
        f"python -m core build {pair.key}",
        "Build it",
        lambda: jobs.start(pair.key, "build"),
    )


def stage(ws: Workspace) -> None:
    """The run that was kept, a lane at a time, and a field for a beginning of one's own."""
    kept = ask(showcase.read, ws)
    place = st.container()
    # in its place: outside a container it would lie at the window's foot
    beginning = st.container().chat_input("Your beginning …", key="beginning", max_chars=LONGEST)
    if beginning and kept:
        with place:
            live.stream(ws, kept, beginning)
        return
    if beginning:
        st.switch_page(CROSSING, query_params={"pair": ws.pair, "text": beginning})
    with place:
        shown = live.latest(ws) or kept
        if shown:
            lane(shown)
        else:
            panels.door(
                "**No run is kept for this page yet.** This writes one and keeps it.",
                f"python -m core showcase {ws.pair}",
            )


def lane(run: dict[str, Any]) -> None:
    """One lane of a run; chips choose another at once."""
    titles = [lane["title"] for lane in run["lanes"]]
    title = bound(
        st.pills,
        "Who speaks",
        titles,
        required=True,
        key="hear",
        usual=titles[min(1, len(titles) - 1)],
        what="lane",
        label_visibility="collapsed",
    )
    chosen = run["lanes"][titles.index(str(title))]
    st.html(figures.typed(run["prompt"], chosen["text"], chosen["side"], chosen["carried"]))


def ahead() -> None:
    """While one reads, the browser fetches and starts what other pages draw with, 5 MB that would
    make the first of them wait."""
    st.html(AHEAD % json.dumps(scripts_ahead()), unsafe_allow_javascript=True)


@cache
def scripts_ahead() -> list[str]:
    """Where Streamlit keeps them, below the app's address; their names hold a hash."""
    root = Path(st.__file__).parent / "static"
    found = [script for kind in DRAWN_WITH for script in root.rglob(f"{kind}.*.js")]
    return [script.relative_to(root).as_posix() for script in found]


page()
