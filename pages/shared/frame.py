"""What every page shares: the workspace shown, cached queries, messages in place, numbers in words, the job panel."""

import hashlib
import math
import re
import runpy
import secrets
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from core import jobs
from core.errors import StitchLensError
from core.features import tables as feature_tables
from core.models.pairs import PairSpec, get_pair, known_pairs
from core.workspace import artifacts, store, uploads
from core.workspace.places import PROJECT, workspaces_dir
from core.workspace.store import Workspace

P = ParamSpec("P")
T = TypeVar("T")
NARROW = "\u202f"
"""The narrow space before a per cent sign, at which no line is broken."""
STALE = 3600
"""Seconds after which a job that is over is no longer news."""


def routed() -> None:
    """Hand over to `app.py` where it did not run: with a `pages` folder there, Streamlit's very first run skips it.
    Then note whether this page is another one than in the run before, see `settle`."""
    if "pair" not in st.session_state:
        runpy.run_path(str(PROJECT / "app.py"))
        st.stop()
    now, context = st.session_state, get_script_run_ctx()
    page = context and context.page_script_hash
    now["arrived"] = now.get("page") != page
    now["page"] = page


def workspace() -> Workspace:
    """The workspace that the picker of the frame names, with what this browser brought to it."""
    pair, private = st.session_state.get("pair", ""), mine()
    return Workspace(pair, private=private if (private / pair / "manifest.json").exists() else None)


def other_workspace(asked: str | None, shown: str, built: Sequence[str]) -> None:
    """Say that a link asks for a workspace that is not there, for as long as the one in its place is shown."""
    now = st.session_state
    if asked is not None and asked != shown and asked not in built:
        now["other_workspace"] = (asked, shown)
    missing, instead = now.get("other_workspace", ("", ""))
    if instead != shown:
        return
    if missing in known_pairs():
        what = f"{plain(get_pair(missing).title)} has no workspace yet (`python -m core build {missing}` makes it)"
    else:
        what = f"No workspace {plain(missing)} here"
    st.warning(f"{what}; this is {plain(get_pair(shown).title)}. Others are in the sidebar's list.")


def mine() -> Path:
    """The folder of what this browser brought. The browser is known by the random cookie that Streamlit gives it
    against forged requests; without one, this session stands for it."""
    _, mask, token, *_ = [*st.context.cookies.get("_streamlit_xsrf", "").split("|"), "", "", ""]
    try:
        masked, key = bytes.fromhex(token), bytes.fromhex(mask)
        secret = bytes(x ^ key[i % len(key)] for i, x in enumerate(masked))
    except (ValueError, ZeroDivisionError):
        secret = b""
    if len(secret) < 16:
        secret = st.session_state.setdefault("browser", secrets.token_bytes(16))
    return uploads.private_home(hashlib.sha256(b"stitchlens" + secret).hexdigest()[:32])


def ask(query: Callable[Concatenate[Workspace, P], T], ws: Workspace, *args: P.args, **kwargs: P.kwargs) -> T:
    """`query(ws, …)`, remembered until an artifact of the workspace changes."""
    at = (ws.pair, str(workspaces_dir()), ws.private and str(ws.private))
    return _ask(query, query.__name__, at, store.stamp(ws), args, kwargs)


@st.cache_data(max_entries=200, show_spinner=False)
def _ask(_query: Callable[..., T], name: str, at: tuple[str, str, str | None], stamp: str, args: Any, kwargs: Any) -> T:
    pair, root, private = at
    return _query(Workspace(pair, Path(root), Path(private) if private else None), *args, **kwargs)


def action() -> Literal["primary", "secondary"]:
    """The kind of a page's main button. Streamlit writes white on a primary one, which the dark theme's light ink does
    not carry."""
    return "secondary" if st.context.theme.type == "dark" else "primary"


def on_phone() -> bool:
    """Whether a swipe should scroll past a figure that a drag with a mouse would brush."""
    return "Mobi" in (st.context.headers.get("User-Agent") or "")


TOUCH = """<script>
if (!window.stitchlensTouch) {
  window.stitchlensTouch = true;
  document.addEventListener("touchstart", event => {
    const plot = event.target.closest?.(".js-plotly-plot");
    const drag = plot?._fullLayout?.dragmode;
    if (plot && drag !== "select" && drag !== "lasso") event.stopPropagation();
  }, {capture: true, passive: true});
}
</script>"""


def touch() -> None:
    """Let a swipe over a figure scroll the page and a tap pick a mark. Streamlit turns a figure whose marks can be
    picked from no drag mode into panning, for which Plotly takes every touch; kept from it, a tap comes as a click."""
    st.html(TOUCH, unsafe_allow_javascript=True)


