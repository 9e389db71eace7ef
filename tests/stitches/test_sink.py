"""A stitch in two pieces: planted sinks are recovered, rows take the right piece, other versions are
refused, and what is linear does not notice."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.activations.gram import Gram
from core.errors import StitchLensError
from core.models.pairs import SIDES, LayerPair, Side
from core.stitches import downstream
from core.stitches.directions import DIRECTIONS, Direction
from core.stitches.passage import read
from core.stitches.settings import SinkConfig
from core.stitches.sink import (
    FORMAT,
    VERSION,
    Piece,
    Sink,
    SinkGrams,
    TwoPiece,
    add_sinks,
    fit_sink,
    load_sink,
    save_sink,
    two_piece,
)
from core.stitches.sink_losses import maps_of
from core.stitches.stitch import Stitch, load_stitch, save_stitch
from core.stitches.stitched import Listener, Stitched
from core.stitches.transfer import transfer_sae, transfer_vector
from core.text.corpus import Corpus
from core.workspace.places import PROJECT
from core.workspace.store import Workspace
from tests.helpers.small import SCRIPTS, Tiny

A, B = 12, 16
EXACT = SinkConfig(ridge=0.0)
MIXED = "The capital of France is Paris. " + " ".join(SCRIPTS.values())


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def planted() -> tuple[Tensor, Tensor, Tensor]:
    """(h_A, h_B, first): 400 ordinary rows, 60 first rows that are all alike, and 200 massive rows
    that differ in two directions, which B's follow by a known affine map."""
    h_a, h_b = drawn(400, A, seed=0), drawn(400, B, seed=1)
    sink_a, sink_b = 40 * drawn(A, seed=2), 50 * drawn(B, seed=3)

    z = drawn(200, 2, seed=4)
    massive_a = 60 * drawn(A, seed=5) + 5 * z @ drawn(2, A, seed=6)
    massive_b = 30 * drawn(B, seed=7) + 8 * z @ drawn(2, B, seed=8)
    first = torch.zeros(660, dtype=torch.bool)
    first[400:460] = True
    return (
        torch.cat([h_a, sink_a.expand(60, A), massive_a]),
        torch.cat([h_b, sink_b.expand(60, B), massive_b]),
        first,
    )


def some_stitch() -> Stitch:
    parts = (drawn(A, B, seed=9), drawn(B, seed=10), drawn(B, A, seed=11), drawn(A, seed=12))
    return Stitch(*parts, makers={"layer_a": 1, "layer_b": 2})


def empty(limit: float) -> SinkGrams:
    """No row yet; in either model one above `limit` is massive."""

    def grams() -> dict[Side, Gram]:
        return {side: Gram(A, B) for side in SIDES}

    return SinkGrams({"a": limit, "b": limit}, grams(), grams())


@pytest.fixture(scope="module")
def grams() -> SinkGrams:
    grams = empty(30.0)
    add_sinks(grams, *planted())
    return grams


@pytest.fixture(scope="module")
def two(grams: SinkGrams) -> TwoPiece:
    stitch = some_stitch()
    return two_piece(stitch, fit_sink(grams, stitch, EXACT))


def test_planted_sinks_are_recovered_both_ways(two: TwoPiece, grams: SinkGrams) -> None:
    h_a, h_b, first = planted()
    sinks = slice(400, None)
    there = two.carry(h_a, "b", first)
    back = two.carry(h_b, "a", first)
    torch.testing.assert_close(there[sinks], h_b[sinks], rtol=0, atol=0.05)
    torch.testing.assert_close(back[sinks], h_a[sinks], rtol=0, atol=0.05)
    assert (grams.first, grams.massive) == (60, {"a": 200, "b": 200})
    assert two.sink.up.rank == 3, "the two directions, and what sets first rows apart from the rest"


def test_controls_do_not_recover_them(two: TwoPiece, grams: SinkGrams) -> None:
    h_a, h_b, first = planted()
    sinks = slice(400, None)
    shuffled = two_piece(some_stitch(), fit_sink(grams, some_stitch(), EXACT, shuffled=True))
    mean = replace(two, sink=two.sink.mean_alone())
    for control in (some_stitch(), shuffled, mean):
        error = control.carry(h_a, "b", first)[sinks] - h_b[sinks]
        assert error.norm(dim=-1).mean() > 10
    assert mean.sink.up.rank == mean.sink.down.rank == 0


def test_ordinary_rows_cross_bit_for_bit(two: TwoPiece) -> None:
    h_a, h_b, _ = planted()
    ordinary = slice(0, 400)
    stitch = some_stitch()
    assert torch.equal(two.carry(h_a[ordinary], "b"), stitch.up(h_a[ordinary]))
    assert torch.equal(two.carry(h_b[ordinary], "a"), stitch.down(h_b[ordinary]))
    assert torch.equal(two.up(h_a), stitch.up(h_a)), "up is the ordinary map, whatever the row"


