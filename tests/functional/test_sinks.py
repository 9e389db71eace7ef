"""From a shipped nano stitch to the tables of its second piece: the sink crosses in two pieces, and
not by the controls."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from core.activations import harvest
from core.bench import Bench, open_pair
from core.cli.main import app
from core.errors import StitchLensError
from core.functional import measure as functional_measure
from core.functional import sink_tables, sinks
from core.functional.ablation import null_basis, null_share
from core.functional.attention import Heads, pattern
from core.functional.sides import Subject
from core.models import hooks
from core.models.pairs import LayerPair, get_pair
from core.report import report
from core.steering import sink_speech
from core.stitches.passage import positions
from core.stitches.settings import SinkConfig
from core.stitches.sink import load_two_piece
from core.stitches.stitch import load_stitch
from core.stitches.stitched import Stitched
from core.workspace import store
from core.workspace.artifacts import discard
from core.workspace.disk import fingerprint
from core.workspace.places import WORKSPACES
from core.workspace.store import Workspace

STITCH = "L2-L3"
NANO = LayerPair(a=2, b=3)
SMALL = SinkConfig(documents=20, read=6, tokens=1500)


@pytest.fixture(scope="module")
def bench(nano_home: Path) -> Bench:
    found = open_pair("nano")
    for name in [n for n in found.workspace.names() if n.startswith("sinks/")]:
        found.workspace.remove(name)
    assert sink_tables.sinks(found.workspace) == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harvest, "WINDOW", 8)  # else more is read than is asked for
        sinks.measure(found, STITCH, SMALL)
    sink_speech.write(found, STITCH, sink_speech.SpeechConfig(prompts=3, length=8))
    return found


@pytest.fixture
def ws(bench: Bench) -> Workspace:
    return bench.workspace


def test_the_sink_crosses_in_two_pieces_and_not_by_the_controls(ws: Workspace) -> None:
    for direction in sink_tables.DIRECTIONS:
        rows = sink_tables.crossing(ws, STITCH).set_index(["direction", "condition"]).loc[direction]
        assert rows.share_of_own["own"] == rows.attention_of_own["own"] == 1
        assert rows.share_of_own["two_piece"] > 0.9
        assert rows.attention_of_own["two_piece"] == pytest.approx(
            rows.attention_of_own["kept"], rel=0.02
        )
        assert rows.cosine["two_piece"] > 0.999 and rows.norm["two_piece"] == pytest.approx(1, 0.01)
        assert rows.cosine["shuffled"] < 0.9
        assert (rows.share_low <= rows.share_high).all()


def test_all_positions_cost_no_more_than_today(ws: Workspace) -> None:
    table = sink_tables.losses(ws, STITCH)
    for _, rows in table[table.kind == ""].groupby("direction"):
        more = rows.set_index("condition").more
        assert more["kept"] == 0
        assert abs(more["two_piece"]) < 0.01
        assert more["shuffled"] > 10 * abs(more["two_piece"])
    assert {"", "English", "code"} <= set(table.kind)


def test_measured_as_by_hand(bench: Bench) -> None:
    """Share and attention of B's own, without any of the code that crosses."""
    rows = sink_tables.crossing(bench.workspace, STITCH)
    own = rows[(rows.direction == "a_to_b") & (rows.condition == "own")].iloc[0]
    documents = sinks._documents(bench, SMALL)
    subject = Subject("b", bench.b, None, 3)  # type: ignore[arg-type]
    direction = functional_measure.sink_direction(subject, documents)
    (share,) = null_share(direction[None], null_basis(bench.b))
    assert own.share == pytest.approx(float(share), rel=1e-3)

    heads, total, cells = Heads(bench.b), 0.0, 0
    for document in documents:
        ids = bench.b.pad([bench.b.encode([document.text])[0].ids])
        for layer, call in heads.calls(ids, range(3, 6)).items():
            to_first = pattern(heads.look(layer, call))[0, :, 1:, 0]
            total, cells = total + float(to_first.sum()), cells + to_first.numel()
    assert own.attention == pytest.approx(total / cells, rel=1e-3)


