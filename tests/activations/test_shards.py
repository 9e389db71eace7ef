"""Which share a process reads: from the command line, torchrun or SLURM; and moments that many
processes read are the same to the last bit, whoever reads what and when."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.activations import harvest
from core.activations.agreed import Run
from core.activations.divided import (
    ROOT,
    Division,
    harvest_shard,
    merge_moments,
    unfinished,
    windows_to_read,
)
from core.activations.gram import Gram, load_grams
from core.activations.harvest import harvest_config, harvest_moments, moments_path, windows
from core.activations.shards import PARTS, UNDIVIDED, Shard, owner, part_of, shard_of
from core.errors import StitchLensError
from core.models.live import LiveModel
from core.models.pairs import LayerPair
from core.text.corpus import Corpus, Document
from core.workspace.disk import put_once
from tests.helpers.small import Tiny

PAIRS = [LayerPair(a=1, b=2), LayerPair(a=2, b=1)]
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4"}
SLURM = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "3"}


def test_shares_are_said_in_three_ways() -> None:
    assert shard_of("0/4", {}) == Shard(0, 4)
    assert shard_of(None, TORCHRUN) == Shard(1, 4)
    assert shard_of(None, SLURM) == Shard(2, 4)
    assert shard_of(None, SLURM | {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_STEP": "2"}) == (
        Shard(2, 4)
    )
    assert shard_of(None, {}) == UNDIVIDED
    assert shard_of("1/4", TORCHRUN) == Shard(1, 4)


def test_one_task_of_an_array_can_be_run_again() -> None:
    again = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "1", "SLURM_ARRAY_TASK_MIN": "2"}
    assert shard_of("2/4", again) == Shard(2, 4)


@pytest.mark.parametrize(
    ("text", "environment", "words"),
    [
        ("4/4", {}, "I from 0 to 3"),
        ("0/0", {}, "N of 1 or more"),
        ("-1/4", {}, "--shard '-1/4'"),
        ("1", {}, "write it as I/N"),
        ("one/two", {}, "whole numbers"),
        ("1/2/3", {}, "write it as I/N"),
        ("٣/4", {}, "whole numbers"),
        ("0/65", {}, "at most 64 shards"),
        ("99999999999999999999/4", {}, "write it as I/N"),
        ("", {}, "write it as I/N"),
        (None, {"RANK": "4", "WORLD_SIZE": "4"}, "RANK 4 of WORLD_SIZE 4"),
        (None, {"RANK": "x", "WORLD_SIZE": "4"}, "RANK 'x'"),
        (None, {"RANK": "0"}, "RANK without WORLD_SIZE"),
        (None, {"WORLD_SIZE": "2"}, "WORLD_SIZE without RANK"),
        (None, SLURM | {"SLURM_ARRAY_TASK_ID": "7"}, "from 3"),
        (None, SLURM | {"SLURM_ARRAY_TASK_ID": "2"}, "from 3"),
        (None, SLURM | {"SLURM_ARRAY_TASK_STEP": "4"}, "a task every 4"),
        (None, {"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_COUNT"),
        ("0/4", TORCHRUN, "--shard 0/4 beside RANK"),
        ("0/4", SLURM, "SLURM array"),
        (None, TORCHRUN | SLURM, "RANK and WORLD_SIZE (1/4) beside task 2/4"),
    ],
)
def test_wrong_shares_are_refused(
    text: str | None, environment: dict[str, str], words: str
) -> None:
    with pytest.raises(StitchLensError) as e:
        shard_of(text, environment)
    assert words in str(e.value)


@given(count=st.integers(1, PARTS))
@settings(deadline=None, max_examples=20)
def test_every_window_has_one_reader(count: int) -> None:
    shards = [Shard(index, count) for index in range(count)]
    parts = [part for shard in shards for part in shard.parts]
    assert parts == list(range(PARTS)), "neighbouring parts, each once"
    readers = Counter(shard.index for w in range(128) for shard in shards if shard.reads(w))
    assert sum(readers.values()) == 128
    assert max(readers.values()) - min(readers.values()) <= 2, "one part of two windows"
    assert all(owner(part, count) == shard for shard in shards for part in shard.parts)


def test_few_windows_are_spread_over_all_shards() -> None:
    assert {part_of(w) // 16 for w in range(4)} == {0, 1, 2, 3}
    assert sorted(map(part_of, range(64))) == list(range(64))


def test_the_first_decides_for_all(tmp_path: Path) -> None:
    assert put_once(tmp_path / "deep" / "agreed.json", "one") == "one"
    assert put_once(tmp_path / "deep" / "agreed.json", "other") == "one"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["agreed.json"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of each test's own, and windows small enough for a few dozen to be quick."""
    monkeypatch.setenv("STITCHLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(harvest, "WINDOW", 1)
    monkeypatch.setattr(harvest, "CHECKPOINT_WINDOWS", 2)
    return tmp_path / "cache"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    """Sums are the same bits only where they are taken in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Reading:
    """A harvest of short documents that can be read by shards, each time anew."""

    def __init__(self, a: LiveModel, b: LiveModel, documents: list[Document], home: Path) -> None:
        self.a, self.b, self.documents, self.home = a, b, documents, home
        self.config = harvest_config(a, b, "corpus", "select", None)

    def divisions(self, name: str) -> list[Division]:
        return [Division(pair, self.config | {"run": name}, self.home / name) for pair in PAIRS]

    def shard(self, name: str, shard: Shard, **more: Any) -> None:
        harvest_shard(self.a, self.b, self.documents, self.divisions(name), shard, **more)

    def merged(self, name: str) -> dict[str, tuple[Gram, dict[str, Any]]]:
        merge_moments(self.divisions(name))
        out = {}
        for division in self.divisions(name):
            grams, record = load_grams(moments_path(division.config, division.pair))
            record["config"] = {k: v for k, v in record["config"].items() if k != "run"}
            out[division.pair.name] = (grams[division.pair.name], record)
        return out

    def by(self, name: str, count: int, order: list[int]) -> dict[str, Any]:
        for index in order:
            self.shard(name, Shard(index, count))
        return self.merged(name)


@pytest.fixture
def reading(tiny: Tiny, english: Corpus, cache: Path) -> Reading:
    short = [
        Document(id=d.id, label=d.label, text=d.text[:60]) for d in english.split("select")[:14]
    ]
    return Reading(tiny("llama"), tiny("gemma"), short, cache)


def same_bits(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(
        torch.equal(one[name][0].S, other[name][0].S)
        and torch.equal(one[name][0].X, other[name][0].X)
        and one[name][1] == other[name][1]
        for name in one
    )


def test_shards_give_the_same_bits_in_any_number_and_order(reading: Reading) -> None:
    four = reading.by("four", 4, [0, 1, 2, 3])
    assert same_bits(four, reading.by("turned", 4, [2, 0, 3, 1]))
    assert same_bits(four, reading.by("two", 2, [1, 0]))
    assert same_bits(four, reading.by("three", 3, [1, 2, 0]))
    other = Gram(40, 40)
    other.S, other.X = four["L1-L2"][0].S * (1 + 1e-15), four["L1-L2"][0].X
    assert not same_bits(four, four | {"L1-L2": (other, four["L1-L2"][1])}), "one bit is seen"


def test_shards_give_what_one_process_does(reading: Reading) -> None:
    three = reading.by("three", 3, [2, 1, 0])
    config = reading.config | {"alone": True}
    grams, ledgers = harvest_moments(reading.a, reading.b, reading.documents, PAIRS, config)
    for name, (gram, record) in three.items():
        for shard, alone in ((gram.S, grams[name].S), (gram.X, grams[name].X)):
            assert float((shard - alone).abs().max() / alone.abs().max()) < 1e-12
        counted = ("window", "documents", "characters", "tokens", "read", "dropped", "finished")
        assert {k: record[k] for k in counted} == {k: getattr(ledgers[name], k) for k in counted}
        for side, limit in record["limits"].items():
            assert limit == ledgers[name].limits[side], "of the first window of all"


def test_what_was_merged_is_what_one_process_finds(reading: Reading) -> None:
    reading.by("run", 2, [0, 1])
    seen: list[int] = []
    config = reading.config | {"run": "run"}
    harvest_moments(
        reading.a, reading.b, reading.documents, PAIRS, config, after_window=seen.append
    )
    assert seen == []
    reading.shard("run", Shard(0, 2), after_window=seen.append)
    assert seen == [], "nor does a late shard read again"


def test_merging_twice_is_harmless(reading: Reading) -> None:
    once = reading.by("run", 2, [0, 1])
    assert same_bits(once, reading.merged("run"))


def test_a_budget_is_that_of_one_process(reading: Reading) -> None:
    reading.config |= {"positions": 90}
    few = reading.by("few", 2, [1, 0])
    _, ledgers = harvest_moments(
        reading.a, reading.b, reading.documents, PAIRS, reading.config | {"alone": True}
    )
    for name, (gram, record) in few.items():
        assert gram.n + record["dropped"] == record["read"] == ledgers[name].read >= 90
        assert record["window"] == ledgers[name].window < len(windows(reading.documents))
    assert windows_to_read(reading.a, reading.b, reading.documents, None) == 14


def test_missing_shards_are_known(reading: Reading) -> None:
    assert unfinished(reading.divisions("run"), 4) == [Shard(i, 4) for i in range(4)]
    reading.shard("run", Shard(2, 4))
    reading.shard("run", Shard(0, 4))
    assert unfinished(reading.divisions("run"), 4) == [Shard(1, 4), Shard(3, 4)]
    reading.shard("run", Shard(1, 4))
    reading.shard("run", Shard(3, 4))
    assert unfinished(reading.divisions("run"), 4) == []


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [1, 4])
def test_a_shard_goes_on_to_the_same_bits(reading: Reading, after: int) -> None:
    whole = reading.by("whole", 2, [0, 1])
    seen: list[int] = []

    def kill(window: int) -> None:
        seen.append(window)
        if len(seen) == after:
            raise Killed

    with pytest.raises(Killed):
        reading.shard("broken", Shard(1, 2), after_window=kill)
    before = set(seen)
    seen.clear()
    reading.shard("broken", Shard(1, 2), after_window=seen.append)
    assert not before & set(seen), "a part that was read is saved"
    assert same_bits(whole, reading.by("broken", 2, [0]))


def test_sums_are_taken_as_soon_as_they_can_be(reading: Reading) -> None:
    """A shard of four leaves one file a layer pair, not one for each of its parts."""
    reading.shard("run", Shard(1, 4))
    for division in reading.divisions("run"):
        assert [path.name for path in division.folder.glob("sum-*")] == ["sum-4-01.safetensors"]
        assert not division.holds(ROOT)


def test_a_full_disk_in_a_merge_loses_nothing(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = reading.by("whole", 2, [0, 1])
    reading.shard("run", Shard(0, 2))
    reading.shard("run", Shard(1, 2))
    place = moments_path(reading.config | {"run": "run"}, PAIRS[0])
    place.parent.mkdir(parents=True)
    with limited_files(10_000), pytest.raises(StitchLensError, match=r"File too large|full disk"):
        reading.merged("run")
    assert not place.exists()
    assert same_bits(whole, reading.merged("run"))


class limited_files:
    """No file of this process grows beyond so many bytes."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __enter__(self) -> None:
        import resource
        import signal

        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

    def __exit__(self, *error: object) -> None:
        import resource
        import signal

        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)
        signal.signal(signal.SIGXFSZ, self.handler)


