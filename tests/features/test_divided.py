"""What many processes read of features is, put together, what one process reads: the same contexts,
sums and rows, in any order of arrival, also where one of them was killed."""

import itertools
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens import SAE
from safetensors.torch import load_file

from core.activations import harvest
from core.activations.agreed import Run
from core.activations.harvest import harvest_config
from core.activations.recording import harvest_places
from core.activations.shards import Shard
from core.errors import StitchLensError
from core.features import divided, shares
from core.features.attribution import Attributions, gather_attribution
from core.features.compare import compare
from core.features.contexts import chance
from core.features.divided import features_shard, merge_features
from core.features.examples import Examples
from core.features.firings import Text
from core.features.measure import explore
from core.features.recorded import Recorded
from core.features.shares import Share, merged
from core.models.pairs import LayerPair, PairSpec
from core.saes.settings import ExploreConfig, SaeConfig
from core.saes.train import train
from core.text.corpus import Corpus, Document
from tests.features.test_examples import made_up, named
from tests.helpers.documents import parses
from tests.helpers.small import Tiny, read_by_both, stitched_bench

LAYERS = LayerPair(a=1, b=2)


@given(seed=st.integers(0, 1000), shards=st.integers(1, 5))
@settings(deadline=None, max_examples=15)
def test_contexts_of_parts_are_those_of_the_whole(seed: int, shards: int) -> None:
    """Whatever the parts and the order in which they are added; ties are likely."""
    acts, document, position = made_up(60, 5, seed)
    whole = Examples(5)
    whole.update(acts, document, position, 3 * position)

    rng = np.random.default_rng(seed)
    reader = rng.integers(0, shards, 60)
    parts = []
    for shard in range(shards):
        part = Examples(5)
        for some in np.array_split(np.flatnonzero(reader == shard), 3):
            inside = np.isin(document, some)
            part.update(
                acts[torch.from_numpy(inside)],
                document[inside],
                position[inside],
                3 * position[inside],
            )
        parts.append(part)

    total = Examples(5)
    for index in rng.permutation(shards):
        total.merge(parts[index])
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(array, total.arrays[name], err_msg=name)
    pd.testing.assert_frame_equal(whole.table(named(60)), total.table(named(60)))


def test_chance_is_even_and_each_context_has_its_own() -> None:
    feature, document = (x.ravel() for x in np.meshgrid(np.arange(300), np.arange(200)))
    drawn = chance(feature, document, 0)
    assert (drawn >= 0).all() and (drawn < 1).all()
    assert len(np.unique(drawn)) == len(drawn)
    counts, _ = np.histogram(drawn, 20, (0, 1))
    assert abs(counts - 3000).max() < 5 * 3000**0.5
    by_document = drawn.reshape(200, 300)
    assert abs(np.corrcoef(by_document[:-1].ravel(), by_document[1:].ravel())[0, 1]) < 0.02
    assert (chance(feature, document, 1) != drawn).all()


class Killed(Exception):
    pass


class Dying(Share):
    """A share whose process dies after some windows."""

    def enter(self, state: Any) -> None:
        super().enter(state)
        if self.steps == 3:
            raise Killed


class Reading:
    """A small SAE of each of two models, and documents in windows of two."""

    def __init__(self, tiny: Tiny, documents: list[Document]) -> None:
        self.a, self.b, self.documents = tiny("llama"), tiny("gemma"), documents
        torch.manual_seed(0)
        setup = {"architecture": "topk", "k": 4, "d_in": 40, "d_sae": 24}
        setup |= {"dtype": "float32", "device": "cpu"}
        self.sae_a, self.sae_b = SAE.from_dict(setup), SAE.from_dict(setup)

    def examples(self, share: Share = shares.ALONE) -> Examples:
        text = read_by_both(self.a, self.b, self.documents, LAYERS, share.shard)
        return Recorded([text], "a").examples(self.sae_a, "examples", share)

    def attribution(self, share: Share = shares.ALONE) -> Attributions:
        text = read_by_both(self.a, self.b, self.documents, LAYERS, share.shard)
        return self.gathered(share, text)

    def gathered(self, share: Share, text: Text | None = None) -> Attributions:
        saes = {"one": (self.sae_a, self.sae_b), "other": (self.sae_a, self.sae_a)}
        return gather_attribution(
            self.a, self.b, saes, self.documents, LAYERS, "Eq. 10", None, share, text
        )

    def empty(self, what: str) -> Any:
        return Examples(24) if what == "examples" else Attributions({"one": 24, "other": 24})


