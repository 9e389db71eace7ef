"""One SAE trained by all processes that torchrun started: each reads its rows of every batch, and
their gradients are added up, so that every process takes the step of the whole batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from sae_lens import SAETrainer


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; one alone where torchrun started none."""

    index: int = 0
    count: int = 1

    def own(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
        """The rows of a batch that this process reads."""
        return rows[self.index :: self.count]

    def add_gradients(
        self,
        sae: torch.nn.Module,
        batch: int,
    ) -> None:
        """From now on, gradients of `sae` are those of a whole batch, wherever its rows were read.

        A loss is a mean over rows, so a process counts by how many it has.
        """
        if self.count == 1:
            return
        share = len(range(self.index, batch, self.count)) / batch

        def add_up(parameter: Tensor) -> None:
            assert parameter.grad is not None, "the hook follows a gradient"
            parameter.grad.mul_(share)
            torch.distributed.all_reduce(parameter.grad)

        for parameter in sae.parameters():
            parameter.register_post_accumulate_grad_hook(add_up)

    def agree_on_dead(self, trainer: "SAETrainer[Any, Any]") -> None:
        """A feature is as recently active as in the process that saw it last."""
        if self.count > 1:
            torch.distributed.all_reduce(
                trainer.n_forward_passes_since_fired, torch.distributed.ReduceOp.MIN
            )

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            torch.distributed.barrier()

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first process does what follows before the others, which find it done."""
        if self.index > 0:
            self.wait()
        yield
        if self.index == 0:
            self.wait()


def ranks() -> Ranks:
    """The processes that have joined one another, see `core.activations.ranks.watched`."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return Ranks()
    return Ranks(distributed.get_rank(), distributed.get_world_size())
