"""The pages on a planted workspace, without a browser: what they say, what they refuse, what an
empty state offers."""

import json
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest
from streamlit.testing.v1 import AppTest

from core import jobs
from core.models.pairs import known_pairs
from core.stitches import tables as stitch_tables
from core.text.corpus import Document, load_corpus
from core.workspace.places import PROJECT
from core.workspace.store import Workspace
from pages.features import figures
from pages.shared import figures as figures_base
from pages.shared import tokens
from pages.shared import words as shared_words
from tests.helpers.app import opened, text
from tests.helpers.planted import MAKERS, PAIR, losses, plant, plant_features


@pytest.fixture
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("STITCHLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(tmp_path / "workspaces"))
    return plant(tmp_path / "workspaces")


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


def test_a_table_of_features_keeps_its_cells(ws: Workspace) -> None:
    table = pd.DataFrame(
        {
            "feature": [0, 1],
            "difference": 0.5,
            "difference_b": -0.5,
            "correlation": [0.25, float("nan")],
            "raises": ["a|b\n`c", ""],
        }
    )
    lines = probes_links(ws, table).split("\n")
    assert len(lines) == 4 and all(len(re.split(r"(?<!\\)\|", line)) == 7 for line in lines)
    assert "⏎" in lines[2] and "∅" in lines[3]
    alone = probes_links(ws, table.drop(columns=["correlation", "raises"]))
    assert "Eq. 10" not in alone and "Raises" not in alone, "no column that is always empty"


def probes_links(ws: Workspace, table: pd.DataFrame) -> str:
    """`links` of the page's file, which is a script."""
    source = (PROJECT / "pages" / "probes" / "page.py").read_text("utf-8").removesuffix("page()\n")
    names: dict[str, Any] = {}
    exec(compile(source, "probes.py", "exec"), names)
    return str(names["links"](ws, "L20-12", table))


@pytest.mark.parametrize(
    "data",
    [[7, "a", 0.5], (7, "a", 0.5), {"0": 7, "1": "a", "2": 0.5}, {"2": 0.5, "0": 7, "1": "a"}],
)
def test_what_is_picked_reads_the_same_in_every_form(data: Any) -> None:
    points = [{"customdata": data}, {"x": 1.0}, {"customdata": None}, {"customdata": 3}]
    assert figures_base.picked({"selection": {"points": points}}) == [[7, "a", 0.5], [3]]
    assert figures_base.picked(None) == [] and figures_base.picked({}) == []
    many = {str(k): k for k in range(12)}
    assert figures_base.picked({"selection": {"points": [{"customdata": many}]}}) == [
        list(range(12))
    ]


def test_no_chart_hands_bytes_as_customdata(nano_home: Path) -> None:
    """An array would come back from the browser as an object."""
    drawn = 0
    for page in ("", "stitches", "features", "functional", "steering", "probes", "training"):
        app = opened(page, pair="nano")
        assert not app.exception
        for chart in app.get("plotly_chart"):
            for trace in json.loads(chart.proto.spec)["data"]:
                drawn += 1
                assert isinstance(trace.get("customdata", []), list), (page, trace.get("name"))
                assert all(isinstance(row, list) for row in trace.get("customdata", [])), (
                    page,
                    trace.get("name"),
                )
    assert drawn > 50


def test_the_share_of_structural_features_is_counted() -> None:
    """By hand: six features between 0.1 and 0.2, two of them structural; one alone at the very end;
    others left out."""
    kinds = ["structural"] * 2 + ["semantic"] * 4 + ["structural", "unseen", "dead", "semantic"]
    table = pd.DataFrame(
        {"correlation": [0.15] * 6 + [1.0, 0.15, 0.15, float("nan")], "kind": kinds}
    )
    shares = stitch_tables.structural_share(table)
    assert len(shares) == 20 and shares.n.sum() == 7 and shares.structural.sum() == 3
    row = shares.loc[(shares.low < 0.15) & (shares.high > 0.15)].iloc[0]
    assert (row.structural, row.n) == (2, 6) and row.share == pytest.approx(1 / 3)
    assert (shares.structural.iloc[-1], shares.n.iloc[-1], shares.share.iloc[-1]) == (1, 1, 1.0)
    assert shares.share.notna().sum() == 2, "no share of nothing"
    figure = figures.classes(table, shares)
    (line,) = figure.layout.shapes  # type: ignore[attr-defined]
    assert line.y0 == pytest.approx(3 / 7), "dotted: over all"


def test_an_unknown_workspace_is_said_and_a_known_one_not_built(ws: Workspace) -> None:
    app = opened(pair="no*such")
    assert not app.exception
    assert "No workspace no\\*such here" in app.warning[0].value and "Gemma" in app.warning[0].value
    app = opened(pair="nano")
    assert "python -m core build nano" in app.warning[0].value
    assert not opened(pair=PAIR).warning


def test_feature_0_can_be_linked_and_a_workspace_opens_at_its_own(ws: Workspace) -> None:
    plant_features(ws, list(load_corpus().documents))
    shutil.copytree(PROJECT / "cache" / "nano", ws.root.parent / "nano")
    app = opened("features", feature="3")
    assert [h.value for h in app.header] == ["Feature 3"] and app.query_params["feature"] in (
        "3",
        ["3"],
    )
    app = AppTest.from_file(str(PROJECT / "pages" / "main.py"), default_timeout=200)
    app.query_params["pair"], app.query_params["feature"] = "nano", "0"
    app.run()
    app.switch_page("features/page.py").run()
    assert [h.value for h in app.header] == ["Feature 0"] and app.query_params["feature"] in (
        "0",
        ["0"],
    )
    app.session_state["pair"] = PAIR
    app.run()
    assert not app.exception and "feature" not in app.query_params
    assert any("of another SAE" in x.value for x in app.info)


def test_unknown_values_in_an_address_are_said(nano_home: Path) -> None:
    for page, query, says in (
        ("features", {"view": "Nope"}, "No comparison Nope here"),
        ("functional", {"head": "9"}, "No head 9 here, they run from 0 to 1"),
        ("functional", {"side": "c"}, "No side c here, they are a and b"),
        ("steering", {"source": "Nope"}, "No source of vectors Nope here"),
        ("steering", {"strength": "99"}, "No strength 99 here"),
        ("probes", {"task": "Nope"}, "No task Nope here"),
        ("training", {"width": "7"}, "No width 7 here"),
    ):
        app = opened(page, pair="nano", **query)
        assert not app.exception
        assert any(says in w.value for w in app.warning), (
            page,
            query,
            [w.value for w in app.warning],
        )


def test_look_shows_something_with_its_own_text(nano_home: Path) -> None:
    app = opened("functional", pair="nano")
    assert not app.exception
    pressed(app, "Look")
    assert not app.exception and not app.error
    assert "fires nowhere" not in text(app) and "Mean change at the" in text(app)
    app.segmented_control(key="side").set_value("b").run()
    pressed(app, "Look")
    assert not app.exception and "fires nowhere" not in text(app)


def test_a_feature_steers_through_stitches_of_its_layer_alone(nano_home: Path) -> None:
    app = opened("steering", pair="nano", source="Feature")
    assert not app.exception and not app.error
    assert app.selectbox(key="through").options == ["L2-L3"]
    app.segmented_control(key="source").set_value("lang").run()
    assert app.selectbox(key="through").options == ["L2-L3", "L3-L4"]


def test_without_a_stitch_of_its_layer_a_feature_cannot_steer(ws: Workspace) -> None:
    plant_features(ws, list(load_corpus().documents))
    for sae in ("L20-12", "L7-12"):
        ws.put_folder(
            f"saes/{sae}",
            lambda p: (p / "cfg.json").write_text("{}"),
            "sae",
            MAKERS | {"layer_a": int(sae[1:].split("-")[0])},
        )
    assert (
        stitch_tables.stitches_from(ws, "L20-12") == ["L20-L9"]
        and stitch_tables.stitches_from(ws, "L7-12") == []
    )


def test_a_stitch_fitted_by_hand_is_removed_from_its_page_and_others_are_not(ws: Workspace) -> None:
    app = opened("stitches")
    assert not any(b.label == "Remove it" for b in app.button), "the build's own stay"
    makers = ws.entry("stitches/L10-L9").makers | {"why": "chosen by hand"}
    ws.put("stitches/mine", lambda p: p.touch(), "stitch", ".safetensors", makers)
    ws.put_table("downstream/mine", losses(), makers)
    app = opened("stitches", stitch="mine")
    assert app.header[0].value == "mine"
    pressed(app, "Remove it")
    assert not app.exception and not app.error and app.header[0].value == r"L20\-L9"
    assert any("mine was removed" in x.value for x in app.success)
    assert not [name for name in ws.names() if name.endswith("/mine")]
    assert not any(b.label == "Remove it" for b in app.button)
    for page in ("", "stitches", "features", "functional", "probes", "training"):
        app = opened(page)
        assert not app.exception and not app.error


def test_a_stitch_that_something_was_made_through_stays(ws: Workspace) -> None:
    makers = ws.entry("stitches/L10-L9").makers | {"why": "chosen by hand"}
    ws.put("stitches/mine", lambda p: p.touch(), "stitch", ".safetensors", makers)
    ws.put_record("probes/one", {}, MAKERS | {"stitch_name": "mine"})
    app = opened("stitches", stitch="mine")
    assert not any(b.label == "Remove it" for b in app.button)
    assert "probes/one were made through mine" in text(app)


def test_stitches_shows_one_in_full_and_a_link_picks_it(ws: Workspace) -> None:
    app = opened("stitches")
    assert not app.exception and not app.error
    assert app.header[0].value == r"L20\-L9"
    assert [n.value for n in app.number_input[:2]] == [20, 9]
    for words in ("Fig. 6", "Fig. 7", "Eq. 3", "Control", "1,200 paired positions", "Fitted here"):
        assert words in text(app), words
    app.selectbox(key="stitch").select("L10-L9").run()
    assert app.header[0].value == r"L10\-L9"
    assert [n.value for n in app.number_input[:2]] == [10, 9]
    assert "α was swept for the layer pairs of the build only" in text(app)


def test_features_shows_the_histograms_and_one_feature_twice(ws: Workspace) -> None:
    plant_features(ws, list(load_corpus().documents))
    app = opened("features")
    assert not app.exception and not app.error
    said = text(app)
    for words in (
        "Eq. 10",
        "Fig. 14",
        "Fig. 4b",
        "shuffled pairs",
        "Table 2",
        "5 semantic",
        "6 structural",
        "1 dead",
    ):
        assert words in said, words
    assert app.number_input(key="feature").value == 0, "the one that correlates best"
    assert [h.value for h in app.header] == ["Feature 0"]
    next(b for b in app.button if b.label == "Next").click().run()
    assert not app.exception and [h.value for h in app.header] == ["Feature 1"]
    app.number_input(key="feature").set_value(11).run()
    assert not app.exception and "Not active in any" in text(app)
    app.slider[0].set_value(1.0).run()
    assert not app.exception and "11 semantic" in text(app)


def test_a_feature_that_is_not_there_is_said(ws: Workspace) -> None:
    plant_features(ws, list(load_corpus().documents))
    app = opened("features", feature="99")
    assert not app.exception
    assert any("from 0 to 11" in w.value for w in app.warning)


def test_examples_of_another_corpus_are_said(ws: Workspace) -> None:
    gone = [Document(id=f"gone@{k}+0", label="eng", text="-") for k in range(3)]
    plant_features(ws, gone)
    app = opened("features")
    assert not app.exception and "another version of the corpus" in text(app)


def test_an_unknown_link_is_said(ws: Workspace) -> None:
    app = (
        AppTest.from_file(str(PROJECT / "pages" / "main.py"), default_timeout=200)
        .run()
        .switch_page("stitches/page.py")
    )
    app.query_params["stitch"] = "no*such"
    app.run()
    assert not app.exception
    assert [w.value for w in app.warning] == [r"No stitch named no\*such here; showing L20\-L9."]


def test_a_stitch_of_the_workspace_before_is_no_fault(ws: Workspace) -> None:
    """The picker of workspaces changes while the address still names it."""
    shutil.copytree(PROJECT / "cache" / "nano", ws.root.parent / "nano")
    app = opened("stitches", stitch="L10-L9")
    app.session_state["pair"] = "nano"
    app.run()
    assert not app.exception and not app.warning
    assert app.header[0].value == r"L2\-L3"


def test_a_stitch_that_is_not_measured_says_how(ws: Workspace) -> None:
    app = opened("stitches")
    app.selectbox(key="stitch").select("young").run()
    assert not app.exception and not app.error
    assert any("stitch eval smollm2-gemma3 young" in c.value for c in app.code)


def test_damage_is_said_in_place_and_the_rest_is_drawn(ws: Workspace) -> None:
    path = ws.path("downstream/L20-L9")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    app = opened("stitches")
    assert not app.exception
    assert any("the file was changed" in e.value for e in app.error)
    assert "Fig. 6" in text(app) and "Fig. 7" in text(app)
    (ws.root / "manifest.json").write_text("{")
    app.run()
    assert not app.exception and "unreadable manifest" in app.error[0].value.replace("\\", "")


def test_a_newer_manifest_is_refused_in_words(ws: Workspace) -> None:
    manifest = ws.root / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    app = opened()
    assert not app.exception and "update StitchLens" in app.error[0].value


def test_signs_in_names_stay_signs(ws: Workspace) -> None:
    ws.put_table("downstream/x_y*z*", losses(), MAKERS)
    ws.put(
        "stitches/x_y*z*",
        lambda p: p.touch(),
        "stitch",
        ".safetensors",
        ws.entry("stitches/L20-L9").makers,
    )
    app = opened()
    assert r"x\_y\*z\*" in app.table[0].value.index


def test_the_form_refuses_and_keeps_what_was_typed(ws: Workspace) -> None:
    app = opened("stitches")
    app.text_input[0].set_value("not a name")
    next(b for b in app.button if b.label == "Fit").click().run()
    assert not app.exception
    assert "choose another name" in app.error[0].value and app.text_input[0].value == "not a name"
    assert jobs.jobs(PAIR) == []


def test_a_job_is_shown_until_dismissed(ws: Workspace) -> None:
    job = jobs.start(
        PAIR,
        ["import sys; sys.exit('Found this; wanted that: do so.')"],
        "Fit mine",
        command=(sys.executable, "-c"),
    )
    while job.state == "running":
        time.sleep(0.02)
    app = opened("stitches")
    assert not app.exception and "Found this; wanted that" in app.error[0].value.replace("\\", "")
    next(b for b in app.button if b.label == "Dismiss").click().run()
    assert not app.exception and not app.error and jobs.jobs(PAIR) == []


def test_empty_states_are_doors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(tmp_path / "none"))
    app = opened()
    assert not app.exception and not app.error
    assert (
        app.code[0].value == "python -m core build smollm2-gemma3"
        and app.button[0].label == "Build it"
    )
    app.switch_page("stitches/page.py").run()
    assert not app.exception and not app.error
    assert app.code[0].value == "python -m core svcca smollm2-gemma3"


