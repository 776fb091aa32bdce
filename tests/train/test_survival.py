"""What several ranks save together: whole or not at all, read by any number of ranks, and without a rank that hangs."""

from __future__ import annotations

import errno
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.failing_disk import small_files
from support.rank_cases import forked, in_ranks
from support.tiny_training import train_quietly
from support.training_runs import metrics, weights
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from tagmoe.config import RunConfig
from tagmoe.errors import CheckpointError
from tagmoe.train import checkpoint, saving, shared_checkpoint
from tagmoe.train.checkpoint import list_checkpoints, load_state, optimizer_tensors, save_checkpoint
from tagmoe.train.components_folder import read_components
from tagmoe.train.ranks import ALONE, Ranks, ranks_of
from tagmoe.train.saving import Saver
from tagmoe.train.sharding import whole
from tagmoe.train.shared_checkpoint import check_parts, is_shared, load_parts, save_parts, staged

Make = Callable[..., RunConfig]


class Small(nn.Module):
    """Parameters that ranks share unevenly: 5 rows, 1 row, and one that each has whole."""

    def __init__(self, ranks: Ranks, value: float) -> None:
        super().__init__()
        numbers = {"five": torch.arange(10.0).view(5, 2), "one": torch.ones(1, 3), "all": torch.ones(2)}
        mesh = init_device_mesh("cpu", (ranks.count,)) if ranks.count > 1 else None
        for name, number in numbers.items():
            if mesh is not None:
                placement = Replicate() if name == "all" else Shard(0)
                number = distribute_tensor(number, mesh, [placement], src_data_rank=None)
            self.register_parameter(name, nn.Parameter(number * value))


def state_of(ranks: Ranks, value: float) -> tuple[dict[str, nn.Module], dict[str, Tensor], list[torch.optim.Optimizer]]:
    """(modules, average, optimizers) after one step."""
    module = Small(ranks, value)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    for parameter in module.parameters():
        parameter.grad = parameter.detach() + 0.5
    optimizer.step()
    ema = {f"m.{n}": (p.to_local() if isinstance(p, DTensor) else p).detach() + 1 for n, p in module.named_parameters()}
    return {"m": module}, ema, [optimizer]


def flat(modules: Any, ema: Any, optimizers: Any) -> dict[str, Tensor]:
    like = {f"m.{name}": value for name, value in modules["m"].state_dict().items()}
    states = optimizer_tensors(optimizers)
    parts = {"modules": staged(like, like), "ema": staged(ema, like), "optimizer": staged(states, states)}
    return {f"{part}.{name}": value for part, own in parts.items() for name, value in own.items()}


def save(folder: Path, ranks: Ranks, step: int = 1, value: float = 1.0) -> None:
    save_parts(folder, step, flat(*state_of(ranks, value)), state={}, keep=2, ranks=ranks)


def together(folder: Path, count: int, work: Callable[[Ranks], None]) -> None:
    def joined() -> None:
        with ranks_of("cpu") as ranks:
            work(ranks)

    in_ranks(folder, joined, count)


def check_read(path: Path, ranks: Ranks) -> None:
    """A checkpoint of `state_of(..., 1)` read over other numbers gives its numbers to the bit."""
    modules, ema, optimizers = state_of(ranks, 3.0)
    check_parts(path, load_state(path)[1], ranks)
    load_parts(path, modules, ema, optimizers, ranks)
    found, expected = flat(modules, ema, optimizers), flat(*state_of(ALONE, 1.0))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(whole(found[name], found[name]), value), name


@pytest.mark.slow_but_first
@pytest.mark.parametrize("readers", [1, 2, 4])
def test_what_two_ranks_save_is_read_by_any_number(tmp_path: Path, readers: int) -> None:
    folder = tmp_path / "checkpoints"
    together(tmp_path / "save", 2, lambda ranks: save(folder, ranks))
    [path] = list_checkpoints(folder)
    assert is_shared(path)
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}, "no pickle"
    if readers == 1:
        check_read(path, ALONE)
    else:
        together(tmp_path / "read", readers, lambda ranks: check_read(path, ranks))


