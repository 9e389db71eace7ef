"""Objectives and gradients are those of a forward pass written by hand; refining lowers divergence
on text that it has not read, a shuffled stitch stays far behind, and a killed run ends in the same
bits."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from core.activations.gram import Gram, Moments
from core.activations.harvest import read_window
from core.config import check
from core.errors import StitchLensError
from core.models.live import LiveModel
from core.models.pairs import LayerPair
from core.stitches import objective
from core.stitches.fit import fit_moments
from core.stitches.gains import gains
from core.stitches.objective import Inversion, Reading, descend, divergences, read_texts
from core.stitches.refine import Plan, Refined, Refinement, of_kinds
from core.stitches.settings import OBJECTIVES, FitConfig, Objective, RefineConfig
from core.stitches.stitch import Stitch
from core.text.corpus import Corpus, Document
from tests.helpers.small import Tiny

LAYERS = LayerPair(a=2, b=3)
CONFIG = RefineConfig(tokens=3_000, kinds=("English",), batch=128, lr=0.04, round_trips=0.0)
BRIEF = CONFIG.model_copy(update={"tokens": 700})


@pytest.fixture(scope="module")
def moments(corpus: Corpus, tiny: Tiny) -> dict[str, Moments]:
    """Of paired rows and of shuffled ones, of 128 documents."""
    a, b = tiny("nano-a"), tiny("nano-b")
    gram = Gram(a.spec.d_model, b.spec.d_model)
    for first in (0, 64):
        documents = corpus.split("fit")[first : first + 64]
        chunk = read_window(a, b, documents, [LAYERS.a], [LAYERS.b])
        gram.update(chunk.h_a[LAYERS.a], chunk.h_b[LAYERS.b], seed=first)
    return {"paired": gram.moments(), "shuffled": gram.moments(shuffled=True)}


@pytest.fixture(scope="module")
def stitches(moments: dict[str, Moments]) -> dict[str, Stitch]:
    config = FitConfig(metric="std")
    return {kind: fit_moments(some, config) for kind, some in moments.items()}


def readings_of(
    a: LiveModel, b: LiveModel, layers: LayerPair, texts: list[str]
) -> dict[str, Reading]:
    readings = read_texts((a, b), layers, (a.encode(texts), b.encode(texts)))
    assert readings is not None
    return {"a": readings["a"], "b": readings["b"]}


def by_hand(reading: Reading, rows: Tensor | None) -> tuple[Tensor, Tensor]:
    """(logits, last stream) at the paired positions by transformers' own modules, one text at a
    time as it stands in the batch, with `rows` written over the stream before the layer."""

    def replace(block: object, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> object:
        stream = args[0] if args else kwargs["hidden_states"]
        if rows is None:
            return None
        stitched = stream.clone()
        for k in range(len(rows)):
            stitched[reading.row[k], reading.position[k]] = rows[k]
        return (stitched, *args[1:]), kwargs

    block = reading.model.plain_blocks[reading.layer]
    handle = block.register_forward_pre_hook(replace, with_kwargs=True)
    try:
        hidden = reading.model.plain.base_model(input_ids=reading.ids, use_cache=False)
        logits = reading.model.plain(input_ids=reading.ids, use_cache=False).logits
    finally:
        handle.remove()
    at = (reading.row, reading.position)
    return logits[at], hidden.last_hidden_state[at]


def cost_by_hand(which: Objective, reading: Reading, rows: Tensor) -> Tensor:
    logits, hidden = by_hand(reading, rows)
    with torch.no_grad():
        own_logits, own_hidden = by_hand(reading, None)
    if which == "kl":
        own = own_logits.log_softmax(-1)
        return functional.kl_div(
            logits.log_softmax(-1), own, log_target=True, reduction="batchmean"
        )
    if which == "features":
        return functional.mse_loss(hidden, own_hidden) / own_hidden.pow(2).mean()

    lengths = (reading.following >= 0).tolist()
    losses = [
        functional.cross_entropy(logits[k], reading.ids[reading.row[k], reading.position[k] + 1])
        for k, known in enumerate(lengths)
        if known
    ]
    return torch.stack(losses).sum() / len(lengths)


@pytest.mark.parametrize("which", OBJECTIVES)
@pytest.mark.parametrize("kind", ["nano-b", "gemma", "llama"])
def test_objective_and_gradient_are_those_of_a_forward_pass_by_hand(
    tiny: Tiny, which: Objective, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objective, "LOGIT_ROWS", 7)  # so that there are several parts
    a, b = tiny("nano-a"), tiny(kind)
    texts = ["The cat sat on the mat, and it slept.", "A second text."]
    reading = readings_of(a, b, LayerPair(a=1, b=1), texts)["b"]
    x = readings_of(a, b, LayerPair(a=1, b=1), texts)["a"].stream
    draws = torch.Generator().manual_seed(0)
    p = 0.1 * torch.randn(x.shape[1], b.spec.d_model, generator=draws)
    ours, theirs = (p.clone().requires_grad_() for _ in range(2))

    value = descend(which, reading, x @ ours)
    cost = cost_by_hand(which, reading, x @ theirs)
    cost.backward()
    assert value > 0
    assert value == pytest.approx(float(cost.detach()), rel=1e-4)
    assert ours.grad is not None and theirs.grad is not None
    assert float(theirs.grad.abs().max()) > 0
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6)


def test_only_positions_that_read_the_same_are_scored(tiny: Tiny) -> None:
    """The first token is none of them, and own rows in place cost nothing."""
    a, b = tiny("nano-a"), tiny("gemma")
    readings = readings_of(a, b, LayerPair(a=1, b=1), ["One text here.", "Another, longer text."])
    for reading in readings.values():
        assert int(reading.position.min()) >= 1
        torch.testing.assert_close(
            torch.from_numpy(divergences(reading, reading.stream)),
            torch.zeros(len(reading.position), dtype=torch.float64),
            atol=1e-6,
            rtol=0,
        )
    assert len(readings["a"].position) == len(readings["b"].position)


@pytest.mark.parametrize("metric", ["raw", "std", "whiten"])
def test_inversion_is_that_of_the_rows(metric: str) -> None:
    draws = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draws)

    x, y = drawn(3000, 3) @ drawn(3, 3) + 2, drawn(3000, 5) @ drawn(5, 5) - 1
    gram = Gram(3, 5)
    gram.update(x, y)
    stitch = Stitch(drawn(3, 5), drawn(5), drawn(5, 3), drawn(3))
    lost_a, lost_b = Inversion(gram.moments(), metric)(stitch)  # type: ignore[arg-type]

    for lost, rows, back in (
        (lost_a, x, stitch.down(stitch.up(x))),
        (lost_b, y, stitch.up(stitch.down(y))),
    ):
        centred = rows.double() - rows.double().mean(0)
        covariance = centred.T @ centred / len(rows)
        error = (back - rows).double()
        match metric:
            case "raw":
                costs = error.pow(2)
            case "std":
                costs = error.pow(2) / covariance.diagonal()
            case _:
                values, vectors = torch.linalg.eigh(covariance)
                costs = (error @ vectors).pow(2) / (values + 0.05 * values.mean())
        assert float(lost) == pytest.approx(float(costs.mean()), rel=2e-3)


def held_out(corpus: Corpus, tiny: Tiny) -> dict[str, Reading]:
    english = [d.text for d in corpus.split("held-out") if d.kind == "English"][:16]
    return readings_of(tiny("nano-a"), tiny("nano-b"), LAYERS, english)


Train = Callable[..., Refined[Stitch]]


@pytest.fixture(scope="module")
def train(
    corpus: Corpus,
    tiny: Tiny,
    moments: dict[str, Moments],
    tmp_path_factory: pytest.TempPathFactory,
) -> Train:
    def run(
        start: Stitch,
        folder: Path | None = None,
        constant: bool = False,
        config: RefineConfig = CONFIG,
        **options: object,
    ) -> Refined[Stitch]:
        known = moments["paired"]
        refinement = Refinement(
            (tiny("nano-a"), tiny("nano-b")),
            LAYERS,
            start,
            Inversion(known, start.makers.get("metric") or "std"),
            config,
            folder or tmp_path_factory.mktemp("run"),
            (known.mean_a.float(), known.mean_b.float()) if constant else None,
        )
        return refinement.train(corpus.split("fit"), "a test", **options)  # type: ignore[arg-type]

    return run


def test_refining_lowers_divergence_on_text_it_has_not_read(
    corpus: Corpus, tiny: Tiny, train: Train, stitches: dict[str, Stitch]
) -> None:
    readings = held_out(corpus, tiny)
    rows_a, rows_b = readings["a"].stream, readings["b"].stream

    def measured(stitch: Stitch) -> tuple[float, float]:
        up = divergences(readings["b"], stitch.up(rows_a)).mean()
        return float(up), float(divergences(readings["a"], stitch.down(rows_b)).mean())

    refined, before = train(stitches["paired"]), measured(stitches["paired"])
    after = measured(refined.maps)
    assert after[0] < 0.95 * before[0] and after[1] < 0.98 * before[1]

    shuffled = measured(train(stitches["shuffled"]).maps)
    assert min(shuffled) > 2 * max(after), "what is learned without the pairing is far behind"
    fixed = train(stitches["paired"], constant=True).maps
    mean_a, mean_b = rows_a.mean(0).expand_as(rows_a), rows_b.mean(0).expand_as(rows_b)
    constant = divergences(readings["b"], fixed.up(mean_a)).mean()
    assert constant > 2 * after[0]
    assert divergences(readings["a"], fixed.down(mean_b)).mean() > 2 * after[1]


def test_inversion_terms_keep_round_trips(train: Train, stitches: dict[str, Stitch]) -> None:
    """Without them a round trip pays."""
    loose = BRIEF.model_copy(update={"inversion": 0.0})
    kept = train(stitches["paired"], config=BRIEF).curve
    lost = train(stitches["paired"], config=loose).curve
    for name in ("inversion_a", "inversion_b"):
        assert kept[name][0] == lost[name][0]
        assert kept[name][-1] < lost[name][-1]


def test_round_trips_gain_where_they_are_trained_on(
    corpus: Corpus, tiny: Tiny, train: Train, stitches: dict[str, Stitch]
) -> None:
    """B→A→B, through the narrower model."""
    reading = held_out(corpus, tiny)["b"]
    there_and_back = []
    for weight in (0.0, 1.0):
        config = CONFIG.model_copy(update={"round_trips": weight, "tokens": 4_000})
        stitch = train(stitches["paired"], config=config).maps
        rows = stitch.up(stitch.down(reading.stream))
        there_and_back.append(divergences(reading, rows).mean())
    assert there_and_back[1] < 0.97 * there_and_back[0]


def test_a_killed_run_ends_in_the_same_bits(
    tmp_path: Path, train: Train, stitches: dict[str, Stitch]
) -> None:
    whole = train(stitches["paired"], config=BRIEF)

    def kill(step: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(stitches["paired"], tmp_path, config=BRIEF, after_step=kill, save_seconds=0.0)
    assert (tmp_path / "state.safetensors").exists()
    steps = []
    resumed = train(stitches["paired"], tmp_path, config=BRIEF, after_step=steps.append)
    assert steps[0] == 3 and len(steps) == len(whole.curve["up"]) - 3
    for name in ("P_up", "b_up", "P_down", "b_down"):
        assert torch.equal(getattr(resumed.maps, name), getattr(whole.maps, name)), name
    for name, curve in whole.curve.items():
        assert (resumed.curve[name] == curve).all()

    again = train(stitches["paired"], tmp_path, config=BRIEF, after_step=steps.append)
    assert torch.equal(again.maps.P_up, whole.maps.P_up), "a finished run is read, not made"
    assert not (tmp_path / "state.safetensors").exists()


def test_a_damaged_state_is_refused_by_its_place(
    tmp_path: Path, train: Train, stitches: dict[str, Stitch]
) -> None:
    (tmp_path / "state.safetensors").write_bytes(b"no state")
    with pytest.raises(StitchLensError, match=r"delete .*state\.safetensors"):
        train(stitches["paired"], tmp_path)


def test_a_plan_reads_as_much_as_was_asked_for(corpus: Corpus, tiny: Tiny) -> None:
    models = tiny("nano-a"), tiny("nano-b")
    some = [d for d in corpus.split("fit") if d.kind == "English"][:20]
    whole = sum(len(text.ids) for text in models[1].encode([d.text for d in some]))
    plan = Plan(models, some, CONFIG.model_copy(update={"tokens": 2 * whole + 100}))
    assert 2 * whole + 100 <= sum(plan.sizes) < 2 * whole + 100 + 512
    assert len(plan.texts[0]) == len(plan.texts[1])
    once = [i for step in plan.steps for i in step if i < len(some)]
    assert sorted(once) == list(range(len(some))), "every text once before any twice"
    other = Plan(models, some, CONFIG.model_copy(update={"seed": 1}))
    assert other.steps != plan.steps[: len(other.steps)]


def test_kinds_that_are_not_there_are_refused(corpus: Corpus) -> None:
    documents = corpus.split("fit")
    assert {d.kind for d in of_kinds(documents, ("code",))} == {"code"}
    assert of_kinds(documents, ()) == documents
    with pytest.raises(StitchLensError, match="'Klingon' in the fit split; wanted some of English"):
        of_kinds(documents, ("English", "Klingon"))


def test_settings_that_cannot_be_are_refused() -> None:
    for setting in ({"objective": "mse"}, {"tokens": 0}, {"lr": 0}, {"inversion": -1.0}):
        with pytest.raises(StitchLensError, match=next(iter(setting))):
            check(RefineConfig, "see help", **setting)


def test_gains_are_plain_arithmetic() -> None:
    """Two documents of one kind, losses planted."""
    documents = [Document(id=f"d@{k}", label="eng", text="text") for k in range(2)]

    def rows(condition: str, model: str, *losses: float) -> list[dict[str, object]]:
        return [
            {
                "condition": condition,
                "document": document.id,
                "loss": loss,
                "tokens": 10,
                "patched": 8,
                "model": model,
            }
            for document, loss in zip(documents, losses, strict=True)
        ]

    losses = pd.DataFrame(
        [
            *rows("b", "b", 20.0, 20.0),
            *rows("paired/before/a_to_b", "b", 30.0, 24.0),
            *rows("a_to_b", "b", 25.0, 21.0),
        ]
    )
    table = gains(losses, documents)
    assert set(table.kind) == {"English", "all text"} and set(table.condition) == {"a_to_b"}
    row = table.iloc[0]
    assert row.loss_unpatched == 2.0 and row.loss_before == 2.7 and row.loss_after == 2.3
    assert row.relative_before == pytest.approx(0.35) and row.relative_after == pytest.approx(0.15)
    assert row.change == pytest.approx(-0.2)
    assert row.change_low == pytest.approx(-0.25) and row.change_high == pytest.approx(-0.15)
    assert row.share_patched == 0.8 and row.documents == 2 and row.tokens == 20
