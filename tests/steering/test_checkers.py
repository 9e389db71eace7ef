"""Each check against texts made by hand: some that follow, some that nearly do."""

import pytest

from core.errors import StitchLensError
from core.steering.checkers import PLAIN, VALUED, checker

CASES: dict[tuple[str, str], tuple[tuple[str, ...], tuple[str, ...]]] = {
    ("capitals", ""): (
        (
            "THE SEA IS WIDE AND BLUE.",
            "L'ÉTÉ EST LÀ, MES AMIS, 5 FOIS!",
            "МОРЕ ОЧЕНЬ ШИРОКОЕ И СИНЕЕ",
        ),
        (
            "THE SEA IS WIDE AND blue.",
            "THE SEA",
            "12 34 56 78 90",
            "海は広くて青いです。とても。",
            "STRAßE NACH ROM IST SEHR LANG",
        ),
    ),
    ("lower_case", ""): (
        ("the sea is wide and blue.", "é um mar azul e largo, 7 vezes"),
        ("The sea is wide and blue.", "the sea", "1 2 3 4 5 6", "the sea is wide and É"),
    ),
    ("no_commas", ""): (
        ("The sea is wide and blue.", "The sea is wide; it is 1.000 m deep"),
        (
            "The sea, they say, is wide.",
            "No.",
            "大海很宽，很蓝 也 很 深 啊",
            "البحر واسع، وأزرق وعميق وجميل",
        ),
    ),
    ("bullets", ""): (
        ("* one\n* two", "Here:\n- one\n- two\n- three", "  • one\n  • two"),
        (
            "* one",
            "one * two\nthree * four",
            "**Bold**\n**Bolder**",
            "*one\n*two",
            "* \n* ",
            "1. one\n2. two",
        ),
    ),
    ("quoted", ""): (
        ('"The sea."', ' "The sea is wide." \n', "“The sea.”", "«La mer.»"),
        ('"The sea', 'The sea"', '"The sea." It is wide.', '""', '" "', '"', "'The sea.'"),
    ),
    ("json", ""): (
        ('{"sea": "wide"}', '["a", 1]', '```json\n{"sea": [1, 2]}\n```', '```\n{"é": null}\n```'),
        (
            '{"sea": "wide"',
            "{}",
            "[]",
            "5",
            '"sea"',
            "{'sea': 1}",
            '{"sea": 1} as asked',
            "[" * 100_000,
        ),
    ),
    ("title", ""): (
        ("<<The sea>>\nIt is wide.", "It is wide. <<Über das Meer>>"),
        ("<The sea>", "<<>>", "<< >>", "<<The\nsea>>", "<<The sea", "1 << 2"),
    ),
    ("two_paragraphs", ""): (
        ("The sea.\n***\nThe land.", "One *** two"),
        ("The sea.\n\nThe land.", "One *** two *** three", "*** two", "one ***", "*** ***", "***"),
    ),
    ("postscript", ""): (
        ("The sea.\n\nP.S. It is wide.", "The sea.\nP. S.: wide"),
        ("P.S. It is wide.", "The sea. P.S. in the middle", "The sea.\nP.S.", "The sea.\nPS wide"),
    ),
    ("numbered", ""): (
        ("1. one\n2. two", "Here:\n 1) one\n\n 2) two", "10. a\n11. b\n12. c"),
        ("1. one 2. two", "1. one", "1.one\n2.two", "* one\n* two", "1.\n2.", "v1. one\nv2. two"),
    ),
    ("brief", ""): (
        ("The sea is wide.", "Why not?", "It is 3.5 metres deep!", "«Oui.»"),
        ("The sea is wide. It is blue.", "The sea is wide", "...", " ".join(["sea"] * 16) + "."),
    ),
    ("with_word", "garden"): (
        ("The garden.", "A GARDEN!", "garden's end; garden"),
        ("The gardener.", "gardens", "gar den", "jardin"),
    ),
    ("without_word", "the"): (
        ("Other seas are wide and blue.", "Then they bathe there again."),
        (
            "THE sea is wide and blue.",
            "Is the sea wide and blue?",
            "Sea.",
            "sea–the wide one is blue",
        ),
    ),
    ("in_language", "fr"): (
        ("La mer est grande et les bateaux sont partis ce matin vers le nord.",),
        ("The sea is large and the ships have left for the north.", "123", "?!"),
    ),
    ("opens_with", "Certainly"): (
        ("Certainly, the sea is wide.", "  **certainly** it is"),
        ("The sea is certainly wide.", "Certainly", "Certain people swim."),
    ),
}


@pytest.mark.parametrize(("name", "value"), CASES)
def test_a_check_tells_who_follows(name: str, value: str) -> None:
    follows = checker(name, value)
    yes, no = CASES[name, value]
    assert [text for text in yes if not follows(text)] == []
    assert [text for text in (*no, "", "   \n\t", "\u200b\ufffd") if follows(text)] == []


def test_every_check_has_cases() -> None:
    assert {name for name, _ in CASES} == {*PLAIN, *VALUED}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("shouting", "", "check 'shouting'"),
        ("with_word", "", "needs|a value"),
        ("with_word", "  ", "a value"),
        ("capitals", "x", "no value"),
    ],
)
def test_a_check_that_cannot_be_made_is_refused(name: str, value: str, says: str) -> None:
    with pytest.raises(StitchLensError, match=says):
        checker(name, value)
