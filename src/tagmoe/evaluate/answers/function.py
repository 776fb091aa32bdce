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
from tagmoe.sentences import reason_of


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
    except Exception as error:
        # The user's module runs on import, so any error may come.
        raise UsageError(
            f"The editor {name!r} cannot be imported ({type(error).__name__}: {reason_of(error)}); give a function as "
            "package.module:function."
        ) from error
    if not callable(found):
        raise UsageError(f"The editor {name!r} is no function; give one that takes instructions, pictures and seeds.")
    file = inspect.getsourcefile(inspect.getmodule(found) or sys.modules[module])
    code = None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()
    own = dict(found.facts()) if hasattr(found, "facts") else {}
    return found, {"name": name, "weights": None, "settings": {}, "code": code, **own}
