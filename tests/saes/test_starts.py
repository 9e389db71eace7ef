"""Starts for an SAE of B: fitted encoders and decoders against hand-made truth, ratios that were
planted, the whole study on a small pair."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sae_lens import SAE
from torch import Tensor

from core.activations.gram import Gram
from core.bench import Bench
from core.errors import StitchLensError
from core.models.pairs import PairSpec
from core.saes import start_tables
from core.saes.run import start_weights
from core.saes.sae import reconstruction
from core.saes.settings import BEGINNINGS, Begin, SaeConfig, StartStudy, start_study
from core.saes.start_study import Starts, evaluate
from core.saes.starts import (
    Pairs,
    agreement,
    calibrated,
    fresh,
    mixed,
    shuffled,
    sparse_products,
    started,
    with_fitted_decoder,
    with_fitted_encoder,
)
from core.saes.train import train
from core.stitches.fit import fit_moments
from core.stitches.settings import FitConfig
from core.stitches.transfer import transfer_sae
from tests.helpers.small import stitched_bench

D_A, D_B, WIDTH, K, N = 12, 10, 20, 2, 6000


def topk(
    W_dec: Tensor,
    b_dec: Tensor,
) -> "SAE[Any]":
    """The encoder tied to unit decoder rows."""
    sae = SAE.from_dict(
        {
            "architecture": "topk",
            "d_in": W_dec.shape[1],
            "d_sae": len(W_dec),
            "k": K,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": False,
            "normalize_activations": "none",
        }
    )
    sae.load_state_dict(
        {
            "W_enc": W_dec.T.contiguous(),
            "b_enc": -W_dec @ b_dec,
            "W_dec": W_dec,
            "b_dec": b_dec,
        }
    )
    return sae.eval().requires_grad_(False)


def values(sae: Any, pairs: Pairs) -> Tensor:
    """What the encoder of an SAE of B makes of its rows, before the largest are taken."""
    return pairs.h_b @ sae.W_enc + sae.b_enc


@pytest.fixture(scope="module")
def source() -> "SAE[Any]":
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(WIDTH, D_A, generator=generator)
    return topk(torch.nn.functional.normalize(directions, dim=-1), torch.zeros(D_A))


@pytest.fixture(scope="module")
def pairs(source: "SAE[Any]") -> Pairs:
    """Rows of B that are made of what A's features do in A's rows, by directions of B's own."""
    generator = torch.Generator().manual_seed(1)
    h_a = torch.randn(N, D_A, generator=generator)
    directions = torch.randn(WIDTH, D_B, generator=generator)
    with torch.inference_mode():
        h_b = source.encode(h_a) @ directions + 3.0
    return Pairs(h_a, h_b.clone())


@pytest.fixture(scope="module")
def plain(source: "SAE[Any]", pairs: Pairs) -> "SAE[Any]":
    return started(Begin(), source, pairs, FitConfig())


def test_the_fitted_decoder_is_that_of_least_squares(plain: "SAE[Any]", pairs: Pairs) -> None:
    fitted = with_fitted_decoder(plain, pairs)
    with torch.inference_mode():
        firings = plain.encode(pairs.h_b).double()
    ones = torch.ones(N, 1, dtype=torch.float64)
    by_hand = torch.linalg.lstsq(torch.cat([firings, ones], dim=1), pairs.h_b.double()).solution

    least = (pairs.h_b - torch.cat([firings, ones], dim=1) @ by_hand).pow(2).mean()
    error = (pairs.h_b - fitted.decode(firings.float())).pow(2).mean()
    before = (pairs.h_b - plain.decode(firings.float())).pow(2).mean()
    assert least <= error < least + 0.05 * (before - least)
    assert before > 1.2 * least


def test_without_inversion_terms_the_stitch_is_two_regressions(
    source: "SAE[Any]", pairs: Pairs
) -> None:
    gram = Gram(D_A, D_B)
    gram.update(*pairs, control=False)
    lstsq = fit_moments(gram.moments(), FitConfig(method="lstsq"))
    found = started(Begin(inversion=False), source, pairs, FitConfig())
    torch.testing.assert_close(found.W_enc, transfer_sae(source, lstsq).W_enc)
    exact = started(Begin(), source, pairs, FitConfig())
    assert not torch.allclose(found.W_enc, exact.W_enc, rtol=1e-3)


