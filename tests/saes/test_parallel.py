"""Processes that train one SAE together take the steps of one process with the whole batch."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file

from core.activations.recording import Recording
from core.saes import train
from core.saes.parallel import Ranks, ranks
from core.saes.settings import SaeConfig
from core.saes.train import train_sae

D, ROWS = 12, 1500


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of a few directions and noise, in three shards."""
    place = tmp_path_factory.mktemp("recording")
    g = torch.Generator().manual_seed(0)
    directions = torch.randn(20, D, generator=g)
    for k in range(3):
        strength = torch.rand(ROWS // 3, 20, generator=g).pow(8) * 5
        rows = strength @ directions + 0.1 * torch.randn(ROWS // 3, D, generator=g) + 1
        save_file({"h": rows}, place / f"shard-{k:03d}.safetensors")
    return place


def setting(**change: Any) -> SaeConfig:
    plain = {"width": 24, "k": 3, "epochs": 4, "lr": 3e-3, "batch": 64}
    return SaeConfig.model_validate(plain | change)


def weights(folder: Path, config: SaeConfig) -> dict[str, torch.Tensor]:
    sae = train_sae(Recording(folder), "h", config, {"model_name": "b"})
    return {name: value.detach().contiguous() for name, value in sae.named_parameters()}


def as_rank(index: int, count: int, folder: Path, out: Path, config: SaeConfig) -> None:
    """One of `count` processes, which leaves its weights."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = dist.FileStore(str(out / "store"), count)
    dist.init_process_group("gloo", store=store, rank=index, world_size=count)
    try:
        save_file(weights(folder, config), out / f"rank-{index}.safetensors")
    finally:
        dist.destroy_process_group()


def trained(folder: Path, out: Path, config: SaeConfig, count: int) -> list[dict[str, Any]]:
    """The weights with which each of `count` processes ends."""
    mp.spawn(as_rank, (count, folder, out, config), nprocs=count)  # type: ignore[no-untyped-call]
    return [load_file(out / f"rank-{index}.safetensors") for index in range(count)]


@pytest.mark.parametrize(
    ("count", "change"),
    [
        (2, {}),
        (3, {}),  # 64 rows are shared as 22, 21, 21
        (2, {"auxiliary": 1 / 32}),
    ],
)
def test_the_steps_are_those_of_one_process(
    folder: Path, tmp_path: Path, count: int, change: dict[str, Any]
) -> None:
    config = setting(**change)
    alone = weights(folder, config)
    each = trained(folder, tmp_path, config, count)
    for name, value in alone.items():
        assert torch.allclose(each[0][name], value, atol=1e-5), name
        for other in each[1:]:
            assert torch.equal(other[name], each[0][name]), name


class Apart(Ranks):
    """A rank that reads its share of each batch and keeps its gradient to itself."""

    def own(self, rows: torch.Tensor) -> torch.Tensor:
        return rows[::2]


def test_a_rank_that_kept_its_gradient_to_itself_would_be_seen(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = weights(folder, setting())
    monkeypatch.setattr(train, "ranks", Apart)
    apart = weights(folder, setting())
    assert any(not torch.allclose(apart[name], alone[name], atol=1e-3) for name in alone)


def test_one_process_waits_for_nobody() -> None:
    assert ranks() == Ranks(0, 1)
    rows = torch.arange(10.0)[:, None]
    assert torch.equal(Ranks().own(rows), rows)
    shares = [Ranks(index, 3).own(rows) for index in range(3)]
    assert sorted(torch.cat(shares)[:, 0].tolist()) == rows[:, 0].tolist()
    with Ranks().first_alone():
        Ranks().wait()


def test_the_first_is_alone(tmp_path: Path) -> None:
    mp.spawn(in_turn, (2, tmp_path), nprocs=2)  # type: ignore[no-untyped-call]
    assert (tmp_path / "order").read_text() == "01"


def in_turn(index: int, count: int, out: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(str(out / "store"), count)
    dist.init_process_group("gloo", store=store, rank=index, world_size=count)
    try:
        with ranks().first_alone(), (out / "order").open("a") as file:
            file.write(str(index))
    finally:
        dist.destroy_process_group()
