"""The table of extras says what pyproject.toml installs, and a missing module is one sentence with the install line."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from support.source_trees import imports_in

from tagmoe.errors import MissingError
from tagmoe.extras import APART, EXTRAS, is_installed, require

ROOT = Path(__file__).parents[2]
SOURCES = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "src" / "tagmoe").rglob("*.py"))}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def normalised(name: str) -> str:
    """The name of a distribution as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


PROVIDERS = {module: {normalised(name) for name in names} for module, names in packages_distributions().items()}


def distributions(requirements: list[str]) -> set[str]:
    """The distributions that requirements name, without versions, extras and tagmoe itself."""
    return {normalised(re.split(r"[\s\[<>=!~;]", line, maxsplit=1)[0]) for line in requirements} - {"tagmoe"}


CORE = distributions(PROJECT["dependencies"])
INSTALLED = {extra: distributions(lines) for extra, lines in PROJECT["optional-dependencies"].items()}


def imported() -> set[str]:
    """Every top-level package that the source imports anywhere, but Python's own and tagmoe."""
    found = set()
    for text in SOURCES.values():
        for node in imports_in(text):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            found |= {name.split(".")[0] for name in names}
    return found - sys.stdlib_module_names - {"tagmoe"}


# An extra that is apart from `all` may not be installed.
HERE = {extra: modules for extra, modules in EXTRAS.items() if extra not in APART or is_installed(extra)}


def test_the_table_is_what_the_extras_install() -> None:
    assert set(EXTRAS) == set(INSTALLED) - {"all", "dev"}
    for extra, modules in HERE.items():
        brought = {module: PROVIDERS[module] & INSTALLED[extra] for module in modules}
        assert all(brought.values()), f"{extra} does not install {brought}"
        assert INSTALLED[extra] == set().union(*brought.values()), f"{extra} installs what no module of it needs"


def test_all_holds_every_extra_and_dev_holds_all() -> None:
    extras = PROJECT["optional-dependencies"]
    assert extras["all"] == [f"tagmoe[{','.join(name for name in EXTRAS if name not in APART)}]"]
    assert "tagmoe[all]" in extras["dev"]


def test_whatever_is_imported_is_installed_with_tagmoe_or_by_an_extra() -> None:
    # torch.utils.tensorboard imports TensorBoard for us, and Starlette python-multipart
    optional = {module for modules in EXTRAS.values() for module in modules} - {"tensorboard", "python_multipart"}
    packages = imported()
    assert len(packages) > 20
    assert optional <= packages
    # what transformers and diffusers load their models with, and parts of Jinja and pydantic
    core = CORE | {"huggingface-hub", "markupsafe", "pydantic-core"}
    assert {name for name in packages - optional if not PROVIDERS.get(name, set()) & core} == set()


def test_a_missing_module_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    require("vlm", purpose="Asking a server")
    monkeypatch.setattr("tagmoe.extras.find_spec", lambda name: None if name == "jsonschema" else object())
    require("vlm", "aiohttp", purpose="Asking a server")
    with pytest.raises(MissingError) as caught:
        require("vlm", purpose="Asking a server")
    assert str(caught.value) == (
        "Asking a server needs jsonschema, which is not installed; run: pip install 'tagmoe[vlm]'."
    )
    assert caught.value.exit_code == 3


def test_a_guard_cannot_ask_an_extra_for_what_it_does_not_bring() -> None:
    with pytest.raises(ValueError, match="'scipy'"):
        require("data", "scipy", purpose="A store of data")
    with pytest.raises(KeyError):
        require("none", purpose="Anything")


def test_only_extras_names_the_install_line() -> None:
    words = re.compile(r"find_spec|pip install|except (ImportError|ModuleNotFoundError)")
    assert [path.name for path, text in SOURCES.items() if words.search(text)] == ["extras.py"]


def test_it_imports_no_module_that_it_asks_for() -> None:
    modules = sorted({module for modules in HERE.values() for module in modules})
    asking = "".join(f"require({extra!r}, purpose='It'); " for extra in HERE)
    code = f"import sys; from tagmoe.extras import require; {asking}print(set({modules!r}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_what_needs_no_extra_imports_none() -> None:
    """Training, editing and the recording of routing, in a process where no module of an extra can be imported."""
    modules = ["tagmoe.train.recipe", "tagmoe.train.loop", "tagmoe.laboratory.routing.recorder", "tagmoe.study.plan"]
    modules += ["tagmoe.cli.routing", "tagmoe.cli.train", "tagmoe.cli.edit", "tagmoe.evaluate.generation"]
    code = (
        "import sys, importlib\n"
        f"sys.modules.update(dict.fromkeys({sorted({name for names in EXTRAS.values() for name in names})!r}))\n"
        "for module in sys.argv[1:]:\n"
        "    importlib.import_module(module)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr[-1000:]) == (0, "")