def test_a_feature_that_never_fires_keeps_its_direction(plain: "SAE[Any]", pairs: Pairs) -> None:
    weights = plain.state_dict()
    silent = SAE.from_dict(plain.cfg.to_dict())
    silent.load_state_dict(weights | {"b_enc": weights["b_enc"] - 1e6 * torch.eye(WIDTH)[3]})
    fitted = with_fitted_decoder(silent.requires_grad_(False), pairs)
    torch.testing.assert_close(fitted.W_dec[3], silent.W_dec[3])
    assert not torch.allclose(fitted.W_dec[4], silent.W_dec[4])


def test_the_fitted_encoder_is_a_ridge_regression(
    source: "SAE[Any]", plain: "SAE[Any]", pairs: Pairs
) -> None:
    fitted = with_fitted_encoder(source, plain, pairs)
    with torch.inference_mode():
        firings = source.encode(pairs.h_a).double()
    centred = (pairs.h_b - pairs.h_b.mean(0)).double()
    squares = centred.T @ centred
    ridge = 1e-2 * squares.diagonal().mean() * torch.eye(D_B, dtype=torch.float64)
    by_hand = torch.linalg.inv(squares + ridge) @ centred.T @ (firings - firings.mean(0))
    torch.testing.assert_close(fitted.W_enc.double(), by_hand, rtol=1e-3, atol=1e-4)

    read = values(fitted, pairs).double()
    torch.testing.assert_close(read.mean(0), firings.mean(0), rtol=1e-3, atol=1e-4)


def test_calibrated_features_fire_as_often_and_as_strong_as_in_a(
    source: "SAE[Any]", plain: "SAE[Any]", pairs: Pairs
) -> None:
    fitted = calibrated(source, with_fitted_encoder(source, plain, pairs), pairs)
    with torch.inference_mode():
        in_a = source.encode(pairs.h_a)
    in_b = values(fitted, pairs).clamp(min=0)
    often = (in_a > 0).float().mean(0)
    torch.testing.assert_close((in_b > 0).float().mean(0), often, rtol=0, atol=2 / N)
    torch.testing.assert_close(in_b.mean(0), in_a.mean(0), rtol=1e-3, atol=1e-4)
    uncalibrated = values(plain, pairs).clamp(min=0)
    assert not torch.allclose((uncalibrated > 0).float().mean(0), often, atol=0.05)


def test_fitting_helps_what_a_stitch_alone_cannot(
    source: "SAE[Any]", plain: "SAE[Any]", pairs: Pairs
) -> None:
    begin = Begin(encoder="fitted", decoder="fitted")
    fitted = started(begin, source, pairs, FitConfig())
    apart = started(begin.model_copy(update={"source": "shuffled"}), source, pairs, FitConfig())
    explained = [
        reconstruction(sae, [pairs.h_b])["explained_variance"] for sae in (fitted, plain, apart)
    ]
    assert explained[0] > explained[1] + 0.05
    assert explained[0] > explained[2] + 0.05


def test_agreement_is_the_correlation_of_activations(
    source: "SAE[Any]", plain: "SAE[Any]", pairs: Pairs
) -> None:
    found = agreement(source, plain, pairs)
    with torch.inference_mode():
        in_a, in_b = source.encode(pairs.h_a).numpy(), plain.encode(pairs.h_b).numpy()
    for feature in (0, 7, WIDTH - 1):
        by_hand = np.corrcoef(in_a[:, feature], in_b[:, feature])[0, 1]
        assert float(found[feature]) == pytest.approx(by_hand, abs=1e-4)

    others = agreement(source, plain, shuffled(pairs))
    assert float(others.abs().max()) < 0.1 < float(found.max())


