"""Token heat, the shared visual alphabet: text with every token tinted by a value, on one scale
left and right."""

import html
import re
import unicodedata
from collections.abc import Sequence

RGB = {"a": (66, 133, 244), "b": (154, 92, 214)}
"""Between the two themes' blues and purples; the tint's strength carries the value, over either
background."""
STRONGEST = 0.62
PASSAGE = "line-height:1.7;unicode-bidi:plaintext;white-space:pre-wrap;overflow-wrap:anywhere;"
"""Style of a text, in whatever direction it is written."""


def visible(text: str) -> str:
    """Escaped text whose line breaks and runs of blanks can be seen."""
    shown = html.escape(text).replace("\r\n", "\n").replace("\r", "\n")
    return shown.replace("  ", "␣␣").replace("\n", "⏎ ").replace("\t", "⇥ ")


def tokens(
    text: str, ends: Sequence[int], heat: Sequence[float], peak: int, scale: float, side: str
) -> str:
    """HTML: the tokens of `text` between `ends` [n + 1], as `spans`."""
    return (
        f'<div dir="auto" style="{PASSAGE}">'
        f"{'…' if ends[0] > 0 else ''}{spans(text, ends, heat, peak, scale, side)}"
        f"{'…' if ends[-1] < len(text) else ''}</div>"
    )


def spans(
    text: str, ends: Sequence[int], heat: Sequence[float], peak: int, scale: float, side: str
) -> str:
    """HTML: each token tinted by `heat` [n] over `scale`, with its value on hover; token `peak` is
    underlined and the one after it, which it predicts, dotted."""
    r, g, b = RGB[side]
    parts = []
    for k, value in enumerate(heat):
        mark = "underline" if k == peak else "underline dotted" if k == peak + 1 else "none"
        share = min(1.0, max(0.0, value / scale)) if scale > 0 else 0.0
        tint = f"background-color:rgba({r},{g},{b},{STRONGEST * share:.2f});" if share else ""
        what = " (the token it predicts)" if k == peak + 1 else ""
        parts.append(
            f'<span style="{tint}text-decoration:{mark};border-radius:3px;"'
            f' title="{value:.3g}{what}">{visible(text[ends[k] : ends[k + 1]])}</span>'
        )
    return "".join(parts)


def opened(title: str, before: str, inside: str, after: str, pointer: str) -> str:
    """HTML: a fold, closed at first, called `title`; in it a passage, the part `inside` as HTML
    between what stands around it, and the document's `pointer`. It opens by a click or by the
    keyboard, and nothing is asked of the server."""
    return (
        f'<details class="more"><summary style="cursor:pointer">More text'
        f' <span style="opacity:0.8">· {html.escape(title)}</span></summary>'
        f'<p dir="auto" style="{PASSAGE}margin:0.3rem 0;padding-left:0.75rem;'
        'border-left:2px solid rgba(128,128,128,0.5);">'
        f"{html.escape(before)}{inside}{html.escape(after)}</p>"
        f'<small style="padding-left:0.75rem">{html.escape(pointer)}</small></details>'
    )


SIGNS = {"\n": "⏎", "\r": "␍", "\t": "⇥"}


EMPTY = "∅"


def seen(text: str) -> str:
    """Text on one line in which everything can be seen: blanks at its ends, breaks, signs without a
    width; `∅` for nothing at all."""
    if not text:
        return EMPTY
    inner = text.strip(" ")
    before = len(text) - len(text.lstrip(" "))
    marked = "␣" * before + inner + "␣" * (len(text) - len(inner) - before)
    parts = (
        SIGNS.get(c) or (c if unicodedata.category(c)[0] not in "CZ" or c == " " else _number(c))
        for c in marked
    )
    return "".join(parts)


def _number(sign: str) -> str:
    return f"U+{ord(sign):04X}"


def token(text: str) -> str:
    """A token as a span of code in markdown, whatever it holds: it ends where it should, and
    neither its neighbours nor the cells of a table become part of it."""
    shown = seen(text)
    if any(unicodedata.bidirectional(c) in ("R", "AL") for c in shown):
        shown = (  # its direction is its own: the tokens beside it keep their places
            f"\u2068{shown}\u2069"
        )
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    room = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{room}{shown}{room}{fence}"
