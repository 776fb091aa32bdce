"""What goes wrong in a run is said at once, in one sentence, and costs at most the steps since the last checkpoint."""

from __future__ import annotations

import errno
import io
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from support.failing_disk import small_files
from support.training_runs import metrics, weights

from tagmoe.config import OptimizerConfig, RunConfig
from tagmoe.errors import CheckpointError, ConfigError, TrainingError
from tagmoe.sentences import counted
from tagmoe.train import checkpoint, loop, saving
from tagmoe.train.checkpoint import flat_parameters, list_checkpoints, save_checkpoint
from tagmoe.train.optimizer import learning_rate_factor, short_warm_up
from tagmoe.train.recipe import train
from tagmoe.train.stage import FlowStage

Make = Callable[..., RunConfig]
RunTraining = Callable[..., Path]


class Killed(BaseException):
    """What a kill does to the running process, without its end."""


# ---- checkpoints ---------------------------------------------------------------------------------------------------
def save(folder: Path, step: int, value: float, keep: int = 2) -> Path:
    module = torch.nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.fill_(value)
    return save_checkpoint(
        folder, step, modules=flat_parameters({"m": module}), ema={}, optimizer={}, state={}, keep=keep
    )


def read(path: Path) -> None:
    _, sums = checkpoint.load_state(path)
    checkpoint.load_tensors(path, sums)


def calls_of(monkeypatch: pytest.MonkeyPatch, stop_at: int) -> None:
    """Stop before the call number `stop_at` of those that change the disk; a deletion is stopped half-way."""
    count = 0
    replace, rmtree = os.replace, shutil.rmtree

    def counted(function: Callable[..., Any], half: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == stop_at:
                half(*arguments)
                raise Killed
            return function(*arguments, **options)

        return call

    def half_deleted(path: Path, *_: Any) -> None:
        for file in sorted(Path(path).iterdir(), reverse=True)[:2]:
            file.unlink()

    monkeypatch.setattr(checkpoint.os, "replace", counted(replace, lambda *_: None))
    monkeypatch.setattr(checkpoint.shutil, "rmtree", counted(rmtree, half_deleted))


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("stop_at", range(1, 6))
def test_a_kill_at_any_point_leaves_whole_checkpoints_and_nothing_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int, again: bool
) -> None:
    """again: the checkpoint of this step is there already."""
    for step in (1, 2):
        save(tmp_path, step, step)
    with monkeypatch.context() as patch:
        calls_of(patch, stop_at)
        try:
            save(tmp_path, 2 if again else 3, 3)
        except Killed:
            pass
        else:
            assert stop_at > 3
    found = list_checkpoints(tmp_path)
    assert found
    for path in found:
        read(path)
    save(tmp_path, 4, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in list_checkpoints(tmp_path))


@pytest.mark.parametrize("name", ["modules.safetensors", "state.json"])
def test_a_flipped_byte_is_found(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 3, 1.0)
    content = bytearray((path / name).read_bytes())
    place = content.index(b'"step": 3') + 8 if name == "state.json" else len(content) - 3
    content[place] ^= 1
    (path / name).write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=f"{name}' is damaged or missing; delete the folder"):
        read(path)


def test_a_full_disk_while_saving_keeps_the_last_checkpoint_and_frees_the_room(tmp_path: Path) -> None:
    save(tmp_path, 1, 1.0)
    with small_files(100), pytest.raises(Exception, match=r"File too large|os error 27"):
        save(tmp_path, 2, 2.0)
    assert [path.name for path in tmp_path.iterdir()] == ["00000001"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["base", "unified"])