def test_mixed_keeps_what_passes(plain: "SAE[Any]") -> None:
    passing = torch.arange(WIDTH) % 2 == 0
    half = mixed(plain, passing, seed=3)
    new = fresh(plain, plain.b_dec, seed=3)
    torch.testing.assert_close(half.W_enc[:, passing], plain.W_enc[:, passing])
    torch.testing.assert_close(half.W_dec[passing], plain.W_dec[passing])
    torch.testing.assert_close(half.W_enc[:, ~passing], new.W_enc[:, ~passing])
    torch.testing.assert_close(half.W_dec[~passing], new.W_dec[~passing])
    torch.testing.assert_close(new.W_dec.norm(dim=-1), torch.ones(WIDTH))


def test_balanced_norms_leave_what_an_sae_computes(plain: "SAE[Any]", pairs: Pairs) -> None:
    mean = pairs.h_b.mean(0)
    one, two = (start_weights({}, plain, mean, 0.7, balanced) for balanced in (False, True))
    encoder, decoder = two["W_enc"].norm(dim=0), two["W_dec"].norm(dim=-1)
    torch.testing.assert_close(encoder, decoder)
    assert not torch.allclose(one["W_enc"].norm(dim=0), one["W_dec"].norm(dim=-1))

    rows = pairs.h_b[:50] * 0.7
    computed = []
    for w in (one, two):
        norms = w["W_dec"].norm(dim=-1)
        before = (rows @ w["W_enc"] + w["b_enc"]) * norms
        computed.append(before.relu() / norms @ w["W_dec"])
    torch.testing.assert_close(*computed, rtol=1e-4, atol=1e-4)


def test_sparse_products_are_counted_where_they_are_taken() -> None:
    assert sparse_products(Begin(), 10, 2, 100) == 0
    assert sparse_products(Begin(encoder="fitted"), 10, 2, 100) == 2 * 2 * 10 * 100
    assert sparse_products(Begin(decoder="fitted"), 10, 2, 100) == 2 * 2 * (2 + 10) * 100


def points(
    start: str,
    lr: float,
    seed: int,
    half: float,
    made: float = 0.0,
) -> pd.DataFrame:
    """A run whose explained variance is 1 - 2^(-step / half); a step is a FLOP."""
    step = np.arange(1, 2001)
    return pd.DataFrame(
        {
            "start": start,
            "lr": lr,
            "seed": seed,
            "step": step,
            "explained_variance": 1 - 2.0 ** (-step / half),
            "dead": 0,
            "flops": step + made,
        }
    )


def results(curves: list[pd.DataFrame]) -> pd.DataFrame:
    rows = [
        {
            "start": curve.start.iloc[0],
            "lr": curve.lr.iloc[0],
            "seed": curve.seed.iloc[0],
            "begins": 0.1,
            "explained_variance": 0.9,
            "dead": 0.0,
            "made": 30.0 if curve.start.iloc[0] == "transferred" else 0.0,
            "stopped": "",
        }
        for curve in curves
    ]
    return pd.DataFrame(rows)


def test_ratios_are_to_scratch_at_its_best_rate_the_start_included() -> None:
    runs = [
        points("scratch", 1e-3, 0, 400),
        points("scratch", 2e-3, 0, 200),
        points("transferred", 1e-3, 0, 300, made=30),
        points("transferred", 2e-3, 0, 100, made=30),
        points("scratch", 2e-3, 1, 200),
        points("transferred", 2e-3, 1, 100, made=30),
    ]
    table = pd.concat(runs)
    assert start_tables.best_rates(table) == {"scratch": 2e-3, "transferred": 2e-3}

    rows = start_tables.summary(table, results(runs)).set_index("start")
    assert rows.loc["scratch", "ratio_90"] == pytest.approx(1)
    to_90 = 100 * np.log2(10)
    assert rows.loc["transferred", "ratio_90"] == pytest.approx(
        (to_90 + 30) / (2 * to_90), rel=0.01
    )
    assert rows.loc["transferred", "seeds"] == 2
    assert rows.loc["transferred", "free"] == pytest.approx(0.5, rel=0.01)
    said = start_tables.sentence(start_tables.summary(table, results(runs)))
    assert said.startswith("The start to use is “transferred”: it came to 90% of")


