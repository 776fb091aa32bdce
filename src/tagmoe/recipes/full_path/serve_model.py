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
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import FrameType
from typing import IO

from tagmoe.annotation.ask.prompt import task_question
from tagmoe.annotation.rules.rule_set import packaged_rules
from tagmoe.data.store.store import Store
from tagmoe.recipes.full_path.free_port import free_port
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


def start(folder: Path, output: IO[str] | None = None) -> tuple[subprocess.Popen[bytes], str]:
    """Start `transformers serve` in a folder; returns the process and its address once it answers.

    output: where it writes, by default where this process does. Raises RuntimeError if it does not answer.
    """
    # It lists what is in its cache, and fails when there is none.
    (folder / "home" / "hub").mkdir(parents=True)
    port = free_port()
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = os.environ | {"HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("HF_HUB_CACHE", None)
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
    end = time.monotonic() + WAIT
    while process.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return process, f"http://127.0.0.1:{port}/v1"
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    process.kill()
    raise RuntimeError(f"transformers serve does not answer on port {port}.")


def serve(folder: Path) -> None:
    """Run the server until this process is ended, and write where it is."""
    process, url = start(folder)

    def end(number: int, frame: FrameType | None) -> None:
        process.terminate()

    signal.signal(signal.SIGTERM, end)
    try:
        (folder / "name").write_text(str(folder / "model"))
        (folder / "url").write_text(url)
        process.wait()
    finally:
        process.kill()


if __name__ == "__main__":
    root = Path(sys.argv[1]).resolve()
    root.mkdir(parents=True, exist_ok=True)
    make_model(root / "model", Store.open(sys.argv[2]))
    serve(root)
