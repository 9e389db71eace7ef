"""How far a feature pushes: known before any text is read, and the same as what reading its
contexts gives."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from core.bench import Bench, open_pair
from core.errors import StitchLensError
from core.steering import levels
from core.steering.contexts import active_ends, active_in, searched
from core.steering.keys import LaneKey, lane_key
from core.steering.settings import Sampling, Setting
from core.steering.sources import Brought, Feature, Language, source_from
from core.steering.studio import Studio
from core.steering.tables import stitch_for
from core.steering.vectors import along, mean_residuals, moved
from core.workspace.places import PROJECT
from core.workspace.store import Workspace
from tests.helpers.advice import faults

SAE, STITCH = "L2-1024", "L2-L3"
FEATURE = 5
LANES = ("a:own", "b:transferred", "b:random", "b:shuffled")


@pytest.fixture(scope="module")
def bench(nano_home: Path) -> Iterator[Bench]:
    """Knows the levels of one feature alone."""
    bench, name = open_pair("nano"), f"feature_levels/{SAE}"
    shipped, makers = bench.workspace.table(name), bench.workspace.entry(name).makers
    bench.workspace.remove(name)
    levels.measure(bench, SAE, STITCH, [FEATURE])
    yield bench
    bench.workspace.put_table(name, shipped, makers)


def read_by_hand(studio: Studio, side: str, feature: int) -> dict[bool, torch.Tensor]:
    """Means over the active tokens of a feature's contexts, and over the others."""
    bench = studio.bench
    contexts = bench.workspace.table(f"examples_{side}/{SAE}", feature=feature)
    texts = {d.id: d.text for d in bench.corpus.documents}
    ends = active_ends(contexts)
    model, layer = (bench.a, 2) if side == "a" else (bench.b, 3)
    encoded = model.encode([texts[name] for name in ends])
    masks = [active_in(text, at) for text, at in zip(encoded, ends.values(), strict=True)]
    out = {}
    for on in (True, False):
        kept = [
            np.flatnonzero((mask == on) & text.usable)
            for text, mask in zip(encoded, masks, strict=True)
        ]
        out[on] = mean_residuals(model, encoded, kept, [layer])[0][layer]
    return out


def test_levels_are_what_reading_every_context_gives(bench: Bench) -> None:
    """To a hundredth of a thousandth of the push: the clamp is the same."""
    studio = Studio(bench, STITCH)
    source = studio.directions(Feature(SAE, FEATURE))
    for text in LANES:
        key = lane_key(text)
        (vector,) = studio.vectors(source, key, Setting())
        means = read_by_hand(studio, key.side, FEATURE)
        base = float(means[False] @ vector.v)
        if key.kind != "random":
            assert vector.mean == pytest.approx(float(means[True] @ vector.v), abs=1e-5 * 20)
        assert vector.base == pytest.approx(base, abs=1e-5 * 20)

    sae = studio.crossing(SAE).sae
    origin = along(sae.W_dec[FEATURE].float(), source.means("a", 2), {})
    expected = moved(origin, studio.stitch(), "up", source.means("b", 3))
    (carried,) = studio.vectors(source, LaneKey("b", "transferred"), Setting())
    assert torch.allclose(carried.v, expected.v, atol=1e-6)


def test_the_shipped_levels_are_measured_again_alike(bench: Bench) -> None:
    shipped = Workspace("nano", PROJECT / "cache").table(f"feature_levels/{SAE}", feature=FEATURE)
    again = bench.workspace.table(f"feature_levels/{SAE}")
    assert again.kind.to_list() == shipped.kind.to_list()
    for column in ("mean", "base"):
        assert again[column].to_numpy() == pytest.approx(
            shipped[column].to_numpy(), rel=1e-2
        )  # bfloat16


