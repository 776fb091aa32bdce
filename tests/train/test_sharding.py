"""Weights shared among ranks, seen from one of them: torch's fake group of processes answers for the others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from support.tiny_model import build_dense
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from tagmoe.losses import Objective
from tagmoe.model.upcycle import upcycle
from tagmoe.train.checkpoint import flat_parameters
from tagmoe.train.ranks import ALONE, Ranks
from tagmoe.train.sharding import gathered, local, shard, shell_of, spread


@pytest.fixture
def four() -> Iterator[Ranks]:
    """Rank 1 of 4. What it gets from the others has no meaning, but its size has."""
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=4)
    yield Ranks(1, 4, torch.device("cpu"), dist.group.WORLD)
    dist.destroy_process_group()


@pytest.mark.parametrize(("replicate", "parts"), [(1, 4), (2, 2)])
def test_each_rank_keeps_its_part_of_every_weight(four: Ranks, replicate: int, parts: int) -> None:
    model, objective = upcycle(build_dense(2), num_moe_blocks=1), Objective(4, 64)
    modules = {"transformer": model, "objective": objective}
    whole = sum(value.numel() for value in flat_parameters(modules).values())
    sizes = {name: value.shape for name, value in flat_parameters(modules).items()}
    shell = shell_of(model)
    shard(model, objective, four, precision="fp32", replicate=replicate)
    shared = flat_parameters(modules)
    assert all(isinstance(value, DTensor) for value in shared.values())
    kept = sum(local(value).numel() for value in shared.values())
    # Rows that the parts do not divide lie in the first ranks.
    assert 0.9 * whole / parts < kept < 1.1 * whole / parts
    assert gathered(shared, shared, four) == {}, "rank 0 alone gets the whole"
    for name, value in list(shared.items())[:4]:
        again = spread(torch.ones(sizes[name]), value)
        assert local(again).shape == local(value).shape
        assert torch.equal(local(again), torch.ones_like(local(again)))
    assert all(parameter.is_meta for parameter in shell.parameters())
    assert {name: p.shape for name, p in shell.named_parameters()} == {
        name.removeprefix("transformer."): size for name, size in sizes.items() if name.startswith("transformer.")
    }


def test_alone_nothing_is_asked_of_others() -> None:
    values = torch.tensor([1.0, 2.0])
    assert ALONE.sum(values) is values
    assert ALONE.mean(values, 3.0) is values
    assert ALONE.largest(1, False) == [1, 0]
    assert ALONE.from_first(lambda: "made") == "made"
    assert ALONE.all("mine") == ["mine"]
    ALONE.wait()
    tensors = {"a": values}
    assert gathered(tensors, tensors, ALONE) == tensors


def test_what_is_asked_keeps_its_shape(four: Ranks) -> None:
    assert not four.is_first
    assert four.sum(torch.ones(2, 3)).shape == (2, 3)
    assert four.mean(torch.ones(5), 2.0).shape == (5,)
    assert len(four.largest(3, True)) == 2
    four.wait()
