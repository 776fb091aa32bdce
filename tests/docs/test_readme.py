"""The README is short, its commands run as printed in an empty folder, and its list of rooms is whole."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from tagmoe.cli import run
from tagmoe.config import load_config

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "tagmoe"
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip() for kind, block in BLOCKS if kind == "sh" for line in block.splitlines() if line.strip()
]


@pytest.fixture
def reader_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_commands_are_of_known_kinds() -> None:
    assert len(COMMANDS) >= 5
    assert {command.split()[0] for command in COMMANDS} == {"make", "tagmoe"}


@pytest.mark.usefixtures("models")
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
    assert load_config(ROOT / "recipes" / f"{shlex.split(command)[2]}.yaml").unified.steps > 0


@pytest.mark.parametrize("target", [c.split()[1] for c in COMMANDS if c.startswith("make")])
def test_a_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}: ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("code", [block for kind, block in BLOCKS if kind == "python"])
def test_python_examples_run(code: str, reader_folder: Path) -> None:
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["edited"].size == (64, 64)  # type: ignore[attr-defined]


def test_it_is_short() -> None:
    assert len(TEXT.encode()) <= 8192


def test_its_parts_stand_in_their_order() -> None:
    """The picture stands above the first heading."""
    headings = re.findall(r"^## (.*)", TEXT, flags=re.MULTILINE)
    assert headings == [
        "Two commands",
        "Five equations",
        "Use",
        "What held, and what did not",
        "The house",
        "Links",
        "Citation",
    ]
    assert "arxiv.org/abs/2601.08881" in TEXT.split("## ")[0]
    assert "](docs/images/edits.png)" in TEXT.split("## ")[0]


def test_every_extra_it_names_is_one() -> None:
    """And none that a user needs is missing; `dev` and `all` are no extra of a command."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    table = TEXT.split("| commands | extra |")[1].split("\n\n")[0]
    cells = [row.split("|")[2] for row in table.splitlines()[2:]]
    assert {name for cell in cells for name in re.findall(r"\w+", " ".join(re.findall(r"`([\w,]+)`", cell)))} == (
        known.keys() - {"dev", "all", "docs"}
    )


def test_the_list_of_rooms_is_whole() -> None:
    block = re.search(r"```\n(src/tagmoe/.*?)```", TEXT, flags=re.DOTALL)
    assert block is not None
    listed = [
        name for line in block[1].splitlines()[1:] for name in re.findall(r"[\w.]+(?:/|\.py)", line.split("     ")[0])
    ]
    there = {path.name + "/" if path.is_dir() else path.name for path in PACKAGE.iterdir()}
    rooms = {name for name in there if name[0] not in "._" and name != "py.typed" and not name.startswith("__")}
    assert sorted(listed) == sorted(rooms)


def test_figures_are_those_of_the_result_files() -> None:
    data = json.loads((ROOT / "docs/results/packaged.json").read_text(encoding="utf-8"))
    of, tags = ({task: row[name]["value"] for task, row in data["tasks"].items()} for name in ("success", "tags"))
    success, new = data["success"], data["held_out"]["both pictures new"]
    seen = sum(row["seen"] for row in data["tasks"].values())
    for figure in (
        f"Of {100 * seen / success['n']:.0f} % of the cases",
        f"without these {100 * new['value']:.1f} % are right [{100 * new['low']:.1f}, {100 * new['high']:.1f}]",
        f"{100 * success['value']:.1f} % of {success['n']:,}",
        f"{100 * success['low']:.1f} to {100 * success['high']:.1f}",
        f"{100 * data['edit_done']['value']:.1f} %",
        f"{100 * data['tags']['value']:.1f} %",
        f"{100 * data['tags_baseline']:.1f} %",
        *(f"`{task}` ({100 * of[task]:.0f} %)" for task in sorted(of, key=lambda task: of[task])[:2]),
        *(f"`{task}` ({100 * tags[task]:.0f} %)" for task in sorted(tags, key=lambda task: tags[task])[:2]),
    ):
        assert re.search(re.escape(figure).replace("\\ ", r"\s+"), TEXT), figure
