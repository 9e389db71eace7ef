"""A lane of a stitched model says what reading its text so far would say, with caches or without,
beside any other lane."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from core.errors import StitchLensError
from core.models import hooks
from core.models.live import Encoded, LiveModel
from core.models.pairs import LayerPair
from core.steering.crossed import Row
from core.steering.generate import Sampling, Written, generate, respond
from core.steering.lanes import Lane
from core.steering.vectors import Vector
from core.stitches.directions import DIRECTIONS, Direction
from core.stitches.stitch import Stitch, load_stitch
from core.stitches.stitched import Listener, Stitched
from core.workspace.places import PROJECT
from core.workspace.store import Workspace
from tests.helpers.small import Tiny

PROMPT = "The house of my mother"
GREEDY = Sampling(tokens=12, temperature=0, repetition=1)
DRAWN = Sampling(tokens=14, temperature=1.0, seed=5)


def last(stream: Any) -> list[Written]:
    out: list[Written] = []
    for step in stream:
        out = step
    return out


def shipped(name: str) -> Stitch:
    return load_stitch(Workspace("nano", PROJECT / "cache").path(name))


def nano(tiny: Tiny, direction: Direction = "a_to_b", name: str = "stitches/L2-L3") -> Stitched:
    layers = LayerPair(a=2, b=3)
    return Stitched(tiny("nano-a"), tiny("nano-b"), layers, shipped(name), direction)


def mixed(tiny: Tiny, direction: Direction) -> Stitched:
    """Two tokenizers, and a stitch that is random but small enough to leave words apart."""
    a, b, g = tiny("nano-a"), tiny("gemma"), torch.Generator().manual_seed(1)
    d_a, d_b = a.spec.d_model, b.spec.d_model
    parts = [torch.randn(shape, generator=g) / 8 for shape in ((d_a, d_b), d_b, (d_b, d_a), d_a)]
    return Stitched(
        a, b, LayerPair(a=1, b=2), Stitch(parts[0], parts[1], parts[2], parts[3]), direction
    )


def without_caches(
    stitched: Stitched, row: Row, text: str, spoken: Encoded, vector: Vector | None = None
) -> torch.Tensor:
    """Logits after the last token: the whole text so far, read anew by both models."""
    model, listener = stitched.model(stitched.speaker), Listener(stitched)
    listener.hear(text, spoken)
    ids = torch.from_numpy(spoken.ids.astype(np.int64))[None]
    special = torch.isin(ids[0], torch.from_numpy(model.special).to(ids))

    def change(h: torch.Tensor) -> torch.Tensor:
        put = listener.put(h[0].float(), 0)
        if vector is not None:
            pushed = put + (vector.mean - put @ vector.v)[:, None] * vector.v
            put = torch.where(special[:, None], put, pushed)
        return put[None]

    with torch.inference_mode(), hooks.changed(model, {row.layer: change}):
        hidden = model.plain.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return model.logits(hidden[0, -1:])[0]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("pair", [nano, mixed])
def test_caches_say_what_no_caches_say(tiny: Tiny, pair: Any, direction: Direction) -> None:
    """Each token written is the likeliest after all the text before it, read anew."""
    stitched = pair(tiny, direction)
    model = stitched.model(stitched.speaker)
    (written,) = last(generate(model, PROMPT, [Lane(stitched=stitched)], GREEDY))
    row = Row(stitched, PROMPT)
    for k, token in enumerate(written.ids):
        row.hear(written.ids[:k])
        logits = without_caches(stitched, row, row.text_so_far, row.spoken)
        best = logits.topk(2)
        if best.values[0] - best.values[1] > 1e-3:
            assert int(best.indices[0]) == token, k


def test_earlier_positions_are_computed_again_where_words_grow(tiny: Tiny) -> None:
    """Else the test above would prove little: the listener's tokens change under its feet."""
    row = Row(mixed(tiny, "a_to_b"), PROMPT)
    row.hear([])
    ids = tiny("gemma").encode([PROMPT + "s and internationalisation"])[0].ids.tolist()
    added = ids[row.prompt :]
    anew = []
    for k in range(1, len(added) + 1):
        stale = row.hear(added[:k])
        anew.append(len(row) - stale)
    assert max(anew) > 1
    assert row.text_so_far == PROMPT + "s and internationalisation"


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_an_identity_stitch_writes_the_plain_models_text(tiny: Tiny, direction: Direction) -> None:
    for kind in ("nano-b", "gemma"):
        model = tiny(kind)
        d = model.spec.d_model
        same = Stitch(torch.eye(d), torch.zeros(d), torch.eye(d), torch.zeros(d))
        stitched = Stitched(model, model, LayerPair(a=2, b=2), same, direction)
        for sampling in (GREEDY, DRAWN):
            lanes = [Lane(), Lane(stitched=stitched)]
            plain, crossed = last(generate(model, PROMPT, lanes, sampling))
            assert crossed.ids == plain.ids
        off = replace(stitched, stitch=replace(same, P_up=3 * same.P_up, P_down=-2 * same.P_down))
        plain, crossed = last(generate(model, PROMPT, [Lane(), Lane(stitched=off)], DRAWN))
        assert crossed.ids != plain.ids


