"""`tagmoe upcycle`: light while it converts, resumed by the same command, and honest about what it did not measure."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest
import torch
from diffusers import QwenImageTransformer2DModel

from tagmoe.cli import drift as drift_module
from tagmoe.cli.drift import measure_drift
from tagmoe.cli.progress import byte_bar
from tagmoe.files.resumable import partial_folder
from tagmoe.weights.dtypes import NAMES
from tagmoe.weights.layout import GATE_KINDS, UPCYCLE_MODES

# Not `import`: the function of the same name in the package hides the module.
COMMAND = import_module("tagmoe.cli.upcycle")


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    settings = {"num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 16, "axes_dims_rope": (4, 6, 6)}
    model = QwenImageTransformer2DModel(in_channels=16, out_channels=4, joint_attention_dim=24, **settings)
    model.save_pretrained(tmp_path / "dense", max_shard_size="100KB")
    return tmp_path / "dense"


def folder(path: Path) -> dict[str, bytes]:
    return {item.name: item.read_bytes() for item in path.iterdir()}


def test_choices_are_those_of_the_rules() -> None:
    assert get_args(COMMAND.Gate) == GATE_KINDS
    assert get_args(COMMAND.Mode) == UPCYCLE_MODES
    assert get_args(COMMAND.Dtype) == tuple(NAMES)


@pytest.mark.slow
@pytest.mark.usefixtures("drift_here")
def test_the_result_is_reported_as_one_object(tagmoe, dense, tmp_path) -> None:
    made = tmp_path / "moe"
    words = ("--num-moe-blocks", 2, "--gate", "linear", "--noise", 0.01, "--dtype", "bf16", "--top-k", 2, "--json")
    outcome = tagmoe("upcycle", dense, made, *words)
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    facts = json.loads(outcome.out)
    assert facts["output"] == str(made)
    assert facts["bytes"] == facts["bytes_written"] == sum(item.stat().st_size for item in made.iterdir())
    assert facts["kept"] == []
    assert facts["seconds"] > 0
    assert 0 < facts["drift"] < 0.5
    assert facts["drift_dtype"] == "fp32"
    config = json.loads((made / "config.json").read_text())
    assert {name: config[name] for name in ("gate", "top_k", "expert_scale", "_class_name")} == {
        "gate": "linear",
        "top_k": 2,
        "expert_scale": 2.0,
        "_class_name": "TagMoETransformer2DModel",
    }


def test_a_gate_width_and_no_drift(tagmoe, dense, tmp_path) -> None:
    outcome = tagmoe("upcycle", dense, tmp_path / "moe", "--num-moe-blocks", 1, "--gate-hidden", 9, "--no-drift")
    assert outcome.code == 0, outcome.err
    assert outcome.out == f"{tmp_path / 'moe'}\n"
    assert outcome.err.splitlines()[0] == "step-0 drift not measured: --no-drift was given"
    assert json.loads((tmp_path / "moe" / "config.json").read_text())["gate_hidden"] == 9


CODE = """
import sys
from tagmoe.cli import run
code = run(sys.argv[1:])
print(*sorted({"torch", "diffusers", "transformers"} & set(sys.modules)))
sys.exit(code)
"""


@pytest.mark.slow
def test_the_command_imports_nothing_heavy(dense, tmp_path) -> None:
    words = ("upcycle", dense, tmp_path / "moe", "--num-moe-blocks", "1", "--no-drift")
    done = subprocess.run([sys.executable, "-c", CODE, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ""


KILLED = """
import os, signal, sys, time
from pathlib import Path
from tagmoe.files import resumable
write = resumable._write_all