# The address


def settle(
    key: str, usual: T, parse: Callable[[str], T | None], whose: object, limits: str = "", tell: bool = False
) -> T:
    """Settle what `st.session_state[key]` holds before its widget is drawn, and keep it in the address.

    A link, Back and forward bring what their address says; else what was chosen here stays, also on coming back from
    another page. `usual` is what is shown where nothing was chosen: the address leaves it out. What was chosen for
    something else than `whose` (another workspace or SAE) is forgotten, and `tell` says so. An address that `parse`
    makes None of is said, with the `limits`. The widget is not bound to the address by Streamlit, which leaves out a
    fixed default: ours moves with what is shown.
    """
    now, asked = st.session_state, st.query_params.get(key)
    memory = now.get(f"settled-{key}")
    context = get_script_run_ctx()
    moved = context is not None and context.is_history_navigation
    value = usual
    if asked is not None and (memory is None or moved or now.get("arrived")):
        linked = parse(asked)
        if linked is None:
            st.warning(f"No {key.replace('_', ' ')} {plain(asked)} here{limits}; showing {plain(usual)}.")
        else:
            value = linked
    elif memory is not None and not moved and memory["whose"] == whose:
        chosen = memory["value"] if now.get("arrived") else now.get(key, usual)
        value = usual if chosen == memory["usual"] else chosen
        if parse(str(value)) is None:
            value = usual
    elif tell and memory is not None and memory["whose"] != whose and memory["value"] != memory["usual"]:
        st.info(f"{key.capitalize()} {plain(memory['value'])} was of another SAE; this one opens at {plain(usual)}.")
    now[key] = value
    now[f"settled-{key}"] = {"whose": whose, "usual": usual, "value": value}
    wanted = None if value == usual else str(value)
    if wanted is not None and wanted != asked:
        st.query_params[key] = wanted
    elif wanted is None and asked is not None:
        del st.query_params[key]
    return value


def whole(low: int, high: int) -> tuple[Callable[[str], int | None], str]:
    """For `settle`: a whole number from `low` to `high`, and these in words."""

    def parse(text: str) -> int | None:
        return int(text) if text.isdecimal() and len(text) < 19 and low <= int(text) <= high else None

    return parse, f", they run from {low} to {high}"


def answer(key: str, options: Iterable[object], what: str) -> None:
    """Say, before the widget that is bound to `key` is drawn, what the address asks for that is not there: Streamlit
    would drop it without a word."""
    known = [str(option) for option in options]
    strange = [asked for asked in st.query_params.get_all(key) if asked not in known]
    if strange:
        st.warning(f"No {what} {plain(', '.join(strange))} here; there {_listed(known)}.")


def within(key: str, low: float, high: float, what: str) -> None:
    """As `answer`, for a number."""
    asked = st.query_params.get(key, "")
    try:
        fits = not asked or low <= float(asked) <= high
    except ValueError:
        fits = False
    if not fits:
        st.warning(f"No {what} {plain(asked)} here: it is a number from {low:g} to {high:g}.")


def _listed(names: Sequence[str], most: int = 8) -> str:
    if not names:
        return "is none"
    rest = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{'is' if len(names) == 1 else 'are'} {', '.join(map(plain, names[:most]))}{rest}"


@st.cache_resource(max_entries=2, show_spinner="Opening the corpus")
def _texts(corpus: str) -> dict[str, str]:
    return feature_tables.texts(corpus)


def documents(pair: PairSpec) -> dict[str, str]:
    """The texts of a pair's corpus by document; none where it cannot be opened, which is said."""
    try:
        return _texts(pair.corpus)
    except StitchLensError as e:
        st.error(sentence(e), icon=":material/error:")
        return {}


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


SIGNS = {"\n": "⏎", "\r": "␍", "\t": "⇥"}
EMPTY = "∅"


def seen(text: str) -> str:
    """Text on one line in which everything can be seen: blanks at its ends, breaks, signs without a width; `∅` for
    nothing at all."""
    if not text:
        return EMPTY
    inner = text.strip(" ")
    before = len(text) - len(text.lstrip(" "))
    marked = "␣" * before + inner + "␣" * (len(text) - len(inner) - before)
    parts = (SIGNS.get(c) or (c if unicodedata.category(c)[0] not in "CZ" or c == " " else _number(c)) for c in marked)
    return "".join(parts)


def _number(sign: str) -> str:
    return f"U+{ord(sign):04X}"


