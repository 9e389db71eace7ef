"""Numbers, names and others' text as pages write them."""

import re
from typing import Any

import pytest

from pages.shared import tokens
from pages.shared import words as shared_words


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((0.37,), "+37 %"),
        ((0.0083,), "+0.83 %"),
        ((1.083,), "+110 %"),
        ((0.07,), "+7.0 %"),
        ((-0.012,), "−1.2 %"),
        ((0.0,), "0 %"),
        ((float("nan"),), "–"),
        ((1.083, 1.071, 1.095), "+108 [+107, +110] %"),
        ((0.374, 0.362, 0.386), "+37 [+36, +39] %"),
        ((0.0083, -0.0037, 0.0203), "+0.8 [−0.4, +2.0] %"),
        ((0.05, 0.0496, 0.0504), "+5.00 [+4.96, +5.04] %"),
    ],
)
def test_percent(args: tuple[Any, ...], words: str) -> None:
    assert shared_words.percent(*args).replace(shared_words.NARROW, " ") == words


def test_counts_losses_and_durations() -> None:
    assert [shared_words.count(n) for n in (7, 411, 60_000, 812_345, 4_812_345, 1_071_000)] == [
        "7",
        "411",
        "60 k",
        "812 k",
        "4.81 M",
        "1.07 M",
    ]
    assert (
        shared_words.loss(3.6) == "3.60"
        and shared_words.loss(3.6, 3.55, 3.65) == "3.60 [3.55, 3.65]"
    )
    assert [shared_words.duration(s) for s in (9.6, 119, 4000, 9000)] == [
        "10 s",
        "2 min",
        "67 min",
        "2.5 h",
    ]


def test_text_from_files_is_shown_as_it_is() -> None:
    assert shared_words.plain("<b>*x*</b>") == r"\<b\>\*x\*\</b\>"
    assert shared_words.plain(":red[a] $x$ [l](u)") == r"\:red\[a\] \$x\$ \[l\]\(u\)"
    assert (
        shared_words.sentence("run `python -m core build x_y`: *now*")
        == r"run `python -m core build x_y`\: \*now\*"
    )
    assert shared_words.sentence("a lone ` tick") == r"a lone \` tick"


TOKENS = [
    "",
    "`",
    "``",
    " ",
    " new",
    "\n",
    "\t",
    "|",
    "<b>",
    "$x$",
    ":red[a]",
    "*a*",
    "שלום",
    "\u200b",
    "a`b",
    " ` ",
]


def test_every_token_is_a_span_of_its_own() -> None:
    """As CommonMark with tables and streamlit's math reads it: so many spans, each with what can be
    seen of a token."""
    line = " ".join(map(tokens.token, TOKENS))
    fences = list(re.finditer(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", line))
    shown = [m[2][1:-1] if m[2].startswith(" ") and m[2].endswith(" ") else m[2] for m in fences]
    assert [text.strip("\u2068\u2069") for text in shown] == [
        "∅",
        "`",
        "``",
        "␣",
        "␣new",
        "⏎",
        "⇥",
        "|",
        "<b>",
        "$x$",
        ":red[a]",
        "*a*",
        "שלום",
        "U+200B",
        "a`b",
        "␣`␣",
    ]
    assert re.sub(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", "", line).strip() == "", (
        "nothing is left outside"
    )