def test_a_crossed_first_row_moves_attention(bench: Bench) -> None:
    """The hook changes what heads look at: a first row of zeros is no sink."""
    ws = bench.workspace
    stitch = load_stitch(ws.path(f"stitches/{STITCH}"))
    at = positions(Stitched(bench.a, bench.b, NANO, stitch, first=True), "The house of my mother.")
    own = at.own["b"]
    without = own.clone()
    without[0] = 0
    streams = {"own": own, "without": without}
    attention, cells = sinks._attention(Heads(bench.b), NANO, "b", at, streams)
    ids = at.ids["b"][None]
    (plain,) = hooks.residuals(bench.b, ids, [3])[3]
    assert torch.allclose(plain, own, atol=0.1)
    assert cells == 3 * 4 * (len(own) - 1)
    assert abs(attention["own"] - attention["without"]) > 0.01 * cells


def test_what_is_written_is_scored(ws: Workspace) -> None:
    table = sink_tables.speech(ws, STITCH)
    assert len(table) == 2 * 6
    rows = table.set_index(["direction", "condition"])
    assert (rows.changed.xs("kept", level="condition") == 0).all()
    assert (rows.loss > 0).all() and table.repetition.between(0, 1).all()
    texts = ws.table(f"sinks/{STITCH}/texts")
    assert len(texts) == 2 * 6 * 3 and texts.text.str.len().min() > 0


def test_the_report_says_it(ws: Workspace) -> None:
    found = report(get_pair("nano"))["sink"]
    json.dumps(found, allow_nan=False)
    assert found == {STITCH: sink_tables.summary(ws, STITCH)}
    assert found[STITCH]["rows"]["first"] == 20 and found[STITCH]["rows"]["rank_up"] == 0
    assert found[STITCH]["a_to_b"]["crossing"]["source"]["share"] > 0


def test_what_is_there_is_kept_and_goes_with_its_stitch(bench: Bench, ws: Workspace) -> None:
    dates = {name: artifact.made for name, artifact in ws.manifest().artifacts.items()}
    sinks.measure(bench, STITCH, SMALL)
    sink_speech.write(bench, STITCH, sink_speech.SpeechConfig(prompts=3, length=8))
    assert {name: artifact.made for name, artifact in ws.manifest().artifacts.items()} == dates
    assert ws.verify() == {}

    two = load_two_piece(ws, STITCH)
    assert two.sink.toward("b").rank == 0 and len(two.sink.up.mean) == 256
    own = [name for name in ws.names() if name.startswith("sinks/")]
    assert len(own) == 7
    assert sum(ws.entry(name).bytes for name in own) < 100_000


def test_bad_input_is_a_sentence(bench: Bench) -> None:
    with pytest.raises(StitchLensError, match="no 'stitches/nothing'"):
        sinks.measure(bench, "nothing", SMALL)
    run = CliRunner().invoke
    for words, message in (
        (["nano", "nothing"], "no 'stitches/nothing' in workspace 'nano'"),
        (["nano", STITCH, "--documents", "0"], "documents = 0"),
        (["nano", STITCH, "--rank", "-1"], "rank = -1"),
        (["nano", STITCH, "--ridge", "nan"], "ridge = nan"),
        (["nowhere"], "no pair named 'nowhere'"),
    ):
        done = run(app, ["stitch", "sink", *words])
        assert done.exit_code == 2 and message in done.stderr, done.stderr


def test_the_command_prints_what_is_kept(bench: Bench) -> None:
    options = ["--documents", "20", "--read", "6", "--tokens", "1500"]
    options += ["--prompts", "3", "--length", "8"]
    done = CliRunner().invoke(app, ["stitch", "sink", "nano", STITCH, *options, "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["name"] == STITCH
    done = CliRunner().invoke(app, ["stitch", "sink", "nano", STITCH, *options])
    assert "in two pieces, from 20 first tokens and 0 massive rows" in done.stdout


def test_it_is_discarded_with_its_stitch(bench: Bench) -> None:
    discard(bench.workspace, "stitches", STITCH)
    assert sink_tables.sinks(bench.workspace) == []


@pytest.mark.parametrize("pair", ["nano"])
def test_the_committed_tables_are_whole(pair: str) -> None:
    ws = Workspace(pair, WORKSPACES)
    for name in sink_tables.sinks(ws):
        stitch = store.makers(ws, f"sinks/{name}/map")["stitch"]
        assert stitch == fingerprint(store.makers(ws, f"stitches/{name}"))
        found = sink_tables.summary(ws, name)
        for direction in sink_tables.DIRECTIONS:
            crossing = found[direction]["crossing"]
            assert crossing["two_piece"]["share_of_own"] >= 0.5
            more = found[direction]["losses"]["all text"]["two_piece"]
            assert more["more_low"] <= 0.01
