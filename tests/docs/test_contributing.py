"""The recipes of CONTRIBUTING.md run as printed, in a folder of their own with a copy of the recipes."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tagmoe.cli import run
from tagmoe.data.sources.registry import KINDS
from tagmoe.evaluate.answers.diffusers_editor import CALLS
from tagmoe.evaluate.benchmarks.registry import BENCHMARKS
from tagmoe.evaluate.metrics.registry import METRICS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
ARMS = "recipes/tagworld/ablation"
RECIPES = ("Add a source", "Add an annotator", "Add a benchmark", "Add a metric", "Add an editor", "Add an arm")
KINDS_OF_BLOCKS = {"python", "sh", "yaml", "text"}


def blocks(title: str) -> list[tuple[str, str]]:
    """Kind and text of every code block of a section."""
    (section,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"^```(\w+)\n(.*?)^```", section, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def contributor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in. What a recipe adds to a registry goes again."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_contrast", raising=False)
    registries: tuple[dict[str, Any], ...] = (KINDS, BENCHMARKS, METRICS, CALLS)
    known = [dict(registry) for registry in registries]
    yield tmp_path
    for registry, before in zip(registries, known, strict=True):
        registry.clear()
        registry.update(before)


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    "title", [pytest.param(title, marks=pytest.mark.slow if title.endswith("arm") else ()) for title in RECIPES]
)
def test_a_recipe_runs_as_printed(title: str, contributor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, object] = {"__name__": "recipe"}
    for kind, text in blocks(title):
        if kind == "python":
            if text.startswith("# my_contrast.py"):
                (contributor / "my_contrast.py").write_text(text, encoding="utf-8")
            exec(compile(text, f"CONTRIBUTING.md, {title}", "exec"), names)
            if title == "Add a source" and text.startswith("# captions.py"):
                # The file that a contributor writes.
                monkeypatch.setitem(sys.modules, "tagmoe.data.sources.captions", SimpleNamespace(**names))
        elif kind == "yaml":
            (contributor / ARMS / text.splitlines()[0].removeprefix("# ")).write_text(text, encoding="utf-8")
        elif kind == "sh":
            for line in text.splitlines():
                assert run(shlex.split(line)[1:]) == 0, line


def test_an_arm_loads_as_printed(contributor: Path) -> None:
    """The quick half of the recipe that trains."""
    (arm,) = [text for kind, text in blocks("Add an arm") if kind == "yaml"]
    (check,) = [text for kind, text in blocks("Add an arm") if kind == "python"]
    (contributor / ARMS / arm.splitlines()[0].removeprefix("# ")).write_text(arm, encoding="utf-8")
    exec(compile(check, "CONTRIBUTING.md", "exec"), {})


def test_the_recipes_are_whole() -> None:
    """A block of a kind that nobody runs would be passed over; so would a section without commands."""
    for title in RECIPES:
        kinds = [kind for kind, _ in blocks(title)]
        assert set(kinds) <= KINDS_OF_BLOCKS
        assert {"python", "sh"} <= set(kinds)
        assert len(kinds) == TEXT.split(f"## {title}\n")[1].split("\n## ")[0].count("```") // 2


def test_no_name_of_a_recipe_is_taken() -> None:
    """Otherwise the recipe would replace what is there, and prove nothing."""
    assert "captions" not in KINDS
    assert "pairs" not in BENCHMARKS
    assert "brighter" not in METRICS
    assert "MyEditPipeline" not in CALLS
    assert not (ROOT / ARMS / "experts-3.yaml").exists()
