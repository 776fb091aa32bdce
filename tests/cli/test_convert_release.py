"""`tagmoe convert-release`: what it says, and that whatever goes wrong leaves one sentence and nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.released import MIXTURES, dense_state, released_weights, save_base, save_released, sparse_release

from tagmoe.files import resumable
from tagmoe.weights.convert_release import convert_release

BIAS = [f"transformer_blocks.{block}.img_mlp.experts.bias" for block in MIXTURES]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("convert") / "base")


@pytest.fixture(scope="module")
def weights(base: Path) -> dict[str, torch.Tensor]:
    return released_weights(dense_state(base))


@pytest.fixture(scope="module")
def source(weights: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_released(weights, tmp_path_factory.mktemp("convert") / "authors", shards=2)


@pytest.fixture(scope="module")
def whole(source: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed conversion writes."""
    target = tmp_path_factory.mktemp("convert") / "whole"
    convert_release(source, base, target)
    return contents(target)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
def test_the_result_as_json_and_as_text(tagmoe, source, base, whole, weights, tmp_path) -> None:
    outcome = tagmoe("convert-release", source, base, tmp_path / "ours", "--json")
    assert outcome.code == 0, outcome.err
    data = json.loads(outcome.out)
    assert data["keys"] == {
        "taken": len(weights) - 4 - 7 - 2, "split": 2, "transposed": 2, "kept_for_analysis": 7, "dropped": 2,
    }  # fmt: skip
    assert sum(data["keys"].values()) == len(weights)
    assert data["dropped"] == BIAS
    assert data["bytes"] == data["bytes_written"] == sum(map(len, whole.values()))
    assert data["seconds"] >= 0
    assert contents(tmp_path / "ours") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]

    outcome = tagmoe("convert-release", source, base, tmp_path / "again")
    assert outcome.out == f"{tmp_path / 'again'}\n"
    assert "7 kept for analysis, 2 dropped" in outcome.err
    assert all(name in outcome.err for name in BIAS)


@pytest.mark.slow
def test_the_converted_folder_edits(tagmoe, source, base, picture, tmp_path) -> None:
    assert tagmoe("convert-release", source, base, tmp_path / "ours").code == 0
    arguments = ["-p", "remove the circle", "--size", "64x64", "--steps", 1, "--seed", 1, "--json"]
    outcome = tagmoe("edit", picture, *arguments, "-o", tmp_path / "out.png", "--model", tmp_path / "ours")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["cfg"] == 4.0
    tagmoe("edit", picture, *arguments, "-o", tmp_path / "x.png", "--model", source).refused(2, "convert-release")


def test_what_is_there_is_replaced_only_with_force(tagmoe, source, base, whole, tmp_path) -> None:
    target = tmp_path / "ours"
    target.mkdir()
    tagmoe("convert-release", source, base, target).refused(2, "exists", "--force")
    (target / "precious.txt").write_text("mine")
    tagmoe("convert-release", source, base, target, "--force").refused(2, "precious.txt")
    (target / "precious.txt").rename(target / "README.md")
    assert tagmoe("convert-release", source, base, target, "--force").code == 0
    assert contents(target) == whole


def test_source_base_and_target_are_apart(tagmoe, source, base, tmp_path) -> None:
    for place in (source / "inner", base / "inner"):
        tagmoe("convert-release", source, base, place).refused(2, "lie in one another")
    for place in (source, base):
        tagmoe("convert-release", source, base, place, "--force").refused(2)
    tagmoe("convert-release", source, base, tmp_path / "a" / "b").refused(2, "no folder")