def test_a_half_built_workspace_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(tmp_path))
    full = plant(tmp_path / "full")
    Workspace(PAIR).put_table("svcca", full.table("svcca"), MAKERS)
    for page in ("", "stitches"):
        app = opened(page)
        assert not app.exception
    Workspace(PAIR).put(
        "stitches/one",
        lambda p: p.touch(),
        "stitch",
        ".safetensors",
        full.entry("stitches/young").makers,
    )
    for page in ("", "stitches"):
        app = opened(page)
        assert not app.exception


def lanes(app: AppTest) -> dict[str, str]:
    """What each lane of the last run wrote."""
    return {lane["lane"]: lane["text"] for lane in app.session_state["runs"][-1]["lanes"]}


def pressed(app: AppTest, label: str) -> AppTest:
    return next(b for b in app.button if b.label == label).click().run()


@pytest.mark.usefixtures("nano_home")
def test_steering_shows_what_the_evaluation_found() -> None:
    app = opened("steering", pair="nano")
    assert not app.exception and not app.error
    said = text(app)
    for words in (
        "Tables 5 and 6",
        "Clopper-Pearson",
        "Fig. 3b",
        "Fig. 3c",
        "Fig. 11",
        "Eq. 16",
        "Control",
        "the paper's",
    ):
        assert words in said, words
    assert "As the evaluation wrote it" in said, (
        "there is something to read before anything is pressed"
    )
    app.segmented_control(key="way").set_value("a").run()
    assert (
        not app.exception and not app.error and "nano-a's responses" in text(app).replace("\\", "")
    )


