"""A run as a picture: whole XML, whatever its texts hold; lines that fit; colours that mean what they
mean elsewhere."""

from typing import Any
from xml.etree import ElementTree

import pytest

from core.steering import tables as steering_tables
from pages.steering import picture

COLOURS = {"a": "#0000ff", "b": "#800080", "control": "#888888", "ink": "#111111", "paper": "#fff"}
NAMES = {"a": "SmolLM2", "b": "Gemma"}
SVG = "{http://www.w3.org/2000/svg}"


def drawn(text: str, *lanes: str, prompt: str = "Once") -> ElementTree.Element:
    run: dict[str, Any] = {
        "source": "lang:fr",
        "prompt": prompt,
        "lanes": [{"lane": lane, "text": text} for lane in lanes],
    }
    return ElementTree.fromstring(picture.svg(run, NAMES, "strength 1", COLOURS))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 10_000,
        "<script>alert('1')</script> & \"",
        "\x00\x07\ud800\ufffe",
        "שלום עולם",
        "👩‍👩‍👧‍👦🏳️‍🌈 é",
        "日本語" * 200,
        "a\n\n\r\nb",
        " \t ",
    ],
)
def test_any_text_gives_a_whole_picture(text: str) -> None:
    root = drawn(text, "b:none", "b:transferred", prompt=text)
    assert not root.findall(f".//{SVG}script")
    height = float(root.attrib["height"])
    for line in root.iter(f"{SVG}text"):
        assert 0 < float(line.attrib["y"]) < height and len(line.text or "") < 200


def test_what_begins_from_the_right_stands_there() -> None:
    root = drawn("שלום עולם", "b:own")
    lines = {line.text: line.attrib for line in root.iter(f"{SVG}text")}
    assert lines["שלום עולם"]["direction"] == "rtl" and "direction" not in lines["Once"]
    assert float(lines["שלום עולם"]["x"]) > float(lines["Once"]["x"]) + 1000


def test_what_was_carried_is_purple_with_a_blue_rim_and_a_control_is_grey() -> None:
    root = drawn("text", "b:own", "b:transferred", "b:random", "a:transferred")
    frames = [x.attrib for x in root.iter(f"{SVG}rect")][1:]
    assert [(frame["fill"], frame["stroke"]) for frame in frames] == [
        ("#800080", "#800080"),
        ("#800080", "#0000ff"),
        ("#888888", "#888888"),
        ("#0000ff", "#800080"),
    ]
    said = " ".join(root.itertext())
    assert "Gemma with SmolLM2's French" in said and "SmolLM2 with Gemma's French" in said


def test_a_narrow_line_breaks_between_words_and_a_long_word_within() -> None:
    lines = picture.wrapped("the old house by the river " + "y" * 40, 150)
    assert "".join(lines).replace(" ", "") == "theoldhousebytheriver" + "y" * 40
    assert lines[0] in ("the old house", "the old house by") and len(lines) > 4


def test_fluency_falls_with_surprise_and_with_what_is_repeated() -> None:
    assert steering_tables.fluency(0.0, 0.0) == 1.0
    assert steering_tables.fluency(steering_tables.BLIND, 0.0) == 0.0
    assert steering_tables.fluency(99.0, 0.0) == 0.0 == steering_tables.fluency(1.0, 1.0)
    assert steering_tables.fluency(2.5, 0.2) == pytest.approx(0.75 * 0.8)