def test_a_disk_that_fills_while_training_says_how_to_go_on(
    config: Make, run_training: RunTraining, monkeypatch: pytest.MonkeyPatch, whole: RunConfig, stage: str
) -> None:
    run = config()
    original = loop.train_step

    def full(which: Any, step: int, *rest: Any) -> Any:
        if which.name == stage and step == 4:
            os.environ["FULL"] = "1"
        return original(which, step, *rest)

    saved = saving.save_checkpoint

    def refused(*arguments: Any, **options: Any) -> Any:
        if os.environ.get("FULL"):  # a limit on files would be one for the training thread too
            raise OSError(errno.ENOSPC, "No space left on device")
        return saved(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", full)
        patch.setattr(saving, "save_checkpoint", refused)
        patch.setenv("FULL", "")
        with pytest.raises(TrainingError, match="because the disk is full; mend that, then add --resume") as stopped:
            run_training(run)
    assert "\n" not in str(stopped.value)
    assert weights(run_training(run, resume=True)) == weights(Path(whole.output_dir) / "model")
    assert metrics(run) == metrics(whole)


def test_a_disk_too_small_for_the_checkpoints_is_said_before_the_first_step(
    config: Make, run_training: RunTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(loop.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    run = config()
    with pytest.raises(TrainingError, match="0 MB free, and checkpoints of base need up to"):
        run_training(run)
    assert not Path(run.output_dir).exists()


# ---- what a resumed run starts from -------------------------------------------------------------------------------
# one step a stage and one more, so that there is a checkpoint to go on from
SHORT: dict[str, Any] = {"base": {"steps": 1}, "unified": {"steps": 2}, "save_every": 1}


def stopped_run(run: RunConfig, run_training: RunTraining, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of SHORT that dies before the last step."""
    original = loop.train_step

    def stop(stage: Any, step: int, *rest: Any) -> Any:
        if stage.name == "unified" and step == 1:
            raise Killed
        return original(stage, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stop)
        with pytest.raises(Killed):
            run_training(run)


@pytest.mark.slow
def test_components_that_changed_are_refused(
    config: Make, run_training: RunTraining, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, components: str
) -> None:
    folder = tmp_path / "components"
    shutil.copytree(components, folder)
    run = config(components=str(folder), **SHORT)
    stopped_run(run, run_training, monkeypatch)
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(TrainingError, match="'components' names have changed since base was trained to step 1"):
        run_training(run, resume=True)
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    run_training(run, resume=True)


@pytest.mark.slow
def test_other_versions_of_the_libraries_are_said(
    config: Make, run_training: RunTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config(**SHORT)
    stopped_run(run, run_training, monkeypatch)
    console = Console(record=True, file=io.StringIO(), width=200)
    real = loop.Run.__init__

    def older(self: Any, *arguments: Any, **options: Any) -> None:
        real(self, *arguments, **options)
        self.versions = {**self.versions, "torch": "1.0"}

    monkeypatch.setattr(loop.Run, "__init__", older)
    train(run, validator=lambda *_: {}, resume=True, console=console)
    assert f"torch was {torch.__version__} and is 1.0" in console.export_text()


@pytest.mark.slow
def test_a_dense_run_that_goes_on_as_a_mixture_is_named(
    config: Make, run_training: RunTraining, tmp_path: Path
) -> None:
    run = config(base={"steps": 1}, unified={"steps": 1})
    run_training(run)
    with pytest.raises(TrainingError, match=r"'moe' is null and was a section \(num_moe_blocks: 1, "):
        run_training(run.model_copy(update={"moe": None}), resume=True)


# ---- signals and numbers ------------------------------------------------------------------------------------------
@pytest.mark.slow_but_first
@pytest.mark.parametrize("culprit", ["flow", "grad_norm"])
def test_the_number_that_is_not_finite_is_named(
    config: Make, run_training: RunTraining, monkeypatch: pytest.MonkeyPatch, culprit: str
) -> None:
    original = FlowStage.loss

    def broken(self: FlowStage, step: int, micro: int) -> Any:
        loss, report = original(self, step, micro)
        if self.name != "unified" or step != 1:
            return loss, report
        return (loss * math.inf, report) if culprit == "grad_norm" else (loss, {**report, culprit: math.inf})

    monkeypatch.setattr(FlowStage, "loss", broken)
    with pytest.raises(TrainingError, match=f"unified: {culprit} (inf|nan) is not finite.*step 2"):
        run_training(config(base={"steps": 0}, unified={"steps": 2}))


# ---- what a recipe can contradict ---------------------------------------------------------------------------------
@pytest.mark.parametrize("stage", ["unified"])
@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        (["recolor"], "holds 'recolor', which is no editing task; did you mean 'recolour'"),
        (["generate"], "'generate', which is no editing task"),
        ([], "is none of them; raise that number"),
    ],
)
def test_tasks_that_no_sample_has_are_found_before_the_first_stage(
    config: Make, run_training: RunTraining, stage: str, tasks: list[str], said: str
) -> None:
    run = config(**{stage: {"edit_tasks": tasks}})
    with pytest.raises(ConfigError, match=f"'{stage}.edit_tasks' .*{said}"):
        run_training(run)
    assert not Path(run.output_dir).exists()


@pytest.mark.parametrize(("warm_up", "total"), [(100, 60), (0, 10), (5, 10), (10, 10), (100, 1), (3, 1000)])
def test_the_learning_rate_ends_near_zero_and_a_peak_that_is_not_reached_is_said(warm_up: int, total: int) -> None:
    config = OptimizerConfig(warmup_steps=warm_up)
    rates = [learning_rate_factor(step, total, config) for step in range(total)]
    assert rates[-1] <= 1 / max(1, round(total * config.decay_share)) + 1e-9
    assert all(0 < rate <= 1 for rate in rates)
    sentence = short_warm_up("base", total, config)
    assert (sentence is None) == (max(rates) == 1.0)
    if sentence:
        assert f"warmup_steps {warm_up} and {counted(total, 'step')}" in sentence
