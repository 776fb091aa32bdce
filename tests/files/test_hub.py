"""Models by name: a server on this machine speaks the hub's routes, real files are downloaded."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from tagmoe.errors import MissingError, UsageError
from tagmoe.files.hub import local_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Repository "owner/model" from a folder; "owner/gated" is gated, all others are unknown."""

    files: Path
    asked: list[str]

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        name, _, rest = path.removeprefix("/api/models/").removeprefix("/").partition("/model")
        if "owner/gated" in path:
            return self.answer(403, b"{}", X_Error_Code="GatedRepo", X_Error_Message="gated")
        if name != "owner":
            return self.answer(404, b"{}", X_Error_Code="RepoNotFound")
        paths = [file.relative_to(self.files).as_posix() for file in self.files.rglob("*") if file.is_file()]
        if rest.startswith("/revision/") or rest == "":
            data = {"id": "owner/model", "sha": COMMIT, "siblings": [{"rfilename": item} for item in paths]}
            return self.answer(200, json.dumps(data).encode(), Content_Type="application/json")
        if rest.startswith("/tree/"):
            facts = [
                {
                    "type": "file",
                    "path": item,
                    "size": (self.files / item).stat().st_size,
                    "oid": tag(self.files / item),
                }
                for item in paths
            ]
            return self.answer(200, json.dumps(facts).encode(), Content_Type="application/json")
        wanted = rest.removeprefix(f"/resolve/{COMMIT}/")
        self.asked.append(wanted)
        file = self.files / wanted
        return self.answer(200, file.read_bytes(), ETag=f'"{tag(file)}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET


def tag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[type[Hub]]:
    """The server; `hub.url` is its address, `hub.files` the repository's folder, `hub.asked` the files sent."""
    handler = type("Handler", (Hub,), {"files": tmp_path / "repository", "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    handler.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def save_dense(folder: Path) -> None:
    from diffusers import QwenImageTransformer2DModel

    torch.manual_seed(0)
    settings = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16, "axes_dims_rope": (4, 6, 6)}
    model = QwenImageTransformer2DModel(in_channels=16, out_channels=4, joint_attention_dim=24, **settings)
    model.save_pretrained(folder, max_shard_size="100KB")


def run(hub: Any, tmp_path: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, because huggingface_hub reads the environment once."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    return subprocess.run(
        [sys.executable, "-c", *command], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )


COMMAND = "import sys; from tagmoe.cli import run; sys.exit(run(sys.argv[1:]))"
LOAD = """
import sys
from tagmoe import TagMoETransformer2DModel
print(TagMoETransformer2DModel.from_pretrained(sys.argv[1]).num_parameters())
"""


def test_upcycling_by_name_fetches_the_transformer_and_nothing_else(hub, tmp_path) -> None:
    save_dense(hub.files / "transformer")
    for name in (
        "model_index.json",
        "vae/config.json",
        "transformer/code.py",
        "transformer/diffusion_pytorch_model.bin",
    ):
        (hub.files / name).parent.mkdir(exist_ok=True)
        (hub.files / name).write_text("{}")
    words = ("owner/model", str(tmp_path / "moe"), "--num-moe-blocks", "1", "--no-drift", "--json")
    done = run(hub, tmp_path, COMMAND, "upcycle", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["drift"] is None
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
def test_a_repository_that_cannot_be_had_is_one_sentence(hub, tmp_path, name, said) -> None:
    hub.files.mkdir()
    done = run(hub, tmp_path, COMMAND, "upcycle", name, str(tmp_path / "moe"), "--num-moe-blocks", "1")
    assert done.returncode == 3, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert said in done.stderr
    assert "hf download" in done.stderr
    assert not (tmp_path / "moe").exists()


def test_no_network_is_one_sentence(tmp_path) -> None:
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