def test_nothing_is_read_where_levels_are_known(bench: Bench) -> None:
    studio, told = Studio(bench, STITCH), list[tuple[int, int]]()

    def reading(done: int, of: int) -> None:
        told.append((done, of))

    def first_word(feature: int) -> float:
        source = studio.directions(Feature(SAE, feature), reading)
        keys = [lane_key(x) for x in ("b:none", "b:transferred", "b:random")]
        began = time.process_time()
        stream = studio.run(source, keys, "The house", Setting(), Sampling(tokens=2))
        next(stream)
        stream.close()
        return time.process_time() - began

    first_word(FEATURE)
    quick = first_word(FEATURE)
    assert told == []

    slow = first_word(FEATURE + 1)
    assert told[-1][0] == told[-1][1] > 12 and quick < slow / 2
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_levels_of_another_stitch_or_sae_are_not_taken(bench: Bench) -> None:
    studio = Studio(bench, STITCH)
    crossing = studio.crossing(SAE)
    assert len(levels.known(crossing, FEATURE, "b")) == 3
    assert levels.known(crossing, FEATURE + 1, "b") == []

    name = f"feature_levels/{SAE}"
    entry, table = bench.workspace.entry(name), bench.workspace.table(name)
    bench.workspace.put_table(name, table, entry.makers | {"stitch": "another"})
    assert levels.known(crossing, FEATURE, "b") == []
    bench.workspace.put_table(name, table, entry.makers)
    assert len(levels.known(crossing, FEATURE, "a")) == 1


def test_a_span_of_layers_is_read_in_one_pass(bench: Bench) -> None:
    studio, told = Studio(bench, STITCH), list[tuple[int, int]]()
    source = studio.directions(Feature(SAE, 7), lambda done, of: told.append((done, of)))
    vectors = studio.vectors(source, LaneKey("b", "transferred"), Setting(layers_b=(3, 5)))
    assert [v.layer for v in vectors] == [3, 4, 5]
    assert sum(done == of for done, of in told) == 1
    assert len({v.mean for v in vectors}) == 3


def test_an_sae_without_tables_is_looked_for(bench: Bench) -> None:
    """Its active tokens are those at which the encoder says so."""
    studio, told = Studio(bench, STITCH), list[tuple[int, int]]()
    contexts = searched(studio, SAE, 656, "a", lambda done, of: told.append((done, of)))
    sae = studio.crossing(SAE).sae
    tokens = sum(int(mask.sum()) for mask in contexts.active)
    assert tokens > 0 and told[-1][0] == len(contexts.encoded) % 97
    for text, mask in list(zip(contexts.encoded, contexts.active, strict=True))[:3]:
        ids = torch.from_numpy(text.ids.astype(np.int64))[None]
        with torch.inference_mode():
            hidden = bench.a.plain(input_ids=ids, output_hidden_states=True).hidden_states[2][0]
            on = sae.encode(hidden.float())[:, 656] > 0
        assert np.array_equal(on.numpy() & text.usable, mask)


def test_a_source_finds_its_stitch(nano_home: Path) -> None:
    ws = Workspace("nano", PROJECT / "cache")
    assert stitch_for(ws, Feature(SAE, 3)) == "L2-L3"
    assert stitch_for(ws, Language("fr")) == "L2-L3"
    assert stitch_for(ws, Brought("nothing")) == "L2-L3"
    assert stitch_for(ws, source_from("file:v.npy@b:4")) == "L3-L4"
    with pytest.raises(StitchLensError, match="no 'saes/other'"):
        stitch_for(ws, Feature("other", 3))


def test_a_feature_without_a_stitch_is_told_how_to_get_one(nano_home: Path) -> None:
    bench = open_pair("nano")
    ws = bench.workspace
    ws.put_record("saes/deep", {}, {"layer_a": 1})
    with pytest.raises(StitchLensError, match="no stitch from layer 1") as fault:
        stitch_for(ws, Feature("deep", 3))
    assert "--layer-a 1" in str(fault.value) and not faults(str(fault.value))
    ws.remove("saes/deep")
    with pytest.raises(StitchLensError, match="core build"):
        stitch_for(Workspace("nano", PROJECT / "tests" / "nowhere"), Feature(SAE, 3))


def test_whoever_waits_hears_how_many_texts_were_read(bench: Bench) -> None:
    """From none to all of them, before the first word."""
    heard: list[tuple[int, int]] = []
    studio = Studio(bench, STITCH)
    source = studio.directions(Feature(SAE, FEATURE), lambda *counts: heard.append(counts))
    studio.vectors(source, lane_key("b:transferred"), Setting(layers_b=(3, 4)))
    texts = {of for _, of in heard}
    assert len(texts) == 1 and heard[0][0] == 0 and heard[-1][0] == texts.pop() > 1
    assert sorted(heard) == heard

    heard.clear()
    studio.vectors(source, lane_key("b:transferred"), Setting())
    assert not heard, "at the stitched layer the level is known"