@pytest.mark.slow
@pytest.mark.parametrize("change", ["cut", "gone"])
def test_a_damaged_part_is_named_in_every_rank(tmp_path: Path, change: str) -> None:
    folder = tmp_path / "checkpoints"
    together(tmp_path / "save", 2, lambda ranks: save(folder, ranks))
    [path] = list_checkpoints(folder)
    part = sorted(path.glob("shard-00002-*"))[0]
    part.unlink() if change == "gone" else part.write_bytes(part.read_bytes()[:-1])

    def read(ranks: Ranks) -> None:
        with pytest.raises(CheckpointError, match=r"shard-00002.* is damaged or missing; delete the folder"):
            check_read(path, ranks)

    read(ALONE)
    together(tmp_path / "read", 2, read)


@pytest.mark.slow
def test_a_disk_that_is_full_in_one_rank_fails_in_all_and_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"

    def work(ranks: Ranks) -> None:
        save(folder, ranks)
        state = flat(*state_of(ranks, 2.0))
        with small_files(100 if ranks.rank else 10**9), pytest.raises(OSError, match="File too large"):
            save_parts(folder, 2, state, state={}, keep=2, ranks=ranks)

    together(tmp_path / "ranks", 2, work)
    assert [path.name for path in folder.iterdir()] == ["00000001"]


MOMENTS = ["before its new name", "before the data", "after its new name"]


@pytest.mark.parametrize(
    ("count", "moment"),
    [
        (1, MOMENTS[0]),
        *(pytest.param(1, moment, marks=pytest.mark.slow) for moment in MOMENTS[1:]),
        *(pytest.param(2, moment, marks=pytest.mark.slow) for moment in MOMENTS),
    ],
)
def test_a_kill_between_copying_and_the_new_name_leaves_the_checkpoint_before(
    tmp_path: Path, count: int, moment: str
) -> None:
    """The second save is written in the background, as that of a run, which trains on meanwhile."""
    folder = tmp_path / "checkpoints"
    module = shared_checkpoint if count > 1 else checkpoint
    real = module.commit

    def killed(*_: Any, **__: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    def then_killed(*arguments: Any, **options: Any) -> None:
        real(*arguments, **options)
        killed()

    def save_aside(ranks: Ranks, step: int) -> None:
        modules, ema, optimizers = state_of(ranks, 1.0)
        like = {f"m.{name}": value for name, value in modules["m"].state_dict().items()}
        tensors = {"modules": like, "ema": ema, "optimizer": optimizer_tensors(optimizers)}
        with Saver(folder, 2, ranks) as saver:
            saver.start(step, tensors, like, {})
            while not saver.has_failed and not (folder / f"{step:08d}").exists():
                time.sleep(0.01)

    def work(ranks: Ranks) -> None:
        save_aside(ranks, 1)
        if moment == MOMENTS[1] and count > 1:
            shared_checkpoint.dcp.save = killed if ranks.rank else shared_checkpoint.dcp.save
        elif moment == MOMENTS[1]:
            checkpoint.save_file = killed
        else:
            module.commit = killed if moment == MOMENTS[0] else then_killed  # type: ignore[attr-defined]
        save_aside(ranks, 2)

    with pytest.raises(AssertionError, match="exit codes"):
        together(tmp_path / "killed", count, work)
    names = ["00000001", "00000002"] if moment == MOMENTS[2] else ["00000001"]
    assert [path.name for path in list_checkpoints(folder)] == names
    if count > 1:
        check_read(folder / "00000001", ALONE)
    together(tmp_path / "again", count, lambda ranks: save_aside(ranks, 3))
    assert sorted(path.name for path in folder.iterdir()) == [names[-1], "00000003"]


# ---- in the background ---------------------------------------------------------------------------------------------
def test_one_save_at_a_time_of_the_state_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold, begun = threading.Event(), []

    def slow(folder: Path, step: int, **rest: Any) -> Path:
        begun.append(step)
        assert hold.wait(20)
        return save_checkpoint(folder, step, **rest)

    monkeypatch.setattr(saving, "save_checkpoint", slow)
    value = torch.ones(3)
    tensors = {"modules": {"m.v": value}, "ema": {"m.v": value}, "optimizer": {}}
    with Saver(tmp_path, 2, ALONE) as saver:
        saver.start(1, tensors, tensors["modules"], {})
        value.zero_()
        threading.Timer(0.2, hold.set).start()
        saver.start(2, tensors, tensors["modules"], {})
        assert [path.name for path in list_checkpoints(tmp_path)] == ["00000001"], "the first is whole by now"
    saved = [load_file(path / "modules.safetensors")["m.v"].sum() for path in list_checkpoints(tmp_path)]
    assert (begun, saved) == ([1, 2], [3, 0])


def test_a_save_that_fails_is_raised_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving, "save_checkpoint", full)
    saver = Saver(tmp_path, 2, ALONE)
    saver.start(1, {"modules": {}}, {}, {})
    end = time.monotonic() + 20
    while not saver.has_failed and time.monotonic() < end:
        time.sleep(0.01)
    assert saver.has_failed
    with pytest.raises(OSError, match="No space left"):
        saver.start(2, {"modules": {}}, {}, {})
    assert not saver.has_failed