def test_the_row_and_its_place_decide(two: TwoPiece) -> None:
    rows = torch.zeros(4, A)
    rows[:, 0] = torch.tensor([29.9, 30.1, 29.9, 30.1])
    first = torch.tensor([False, False, True, True])
    piece = two.sink.up
    assert piece.takes(rows, first).tolist() == [False, True, True, True]
    assert piece.takes(rows).tolist() == [False, True, False, True]

    shaped = two.carry(rows.reshape(2, 2, A), "b", first.reshape(2, 2)).reshape(4, B)
    assert torch.equal(shaped[0], some_stitch().up(rows[0]))
    torch.testing.assert_close(shaped[1:], piece.carry(rows[1:]))


def test_the_remainder_is_small_where_rows_hardly_differ() -> None:
    """Few distinct rows, or rounding alone, give the mean sink vector and nothing else; a penalty
    shrinks what is there."""
    h_a, h_b, first = planted()
    noise = empty(1e9)
    jitter = 1e-3 * drawn(660, A, seed=13)
    add_sinks(noise, h_a + jitter, h_b, first)
    sink = fit_sink(noise, some_stitch(), SinkConfig())
    assert sink.up.rank == 0
    torch.testing.assert_close(sink.up.mean, h_b[400], rtol=1e-4, atol=1e-3)

    grams = empty(30.0)
    add_sinks(grams, h_a, h_b, first)
    moved = [
        fit_sink(grams, some_stitch(), SinkConfig(ridge=ridge)).up for ridge in (0, 0.1, 1, 10)
    ]
    spans = [float((piece.left @ piece.right).norm()) for piece in moved]
    assert spans == sorted(spans, reverse=True) and spans[-1] < 0.5 * spans[0]
    assert fit_sink(grams, some_stitch(), SinkConfig(rank=1)).up.rank == 1


def test_a_file_holds_it(two: TwoPiece, tmp_path: Path) -> None:
    path = tmp_path / "sink.safetensors"
    save_sink(two.sink, path)
    again = load_sink(path)
    assert again.makers == two.sink.makers
    h_a, _, first = planted()
    assert torch.equal(
        two_piece(some_stitch(), again).carry(h_a, "b", first), two.carry(h_a, "b", first)
    )

    flat = replace(two.sink, up=two.sink.up.mean_alone())
    save_sink(flat, path)
    assert load_sink(path).up.rank == 0


@pytest.mark.parametrize("version", ["0", "2", "12"])
def test_another_version_is_refused_by_name(two: TwoPiece, tmp_path: Path, version: str) -> None:
    path = tmp_path / "sink.safetensors"
    save_sink(two.sink, path)
    tensors = load_file(path)
    save_file(tensors, path, metadata={"format": f"{FORMAT}{version}", "makers": "{}"})
    with pytest.raises(StitchLensError) as e:
        load_sink(path)
    assert e.value.found == f"version {version} of a two-piece stitch in sink.safetensors"
    assert e.value.wanted == f"version {VERSION}"


def damaged(two: TwoPiece, path: Path, **changed: Tensor) -> None:
    save_sink(two.sink, path)
    metadata = {"format": f"{FORMAT}{VERSION}", "makers": json.dumps(two.sink.makers)}
    names = {name.replace("_", ".", 1): tensor for name, tensor in changed.items()}
    save_file(load_file(path) | names, path, metadata=metadata)


def test_what_is_no_such_file_is_said(two: TwoPiece, tmp_path: Path) -> None:
    path = tmp_path / "sink.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(StitchLensError, match="no readable sink's map"):
        load_sink(path)
    save_stitch(some_stitch(), path)
    with pytest.raises(StitchLensError, match="format 'stitchlens-stitch-1'"):
        load_sink(path)
    damaged(two, path, up_mean=torch.full((B,), torch.nan))
    with pytest.raises(StitchLensError, match="NaN or infinite"):
        load_sink(path)
    damaged(two, path, up_left=torch.zeros(A, 5))
    with pytest.raises(StitchLensError, match=r"up\.left \(12, 5\)"):
        load_sink(path)
    save_sink(two.sink, path)
    with pytest.raises(StitchLensError, match="format 'stitchlens-two-piece-1'"):
        load_stitch(path)


def test_a_piece_of_another_stitch_is_refused(two: TwoPiece) -> None:
    other = replace(some_stitch(), makers={"layer_a": 1, "layer_b": 3})
    with pytest.raises(StitchLensError, match="belongs to the stitch"):
        two_piece(other, two.sink)
    narrow = Stitch(
        torch.eye(4), torch.zeros(4), torch.eye(4), torch.zeros(4), some_stitch().makers
    )
    with pytest.raises(StitchLensError, match="between widths 12 and 16; wanted 4 and 4"):
        two_piece(narrow, two.sink)


# on the nano models


NANO = LayerPair(a=2, b=3)


def first_rows(tiny: Tiny) -> tuple[Tensor, Tensor]:
    """Of both models: the same in every text, for both put a token before it."""
    from core.stitches.passage import positions

    at = positions(Stitched(tiny("nano-a"), tiny("nano-b"), NANO, shipped()), "Any text at all")
    return at.own["a"][0], at.own["b"][0]


