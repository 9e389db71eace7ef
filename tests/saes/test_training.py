"""Training an SAE of B from a chosen start: runs that resume and diverge, FLOPs by hand, savings
that were planted."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from safetensors.torch import save_file
from scipy import stats
from torch import Tensor
from typer.testing import CliRunner

from core import jobs, statistics
from core.activations.recording import Recording
from core.bench import Bench
from core.cli.main import app
from core.errors import StitchLensError
from core.models.pairs import PairSpec
from core.saes import flops
from core.saes import run as sae_run
from core.saes import settings as sae_settings
from core.saes import tables as sae_tables
from core.saes import train as sae_train
from core.saes.measure import SaeTraining, evaluate, under_way
from core.saes.run import Run, new_trainer, read_run, start_weights
from core.saes.sae import load_sae
from core.saes.settings import (
    STARTS,
    RunConfig,
    SaeConfig,
    TrainingSet,
    check_fits,
    memory,
    memory_as_markdown,
    training_set,
)
from core.workspace.places import PROJECT
from tests.helpers.small import stitched_bench

D, WIDTH, K, BATCH = 16, 48, 4, 128
SMALL = RunConfig(
    start="scratch", width=WIDTH, k=K, positions=40 * BATCH, batch=BATCH, lr=5e-3, window=5
)


@pytest.fixture(scope="module")
def dictionary() -> Tensor:
    return torch.nn.functional.normalize(
        torch.randn(WIDTH, D, generator=torch.Generator().manual_seed(1)), dim=-1
    )


@pytest.fixture(scope="module")
def rows(dictionary: Tensor) -> Tensor:
    """[6000, D]: K of the dictionary's directions at a time, about a mean that is not zero."""
    g = torch.Generator().manual_seed(2)
    which = torch.rand(6000, WIDTH, generator=g).topk(K).indices
    acts = torch.zeros(6000, WIDTH).scatter_(1, which, 1 + torch.rand(6000, K, generator=g))
    return acts @ dictionary + 0.5


def recorded(rows: Tensor, folder: Path) -> Recording:
    for i, part in enumerate(rows.split(700)):
        save_file({"h": part.contiguous()}, folder / f"shard-{i:05d}.safetensors")
    return Recording(folder)


@pytest.fixture
def recording(rows: Tensor, tmp_path: Path) -> Recording:
    (tmp_path / "rows").mkdir()
    return recorded(rows, tmp_path / "rows")


def trained(
    folder: Path, recording: Recording, config: RunConfig = SMALL, given: object = None
) -> sae_run.RunState:
    folder.mkdir(exist_ok=True)
    held_out = [next(recording.epoch(1000, 9, ("h",)))[0]]
    return Run(folder, config, D).train(recording, given, {"model_name": "b"}, held_out)  # type: ignore[arg-type]


def test_a_run_learns_and_keeps_an_sae(recording: Recording, rows: Tensor, tmp_path: Path) -> None:
    state = trained(tmp_path / "run", recording)
    assert state.steps == 40
    assert state.explained_variance[-5:].mean() > state.explained_variance[:2].mean() + 0.2
    sae = load_sae(tmp_path / "run" / "sae", D)
    error = (sae.decode(sae.encode(rows)) - rows).pow(2).sum() / (rows - rows.mean(0)).pow(2).sum()
    assert 1 - float(error) == pytest.approx(state.result["explained_variance"], abs=0.03)
    torch.testing.assert_close(sae.W_dec.norm(dim=-1), torch.ones(WIDTH))
    assert sum(state.result["turning"]) == pytest.approx(state.result["frac_alive"] * WIDTH)
    assert not (tmp_path / "run" / "state.safetensors").exists()
    again = trained(tmp_path / "run", recording)
    assert again.result == state.result, "what is done is not done again"


def test_a_killed_run_goes_on_to_the_same_end(
    recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SMALL.model_copy(update={"auxiliary": 1.0})
    whole = trained(tmp_path / "whole", recording, config)
    monkeypatch.setattr(sae_run, "SAVE_SECONDS", -1.0)
    advance = sae_run.Progress.advance

    def killed(self: sae_run.Progress, n: float, total: float | None = None) -> None:
        advance(self, n, total)
        if self._bar.n == 17 * BATCH:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sae_run.Progress, "advance", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "killed", recording, config)
    between = read_run(tmp_path / "killed")
    assert between is not None
    assert between.steps == 16
    assert not between.result
    resumed = trained(tmp_path / "killed", recording, config)
    for name in sae_run.CURVE:
        np.testing.assert_array_equal(resumed.curve[name], whole.curve[name])
    one, two = (load_sae(tmp_path / x / "sae", D) for x in ("whole", "killed"))
    torch.testing.assert_close(one.W_dec, two.W_dec, rtol=0, atol=0)


