"""The shipped pair: training goes on after a kill, the models are what their cards say, the science
holds on them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from benchmarks.nano import KneserNey
from core.activations import harvest
from core.activations.gram import Gram
from core.cli.main import app
from core.errors import StitchLensError
from core.models import nano, training
from core.models.nano import PROMPTS
from core.models.pairs import PAIRS, LayerPair
from core.models.training import (
    NanoConfig,
    Size,
    Tokens,
    document_loss,
    epoch_rows,
    train_model,
    unigram_loss,
    untrained,
)
from core.report import report
from core.stitches import downstream
from core.stitches.fit import fit_moments
from core.stitches.settings import FitConfig
from core.text.corpus import Corpus, load_corpus
from core.workspace.disk import sha256_file
from core.workspace.places import PROJECT
from tests.helpers.small import FLOAT32, Tiny

MODELS = PROJECT / "cache" / "models"
LAYERS = LayerPair(a=2, b=3)
SIZE = Size(layers=1, width=16, heads=2, epochs=2, rows=4, dropout=0.1)
CONFIG = NanoConfig(vocabulary=64, context=16, a=SIZE, b=SIZE)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus(PAIRS["nano"].corpus)


def markov(n: int, seed: int, length: int = 40) -> list[np.ndarray]:
    """Documents of a planted chain over 1..7 after a 0: with 0.8 the next number, else any; its
    entropy is known."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        ids = [0, int(rng.integers(1, 8))]
        while len(ids) < length:
            ids.append(ids[-1] % 7 + 1 if rng.random() < 0.8 else int(rng.integers(1, 8)))
        out.append(np.array(ids, dtype=np.int32))
    return out


def test_counts_find_a_planted_chain() -> None:
    fit, held_out = markov(400, 0), markov(100, 1)
    p = np.full(7, 0.2 / 7)
    p[0] += 0.8
    entropy = float(-(p * np.log(p)).sum())
    assert entropy < KneserNey(fit, 8, 2).loss(held_out) < 1.08 * entropy
    model = KneserNey(fit, 8)
    assert model.loss(held_out) < 1.15 * entropy, "longer contexts are rarer"
    assert unigram_loss(fit, held_out, 8) == pytest.approx(np.log(7), abs=0.01)
    for context in ([0, 0, 0, 0], [3, 4, 5, 6], [1, 1, 1, 1], [7, 0, 0, 0]):
        grams = np.array([[*context, w] for w in range(8)])
        assert model.probability(grams).sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="63-bit"):
        KneserNey(fit, 50_000)


def test_an_epoch_holds_every_document_in_an_order_of_its_own() -> None:
    documents = [np.full(8, k, dtype=np.int32) for k in range(12)]
    one, again, other = (epoch_rows(documents, 8, 0, e) for e in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert sorted(one[:, 0].tolist()) == sorted(other[:, 0].tolist()) == list(range(12))


class Cut(Exception):
    pass


class Cutting(list[np.ndarray]):
    """Select documents that break off the training when they are asked for."""

    def __iter__(self) -> Iterator[np.ndarray]:
        raise Cut


def test_a_killed_training_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    fit, select = markov(60, 0), markov(10, 1)
    whole, curve = train_model(
        CONFIG, SIZE, Tokens(fit, select, []), FLOAT32, "whole", tmp_path / "whole"
    )
    with pytest.raises(Cut):
        train_model(CONFIG, SIZE, Tokens(fit, Cutting(), []), FLOAT32, "cut", tmp_path / "cut")
    again, known = train_model(
        CONFIG, SIZE, Tokens(fit, select, []), FLOAT32, "on", tmp_path / "cut"
    )
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [c["select"] for c in curve] == [c["select"] for c in known]
    untouched = untrained(CONFIG, SIZE)
    assert not torch.equal(next(untouched.parameters()), next(whole.parameters()))
    assert document_loss(whole, select, FLOAT32) < 0.9 * document_loss(untouched, select, FLOAT32)


def test_document_loss_is_transformers_own(tiny: Tiny) -> None:
    model = tiny("nano-a")
    ids = [
        e.ids
        for e in model.encode(["A short text.", "Ein längerer Text, der etwas mehr sagt.", ""])
    ]
    sums = [
        float(model.hf(input_ids=model.pad([i]), labels=model.pad([i])).loss) * (len(i) - 1)
        for i in ids[:2]
    ]
    found = document_loss(model.hf, ids, FLOAT32, budget=20)
    assert found == pytest.approx(sum(sums) / sum(len(i) - 1 for i in ids), rel=1e-5)


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "nano-b").mkdir()
    with pytest.raises(StitchLensError, match=r"nano-b.*--replace"):
        nano.train(CONFIG, tmp_path)