def test_what_saves_nothing_is_said() -> None:
    runs = [points("scratch", 1e-3, 0, 100), points("transferred", 1e-3, 0, 300)]
    rows = start_tables.summary(pd.concat(runs), results(runs))
    assert start_tables.sentence(rows).startswith("No start saved anything")

    never = runs[0].assign(start="transferred", explained_variance=0.2)
    rows = start_tables.summary(pd.concat([runs[0], never]), results([runs[0], never]))
    assert start_tables.sentence(rows).startswith("No other start came to")
    assert np.isnan(rows.set_index("start").loc["transferred", "ratio_90"])


def test_titles_tell_beginnings_apart() -> None:
    titles = [begin.title for begin in BEGINNINGS]
    assert len(set(titles)) == len(titles)
    assert start_tables.SCRATCH[0] == "scratch"


@pytest.mark.parametrize("given", [{"rates": ["fast"]}, {"pairs": 0}, {"rates": []}, {"seeds": 0}])
def test_a_study_that_cannot_be_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(StitchLensError, match="sae starts --help"):
        start_study(given)


STUDY = StartStudy(
    beginnings=(
        Begin(source="scratch"),
        Begin(),
        Begin(least=0.3),
        Begin(encoder="fitted", decoder="fitted", balanced=True),
    ),
    rates=(2e-3, 8e-3),
    seeds=2,
    positions=3_000,
    pairs=1_000,
    batch=256,
    window=4,
)


@pytest.fixture(scope="module")
def bench(
    tiny_pair: PairSpec,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Bench]:
    with stitched_bench(tiny_pair, tmp_path_factory) as found:
        train(found, 1, SaeConfig(width=32, k=8, lr=3e-3, batch=512), 4_000)
        yield found


@pytest.fixture(scope="module")
def starts(bench: Bench) -> Starts:
    starts = Starts(bench, "L1-32", "L1-L2", STUDY, epochs=2)
    assert evaluate(starts) == "L1-L2"
    return starts


def test_every_beginning_is_tried_at_every_rate_and_then_at_its_best(starts: Starts) -> None:
    table = start_tables.runs(starts.bench.workspace, "L1-L2")
    assert len(table) == 4 * 2 + 4
    assert starts.source_config.epochs == 2
    assert set(table.start) == {begin.title for begin in STUDY.beginnings}

    rates = start_tables.best_rates(start_tables.curves(starts.bench.workspace, "L1-L2"))
    second = table.loc[table.seed == 1]
    assert dict(zip(second.start, second.lr, strict=True)) == rates


def test_a_start_costs_its_stitch_and_what_is_fitted(starts: Starts) -> None:
    carried, agreeing, fitted = (starts.cost(begin) for begin in STUDY.beginnings[1:])
    assert starts.cost(STUDY.beginnings[0]) == 0
    assert 0 < carried < agreeing
    assert fitted > agreeing

    d_a, d_b = starts.bench.pair.a.d_model, starts.bench.pair.b.d_model
    encoding = 2 * 32 * (d_a + d_b) * 1_000
    assert agreeing - carried == pytest.approx(encoding, rel=0.01)


def test_what_is_current_is_not_made_again(starts: Starts) -> None:
    workspace = starts.bench.workspace
    before = workspace.entry("sae_starts/L1-L2")
    assert evaluate(starts) == "L1-L2"
    assert workspace.entry("sae_starts/L1-L2") == before


def test_the_command_prints_which_start_to_use(starts: Starts) -> None:
    found = start_tables.record(starts.bench.workspace, "L1-L2")
    text = start_tables.as_text("L1-L2", found)
    assert found["sentence"] in text
    for begin in STUDY.beginnings:
        assert begin.title in text
    assert all(row["ratio_50"] > 0 for row in found["starts"] if "ratio_50" in row)


def test_a_kind_that_the_corpus_does_not_hold_is_refused(bench: Bench) -> None:
    study = STUDY.model_copy(update={"kinds": ("poetry",)})
    with pytest.raises(StitchLensError, match="poetry"):
        evaluate(Starts(bench, "L1-32", "L1-L2", study))
