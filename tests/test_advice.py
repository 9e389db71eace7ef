"""What a refusal advises can be done: every command, option, function, variable and file that one
names is there."""

import re
import shlex

import pytest

from core.workspace.places import PROJECT
from tests.helpers import advice
from tests.helpers.documents import parses

ADVICE = advice.advice()


def test_every_refusal_says_what_to_do() -> None:
    unread = [(file, line) for file, line, node, texts in advice.refusals() if not texts.of(node)]
    assert len(ADVICE) > 300
    assert {file for file, _ in unread} <= {"core/errors.py", "core/text/corpus.py"}, (
        "handed on, written elsewhere"
    )
    assert [one for one in ADVICE if len(one.text) < 5] == []


def test_what_advice_names_is_there() -> None:
    named = [one for one in ADVICE if re.search(r"`|--|STITCHLENS", one.text)]
    assert len(named) > 40
    wrong = [(one.file, one.line, advice.faults(one.text)) for one in named]
    assert [one for one in wrong if one[2]] == []


@pytest.mark.parametrize(
    "text",
    [
        "run `python -m core reprot nano`",
        "run `python -m core features build`",
        "run `python -m core stitch fit nano --layer-a 1 --layer-b L`",
        "give --layr as well",
        "give `--layr` as well",
        "see `sae impart`",
        "`sae import --orientation` says it",
        "set STITCHLENS_DEVCE to cpu",
        "run `make ap`",
        "see core/nowhere.py",
        "call `torch.nn.utils.parametrize.forget(layer)`",
        "give `that`",
    ],
)
def test_advice_that_cannot_be_followed_would_be_seen(text: str) -> None:
    assert advice.faults(text)


def test_commands_anywhere_in_the_source_parse() -> None:
    """In notes, warnings and words of pages too."""
    commands = [
        (path.name, command["words"].partition("\n\n")[0])  # a command ends with its paragraph
        for path in advice.sources()
        for text in advice.texts(path)
        for command in advice.COMMAND.finditer(text)
    ]
    commands = [
        (name, words) for name, words in commands if words[0].isalpha() and "…" not in words
    ]
    assert len(commands) > 20
    wrong = {x for x in commands if not parses(shlex.split(x[1].rstrip("., ")))}
    assert wrong == set()


def test_a_box_that_a_page_names_is_on_it() -> None:
    boxes = [one for one in ADVICE if one.file.startswith("pages/") and "box" in one.text]
    assert len(boxes) >= 3
    for one in boxes:
        assert re.search(r"file_uploader|text_area", (PROJECT / one.file).read_text("utf-8")), one
