"""The tokens of a text with what each reader expects next, and the lanes that go on from it."""

import html
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.components import v2 as components

from core.models.pairs import PairSpec
from core.stitches.directions import names, title
from pages.shared.figures import colours
from pages.shared.tokens import RGB, seen
from pages.shared.words import loss

HERE = Path(__file__).parent
FREE = 5
"""The theme's colour that means nothing else: what crossing costs."""
STRONG = {"loss": 3.0, "kl": 3.0}
"""Nats at which the tint is strongest."""
DARKEST = 0.5
TINTS = {"loss": "Loss that crossing costs", "kl": "Change of what it expects (KL)"}


def component() -> Any:
    """Mounted anew by each server; the same definition is no second one."""
    return components.component(
        "stitchlens_passage",
        html='<div class="passage"></div>',
        css=(HERE / "passage.css").read_text("utf-8"),
        js=(HERE / "passage.js").read_text("utf-8"),
    )


def passage(
    record: dict[str, Any],
    pair: PairSpec,
    control: str | None,
    tint: str,
    lens: list[dict[str, Any]] | None,
    layers: dict[str, int],
) -> dict[str, Any]:
    """What the component draws of a text that was read (`Passage.record`)."""
    c, of = colours(), names(pair)
    speaker = record["direction"][-1]
    theme = st.context.theme.type or "light"
    cost = st.get_option(f"theme.{theme}.chartCategoricalColors")[FREE]
    rows = [
        _row("a", f"{of['a']} expects", "●", c["a"], "has not read the same text here"),
        _row("b", f"{of['b']} expects", "●", c["b"], "has not read the same text here"),
        _row("crossed", f"{title(pair, record['direction'])} expects", "◆", c["b"], "", c["a"]),
    ]
    if control is not None:
        rows.append(_row("control", f"through a {control} stitch", "■", c["control"], ""))
    shown = [
        _token(record, k, speaker, tint, of[speaker], lens) for k in range(len(record["tokens"]))
    ]
    return {
        "tokens": shown,
        "rows": rows,
        "lens": _lens_rows(record["direction"], of, layers, c) if lens else [],
        "tint": ",".join(str(int(cost[i : i + 2], 16)) for i in (1, 3, 5)),
        "colours": {"ink": c["ink"], "line": st.get_option(f"theme.{theme}.borderColor")},
        "words": {
            "label": "Tokens of the text",
            "tint": f"{TINTS[tint]}, up to {STRONG[tint]:g} nats",
            "own": f"did not cross: keeps {of[speaker]}'s own stream",
            "hint": "Choose a token to see the ten likeliest next words of each.",
        },
    }


def _row(key: str, name: str, mark: str, colour: str, none: str, rim: str = "") -> dict[str, str]:
    return {"key": key, "name": name, "mark": mark, "colour": colour, "none": none, "rim": rim}


def _lens_rows(
    direction: str, of: dict[str, str], layers: dict[str, int], c: dict[str, str]
) -> list[dict[str, str]]:
    first, last = direction[0], direction[-1]
    return [
        _row(
            "source",
            f"{of[first]}, layer {layers[first]}, by itself",
            "○",
            c[first],
            "did not cross",
        ),
        _row("crossed", f"the same, carried into {of[last]}", "◇", c["b"], "", c["a"]),
        _row("own", f"{of[last]}, layer {layers[last]}, by itself", "○", c[last], ""),
    ]


def _token(
    record: dict[str, Any],
    k: int,
    speaker: str,
    tint: str,
    name: str,
    lens: list[dict[str, Any]] | None,
) -> dict[str, Any]:
    token = record["tokens"][k]
    rest = "".join(t["text"] for t in record["tokens"][k + 1 :])[:80]
    own = token[f"loss_{speaker}"]
    crossed = token["loss_crossed"]
    cost = None
    if own is not None and crossed is not None:
        cost = crossed - own
    heat = cost if tint == "loss" else token["kl"]
    strength = max(0.0, heat or 0.0) / STRONG[tint]
    before = record["tokens"][k - 1]["text"] if k else ""
    word = _word(token["text"], before)
    if token["special"] or (k == 0 and not token["text"]):
        word = "start"
    tops = {key: _top(token[f"top_{key}"], rest) for key in ("a", "b", "crossed", "control")}
    says = f"After {seen(token['text']) if token['text'] else 'nothing yet'}:"
    if own is not None and crossed is not None:
        says += (
            f" the next token costs {name} {loss(own)} nats, crossed {loss(crossed)}"
            f" ({_signed(crossed - own)});"
        )
    says += f" KL {loss(token['kl'])} nats."
    if not token["paired"]:
        says += f" Did not cross: {name} keeps its own stream here."
    return {
        "text": word,
        "start": word == "start",
        "paired": token["paired"],
        "heat": round(DARKEST * min(1.0, strength), 3),
        "tops": tops,
        "lens": {key: _top(top, rest) for key, top in lens[k].items()} if lens else {},
        "says": says,
        "title": says,
        "label": f"{word}, {'crossed' if token['paired'] else 'did not cross'}",
    }


def _word(text: str, before: str) -> str:
    """A token as it reads: a word's first without the blank before it, its later ones joined by a
    hyphen."""
    if text.startswith(" ") and text.strip(" "):
        return seen(text[1:])
    joined = text[:1].isalnum() and before[-1:].isalnum()
    return ("\u2010" if joined else "") + seen(text) if text else "·"


def _top(top: list[tuple[str, float]], rest: str) -> list[list[Any]]:
    """Token, share, whether the text goes on so."""
    return [[seen(t), float(f"{p:.3g}"), bool(t) and rest.startswith(t)] for t, p in top]


def _signed(x: float) -> str:
    return f"{'+' if x > 0 else '−' if x < 0 else ''}{abs(x):.2f}"


def lane_html(prompt: str, text: str, side: str, crossed: bool, control: bool) -> str:
    """Escaped: what was given grey, what was written on a tint of the model that speaks; what
    crossed has the other model's rim."""
    r, g, b = (128, 134, 148) if control else RGB[side]
    rim = RGB["a" if side == "b" else "b"]
    edge = f"border-left:4px solid rgb({rim[0]},{rim[1]},{rim[2]});padding-left:0.6rem;"
    return (
        '<div dir="auto" style="unicode-bidi:plaintext;white-space:pre-wrap;'
        f'overflow-wrap:anywhere;line-height:1.6;{edge if crossed and not control else ""}">'
        f'<span style="opacity:0.75;">{html.escape(prompt)}</span>'
        f'<span style="background-color:rgba({r},{g},{b},0.18);border-radius:3px;">'
        f"{html.escape(text)}</span></div>"
    )
