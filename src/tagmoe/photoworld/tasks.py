"""The tasks of PhotoWorld and their tags."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tagmoe.tags import TaskDescriptor

from . import edits
from .edits import Draw, Edit


@dataclass(frozen=True)
class Task:
    """A kind of pair. make: one pair of it, or None where its change could hardly be seen. tags: of all its pairs."""

    make: Callable[[Draw], Edit | None]
    tags: TaskDescriptor


def _tags(scope: str, types: str = "", preservation: str = "") -> TaskDescriptor:
    """Tags by the first words of their names."""
    kept = tuple(f"{word} preservation" for word in preservation.split())
    return TaskDescriptor((scope,), (types,) if types else (), kept)


_LOCAL, _GLOBAL, _OBJECT = "local editing", "global editing", "object editing"

TASKS: dict[str, Task] = {
    "add": Task(edits.add, _tags(_LOCAL, _OBJECT, "structure background style")),
    "remove": Task(edits.remove, _tags(_LOCAL, _OBJECT, "structure background style")),
    "replace": Task(edits.replace_thing, _tags(_LOCAL, _OBJECT, "structure background style")),
    "move": Task(edits.move, _tags(_LOCAL, _OBJECT, "background identity style")),
    "background": Task(edits.background, _tags(_GLOBAL, "background editing", "structure identity style")),
    "grey": Task(edits.grey, _tags(_GLOBAL, "background editing", "structure identity style")),
    "night": Task(edits.night, _tags(_GLOBAL, "illumination editing", "structure identity style")),
    "style": Task(edits.style, _tags(_GLOBAL, "style transfer", "structure identity")),
    "restore": Task(edits.restore, _tags(_GLOBAL, "attribute editing", "structure background identity")),
    "enlarge": Task(edits.enlarge, _tags(_GLOBAL, "attribute editing", "structure background identity")),
    "subject": Task(edits.subject, _tags("content customization", "background editing", "identity")),
    "structure": Task(edits.structure, _tags("image generation", "", "structure")),
}

INVERSE_TAGS: dict[tuple[str, str], TaskDescriptor] = {
    ("structure", "edges"): _tags(_GLOBAL, "style transfer", "structure"),
}
"""Tags of inverse edits that are no task of their own, by (task, inverse task)."""
