"""What several ranks do, in a group of one: sharding, saves by parts and agreements run as among many, in no time."""

from __future__ import annotations

import errno
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from support.failing_disk import small_files
from support.tiny_training import train_quietly
from support.training_runs import metrics
from torch import Tensor

from tagmoe.config import RunConfig
from tagmoe.errors import CheckpointError, TrainingError, UsageError
from tagmoe.train import ranks as ranks_module
from tagmoe.train import recipe
from tagmoe.train.checkpoint import list_checkpoints
from tagmoe.train.ranks import Ranks, choose_device, ranks_of
from tagmoe.train.shared_checkpoint import agreed, is_shared, save_parts

Make = Callable[..., RunConfig]
RUN: dict[str, Any] = {
    "base": {"steps": 0},
    "unified": {"steps": 2},
    "optimizer": {"name": "adamw", "lr": 1e-3},
    "save_every": 1,
    "keep_checkpoints": 2,
}


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ranks]:
    """One rank of one, which has joined a group all the same. Runs of this test take it."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    ranks = Ranks(0, 1, torch.device("cpu"), dist.group.WORLD, dist.group.WORLD)

    @contextmanager
    def given(_: str) -> Iterator[Ranks]:
        yield ranks

    monkeypatch.setattr(recipe, "ranks_of", given)
    yield ranks
    dist.destroy_process_group()


def tensors_of(model: Path) -> dict[str, Tensor]:
    files = [*model.rglob("diffusion_pytorch_model.safetensors"), *model.glob("*.safetensors")]
    return {f"{file.name}/{name}": value for file in files for name, value in load_file(file).items()}


def assert_near(model: Path, other: Path) -> None:
    mine, theirs = tensors_of(model), tensors_of(other)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        # They are saved in bf16.
        torch.testing.assert_close(mine[name].float(), value.float(), rtol=8e-3, atol=1e-4)


def test_a_sharded_run_trains_saves_and_goes_on_in_any_number_of_processes(joined: Ranks, config: Make) -> None:
    """With moments in 8 bits, whose scales are sharded as well."""
    changes = RUN | {"optimizer": {"name": "adamw", "lr": 1e-3, "states": "8bit"}}
    sharded, plain = config("sharded", **changes), config("plain", **changes)
    model = train_quietly(sharded)
    checkpoints = list_checkpoints(Path(sharded.output_dir) / "checkpoints" / "unified")
    assert [path.name for path in checkpoints] == ["00000001", "00000002"]
    assert all(is_shared(path) for path in checkpoints)
    assert_near(model, alone(plain))
    for run in (sharded, plain):
        expected, steps = tensors_of(Path(run.output_dir) / "model"), metrics(run)
        shutil.rmtree(Path(run.output_dir) / "checkpoints" / "unified" / "00000002")
        again = tensors_of(train_quietly(run, resume=True))
        near = {"rtol": 0, "atol": 0} if run is sharded else {"rtol": 8e-3, "atol": 1e-4}
        for name, value in expected.items():
            torch.testing.assert_close(again[name].float(), value.float(), **near)
        for mine, theirs in zip(metrics(run), steps, strict=True):
            numbers = {name: value for name, value in theirs.items() if name != "stage"}
            assert {name: mine[name] for name in numbers} == pytest.approx(numbers, rel=1e-4, abs=1e-5)


def alone(run: RunConfig) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "ranks_of", _alone)
        return train_quietly(run)


@contextmanager
def _alone(_: str) -> Iterator[Ranks]:
    yield Ranks()


@pytest.mark.slow_but_first
@pytest.mark.parametrize("changes", [{"parameters": "moe"}, {}], ids=["moe", "all"])
def test_a_start_that_is_read_by_parts_trains_as_one_that_is_read_whole(
    changes: dict[str, Any], joined: Ranks, config: Make, components: str
) -> None:
    runs = [config(name, start=components, **RUN, **changes) for name in ("parts", "whole")]
    assert_near(train_quietly(runs[0]), alone(runs[1]))


def test_a_damaged_part_and_another_model_are_named(
    joined: Ranks, config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config("damaged", **RUN)
    train_quietly(run)
    newest = list_checkpoints(Path(run.output_dir) / "checkpoints" / "unified")[-1]
    [part] = newest.glob("shard-*")
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=r"shard-00001.* is damaged or missing; delete the folder"):
        train_quietly(run, resume=True)
    part.write_bytes(whole)
    other = config("damaged", **RUN, transformer={"num_layers": 3})
    monkeypatch.setattr(recipe, "check_resumable", lambda *_: None)
    with pytest.raises(CheckpointError, match="does not fit the settings"):
        train_quietly(other, resume=True)


def test_a_full_disk_ends_the_run_with_a_sentence_and_keeps_what_was_whole(
    joined: Ranks, config: Make, tmp_path: Path
) -> None:
    run = config("full", **RUN)
    with small_files(40_000), pytest.raises(TrainingError, match="stopped, because"):
        train_quietly(run)
    tensors = {"modules.a": torch.ones(4)}
    save_parts(tmp_path, 1, tensors, state={}, keep=2, ranks=joined)
    with small_files(10), pytest.raises(OSError, match="File too large") as full:
        save_parts(tmp_path, 2, tensors, state={}, keep=2, ranks=joined)
    assert full.value.errno == errno.EFBIG
    assert [path.name for path in tmp_path.iterdir() if path.name.isdigit()] == ["00000001"]


def test_processes_of_torchrun_join_and_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of one that says that it is two, as there is no other here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with ranks_of("cpu") as ranks:
        assert ranks.is_alone
    monkeypatch.setattr(ranks_module, "processes", lambda: 2)
    with ranks_of("auto") as ranks:
        assert (ranks.rank, ranks.count, ranks.is_alone) == (0, 2, False)
        assert ranks.saving is not ranks.waiting
    assert not dist.is_initialized()
    with pytest.raises(UsageError, match="process 3 of this machine finds 0 GPUs"):
        choose_device("cuda", 3)


def test_what_is_asked_of_all_is_answered(joined: Ranks) -> None:
    assert not joined.is_alone
    assert joined.sum(torch.tensor([2.0])).tolist() == [2]
    assert joined.mean(torch.tensor([2.0, 4.0]), 3.0).tolist() == [2, 4]
    assert joined.mean(torch.tensor([2.0]), 0.0).tolist() == [0]
    assert joined.largest(3, False) == [3, 0]
    assert joined.from_first(lambda: "made") == "made"
    assert joined.all("mine") == ["mine"]
    joined.wait()

    def fail() -> None:
        raise ValueError("what went wrong")

    with pytest.raises(CheckpointError, match="what went wrong"):
        agreed(fail, joined)
