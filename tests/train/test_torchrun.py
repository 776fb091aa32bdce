"""Runs in several processes: what they leave, how they resume in another number, and how they end."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from support.rank_cases import in_ranks
from support.tiny_training import train_quietly
from support.training_runs import metrics

from tagmoe.config import RunConfig
from tagmoe.errors import ConfigError
from tagmoe.train import loop
from tagmoe.train.engine import check_ranks

Make = Callable[..., RunConfig]
RUN: dict[str, Any] = {"base": {"steps": 2}, "optimizer": {"name": "adamw", "lr": 1e-3}, "save_every": 2}
LIMIT = 60
"""Seconds in which torchrun must have ended all its processes. It gives them 30 after it has asked them to stop."""
LARGEST_FILE = 40_000
"""Bytes: fewer than a rank's part of a checkpoint, more than whatever else a run writes."""
START = 500
"""Seconds for two processes to import torch and begin, on a machine that is busy with other work."""


@pytest.mark.parametrize(
    ("changes", "ranks", "said"),
    [
        ({}, 3, "'unified.batch' is 4, the samples of a micro-batch over all processes, and 3 processes cannot share"),
        ({"replicate": 2}, 1, "'replicate' is 2, which does not divide the 1 process"),
        ({"replicate": 4}, 2, "does not divide the 2 processes"),
        ({"parameters": "moe", "frozen_dtype": "fp8"}, 2, "'frozen_dtype' is 'fp8', whose scales"),
        ({"loss": {"align_loss": "contrastive"}}, 2, "'loss.align_loss' is 'contrastive', which compares"),
        ({"loss": {"align_tags": "shuffled"}}, 2, "'loss.align_tags' is 'shuffled'"),
        ({"optimizer": {"name": "muon"}}, 2, "'optimizer.name' is 'muon', which needs whole matrices"),
    ],
)
def test_what_so_many_processes_cannot_do_is_refused(config: Make, changes: Any, ranks: int, said: str) -> None:
    with pytest.raises(ConfigError, match=r"^The setting '.*\.$") as refused:
        check_ranks(config(**(RUN | changes)), ranks)
    assert said in str(refused.value)


