"""Processes that train one SAE together take the steps of one process with the whole batch."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from core.activations.recording import Recording
from core.saes import train
from core.saes.parallel import Ranks, ranks
from core.saes.settings import SaeConfig
from core.saes.train import train_sae
from core.workspace.places import PROJECT

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


def as_rank(index: int, count: int, folder: str, out: str, config: str) -> None:
    """One of `count` processes, which leaves its weights."""
    with joined(index, count, out):
        own = weights(Path(folder), SaeConfig.model_validate_json(config))
        save_file(own, Path(out) / f"rank-{index}.safetensors")


@contextmanager
def joined(index: int, count: int, out: str) -> Iterator[None]:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{out}/store", count)
    dist.init_process_group("gloo", store=store, rank=index, world_size=count)
    try:
        yield
    finally:
        dist.destroy_process_group()


def together(function: str, count: int, *words: str) -> None:
    """Call a function of this file in `count` processes, each with its number."""
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"from tests.saes.test_parallel import {function} as f; f({index}, {count}, *{words})",
            ],
            cwd=PROJECT,
            env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
        )
        for index in range(count)
    ]
    assert [process.wait(240) for process in processes] == [0] * count


def trained(folder: Path, out: Path, config: SaeConfig, count: int) -> list[dict[str, Any]]:
    """The weights with which each of `count` processes ends."""
    together("as_rank", count, str(folder), str(out), config.model_dump_json())
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
    together("in_turn", 2, str(tmp_path))
    assert (tmp_path / "order").read_text() == "01"


def in_turn(index: int, count: int, out: str) -> None:
    with joined(index, count, out), ranks().first_alone(), Path(out, "order").open("a") as file:
        file.write(str(index))