def token(text: str) -> str:
    """A token as a span of code in markdown, whatever it holds: it ends where it should, and neither its neighbours nor
    the cells of a table become part of it."""
    shown = seen(text)
    if any(unicodedata.bidirectional(c) in ("R", "AL") for c in shown):
        shown = f"\u2068{shown}\u2069"  # its direction is its own: the tokens beside it keep their places
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    room = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{room}{shown}{room}{fence}"


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
    if job is None or (job.over and (time.time() - job.ended > STALE or not _visible(job))):
        return
    st.fragment(_job, run_every=None if job.over else 1.0)(pair, job.id, not job.over)


def _visible(job: jobs.Job) -> bool:
    """Whether it is everyone's, or this browser's own."""
    return job.record.private in (None, str(mine()))


def _job(pair: str, shown: str, was_running: bool) -> None:
    job = jobs.latest(pair)
    if job is None or job.id != shown:
        st.rerun()
    state = job.state
    title = sentence(job.record.title)
    if was_running and job.over:
        if state == "done" and _visible(job) and job.record.makes.startswith("stitches/"):
            st.session_state["show_stitch"] = job.record.makes.removeprefix("stitches/")
        st.rerun()
    with st.container(border=True, key="job"):
        if not _visible(job):
            st.markdown(":material/hourglass_top: Somebody's private job is running; yours can start after it.")
        elif not job.over:
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
        if job.over:
            with st.container(horizontal=True):
                if state != "done" and st.button("Go on", key=f"again-{job.id}", help="From where it was."):
                    with section():
                        job.again()
                        st.rerun()
                if st.button("Dismiss", key=f"dismiss-{job.id}"):
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
    words, action = st.columns([4, 1], vertical_alignment="center")
    share, paused = min(1.0, done / total) if total else 0.0, job.state == "paused"
    if paused:
        parts.insert(0, "**paused**")
    words.progress(share, text=f"**{title}**, {duration(job.seconds)}. {' · '.join(parts)}")
    with action.container(horizontal=True):
        st.button(
            "Resume" if paused else "Pause", key=f"pause-{job.id}", on_click=_toggle, args=(job,),
            help="A paused job keeps its memory and gives its cores away.",
        )  # fmt: skip
        if st.button("Cancel", key=f"cancel-{job.id}", help="What it has made and read so far is kept."):
            job.cancel()
            st.rerun()


def _toggle(job: jobs.Job) -> None:
    if job.state == "paused":
        job.go_on()
    else:
        job.pause()


def yours(ws: Workspace) -> None:
    """What was brought to this workspace: private to this browser, or kept for all; to keep and to remove."""
    found: list[uploads.Brought] = []
    with section():
        found = uploads.brought(ws)
    if not found:
        return
    with st.expander(f"Brought here ({len(found)})", icon=":material/inventory_2:"):
        for one in found:
            key = f"{ws.pair}-{one.kind}-{one.name}"
            st.markdown(
                f"{':material/lock:' if one.private else ':material/group:'} **{plain(one.name)}**  \n:small["
                f"{artifacts.KINDS[one.kind]}, {one.bytes / 1e6:.2g} MB, "
                f"{'private to this browser' if one.private else 'kept in the workspace'}]"
            )
            with st.container(horizontal=True):
                if one.private:
                    st.button(
                        "Keep in workspace", key=f"keep-{key}", on_click=_moved,
                        args=(uploads.keep, ws, one), help="Everyone who opens this workspace sees it then.",
                    )  # fmt: skip
                    st.button("Remove", key=f"remove-{key}", on_click=_moved, args=(uploads.remove, ws, one))
                else:
                    with st.popover("Remove", key=f"ask-{key}"):
                        st.markdown("For everyone who uses this workspace.")
                        st.button("Remove it", key=f"remove-{key}", on_click=_moved, args=(uploads.remove, ws, one))
        st.caption("Private ones are removed a day after this browser was last here.")


def _moved(change: Callable[[Workspace, artifacts.Kind, str], None], ws: Workspace, one: uploads.Brought) -> None:
    try:
        change(ws, one.kind, one.name)
    except StitchLensError as e:
        st.session_state["refusal"] = sentence(e)


def cells(items: Sequence[tuple[str, str, str]], width: int = 156) -> None:
    """Small facts side by side, as many in a line as fit: label, value, note (markdown)."""
    with st.container(horizontal=True, gap="medium"):
        for label, value, note in items:
            st.markdown(f":small[{label}]  \n**{value}**" + (f"  \n:small[{note}]" if note else ""), width=width)


def warnings(found: Sequence[Mapping[str, str]]) -> None:
    """What a report card warns of, each with the test behind it."""
    for warning in found:
        st.warning(f"{plain(warning['says'])} :small[{plain(warning['test'])}]", icon=":material/warning:")
    if not found:
        st.markdown(":material/check: Nothing looks wrong.")


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
