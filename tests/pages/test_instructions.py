"""Instructions on the Steering page and on the Paper page: a door, then the figure and the texts."""

from pathlib import Path

import pandas as pd
import pytest

from core.steering.following import summary
from core.steering.instructions import CONDITIONS
from core.workspace.store import Workspace
from tests.helpers.app import opened, text

COMMAND = "python -m core steer eval nano --instructions"
TITLES = {"capitals": "all capitals", "angles": "a title in <<>>"}
FOLLOWED = {"none": 0, "own": 3, "transferred": 2, "random": 0, "prompted": 4}
"""Of four responses in capitals; of those with a title none."""


def plant(ws: Workspace, sides: str = "b") -> None:
    cell = {"stitch": "L2-L3", "span": 1, "strength": 2.0, "loss": 2.5, "repetition": 0.1}
    rows = [
        cell
        | {
            "label": label,
            "kind": kind,
            "prompt": f"Request {k}?",
            "text": "<b>SHOUTED</b>",
            "hit": label == "capitals" and k < FOLLOWED[kind],
            "fluent": True,
        }
        for label in TITLES
        for kind in CONDITIONS
        for k in range(4)
    ]
    texts = pd.DataFrame(rows)
    for side in sides:
        makers = {"steered": side, "chat_template": {"a": False, "b": False}}
        ws.put_table(f"steering_instructions/{side}/texts", texts, makers)
        ws.put_table(f"steering_instructions/{side}/rates", summary(texts, TITLES), makers)


def test_what_is_not_measured_is_a_door(nano_home: Path) -> None:
    app = opened("steering", pair="nano", tab="Evaluation")
    assert not app.exception and COMMAND in [block.value for block in app.code]
    assert not [box for box in app.selectbox if box.key == "instruction"]
    paper = opened("paper", pair="nano")
    assert not paper.exception and COMMAND in [block.value for block in paper.code]


def test_a_link_opens_an_instruction(nano_home: Path) -> None:
    ws = Workspace("nano")
    plant(ws)
    app = opened("steering", pair="nano", instruction="capitals", condition="transferred vector")
    assert not app.exception and not app.error
    assert COMMAND not in [block.value for block in app.code]
    said = text(app)
    for words in ("Fig. 13", "Clopper-Pearson", "Control", "base", "**50 ["):
        assert words in said, words
    written = [str(element.value) for element in app.html if "SHOUTED" in str(element.value)]
    assert len(written) == 4 and not any("<b>" in html for html in written), "escaped"
    assert sum(">followed<" in html for html in written) == FOLLOWED["transferred"]

    paper = text(opened("paper", pair="nano"))
    assert "of 2 instructions followed in at least half of the responses: 1 in words" in paper


LINK = {"follows": "nano-b steered", "instruction": "angles", "condition": "transferred vector"}


def test_a_link_shows_what_its_sender_saw(nano_home: Path) -> None:
    plant(Workspace("nano"), "ab")
    app = opened("steering", pair="nano", **LINK)
    assert not app.exception and not app.warning
    assert {key: app.query_params[key] for key in LINK} == LINK
    said = text(app)
    assert "Fig. 12" in said and "Fig. 13" in said and "**0 [" in said


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ({"instruction": "sonnet"}, "No instruction sonnet here"),
        ({"condition": "asked"}, "No condition asked here"),
        ({"follows": "c"}, "No model that follows c here"),
    ],
)
def test_a_link_to_what_is_not_there_says_so(
    nano_home: Path, query: dict[str, str], answer: str
) -> None:
    plant(Workspace("nano"), "ab")
    app = opened("steering", pair="nano", tab="Evaluation", **query)
    assert not app.exception
    assert any(answer in warning.value.replace("\\", "") for warning in app.warning)