def test_an_unreadable_state_is_said(recording: Recording, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state.safetensors").write_bytes(b"nothing")
    with pytest.raises(StitchLensError, match="unreadable state"):
        trained(tmp_path / "run", recording)


def test_a_run_that_diverges_keeps_its_last_good_state(
    rows: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sae_run, "SAVE_SECONDS", -1.0)
    (tmp_path / "rows").mkdir()
    broken = rows.clone()
    broken[torch.randperm(6000, generator=torch.Generator().manual_seed(0))[:3]] = float("nan")
    recording = recorded(broken, tmp_path / "rows")
    monkeypatch.setattr(Recording, "epoch", _mean_of_the_good(Recording.epoch, rows))
    (tmp_path / "run").mkdir()
    state = Run(tmp_path / "run", SMALL, D).train(recording, None, {}, [rows[:500]])
    assert "diverged" in state.result["stopped"]
    assert "loss nan" in state.result["stopped"]
    assert 0 < state.steps == state.result["steps"] < SMALL.steps
    sae = load_sae(tmp_path / "run" / "sae", D)
    assert torch.isfinite(sae.W_dec).all()
    assert np.isfinite(state.curve["error"]).all()


def _mean_of_the_good(epoch: object, rows: Tensor) -> object:
    """The recording's mean and scale are taken from rows without a fault; its batches are as they
    are."""

    def read(
        self: Recording, batch: int, seed: int, names: tuple[str, ...]
    ) -> Iterator[tuple[Tensor, ...]]:
        if batch > 5000:
            return iter([(rows,)])
        return epoch(self, batch, seed, names)  # type: ignore[operator]

    return read


def test_a_learning_rate_that_is_too_high_is_said(recording: Recording, tmp_path: Path) -> None:
    state = trained(tmp_path / "run", recording, SMALL.model_copy(update={"lr": 500.0}))
    assert "use a learning rate below 500" in state.result["stopped"]
    assert torch.isfinite(load_sae(tmp_path / "run" / "sae", D).W_dec).all()


def test_starts_of_one_seed_see_the_same_rows(recording: Recording, tmp_path: Path) -> None:
    scratch = trained(tmp_path / "one", recording)
    given = load_sae(tmp_path / "one" / "sae", D)
    other = trained(
        tmp_path / "two", recording, SMALL.model_copy(update={"start": "transferred"}), given
    )
    np.testing.assert_array_equal(scratch.curve["variance"], other.curve["variance"])
    further = trained(tmp_path / "three", recording, SMALL.model_copy(update={"seed": 1}))
    assert (scratch.curve["variance"] != further.curve["variance"]).any()
    assert other.explained_variance[0] > scratch.explained_variance[:3].mean() + 0.2, (
        "it starts where the other ended"
    )
    assert other.result["cosine"] > scratch.result["cosine"], "and turns less"


def test_a_given_sae_starts_as_it_is(recording: Recording, rows: Tensor, tmp_path: Path) -> None:
    trained(tmp_path / "run", recording)
    given, scale = load_sae(tmp_path / "run" / "sae", D), 0.37
    trainer = new_trainer(D, WIDTH, K, BATCH, 1, 1e-3, 0.0, 5, 0)
    scratch = {n: p.detach().clone() for n, p in trainer.sae.named_parameters()}
    trainer.sae.load_state_dict(start_weights(scratch, given, rows.mean(0), scale))
    torch.testing.assert_close(
        trainer.sae(rows[:200] * scale) / scale,
        given.decode(given.encode(rows[:200])),
        rtol=1e-4,
        atol=1e-4,
    )
    with torch.no_grad():
        given.W_dec.mul_(3.0)
    rescaled = start_weights(scratch, given, rows.mean(0), scale)
    torch.testing.assert_close(rescaled["W_dec"].norm(dim=-1), torch.ones(WIDTH))
    torch.testing.assert_close(rescaled["W_enc"], given.W_enc * 3.0)
    own = start_weights(scratch, None, rows.mean(0), scale)
    at_mean = rows.mean(0) * scale @ own["W_enc"] + own["b_enc"]
    torch.testing.assert_close(at_mean, torch.zeros(WIDTH), atol=1e-5, rtol=0)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(StitchLensError, match="k at most the width"):
        check_fits(D, SMALL.model_copy(update={"width": 2}))
    with pytest.raises(StitchLensError, match="one batch"):
        check_fits(D, SMALL.model_copy(update={"positions": 5}))
    with pytest.raises(StitchLensError, match="GB of memory") as refused:
        check_fits(D, SMALL.model_copy(update={"width": 10**9}))
    most = int(str(refused.value).split("a width up to ")[1].rstrip(".").replace(",", ""))
    check_fits(D, SMALL.model_copy(update={"width": int(0.9 * most)}))
    assert memory(2 * D, SMALL.width, SMALL.batch) > memory(D, SMALL.width, SMALL.batch)


def test_the_page_shows_the_plan_of_memory() -> None:
    assert memory_as_markdown() in (PROJECT / "docs" / "scale.md").read_text("utf-8")


def test_flops_by_hand() -> None:
    assert flops.sae_step(D, WIDTH, K) == 12 * D * WIDTH, (
        "two products forward, four backward, two FLOPs a term"
    )
    assert flops.sae_step(D, WIDTH, K, dead=True) == 18 * D * WIDTH, (
        "one more decoding, and its two gradients"
    )
    forward, weights, inner = 4, 4, 2
    assert flops.adam_stitch(5, 7, 100, 3) == (forward + weights + inner) * 2 * 5 * 7 * 100 * 3
    reading = 2 * (5 + 7 + 1) ** 2  # narrower than a block: what lies below the diagonal, too
    more = flops.exact_stitch(5, 7, 1100, 4) - flops.exact_stitch(5, 7, 100, 4)
    assert more == 1000 * reading
    a_round = flops.exact_stitch(5, 7, 100, 6) - flops.exact_stitch(5, 7, 100, 5)
    assert a_round >= 2 * (9 * 5**3 + 9 * 7**3), "two solves, each with eigenvectors of both sides"
    x = torch.eye(6) + 0.1
    assert flops.counted(lambda: torch.linalg.eigh(x)) == 9 * 6**3
    assert flops.counted(lambda: torch.linalg.cholesky(x)) == 6**3 // 3
    assert flops.counted(lambda: torch.linalg.solve_triangular(x, x[:, :2], upper=True)) == 36 * 2
    assert flops.counted(lambda: torch.cholesky_solve(x[:, :2], x)) == 2 * 36 * 2


def planted(
    speed: dict[str, float], seeds: int = 3, widths: tuple[int, ...] = (64,), noise: float = 0.0
) -> pd.DataFrame:
    """Curves 1 - exp(-speed * step), a FLOP a width and step."""
    rng, steps, out = np.random.default_rng(0), np.arange(1, 201), []
    for width in widths:
        for start, rate in speed.items():
            for seed in range(seeds):
                fast = rate * np.exp(noise * rng.normal())
                mse = np.exp(-fast * steps / 50)
                out.append(
                    pd.DataFrame(
                        {
                            "start": start,
                            "width": width,
                            "seed": seed,
                            "auxiliary": 0.0,
                            "step": steps,
                            "mse": mse,
                            "explained_variance": 1 - mse,
                            "dead": 0,
                            "flops": 1.0 * width * steps,
                        }
                    )
                )
    return pd.concat(out, ignore_index=True)


def test_flops_to_a_threshold() -> None:
    x, y = np.array([10.0, 20.0, 30.0, 40.0]), np.array([0.0, 0.3, 0.6, 0.9])
    assert sae_tables.flops_to(x, y, 0.45) == pytest.approx(25.0)
    assert sae_tables.flops_to(x, y, 0.05) == 10.0, "above it from the first point"
    assert np.isnan(sae_tables.flops_to(x, y, 0.95))


def test_savings_that_were_planted() -> None:
    table = planted({"scratch": 1.0, "transferred": 2.0})
    found = sae_tables.savings(table, shares=(0.5, 0.9))
    np.testing.assert_allclose(found.ratio, 0.5, rtol=0.05)
    np.testing.assert_allclose(found.low, found.ratio, rtol=1e-9)
    assert (found.reached == 3).all()
    end = 1 - np.exp(-np.arange(180, 201) / 50).mean()
    assert found.threshold.iloc[1] == pytest.approx(0.9 * end, abs=1e-3)
    paid = sae_tables.savings(sae_tables.with_stitch(table, 64 * 50.0), shares=(0.9,))
    steps = -50 * np.log(1 - 0.9 * end)
    assert paid.ratio.iloc[0] == pytest.approx((steps / 2 + 50) / steps, rel=0.03), (
        "the stitch is paid for"
    )
    slow = sae_tables.savings(planted({"scratch": 1.0, "transferred": 0.2}), shares=(0.9,))
    assert slow.ratio.isna().all()
    assert slow.reached.iloc[0] == 0
    assert sae_tables.savings(planted({"scratch": 1.0})).empty


def test_intervals_over_seeds() -> None:
    table = planted({"scratch": 1.0, "transferred": 2.0}, seeds=5, noise=0.2)
    row = sae_tables.savings(table, shares=(0.9,)).iloc[0]
    assert row.low < row.ratio < row.high
    logs = np.array([0.1, 0.4, 0.3])
    low, high = stats.t.interval(0.95, 2, loc=logs.mean(), scale=stats.sem(logs))
    assert statistics.half_width(logs) == pytest.approx((high - low) / 2)
    assert np.isnan(statistics.half_width(logs[:1]))


def test_the_sentence_says_both_ways() -> None:
    good = planted({"scratch": 1.0, "transferred": 2.0}, noise=0.02)
    bad = planted({"scratch": 1.0, "transferred": 0.8}, noise=0.02, widths=(32,))
    open_ = planted({"scratch": 1.0, "transferred": 1.0}, noise=0.1, widths=(8,))
    never = planted({"scratch": 1.0, "transferred": 0.1}, widths=(16,))
    said = sae_tables.sentence(pd.concat([good, bad, open_, never]))
    assert "90% of the final explained variance" in said
    assert "took 0.5" in said
    assert "at 64 features of the FLOPs" in said
    assert "a transferred start saved nothing" in said
    assert "one from scratch times 1." in said
    assert "at 32 features" in said
    assert "not certain that anything was saved with" in said
    assert "at 8 features" in said
    assert "not reached at 16 features" in said
    assert "no run" in sae_tables.sentence(planted({"scratch": 1.0}))


def test_the_law_of_a_planted_frontier() -> None:
    steps = np.unique(np.geomspace(1, 5000, 60).round())
    one = pd.concat(
        [
            pd.DataFrame(
                {
                    "start": start,
                    "width": width,
                    "seed": seed,
                    "auxiliary": 0.0,
                    "step": steps,
                    "flops": width * steps,
                    "mse": a * (width * steps) ** -0.2,
                    "explained_variance": 0.5,
                }
            )
            for start, a in (("scratch", 3.0), ("transferred", 2.0))
            for width in (8, 16)
            for seed in (0, 1)
        ]
    )
    points, laws = sae_tables.frontier(one)
    assert laws["scratch"]["beta"] == pytest.approx(0.2, abs=0.01)
    assert laws["scratch"]["A"] == pytest.approx(3.0, rel=0.1)
    assert laws["transferred"]["A"] == pytest.approx(2.0, rel=0.1)
    assert laws["scratch"]["beta_low"] <= laws["scratch"]["beta"] <= laws["scratch"]["beta_high"]
    here = points.loc[points.start == "scratch"]
    fitted: Any = stats.linregress(np.log(here.flops), np.log(here.mse))
    assert laws["scratch"]["beta"] == pytest.approx(-fitted.slope)
    assert laws["scratch"]["A"] == pytest.approx(np.exp(fitted.intercept))
    single = sae_tables.frontier(one.loc[one.seed == 0])[1]
    assert "beta_low" not in single["scratch"], "no interval from one seed"
    apart = sae_tables.with_stitch(one, 1e9)
    assert sae_tables.frontier(apart)[1] == {}, "no FLOPs that both starts have"


@pytest.fixture(scope="module")
def bench(tiny_pair: PairSpec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with stitched_bench(tiny_pair, tmp_path_factory) as found:
        sae_train.train(found, 1, SaeConfig(width=32, k=8, lr=3e-3, batch=512), 4_000)
        yield found


TINY = TrainingSet(
    widths=(32, 64),
    seeds=2,
    positions=4_000,
    stitch_positions=3_000,
    source_positions=4_000,
    batch=256,
    window=4,
)


@pytest.fixture(scope="module")
def made(bench: Bench) -> SaeTraining:
    training = SaeTraining(bench, "L1-32", "L1-L2", TINY)
    assert evaluate(training) == "L1-L2"
    return training


def test_a_set_is_kept_and_not_made_again(
    made: SaeTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws = made.bench.workspace
    results = sae_tables.results(ws, "L1-L2")
    assert len(results) == 2 * 4 + 2 * 2 + 2 * 2, (
        "four starts, two with an auxiliary loss, two again with a second seed"
    )
    assert results.explained_variance.notna().all()
    curves = sae_tables.curves(ws, "L1-L2")
    assert curves.groupby("run").step.max().eq(TINY.positions // TINY.batch).all()
    plain = ws.table("sae_curves/L1-L2")
    stitch = sae_tables.costs(ws, "L1-L2")["stitch"]
    for start, cost in (("scratch", 0.0), ("transferred", stitch["exact"]), ("random stitch", 0.0)):
        paid = (curves.flops - plain.flops)[curves.start == start]
        np.testing.assert_allclose(paid, cost, rtol=1e-4)
    one = plain.loc[
        (plain.start == "scratch")
        & (plain.width == 32)
        & (plain.auxiliary == 0)
        & (plain.seed == 0)
    ]
    d = made.bench.pair.b.d_model
    np.testing.assert_allclose(one.flops, 12 * d * 32 * TINY.batch * one.step, rtol=1e-5)
    monkeypatch.setattr(SaeTraining, "train", lambda self: pytest.fail("made again"))
    assert evaluate(made) == "L1-L2"
    found = sae_tables.record(ws, "L1-L2")
    json.dumps(found, allow_nan=False)
    assert sae_tables.as_text("L1-L2", found).count("\n") >= len(found["runs"])
    under = under_way(made.bench.pair.key, "L1-L2")
    assert under.run.nunique() == len(results)


def test_a_set_that_diverges_at_once_is_kept_and_said(bench: Bench) -> None:
    config = TINY.model_copy(
        update={"widths": (32,), "starts": ("scratch",), "seeds": 1, "auxiliary": 0.0, "lr": 900.0}
    )
    assert evaluate(SaeTraining(bench, "L1-32", "L1-L2", config, "blown")) == "blown"
    assert sae_tables.curves(bench.workspace, "blown").empty
    found = sae_tables.record(bench.workspace, "blown")
    assert "diverged at step 1" in sae_tables.as_text("blown", found)
    assert "no run" in found["sentence"]


def test_turning_covers_every_active_feature(made: SaeTraining) -> None:
    found = sae_tables.turning(made.bench.workspace, "L1-L2", 64)
    np.testing.assert_allclose(found.groupby("start").share.sum(), 1.0, rtol=1e-5)
    assert set(found.start) == set(STARTS)


def test_two_processes_share_the_runs(bench: Bench) -> None:
    config = TINY.model_copy(
        update={"widths": (32,), "starts": ("scratch",), "seeds": 2, "auxiliary": 0.0, "lr": 1e-3}
    )
    training = SaeTraining(bench, "L1-32", "L1-L2", config, "shared")
    first = next(iter(training.runs))
    first.parent.mkdir(parents=True, exist_ok=True)
    other = FileLock(f"{first}.lock")
    other.acquire()
    done: list[int] = []
    worker = threading.Thread(target=lambda: done.append(len(training.train())))
    worker.start()
    second = list(training.runs)[1]
    for _ in range(600):
        if (second / "done.safetensors").exists():
            break
        worker.join(0.1)
    assert (second / "done.safetensors").exists(), "it goes round what another process is at"
    assert read_run(first) is None
    other.release()
    worker.join(60)
    assert done == [2]


def test_layers_and_names_have_to_fit(bench: Bench) -> None:
    with pytest.raises(StitchLensError, match="name"):
        SaeTraining(bench, "L1-32", "L1-L2", TINY, "../out")
    with pytest.raises(StitchLensError, match=r"widths 'a,b'"):
        sae_settings.parsed_widths("a,b")
    for given, said in (
        ({"widths": [0]}, r"widths\.0 = 0"),
        ({"starts": ["nowhere"]}, "starts"),
        ({"lr": -1.0}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"seeds": 0}, "seeds"),
        ({"starts": []}, "starts"),
    ):
        with pytest.raises(StitchLensError, match=said):
            training_set(given)


def test_a_job_that_cannot_be_is_not_started(nano_home: Path) -> None:
    for name, widths, said in (
        ("wide", "1000000000", "GB of memory"),
        ("a b", "64", "name"),
        ("L2-L3", "64", "a name that is free"),
        ("thin", "8", "k = 16 of 8"),
        ("none", "", "widths ''"),
    ):
        with pytest.raises(StitchLensError, match=said):
            jobs.start("nano", "sae train", sae="L2-1024", stitch="L2-L3", name=name, widths=widths)
    assert jobs.latest("nano") is None


def test_the_command_line_refuses_in_a_sentence(nano_home: Path) -> None:
    runner = CliRunner()
    for options, said in (
        (["--widths", "many"], "widths 'many'"),
        (["--starts", "there"], "starts"),
        (["--sae", "none"], "none"),
        (["--widths", "8"], "k = 16 of 8 features"),
        (["--lr", "0"], "lr"),
    ):
        result = runner.invoke(app, ["sae", "train", "nano", *options])
        assert result.exit_code == 2, options
        assert said in result.output + result.stderr
        assert "Traceback" not in result.output
