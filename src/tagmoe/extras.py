"""The optional dependencies: which extra brings which modules, and the one sentence for a module that is missing.

Every guard calls `require` right before it imports, so that a missing module is an error of one kind with exit code 3.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from tagmoe.errors import MissingError

EXTRAS: dict[str, tuple[str, ...]] = {
    "train": ("tensorboard",),
    "lora": ("peft",),
    "memory": ("bitsandbytes",),
    "data": ("lance", "pyarrow", "webdataset", "imagehash"),
    "video": ("av", "cv2"),
    "ray": ("ray",),
    "vlm": ("aiohttp", "jsonschema", "llguidance", "sklearn", "cleanlab"),
    "eval": ("openai",),
    "serve": ("fastapi", "starlette", "uvicorn", "python_multipart", "prometheus_client"),
    "fleet": ("ray",),
    "page": ("gradio",),
    "study": ("choix", "krippendorff"),
    "reports": ("matplotlib", "sklearn"),
    "specialists": ("cv2", "onnxruntime"),
}
"""The modules that tagmoe imports from each extra of pyproject.toml; a test compares the two."""

APART = {"page": "Gradio 6.31 wants a Pillow below 13, and constraints.txt holds 13"}
"""Extras that `all` leaves out, and why."""


def install_line(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'tagmoe[{extra}]'"


def require(extra: str, *modules: str, purpose: str) -> None:
    """Raise MissingError when one of these modules of an extra is not installed. Nothing is imported.

    modules: by default all of the extra. purpose: what needs them, as the subject of a sentence ("Loading a LoRA").
    """
    unknown = [name for name in modules if name not in EXTRAS[extra]]
    if unknown:
        raise ValueError(f"The extra {extra!r} does not bring {unknown[0]!r}; add it to EXTRAS and to pyproject.toml.")
    for name in modules or EXTRAS[extra]:
        if find_spec(name) is None:
            raise MissingError(f"{purpose} needs {name}, which is not installed; run: {install_line(extra)}.")


def is_installed(extra: str) -> bool:
    """Whether all modules of an extra are there. Nothing is imported."""
    return all(find_spec(name) is not None for name in EXTRAS[extra])


def import_package(module: str, purpose: str, package: str | None = None) -> Any:
    """A module of a package that no extra brings. package: its name on the index, by default the module's.

    Raises MissingError where it is not installed.
    """
    if find_spec(module) is None:
        raise missing_package(package or module, purpose)
    return import_module(module)


def missing_package(package: str, purpose: str) -> MissingError:
    """The error where a package that no extra brings is not installed. purpose: as in `require`."""
    return MissingError(f"{purpose} needs {package}, which is not installed; run: pip install {package}.")