@pytest.mark.model
def test_the_fast_training_learns(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["nano", "train", "--fast", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    unigram, a, b = (float(x) for x in re.findall(r"(\d+\.\d{3})\b", done.stdout)[:3])
    assert max(a, b) < unigram - 0.3
    from transformers import AutoModelForCausalLM

    for side in "ab":
        model = AutoModelForCausalLM.from_pretrained(tmp_path / f"nano-{side}")
        assert model.config.model_type == "gpt_neox"
        card = (tmp_path / f"nano-{side}" / "README.md").read_text("utf-8")
        assert "python -m core nano train --fast" in card
        assert sha256_file(tmp_path / f"nano-{side}" / "model.safetensors") in card


@pytest.mark.parametrize("side", ["a", "b"])
def test_the_committed_weights_are_those_of_the_card(side: str) -> None:
    folder = MODELS / f"nano-{side}"
    card = (folder / "README.md").read_text("utf-8")
    for name in ("model.safetensors", "tokenizer.json"):
        assert f"`{name}`: `{sha256_file(folder / name)}`" in card
    assert "`python -m core nano train`" in card
    for language in PROMPTS:
        assert f"- {language}: " in card


def test_the_shipped_models_are_small() -> None:
    assert sum(p.stat().st_size for p in MODELS.rglob("*") if p.is_file()) <= 15e6


def test_transformers_opens_them_without_us() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    losses = {}
    for side in "ab":
        tokenizer = AutoTokenizer.from_pretrained(MODELS / f"nano-{side}")
        model = AutoModelForCausalLM.from_pretrained(MODELS / f"nano-{side}", dtype=torch.float32)
        ids = torch.tensor(
            [[0, *tokenizer("The history of the church and of the state.").input_ids]]
        )
        losses[side] = float(model(input_ids=ids, labels=ids).loss)
    assert max(losses.values()) < np.log(4096) / 2


def words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]{2,}", text.lower())


@pytest.fixture(scope="module")
def written(tiny: Tiny) -> dict[str, dict[str, str]]:
    """What each model writes in each language, and what one does that never learnt."""
    config = NanoConfig()
    models: dict[str, Any] = {key: tiny(key).hf for key in ("nano-a", "nano-b")}
    models["untrained"] = untrained(config, config.a).eval()
    return {
        key: nano.samples(model, tiny("nano-a").tokenizer, FLOAT32) for key, model in models.items()
    }


@pytest.mark.parametrize("language", list(PROMPTS))
def test_the_models_write_words(
    language: str, written: dict[str, dict[str, str]], corpus: Corpus
) -> None:
    """Most of what they write are words of that language's own text; what an untrained model writes
    are not."""
    label = {"English": "eng", "French": "fra", "German": "deu", "Spanish": "spa"}[language]
    known = {w for d in corpus.documents if d.label.split("/")[0] == label for w in words(d.text)}

    def share(key: str) -> float:
        text = words(written[key][language].removeprefix(PROMPTS[language]))
        return sum(w in known for w in text) / max(len(text), 1)

    assert share("nano-b") > 0.6
    assert share("nano-a") > 0.5
    assert share("untrained") < 0.4


def test_the_larger_model_reads_better(tiny: Tiny, corpus: Corpus) -> None:
    documents = corpus.split("held-out")[:60]
    ids = [e.ids for e in tiny("nano-a").encode([d.text for d in documents])]
    a, b = (document_loss(tiny(k).hf, ids, FLOAT32) for k in ("nano-a", "nano-b"))
    assert b < a - 0.1
    assert a < 4.8


def test_a_stitch_beats_its_controls_and_inverts(tiny: Tiny, corpus: Corpus) -> None:
    """Fitted afresh on a few thousand positions."""
    a, b = tiny("nano-a"), tiny("nano-b")
    gram = Gram(a.spec.d_model, b.spec.d_model)
    for k, docs in enumerate(harvest.windows(corpus.split("fit")[:128])):
        chunk = harvest.read_window(a, b, docs, [LAYERS.a], [LAYERS.b])
        keep = harvest.within(chunk, harvest.norm_limits(chunk), LAYERS)
        gram.update(chunk.h_a[LAYERS.a][keep], chunk.h_b[LAYERS.b][keep], seed=k)
    m = gram.moments()
    stitch, shuffled = (
        fit_moments(gram.moments(shuffled=s), FitConfig(metric="std")) for s in (False, True)
    )
    conditions = [
        *downstream.unpatched(),
        *downstream.stitched(stitch),
        *downstream.controls(shuffled, m.mean_a, m.mean_b),
    ]
    loss = downstream.mean_losses(
        pd.DataFrame(downstream.measure(a, b, corpus.split("held-out")[:24], LAYERS, conditions))
    )
    assert loss["b"] < loss["a"]
    for to, model in (("a_to_b", "b"), ("b_to_a", "a")):
        control = min(loss[f"mean_ablated_{model}"], loss[f"shuffled_{to}"])
        assert loss[to] - loss[model] < 0.5 * (control - loss[model]), (
            "less than half of the control's cost"
        )
    assert loss["a_to_b_to_a"] < 1.05 * loss["a"]
    assert loss["b_to_a_to_b"] < 1.06 * loss["b"], (
        "a few thousand positions; the committed stitch has a million"
    )


def test_the_committed_workspace_meets_its_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(PROJECT / "cache"))
    found = report(PAIRS["nano"])
    assert found["alignment"]["share_a"] == found["alignment"]["share_b"] == 1.0, "one tokenizer"
    for name, stitch in found["stitches"].items():
        loss = stitch["downstream"]
        assert loss["b"] < loss["a"] - 0.1, name
        assert loss["a_to_b_to_a"] < 1.05 * loss["a"], name
        assert loss["b_to_a_to_b"] < 1.05 * loss["b"], name
        assert loss["a_to_b"] < 0.8 * min(loss["mean_ablated_b"], loss["shuffled_a_to_b"]), name
        assert loss["b_to_a"] < 0.8 * min(loss["mean_ablated_a"], loss["shuffled_b_to_a"]), name
