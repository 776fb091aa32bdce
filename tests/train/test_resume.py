"""A stopped run goes on bit for bit: after a kill, after Ctrl-C, after a half-written checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.training_runs import KILLED_RUN, metrics, weights

from tagmoe import cli
from tagmoe.config import RunConfig
from tagmoe.errors import CheckpointError, TrainingError, UsageError
from tagmoe.train import loop
from tagmoe.train.checkpoint import list_checkpoints


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "step"), [("base", 4), ("unified", 4), ("unified", 1)])
def test_six_steps_equal_three_a_kill_and_three(
    stage: str, step: int, config: Callable[..., RunConfig], run_training: Callable[..., Path], tmp_path: Path
) -> None:
    whole = config("whole", cache_dir=None)
    expected = run_training(whole)
    killed = config("killed", cache_dir=None)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(killed.model_dump(mode="json")))
    process = subprocess.run([sys.executable, "-c", KILLED_RUN, str(recipe), stage, str(step)], capture_output=True)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    resumed = run_training(killed, resume=True)
    assert metrics(killed) == metrics(whole)
    assert weights(resumed) == weights(expected)


@pytest.mark.slow_but_first
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_step_and_the_run_resumes(
    signum: signal.Signals,
    code: int,
    config: Callable[..., RunConfig],
    run_training: Callable[..., Path],
    tmp_path: Path,
    whole: RunConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C or SIGTERM while a step runs: the signal itself, in this process."""
    stopped = config("stopped")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(stopped.model_dump(mode="json")))
    original = loop.train_step

    def interrupted(stage: Any, step: int, *rest: Any) -> Any:
        if stage.name == "unified" and step == 4:
            os.kill(os.getpid(), signum)
        return original(stage, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", interrupted)
        assert cli.run(["train", str(recipe)]) == code
    assert "Add --resume" in capsys.readouterr().err
    saved = list_checkpoints(Path(stopped.output_dir) / "checkpoints" / "unified")
    last = [line for line in metrics(stopped) if line["stage"] == "unified"][-1]
    assert int(saved[-1].name) == last["step"] < 6
    assert weights(run_training(stopped, resume=True)) == weights(Path(whole.output_dir) / "model")


@pytest.mark.slow
def test_ctrl_c_saves_exits_130_and_resumes(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    long = config("long", unified={"steps": 5000}, save_every=1000)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(long.model_dump(mode="json")))
    command = [sys.executable, "-c", "from tagmoe.cli import main; main()", "train", str(recipe)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = Path(long.output_dir) / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and '"unified"' in log.read_text()):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    saved = list_checkpoints(Path(long.output_dir) / "checkpoints" / "unified")
    last = [line for line in metrics(long) if line["stage"] == "unified"][-1]
    assert int(saved[-1].name) == last["step"]


@pytest.mark.slow
def test_a_half_written_checkpoint_is_ignored(
    config: Callable[..., RunConfig], run_training: Callable[..., Path]
) -> None:
    run = config(base={"steps": 0}, unified={"steps": 2}, save_every=1)
    expected = weights(run_training(run))
    folder = Path(run.output_dir) / "checkpoints" / "unified"
    (folder / ".partial-00000002").mkdir()
    (folder / ".partial-00000002" / "modules.safetensors").write_bytes(b"half")
    (folder / "00000003").mkdir()
    assert [path.name for path in list_checkpoints(folder)] == ["00000001", "00000002"]
    assert weights(run_training(run, resume=True)) == expected


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named(config: Callable[..., RunConfig], run_training: Callable[..., Path]) -> None:
    run = config(base={"steps": 0}, unified={"steps": 1})
    run_training(run)
    damaged = list_checkpoints(Path(run.output_dir) / "checkpoints" / "unified")[-1] / "modules.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"modules.safetensors.*delete the folder"):
        run_training(run, resume=True)


@pytest.mark.slow
def test_a_run_is_not_resumed_under_other_settings(
    config: Callable[..., RunConfig], run_training: Callable[..., Path]
) -> None:
    short = {"base": {"steps": 0}, "unified": {"steps": 1}}
    run_training(config(**short))
    with pytest.raises(TrainingError, match="settings differ"):
        run_training(config(**short, seed=1), resume=True)
    with pytest.raises(UsageError, match="not empty"):
        run_training(config(**short))
    with pytest.raises(UsageError, match="no run to resume"):
        run_training(config("elsewhere"), resume=True)