def kill(output, data):
    write(output, data[: len(data) // 2])
    path = Path(os.readlink(f"/proc/self/fd/{output}"))
    if sys.argv[1] in path.name:
        # The file before gets its name once it is on the disk, while this one is written.
        while len(list(path.parent.glob("*.safetensors"))) < int(sys.argv[1][1:6]) - 1:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    write(output, data[len(data) // 2 :])

resumable._write_all = kill
from tagmoe.weights.upcycle import Upcycling, upcycle_folder
upcycle_folder(Path(sys.argv[2]), Path(sys.argv[3]), Upcycling(2), max_shard_bytes=int(sys.argv[4]))
"""


@pytest.mark.slow
def test_the_same_command_goes_on_after_a_kill(tagmoe, dense, tmp_path) -> None:
    made, words = tmp_path / "moe", ("--num-moe-blocks", 2, "--no-drift", "--json", "--max-shard-gb", 0.001)
    # Wider than the other tests' model, which would fit in the smallest file that the option allows.
    shutil.rmtree(dense)
    torch.manual_seed(0)
    settings = {"num_layers": 3, "num_attention_heads": 4, "attention_head_dim": 32, "axes_dims_rope": (8, 12, 12)}
    QwenImageTransformer2DModel(joint_attention_dim=24, **settings).save_pretrained(dense)
    done = subprocess.run([sys.executable, "-c", KILLED, "-00003-of", dense, made, "1000000"], check=False)
    assert done.returncode == -9
    partial = partial_folder(made)
    finished = {path.name: path.stat() for path in partial.glob("*.safetensors")}
    assert len(finished) == 2
    assert len(list(partial.glob("*-00003-of*.tmp"))) == 1
    outcome = tagmoe("upcycle", dense, made, *words)
    assert outcome.code == 0, outcome.err
    facts = json.loads(outcome.out)
    assert sorted(facts["kept"]) == sorted(finished)
    assert facts["bytes_written"] < facts["bytes"]
    for name, state in finished.items():
        assert (made / name).stat().st_ino == state.st_ino
        assert (made / name).stat().st_mtime_ns == state.st_mtime_ns
    assert tagmoe("upcycle", dense, tmp_path / "whole", *words).code == 0
    assert folder(made) == folder(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "moe", "whole"]


@pytest.mark.slow
def test_other_settings_start_anew_and_say_so(tagmoe, dense, tmp_path) -> None:
    made = tmp_path / "moe"
    subprocess.run([sys.executable, "-c", KILLED, "-00003-of", dense, made, "60000"], check=False)
    assert len(list(partial_folder(made).glob("*.safetensors"))) == 2
    outcome = tagmoe("upcycle", dense, made, "--num-moe-blocks", 1, "--no-drift", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["kept"] == []
    assert outcome.err.startswith("leftovers of another run")
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize("spoil", ["cut", "missing", "pickle", "width"])
def test_bad_checkpoints_are_one_sentence(tagmoe, dense, tmp_path, spoil) -> None:
    shards = sorted(dense.glob("*.safetensors"))
    if spoil == "cut":
        shards[1].write_bytes(shards[1].read_bytes()[:-1])
    elif spoil == "missing":
        shards[1].unlink()
    elif spoil == "pickle":
        for path in dense.glob("diffusion*"):
            path.unlink()
        (dense / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x02.")
    else:
        config = json.loads((dense / "config.json").read_text())
        (dense / "config.json").write_text(json.dumps(config | {"num_attention_heads": 4}))
    said = {"cut": "cut short", "missing": "is missing", "pickle": "run code", "width": "other dimensions"}[spoil]
    tagmoe("upcycle", dense, tmp_path / "moe", "--num-moe-blocks", 1).refused(1, said)
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_too_many_blocks_and_a_folder_that_is_there(tagmoe, dense, tmp_path) -> None:
    tagmoe("upcycle", dense, tmp_path / "moe", "--num-moe-blocks", 4).refused(
        2, "num_moe_blocks is 4", "num_layers = 3"
    )
    (tmp_path / "moe").mkdir()
    tagmoe("upcycle", dense, tmp_path / "moe", "--num-moe-blocks", 1).refused(2, "exists")
    assert list((tmp_path / "moe").iterdir()) == []


def test_a_probe_that_does_not_fit_is_not_started(dense, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(drift_module, "host_memory", lambda: 10_000)
    monkeypatch.setattr(drift_module.subprocess, "run", None)
    found = measure_drift(dense, dense, seed=0)
    assert found.value is None
    assert "1.00 GB of memory and 0.0 MB are available" in found.reason


def test_a_model_that_fits_in_16_bits_only_is_probed_in_them(dense, tmp_path, monkeypatch) -> None:
    half = tmp_path / "half"
    QwenImageTransformer2DModel.from_pretrained(dense).to(torch.bfloat16).save_pretrained(half)
    asked = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command[5])
        return subprocess.CompletedProcess(command, 0, '{"drift": 0.5}\n', "")

    monkeypatch.setattr(drift_module.subprocess, "run", run)
    needs = drift_module._needed_bytes(list(drift_module.read_entries(half).values()), "fp32")
    for available in (needs, needs - 1):
        monkeypatch.setattr(drift_module, "host_memory", lambda available=available: available)
        assert measure_drift(half, half, seed=0).value == 0.5
    assert asked == ["fp32", "bf16"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
        ("import sys; sys.exit('out of luck')", "out of luck"),
        ("print('no JSON')", "the probe failed"),
    ],
)
def test_a_probe_that_dies_is_reported(dense, monkeypatch, code, said) -> None:
    monkeypatch.setattr(drift_module, "PROBE", code)
    found = measure_drift(dense, dense, seed=0)
    assert found.value is None
    assert said in found.reason


def test_a_pipeline_is_copied_whole_but_for_hidden_folders(tagmoe, dense, tmp_path) -> None:
    pipeline = tmp_path / "pipeline"
    pipeline.mkdir()
    shutil.copytree(dense, pipeline / "transformer")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model.safetensors").write_bytes(os.urandom(1000))
    (pipeline / "vae").symlink_to(tmp_path / "elsewhere")
    (pipeline / ".cache").mkdir()
    (pipeline / ".cache" / "x").write_text("x")
    (pipeline / ".gitattributes").write_text("a")
    (pipeline / "model_index.json").write_text(json.dumps({"_class_name": "P", "transformer": ["diffusers", "Q"]}))
    made = tmp_path / "moe"
    assert tagmoe("upcycle", pipeline, made, "--num-moe-blocks", 1, "--no-drift").code == 0
    assert sorted(path.name for path in made.iterdir()) == [".gitattributes", "model_index.json", "transformer", "vae"]
    assert not (made / "vae").is_symlink()
    assert folder(made / "vae") == folder(tmp_path / "elsewhere")
    index = json.loads((made / "model_index.json").read_text())
    assert index == {"_class_name": "P", "transformer": ["tagmoe", "TagMoETransformer2DModel"]}
    assert tagmoe("upcycle", pipeline, made, "--num-moe-blocks", 2, "--no-drift", "--force").code == 0
    assert json.loads((made / "transformer" / "config.json").read_text())["num_moe_blocks"] == 2
    (pipeline / "model_index.json").write_text("[]")
    tagmoe("upcycle", pipeline, tmp_path / "other", "--num-moe-blocks", 1).refused(1, "model_index.json")
    (pipeline / "vae" / "loop").symlink_to(pipeline / "vae")
    (pipeline / "model_index.json").write_text("{}")
    tagmoe("upcycle", pipeline, tmp_path / "other", "--num-moe-blocks", 1).refused(1, "loop")


def test_the_bar_is_for_terminals(monkeypatch, capsys) -> None:
    with byte_bar("upcycle") as silent:
        assert silent is None
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with byte_bar("upcycle") as progress:
        progress(5, 10)
    assert capsys.readouterr().out == ""