@pytest.mark.usefixtures("nano_home")
def test_go_writes_a_lane_each_and_the_dial_keeps_the_run_before() -> None:
    app = opened("steering", pair="nano", tokens="12", prompt="The house of my")
    pressed(app, "Go")
    assert not app.exception and not app.error
    first = lanes(app)
    assert list(first) == ["b:none", "b:own", "b:transferred"] and len(set(first.values())) == 3
    assert "tokens/s" in text(app) and "nats/token" in text(app)
    app.slider(key="strength").set_value(0.0).run()
    assert not app.exception and not app.error
    assert len(app.session_state["runs"]) == 2
    still = lanes(app)
    assert len(set(still.values())) == 1 and still["b:none"] == first["b:none"], (
        "strength 0 changes nothing"
    )
    assert "strength 1" in text(app), "the run before is there to compare"


@pytest.mark.usefixtures("nano_home")
def test_a_preset_sets_everything_and_goes() -> None:
    app = opened("steering", pair="nano", tokens="8")
    preset = next(b for b in app.button if str(b.key).startswith("preset-"))
    preset.click().run()
    assert not app.exception and not app.error
    run = app.session_state["runs"][-1]
    assert run["source"] == f"lang:{str(preset.key).removeprefix('preset-')}"
    assert run["prompt"] == app.text_area(key="prompt").value
    assert run["setting"]["layers_b"] == (
        app.number_input(key="first_b").value,
        app.number_input(key="last_b").value,
    )


