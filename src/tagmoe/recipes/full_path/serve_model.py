"""A tiny Qwen2.5-VL behind `transformers serve` on loopback, in place of the model of a lab.

    python serve_model.py FOLDER STORE

It knows one answer, which it was taught on rows of the store: what it says of a picture is worth nothing. It stands
here so that tags come over the real protocol from a real server. FOLDER/url and FOLDER/name are written once the
server answers; it runs until it is ended.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import FrameType

from tagmoe.annotation.ask.prompt import task_question
from tagmoe.annotation.rules.rule_set import packaged_rules
from tagmoe.data.store.store import Store
from tagmoe.recipes.full_path.tiny_vlm import save_tiny_vlm, teach, tiny_model, tiny_tokenizer
from tagmoe.vlm.local import LocalVLM

ANSWER = json.dumps(
    {"scope": "local editing", "types": ["object editing"], "preservation": ["background preservation"]}
)
"""What it says of every picture."""
LESSONS = 6
"""Rows of the store that it is taught on."""
WAIT = 120.0
"""Seconds for the server to answer."""


def make_model(folder: Path, store: Store) -> None:
    """The folder of a model that gives `ANSWER` to the question of `tagmoe data annotate`."""
    questions = [task_question(record, packaged_rules()) for record in store.records(range(LESSONS))]
    texts = [part for question in questions for part in (*question.parts, question.system) if isinstance(part, str)]
    tokenizer = tiny_tokenizer([*texts, ANSWER], vocab_size=1200)
    vlm = LocalVLM(tiny_model(tokenizer), tokenizer, name="tiny")
    teach(vlm, [(question, ANSWER) for question in questions])
    save_tiny_vlm(folder, vlm, without_videos=True)


def serve(folder: Path) -> None:
    """Run `transformers serve`, and write where it is once it answers. Raises RuntimeError if it does not."""
    # It lists what is in its cache, and fails when there is none.
    (folder / "home" / "hub").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = os.environ | {"HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    process = subprocess.Popen(command, cwd=folder, env=environment)

    def end(number: int, frame: FrameType | None) -> None:
        process.terminate()

    signal.signal(signal.SIGTERM, end)
    try:
        _wait(f"http://127.0.0.1:{port}/health", process)
        (folder / "name").write_text(str(folder / "model"))
        (folder / "url").write_text(f"http://127.0.0.1:{port}/v1")
        process.wait()
    finally:
        process.kill()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + WAIT
    while process.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    raise RuntimeError(f"transformers serve did not answer at {url}.")


if __name__ == "__main__":
    root = Path(sys.argv[1]).resolve()
    root.mkdir(parents=True, exist_ok=True)
    make_model(root / "model", Store.open(sys.argv[2]))
    serve(root)
