"""The annotator that needs no model: tags from the words of the instruction, the native task and the pixels.

It refuses a record instead of guessing. It does not detect faces in pictures: a face is assumed if the instruction
names a person, a part of a face, or something that a face wears.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from tagmoe.annotation.answer import Annotation
from tagmoe.annotation.rules.evidence import Evidence, measure
from tagmoe.annotation.rules.operations import Operation, Things
from tagmoe.annotation.rules.words import Reading, read
from tagmoe.data.sources.native_tasks import Edit, edit_of
from tagmoe.data.store.record import Record
from tagmoe.errors import ImageError
from tagmoe.tags import TaskDescriptor

VERSION = "2"
"""Raise this with every change of the answers; rows of an older version are asked again."""

_STRUCTURE, _BACKGROUND = "structure preservation", "background preservation"
_IDENTITY, _FACE, _STYLE = "identity preservation", "face preservation", "style preservation"
_OBJECT, _ATTRIBUTE, _LOOK = "object editing", "attribute editing", "style transfer"
_GENERATION = TaskDescriptor(scope=("image generation",))
_FROM_MAP = TaskDescriptor(scope=("image generation",), preservation=(_STRUCTURE,))
_SUBJECT = TaskDescriptor(("content customization",), ("background editing",), (_IDENTITY,))
# The subject of a reference picture is put into the source.
_SUBJECT_PUT = TaskDescriptor(("content customization",), (_OBJECT,), (_BACKGROUND, _IDENTITY, _STYLE))
_STYLE_REFERENCE = TaskDescriptor(("style customization",), (_LOOK,), (_STYLE,))
_TRY_ON = TaskDescriptor(("content customization",), (_OBJECT,), (_STRUCTURE, _BACKGROUND, _IDENTITY, _FACE))

_TYPES: dict[Edit, tuple[str, ...]] = {
    "add": (_OBJECT,),
    "remove": (_OBJECT,),
    "replace": (_OBJECT,),
    "move": (_OBJECT,),
    "text": (_OBJECT,),
    "attribute": (_ATTRIBUTE,),
    "background": ("background editing",),
    "light": ("illumination editing",),
    "style": (_LOOK,),
    "pose": ("pose editing",),
    "viewpoint": (),
}
# Preservation tags by kind of edit. The words and the scope may remove some of them.
_KEPT: dict[Edit, frozenset[str]] = {
    "add": frozenset({_STRUCTURE, _BACKGROUND, _STYLE}),
    "remove": frozenset({_STRUCTURE, _BACKGROUND, _STYLE}),
    "replace": frozenset({_STRUCTURE, _BACKGROUND, _STYLE}),
    "move": frozenset({_BACKGROUND, _IDENTITY, _STYLE}),
    "text": frozenset({_STRUCTURE, _BACKGROUND, _STYLE}),
    "attribute": frozenset({_STRUCTURE, _BACKGROUND, _IDENTITY, _STYLE}),
    "background": frozenset({_STRUCTURE, _IDENTITY, _STYLE}),
    "light": frozenset({_STRUCTURE, _IDENTITY, _STYLE}),
    "style": frozenset({_STRUCTURE, _IDENTITY}),
    "pose": frozenset({_BACKGROUND, _IDENTITY, _STYLE}),
    "viewpoint": frozenset({_BACKGROUND, _IDENTITY, _STYLE}),
}
_WHOLE: frozenset[Edit] = frozenset({"background", "light", "style"})
_LOCAL_AREA = 0.4
"""If less than this share of pixels changed, an edit of "it" is local; else it is global."""
_NO_STRUCTURE = 0.2
"""If the edges agree less than this after a change of style, the structure is not preserved."""
_UNTOLD = "the words tell no operation that the rules know"
_OPEN = "the words leave open how much is edited, and the pixels are not used"


def annotate(record: Record, *, native_task: bool = True, pixels: bool = True) -> Annotation:
    """The tags of a record, or the status "refused" with the reason. The tags never break a rule of the vocabulary.

    native_task, pixels: whether to use them beside the words. `Annotation.raw` is what was understood, as JSON.
    """
    pictures = [picture.role for picture in record.inputs]
    words = read(record.instruction)
    edit = edit_of(record.dataset, record.native_task) if native_task else None
    fixed = _by_pictures(pictures, words, edit)
    if isinstance(fixed, TaskDescriptor):
        return _answer(fixed, words, None)
    evidence, note = None, ""
    if pixels:
        try:
            evidence = measure(record)
        except ImageError as error:
            note = f"{error}: the tags rest on the words alone"
    if evidence is not None and evidence.identical:
        return _refused("source and target are the same picture", words, evidence)
    operations = _operations(words, edit)
    if isinstance(operations, str):
        camera_moved = evidence is not None and evidence.whole_picture and evidence.camera.fit > 0.9
        if not camera_moved:
            return _refused("; ".join(filter(None, (operations, note))), words, evidence)
        operations = (Operation("viewpoint", "whole"),)
    if evidence is None and _is_open(operations, words):
        return _refused("; ".join(filter(None, (_OPEN, note))), words, evidence)
    return _answer(_descriptor(operations, words, evidence), words, evidence, note)


def _is_open(operations: Sequence[Operation], words: Reading) -> bool:
    """Whether only pixels can tell the scope."""
    if any(operation.things == "whole" for operation in operations):
        return False
    return words.again or any(operation.things in ("pair", "it") for operation in operations)


def _by_pictures(roles: Sequence[str], words: Reading, edit: Edit | None) -> TaskDescriptor | None:
    """The tags, if the roles of the pictures determine them; None for an edit of a source."""
    if edit == "control map" or (roles and set(roles) == {"reference"} and words.control_map):
        return _FROM_MAP
    if edit is None and set(roles) == {"source"} and words.from_map:
        # The source is the map itself.
        return _FROM_MAP
    if not roles or edit == "generate":
        return _GENERATION
    if edit == "try-on" or "garment" in roles:
        return _TRY_ON
    if edit == "style reference":
        return _STYLE_REFERENCE
    if edit == "subject":
        return _with_face(_SUBJECT, words)
    if "reference" not in roles:
        return None
    if words.style:
        return _STYLE_REFERENCE
    if set(roles) == {"reference"}:
        return _with_face(_SUBJECT, words)
    return _with_face(_SUBJECT_PUT, words)


def _with_face(subject: TaskDescriptor, words: Reading) -> TaskDescriptor:
    return replace(subject, preservation=(*subject.preservation, _FACE)) if words.face else subject


def _operations(words: Reading, edit: Edit | None) -> tuple[Operation, ...] | str:
    """The operations, from the native task if it is known, else from the words; or the reason why they are unknown."""
    if edit == "restore":
        return "the vocabulary has no type for restoring a picture"
    if edit is None or edit == "several":
        if words.unread:
            return f"the rules cannot read {words.unread[:80]!r}"
        return words.operations or _UNTOLD
    said = next((operation for operation in words.operations if operation.edit == edit), None)
    if said is not None and len(words.operations) == 1:
        return words.operations
    # The native task says which kind of edit it is; only the words say how much of the picture is edited.
    things: Things = "whole" if edit in _WHOLE | {"viewpoint"} else "one"
    if words.operations and things == "one" and words.operations[0].things != "whole":
        things = words.operations[0].things
    first = words.operations[0] if words.operations else Operation(edit)
    return (Operation(edit, things, worn=first.worn, resized=first.resized),)


def _descriptor(operations: Sequence[Operation], words: Reading, evidence: Evidence | None) -> TaskDescriptor:
    scope = _scope(operations, evidence)
    types = tuple(dict.fromkeys(name for operation in operations for name in _TYPES[operation.edit]))
    kept = set.intersection(*(set(_kept(operation)) for operation in operations))
    if scope == "global editing":
        kept.discard(_BACKGROUND)
    if _LOOK in types and evidence is not None and evidence.edges_kept < _NO_STRUCTURE:
        kept.discard(_STRUCTURE)
    if words.face and _LOOK not in types:
        kept |= {_IDENTITY, _FACE}
    return TaskDescriptor.from_tags((scope, *types, *sorted(kept)))


def _kept(operation: Operation) -> frozenset[str]:
    kept = _KEPT[operation.edit]
    if operation.worn:
        # A hat changes the outline of a head, so structure is not preserved; the person stays the same.
        return (kept - {_STRUCTURE}) | {_IDENTITY}
    if operation.edit == "light" and operation.things != "whole":
        return kept | {_BACKGROUND}
    return kept - {_STRUCTURE} if operation.resized else kept


def _scope(operations: Sequence[Operation], evidence: Evidence | None) -> str:
    if any(operation.edit == "viewpoint" for operation in operations):
        return "viewpoint editing"
    if any(operation.edit in _WHOLE and operation.things == "whole" for operation in operations):
        return "global editing"
    if any(operation.things in ("whole", "it") for operation in operations):
        is_local = evidence is not None and evidence.changed_area < _LOCAL_AREA
        return "local editing" if is_local else "global editing"
    if any(operation.things == "several" for operation in operations):
        return "multi region editing"
    open_number = len(operations) > 1 or any(operation.things in ("some", "pair") for operation in operations)
    if open_number and evidence is not None:
        apart = evidence.regions > 1 and not evidence.whole_picture
        return "multi region editing" if apart else "local editing"
    return "multi region editing" if len(operations) > 1 else "local editing"


def _answer(descriptor: TaskDescriptor, words: Reading, evidence: Evidence | None, note: str = "") -> Annotation:
    return Annotation("ok", descriptor.indices, reason=note, raw=_raw(words, evidence), rules_version=VERSION)


def _refused(reason: str, words: Reading, evidence: Evidence | None) -> Annotation:
    return Annotation("refused", reason=reason, raw=_raw(words, evidence), rules_version=VERSION)


def _raw(words: Reading, evidence: Evidence | None) -> str:
    seen = None if evidence is None else {"changed_area": round(evidence.changed_area, 3), "regions": evidence.regions}
    operations = [[operation.edit, operation.things] for operation in words.operations]
    return json.dumps({"words": operations, "face": words.face, "pixels": seen})