@pytest.mark.usefixtures("nano_home")
@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"prompt": "   "}, "an empty prompt"),
        ({"prompt": "a " * 4000}, "shorten it"),
        ({"source": "Texts", "plus": "same", "minus": "same"}, "the same text in both boxes"),
        ({"source": "Your own"}, "no vector"),
        ({"first_b": "5", "last_b": "2"}, "layers 5 to 2 of B"),
    ],
)
def test_steering_says_what_is_wrong(query: dict[str, str], says: str) -> None:
    app = opened("steering", pair="nano", tokens="4", **query)
    pressed(app, "Go")
    assert not app.exception
    assert says in "\n".join(e.value for e in app.error).replace("\\", "")


@pytest.mark.usefixtures("nano_home")
@pytest.mark.parametrize(
    "prompt", ["שלום עולם", "🙂👩‍👩‍👧", "x" * 10_000, "<script>alert(1)</script>"]
)
def test_odd_prompts_are_written_on(prompt: str) -> None:
    app = opened("steering", pair="nano", tokens="3", prompt=prompt)
    pressed(app, "Go")
    assert not app.exception
    wrote = "runs" in app.session_state and len(app.session_state["runs"][-1]["lanes"]) == 3
    assert wrote if len(prompt) < 1000 else "shorten it" in app.error[0].value


