"""The rooms: who may import whom, read from the source, and which modules stay free of heavy imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from support.source_trees import imports_in

PACKAGE = Path(__file__).parents[2] / "src" / "tagmoe"
LEVELS = (
    ("sentences",),
    ("errors",),
    ("colour_space", "extras", "picture_header"),
    ("config", "editor", "files", "intervals", "pictures", "report"),
    ("tags",),
    ("weights",),
    ("losses", "model", "photoworld", "vlm", "world"),
    ("data", "rewrite"),
    ("annotation", "pipeline"),
    ("routing",),
    ("evaluate",),
    ("serve", "train"),
    ("factory", "laboratory", "study"),
    ("cli",),
    ("__main__", "recipes"),
)
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
# Within a level no room imports another, but these two of the ground floor serve the others on it.
SHARED = {"files", "pictures"}
# That neither the model nor the pipeline can see tags shows the paper's claim: they are needed in training only.
BANNED = {
    "model": {"tags", "losses", "data", "train"},
    "pipeline": {"tags", "losses", "data", "train"},
    "losses": {"model"},
    "study": {"laboratory"},
}
HEAVY = ("torch", "diffusers", "transformers", "gradio")
LIGHT = (
    "tagmoe",
    "tagmoe.cli",
    "tagmoe.colour_space",
    "tagmoe.config",
    "tagmoe.data.store.store",
    "tagmoe.errors",
    "tagmoe.evaluate.benchmarks.registry",
    "tagmoe.evaluate.comparison.page",
    "tagmoe.evaluate.generation",
    "tagmoe.evaluate.scoring",
    "tagmoe.files.hub",
    "tagmoe.files.resumable",
    "tagmoe.intervals",
    "tagmoe.pictures",
    "tagmoe.pipeline.memory.plans",
    "tagmoe.report.pages",
    "tagmoe.rewrite.rewriter",
    "tagmoe.study.analysis",
    "tagmoe.study.store",
    "tagmoe.tags",
    "tagmoe.weights.convert_release",
    "tagmoe.weights.presets",
    "tagmoe.weights.release",
    "tagmoe.weights.shards",
    "tagmoe.weights.upcycle",
    "tagmoe.world",
)
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(text: str, package: tuple[str, ...]) -> set[str]:
    """Rooms of tagmoe that a file imports anywhere in it, also inside functions and for types only."""
    names: list[str] = []
    for node in imports_in(text):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        else:
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            names += [f"{module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("tagmoe.")} - {"__version__"}


def offences(room: str, imported: set[str]) -> list[str]:
    """What is wrong with what a file of this room imports."""
    if room not in LEVEL:
        return [f"{room} is on no level: place it in LEVELS"]
    found = []
    for other in sorted(imported - {room}):
        # `from tagmoe import TagMoEPipeline` inside the package would go around the levels through the lazy names.
        if other not in LEVEL:
            found.append(f"{room} imports {other}, which is no room: import from its own module")
        elif LEVEL[other] > LEVEL[room]:
            found.append(f"{room} imports {other}, which lies above it")
        elif LEVEL[other] == LEVEL[room] and other not in SHARED:
            found.append(f"{room} imports {other}, which lies beside it")
        elif other in BANNED.get(room, ()):
            found.append(f"{room} must not import {other}")
    return found


def test_every_room_imports_lower_rooms_only() -> None:
    assert len(MODULES) > 200
    found = [
        f"{path.relative_to(PACKAGE)}: {offence}"
        for path in MODULES
        for offence in offences(
            room_of(path), imports_of(path.read_text(), ("tagmoe", *path.relative_to(PACKAGE).parent.parts))
        )
    ]
    assert found == []


def test_offences_are_found() -> None:
    assert imports_of("from ..data import store\nimport tagmoe.tags.vocabulary", ("tagmoe", "model")) == {
        "data",
        "tags",
    }
    assert offences("model", {"tags"}) == ["model must not import tags"]
    assert offences("losses", {"data"}) == ["losses imports data, which lies above it"]
    assert offences("world", {"vlm"}) == ["world imports vlm, which lies beside it"]
    assert offences("report", {"files"}) == []
    assert offences("cli", {"TagMoEPipeline"}) == [
        "cli imports TagMoEPipeline, which is no room: import from its own module"
    ]


def test_light_modules_import_nothing_heavy() -> None:
    """One after another in a new process, which stops at the first that does."""
    code = (
        "import sys, importlib\n"
        "for module in sys.argv[1:]:\n"
        "    importlib.import_module(module)\n"
        f"    if heavy := {set(HEAVY)!r} & set(sys.modules):\n"
        "        sys.exit(f'{module} imports {sorted(heavy)}')"
    )
    done = subprocess.run([sys.executable, "-c", code, *LIGHT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
