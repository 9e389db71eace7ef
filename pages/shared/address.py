"""The address holds a page's state: a link shows what its sender saw, and what it asks for that is
not there is answered in a sentence."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.scriptrunner import get_script_run_ctx

from pages.shared.words import plain

T = TypeVar("T")
NOTICES: ContextVar[DeltaGenerator | None] = ContextVar("notices", default=None)
"""The top of the page, where answers to the address are in view."""
CHOSEN_OF = {"selectbox", "segmented_control", "pills", "select_slider"}
"""Widgets that choose among options."""
NUMBERS = {"number_input", "slider"}
TEXTS = {"text_input", "text_area"}


def arrive() -> None:
    """Note whether the page that is about to run is another one than in the run before, see
    `settle`; its answers to the address stand where this is called."""
    now, context = st.session_state, get_script_run_ctx()
    page = context and context.page_script_hash
    now["arrived"] = now.get("page") != page
    now["page"] = page
    NOTICES.set(st.container())


def notice(sentence: str) -> None:
    """Answer the address at the top of the page: the widget may stand in what is folded up."""
    (NOTICES.get() or st).warning(sentence)


def bound(
    widget: Callable[..., Any], label: str, *args: Any, key: str, what: str = "", **options: Any
) -> Any:
    """Draw a widget whose value is in the address under its `key`, and return that value.

    Streamlit drops what the address asks for and the widget cannot show without a word; here it is
    answered first. `what` names it in the answer, by default the label. `args` are the widget's
    own: the options to choose from, or the least and the largest number.
    """
    what = what or label[:1].lower() + label[1:]
    kind = widget.__name__
    if kind in CHOSEN_OF:
        words = options.get("format_func", str)
        choices(key, map(words, args[0]), what)
    elif kind in NUMBERS:
        numbers(key, args[0], args[1], what)
    elif kind in TEXTS:
        length(key, options["max_chars"], what)
    elif kind == "checkbox":
        choices(key, ("true", "false"), what)
    return widget(label, *args, key=key, bind="query-params", **options)


def asked(key: str) -> list[str]:
    """What the address says under a key; nothing where it is left empty."""
    return [value for value in st.query_params.get_all(key) if value]


def choices(key: str, options: Iterable[object], what: str) -> None:
    """Answer an address that asks for an option that is not there."""
    known = [str(option) for option in options]
    strange = [value for value in dict.fromkeys(asked(key)) if value not in known]
    if strange:
        notice(f"No {what} {plain(', '.join(strange))} here; there {listed(known)}.")


def numbers(key: str, low: float, high: float, what: str) -> None:
    """Answer an address that asks for a number out of range; a widget takes whole ones where its
    limits are whole."""
    for value in asked(key)[-1:]:
        try:
            fits = low <= float(value) <= high
        except ValueError:
            fits = False

        whole = isinstance(low, int) and isinstance(high, int)
        if whole and fits:
            fits = float(value).is_integer()
        if not fits:
            kind = "a whole number" if whole else "a number"
            notice(f"No {what} {plain(value)} here: it is {kind} from {low:g} to {high:g}.")


def length(key: str, most: int, what: str) -> None:
    """Answer an address with a text that is cut."""
    for value in asked(key)[-1:]:
        if len(value) > most:
            notice(f"The {what} of this link is cut after {most:,} of {len(value):,} characters.")


def listed(names: Sequence[str], most: int = 8) -> str:
    """'are this, that and 3 more'"""
    if not names:
        return "is none"
    rest = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{'is' if len(names) == 1 else 'are'} {', '.join(map(plain, names[:most]))}{rest}"


def settle(
    key: str,
    usual: T,
    parse: Callable[[Any], T | None],
    whose: object,
    limits: str = "",
    tell: bool = False,
    write: Callable[[T], str | list[str]] = str,
    many: bool = False,
) -> T:
    """Settle what `st.session_state[key]` holds before its widget is drawn, and keep it in the
    address as `write` writes it.

    A link, Back and forward bring what their address says; else what was chosen here stays, also on
    coming back from another page. `usual` is what is shown where nothing was chosen: the address
    leaves it out. What was chosen for something else than `whose` (another workspace or SAE) is
    forgotten, and `tell` says so. An address that `parse` makes None of is answered, with the
    `limits`. `parse` reads, and `write` gives, one string or, where there are `many`, a list.

    The widget is not bound to the address by Streamlit, which leaves out a fixed default, where
    ours moves with what is shown, and which writes a choice as the screen names it.
    """
    now, values = st.session_state, st.query_params.get_all(key)
    linked = None if not values else values if many else values[-1]
    memory = now.get(f"settled-{key}")
    context = get_script_run_ctx()
    moved = context is not None and context.is_history_navigation

    value = usual
    if linked is not None and (memory is None or moved or now.get("arrived")):
        parsed = parse(linked)
        if parsed is None:
            what = key.replace("_", " ")
            notice(f"No {what} {plain(linked)} here{limits}; showing {plain(write(usual))}.")
        else:
            value = parsed
    elif memory is not None and not moved and memory["whose"] == whose:
        chosen = memory["value"] if now.get("arrived") else now.get(key, usual)
        value = usual if chosen == memory["usual"] else chosen
        if parse(write(value)) is None:
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
    wanted = None if value == usual else write(value)
    if wanted is not None and values != (wanted if many else [wanted]):
        st.query_params[key] = wanted
    elif wanted is None and linked is not None:
        del st.query_params[key]
    return value


def whole(low: int, high: int) -> tuple[Callable[[str], int | None], str]:
    """For `settle`: a whole number from `low` to `high`, and these in words."""

    def parse(text: str) -> int | None:
        short = text.isdecimal() and len(text) < 19
        return int(text) if short and low <= int(text) <= high else None

    return parse, f", they run from {low} to {high}"


def one_of(
    words: Mapping[str, str],
) -> tuple[Callable[[str], str | None], str, Callable[[str], str]]:
    """For `settle`: a choice that the address writes in these `words`, by choice, whatever the
    screen calls it: how to read one, all of them in a sentence, and how to write one."""
    by_word = {word: choice for choice, word in words.items()}
    return by_word.get, f", there {listed(list(by_word))}", words.__getitem__
