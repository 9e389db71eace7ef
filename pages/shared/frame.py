"""What every page shares: the workspace shown, cached queries, messages in place, numbers in words,
the job panel."""

import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from core.errors import StitchLensError
from core.features import tables as feature_tables
from core.models.pairs import PairSpec, get_pair, known_pairs
from core.workspace import store, uploads
from core.workspace.places import workspaces_dir
from core.workspace.store import Workspace
from pages.shared.words import plain, sentence

P = ParamSpec("P")
T = TypeVar("T")


def arrive() -> None:
    """Note whether the page that is about to run is another one than in the run before, see
    `settle`."""
    now, context = st.session_state, get_script_run_ctx()
    page = context and context.page_script_hash
    now["arrived"] = now.get("page") != page
    now["page"] = page


def workspace() -> Workspace:
    """The workspace that the picker of the frame names, with what this browser brought to it."""
    pair, private = st.session_state.get("pair", ""), mine()
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
    """The folder of what this browser brought. The browser is known by the random cookie that
    Streamlit gives it against forged requests; without one, this session stands for it."""
    _, mask, token, *_ = [*st.context.cookies.get("_streamlit_xsrf", "").split("|"), "", "", ""]
    try:
        masked, key = bytes.fromhex(token), bytes.fromhex(mask)
        secret = bytes(x ^ key[i % len(key)] for i, x in enumerate(masked))
    except (ValueError, ZeroDivisionError):
        secret = b""
    if len(secret) < 16:
        secret = st.session_state.setdefault("browser", secrets.token_bytes(16))
    return uploads.private_home(hashlib.sha256(b"stitchlens" + secret).hexdigest()[:32])


def ask(
    query: Callable[Concatenate[Workspace, P], T], ws: Workspace, *args: P.args, **kwargs: P.kwargs
) -> T:
    """`query(ws, …)`, remembered until an artifact of the workspace changes."""
    at = (ws.pair, str(workspaces_dir()), ws.private and str(ws.private))
    return _ask(query, query.__name__, at, store.stamp(ws), args, kwargs)


@st.cache_data(max_entries=200, show_spinner=False)
def _ask(
    _query: Callable[..., T],
    name: str,
    at: tuple[str, str, str | None],
    stamp: str,
    args: Any,
    kwargs: Any,
) -> T:
    pair, root, private = at
    return _query(Workspace(pair, Path(root), Path(private) if private else None), *args, **kwargs)


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


# The address


def settle(
    key: str,
    usual: T,
    parse: Callable[[str], T | None],
    whose: object,
    limits: str = "",
    tell: bool = False,
) -> T:
    """Settle what `st.session_state[key]` holds before its widget is drawn, and keep it in the
    address.

    A link, Back and forward bring what their address says; else what was chosen here stays, also on
    coming back from another page. `usual` is what is shown where nothing was chosen: the address
    leaves it out. What was chosen for something else than `whose` (another workspace or SAE) is
    forgotten, and `tell` says so. An address that `parse` makes None of is said, with the `limits`.
    The widget is not bound to the address by Streamlit, which leaves out a fixed default: ours
    moves with what is shown.
    """
    now, asked = st.session_state, st.query_params.get(key)
    memory = now.get(f"settled-{key}")
    context = get_script_run_ctx()
    moved = context is not None and context.is_history_navigation
    value = usual
    if asked is not None and (memory is None or moved or now.get("arrived")):
        linked = parse(asked)
        if linked is None:
            st.warning(
                f"No {key.replace('_', ' ')} {plain(asked)} here{limits}; showing {plain(usual)}."
            )
        else:
            value = linked
    elif memory is not None and not moved and memory["whose"] == whose:
        chosen = memory["value"] if now.get("arrived") else now.get(key, usual)
        value = usual if chosen == memory["usual"] else chosen
        if parse(str(value)) is None:
            value = usual
    elif (
        tell
        and memory is not None
        and memory["whose"] != whose
        and memory["value"] != memory["usual"]
    ):
        st.info(
            f"{key.capitalize()} {plain(memory['value'])} was of another SAE; this one opens at"
            f" {plain(usual)}."
        )
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
        return (
            int(text) if text.isdecimal() and len(text) < 19 and low <= int(text) <= high else None
        )

    return parse, f", they run from {low} to {high}"


def answer(key: str, options: Iterable[object], what: str) -> None:
    """Say, before the widget that is bound to `key` is drawn, what the address asks for that is not
    there: Streamlit would drop it without a word."""
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
    """A part of a page: a fault that a person can mend is said in its place, and the rest of the
    page is drawn."""
    try:
        yield
    except StitchLensError as e:
        st.error(sentence(e), icon=":material/error:")


def cells(items: Sequence[tuple[str, str, str]], width: int = 156) -> None:
    """Small facts side by side, as many in a line as fit: label, value, note (markdown)."""
    with st.container(horizontal=True, gap="medium"):
        for label, value, note in items:
            st.markdown(
                f":small[{label}]  \n**{value}**" + (f"  \n:small[{note}]" if note else ""),
                width=width,
            )
