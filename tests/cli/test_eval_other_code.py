"""`tagmoe eval` with editors that misbehave: in their process, in what they give, and in what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EDITORS = """
import os, sys
from asyncio import CancelledError
import numpy as np
from PIL import Image

def red(instructions, images, seeds):
    return [Image.new("RGB", (64, 64), "red") for _ in instructions]

def prints(instructions, images, seeds):
    print("from Python")
    os.write(1, b"from a process or from C\\n")
    return red(instructions, images, seeds)

def leaves(instructions, images, seeds):
    os.chdir("/")
    return red(instructions, images, seeds)

def exits(instructions, images, seeds):
    if any("1" in str(seed) for seed in seeds):
        sys.exit(0)
    return red(instructions, images, seeds)

def cancels(instructions, images, seeds):
    raise CancelledError

class Closed:
    def detach(self):
        raise OSError("the device is gone")

def closed(instructions, images, seeds):
    return [Closed() for _ in instructions]

def one_by_one(instructions, images, seeds):
    yield from red(instructions, images, seeds)

class Told:
    def __init__(self, facts):
        self._facts = facts

    def facts(self):
        return {"name": "told", "settings": self._facts}

    def __call__(self, *asked):
        return red(*asked)

sizes = Told({"size": (1, 2), 3: 4})
numbers = Told({"scale": np.float32(1)})
infinite = Told({"scale": float("inf")})

class Failing(Told):
    def facts(self):
        raise RuntimeError("no weights")

failing = Failing({})
"""
TASKS = ("--tasks", "recolour,add,remove")


@pytest.fixture
def bench(tagmoe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "misbehaving", raising=False)
    Path("misbehaving.py").write_text(EDITORS)
    Path("exiting.py").write_text("import sys; sys.exit(0)")
    assert tagmoe("eval", "prepare", "tagworld", "--cases", 1, "--out", "bench").code == 0
    return Path("bench")


def statuses(tagmoe, bench: Path, editor: str) -> tuple[dict[str, int], str]:
    made = tagmoe("eval", "generate", bench, "--editor", f"misbehaving:{editor}", *TASKS, "--out", editor, "--json")
    data = json.loads(made.out)
    assert made.code == (1 if data["failures"] else 0)
    return data["statuses"], " ".join(one["reason"] for one in data["failures"])


def test_an_editor_that_prints_leaves_stdout_to_the_result(bench: Path) -> None:
    words = ["eval", "generate", bench, "--editor", "misbehaving:prints", *TASKS, "--out", "run", "--json"]
    code = "import sys; from tagmoe.cli import run; sys.exit(run(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["statuses"] == {"ok": 3}
    assert "from Python\n" in done.stderr
    assert "from a process or from C\n" in done.stderr


def test_an_editor_that_ends_its_process_fails_its_case_alone(tagmoe, bench: Path) -> None:
    assert statuses(tagmoe, bench, "exits") == ({"failed": 1, "ok": 2}, "SystemExit: 0")
    assert statuses(tagmoe, bench, "cancels")[0] == {"failed": 3}
    tagmoe("eval", "generate", bench, "--editor", "exiting:edit", "--out", "x").refused(
        2, "cannot be imported (SystemExit"
    )


def test_an_editor_that_goes_to_another_folder_changes_nothing(tagmoe, bench: Path) -> None:
    before = os.getcwd()
    assert statuses(tagmoe, bench, "leaves")[0] == {"ok": 3}
    os.chdir(before)
    assert len(list(Path("leaves/outputs").iterdir())) == 3


def test_what_an_editor_gives_may_be_anything(tagmoe, bench: Path) -> None:
    assert statuses(tagmoe, bench, "closed")[0] == {"unreadable": 3}
    assert statuses(tagmoe, bench, "one_by_one")[0] == {"ok": 3}, "an iterator is as good as a list"


def test_a_run_is_known_again_by_settings_that_json_writes_otherwise(tagmoe, bench: Path) -> None:
    command = ("eval", "generate", bench, "--editor", "misbehaving:sizes", *TASKS, "--out", "run", "--json")
    assert json.loads(tagmoe(*command).out)["new"] == 3
    assert json.loads(tagmoe(*command).out)["new"] == 0
    facts = json.loads(Path("run/run.json").read_text())["editor"]
    assert facts["settings"] == {"size": [1, 2], "3": 4}


@pytest.mark.parametrize(
    ("editor", "said"),
    [
        ("numbers", "no plain data"),
        ("infinite", "no plain data"),
        ("failing", "facts() failed (RuntimeError: no weights)"),
        ("Told", "is a class; make an object of it"),
    ],
)
def test_what_an_editor_says_of_itself_is_refused_in_one_sentence(tagmoe, bench: Path, editor: str, said: str) -> None:
    tagmoe("eval", "generate", bench, "--editor", f"misbehaving:{editor}", "--out", "x").refused(2, said)
    assert not Path("x").exists()


def test_a_setting_that_yaml_reads_as_a_date_is_refused(tagmoe, bench: Path) -> None:
    from support.images_server import images_server

    with images_server() as server:
        tagmoe(
            *("eval", "generate", bench, "--endpoint", server.url, "--model", "tiny-editor"),
            *("--set", "day=2026-01-02", "--out", "x"),
        ).refused(2, "no plain data")


def test_a_compiled_function_has_no_file_and_is_asked_all_the_same(tagmoe, bench: Path) -> None:
    made = tagmoe("eval", "generate", bench, "--editor", "builtins:len", *TASKS, "--out", "run", "--json")
    assert json.loads(made.out)["statuses"] == {"failed": 3}
    assert json.loads(Path("run/run.json").read_text())["editor"]["code"] is None
