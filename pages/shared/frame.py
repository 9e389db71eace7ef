"""What every page shares: the workspace shown, cached queries, messages in place, numbers in words,
the job panel."""

import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import streamlit as st

from core.errors import StitchLensError
from core.features import tables as feature_tables
from core.models.pairs import PairSpec, get_pair, known_pairs
from core.workspace import demonstration, store, uploads
from core.workspace.places import workspaces_dir
from core.workspace.store import Workspace
from pages.shared.words import explained, plain, sentence

LONGEST_TITLE = 60
"""Characters of what a page shows, in the browser's tab."""
P = ParamSpec("P")
T = TypeVar("T")


def workspace() -> Workspace:
    """The workspace that the picker of the frame names, with what this browser brought to it."""
    pair = st.session_state.get("pair", "")
    if demonstration.active():
        return Workspace(pair)

    private = mine()
    return Workspace(pair, private=private if (private / pair / "manifest.json").exists() else None)


def other_workspace(asked: str | None, shown: str, built: Sequence[str]) -> None:
    """Say that a link asks for a workspace that is not there, for as long as the one in its place
    is shown."""
    now = st.session_state
    if asked is not None and asked != shown and asked not in built:
        now["other_workspace"] = (asked, shown)
    missing, instead = now.get("other_workspace", ("", ""))
    if instead != shown:
        return
    if missing in known_pairs():
        what = (
            f"{plain(get_pair(missing).title)} has no workspace yet (`python -m core build"
            f" {missing}` makes it)"
        )
    else:
        what = f"No workspace {plain(missing)} here"
    st.warning(f"{what}; this is {plain(get_pair(shown).title)}. Others are in the sidebar's list.")


def mine() -> Path:
    """The folder of what this browser brought."""
    return uploads.private_home(visitor())


def visitor() -> str:
    """This browser. It is known by the random cookie that Streamlit gives it against forged
    requests; without one, this session stands for it."""
    _, mask, token, *_ = [*st.context.cookies.get("_streamlit_xsrf", "").split("|"), "", "", ""]
    try:
        masked, key = bytes.fromhex(token), bytes.fromhex(mask)
        secret = bytes(x ^ key[i % len(key)] for i, x in enumerate(masked))
    except (ValueError, ZeroDivisionError):
        secret = b""
    if len(secret) < 16:
        secret = st.session_state.setdefault("browser", secrets.token_bytes(16))
    return hashlib.sha256(b"stitchlens" + secret).hexdigest()[:32]


def ask(
    query: Callable[Concatenate[Workspace, P], T], ws: Workspace, *args: P.args, **kwargs: P.kwargs
) -> T:
    """`query(ws, …)`, remembered until an artifact of the workspace changes."""
    return _ask(query, _name(query), _place(ws), stamp(ws), args, kwargs)


def shared(
    query: Callable[Concatenate[Workspace, P], T], ws: Workspace, *args: P.args, **kwargs: P.kwargs
) -> T:
    """As `ask`, the same object for all who ask, which nobody may change: a large table is not
    copied for each."""
    return _shared(query, _name(query), _place(ws), stamp(ws), args, kwargs)


def _name(query: Callable[..., Any]) -> str:
    """A topic's `summary` is not another's."""
    return f"{query.__module__}.{query.__qualname__}"


Place = tuple[str, str, str | None]
"""(pair, folder of the workspaces, private folder): where a workspace lies."""


def _place(ws: Workspace) -> Place:
    return ws.pair, str(workspaces_dir()), ws.private and str(ws.private)


STAMPS: ContextVar[dict[object, str] | None] = ContextVar("stamps", default=None)
"""During a run, see `stamp`."""


def stamp(ws: Workspace) -> str:
    """`store.stamp`, once a run: it looks at every file of a workspace. What the run itself writes
    changes the manifest, and with it what is remembered."""
    stamps = STAMPS.get()
    if stamps is None:
        return store.stamp(ws)

    states = []
    for folder in dict.fromkeys((ws.root, ws.shared.root)):  # one, where nothing is private
        with suppress(FileNotFoundError):
            stat = (folder / "manifest.json").stat()
            states.append((stat.st_ino, stat.st_mtime_ns))
    key = (str(ws.root), ws.private, *states)
    if key not in stamps:
        stamps[key] = store.stamp(ws)
    return stamps[key]


def begin() -> None:
    """At a run's start: stamps are remembered until its `end`. A fragment that runs by itself, as a
    job's panel does, looks anew."""
    STAMPS.set({})


def end() -> None:
    STAMPS.set(None)


def _answer(
    _query: Callable[..., T],
    name: str,
    at: Place,
    stamp: str,
    args: Any,
    kwargs: Any,
) -> T:
    pair, root, private = at
    return _query(Workspace(pair, Path(root), Path(private) if private else None), *args, **kwargs)


_ask = st.cache_data(max_entries=200, show_spinner=False)(_answer)
_shared = st.cache_resource(max_entries=4, show_spinner=False)(_answer)


def action() -> Literal["primary", "secondary"]:
    """The kind of a page's main button. Streamlit writes white on a primary one, which the dark
    theme's light ink does not carry."""
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
    """Let a swipe over a figure scroll the page and a tap pick a mark. Streamlit turns a figure
    whose marks can be picked from no drag mode into panning, for which Plotly takes every touch;
    kept from it, a tap comes as a click."""
    st.html(TOUCH, unsafe_allow_javascript=True)


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


def titled(shown: str, topic: str) -> None:
    """Name in the browser's tab, and so in its history and bookmarks, what a page shows."""
    name = shown if len(shown) <= LONGEST_TITLE else f"{shown[:LONGEST_TITLE].rstrip()}…"
    st.set_page_config(page_title=" · ".join((name, topic, "StitchLens")))


@contextmanager
def section() -> Iterator[None]:
    """A part of a page: a fault that a person can mend is said in its place, and the rest of the
    page is drawn."""
    try:
        yield
    except StitchLensError as e:
        st.error(sentence(e), icon=":material/error:")


def cells(items: Sequence[tuple[str, str, str]], width: int = 156) -> None:
    """Small facts side by side, as many in a line as fit: label, value, note (markdown). A label
    of the field is explained."""
    with st.container(horizontal=True, gap="medium"):
        for label, value, note in items:
            st.markdown(
                f":small[{label}]  \n**{value}**" + (f"  \n:small[{note}]" if note else ""),
                width=width,
                help=explained(label),
            )


def heads(columns: Iterable[str], **own: Any) -> dict[str, Any]:
    """The heads of a table, explained where they are words of the field; `own` take the place of
    these."""
    lines = {column: explained(column) for column in columns}
    return {
        column: st.column_config.Column(help=line) for column, line in lines.items() if line
    } | own
