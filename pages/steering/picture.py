"""A run as a picture: an SVG of its prompt, lanes and settings, that any browser shows and any
drawing program opens. What others wrote is escaped."""

import html
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from core.models.pairs import other
from core.steering.keys import LaneKey, lane_key
from core.steering.runs import source_of
from pages.steering.lanes import MARKS, name_of, toward

WIDTH, MARGIN, GAP = 1200, 40, 24
"""Pixels."""
ACROSS = 3
"""Cards side by side."""
SIZE, LINE = 18, 27
"""Of the letters and the lines of texts, pixels."""
LONGEST = 1500
"""Characters of a text that are drawn."""
FONT = "system-ui, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', Arial, sans-serif"
UNFIT = re.compile(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML cannot hold."""
NARROW, WIDE = "iIljtfr.,:;'|!()[] ", "mwMW@%—…"


def svg(
    run: Mapping[str, Any],
    names: Mapping[str, str],
    settings: str,
    colours: Mapping[str, str],
) -> str:
    """`settings` in words; `colours` are those of `pages.shared.figures.colours`."""
    what = toward(source_of(run))
    lanes = [(lane_key(entry["lane"]), entry["text"]) for entry in run["lanes"]]
    across = min(ACROSS, len(lanes))
    width = (WIDTH - 2 * MARGIN - GAP * (across - 1)) / across

    top, drawn = MARGIN + LINE, []
    prompt = wrapped(run["prompt"], WIDTH - 2 * MARGIN)
    drawn += text_lines(prompt, MARGIN, top, WIDTH - 2 * MARGIN, colours["ink"], "opacity='0.75'")
    top += LINE * len(prompt) + GAP / 2

    for k in range(0, len(lanes), across):
        cards = [
            (lane, wrapped(name_of(lane, names, what), width - 44), wrapped(text, width - 32))
            for lane, text in lanes[k : k + across]
        ]
        height = max(LINE * (len(title) + len(text)) for _, title, text in cards) + 36
        for place, (lane, title, text) in enumerate(cards):
            left = MARGIN + place * (width + GAP)
            drawn += card(lane, title, text, (left, top, width, height), colours)
        top += height + GAP

    words = wrapped(f"StitchLens · {settings}", WIDTH - 2 * MARGIN, 14)
    top += 10
    drawn += text_lines(words, MARGIN, top, WIDTH - 2 * MARGIN, colours["ink"], "font-size='14'")
    bottom = top + LINE * len(words) + MARGIN / 2
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{bottom:.0f}'"
        f" viewBox='0 0 {WIDTH} {bottom:.0f}' font-family=\"{FONT}\" font-size='{SIZE}'>"
        f"<rect width='100%' height='100%' fill='{colours['paper']}'/>"
        f"{''.join(drawn)}</svg>\n"
    )


def card(
    lane: LaneKey,
    title: list[str],
    text: list[str],
    box: tuple[float, float, float, float],
    colours: Mapping[str, str],
) -> list[str]:
    """A lane in a frame: filled with its model's colour; a control is grey, what was carried
    across has a rim in the colour of the model that learned it."""
    left, top, width, height = box
    control = lane.kind not in MARKS
    colour = colours["control" if control else lane.side]
    carried = lane.kind == "transferred"
    rim, stroke = (colours[other(lane.side)], 4) if carried else (colour, 1)
    frame = (
        f"<rect x='{left:.0f}' y='{top:.0f}' width='{width:.0f}' height='{height:.0f}' rx='8'"
        f" fill='{colour}' fill-opacity='0.12' stroke='{rim}' stroke-width='{stroke}'/>"
    )
    first = top + 32
    mark = f"{MARKS.get(lane.kind, '■')} "
    ink = colours["ink"]
    body = first + LINE * len(title) + 4
    return [
        frame,
        *text_lines(
            [mark + title[0], *title[1:]], left + 16, first, width - 32, ink, "font-weight='600'"
        ),
        *text_lines(text, left + 16, body, width - 32, ink),
    ]


def text_lines(
    lines: list[str],
    left: float,
    top: float,
    width: float,
    ink: str,
    style: str = "",
) -> list[str]:
    """A line each; one that begins from the right starts there."""
    drawn = []
    for k, line in enumerate(lines):
        shown = html.escape(UNFIT.sub("\ufffd", line))
        if from_the_right(line):
            at, way = left + width, " direction='rtl'"
        else:
            at, way = left, ""
        drawn.append(
            f"<text x='{at:.0f}' y='{top + k * LINE:.0f}' fill='{ink}'{way} {style}"
            f" xml:space='preserve'>{shown}</text>"
        )
    return drawn


def wrapped(
    text: str,
    width: float,
    size: float = SIZE,
) -> list[str]:
    """Lines of a text that fit a width in pixels, as letters are wide on average: a picture is
    drawn where no font is at hand to measure by."""
    if len(text) > LONGEST:
        text = text[:LONGEST] + "…"
    lines = []
    for paragraph in re.split(r"\r\n?|\n", text):
        lines += _filled(paragraph.strip(), width / size) or [""]
    return lines


def _filled(paragraph: str, most: float) -> list[str]:
    lines: list[str] = []
    line, used = "", 0.0
    for word in re.findall(r"\s*\S+", paragraph):
        length = sum(map(_width, word))
        if line and used + length > most:
            lines.append(line)
            line, used, word = "", 0.0, word.lstrip()
        for letter in word:
            if line and used + _width(letter) > most:
                lines.append(line)
                line, used = "", 0.0
            line += letter
            used += _width(letter)
    return [*lines, line] if line else lines


def _width(letter: str) -> float:
    """Of a letter, in units of its size."""
    if unicodedata.combining(letter) or unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0.0
    if unicodedata.east_asian_width(letter) in "WF" or ord(letter) > 0x1F000:
        return 1.1
    if letter in NARROW:
        return 0.34
    if letter in WIDE:
        return 0.95
    return 0.68 if letter.isupper() else 0.58


def from_the_right(line: str) -> bool:
    """Whether the first letter that has a direction goes from right to left."""
    for letter in line:
        direction = unicodedata.bidirectional(letter)
        if direction in ("R", "AL"):
            return True
        if direction == "L":
            return False
    return False