@pytest.mark.parametrize(
    ("change", "code", "part"),
    [
        ("no source", 3, "hf download"),
        ("no base", 3, "hf download"),
        ("missing shard", 1, "00002-of-00002.safetensors' is missing"),
        ("cut shard", 1, "cut short"),
        ("pickle", 1, "a pickle can run any code"),
        ("missing key", 1, "missing: proj_out.bias"),
        ("unknown key", 1, "unknown: extra.weight"),
        ("other dimensions", 1, "img_in.weight is [64, 16] and must be [32, 16]"),
        ("dense", 1, "does not have the layout"),
        ("base without vae", 1, "vae' is missing"),
        ("base with a cut vae", 1, "cut short"),
        ("base without index", 1, "model_index.json' is missing"),
        ("base without config", 1, "config.json' is missing"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(tagmoe, source, base, weights, tmp_path, change, code, part):
    here, there = shutil.copytree(source, tmp_path / "authors"), shutil.copytree(base, tmp_path / "base")
    shard = here / "diffusion_pytorch_model-00002-of-00002.safetensors"
    vae = there / "vae" / "diffusion_pytorch_model.safetensors"
    if change in ("no source", "pickle", "missing key", "unknown key", "other dimensions"):
        shutil.rmtree(here)
    if change == "no base":
        shutil.rmtree(there)
    elif change == "missing shard":
        shard.unlink()
    elif change == "cut shard":
        shard.write_bytes(shard.read_bytes()[:-7])
    elif change == "pickle":
        here.mkdir()
        torch.save(weights, here / "pytorch_model.bin")
    elif change == "missing key":
        save_released({name: value for name, value in weights.items() if name != "proj_out.bias"}, here)
    elif change == "unknown key":
        save_released(weights | {"extra.weight": torch.zeros(2)}, here)
    elif change == "other dimensions":
        save_released(weights | {"img_in.weight": torch.zeros(64, 16)}, here)
    elif change == "dense":
        here = there
    elif change == "base without vae":
        shutil.rmtree(there / "vae")
    elif change == "base with a cut vae":
        vae.write_bytes(vae.read_bytes()[:-7])
    elif change == "base without index":
        (there / "model_index.json").unlink()
    elif change == "base without config":
        (there / "transformer" / "config.json").unlink()
    before = sorted(path.name for path in tmp_path.iterdir())
    tagmoe("convert-release", here, there, tmp_path / "ours").refused(code, part)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.slow_but_first
@pytest.mark.parametrize("after", [0, 40_000, 300_000, 600_000])
def test_a_disk_that_fills_up_in_the_middle(tagmoe, source, base, whole, tmp_path, monkeypatch, after) -> None:
    """No half-written file stays, and the same command then finishes the work."""
    left = after

    def write(output: int, data: bytes | memoryview) -> None:
        nonlocal left
        left -= len(data)
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        os.write(output, data)

    with monkeypatch.context() as patch:
        # all bytes through one door, as where the kernel cannot copy
        patch.delattr(resumable.os, "copy_file_range", raising=False)
        patch.setattr(resumable, "_write_all", write)
        tagmoe("convert-release", source, base, tmp_path / "ours").refused(1, "is full", "run the same command again")
    assert not (tmp_path / "ours").exists()
    for file in (path for path in tmp_path.rglob("*") if path.is_file() and path.name != resumable.NOTE):
        assert file.read_bytes() == whole[str(file.relative_to(tmp_path / ".ours.partial"))]
    assert tagmoe("convert-release", source, base, tmp_path / "ours").code == 0
    assert contents(tmp_path / "ours") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(tagmoe, source, base, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(resumable.shutil, "disk_usage", lambda path: usage)
    tagmoe("convert-release", source, base, tmp_path / "ours").refused(1, "free", "needed")
    assert list(tmp_path.iterdir()) == []


# The slow writer of a process that is to be killed, or that holds the target while another one comes.
SLOW = """
import sys, time
from pathlib import Path
from tagmoe.weights.convert_release import convert_release
def wait(done, total):
    if done > total // 2:
        print("half", flush=True)
        time.sleep(60)
convert_release(*map(Path, sys.argv[1:4]), max_shard_bytes=50_000, progress=wait)
"""


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_and_a_second_process_is_refused(tagmoe, source, base, tmp_path) -> None:
    target, wanted = tmp_path / "ours", tmp_path / "wanted"
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, str(source), str(base), str(target)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "half\n"
            tagmoe("convert-release", source, base, target).refused(1, "Another process is writing", "ours")
        finally:
            process.send_signal(signal.SIGKILL)
    assert not target.exists()
    done = convert_release(source, base, target, max_shard_bytes=50_000)
    assert 0 < done.written.nbytes_now < done.written.nbytes
    assert done.written.kept
    convert_release(source, base, wanted, max_shard_bytes=50_000)
    assert contents(target) == contents(wanted)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "wanted"]


def test_a_changed_source_does_not_resume_the_old_one(source, base, weights, tmp_path) -> None:
    here = shutil.copytree(source, tmp_path / "authors")
    target = tmp_path / "ours"

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_release(here, base, target, max_shard_bytes=50_000, progress=stop)
    time.sleep(0.01)
    save_released(weights | {"proj_out.bias": torch.full((16,), 7.0)}, here, shards=2)
    done = convert_release(here, base, target, max_shard_bytes=50_000)
    assert done.written.kept == ()


MEMORY = """
import sys
from pathlib import Path
from tagmoe.cli import run
assert run(["convert-release", *sys.argv[1:4]]) == 0
heavy = sorted({"torch", "diffusers", "transformers"} & set(sys.modules))
peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
print(int(peak) * 1024, *heavy)
"""


# Not ru_maxrss: a new process begins with that of the process that started it, here pytest with torch in it.
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_one_expert_is_the_most_that_is_in_memory_and_torch_is_not(tmp_path) -> None:
    """One expert matrix is 13 MB here, all four are 52, the checkpoint is 330."""
    size = sparse_release(tmp_path / "authors", layers=2, mixtures=1, heads=10)
    assert size > 300e6
    command = [sys.executable, "-c", MEMORY, tmp_path / "authors", tmp_path / "base", tmp_path / "ours"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        peak, *heavy = output.splitlines()[-1].split()
    finally:
        shutil.rmtree(tmp_path / "ours", ignore_errors=True)
    assert heavy == []
    # interpreter, numpy and the command line take 55 MB of it
    assert 1e7 < int(peak) < 1e8
