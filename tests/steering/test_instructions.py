"""Instructions: what a file may hold, how a model is asked, DiffMean at the last token, and an
evaluation of the nano pair whose tables fit together."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from core.bench import open_pair
from core.cli.main import app
from core.config import check
from core.errors import StitchLensError
from core.models import hooks
from core.models.live import LiveModel
from core.models.pairs import get_pair
from core.report import report
from core.statistics import share_interval
from core.steering import following
from core.steering import tables as steering_tables
from core.steering.following import FollowConfig, evaluate, summary, warnings
from core.steering.instructions import (
    CONDITIONS,
    INSTRUCTIONS,
    Instruction,
    as_prompt,
    chats,
    load_instructions,
)
from core.steering.last_token import instruction_means
from core.steering.vectors import diff_mean
from core.workspace.artifacts import command
from core.workspace.store import Workspace

SHIPPED = load_instructions()
CONFIG = FollowConfig(
    instructions=("no-commas", "capitals"),
    steered=("b",),
    stitches=("L2-L3",),
    strengths=(1.0, 2.0),
    choosing=2,
    prompts=4,
    tokens=10,
)
TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[answer]:"


def test_the_shipped_halves_are_apart_and_name_no_instruction() -> None:
    assert len(SHIPPED.instruction) >= 12
    assert len(SHIPPED.choosing) >= 24 and len(SHIPPED.measured) >= 24
    both = [*SHIPPED.choosing, *SHIPPED.measured]
    assert len(set(both)) == len(both)
    assert all(len(one.wordings) > 1 for one in SHIPPED.instruction)
    assert not [text for text in both if "garden" in text.casefold()], "the keyword"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"Answer in French.",', '" ",', "without words in instruction 'french'"),
        ('"Why do cats purr?"', '""', "without words in half 'choosing'"),
        ("measured = [", "measured = []\nothers = [", "others"),
        ("measured = [", 'measured = [\n    "Why do cats purr?",', "in both halves"),
        ('key = "json"', 'key = "quotes"', "16 instructions, 15 keys"),
        ('key = "json"', 'key = "J S"', "instruction.6.key"),
        ('check = "json"', 'check = "jason"', "check 'jason'"),
        ("[[instruction]]", "[[instruction", "no TOML"),
    ],
)
def test_a_file_with_a_fault_is_refused(old: str, new: str, says: str, tmp_path: Path) -> None:
    text = INSTRUCTIONS.read_text("utf-8")
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises(StitchLensError, match=says):
        load_instructions(path)


def test_instructions_without_prompts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    for text, says in (
        ("", "no prompts in half 'choosing'"),
        ('choosing = ["Why?"]', "no prompts in half 'measured'"),
        ('choosing = ["Why?"]\nmeasured = ["How?"]', "0 instructions"),
        (
            'choosing = ["Why?"]\nmeasured = ["How?"]\n'
            '[[instruction]]\nkey = "x"\ntitle = "x"\ncheck = "json"',
            "no prompts in instruction 'x'",
        ),
    ):
        path.write_text(text, "utf-8")
        with pytest.raises(StitchLensError, match=says):
            load_instructions(path)
    with pytest.raises(StitchLensError, match="unreadable"):
        load_instructions(tmp_path / "nowhere.toml")


def test_a_model_is_asked_in_its_template(nano: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not chats(nano) and as_prompt(nano, "Why?") == "Why?\n\n"
    with pytest.raises(StitchLensError, match="an empty request"):
        as_prompt(nano, "  ")

    first = nano.makers["bos"]
    monkeypatch.setattr(nano.tokenizer, "chat_template", first + TEMPLATE)
    assert chats(nano)
    assert as_prompt(nano, "Why?") == "[user] Why?\n[answer]:", "`encode` puts the first token"
    (encoded,) = nano.encode([as_prompt(nano, "Why?")])
    assert (encoded.ids == nano.bos).sum() == 1

    for broken in ("{{ raise_exception('no turns') }}", "{% for %}", "{{ messages[0].no() }}"):
        monkeypatch.setattr(nano.tokenizer, "chat_template", broken)
        with pytest.raises(StitchLensError, match="a chat template that fails"):
            as_prompt(nano, "Why?")


def test_diff_mean_is_that_of_last_tokens(nano: LiveModel) -> None:
    one = Instruction(key="x", title="x", check="capitals", wordings=("Shout.", "Speak up!"))
    requests = ("Why do cats purr?", "What is a budget?", "Describe the sea.")
    asked = ("Why do cats purr? Shout.", "What is a budget? Speak up!", "Describe the sea. Shout.")
    means = instruction_means(nano, one, requests, [1, 3])
    for layer in (1, 3):
        rows = []
        for texts in (asked, requests):
            last = []
            for text in texts:
                ids = [nano.bos, *nano.tokenizer(f"{text}\n\n")["input_ids"]]
                residuals = hooks.residuals(nano, torch.tensor([ids]), [layer])[layer]
                last.append(residuals[0, -1].double())
            rows.append(torch.stack(last).mean(0))
        v = rows[0] - rows[1]
        vector = diff_mean(means[layer])
        assert torch.allclose(vector.v.double(), v / v.norm(), atol=1e-4)
        assert vector.mean == pytest.approx(float(rows[0] @ (v / v.norm())), rel=1e-3, abs=1e-3)


@pytest.fixture(scope="module")
def ws(nano_home: Path) -> Workspace:
    bench = open_pair("nano")
    evaluate(bench, CONFIG)
    return bench.workspace


def test_the_tables_fit_together(ws: Workspace) -> None:
    assert steering_tables.followed_sides(ws) == ["b"]
    table = steering_tables.followed(ws, "b")
    assert set(table.label) == {"no-commas", "capitals"} and set(table.kind) == {*CONDITIONS}
    for row in table.to_dict("records"):
        written = steering_tables.followed_texts(ws, "b", row["label"], row["kind"])
        assert written.prompt.to_list() == [*SHIPPED.measured[:4]], "the half held out"
        follows = SHIPPED.some((row["label"],))[0].follows
        hits = sum(map(follows, written.text))
        assert row["rate"] == hits / 4 and (row["low"], row["high"]) == share_interval(hits, 4)
        assert row["success"] <= row["rate"] and row["loss"] == pytest.approx(written.loss.mean())
    chosen = ws.table("steering_instructions/b/choice")
    assert len(chosen) == 2 * 2 * 2 and set(chosen.n) == {2}
    assert set(steering_tables.followed_means(ws, "b").kind) == {*CONDITIONS}


def test_one_text_without_a_vector_is_judged_by_every_instruction(ws: Workspace) -> None:
    plain = [
        steering_tables.followed_texts(ws, "b", label, "none").text.to_list()
        for label in ("no-commas", "capitals")
    ]
    assert plain[0] == plain[1]


def test_the_report_has_every_cell(ws: Workspace) -> None:
    whole = report(get_pair("nano"))["steering"]
    assert whole["a_to_b"], "languages stay where they were"
    part = whole["instructions"]["b"]
    assert part["chat_template"] == {"a": False, "b": False}
    for kinds in part["instructions"].values():
        assert set(kinds) == {*CONDITIONS} and "gap" in kinds["transferred"]
        assert all(0 <= x["low"] <= x["rate"] <= x["high"] <= 1 for x in kinds.values())
    text = steering_tables.followed_text(whole["instructions"])
    assert "B steered" in text and "capitals" in text and "prompted" in text


def test_what_is_done_is_not_done_again(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ws.table("steering_instructions/b/texts")
    wrote: list[int] = []
    original = following.respond_and_score
    monkeypatch.setattr(
        following, "respond_and_score", lambda *args: wrote.append(1) or original(*args)
    )
    evaluate(open_pair("nano"), CONFIG)
    assert wrote == []
    pd.testing.assert_frame_equal(ws.table("steering_instructions/b/texts"), before)


def test_base_models_are_refused_unless_they_are_named(nano_home: Path) -> None:
    bench = open_pair("nano")
    with pytest.raises(StitchLensError, match="two base models: neither nano-a nor nano-b"):
        evaluate(bench, CONFIG.model_copy(update={"steered": None}))
    a, b = warnings({"a": bench.a, "b": bench.b}, ("b",))
    assert a.startswith("nano-a is a base model") and "its vectors come from bare" in a
    assert b.startswith("nano-b is a base model") and "goes on from bare" in b


def test_what_is_not_there_is_said(nano_home: Path) -> None:
    for wrong, says in (
        ({"instructions": ("json", "sonnet")}, "no instruction sonnet"),
        ({"stitches": ("L9-L9",)}, "no stitch L9-L9"),
    ):
        with pytest.raises(StitchLensError, match=says):
            evaluate(open_pair("nano"), CONFIG.model_copy(update=wrong))
    for value in ((), (99.0,), (float("nan"),)):
        with pytest.raises(StitchLensError, match="strengths"):
            check(FollowConfig, strengths=value)
    with pytest.raises(StitchLensError, match="steered"):
        check(FollowConfig, steered=("c",))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--only", "capitals", "--quick"], "--only, --quick without --instructions"),
        (["--instructions", "--languages", "fr"], "--languages with --instructions"),
        (["--instructions", "--strengths", "x"], "strengths 'x'"),
        (["--instructions", "--strengths", "1,99"], "strengths"),
        (["--instructions", "--steered", "b,c"], "steered"),
        (["--instructions", "--file", "nowhere.toml"], "nowhere.toml unreadable"),
    ],
)
def test_the_command_line_refuses_in_a_sentence(
    words: list[str], says: str, nano_home: Path
) -> None:
    result = CliRunner().invoke(app, ["steer", "eval", "nano", *words])
    assert result.exit_code == 2 and says in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and "Traceback" not in result.output


def test_the_command_that_makes_them_again_is_known(ws: Workspace) -> None:
    name = "steering_instructions/b/rates"
    line = command("nano", name, ws.entry(name).makers)
    assert line == (
        "python -m core steer eval nano --instructions --steered b --only no-commas,capitals"
        " --strengths 1.0,2.0 --prompts 4 --choosing 2 --tokens 10 --stitches L2-L3"
    )


def test_a_loop_is_no_success() -> None:
    cell = {"label": "x", "stitch": "", "strength": 0.0, "loss": 1.0, "repetition": 0.0}
    rows = [
        cell | {"kind": kind, "hit": hit, "fluent": fluent}
        for kind in CONDITIONS
        for hit, fluent in ((kind != "none", True), (kind == "own", False))
    ]
    table = summary(pd.DataFrame(rows), {"x": "an x"}).set_index("kind")
    assert table.rate.to_dict() == {
        "none": 0.0,
        "own": 1.0,
        "transferred": 0.5,
        "random": 0.5,
        "prompted": 0.5,
    }
    assert table.success["own"] == 0.5 and table.gap["transferred"] == 0.5