def test_setups_that_differ_are_refused_with_both_values(cache: Path) -> None:
    run = Run("nano", "build")
    with run.joined(Shard(0, 4), {"config": {"positions": 3000}}):
        pass
    with (
        pytest.raises(StitchLensError) as e,
        run.joined(Shard(1, 4), {"config": {"positions": None}}),
    ):
        pass
    assert "config.positions = null" in str(e.value)
    assert "3000" in str(e.value)
    with pytest.raises(StitchLensError, match="shards = 2; wanted 4"):  # noqa: SIM117
        with run.joined(Shard(1, 2), {"config": {"positions": 3000}}):
            pass
    with run.joined(Shard(1, 4), {"config": {"positions": 3000}}):
        pass


def test_versions_that_differ_are_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run("nano", "build")
    with run.joined(Shard(0, 2), {}):
        pass
    record = json.loads(run.record.read_text())
    record["versions"]["torch"] = "1.0"
    run.record.write_text(json.dumps(record))
    with pytest.raises(StitchLensError, match=r'versions.torch = .*; wanted "1.0"'):  # noqa: SIM117
        with run.joined(Shard(1, 2), {}):
            pass
    assert run.discard()
    with run.joined(Shard(1, 2), {}):
        pass


def test_two_shards_with_one_number_are_refused(cache: Path) -> None:
    run = Run("nano", "build")
    with run.joined(Shard(1, 2), {}):
        with (
            pytest.raises(StitchLensError, match="another shard 1 of 2"),
            run.joined(Shard(1, 2), {}),
        ):
            pass
        with run.joined(Shard(0, 2), {}):
            pass


def test_a_broken_record_is_one_sentence(cache: Path) -> None:
    run = Run("nano", "build")
    run.home.mkdir(parents=True)
    run.record.write_text("{")
    with pytest.raises(StitchLensError, match="unreadable record of shards"):
        run.agreed()
