"""A text as the stitched model reads it: the losses of Table 1 at every position, an identity that
changes nothing, controls that are worse."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from core.bench import open_pair
from core.errors import StitchLensError
from core.models import hooks
from core.models.live import LiveModel
from core.models.pairs import LayerPair
from core.stitches import downstream
from core.stitches.directions import DIRECTIONS, Direction
from core.stitches.lens import lens
from core.stitches.passage import Passage, read
from core.stitches.stitch import Stitch, load_stitch, random_stitch
from core.stitches.stitched import Listener, Stitched
from core.text.corpus import Corpus, Document
from core.workspace.places import PROJECT
from core.workspace.store import Workspace
from tests.helpers.small import SCRIPTS, Tiny

NANO = LayerPair(a=2, b=3)
LAYERS = LayerPair(a=1, b=2)
MIXED = "The capital of France is Paris. " + " ".join(SCRIPTS.values())


def shipped(name: str) -> Stitch:
    return load_stitch(Workspace("nano", PROJECT / "cache").path(name))


@pytest.fixture(scope="module")
def stitch() -> Stitch:
    return shipped("stitches/L2-L3")


@pytest.fixture(scope="module")
def shuffled() -> Stitch:
    return shipped("controls/L2-L3")


def between(a: LiveModel, b: LiveModel, direction: Direction, seed: int = 0) -> Stitched:
    """Two models of any widths and a random stitch."""
    g = torch.Generator().manual_seed(seed)
    d_a, d_b = a.spec.d_model, b.spec.d_model
    parts = [torch.randn(shape, generator=g) / 8 for shape in ((d_a, d_b), d_b, (d_b, d_a), d_a)]
    return Stitched(a, b, LAYERS, Stitch(parts[0], parts[1], parts[2], parts[3]), direction)


def held_out(corpus: Corpus, n: int) -> list[Document]:
    """Short ones of every kind of text."""
    return [d for d in corpus.split("held-out") if len(d.text) < 700][:n]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_losses_are_those_of_table_1(
    tiny: Tiny, corpus: Corpus, stitch: Stitch, shuffled: Stitch, direction: Direction
) -> None:
    """Summed over each of 10 held-out documents, all and at paired positions alone."""
    a, b, documents = tiny("nano-a"), tiny("nano-b"), held_out(corpus, 10)
    conditions = [*downstream.unpatched(), *downstream.stitched(stitch)]
    control = downstream.stitched(shuffled)[DIRECTIONS.index(direction)]
    conditions.append(replace(control, name="control"))
    losses = pd.DataFrame(downstream.measure(a, b, documents, NANO, conditions))
    table = losses.set_index(["document", "condition"])
    stitched = Stitched(a, b, NANO, stitch, direction)
    for d in documents:
        passage = read(stitched, d.text, {"shuffled": replace(stitched, stitch=shuffled)})
        names = {"a": "a", "b": "b", direction: direction, "control": f"shuffled_{direction}"}
        for condition, key in names.items():
            row, totals = table.loc[(d.id, condition)], passage.totals[key]
            assert totals["loss"] * totals["tokens"] == pytest.approx(row.loss, rel=1e-3)
            assert totals["tokens"] == row.tokens
        crossed, row = passage.totals[direction], table.loc[(d.id, direction)]
        assert crossed["share_patched"] == pytest.approx(row.patched / row.tokens)
        assert crossed["loss_patched"] * row.patched == pytest.approx(row.loss_patched, rel=1e-3)
        losses = [t.loss_crossed for t in passage.tokens[:-1]]
        assert sum(x for x in losses if x is not None) == pytest.approx(row.loss, rel=1e-3)


def test_across_tokenizers_too(tiny: Tiny, english: Corpus) -> None:
    a, b = tiny("nano-a"), tiny("gemma")
    documents = english.split("held-out")[:6]
    for direction in DIRECTIONS:
        stitched = between(a, b, direction)
        conditions = [*downstream.unpatched(), *downstream.stitched(stitched.stitch)]
        losses = pd.DataFrame(downstream.measure(a, b, documents, LAYERS, conditions))
        table = losses.set_index(["document", "condition"])
        for d in documents:
            totals = read(stitched, d.text).totals
            for key in ("a", "b", direction):
                expected = table.loc[(d.id, key)]
                assert totals[key]["loss"] == pytest.approx(
                    expected.loss / expected.tokens, rel=1e-3
                )
            assert 0 < totals[direction]["share_patched"] < 1


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_an_identity_changes_nothing(tiny: Tiny, direction: Direction) -> None:
    model = tiny("nano-b")
    d = model.spec.d_model
    same = Stitch(torch.eye(d), torch.zeros(d), torch.eye(d), torch.zeros(d))
    stitched = Stitched(model, model, LayerPair(a=2, b=2), same, direction)
    passage = read(stitched, MIXED)
    for token in passage.tokens:
        assert token.kl == pytest.approx(0, abs=1e-5)
        own = "top_a" if stitched.speaker == "a" else "top_b"
        assert token.top_crossed == getattr(token, own)
    off = read(
        replace(stitched, stitch=replace(same, P_up=1.2 * same.P_up, P_down=same.P_down)), MIXED
    )
    changes = direction != "b_to_a"
    assert (max(t.kl for t in off.tokens) > 1e-3) == changes, (
        "a stitch that is off by a fifth is seen"
    )


def test_probabilities_are_the_models_own(tiny: Tiny, stitch: Stitch) -> None:
    b = tiny("nano-b")
    passage = read(Stitched(tiny("nano-a"), b, NANO, stitch), MIXED)
    ids = torch.from_numpy(b.encode([MIXED])[0].ids.astype(np.int64))
    with torch.inference_mode():
        shares = torch.softmax(b.hf(input_ids=ids[None]).logits[0].float(), -1)
    for token, row, after in zip(passage.tokens, shares, [*ids[1:].tolist(), None], strict=True):
        top = row.topk(10)
        assert [p for _, p in token.top_b] == pytest.approx(top.values.tolist(), rel=1e-3)
        assert token.top_b[0][0] == b.tokenizer.decode([int(top.indices[0])])
        if after is not None:
            assert token.loss_b == pytest.approx(-float(row[after].log()), rel=1e-3, abs=1e-4)
    assert passage.tokens[-1].loss_b is None


def test_kl_is_torchs(tiny: Tiny, stitch: Stitch) -> None:
    """Between the speaker and the speaker from the stitched rows on, written out by hand."""
    a, b = tiny("nano-a"), tiny("nano-b")
    passage = read(Stitched(a, b, NANO, stitch), MIXED)
    ids = torch.from_numpy(b.encode([MIXED])[0].ids.astype(np.int64))[None]
    own = hooks.residuals(b, ids, [3])[3]
    new = own.clone()
    rows = stitch.up(hooks.residuals(a, ids, [2])[2])
    paired = torch.tensor([t.paired for t in passage.tokens])
    new[0, paired] = rows[0, paired]
    crossed, plain = (
        torch.log_softmax(b.logits(hooks.final_hidden(b, ids, 3, h)[0]), -1) for h in (new, own)
    )
    divergences = torch.nn.functional.kl_div(crossed, plain, reduction="none", log_target=True)
    expected = divergences.sum(-1)
    assert [t.kl for t in passage.tokens] == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-5)


def test_controls_are_worse(tiny: Tiny, corpus: Corpus, stitch: Stitch, shuffled: Stitch) -> None:
    text = next(
        d.text for d in held_out(corpus, 200) if d.label.startswith("eng") and len(d.text) > 300
    )
    one_way: tuple[Direction, Direction] = ("a_to_b", "b_to_a")
    for direction in one_way:  # a stitch of shuffled pairs may be undone on the way back
        stitched = Stitched(tiny("nano-a"), tiny("nano-b"), NANO, stitch, direction)
        controls = {
            "shuffled": replace(stitched, stitch=shuffled),
            "random": replace(stitched, stitch=random_stitch(stitch)),
        }
        totals = read(stitched, text, controls).totals
        for name in controls:
            assert totals[f"{name}_{direction}"]["loss"] > 1.3 * totals[direction]["loss"]
            assert totals[f"{name}_{direction}"]["kl"] > 2 * totals[direction]["kl"]


def joined(passage: Passage) -> str:
    return "".join(token.text for token in passage.tokens)


@pytest.mark.parametrize("kind", ["nano-b", "gemma"])
@pytest.mark.parametrize(
    "text",
    [
        "שלום עולם, מה שלומך?",
        "👩‍👩‍👧 🙂",
        "def f(x):\n\treturn x  # \\",
        "<b>&amp;</b>",
        "a" * 10_000,
        "x",
    ],
)
def test_odd_texts_are_read_whole_or_cut(tiny: Tiny, kind: str, text: str) -> None:
    passage = read(between(tiny("nano-a"), tiny(kind), "a_to_b"), text)
    assert joined(passage) == text[: passage.read] and (
        passage.read == len(text) or len(text) > 999
    )
    assert not passage.tokens[0].paired, "nothing has been read there"
    assert all(np.isfinite(t.kl) for t in passage.tokens)


def test_a_text_that_pairs_nowhere_is_read_by_the_speaker_alone(tiny: Tiny, stitch: Stitch) -> None:
    stitched = Stitched(tiny("nano-a"), tiny("nano-b"), NANO, stitch)
    passage = read(stitched, "\u0301")
    assert passage.totals["a_to_b"]["loss"] is not None
    with pytest.raises(StitchLensError, match="an empty text"):
        read(stitched, " \n")
    with pytest.raises(StitchLensError, match="a stitch at layer 9"):
        replace(stitched, layers=LayerPair(a=9, b=3))


def test_the_lens_of_the_last_layer_is_the_model(tiny: Tiny) -> None:
    """Its own stream after all blocks but one differs from what it says in the end; with the
    unembedding by hand it is the same."""
    b = tiny("nano-b")
    stitched = Stitched(tiny("nano-a"), b, LayerPair(a=2, b=5), shipped("stitches/L2-L3"))
    rows = lens(stitched, "The house of my mother")
    ids = torch.from_numpy(b.encode(["The house of my mother"])[0].ids.astype(np.int64))[None]
    h = hooks.residuals(b, ids, [5])[5][0]
    with torch.inference_mode():
        shares = torch.softmax(
            b.plain.get_output_embeddings()(b.plain.base_model.final_layer_norm(h)), -1
        )
    for row, truth in zip(rows, shares, strict=True):
        assert [p for _, p in row["own"]] == pytest.approx(truth.topk(10).values.tolist(), rel=1e-3)
    assert rows[0]["crossed"] == rows[0]["own"], "nothing crosses before the text"
    assert rows[3]["crossed"] != rows[3]["own"]
    assert rows[3]["source"] and not rows[0]["source"]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", ["nano-b", "gemma"])
def test_a_listener_hears_a_growing_text_as_a_whole_one(
    tiny: Tiny, kind: str, direction: Direction
) -> None:
    """Whatever it had read before, rows and pairs are those of one reading; what it calls unchanged
    has not changed."""
    stitched = between(tiny("nano-a"), tiny(kind), direction)
    speaker = stitched.model(stitched.speaker)
    growing = Listener(stitched)
    before: tuple[torch.Tensor, ...] = ()
    for end in (3, 9, 10, 11, 17, 16, 30, 31, 60):
        text = MIXED[:end]
        (spoken,) = speaker.encode([text])
        whole = Listener(stitched)
        whole.hear(text, spoken)
        stale = growing.hear(text, spoken)
        assert np.array_equal(growing.pairs, whole.pairs)
        h = torch.zeros(len(spoken.ids), speaker.spec.d_model)
        put = growing.put(h, 0)
        assert torch.allclose(put, whole.put(h, 0), atol=1e-4)
        assert torch.allclose(growing.put(h[2:], 2), put[2:], atol=1e-5)
        if before:
            n = min(stale, len(before[0]))
            assert torch.allclose(put[:n], before[0][:n], atol=1e-4)
        before = (put,)


@pytest.mark.model
def test_the_large_pair_reads_as_stitch_eval_does() -> None:
    bench = open_pair("smollm2-gemma3")
    ws = Workspace("smollm2-gemma3", PROJECT / "cache")
    stitch = load_stitch(ws.path("stitches/L20-L9"))
    layers = LayerPair(a=20, b=9)
    documents = held_out(bench.corpus, 6)
    conditions = [*downstream.unpatched(), *downstream.stitched(stitch)]
    losses = downstream.measure(bench.a, bench.b, documents, layers, conditions)
    mean = downstream.mean_losses(pd.DataFrame(losses))
    for direction in ("a_to_b", "b_to_a"):
        passages = [
            read(Stitched(bench.a, bench.b, layers, stitch, direction), d.text) for d in documents
        ]
        for key in ("a", "b", direction):
            rows = [p.totals[key] for p in passages]
            loss = sum(r["loss"] * r["tokens"] for r in rows) / sum(r["tokens"] for r in rows)
            assert loss == pytest.approx(mean[key], rel=2e-3 if key == direction else 1e-3)
