"""Harvested rows are the models' own, and a harvest that was killed gives bitwise what an unbroken
one does."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from core.activations import harvest
from core.activations.gram import Gram
from core.activations.harvest import (
    OUTLIER,
    Chunk,
    batches,
    groups,
    harvest_config,
    harvest_moments,
    norm_limits,
    read_window,
    record,
    windows,
    within,
)
from core.activations.recording import Recording, harvest_recording, harvest_rows
from core.errors import StitchLensError
from core.models.align import pair_positions
from core.models.live import Encoded, LiveModel
from core.models.pairs import LayerPair
from core.text.corpus import Corpus, Document
from core.workspace.disk import only_one
from core.workspace.places import PROJECT, user_cache
from tests.helpers.small import Tiny

ROOT = PROJECT
PAIRS = [LayerPair(a=1, b=2), LayerPair(a=2, b=1)]


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of each test's own, and windows small enough for a few of them to be quick."""
    monkeypatch.setenv("STITCHLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(harvest, "WINDOW", 4)
    monkeypatch.setattr(harvest, "CHECKPOINT_WINDOWS", 2)


@pytest.fixture
def documents(english: Corpus) -> list[Document]:
    return english.split("select")[:26]


@pytest.fixture(params=["within-family", "cross-family"])
def pair(request: pytest.FixtureRequest, tiny: Tiny) -> tuple[LiveModel, LiveModel]:
    return (
        (tiny("nano-a"), tiny("nano-b"))
        if request.param == "within-family"
        else (tiny("nano-a"), tiny("gemma"))
    )


def config(a: LiveModel, b: LiveModel, positions: int | None = None) -> dict[str, Any]:
    return harvest_config(a, b, "corpus", "select", positions)


def by_hand(model: LiveModel, text: str, layer: int) -> tuple[Encoded, torch.Tensor]:
    """One text alone through transformers: (its tokens, hidden state before `layer`)."""
    (e,) = model.encode([text])
    with torch.inference_mode():
        out = model.hf(input_ids=model.pad([e.ids]), output_hidden_states=True, use_cache=False)
    return e, out.hidden_states[layer][0]


@given(lengths=st.lists(st.integers(1, 300), max_size=40), budget=st.integers(1, 600))
@settings(deadline=None)
def test_batches_hold_every_text_once_within_the_budget(lengths: list[int], budget: int) -> None:
    encoded = [Encoded(np.zeros(n, dtype=np.int32), np.zeros(n, dtype=np.int32)) for n in lengths]
    found = batches(encoded, budget)
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


@given(lengths=st.lists(st.integers(1, 300), max_size=40))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_of_texts_are_in_their_order_and_no_longer_than_wanted(
    tiny: Tiny, lengths: list[int]
) -> None:
    encoded = [Encoded(np.zeros(n, dtype=np.int32), np.zeros(n, dtype=np.int32)) for n in lengths]
    rows = groups(tiny("nano-a"), encoded)
    assert [i for row in rows for i in row] == list(range(len(lengths)))
    sizes = [sum(lengths[i] for i in row) for row in rows]
    assert max(sizes, default=0) <= harvest.ROW_TOKENS
    for (size, _), (_, after) in pairwise(zip(sizes, rows, strict=True)):
        assert size + lengths[after[0]] > harvest.ROW_TOKENS


def test_rows_are_transformers_own(
    pair: tuple[LiveModel, LiveModel], documents: list[Document]
) -> None:
    a, b = pair
    docs = documents[:5]
    chunk = read_window(a, b, docs, [1, 2], [0, 2])
    same = a.tokenizer_hash == b.tokenizer_hash
    rows_a, rows_b, at, tokens = [], [], [], 0
    for k, d in enumerate(docs):
        (x, h_a), (y, h_b) = by_hand(a, d.text, 1), by_hand(b, d.text, 2)
        i, j = pair_positions(x, y, same)
        rows_a.append(h_a[torch.from_numpy(i)])
        rows_b.append(h_b[torch.from_numpy(j)])
        at += [(k, int(p), int(q)) for p, q in zip(i, j, strict=True)]
        tokens += len(x.ids) + len(y.ids)
    assert torch.allclose(chunk.h_a[1], torch.cat(rows_a), atol=1e-4)
    assert torch.allclose(chunk.h_b[2], torch.cat(rows_b), atol=1e-4)
    assert (
        list(zip(chunk.document.tolist(), chunk.at_a.tolist(), chunk.at_b.tolist(), strict=True))
        == at
    )
    assert chunk.tokens == tokens
    for k, d in enumerate(docs):
        (y,) = b.encode([d.text])
        mine = chunk.document == k
        assert chunk.end[mine].tolist() == y.ends[chunk.at_b[mine]].tolist(), "both have read it"
    assert sorted(chunk.h_a) == [1, 2]
    assert sorted(chunk.h_b) == [0, 2]


def test_recording_does_not_depend_on_the_batches(
    tiny: Tiny, documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("nano-a")
    encoded = model.encode([d.text for d in documents[:6]])
    kept = [np.arange(1, len(e.ids), 3) for e in encoded]
    one = record(model, encoded, kept, [1])[1]
    assert len(one) == sum(map(len, kept))
    for of_texts in (lambda m, e: [[i] for i in range(len(e))], lambda m, e: batches(e)):
        monkeypatch.setattr(harvest, "groups", of_texts)
        assert torch.allclose(record(model, encoded, kept, [1])[1], one, atol=1e-5)


def test_moments_are_those_of_the_rows(
    pair: tuple[LiveModel, LiveModel], documents: list[Document]
) -> None:
    a, b = pair
    grams, records = harvest_moments(a, b, documents, PAIRS, config(a, b))
    for p in PAIRS:
        whole, limits, dropped, tokens = Gram(a.spec.d_model, b.spec.d_model), {}, 0, 0
        for k, docs in enumerate(windows(documents)):
            chunk = read_window(a, b, docs, [p.a], [p.b])
            limits = limits or norm_limits(chunk)
            keep = within(chunk, limits, p)
            whole.update(chunk.h_a[p.a][keep], chunk.h_b[p.b][keep], seed=k)
            dropped += int((~keep).sum())
            tokens += chunk.tokens
        assert torch.allclose(grams[p.name].S, whole.S, rtol=1e-6)
        assert torch.allclose(grams[p.name].X, whole.X, rtol=1e-6, atol=1e-6)
        r = records[p.name]
        assert r.finished
        assert (r.documents, r.window) == (len(documents), 7)
        assert r.characters == sum(len(d.text) for d in documents)
        assert (r.dropped, r.tokens) == (dropped, tokens)
        assert r.read == grams[p.name].n + r.dropped


class Killed(Exception):
    pass


def killed_after(n: int) -> Callable[[int], None]:
    def after(k: int) -> None:
        if k == n:
            raise Killed

    return after


def equal(one: dict[str, Gram], other: dict[str, Gram]) -> bool:
    return all(torch.equal(one[k].S, other[k].S) and torch.equal(one[k].X, other[k].X) for k in one)


@pytest.mark.parametrize("window", [0, 1, 4, 5])
def test_a_killed_harvest_goes_on_to_the_same_bits(
    tiny: Tiny,
    documents: list[Document],
    window: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a, b = tiny("nano-a"), tiny("nano-b")
    whole, known = harvest_moments(a, b, documents, PAIRS, config(a, b))
    monkeypatch.setenv("STITCHLENS_CACHE", str(tmp_path / "another"))
    with pytest.raises(Killed):
        harvest_moments(a, b, documents, PAIRS, config(a, b), after_window=killed_after(window))
    seen: list[int] = []
    again, records = harvest_moments(a, b, documents, PAIRS, config(a, b), after_window=seen.append)
    assert seen == list(range(2 * ((window + 1) // 2), 7)), "it went on from the last checkpoint"
    assert equal(whole, again)
    assert records == known
    assert not equal(whole, {k: g.merge(g) for k, g in again.items()})


def test_a_finished_harvest_is_not_read_again(tiny: Tiny, documents: list[Document]) -> None:
    a, b = tiny("nano-a"), tiny("nano-b")
    first, _ = harvest_moments(a, b, documents, PAIRS[:1], config(a, b))
    seen: list[int] = []
    again, _ = harvest_moments(a, b, documents, PAIRS[:1], config(a, b), after_window=seen.append)
    assert seen == []
    assert equal(first, again)
    both, _ = harvest_moments(a, b, documents, PAIRS, config(a, b), after_window=seen.append)
    assert len(seen) == 7, "a new layer pair is"
    assert equal(first, both)


def test_layer_pairs_read_together_or_apart_are_the_same(
    tiny: Tiny, documents: list[Document]
) -> None:
    a, b = tiny("nano-a"), tiny("nano-b")
    both, _ = harvest_moments(a, b, documents, PAIRS, config(a, b))
    for p in PAIRS:
        alone, _ = harvest_moments(a, b, documents, [p], config(a, b) | {"apart": p.name})
        assert equal(alone, {p.name: both[p.name]})


SIGKILLED = """
import json, os, signal, sys
import torch
from core.activations import harvest
from core.text.corpus import Document
from core.models.loading import Runtime, load
from core.models.pairs import LayerPair, ModelSpec
torch.set_num_threads(1)
setup = json.loads(sys.argv[1])
harvest.WINDOW, harvest.CHECKPOINT_WINDOWS = 4, 2
a, b = (load(ModelSpec.model_validate(s), Runtime(torch.device("cpu"), torch.float32)) for s in setup["specs"])
documents = [Document(**d) for d in setup["documents"]]
def after(k):
    if k == 4:
        os.kill(os.getpid(), signal.SIGKILL)
pairs = [LayerPair(a=1, b=2), LayerPair(a=2, b=1)]
harvest.harvest_moments(a, b, documents, pairs, harvest.harvest_config(a, b, "corpus", "select"), after_window=after)
"""


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums are bitwise the same only where they are taken in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_a_real_kill_loses_nothing(
    tiny: Tiny, documents: list[Document], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL to another process in the middle of its harvest; this one goes on from its
    checkpoint."""
    a, b = tiny("nano-a"), tiny("nano-b")
    setup = {
        "specs": [m.spec.model_dump() for m in (a, b)],
        "documents": [{"id": d.id, "label": d.label, "text": d.text} for d in documents],
    }
    whole, known = harvest_moments(a, b, documents, PAIRS, config(a, b))
    monkeypatch.setenv("STITCHLENS_CACHE", str(tmp_path / "broken"))
    command = [sys.executable, "-c", SIGKILLED, json.dumps(setup)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(list((tmp_path / "broken" / "moments").rglob("*.safetensors"))) == 2
    seen: list[int] = []
    again, records = harvest_moments(a, b, documents, PAIRS, config(a, b), after_window=seen.append)
    assert seen == [4, 5, 6]
    assert equal(whole, again)
    assert records == known


def test_a_budget_of_positions_is_kept(
    pair: tuple[LiveModel, LiveModel], documents: list[Document]
) -> None:
    a, b = pair
    _, records = harvest_moments(a, b, documents, PAIRS[:1], config(a, b, 700))
    r = records["L1-L2"]
    per_window = r.read / r.window
    assert 700 <= r.read < 700 + 1.5 * per_window
    assert r.window < 7
    assert r.finished


def chunk_with_outliers(n: int, at: list[int], side: str) -> Chunk:
    g = torch.Generator().manual_seed(0)
    h = {"a": torch.randn(n, 32, generator=g), "b": torch.randn(n, 48, generator=g)}
    for i in at:
        h[side][i] *= 1000
    index = np.arange(n)
    return Chunk({1: h["a"]}, {2: h["b"]}, index, index, index, index, 2 * n)


@pytest.mark.parametrize("side", ["a", "b"])
def test_outliers_are_dropped_on_either_side(side: str) -> None:
    chunk = chunk_with_outliers(200, [3, 77], side)
    limits = norm_limits(chunk)
    median = float(chunk.h_a[1].norm(dim=-1).median())
    assert limits["a1"] == pytest.approx(OUTLIER * median)
    keep = within(chunk, limits, PAIRS[0])
    assert (~keep).nonzero().flatten().tolist() == [3, 77]


def test_outliers_are_counted(
    tiny: Tiny, documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit at just above one median, so that real rows go over it."""
    a, b = tiny("nano-a"), tiny("nano-b")
    monkeypatch.setattr(harvest, "OUTLIER", 1.05)
    grams, records = harvest_moments(a, b, documents, PAIRS[:1], config(a, b))
    r = records["L1-L2"]
    assert 0 < r.dropped < r.read
    assert grams["L1-L2"].n == r.read - r.dropped
    monkeypatch.setattr(harvest, "OUTLIER", 10.0)
    grams, records = harvest_moments(a, b, documents, PAIRS[:1], config(a, b))
    assert records["L1-L2"].dropped == 0, "another limit is another harvest"


def test_a_window_without_pairs_does_not_spoil_the_rest(
    tiny: Tiny, documents: list[Document]
) -> None:
    a, b = tiny("nano-a"), tiny("nano-b")
    empty = [Document(id=f"none@{k}+0", label="none", text="<|endoftext|>" * 20) for k in range(4)]
    grams, records = harvest_moments(a, b, [*empty, *documents[:8]], PAIRS[:1], config(a, b))
    plain, _ = harvest_moments(a, b, documents[:8], PAIRS[:1], config(a, b) | {"plain": True})
    assert grams["L1-L2"].n == plain["L1-L2"].n > 0
    assert records["L1-L2"].dropped == 0


def test_only_one_harvest_at_a_time(tiny: Tiny, documents: list[Document]) -> None:
    from core.workspace.disk import fingerprint

    a, b = tiny("nano-a"), tiny("nano-b")
    with (
        only_one(fingerprint(config(a, b)), "harvest"),
        pytest.raises(StitchLensError, match="another harvest"),
    ):
        harvest_moments(a, b, documents, PAIRS, config(a, b))


def test_a_recording_holds_the_rows_of_the_moments(
    pair: tuple[LiveModel, LiveModel], documents: list[Document]
) -> None:
    a, b = pair
    recording = harvest_recording(a, b, documents, PAIRS[0], config(a, b))
    grams, _ = harvest_moments(a, b, documents, PAIRS[:1], config(a, b))
    again = Gram(a.spec.d_model, b.spec.d_model)
    sizes = []
    for x, y in recording.epoch(256, seed=0):
        again.update(x, y)
        sizes.append(len(x))
    assert recording.n == again.n == grams["L1-L2"].n
    assert max(sizes) == 256
    assert torch.allclose(again.S, grams["L1-L2"].S, rtol=1e-6)


def test_epochs_are_seeded(tiny: Tiny, documents: list[Document]) -> None:
    a, b = tiny("nano-a"), tiny("nano-b")
    recording = harvest_recording(a, b, documents[:8], PAIRS[0], config(a, b))

    def epoch(seed: int) -> torch.Tensor:
        return torch.cat([x for x, _ in recording.epoch(64, seed)])

    assert torch.equal(epoch(0), epoch(0))
    assert not torch.equal(epoch(0), epoch(1))
    assert torch.allclose(epoch(0).sum(0), epoch(1).sum(0), atol=1e-2)


def test_a_killed_recording_goes_on(
    tiny: Tiny, documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = tiny("nano-a"), tiny("nano-b")
    whole = harvest_recording(a, b, documents, PAIRS[0], config(a, b))
    rows = torch.cat([load_file(s)["h_a"] for s in whole.shards])
    (whole.folder / "finished").unlink()
    for gone in whole.shards[3:]:
        gone.unlink()
    kept = {s: s.stat().st_mtime_ns for s in whole.shards[:3]}
    again = harvest_recording(a, b, documents, PAIRS[0], config(a, b))
    assert torch.equal(torch.cat([load_file(s)["h_a"] for s in again.shards]), rows)
    assert {s: s.stat().st_mtime_ns for s in again.shards[:3]} == kept, (
        "what was there was not made again"
    )


def test_a_recording_keeps_its_budget(tiny: Tiny, documents: list[Document]) -> None:
    a, b = tiny("nano-a"), tiny("nano-b")
    few = harvest_recording(a, b, documents, PAIRS[0], config(a, b, 500))
    assert 500 <= few.n < sum(Recording(few.folder).rows) + 1
    assert len(few.shards) < 7


def test_no_paired_rows_is_one_sentence(tiny: Tiny) -> None:
    a, b = tiny("nano-a"), tiny("nano-b")
    empty = [Document(id="none@0+0", label="none", text="")]
    with pytest.raises(StitchLensError, match="no positions to record"):
        harvest_recording(a, b, empty, PAIRS[0], config(a, b))
    assert (user_cache() / "activations").exists()


def test_rows_of_one_model_are_its_usable_positions(tiny: Tiny, documents: list[Document]) -> None:
    model = tiny("nano-b")
    setup = {"model": model.makers, "positions": None}
    recording = harvest_rows(model, documents[:9], 2, setup)
    rows = torch.cat([load_file(s)["h"] for s in recording.shards])
    expected = torch.cat(
        [
            h[torch.from_numpy(e.usable)]
            for e, h in (by_hand(model, d.text, 2) for d in documents[:9])
        ]
    )
    assert torch.allclose(rows, expected, atol=1e-4)
    (batch,) = next(recording.epoch(32, 0, ("h",)))
    assert batch.shape == (32, model.spec.d_model)
    assert harvest_rows(model, documents[:9], 3, setup).folder != recording.folder