# ---- chaos ---------------------------------------------------------------------------------------------------------
KILLS = int(os.environ.get("TAGMOE_KILLS", "50"))
"""Fewer of them are for a look on a busy machine."""
CHAOS: dict[str, Any] = {
    "base": {"steps": 0},
    "unified": {"steps": 6 * KILLS},
    "optimizer": {"name": "adamw", "lr": 1e-3},
    "save_every": 2,
    "watch": {"page_seconds": None},
}


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_fifty_kills_at_random_points_change_no_bit(config: Make, tmp_path: Path) -> None:
    """Of both ranks of a run, or of one, at any moment from the first step on, while they save too."""
    undisturbed, run = config("undisturbed", **CHAOS), config("killed", **CHAOS)
    assert run.components is not None
    read_components(run.components)  # the processes are forked, and find them read
    in_ranks(tmp_path / "ranks", lambda: train_quietly(undisturbed), 2, 3000)
    chance, kills, in_save, began = random.Random(0), 0, 0, time.monotonic()
    folder = Path(run.output_dir) / "checkpoints" / "unified"
    while kills < KILLS:
        resumes = (Path(run.output_dir) / "metrics.jsonl").exists()
        with forked(tmp_path / "ranks", lambda resumes=resumes: train_quietly(run, resume=resumes), 2) as ranks:  # type: ignore[misc]
            before = max(map(int, (path.name for path in list_checkpoints(folder))), default=0)
            wait_for(lambda: _last(folder) > before or not all(rank.is_alive() for rank in ranks))  # noqa: B023
            if kills % 3 == 0:  # while a checkpoint is written
                wait_for(lambda: _writing(folder) or not all(rank.is_alive() for rank in ranks))
            else:
                time.sleep(chance.uniform(0, 0.1))
            alive = all(rank.is_alive() for rank in ranks)
            in_save += alive and _writing(folder)
            for rank in ranks if chance.random() < 0.5 else [chance.choice(ranks)]:
                rank.kill()
            if not alive:
                break
            kills += 1
            print(f"kill {kills}: at step {_last(folder)}, {time.monotonic() - began:.0f} s", flush=True)
    in_ranks(tmp_path / "ranks", lambda: train_quietly(run, resume=True), 2, 3000)
    print(f"{kills} kills, {in_save} of them while a checkpoint was written")
    assert kills == KILLS, "the run ended too early: raise its steps"
    assert in_save
    assert weights(Path(run.output_dir) / "model") == weights(Path(undisturbed.output_dir) / "model")
    assert metrics(run) == metrics(undisturbed)
    last = [list_checkpoints(Path(one.output_dir) / "checkpoints" / "unified")[-1] for one in (run, undisturbed)]
    first, second = (numbers_of(checkpoint) for checkpoint in last)
    assert len(first) > 100
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first), "weights, average and moments in fp32"


def numbers_of(checkpoint: Path) -> dict[str, Tensor]:
    """Every part of every rank. The files themselves differ: a resume gives the moments in another order to DCP, which
    lists them in that order in the header."""
    files = sorted(checkpoint.glob("*.safetensors"))
    return {f"{file.name}/{name}": value for file in files for name, value in load_file(file).items()}


def wait_for(condition: Callable[[], bool], limit: float = 120) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"nothing in {limit} s"
        time.sleep(0.002)


def _last(folder: Path) -> int:
    return max((int(path.name) for path in list_checkpoints(folder)), default=0)


def _writing(folder: Path) -> bool:
    return any(folder.glob(".partial-*")) if folder.is_dir() else False
