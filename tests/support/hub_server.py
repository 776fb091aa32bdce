"""A server on this machine that speaks the hub's routes: "owner/model", a model and a data set, from a folder."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Repository "owner/model" from a folder, also as a data set; "owner/gated" is gated, all others are unknown."""

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
        for prefix in ("/api/models/", "/api/datasets/", "/datasets/", "/"):
            path = path.removeprefix(prefix)
        name, _, rest = path.partition("/model")
        if "owner/gated" in path:
            return self.answer(403, b"{}", X_Error_Code="GatedRepo", X_Error_Message="gated")
        if name != "owner":
            return self.answer(404, b"{}", X_Error_Code="RepoNotFound")
        paths = [file.relative_to(self.files).as_posix() for file in self.files.rglob("*") if file.is_file()]
        if rest.startswith("/revision/v9"):
            return self.answer(404, b"{}", X_Error_Code="RevisionNotFound")
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


@contextmanager
def served(files: Path) -> Iterator[Any]:
    """The server; `hub.url` is its address, `hub.files` the repository's folder, `hub.asked` the files sent."""
    handler = type("Handler", (Hub,), {"files": files, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    handler.url = f"http://127.0.0.1:{server.server_port}"
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


@contextmanager
def client_of(hub: Any, home: Path) -> Iterator[None]:
    """Have this process ask the server and cache in `home`: huggingface_hub has read the environment already."""
    from huggingface_hub import constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield


def run(hub: Any, tmp_path: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, because huggingface_hub reads the environment once."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    return subprocess.run(
        [sys.executable, "-c", *command], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
