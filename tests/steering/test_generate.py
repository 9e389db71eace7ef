"""Operators do what Eq. 8 and 9 say, lanes together are lanes alone, hooks are gone afterwards,
turns are kept."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import StitchLensError
from core.models import hooks
from core.models.live import LiveModel, Turns
from core.models.loading import load
from core.models.pairs import ModelSpec, Source
from core.steering import generate as steering_generate
from core.steering import tables as steering_tables
from core.steering.generate import (
    Written,
    draw,
    encode_prompt,
    generate,
    respond,
    response_losses,
)
from core.steering.lanes import OPERATORS, Lane
from core.steering.settings import Sampling
from core.steering.vectors import Vector, diff_mean, means
from core.text.corpus import Corpus
from tests.helpers.small import FLOAT32, metaspace, texts, untrained

LAYER = 2
SHORT = Sampling(tokens=8, seed=3)


def last(stream: Any) -> list[Written]:
    out: list[Written] = []
    for step in stream:
        out = step
    return out


def test_a_clamp_of_1_puts_the_component_to_the_mean(nano: LiveModel, french: Vector) -> None:
    h = 3 * torch.randn(2, 7, nano.spec.d_model, generator=torch.Generator().manual_seed(0))
    shape = (1, 1, 1)
    mean, v = torch.full(shape, french.mean), french.v[None, None]
    one = OPERATORS["clamp"](h, v, mean, torch.ones(shape))
    assert torch.allclose(one @ french.v, torch.full((2, 7), french.mean), atol=1e-4)
    across = lambda x: x - (x @ french.v)[..., None] * french.v  # noqa: E731
    assert torch.allclose(across(one), across(h), atol=1e-4), "nothing else changes"
    for operator in OPERATORS.values():
        assert torch.equal(operator(h, v, mean, torch.zeros(shape)), h)
    half = OPERATORS["add"](h, v, mean, torch.full(shape, 0.5))
    assert torch.allclose(half - h, (0.5 * mean * v).expand_as(h), atol=1e-5)


def test_rows_that_no_token_has_are_never_written(tmp_path: Path) -> None:
    """A vocabulary is often padded to a round number."""
    tokenizer = metaspace()
    words = len(tokenizer)
    padded = untrained("llama", words + 2).eval()
    with torch.no_grad():  # one of the two is likelier than any token, wherever the stream points
        head = padded.get_output_embeddings().weight
        head[words] = 10 * torch.randn(40, generator=torch.Generator().manual_seed(0))
        head[words + 1] = -head[words]
    padded.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    source = Source(kind="folder", ref=str(tmp_path))
    model = load(
        ModelSpec(key="padded", title="padded", n_layers=3, d_model=40, sources=(source,)), FLOAT32
    )
    ids = encode_prompt(model, "The house", 8)[None]
    with torch.inference_mode():
        hidden = model.plain.base_model(input_ids=ids).last_hidden_state[:, -1]
        assert int(model.logits(hidden).argmax()) >= words, "alone it would write such a row"

    for temperature in (0.0, 1.0):
        (lane,) = last(
            generate(model, "The house", [Lane()], Sampling(tokens=8, temperature=temperature))
        )
        assert lane.ids and max(lane.ids) < words


def watched(model: LiveModel, work: Any) -> list[torch.Tensor]:
    """What block LAYER reads, pass by pass, after whatever hook came before."""
    read: list[torch.Tensor] = []
    norm = model.plain_blocks[LAYER].input_layernorm
    handle = norm.register_forward_pre_hook(lambda block, args: read.append(args[0].clone()))
    try:
        work()
    finally:
        handle.remove()
    return read


def test_every_position_but_special_ones_is_steered(nano: LiveModel, french: Vector) -> None:
    """What the layer reads in a stream: the prompt at its first pass, then one token after the
    other."""
    lanes = [Lane((french,)), Lane(), Lane((french,), prompt=False)]
    read = watched(nano, lambda: last(generate(nano, "The house", lanes, Sampling(tokens=3))))
    at = torch.stack([h @ french.v for h in (x[0, 1:] for x in read[:1])])[0]
    assert torch.allclose(at, torch.full_like(at, french.mean), atol=1e-4)
    assert float(read[0][0, 0] @ french.v) != pytest.approx(french.mean, abs=1e-3), (
        "the special token is left alone"
    )
    assert torch.equal(read[0][1], read[0][2]), (
        "a lane that leaves the prompt alone reads what an unsteered one reads"
    )
    for h in read[1:]:
        for lane in (0, 2):
            assert float(h[lane, 0] @ french.v) == pytest.approx(french.mean, abs=1e-4)
        assert float(h[1, 0] @ french.v) != pytest.approx(french.mean, abs=1e-3)


def test_without_vectors_the_logits_are_the_models_own(nano: LiveModel) -> None:
    """Greedy decoding by hand, without a cache, writes the same."""
    ids = encode_prompt(nano, "The house of my", 6).tolist()
    n = len(ids)
    for _ in range(6):
        with torch.inference_mode():
            hidden = nano.body(input_ids=torch.tensor([ids])).last_hidden_state[0, -1:]
            ids.append(int(nano.logits(hidden)[0].argmax()))
    greedy = Sampling(tokens=6, temperature=0, repetition=1)
    assert last(generate(nano, "The house of my", [Lane()], greedy))[0].ids == ids[n:]


def test_a_lane_writes_the_same_beside_any_others(nano: LiveModel, french: Vector) -> None:
    lanes = [
        Lane(),
        Lane((french,)),
        Lane((french,), "add", 0.5),
        Lane((french,), strength=2.0),
        Lane((french,), prompt=False),
    ]
    together = last(generate(nano, "The house of my", lanes, SHORT))
    assert len({tuple(x.ids) for x in together}) > 2
    for lane, written in zip(lanes, together, strict=True):
        (alone,) = last(generate(nano, "The house of my", [lane], SHORT))
        assert alone.ids == written.ids and alone.text == written.text
    assert (
        last(generate(nano, "The house of my", [Lane()], Sampling(tokens=8, seed=4)))[0].ids
        != together[0].ids
    )


def test_hooks_are_gone_after_a_stream_and_after_one_that_was_dropped(
    nano: LiveModel, french: Vector
) -> None:
    ids = torch.tensor([encode_prompt(nano, "The house", 1).tolist()])
    with torch.inference_mode():
        before = nano.plain.base_model(input_ids=ids).last_hidden_state
    last(generate(nano, "The house", [Lane((french,))], SHORT))
    next(iter(generate(nano, "The house", [Lane((french,))], SHORT)))
    with pytest.raises(ZeroDivisionError), hooks.changed(nano, {LAYER: lambda h: h / (1 // 0)}):
        nano.plain.base_model(input_ids=ids)
    with torch.inference_mode():
        assert torch.equal(nano.plain.base_model(input_ids=ids).last_hidden_state, before)
    assert not any(block._forward_pre_hooks for block in nano.plain_blocks)


def test_a_stop_is_heard_within_a_token(nano: LiveModel) -> None:
    seen: list[int] = []
    for written in generate(nano, "The house", [Lane()], SHORT, stop=lambda: len(seen) == 2):
        seen.append(len(written[0].ids))
    assert seen == [1, 2]


def test_steering_to_a_language_moves_what_is_written(nano: LiveModel, french: Vector) -> None:
    """The science on small models: the mean of French goes up in what the model expects next."""
    stream = Sampling(tokens=24, temperature=0.7, seed=1)
    plain, steered = last(
        generate(nano, "The house of my mother is", [Lane(), Lane((french,), strength=1.5)], stream)
    )
    assert plain.text != steered.text
    ids = torch.tensor([[0, *steered.ids], [0, *plain.ids]][0:1])
    h = hooks.residuals(nano, ids, [LAYER])[LAYER][0, 1:].float()
    other = hooks.residuals(nano, torch.tensor([[0, *plain.ids]]), [LAYER])[LAYER][0, 1:].float()
    assert float((h @ french.v).mean()) > float((other @ french.v).mean())


@pytest.mark.parametrize(("prompt", "says"), [("", "an empty prompt"), ("a " * 5000, "shorten it")])
def test_prompts_that_do_not_fit_are_said(nano: LiveModel, prompt: str, says: str) -> None:
    with pytest.raises(StitchLensError, match=says):
        last(generate(nano, prompt, [Lane()], SHORT))


def test_bad_vectors_and_strengths_are_said(nano: LiveModel) -> None:
    with pytest.raises(StitchLensError, match="width 3"):
        last(generate(nano, "The", [Lane((Vector(LAYER, torch.ones(3), 1.0),))], SHORT))
    for strength in (1e9, float("nan"), float("-inf")):
        with pytest.raises(StitchLensError, match="1 is Eq"):
            Lane(strength=strength)
    with pytest.raises(StitchLensError, match="operator 'push'"):
        Lane(operator="push")
    assert list(steering_tables.OPERATORS) == list(OPERATORS), "the page knows them all"


@pytest.mark.parametrize("prompt", ["שלום עולם", "🙂🙂🙂", "a" * 400, "<b>&amp;</b>\n\n"])
def test_odd_prompts_go_on(nano: LiveModel, prompt: str) -> None:
    (written,) = last(generate(nano, prompt, [Lane()], SHORT))
    assert 0 < len(written.ids) <= 8


def test_draws_follow_the_shares() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, 3.0, -9.0])
    seen = torch.tensor([4])
    g = torch.Generator().manual_seed(0)
    n, counts = 4000, torch.zeros(5)
    plain = Sampling(temperature=1, top_p=1, repetition=1)
    for _ in range(n):
        counts[draw(logits, seen, plain, g)] += 1
    assert torch.allclose(counts / n, torch.softmax(logits, 0), atol=0.03)
    narrow = Sampling(temperature=1, top_p=0.6, repetition=1)
    assert {draw(logits, seen, narrow, g) for _ in range(100)} == {3}
    tired = Sampling(temperature=0, repetition=2)
    assert draw(logits, torch.tensor([3]), tired, g) == 2


def test_the_whole_vocabulary_is_looked_at_where_it_is_flat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(steering_generate, "LIKELY", (2, 4))
    flat, g = torch.zeros(64), torch.Generator().manual_seed(0)
    drawn = {
        draw(flat, torch.tensor([0]), Sampling(temperature=1, top_p=1, repetition=1), g)
        for _ in range(600)
    }
    assert len(drawn) > 55


def test_turns_are_first_come_first_served() -> None:
    turns, order, places = Turns(), [], []
    inside = threading.Event()

    def use(k: int) -> None:
        with turns.turn(lambda place: places.append((k, place))):
            order.append(k)
            if k == 0:
                inside.wait(5)

    threads = []
    for k in range(4):
        threads.append(threading.Thread(target=use, args=(k,)))
        threads[-1].start()
        time.sleep(0.05)
    inside.set()
    for thread in threads:
        thread.join(5)
    assert order == [0, 1, 2, 3]
    assert {(1, 1), (2, 2), (3, 3)} <= set(places)
    with pytest.raises(ZeroDivisionError), turns.turn():
        _ = 1 // 0
    with turns.turn():
        pass


def test_streams_at_once_are_streams_one_by_one(nano: LiveModel, french: Vector) -> None:
    turns, found = Turns(), {}
    lanes = {k: [Lane((french,), strength=0.5 * k), Lane()] for k in range(4)}

    def write(k: int) -> None:
        with turns.turn():
            found[k] = [x.ids for x in last(generate(nano, f"The {k} houses", lanes[k], SHORT))]

    threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(4):
        assert found[k] == [x.ids for x in last(generate(nano, f"The {k} houses", lanes[k], SHORT))]


def test_a_range_of_layers_is_steered_at_each(nano: LiveModel, corpus: Corpus) -> None:
    plus, minus = texts(corpus, "fra"), texts(corpus, "eng")
    vectors = tuple(diff_mean(means(nano, plus, minus, layer)) for layer in (LAYER, LAYER + 1))
    ids = torch.tensor([encode_prompt(nano, "The house of my", 1).tolist()])
    lane, seen = Lane(vectors), []
    batch = steering_generate._Batch(nano, [ids[0]], [lane], Sampling(tokens=2), [0], 1)
    norms = [nano.plain_blocks[layer].input_layernorm for layer in (LAYER, LAYER + 1)]
    handles = [
        n.register_forward_pre_hook(lambda block, args: seen.append(args[0][0, 1:])) for n in norms
    ]
    batch.step()
    for handle in handles:
        handle.remove()
    for h, vector in zip(seen, vectors, strict=True):
        assert torch.allclose(h @ vector.v, torch.full((len(h),), vector.mean), atol=1e-4)


def test_written_in_bulk_is_written_alone(nano: LiveModel, french: Vector) -> None:
    prompts = ["The house of my", "A", "In the morning we went to the", "The dog and the"]
    rows = [(p, lane, k) for k, p in enumerate(prompts) for lane in (Lane(), Lane((french,)))]
    together = respond(nano, rows, SHORT)
    for (prompt, lane, seed), written in zip(rows, together, strict=True):
        (alone,) = respond(nano, [(prompt, lane, seed)], SHORT)
        assert alone.ids == written.ids and alone.done
        (live,) = last(generate(nano, prompt, [lane], SHORT.model_copy(update={"seed": seed})))
        assert live.ids == written.ids


def test_losses_of_responses_are_those_of_a_whole_pass(nano: LiveModel) -> None:
    prompts = [encode_prompt(nano, p, 1) for p in ("The house of my", "A dog")]
    responses = [
        nano.encode([t])[0].ids[1:].tolist() for t in (" mother is old and small.", " ran")
    ]
    found = response_losses(nano, [*prompts, prompts[0]], [*responses, []])
    assert found[2] != found[2], "an empty response has no loss"
    for ids, response, loss in zip(prompts, responses, found[:2], strict=True):
        whole = torch.tensor([[*ids.tolist(), *response]])
        logits = nano.hf(input_ids=whole).logits[0].float()
        n = len(ids)
        expected = torch.nn.functional.cross_entropy(logits[n - 1 : -1], whole[0, n:])
        assert loss == pytest.approx(float(expected), rel=1e-4)
