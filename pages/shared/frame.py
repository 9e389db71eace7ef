"""What every page shares: the workspace shown, cached queries, messages in place, numbers in words, the job panel."""

import math
import re
import runpy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import streamlit as st

from core import jobs, queries
from core.errors import StitchLensError
from core.store import PROJECT, Workspace, workspaces_dir

P = ParamSpec("P")
T = TypeVar("T")
NARROW = "\u202f"
"""The narrow space before a per cent sign, at which no line is broken."""
STALE = 3600
"""Seconds after which a job that is over is no longer news."""


def routed() -> None:
    """Hand over to `app.py` where it did not run: with a `pages` folder there, Streamlit's very first run skips it."""
    if "pair" not in st.session_state:
        runpy.run_path(str(PROJECT / "app.py"))
        st.stop()


def workspace() -> Workspace:
    """The workspace that the picker of the frame names."""
    return Workspace(st.session_state.get("pair", ""))


def ask(query: Callable[Concatenate[Workspace, P], T], ws: Workspace, *args: P.args, **kwargs: P.kwargs) -> T:
    """`query(ws, …)`, remembered until an artifact of the workspace changes."""
    return _ask(query, query.__name__, ws.pair, str(workspaces_dir()), queries.stamp(ws), args, kwargs)


@st.cache_data(max_entries=200, show_spinner=False)
def _ask(_query: Callable[..., T], name: str, pair: str, root: str, stamp: str, args: Any, kwargs: Any) -> T:
    return _query(Workspace(pair, Path(root)), *args, **kwargs)


@contextmanager
def section() -> Iterator[None]:
    """A part of a page: a fault that a person can mend is said in its place, and the rest of the page is drawn."""
    try:
        yield
    except StitchLensError as e:
        st.error(sentence(e), icon=":material/error:")


def sentence(text: object) -> str:
    """Text from a file or an error as markdown that shows it as it is; `code` in backticks stays code."""
    parts = re.split(r"(`[^`]+`)", str(text))
    return "".join(part if i % 2 else plain(part) for i, part in enumerate(parts))


def plain(text: object) -> str:
    """Text with every sign of markdown, of Streamlit's directives and of HTML escaped."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|<>~:$&^=])", r"\\\1", str(text))


def loss(x: float, low: float | None = None, high: float | None = None) -> str:
    """Nats per token, two decimals as in the paper; with its interval where that is given."""
    if x is None or math.isnan(x):
        return "–"
    return f"{x:.2f}" + ("" if low is None or high is None else f" [{low:.2f}, {high:.2f}]")


def percent(x: float, low: float | None = None, high: float | None = None, sign: bool = True) -> str:
    """A fraction as a percentage with two significant digits; with its interval, as many as that supports."""
    if x is None or math.isnan(x):
        return "–"
    x = 100 * x
    digits = _digits(x, 2)
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return f"{_fixed(x, digits, sign)}{NARROW}%"
    half = float(f"{50 * (high - low):.2g}")
    digits = max(_digits(half, 1), min(digits, _digits(half, 2))) if half else digits
    return f"{_fixed(x, digits, sign)} [{_fixed(100 * low, digits, sign)}, {_fixed(100 * high, digits, sign)}]{NARROW}%"


def count(n: float) -> str:
    """A number of things, short: 4.8 M, 60 k, 411."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(n) >= size:
            return f"{n / size:.3g}"[:4].rstrip(".") + unit
    return f"{n:.3g}"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _digits(x: float, significant: int) -> int:
    """Decimals that show `x` to so many significant digits."""
    return significant - 1 - math.floor(math.log10(abs(x))) if x else 0


def _fixed(x: float, digits: int, sign: bool) -> str:
    rounded = round(x, digits)
    text = f"{abs(rounded):.{max(digits, 0)}f}"
    return ("−" if rounded < 0 else "+" if sign and rounded else "") + text


def job_panel(pair: str) -> None:
    """The pair's latest job: progress, time left and cancel while it runs, then what came of it until dismissed."""
    job = jobs.latest(pair)
    running = job is not None and job.state == "running"
    if job is None or not (running or time.time() - job.ended < STALE):
        return
    st.fragment(_job, run_every=1.0 if running else None)(pair, job.id, running)


def _job(pair: str, shown: str, was_running: bool) -> None:
    job = jobs.latest(pair)
    if job is None or job.id != shown:
        st.rerun()
    state = job.state
    title = sentence(job.record.title)
    if was_running and state != "running":
        if state == "done" and job.record.makes.startswith("stitches/"):
            st.session_state["show_stitch"] = job.record.makes.removeprefix("stitches/")
        st.rerun()
    with st.container(border=True, key="job"):
        if state == "running":
            _progress(job, title)
        elif state == "done":
            st.markdown(f":material/check: **{title}** is done, in {duration(job.seconds)}.")
        elif state == "cancelled":
            st.markdown(f":material/block: **{title}**: {sentence(job.message)}")
        else:
            st.error(f"**{title}** {state}. {sentence(job.message)}", icon=":material/error:")
            if job.log.strip():
                with st.expander("Its last output"):
                    st.code(job.log[-4000:], language=None, wrap_lines=True)
        if state != "running" and st.button("Dismiss", key=f"dismiss-{job.id}"):
            job.forget()
            st.rerun()


def _progress(job: jobs.Job, title: str) -> None:
    now = job.progress
    done, total, unit = now.get("done") or 0, now.get("total"), now.get("unit", "")
    parts = [sentence(now.get("step") or "Starting")]
    if done or total:  # a total is an estimate: work may go past it
        parts.append(f"{count(done)}{f' of {count(total)}' if total and done <= total else ''} {sentence(unit)}")
    if rate := now.get("rate"):
        parts.append(f"{count(rate)} {sentence(unit)}/s")
    if (left := now.get("seconds_left")) is not None and left >= 0:
        parts.append(f"{duration(left)} left in this step")
    words, action = st.columns([5, 1], vertical_alignment="center")
    share = min(1.0, done / total) if total else 0.0
    words.progress(share, text=f"**{title}**, {duration(job.seconds)}. {' · '.join(parts)}")
    if action.button("Cancel", key=f"cancel-{job.id}", width="stretch"):
        job.cancel()
        st.rerun()


def cells(items: Sequence[tuple[str, str, str]], width: int = 156) -> None:
    """Small facts side by side, as many in a line as fit: label, value, note (markdown)."""
    with st.container(horizontal=True, gap="medium"):
        for label, value, note in items:
            st.markdown(f":small[{label}]  \n**{value}**" + (f"  \n:small[{note}]" if note else ""), width=width)


def begin(start: Callable[[], jobs.Job]) -> None:
    """Start a job from a button's callback; a refusal is kept for the rerun that follows, see `refusal`."""
    try:
        start()
    except StitchLensError as e:
        st.session_state["refusal"] = sentence(e)


def refusal() -> None:
    """Show, once, why a job was not started."""
    if said := st.session_state.pop("refusal", None):
        st.error(said, icon=":material/error:")


def door(what: str, command: str, label: str = "", start: Callable[[], jobs.Job] | None = None) -> None:
    """An empty state: what is missing, the command that makes it and, where it is short work, a button that runs it."""
    with st.container(border=True):
        st.markdown(what)
        st.code(command, language="bash")
        if start is not None:
            st.button(label, on_click=begin, args=(start,), key=f"door-{command}")