def shipped() -> Stitch:
    return load_stitch(Workspace("nano", PROJECT / "cache").path("stitches/L2-L3"))


def exact_sink(stitch: Stitch, first_a: Tensor, first_b: Tensor) -> Sink:
    """The mean sink vectors alone, and no row that is massive."""

    def piece(one: Tensor, two: Tensor) -> Piece:
        none = torch.zeros(len(one), 0), torch.zeros(0, len(two))
        return Piece(torch.tensor(torch.inf), one.float(), two.float(), *none)

    from core.workspace.disk import fingerprint

    makers = {"stitch": fingerprint(stitch.makers)}
    return Sink(piece(first_a, first_b), piece(first_b, first_a), makers)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_an_exact_sink_costs_nothing(tiny: Tiny, direction: Direction) -> None:
    """Where the first position crosses to what was there, every loss is that of before; by the
    ordinary map it is not."""
    stitch = shipped()
    two = two_piece(stitch, exact_sink(stitch, *first_rows(tiny)))
    today = Stitched(tiny("nano-a"), tiny("nano-b"), NANO, stitch, direction)
    whole = replace(today, stitch=two, first=True)
    ordinary = replace(today, first=True)

    losses = {}
    for name, stitched in (("today", today), ("whole", whole), ("ordinary", ordinary)):
        passage = read(stitched, MIXED)
        assert passage.tokens[0].paired == stitched.first
        losses[name] = [token.loss_crossed for token in passage.tokens[:-1]]
    assert losses["whole"] == pytest.approx(losses["today"], abs=1e-3)
    assert losses["ordinary"] != pytest.approx(losses["today"], abs=1e-2)


def test_losses_of_all_positions_are_those_of_a_reading(tiny: Tiny, corpus: Corpus) -> None:
    """`core.stitches.downstream` crosses what `core.stitches.passage` does, text by text."""
    a, b = tiny("nano-a"), tiny("nano-b")
    stitch = shipped()
    sink = exact_sink(stitch, *first_rows(tiny))
    conditions = downstream.unpatched()
    maps = maps_of(stitch, sink, sink)
    for name in ("kept", "ordinary"):
        of_condition, first = maps[name]
        conditions.append(
            downstream.Condition(
                name,
                "b",
                lambda x, y, firsts=None, s=of_condition: s.carry(x, "b", firsts),
                first,
            )
        )
    documents = [d for d in corpus.split("held-out") if len(d.text) < 500][:6]
    losses = pd.DataFrame(downstream.measure(a, b, documents, NANO, conditions))
    table = losses.set_index(["document", "condition"])
    for document in documents:
        for name in ("kept", "ordinary"):
            of_condition, first = maps[name]
            stitched = Stitched(a, b, NANO, of_condition, "a_to_b", first)
            totals = read(stitched, document.text).totals["a_to_b"]
            row = table.loc[(document.id, name)]
            assert totals["loss"] * totals["tokens"] == pytest.approx(row.loss, rel=1e-3)
            assert totals["share_patched"] == pytest.approx(row.patched / row.tokens)
        rows = table.loc[document.id]
        assert rows.patched["ordinary"] == rows.patched["kept"] + 1


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_growing_text_crosses_as_a_whole_one(tiny: Tiny, direction: Direction) -> None:
    stitch = shipped()
    two = two_piece(stitch, exact_sink(stitch, *first_rows(tiny)))
    stitched = Stitched(tiny("nano-a"), tiny("nano-b"), NANO, two, direction, first=True)
    speaker = stitched.model(stitched.speaker)
    growing = Listener(stitched)
    for end in (3, 9, 17, 12, 40):
        (spoken,) = speaker.encode([MIXED[:end]])
        whole = Listener(stitched)
        whole.hear(MIXED[:end], spoken)
        growing.hear(MIXED[:end], spoken)
        assert growing.pairs[0] == 0 and np.array_equal(growing.pairs, whole.pairs)

        h = drawn(len(spoken.ids), speaker.spec.d_model, seed=end)
        put = growing.put(h, 0)
        assert torch.allclose(put, whole.put(h, 0), atol=1e-4)
        assert torch.allclose(growing.put(h[2:], 2), put[2:], atol=1e-5)


def test_what_is_linear_does_not_notice(tiny: Tiny) -> None:
    """SAEs and vectors go by the ordinary map, bit for bit."""
    from core.saes.sae import load_sae

    stitch = shipped()
    two = two_piece(stitch, exact_sink(stitch, *first_rows(tiny)))
    vector = drawn(128, seed=0)
    assert torch.equal(transfer_vector(vector, two), transfer_vector(vector, stitch))

    sae = load_sae(Workspace("nano", PROJECT / "cache").path("saes/L2-1024"))
    carried, before = transfer_sae(sae, two), transfer_sae(sae, stitch)
    for name, weights in before.state_dict().items():
        assert torch.equal(carried.state_dict()[name], weights), name