@pytest.mark.parametrize("pair", [nano, mixed])
def test_a_lane_writes_the_same_beside_any_others(tiny: Tiny, pair: Any) -> None:
    stitched = pair(tiny, "a_to_b")
    control = replace(stitched, stitch=replace(stitched.stitch, P_up=-stitched.stitch.P_up))
    back = replace(stitched, direction="b_to_a_to_b")
    model = stitched.model("b")
    lanes = [Lane(), *(Lane(stitched=s) for s in (stitched, control, back))]
    together = last(generate(model, PROMPT, lanes, DRAWN))
    assert len({tuple(w.ids) for w in together}) == 4
    for lane, written in zip(lanes, together, strict=True):
        (alone,) = last(generate(model, PROMPT, [lane], DRAWN))
        assert alone.ids == written.ids
    bulk = respond(model, [(PROMPT, lane, 5) for lane in lanes], DRAWN)
    assert [len(w.ids) for w in bulk] == [len(w.ids) for w in together]


def test_a_vector_pushes_what_crossed(tiny: Tiny, french: Vector) -> None:
    """Before the stitched layer's block, after the crossing: the same as by hand without caches."""
    stitched = nano(tiny)
    vector = Vector(3, french.v, 2 * french.mean)
    lane = Lane((vector,), stitched=stitched)
    (written,) = last(generate(tiny("nano-b"), PROMPT, [lane], GREEDY))
    (without,) = last(generate(tiny("nano-b"), PROMPT, [Lane(stitched=stitched)], GREEDY))
    assert written.ids != without.ids
    row = Row(stitched, PROMPT)
    for k, token in enumerate(written.ids):
        row.hear(written.ids[:k])
        logits = without_caches(stitched, row, row.text_so_far, row.spoken, vector)
        assert float(logits[token]) == pytest.approx(float(logits.max()), abs=1e-3)


def test_silent_tokens_are_never_said(tiny: Tiny) -> None:
    model, stitched = tiny("nano-b"), nano(tiny)
    (free,) = last(generate(model, PROMPT, [Lane(stitched=stitched)], DRAWN))
    silent = torch.tensor(sorted(set(free.ids[:3])))
    (kept,) = last(generate(model, PROMPT, [Lane(stitched=stitched, silent=silent)], DRAWN))
    assert kept.ids and not set(kept.ids) & set(silent.tolist())


@pytest.mark.parametrize("prompt", ["שלום עולם", "🙂🙂", "a" * 300, "def f(x):\n\treturn", "x"])
@pytest.mark.parametrize("direction", ["a_to_b", "b_to_a"])
def test_odd_prompts_go_on(tiny: Tiny, prompt: str, direction: Direction) -> None:
    stitched = mixed(tiny, direction)
    model = stitched.model(stitched.speaker)
    (written,) = last(generate(model, prompt, [Lane(stitched=stitched)], DRAWN))
    assert written.ids


def test_long_texts_keep_what_a_window_would_forget(tiny: Tiny) -> None:
    """The tiny Gemma attends to 64 positions in some layers: its cache is cropped all the same."""
    stitched = mixed(tiny, "a_to_b")
    prompt = "The house of my mother is old. " * 12
    (written,) = last(generate(tiny("gemma"), prompt, [Lane(stitched=stitched)], GREEDY))
    row = Row(stitched, prompt)
    for k, token in enumerate(written.ids):
        row.hear(written.ids[:k])
        logits = without_caches(stitched, row, row.text_so_far, row.spoken)
        assert float(logits[token]) == pytest.approx(float(logits.max()), abs=1e-3)


def test_a_lane_of_another_speaker_is_refused(tiny: Tiny) -> None:
    with pytest.raises(StitchLensError, match="choose another direction"):
        last(generate(tiny("nano-b"), PROMPT, [Lane(stitched=nano(tiny, "b_to_a"))], GREEDY))


def test_stop_is_heard_and_hooks_are_gone(tiny: Tiny) -> None:
    model: LiveModel = tiny("nano-b")
    lanes, seen = [Lane(stitched=nano(tiny))], list[int]()
    for written in generate(model, PROMPT, lanes, DRAWN, stop=lambda: len(seen) == 2):
        seen.append(len(written[0].ids))
    assert seen == [1, 2]
    for kind in ("nano-a", "nano-b"):
        assert not any(block._forward_pre_hooks for block in tiny(kind).plain_blocks)
