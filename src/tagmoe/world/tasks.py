"""The tasks of TagWorld and their tags."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from tagmoe.tags import TaskDescriptor

from . import edits, pictures
from .dice import Dice
from .edits import Edit


@dataclass(frozen=True)
class Task:
    """A kind of case. `preservation`: tags of every case. Those of face and identity are added when a face stays."""

    make: Callable[[Dice], Edit]
    scope: str
    types: tuple[str, ...] = ()
    preservation: tuple[str, ...] = ()
    keeps_face: bool = True

    def tags(self, edit: Edit) -> TaskDescriptor:
        """The case's tags: they depend on whether a face is in both pictures."""
        return self.descriptor(edit.source is not None and None not in (edit.source.face, edit.target.face))

    def descriptor(self, face_in_both: bool) -> TaskDescriptor:
        """The tags, given whether a face is in source and target."""
        return _descriptor(self.scope, self.types, self.preservation, self.keeps_face and face_in_both)


@cache
def _descriptor(scope: str, types: tuple[str, ...], kept: tuple[str, ...], face: bool) -> TaskDescriptor:
    if face:
        kept = tuple(dict.fromkeys(("identity preservation", "face preservation", *kept)))
    return TaskDescriptor(scope=(scope,), types=types, preservation=kept)


_STRUCTURE, _BACKGROUND = "structure preservation", "background preservation"
_IDENTITY, _STYLE = "identity preservation", "style preservation"
_LOCAL, _GLOBAL, _MULTI = "local editing", "global editing", "multi region editing"
_OBJECT, _ATTRIBUTE = ("object editing",), ("attribute editing",)

TASKS: dict[str, Task] = {
    "generate": Task(pictures.generate, "image generation"),
    "add": Task(edits.add, _LOCAL, _OBJECT, (_STRUCTURE, _BACKGROUND, _STYLE)),
    "remove": Task(edits.remove, _LOCAL, _OBJECT, (_STRUCTURE, _BACKGROUND, _STYLE)),
    "replace": Task(edits.replace_item, _LOCAL, _OBJECT, (_STRUCTURE, _BACKGROUND, _STYLE)),
    "recolour": Task(edits.recolour, _LOCAL, _ATTRIBUTE, (_STRUCTURE, _BACKGROUND, _IDENTITY, _STYLE)),
    "retexture": Task(edits.retexture, _LOCAL, _ATTRIBUTE, (_STRUCTURE, _BACKGROUND, _IDENTITY, _STYLE)),
    "resize": Task(edits.resize, _LOCAL, _ATTRIBUTE, (_BACKGROUND, _IDENTITY, _STYLE)),
    "move": Task(edits.move, _LOCAL, _OBJECT, (_BACKGROUND, _IDENTITY, _STYLE)),
    "swap": Task(edits.swap, _MULTI, _OBJECT, (_BACKGROUND, _IDENTITY, _STYLE)),
    "expression": Task(edits.expression, _LOCAL, ("pose editing",), (_IDENTITY, _BACKGROUND, _STYLE)),
    "wear": Task(edits.wear, _LOCAL, _OBJECT, (_IDENTITY, _BACKGROUND, _STYLE)),
    "take_off": Task(edits.take_off, _LOCAL, _OBJECT, (_IDENTITY, _BACKGROUND, _STYLE)),
    "hair": Task(edits.hair, _LOCAL, _ATTRIBUTE, (_STRUCTURE, _IDENTITY, _BACKGROUND, _STYLE)),
    "background": Task(pictures.background, _GLOBAL, ("background editing",), (_STRUCTURE, _IDENTITY, _STYLE)),
    "pattern": Task(pictures.pattern, _GLOBAL, ("background editing",), (_STRUCTURE, _IDENTITY, _STYLE)),
    "style": Task(pictures.style, _GLOBAL, ("style transfer",), (_STRUCTURE, _IDENTITY), keeps_face=False),
    "destyle": Task(pictures.destyle, _GLOBAL, ("style transfer",), (_STRUCTURE, _IDENTITY), keeps_face=False),
    "light": Task(pictures.light, _GLOBAL, ("illumination editing",), (_STRUCTURE, _IDENTITY, _STYLE)),
    "relight": Task(pictures.relight, _GLOBAL, ("illumination editing",), (_STRUCTURE, _IDENTITY, _STYLE)),
    "viewpoint": Task(pictures.viewpoint, "viewpoint editing", (), (_IDENTITY, _BACKGROUND, _STYLE)),
    "multi_recolour": Task(edits.multi_recolour, _MULTI, _ATTRIBUTE, (_STRUCTURE, _BACKGROUND, _IDENTITY, _STYLE)),
    "multi_remove": Task(edits.multi_remove, _MULTI, _OBJECT, (_STRUCTURE, _BACKGROUND, _STYLE)),
    "subject": Task(pictures.subject, "content customization", ("background editing",), (_IDENTITY,)),
    "style_ref": Task(pictures.style_ref, "style customization", ("style transfer",), (_STYLE,), keeps_face=False),
    "structure": Task(pictures.structure, "image generation", (), (_STRUCTURE,)),
}