def near(model: Path, other: Path) -> None:
    """Whether two finished models hold the same weights, to the rounding of bf16 in which they are saved."""
    for name in ("transformer/diffusion_pytorch_model.safetensors", "alignment.safetensors"):
        mine, theirs = load_file(model / name), load_file(other / name)
        assert mine.keys() == theirs.keys()
        for key, value in theirs.items():
            distance = (mine[key].float() - value.float()).norm()
            assert distance <= 4e-3 * value.float().norm().clamp_min(1e-3), key


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_of_two_ranks_resumes_on_one_and_on_four(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = config("whole", **RUN)
    expected = train_quietly(whole)
    stopped = config("stopped", **RUN)
    original = loop.train_step

    def failing(stage: Any, step: int, *rest: Any) -> Any:
        if stage.name == "unified" and step == 3:
            raise RuntimeError("stopped here")
        return original(stage, step, *rest)

    def stop() -> None:
        with pytest.raises(RuntimeError, match="stopped here"):
            train_quietly(stopped)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", failing)
        in_ranks(tmp_path / "first", stop, 2)
    kept = Path(stopped.output_dir) / "checkpoints" / "unified"
    assert [path.name for path in kept.iterdir()] == ["00000002"]
    for ranks in (1, 2, 4):
        resumed = config(f"on-{ranks}", **RUN)
        shutil.copytree(stopped.output_dir, resumed.output_dir)
        in_ranks(tmp_path / f"ranks-{ranks}", lambda run=resumed: train_quietly(run, resume=True), ranks)  # type: ignore[misc]
        near(Path(resumed.output_dir) / "model", expected)
        for here, there in zip(metrics(resumed), metrics(whole), strict=True):
            assert here["stage"] == there["stage"]
            # Text is padded within a rank, and rank 0 speaks of the tokens of all by its own.
            for name in here.keys() - {"stage", "tokens"}:
                assert here[name] == pytest.approx(there[name], rel=1e-4, abs=1e-5), (name, here["step"])


@contextmanager
def torchrun(
    recipe: Path, *arguments: str, largest_file: int = resource.RLIM_INFINITY
) -> Iterator[subprocess.Popen[str]]:
    """`tagmoe train` in two processes of torchrun. What is left of them at the end is killed, by number.

    largest_file: bytes to which a file of theirs can grow; the write of a full disk fails alike.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "tagmoe"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, "train", str(recipe), *arguments], env=environment, text=True, stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY)),
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            left = [*workers(process.pid), process.pid] if process.poll() is None else []
            for pid in left:
                os.kill(pid, signal.SIGKILL)


def workers(parent: int) -> list[int]:
    """The processes that a process has started."""
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def written(config: RunConfig, tmp_path: Path) -> Path:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return recipe


def wait_for_step(config: RunConfig, step: int) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end:
        path = Path(config.output_dir) / "metrics.jsonl"
        if path.exists() and any(f'"unified", "step": {step}' in line for line in path.read_text().splitlines()):
            return
        time.sleep(0.1)
    raise AssertionError(f"no step {step} in {START} s")


LONG: dict[str, Any] = RUN | {"base": {"steps": 0}, "unified": {"steps": 100_000}, "save_every": 1000}


def _taken(config: Make, **_: Any) -> RunConfig:
    run = config("taken", **RUN)
    Path(run.output_dir).mkdir()
    (Path(run.output_dir) / "other").touch()
    return run


def _other_size(config: Make, components: str, **_: Any) -> RunConfig:
    """A dense model whose latents have 4 channels, and components whose have 16."""
    return config("size", start=components, **(RUN | {"components": "packaged", "base": {"steps": 0}}))


def _half_deleted(config: Make, tmp_path: Path, **_: Any) -> RunConfig:
    run = config("deleted", **RUN)
    in_ranks(tmp_path / "ranks", lambda: train_quietly(run), 2)
    newest = max((Path(run.output_dir) / "checkpoints" / "unified").iterdir())
    min(newest.glob("shard-*")).unlink()
    return run


FAULTS: dict[str, tuple[Callable[..., RunConfig], str, list[str]]] = {
    "taken": (_taken, "exists and is not empty", []),
    "typo": (
        lambda config, **_: config("typo", **RUN),
        "Unknown setting 'unified.bacth'",
        ["--set", "unified.bacth=4"],
    ),
    "size": (_other_size, "whose in_channels is 16, but this run needs 64", []),
    "batch": (lambda config, **_: config("batch", **(RUN | {"unified": {"batch": 3}})), "cannot share", []),
    "deleted": (_half_deleted, "is damaged or missing; delete the folder", ["--resume"]),
    "full": (lambda config, **_: config("full", **RUN), "stopped, because", []),
}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("fault", list(FAULTS))
def test_rank_0_says_once_what_is_wrong_and_all_end(fault: str, config: Make, components: str, tmp_path: Path) -> None:
    make, sentence, arguments = FAULTS[fault]
    run = make(config=config, components=components, tmp_path=tmp_path)
    most = LARGEST_FILE if fault == "full" else resource.RLIM_INFINITY
    with torchrun(written(run, tmp_path), *arguments, largest_file=most) as process:
        said, at = [], None
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            if at is None and re.search(sentence, line):
                at = time.monotonic()
        process.wait(LIMIT)
    text = "".join(said)
    assert process.returncode != 0
    assert at is not None, text
    assert len(re.findall(sentence, text)) == 1, text
    took = time.monotonic() - at
    print(f"{fault}: all ended {took:.1f} s after the sentence")
    assert took < LIMIT


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_when_a_rank_is_killed_the_others_end(config: Make, tmp_path: Path) -> None:
    run = config("killed", **LONG)
    with torchrun(written(run, tmp_path)) as process:
        wait_for_step(run, 2)
        started, ranks = time.monotonic(), workers(process.pid)
        assert len(ranks) == 2
        os.kill(ranks[1], signal.SIGKILL)
        process.communicate(timeout=LIMIT)
        print(f"all ended {time.monotonic() - started:.1f} s after the kill")
    assert process.returncode != 0
    assert not [pid for pid in ranks if Path(f"/proc/{pid}").exists()]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_sigterm_saves_and_the_run_resumes(config: Make, tmp_path: Path) -> None:
    run = config("stopped", **LONG)
    with torchrun(written(run, tmp_path)) as process:
        wait_for_step(run, 2)
        process.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        _, said = process.communicate(timeout=LIMIT)
        print(f"saved and ended {time.monotonic() - asked:.1f} s after SIGTERM")
    assert said.count("Add --resume to the same command") == 1, said
    assert "SIGKILL" not in said, "the ranks end by themselves"
    last = metrics(run)[-1]["step"]
    assert [int(path.name) for path in (Path(run.output_dir) / "checkpoints" / "unified").iterdir()] == [last]
