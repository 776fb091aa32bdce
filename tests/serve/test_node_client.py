"""The server by OpenAI's client for Node. OPENAI_NODE: a folder that holds node_modules/openai (npm install openai)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.serving import PlainPainter, serving

from tagmoe.pictures import png_of
from tagmoe.serve.limits import Limits

SCRIPT = Path(__file__).with_name("openai_client.cjs")


@pytest.mark.slow
def test_the_client_for_node_gets_what_the_one_for_python_gets(tmp_path: Path) -> None:
    folder, node = os.environ.get("OPENAI_NODE"), shutil.which("node")
    if not folder or node is None:
        pytest.skip("needs node, and OPENAI_NODE with a folder that holds node_modules/openai")
    picture = tmp_path / "x.png"
    picture.write_bytes(png_of(Image.new("RGB", (16, 16), "teal")))
    painter = PlainPainter()
    with serving(painter, limits=Limits(wait=0)) as server:
        command = [node, SCRIPT, server.url, folder, picture]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert (found["models"], found["model"]) == (["plain"], "plain")
    assert found["one"]["data"][0]["seed"] == 7
    first, several, masked, generated = painter.scenes[:4]
    assert (first.steps, first.cfg, len(first.pictures)) == (2, 1.5, 1)
    assert len(several.pictures) == 2
    assert [entry["seed"] for entry in found["several"]["data"]] == [3, 4]
    assert masked.mask is not None
    assert (generated.size, generated.negative, generated.cfg) == ((64, 32), "fog", 2)
    assert all(found[name]["data"][0]["b64_json"] for name in ("one", "several", "mask", "generated"))
    assert found["events"] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert found["edit_events"] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    params = {"transparent": "background", "many": "n", "svg": "output_format", "prompt": "prompt"}
    assert found["errors"] == {name: [True, 400, param, "invalid_request_error"] for name, param in params.items()}
