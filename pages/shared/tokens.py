"""Token heat, the shared visual alphabet: text with every token tinted by a value, on one scale
left and right."""

import html
from collections.abc import Sequence

RGB = {"a": (66, 133, 244), "b": (154, 92, 214)}
"""Between the two themes' blues and purples; the tint's strength carries the value, over either
background."""
STRONGEST = 0.62


def visible(text: str) -> str:
    """Escaped text whose line breaks and runs of blanks can be seen."""
    shown = html.escape(text).replace("\r\n", "\n").replace("\r", "\n")
    return shown.replace("  ", "␣␣").replace("\n", "⏎ ").replace("\t", "⇥ ")


def tokens(
    text: str, ends: Sequence[int], heat: Sequence[float], peak: int, scale: float, side: str
) -> str:
    """HTML: the tokens of `text` between `ends` [n + 1], each tinted by `heat` [n] over `scale`,
    with its value on hover; token `peak` is underlined and the one after it, which it predicts,
    dotted."""
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
    return (
        f'<div dir="auto"'
        ' style="line-height:1.7;unicode-bidi:plaintext;white-space:pre-wrap;'
        'overflow-wrap:anywhere;">'
        f"{'…' if ends[0] > 0 else ''}{''.join(parts)}{'…' if ends[-1] < len(text) else ''}</div>"
    )
