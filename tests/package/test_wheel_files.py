"""What the wheel holds: all that commands read, and nothing that only a checkout needs."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tagmoe
from tagmoe.errors import UsageError
from tagmoe.pipeline.packaged import example, picture_path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "tagmoe"
# what setuptools would put into a wheel, without building one
CODE = """
import json, sys
from setuptools import Distribution
distribution = Distribution({"script_name": "setup.py"})
distribution.parse_config_files()
distribution.get_command_obj("egg_info").egg_base = sys.argv[1]
command = distribution.get_command_obj("build_py")
command.ensure_finalized()
modules = [path for _, _, path in command.find_all_modules()]
data = [f"{source}/{name}" for _, source, _, names in command.data_files for name in names]
print(json.dumps({"version": distribution.get_version(), "files": modules + data}))
"""


def plan(scratch: Path) -> dict[str, list[str]]:
    command = [sys.executable, "-c", CODE, str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return plan(tmp_path_factory.mktemp("metadata"))


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package_and_no_bytecode(built: dict[str, list[str]]) -> None:
    there = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    wanted = {name for name in there if "__pycache__" not in name}
    assert len(wanted) > 280
    assert set(built["files"]) == wanted
    for name in ("recipes/tagworld/quick.yaml", "recipes/tagworld/ablation/common.yaml", "report/page.css", "py.typed"):
        assert f"src/tagmoe/{name}" in wanted


@pytest.mark.slow
def test_bytecode_that_lies_among_the_data_stays_out(built: dict[str, list[str]], tmp_path: Path) -> None:
    stray = PACKAGE / "pipeline" / "tagworld" / "__pycache__" / "stray.pyc"
    stray.parent.mkdir()
    try:
        stray.write_bytes(b"")
        assert plan(tmp_path) == built
    finally:
        stray.unlink()
        stray.parent.rmdir()


def test_the_version_stands_once(built: dict[str, list[str]]) -> None:
    assert built["version"] == tagmoe.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "version" not in project


def test_the_paths_of_the_documents_lead_into_the_package() -> None:
    assert (ROOT / "recipes").resolve() == PACKAGE / "recipes"
    for name in ("scene", "person"):
        assert (ROOT / "docs" / "images" / f"{name}.png").resolve() == example(name)
        assert picture_path(Path(f"example:{name}")) == example(name)
    assert picture_path(Path("scene.png")) == Path("scene.png")


def test_an_example_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="'dog'; the package holds person, scene"):
        example("dog")
