"""A refined stitch is an ordinary one with its tables beside it, and what cannot be refined is
refused with advice that helps."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from core.bench import Bench
from core.config import BuildConfig
from core.errors import StitchLensError
from core.models.pairs import get_pair
from core.report import report
from core.stitches import refined_tables
from core.stitches.measure import evaluate_stitch
from core.stitches.refined import refine_stitch, refined_name
from core.stitches.settings import RefineConfig
from core.stitches.stitch import Stitch, load_stitch, save_stitch, with_makers
from core.stitches.tables import by_hand, stitches_from
from core.workspace.artifacts import belongings, built, command
from tests.helpers.documents import parses

FEW = RefineConfig(tokens=1_000, batch=512, positions=2_000)
SHORT = BuildConfig(held_out_tokens=300)


@pytest.fixture
def bench(nano_home: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("STITCHLENS_DTYPE", "float32")
    return Bench(get_pair("nano"), SHORT)


def put(bench: Bench, name: str, stitch: Stitch, **makers: object) -> None:
    """A stitch as somebody's own, with its control."""
    stitch = with_makers(stitch, **makers)
    control = with_makers(shipped(bench, "controls/L2-L3"), **makers)
    for place, one in (("controls", control), ("stitches", stitch)):
        write = partial(save_stitch, one)
        bench.workspace.put(f"{place}/{name}", write, "stitch", ".safetensors", one.makers)


def shipped(bench: Bench, name: str = "stitches/L2-L3") -> Stitch:
    return load_stitch(bench.workspace.path(name))


def refused(bench: Bench, of: str, name: str = "x", config: RefineConfig = FEW) -> StitchLensError:
    before = bench.workspace.manifest().artifacts
    with pytest.raises(StitchLensError) as e:
        refine_stitch(bench, of, name, config)
    assert bench.workspace.manifest().artifacts == before, "nothing is kept"
    return e.value


@pytest.mark.whole
def test_a_refined_stitch_is_an_ordinary_one(bench: Bench) -> None:
    name = refined_name("L2-L3", FEW)
    assert name == "L2-L3-kl"
    put(bench, "few", shipped(bench), positions=2_000)  # so that it is quickly measured again
    name = "L2-L3-short"
    refine_stitch(bench, "few", name, FEW)
    ws = bench.workspace
    for group in ("stitches", "controls", "quality", "downstream", "kinds", "refine"):
        assert f"{group}/{name}" in ws.names()

    makers = ws.entry(f"stitches/{name}").makers
    assert (makers["method"], makers["of"], makers["objective"]) == ("refined", "few", "kl")
    assert makers["a"] == bench.a.makers and makers["layer_a"] == 2
    stitch, start = shipped(bench, f"stitches/{name}"), shipped(bench)
    assert not torch.equal(stitch.P_up, start.P_up)
    assert torch.allclose(stitch.P_up, start.P_up, atol=0.2 * float(start.P_up.abs().max()))
    assert stitches_from(ws, "L2-1024")[0] == "L2-L3" and name in stitches_from(ws, "L2-1024")
    assert by_hand(ws, name) and not built(f"stitches/{name}", makers)

    ws.forget(["stitches/few", "controls/few"])  # nothing else was measured of it
    measured = json.loads(json.dumps(report(bench.pair), allow_nan=False))
    refined = measured["refine"][name]
    assert set(refined["starts"]) == {"paired", "shuffled pairs", "constant input"}
    assert set(refined["starts"]["paired"]["English"]) == {
        "a_to_b",
        "b_to_a",
        "a_to_b_to_a",
        "b_to_a_to_b",
    }
    way = refined["starts"]["paired"]["English"]["a_to_b"]
    assert way["relative_after_low"] <= way["relative_after"]
    assert 0 < way["kl_after"] < 2 and way["loss_before"] > way["loss_unpatched"]
    own = measured["stitches"][name]["downstream_details"]["a_to_b"]["relative"]
    assert refined["starts"]["paired"]["all text"]["a_to_b"]["relative_after"] == pytest.approx(own)
    for start in ("shuffled pairs", "constant input"):
        control = refined["starts"][start]["all text"]["a_to_b"]
        assert control["relative_after"] > 3 * own, start
    assert "KL, nats" in refined_tables.as_text(name, refined)

    put(bench, "few", shipped(bench), positions=2_000)
    made = ws.entry(f"refine/{name}").made
    refine_stitch(bench, "few", name, FEW)
    assert ws.entry(f"refine/{name}").made == made, "what is there is not made again"
    evaluate_stitch(bench, name)
    for full in (f"stitches/{name}", f"refine/{name}"):
        words = command("nano", full, ws.entry(full).makers).split()[3:]
        assert words[:4] == ["stitch", "refine", "nano", "few"] and parses(words)
    assert f"refine/{name}" in belongings(ws.names(), "stitches", name)

    taken = refused(bench, "few", name, FEW.model_copy(update={"seed": 1}))
    assert "--as" in taken.todo and f"stitch remove nano {name}" in taken.todo
    assert "refine 'few'" in refused(bench, name).todo


def test_too_little_text_and_unfit_names_are_refused(bench: Bench) -> None:
    few = refused(bench, "L2-L3", config=FEW.model_copy(update={"tokens": 700}))
    assert "700 tokens" in few.found and "768" in few.wanted and "--tokens" in few.todo
    assert "choose another name" in refused(bench, "L2-L3", "../x").todo
    assert "stitch fit --help" in refused(bench, "L9-L9").todo
    unknown = refused(bench, "L2-L3", config=FEW.model_copy(update={"kinds": ("Klingon",)}))
    assert "English" in unknown.wanted and "--kinds" in unknown.todo


def test_a_stitch_of_shuffled_pairs_is_refused(bench: Bench) -> None:
    base = shipped(bench)
    put(bench, "shuffled", with_makers(shipped(bench, "controls/L2-L3"), **base.makers))
    e = refused(bench, "shuffled")
    assert "shuffled pairs" in e.found and "stitch fit --help" in e.todo


def test_a_stitch_that_was_brought_for_other_layers_is_refused(bench: Bench) -> None:
    base = shipped(bench)
    put(bench, "theirs", base, method="imported", ways=["up", "down"], metric="", alpha=0.0)
    warning = {"about": "layers", "says": "The map up fits other layers better.", "test": ""}
    bench.workspace.put_record("cards/theirs", {"warnings": [warning]}, {})
    e = refused(bench, "theirs")
    assert "fits other layers better" in e.found and "its own layers" in e.todo

    put(bench, "elsewhere", base, layer_a=0, layer_b=0)
    assert "of other layers" in refused(bench, "elsewhere").found
    put(bench, "beyond", base, layer_a=9)
    assert "0 to 3" in refused(bench, "beyond").wanted
    put(bench, "half", base, ways=["up"])
    assert "one way" in refused(bench, "half").found
    wide = Stitch(torch.eye(4), torch.zeros(4), torch.eye(4), torch.zeros(4), base.makers)
    put(bench, "wide", wide)
    assert "d_a = 4" in refused(bench, "wide").found
