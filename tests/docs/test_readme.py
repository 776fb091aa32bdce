"""The README's commands run as printed, in a folder that holds nothing but the README's pictures."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tagmoe.cli import run
from tagmoe.config import load_config

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip() for kind, block in BLOCKS if kind == "sh" for line in block.splitlines() if line.strip()
]


@pytest.fixture
def reader_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "docs" / "images", tmp_path / "docs" / "images")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_commands_are_of_known_kinds() -> None:
    assert len(COMMANDS) >= 5
    assert {command.split()[0] for command in COMMANDS} == {"make", "tagmoe"}


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("tagmoe") and " train " not in c])
def test_a_command_works(command: str, reader_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command)[1:]
    assert run(words) == 0
    assert capsys.readouterr().out.strip()
    if "-o" in words:
        assert (reader_folder / words[words.index("-o") + 1]).stat().st_size > 0


@pytest.mark.parametrize("command", [c for c in COMMANDS if " train " in c])
def test_a_training_recipe_exists_and_is_valid(command: str) -> None:
    """That it trains is tested at tiny size in tests/train; the printed run takes 10 minutes."""
    assert load_config(ROOT / shlex.split(command)[2]).unified.steps > 0


@pytest.mark.parametrize("target", [c.split()[1] for c in COMMANDS if c.startswith("make")])
def test_a_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}: ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("code", [block for kind, block in BLOCKS if kind == "python"])
def test_python_examples_run(code: str, reader_folder: Path) -> None:
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["edited"].size == (64, 64)  # type: ignore[attr-defined]


def test_every_link_and_picture_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_the_file_tree_is_real() -> None:
    block = re.search(r"```\n(src/tagmoe/.*?)```", TEXT, flags=re.DOTALL)
    assert block is not None
    for name in re.findall(r"^  ([\w./]+)", block[1], flags=re.MULTILINE):
        assert (ROOT / "src" / "tagmoe" / name).exists(), name
