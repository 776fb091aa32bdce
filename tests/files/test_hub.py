"""Models by name: a server on this machine speaks the hub's routes, real files are downloaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.hub_server import client_of, run, served

from tagmoe import cli
from tagmoe.errors import MissingError, UsageError
from tagmoe.files.hub import local_folder


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Any]:
    with served(tmp_path / "repository") as hub:
        yield hub


def save_dense(folder: Path) -> None:
    from diffusers import QwenImageTransformer2DModel

    torch.manual_seed(0)
    settings = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16, "axes_dims_rope": (4, 6, 6)}
    model = QwenImageTransformer2DModel(in_channels=16, out_channels=4, joint_attention_dim=24, **settings)
    model.save_pretrained(folder, max_shard_size="100KB")


COMMAND = "import sys; from tagmoe.cli import run; sys.exit(run(sys.argv[1:]))"
LOAD = """
import sys
from tagmoe import TagMoETransformer2DModel
print(TagMoETransformer2DModel.from_pretrained(sys.argv[1]).num_parameters())
"""


def test_upcycling_by_name_fetches_the_transformer_and_nothing_else(hub, tmp_path, capsys) -> None:
    save_dense(hub.files / "transformer")
    for name in (
        "model_index.json",
        "vae/config.json",
        "transformer/code.py",
        "transformer/diffusion_pytorch_model.bin",
    ):
        (hub.files / name).parent.mkdir(exist_ok=True)
        (hub.files / name).write_text("{}")
    with client_of(hub, tmp_path / "cache"):
        words = ["owner/model", str(tmp_path / "moe"), "--num-moe-blocks", "1", "--no-drift", "--json"]
        assert cli.run(["upcycle", *words]) == 0
    assert json.loads(capsys.readouterr().out)["drift"] is None
    assert (tmp_path / "moe" / "config.json").is_file()
    fetched = set(hub.asked)
    assert fetched == {
        f"transformer/{path.name}"
        for path in (hub.files / "transformer").glob("*")
        if path.suffix in (".json", ".safetensors")
    }
    assert len(fetched) > 3


@pytest.mark.slow
def test_a_model_by_name_is_loaded_from_safetensors_alone(hub, tmp_path) -> None:
    save_dense(hub.files)
    (hub.files / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    done = run(hub, tmp_path, LOAD, "owner/model")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10_000
    assert all(name.endswith((".json", ".safetensors")) for name in hub.asked)


@pytest.mark.parametrize(("name", "said"), [("owner/gated", "gated"), ("nobody/model", "does not exist")])
def test_a_repository_that_cannot_be_had_is_one_sentence(hub, tmp_path, capsys, name, said) -> None:
    hub.files.mkdir()
    with client_of(hub, tmp_path / "cache"):
        assert cli.run(["upcycle", name, str(tmp_path / "moe"), "--num-moe-blocks", "1"]) == 3
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert "hf download" in line
    assert not (tmp_path / "moe").exists()


@pytest.mark.slow
def test_no_network_is_one_sentence(tmp_path) -> None:
    """In a new process, which reads the address of the hub from the environment."""
    nowhere = type("Nowhere", (), {"url": "http://127.0.0.1:9"})
    done = run(nowhere, tmp_path, COMMAND, "upcycle", "owner/model", str(tmp_path / "moe"), "--num-moe-blocks", "1")
    assert done.returncode == 3, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "cannot be reached" in done.stderr
    assert "hf download owner/model" in done.stderr


def test_folders_are_taken_as_they_are(tmp_path) -> None:
    assert local_folder(tmp_path) == tmp_path
    assert local_folder(str(tmp_path)) == tmp_path
    for name in (tmp_path / "none", "./owner/none", "one", "a/b/c", "../x"):
        with pytest.raises(MissingError, match="hf download"):
            local_folder(name)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        local_folder(tmp_path / "file")
    with pytest.raises(ValueError, match="allow_patterns"):
        local_folder(tmp_path, allow_patterns=["*.bin"])