@pytest.mark.usefixtures("nano_home")
def test_no_lane_is_said() -> None:
    app = opened("steering", pair="nano")
    app.button_group(key="lanes").set_value([]).run()
    pressed(app, "Go")
    assert not app.exception and "No lane is chosen" in app.warning[0].value


def test_steering_without_stitch_or_means_is_a_door(ws: Workspace) -> None:
    app = opened("steering")
    assert not app.exception and "steer eval smollm2-gemma3" in app.code[0].value


def test_a_new_pair_is_looked_at_added_and_built_in_the_background(ws: Workspace) -> None:
    app = opened("pair", ref_a="nano-a", ref_b="nano-b")
    assert not app.exception and "What a build takes" not in text(app)
    next(x for x in app.text_input if x.label == "Text").set_value("wheel:eng")
    next(x for x in app.text_input if x.label == "Name").set_value("mine")
    next(b for b in app.button if b.label == "Look").click().run()
    assert not app.exception and not app.error
    said = text(app)
    assert "What a build takes" in said and "gpt\\_neox" in said and "within-family" in said
    assert "mine" not in known_pairs(), "only looked at"
    next(b for b in app.button if b.label == "Add and build").click().run()
    job = jobs.latest("mine")
    assert not app.exception and app.session_state["pair"] == "mine"
    assert job is not None and job.record.command[-4:] == ("build", "mine", "--positions", "100000")
    try:
        next(b for b in app.button if b.label == "Pause").click().run()
        assert job.state == "paused" and any(b.label == "Resume" for b in app.button)
        next(b for b in app.button if b.label == "Cancel").click().run()
        assert job.state == "cancelled" and any(b.label == "Go on" for b in app.button)
    finally:
        job.cancel()


