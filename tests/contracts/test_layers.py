"""The layers: who may import whom, read from the source, and which packages stay free of heavy imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "tagmoe"
LAYERS = (
    ("errors",),
    ("config", "files", "intervals", "pictures", "report"),
    ("tags",),
    ("weights",),
    ("model",),
    ("losses",),
    ("world", "vlm"),
    ("data", "rewrite"),
    ("annotation",),
    ("pipeline",),
    ("train", "evaluate", "routing"),
    ("serve", "study", "laboratory"),
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# That neither the model nor the pipeline can see tags shows the paper's claim: they are needed in training only.
PIPELINE = {"tags", "losses", "data"}
BANNED = {
    "model": {"tags"},
    "losses": {"model"},
    "pipeline": PIPELINE,
}
HEAVY = ("torch", "diffusers", "transformers", "gradio")
LIGHT = (
    "tagmoe",
    "tagmoe.errors",
    "tagmoe.config",
    "tagmoe.files.resumable",
    "tagmoe.weights.presets",
    "tagmoe.files.hub",
    "tagmoe.weights.release",
    "tagmoe.weights.convert_release",
    "tagmoe.weights.shards",
    "tagmoe.weights.upcycle",
    "tagmoe.tags",
    "tagmoe.world",
    "tagmoe.data.store.store",
    "tagmoe.pipeline.memory.plans",
    "tagmoe.rewrite.rewriter",
    "tagmoe.cli",
)
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Parts of tagmoe that a file imports anywhere in it, also inside functions and for types only."""
    package = ("tagmoe", *path.relative_to(PACKAGE).parent.parts)
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            names += [f"{module}.{alias.name}" for alias in node.names]
    parts = {name.split(".")[1] for name in names if name.startswith("tagmoe.")} - {"__version__"}
    # `from tagmoe import TagMoEPipeline` inside the package would go around the layers through the lazy names.
    assert parts <= LEVEL.keys(), f"{path.name} imports {sorted(parts - LEVEL.keys())}: import from its own module"
    return parts


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_its_own_layer_or_lower(path: Path) -> None:
    part = part_of(path)
    assert part in LEVEL, f"{part} is in no layer: place it in LAYERS"
    for other in imports_of(path) - {part}:
        assert LEVEL[other] <= LEVEL[part], f"{path.name} ({part}) imports {other}, which lies above it"
        assert other not in BANNED.get(part, ()), f"{path.name} ({part}) must not import {other}"


def exists(module: str) -> bool:
    path = PACKAGE.parent.joinpath(*module.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@pytest.mark.parametrize("module", [name for name in LIGHT if exists(name)])
def test_light_parts_import_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(sorted({set(HEAVY)!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
