"""The address holds a page's state: a link shows what its sender saw, and what it asks for that is
not there is answered in a sentence."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.scriptrunner import get_script_run_ctx

from pages.shared.tokens import seen
from pages.shared.words import plain

T = TypeVar("T")
Words = str | list[str]
"""What an address says under a key; a list where it says it several times."""
NOTICES: ContextVar[DeltaGenerator | None] = ContextVar("notices", default=None)
"""The top of the page, where answers to the address are in view."""
CHANGES: ContextVar[dict[str, Words | None] | None] = ContextVar("changes", default=None)
"""What the run at hand changes in the address, see `write`; None takes a key out."""
UNHEARD = 1.0
"""Seconds in which a browser may not have heard of a value that was `put`."""
NUMBERS = {"number_input", "slider"}
TEXTS = {"text_input", "text_area"}
SWITCHES = {"checkbox", "toggle"}


def arrive() -> None:
    """Note whether the page that is about to run is another one than in the run before, see
    `settle`; its answers to the address stand where this is called."""
    now, context = st.session_state, get_script_run_ctx()
    page = context and context.page_script_hash
    now["arrived"] = now.get("page") != page
    now["page"] = page
    NOTICES.set(st.container())
    CHANGES.set({})


def write() -> None:
    """Bring the address up to date, at once: each change by itself would be a step of Back."""
    changes = CHANGES.get() or {}
    wanted = {key: words for key, words in changes.items() if words is not None}
    gone = [key for key, words in changes.items() if words is None]
    changes.clear()
    for key in gone:
        del st.query_params[key]
    if wanted:
        st.query_params.update(wanted)


def keep(key: str, words: str) -> None:
    """After `settle`: leave a usual value in the address, where something else that stands there
    would open another one."""
    changes = CHANGES.get()
    if st.query_params.get(key) == words:
        (changes or {}).pop(key, None)
    else:
        change(key, words)


def notice(sentence: str) -> None:
    """Answer the address at the top of the page: the widget may stand in what is folded up."""
    (NOTICES.get() or st).warning(sentence)


def put(key: str, value: object) -> None:
    """From a callback: choose a value, whatever it was chosen for, also where its widget was not
    drawn yet."""
    st.session_state[key] = value
    st.session_state[f"put-{key}"] = True


def forget(*keys: str) -> None:
    """From a callback: show what is usual again."""
    for key in keys:
        st.session_state.pop(key, None)
        st.session_state.pop(f"settled-{key}", None)


def settle(
    key: str,
    usual: T,
    parse: Callable[[Any], T | None],
    whose: object,
    limits: str = "",
    tell: bool = False,
    words: Callable[[T], Words] = str,
    many: bool = False,
    what: str = "",
) -> T:
    """Settle what `st.session_state[key]` holds before its widget is drawn, and keep it in the
    address in these `words`; `parse` reads them, a list where there are `many`.

    A link, Back and forward bring what their address says; else what was chosen here stays, also on
    coming back from another page. `usual` is what is shown where nothing was chosen: the address
    leaves it out. What was chosen for something else than `whose` (another workspace or SAE) is
    forgotten, and `tell` says so. An address that `parse` makes None of is answered, with the
    `limits`; `what` names the value there.

    No widget is bound to the address by Streamlit, which drops what it does not know without a
    word, leaves out a fixed default where ours moves with what is shown, writes a choice as the
    screen names it, and clears the address of a page that is left before it leaves it, so that Back
    comes to a page that has forgotten everything.
    """
    now, said = st.session_state, st.query_params.get_all(key)
    linked: Any = None if not said else said if many else said[-1]
    memory = now.get(f"settled-{key}")
    context = get_script_run_ctx()
    moved = context is not None and context.is_history_navigation

    value = usual
    unheard = _unheard(memory)
    if now.pop(f"put-{key}", False):
        value = now[key]
        unheard = Unheard(time.monotonic(), (*unheard.before, memory and memory["value"]))
    elif linked is not None and (memory is None or moved or now.get("arrived")):
        parsed = parse(linked)
        if parsed is None:
            name = what or key.replace("_", " ")
            showing = words(usual)
            asked_for = plain(seen(said[-1]))
            instead = plain(seen(showing if isinstance(showing, str) else ", ".join(showing)))
            notice(f"No {name} {asked_for} here{limits}; showing {instead}.")
        else:
            value = parsed
    elif memory is not None and not moved and memory["whose"] == whose:
        chosen = memory["value"] if now.get("arrived") else now.get(key, memory["value"])
        if chosen in unheard.before:
            chosen = memory["value"]
        value = usual if chosen == memory["usual"] else chosen
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
    if parse(words(value)) is None:
        value = usual

    if moved or now.get("arrived") or key not in now or now[key] != value:
        now[key] = value  # else left alone: it would take the place of what is being typed
    now[f"settled-{key}"] = {
        "whose": whose,
        "usual": usual,
        "value": value,
        "unheard": unheard,
    }
    wanted = None if value == usual else words(value)
    if wanted is not None and said != (wanted if many else [wanted]):
        change(key, wanted)
    elif wanted is None and said:
        change(key, None)
    return value


class Unheard(NamedTuple):
    """What a browser may still send, for it has not heard yet of the value that was `put`."""

    put_at: float
    before: tuple[Any, ...]
    """The values until then."""


NEVER = Unheard(-math.inf, ())


def _unheard(memory: dict[str, Any] | None) -> Unheard:
    """Two clicks in a row send what was chosen before either is answered: the second would take
    the first one back."""
    last = NEVER if memory is None else memory["unheard"]
    return last if time.monotonic() - last.put_at < UNHEARD else NEVER


def change(key: str, wanted: Words | None) -> None:
    """In the address, when the page is drawn; at once where no page is under way. None takes the
    key out."""
    changes = CHANGES.get()
    if wanted is None and key not in st.query_params:
        (changes or {}).pop(key, None)
    elif changes is not None:
        changes[key] = wanted
    elif wanted is None:
        del st.query_params[key]
    else:
        st.query_params[key] = wanted


def bound(
    widget: Callable[..., Any],
    label: str,
    *limits: Any,
    key: str,
    usual: Any = None,
    what: str = "",
    words: Callable[[Any], str] | None = None,
    whose: object = "",
    **options: Any,
) -> Any:
    """Draw a widget whose value is in the address under its `key`, and return that value.

    `limits` are the widget's own: the options to choose from, or the least and the largest number;
    `usual` is what is shown where nothing is chosen, by default the first of them. `what` names the
    value in an answer, by default the label. `words` are how the address calls an option, by
    default as the screen does. See `settle`.
    """
    what = what or label[:1].lower() + label[1:]
    kind = widget.__name__
    if kind in NUMBERS:
        parse, sentence, write_as = number(*limits)
        usual = limits[0] if usual is None else usual
    elif kind in TEXTS:
        parse, sentence, write_as = text(options["max_chars"], key, what), "", str
        usual = usual or ""
    elif kind in SWITCHES:
        parse, sentence, write_as = one_of((True, False), lambda on: str(on).lower())
    else:
        parse, sentence, write_as = one_of(limits[0], words or options.get("format_func", str))
        usual = next(iter(limits[0])) if usual is None else usual
    settle(key, usual, parse, whose, sentence, words=write_as, what=what)
    return widget(label, *limits, key=key, **options)


Reading = tuple[Callable[[str], Any], str, Callable[[Any], str]]
"""For `settle`: how to read a value, its limits in a sentence, and how to write it."""


def one_of(options: Iterable[Any], words: Callable[[Any], str]) -> Reading:
    """A choice that the address writes in `words`."""
    by_option = {option: words(option) for option in options}
    by_word = {word: option for option, word in by_option.items()}
    # what was chosen of other options is "", which is none of these
    return by_word.get, f", there {listed(list(by_word))}", lambda x: by_option.get(x, "")


def number(low: float, high: float) -> Reading:
    """A number from `low` to `high`, a whole one where both are."""
    if isinstance(low, int) and isinstance(high, int):
        return *whole(low, high), str

    def parse(text: str) -> float | None:
        try:
            value = float(text)
        except ValueError:
            return None
        return value if low <= value <= high else None

    return parse, f", it is a number from {low:g} to {high:g}", "{:g}".format


def whole(low: int, high: int) -> tuple[Callable[[str], int | None], str]:
    """A whole number from `low` to `high`, and these in words."""

    def parse(text: str) -> int | None:
        short = text.isdecimal() and len(text) < 19
        return int(text) if short and low <= int(text) <= high else None

    return parse, f", they run from {low} to {high}"


def text(most: int, key: str, what: str) -> Callable[[str], str]:
    """Any text; of one that is too long, its beginning, which is told."""

    def parse(words: str) -> str:
        if len(words) > most and len(st.query_params.get(key, "")) > most:
            notice(f"The {what} of this link is cut after {most:,} of {len(words):,} characters.")
        return words[:most]

    return parse


def choices(key: str, options: Iterable[object], what: str) -> None:
    """Answer an address that asks for one of several that are not there, or where there is nothing
    to choose."""
    known = [str(option) for option in options]
    asked = dict.fromkeys(st.query_params.get_all(key))
    strange = [words for words in asked if words and words not in known]
    if strange:
        notice(f"No {what} {plain(', '.join(strange))} here; there {listed(known)}.")


def listed(names: Sequence[str], most: int = 8) -> str:
    """'are this, that and 3 more'"""
    if not names:
        return "is none"
    rest = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{'is' if len(names) == 1 else 'are'} {', '.join(map(plain, names[:most]))}{rest}"