@pytest.fixture
def reading(
    tiny: Tiny, english: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Reading:
    monkeypatch.setattr(harvest, "WINDOW", 2)
    monkeypatch.setattr(shares, "CHECKPOINT", 2)
    monkeypatch.setenv("STITCHLENS_CACHE", str(tmp_path / "cache"))
    short = [
        Document(id=d.id, label=d.label, text=d.text[:120]) for d in english.split("select")[:24]
    ]
    return Reading(tiny, short)


def same(one: Any, other: Any) -> bool:
    return all(np.array_equal(array, other.arrays[name]) for name, array in one.arrays.items())


@pytest.mark.parametrize("what", ["examples", "attribution"])
def test_shards_give_exactly_what_one_process_does(
    reading: Reading, what: str, tmp_path: Path
) -> None:
    gather = getattr(reading, what)
    whole = gather()
    for count, order in ((2, (0, 1)), (2, (1, 0)), (3, (2, 0, 1))):
        folder = tmp_path / f"{count}{order}"
        for index in order:
            gather(Share(Shard(index, count), folder, what))
        total = merged(Share(Shard(0, 1), folder, what), count, partial(reading.empty, what))
        assert same(whole, total)
    assert not same(whole, reading.empty(what)), "an empty one would be seen"
    half = merged(Share(Shard(0, 1), folder, what), 1, partial(reading.empty, what))
    assert not same(whole, half)


@pytest.mark.parametrize("what", ["examples", "attribution"])
def test_a_killed_shard_goes_on(reading: Reading, what: str, tmp_path: Path) -> None:
    gather = getattr(reading, what)
    whole = gather(Share(Shard(1, 2), tmp_path / "whole", what))
    with pytest.raises(Killed):
        gather(Dying(Shard(1, 2), tmp_path / "broken", what))
    again = Share(Shard(1, 2), tmp_path / "broken", what)
    left = again.begin(reading.empty(what), range(12))
    assert len(left) == 4, "two of six windows were saved"
    assert same(whole, gather(again))


def test_a_finished_shard_is_not_read_again(reading: Reading, tmp_path: Path) -> None:
    share = Share(Shard(1, 2), tmp_path, "examples")
    reading.examples(share)
    assert share.begin(reading.empty("examples"), range(12)) == []


def test_all_shards_leave_out_the_same_rows(reading: Reading, tmp_path: Path) -> None:
    """The limit is of the first window of all, not of each shard's own."""
    second = Share(Shard(1, 2), tmp_path, "attribution")
    reading.gathered(second)
    limits = second.agreed("limits", lambda: None)
    text = read_by_both(reading.a, reading.b, reading.documents, LAYERS, Shard(1, 2))
    assert limits is not None and limits == text.recording.limits
    assert min(limits.values()) > 0 and sorted(limits) == ["a1", "b2"]
    assert Recorded([text], "a").limit == limits["a1"]
    assert Recorded([text], "b").limit == limits["b2"]
    assert Share(Shard(0, 2), tmp_path, "attribution").agreed("limits", lambda: None) == limits


def test_attribution_of_recorded_streams_is_that_of_passes(reading: Reading) -> None:
    assert same(reading.attribution(), reading.gathered(shares.ALONE))


def test_a_damaged_state_is_one_sentence(reading: Reading, tmp_path: Path) -> None:
    share = Share(Shard(0, 2), tmp_path, "examples")
    reading.examples(share)
    assert share.path is not None
    share.path.write_bytes(share.path.read_bytes()[:100])
    with pytest.raises(StitchLensError, match=r"delete .* and run its shard again"):
        reading.examples(share)


def test_recordings_of_shards_are_those_of_one(
    reading: Reading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    for name, order in (("alone", ()), ("two", (1, 0))):
        monkeypatch.setenv("STITCHLENS_CACHE", str(tmp_path / name))
        config = harvest_config(reading.a, reading.b, "corpus", "select")
        record = partial(harvest_places, reading.a, reading.b, reading.documents, LAYERS, config)
        for index in order:
            record(shard=Shard(index, 2))
        before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("two/places/*/shard*")}
        recording = record()
        rows.append([load_file(path) for path in recording.shards])
        assert all(path.stat().st_mtime_ns == time for path, time in before.items())
        assert len(before) in (0, 12)
    for one, other in itertools.zip_longest(*rows):
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.whole
@pytest.mark.timeout(1200)
def test_features_of_shards_are_those_of_one_process(
    tiny_pair: PairSpec, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every table of `features build`, whole against three shards in another order."""
    small = ExploreConfig(reconstruction_positions=2000, tokens=400, sentences=12)
    monkeypatch.setattr(divided, "ExploreConfig", lambda: small)
    monkeypatch.setattr(shares, "CHECKPOINT", 4)
    pair = tiny_pair.model_copy(update={"corpus": "wheel:eng"})
    with stitched_bench(tiny_pair, tmp_path_factory) as bench:
        sae = train(bench, 1, SaeConfig(width=96, k=8, epochs=2, lr=3e-3, batch=512), 6_000)
        features_shard(bench, sae, "L1-L2", Shard(2, 3))
        features_shard(bench, sae, "L1-L2", Shard(0, 3))
        with pytest.raises(StitchLensError, match="shard 1/3 of the features of 'tiny'") as e:
            merge_features(pair)
        command = str(e.value).partition("`python -m core ")[2].partition("`")[0]
        assert parses(shlex.split(command))
        features_shard(bench, sae, "L1-L2", Shard(1, 3))
        assert merge_features(pair) == sae
        by_shards = {name: bench.workspace.table(name) for name in bench.workspace.names("table")}
        assert merge_features(pair) == sae, "once more is harmless"
        assert not Run("tiny", "features").folder.exists()

    with stitched_bench(tiny_pair, tmp_path_factory) as bench:
        train(bench, 1, SaeConfig(width=96, k=8, epochs=2, lr=3e-3, batch=512), 6_000)
        explore(bench, sae, "L1-L2", small)
        compare(bench, sae, "L1-L2")
        names = bench.workspace.names("table")
        assert len([name for name in names if name.endswith(sae)]) >= 10
        for name in names:
            pd.testing.assert_frame_equal(by_shards[name], bench.workspace.table(name), obj=name)
