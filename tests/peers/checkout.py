"""A checkout of diffusers, whose own tests are run against our classes. They are in no package, and no copy is here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType

VARIABLE = "DIFFUSERS_CHECKOUT"
PACKAGE = "diffusers_tests"


def checkout() -> Path | None:
    """The checkout that the environment names, or None. Raises FileNotFoundError when it holds no tests."""
    named = os.environ.get(VARIABLE)
    if not named:
        return None
    folder = Path(named).expanduser()
    if not (folder / "tests" / "__init__.py").is_file():
        raise FileNotFoundError(f"{VARIABLE} is {named!r}, which is no checkout of diffusers: it has no tests.")
    return folder


def version_note(folder: Path) -> str:
    """One sentence: which tests are run against which diffusers."""
    text = (folder / "src" / "diffusers" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'__version__ = "([^"]+)"', text)
    theirs, installed = found[1] if found else "unknown", importlib.metadata.version("diffusers")
    if theirs == installed:
        return f"The tests are those of the installed diffusers {installed}."
    return f"The tests are those of diffusers {theirs} and {installed} is installed, so a few may not fit it."


def load_tests(module: str) -> ModuleType:
    """A module of the checkout's tests, under a name of its own: `tests` is the name of our folder as well."""
    folder = checkout()
    assert folder is not None, f"these tests are collected only where {VARIABLE} is set"
    if PACKAGE not in sys.modules:
        root = folder / "tests"
        spec = importlib.util.spec_from_file_location(
            PACKAGE, root / "__init__.py", submodule_search_locations=[str(root)]
        )
        assert spec is not None
        sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        # They import what diffusers has deprecated.
        warnings.simplefilter("ignore")
        return importlib.import_module(f"{PACKAGE}.{module}")
