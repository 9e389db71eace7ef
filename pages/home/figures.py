"""The pictures of the first page, as small SVG and HTML that need no script: they are there at
once, on a phone too. What others wrote is escaped."""

import html
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from core.models.pairs import ModelSpec
from pages.shared.figures import colours
from pages.shared.tokens import RGB

WORD_MS = 55
"""From one word of a typed text to the next."""


def joined(
    a: ModelSpec, b: ModelSpec, names: Mapping[str, str], layers: tuple[int, int] | None
) -> str:
    """Two cards, the smaller model and the larger, sewn together; `names` are what they are called
    in short, by 'a' and 'b', `layers` those that the stitch joins."""
    c = colours()
    seam = f"layer {layers[0]} → {layers[1]}" if layers else "no stitch yet"
    stitches = "".join(
        f'<path d="M{x} 8 l8 10 m0 -10 l-8 10" stroke="{c["a"] if x % 26 else c["b"]}"/>'
        for x in range(6, 70, 13)
    )
    drawn = f'<g fill="none" stroke-width="2" stroke-linecap="round">{stitches}</g>'
    return (
        '<div style="display:flex;align-items:center;max-width:46rem;">'
        f"{_card(a, names['a'], c['a'], 'thinks')}"
        '<div style="flex:none;text-align:center;width:6rem;padding:0 0.4rem;'
        'font-size:0.75rem;white-space:nowrap;">'
        f"{picture(drawn, (78, 26), 'an affine stitch')}{html.escape(seam)}</div>"
        f"{_card(b, names['b'], c['b'], 'speaks')}</div>"
    )


def picture(drawn: str, size: tuple[int, int], alt: str) -> str:
    """Elements of SVG as an image: `st.html` takes drawings out of what it is given."""
    width, height = size
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{drawn}</svg>'
    source = b64encode(svg.encode()).decode()
    return (
        f'<img src="data:image/svg+xml;base64,{source}" alt="{html.escape(alt)}"'
        ' style="width:100%;display:block;">'
    )


def _card(model: ModelSpec, name: str, colour: str, verb: str) -> str:
    return (
        f'<div style="flex:1;min-width:0;border:2px solid {colour};border-radius:0.6rem;'
        f'padding:0.5rem 0.75rem;overflow-wrap:anywhere;"><div style="color:{colour};'
        f'font-weight:650;font-size:1.15rem;">{html.escape(name)} {verb}</div>'
        f'<div style="font-size:0.8rem;">{html.escape(model.title)}: {model.n_layers} layers,'
        f" {model.d_model} wide</div></div>"
    )


def typed(prompt: str, text: str, side: str, carried: bool) -> str:
    """A text that types itself out, a word at a time: in the style sheet alone, so that nothing
    waits for the server, and at once where a person asked for less motion. What was `carried` from
    the other model is rimmed in its colour."""
    pieces = text.split(" ")
    words = []
    for k, word in enumerate(pieces):
        space = " " if k + 1 < len(pieces) else ""
        delay = f"animation-delay:{300 + k * WORD_MS}ms;"
        words.append(f'<span class="typed" style="{delay}">{html.escape(word)}{space}</span>')
    style = (
        "<style>@keyframes typed{from{opacity:0}to{opacity:1}}"
        ".typed{animation:typed 120ms ease-out both}"
        "@media (prefers-reduced-motion: reduce){.typed{animation:none}}</style>"
    )
    return style + _passage(prompt, "".join(words), side, carried)


def written(prompt: str, text: str, side: str, carried: bool) -> str:
    """A text while it is written, laid out as `typed`."""
    return _passage(prompt, html.escape(text), side, carried)


def _passage(prompt: str, inner: str, side: str, carried: bool) -> str:
    r, g, b = RGB[side]
    rim = f"border-bottom:2px solid rgb{RGB['a' if side == 'b' else 'b']};" if carried else ""
    return (
        '<div dir="auto" style="unicode-bidi:plaintext;white-space:pre-wrap;'
        'overflow-wrap:anywhere;line-height:1.6;font-size:1.1rem;min-height:5.4em;">'
        f'<span style="opacity:0.7;">{html.escape(prompt)}</span>'
        f'<span style="background-color:rgba({r},{g},{b},0.16);border-radius:3px;{rim}">'
        f"{inner}</span></div>"
    )


class Bar(NamedTuple):
    """One line of `bars`: what it is, its share of the full width, its number, its colour's
    meaning."""

    label: str
    share: float
    number: str
    role: str


def bars(rows: Sequence[Bar], alt: str) -> str:
    """Bars under one another, each with its number: never colour alone."""
    lines = [
        f'<div style="display:flex;gap:0.4rem;align-items:center;font-size:0.8rem;">'
        f'<span style="flex:0 0 6.6rem;overflow-wrap:anywhere;">{html.escape(row.label)}</span>'
        '<span style="flex:1;height:0.7rem;">'
        f'<span style="display:block;height:100%;width:{100 * min(max(row.share, 0.01), 1):.0f}%;'
        f'border-radius:2px;{_fill(row.role)}"></span></span>'
        f'<span style="flex:none;min-width:3.2rem;text-align:right;">{html.escape(row.number)}'
        "</span></div>"
        for row in rows
    ]
    return f'<div role="img" aria-label="{html.escape(alt)}">{"".join(lines)}</div>'


def _fill(role: str) -> str:
    """What was carried across is purple with a blue rim, everywhere."""
    c = colours()
    if role == "transferred":
        return f"background:{c['b']};outline:2px solid {c['a']};"
    return f"background:{c[role]};"


class Curve(NamedTuple):
    """A line of `curves`: what it is, x and y from 0 to 1, its colour's meaning."""

    label: str
    points: Sequence[tuple[float, float]]
    role: str


def curves(lines: Sequence[Curve], alt: str) -> str:
    """Lines in one small frame, named under it."""
    c = colours()
    paths, names = [], []
    for k, line in enumerate(lines):
        at = " ".join(f"{4 + 152 * x:.1f},{66 - 62 * y:.1f}" for x, y in line.points)
        dash = ' stroke-dasharray="5 3"' if k else ""
        paths.append(
            f'<polyline points="{at}" stroke="{c[line.role]}" stroke-width="2" fill="none"{dash}/>'
        )
        names.append(
            f'<span style="color:{c[line.role]};">{"┅" if k else "━"}</span>'
            f" {html.escape(line.label)}"
        )
    frame = f'<path d="M4 2V66H158" stroke="{c["control"]}" fill="none"/>'
    return (
        picture(frame + "".join(paths), (160, 70), alt)
        + f'<div style="font-size:0.8rem;">{" &nbsp; ".join(names)}</div>'
    )


def words(before: Sequence[str], after: Sequence[str], names: tuple[str, str]) -> str:
    """The words at which a feature is strongest in each of two models."""
    parts = []
    for name, listed, side in ((names[0], before, "a"), (names[1], after, "b")):
        r, g, b = RGB[side]
        chips = " ".join(
            f'<span style="background-color:rgba({r},{g},{b},0.22);border-radius:3px;'
            f'padding:0 0.25rem;">{html.escape(word)}</span>'
            for word in listed
        )
        parts.append(
            f'<div style="font-size:0.8rem;">{html.escape(name)}</div>'
            f'<div dir="auto" style="line-height:1.7;overflow-wrap:anywhere;">{chips}</div>'
        )
    return "".join(parts)
