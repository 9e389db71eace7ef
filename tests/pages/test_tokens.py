"""Token heat shows text as it is: escaped, every token once, breaks visible."""

import re

from pages.shared import tokens

TEXT = "One <b>two</b>\n  three & four."


def spans(line: str) -> list[tuple[str, str]]:
    """(style, text) of each token."""
    return re.findall(r'<span style="([^"]*)"[^>]*>(.*?)</span>', line)


def test_markup_in_a_text_is_shown_and_never_run() -> None:
    evil = '<script>alert(1)</script><img src=x onerror="y">'
    line = tokens.tokens(evil, [0, 8, len(evil)], [1.0, 2.0], 1, 2.0, "a")
    assert "<script" not in line and "<img" not in line and 'onerror="' not in line
    assert "&lt;script&gt;" in line


def test_tokens_are_the_text_in_order() -> None:
    pieces = ["One", " <b>two</b", ">\n  thr", "ee", " & four."]
    ends = [sum(map(len, pieces[:k])) for k in range(6)]
    assert "".join(pieces) == TEXT
    line = tokens.tokens(TEXT, ends, [0.0, 1.0, 2.0, 4.0, 8.0], 2, 4.0, "b")
    found = spans(line)
    assert [t for _, t in found] == [
        "One",
        " &lt;b&gt;two&lt;/b",
        "&gt;⏎ ␣␣thr",
        "ee",
        " &amp; four.",
    ]
    tints = [
        float(m[1]) if (m := re.search(r"rgba\(\d+,\d+,\d+,([\d.]+)\)", s)) else 0.0
        for s, _ in found
    ]
    assert tints == sorted(tints) and tints[0] == 0 and tints[-1] == tints[-2] == tokens.STRONGEST
    assert [re.search(r"text-decoration:([^;]*)", s)[1] for s, _ in found] == [  # type: ignore[index]
        "none",
        "none",
        "underline",
        "underline dotted",
        "none",
    ]
    assert "…" not in line


def test_what_lies_outside_is_left_out_and_said() -> None:
    line = tokens.tokens(TEXT, [4, 14], [1.0], 0, 1.0, "a")
    assert len(spans(line)) == 1
    assert line.count("…") == 2
    assert 'dir="auto"' in line
    assert spans(tokens.tokens(TEXT, [0, 3], [0.5], 0, 0.0, "a"))[0][0].startswith(
        "text-decoration"
    )
