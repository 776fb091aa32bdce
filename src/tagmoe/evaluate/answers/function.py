"""A Python function as an editor, by the name of its module and its own: `package.module:function`."""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from tagmoe.editor import Editor
from tagmoe.errors import UsageError
from tagmoe.evaluate.answers.answer import RAISED, reason_raised


def load_function(name: str) -> tuple[Editor, dict[str, Any]]:
    """The function, and what is known of it: the digest of its file, and what its own `facts()` says, if it has one.

    Modules are found as by `python -m`: installed ones, and those in the folder where the command runs. Raises
    UsageError where there is no such function.
    """
    module, _, path = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except RAISED as error:
        # The user's module runs on import, so any error may come.
        raise UsageError(
            f"The editor {name!r} cannot be imported ({reason_raised(error)}); give a function as "
            "package.module:function."
        ) from error
    if not callable(found):
        raise UsageError(f"The editor {name!r} is no function; give one that takes instructions, pictures and seeds.")
    if inspect.isclass(found):
        raise UsageError(f"The editor {name!r} is a class; make an object of it in its module, and name that.")
    return found, {"name": name, "weights": None, "settings": {}, "code": _digest_of_code(found, module), **_own(found)}


def _own(found: Any) -> dict[str, Any]:
    """What the editor says of itself. Raises UsageError where its `facts()` fails or gives no names."""
    if not hasattr(found, "facts"):
        return {}
    try:
        return dict(found.facts())
    except RAISED as error:
        raise UsageError(
            f"The editor's facts() failed ({reason_raised(error)}); let it give a dictionary of name, weights and "
            "settings."
        ) from error


def _digest_of_code(found: Any, module: str) -> str | None:
    """SHA-256 of the file that the function is from; None for one that has no file, such as a compiled one."""
    try:
        file = inspect.getsourcefile(inspect.getmodule(found) or sys.modules[module])
        return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except (TypeError, OSError):
        return None