def test_what_is_wrong_with_a_new_pair_is_said(ws: Workspace) -> None:
    app = opened("pair")
    for a, b, says in (
        ("", "", "name both"),
        ("nano-a", "/no/where", "no folder"),
        ("nano-a", "nano-a", "twice"),
    ):
        app.text_input(key="ref_a").set_value(a)
        app.text_input(key="ref_b").set_value(b)
        next(x for x in app.button if x.label == "Look").click().run()
        assert not app.exception and says in app.error[0].value


def test_private_jobs_of_others_are_not_told(ws: Workspace, tmp_path: Path) -> None:
    job = jobs.start(
        PAIR,
        ["import time; time.sleep(60)"],
        "Import secret-name",
        command=(sys.executable, "-c"),
        private=tmp_path / "somebody",
    )
    try:
        app = opened("stitches")
        assert (
            not app.exception
            and "secret" not in text(app)
            and "Somebody's private job" in text(app)
        )
        assert not any(b.label in ("Cancel", "Pause") for b in app.button)
    finally:
        job.cancel()
    assert "secret" not in text(opened("stitches"))


def test_probes_are_drawn_and_link_to_features(nano_home: Path) -> None:
    app = opened("probes", pair="nano")
    assert not app.exception and not app.error
    said = text(app)
    for words in (
        "Mean over 10 datasets",
        "Fig. 3a",
        "Fig. 9 and 10",
        "shuffled pairs",
        "Probe your own labels",
    ):
        assert words in said, words
    assert app.dataframe[0].value.shape == (11, 9)
    app.selectbox(key="task").select("language/fra").run()
    assert "(features?pair=nano&sae=L2-1024&feature=" in text(app)
    assert "French" in text(app) and not app.exception


def test_probes_say_how_they_are_made(ws: Workspace) -> None:
    app = opened("probes")
    assert not app.exception
    assert f"python -m core probes eval {PAIR}" in text(app)


def test_sae_training_says_what_was_saved(nano_home: Path) -> None:
    app = opened("training", pair="nano", width="2048", auxiliary="with")
    assert not app.exception and not app.error
    said = text(app)
    for words in ("To reach 90", "Fig. 2a", "Table 3", "Table 4", "Fig. 1c, 8", "Train more"):
        assert words in said, words
    assert "Fig. 2b" not in said, "the auxiliary runs were not kept for it"
    app.segmented_control(key="auxiliary").set_value("without").run()
    assert "Fig. 2b" in text(app)
    exact = text(app)
    app.segmented_control(key="fitter").set_value("adam").run()
    assert text(app) != exact and not app.exception
    next(field for field in app.text_input if field.label == "Features").set_value("many")
    next(b for b in app.button if b.label == "Train").click().run()
    assert "widths 'many'" in app.error[0].value.replace("\\", "")
    assert jobs.latest("nano") is None


def test_sae_training_says_how_it_is_made(ws: Workspace) -> None:
    app = opened("training")
    assert not app.exception
    assert f"python -m core sae train {PAIR}" in text(app)


def test_a_figure_is_built_once_for_the_same_table_and_anew_for_another(ws: Workspace) -> None:
    table = pd.DataFrame({"x": [1.0, 2.0], "tokens": [[1, 2], [3]]})
    built: list[float] = []

    @figures_base.remembered
    def once(table: pd.DataFrame, side: str) -> go.Figure:
        built.append(table.x.sum())
        return go.Figure(go.Bar(x=table.x))

    first = once(table, "a")
    assert once(table.copy(), "a") is first and len(built) == 1
    lists, number, order = table.assign(tokens=[[1, 2], [4]]), table.copy(), table.iloc[::-1]
    number.loc[0, "x"] = 1.0 + 1e-12
    for other in (lists, number, order, table.rename(columns={"tokens": "ends"})):
        before = len(built)
        once(other, "a")
        assert len(built) == before + 1
    assert once(table, "b") is not first
