"""The processes (ranks) that train together, as torchrun starts them. One process is the case of a single rank.

Rank 0 alone writes, prints and draws. What the loop decides by (losses, a signal, the time of a save) is agreed on by
all ranks, so that none waits for another that has left the loop.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from tagmoe.errors import UsageError

T = TypeVar("T")
CPU = torch.device("cpu")
LONGEST_WAIT = timedelta(days=30)
"""For what rank 0 does while the others wait: training the small stages, writing the model."""
LONGEST_SAVE = timedelta(hours=1)
"""For the slowest rank to write its part of a checkpoint."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together. device: where it computes. waiting: a group of gloo whose members
    may wait for days. saving: one for the thread that writes checkpoints. Both are None for a process by itself."""

    rank: int = 0
    count: int = 1
    device: torch.device = CPU
    waiting: dist.ProcessGroup | None = None
    saving: dist.ProcessGroup | None = None

    @property
    def is_alone(self) -> bool:
        """Whether this process has joined no others. Nothing is sharded then, and nothing is asked of anyone."""
        return self.waiting is None

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes and prints."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, on its device. The tensor itself stays."""
        if self.is_alone:
            return tensor
        total = tensor.detach().to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(tensor.device)

    def mean(self, values: Tensor, weight: float) -> Tensor:
        """The mean of a vector over all ranks, each of which counts by its weight; zeros where all weights are 0."""
        if self.is_alone:
            return values
        total = self.sum(torch.cat([values * weight, values.new_tensor([weight])]))
        return total[:-1] / total[-1].clamp_min(torch.finfo(total.dtype).tiny)

    def largest(self, *values: int) -> list[int]:
        """The largest value of any rank, place by place."""
        if self.is_alone:
            return list(values)
        found = torch.tensor(values, dtype=torch.int64, device=self.device)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return [int(value) for value in found.tolist()]

    def from_first(self, make: Callable[[], T]) -> T:
        """What rank 0 makes. The others wait for a copy of it."""
        if self.is_alone:
            return make()
        held: list[T | None] = [make() if self.is_first else None]
        dist.broadcast_object_list(held, src=0, group=self.waiting)
        made: T = held[0]  # type: ignore[assignment]
        return made

    def all(self, value: T) -> list[T]:
        """The values of all ranks, in their order. All must ask together."""
        if self.is_alone:
            return [value]
        held: list[T | None] = [None] * self.count
        dist.all_gather_object(held, value, group=self.waiting)
        return held  # type: ignore[return-value]

    def wait(self) -> None:
        """Wait until every rank is here."""
        if not self.is_alone:
            dist.barrier(group=self.waiting)


ALONE = Ranks()


def processes() -> int:
    """The number of processes that train together, as torchrun says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def choose_device(wanted: str, local_rank: int = 0) -> torch.device:
    """The device of the setting `device`. auto: a GPU where there is one. Raises UsageError where too few are."""
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    found = torch.cuda.device_count()
    if local_rank >= found:
        raise UsageError(
            f"The setting 'device' is {wanted!r}, but process {local_rank} of this machine finds {found} GPUs; start "
            "as many processes a machine as it has GPUs, or set 'device' to 'cpu'."
        )
    return torch.device("cuda", local_rank)


@contextmanager
def ranks_of(device: str) -> Iterator[Ranks]:
    """Join the other processes that torchrun has started. device: the setting. Without torchrun: a single rank."""
    count, rank = processes(), int(os.environ.get("RANK", "0"))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if count == 1:
        yield Ranks(device=chosen)
        return
    # NCCL for tensors on a GPU, gloo for those on the host and for what ranks wait for.
    dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
    waiting = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
    ranks = Ranks(rank, count, chosen, waiting, dist.new_group(backend="gloo", timeout=LONGEST_SAVE))
    # After an exception the group is left as it is: another rank may be inside a collective, and this one is to end.
    yield ranks
    # A rank that ends early would take the connections of the others with it.
    ranks.wait()
    dist.destroy_process_group()
