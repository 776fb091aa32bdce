"""A record without its pictures as JSON values, for lines of JSONL, rows of Parquet and the JSON in a tar.

Tags are names here and indices in a store. The split is not a field, as it follows from `root`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from tagmoe.data.store.record import OPERATIONS, ROLES, Operation, Picture, Record, Role, TagProvenance, record_id
from tagmoe.errors import VocabularyError
from tagmoe.tags import TAGS, TaskDescriptor

TEXTS = ("instruction_rewritten", "caption_source", "caption_target")
FIELDS = (
    "id",
    "dataset",
    "instruction",
    "instructions",
    "languages",
    "turn",
    *TEXTS,
    "native_task",
    "tags",
    "tag_provenance",
    "quality",
    "licence",
    "origin",
    "root",
    "parent",
    "operation",
)
"""Names of the values; they are those of `Record`."""
_ID = re.compile(r"[0-9a-f]{32}")
_DIGESTS = {"parent": _ID, "root": re.compile(r"[0-9a-f]{64}")}


class UnusableRow(Exception):
    """A native row from which no record can be made. The message is a short fixed reason, by which imports count."""


def to_fields(record: Record) -> dict[str, Any]:
    """The values of a record, in the order of FIELDS. `from_fields` is the inverse."""
    given = record.tag_provenance
    return {
        "id": record.id,
        "dataset": record.dataset,
        "instruction": record.instruction,
        "instructions": list(record.instructions),
        "languages": list(record.languages),
        "turn": record.turn,
        **{name: getattr(record, name) for name in TEXTS},
        "native_task": record.native_task,
        "tags": None if record.tags is None else [TAGS[index].name for index in sorted(record.tags)],
        "tag_provenance": None if given is None else dict(vars(given)),
        "quality": dict(sorted(record.quality.items())),
        "licence": record.licence,
        "origin": record.origin,
        "root": record.root,
        "parent": record.parent,
        "operation": record.operation,
    }


def from_fields(
    fields: Mapping[str, Any],
    images: Sequence[Picture],
    target: Picture,
    *,
    dataset: str,
    licence: str,
    origin: str,
) -> Record:
    """A record from some of FIELDS. dataset, licence, origin: used if the row has none of its own.

    Only the instruction is required. An id of 32 hexadecimal digits is kept. Any other id is replaced by a digest of
    it, the dataset and the content, so that a row has the same id in every file, and two datasets share none.
    Raises UnusableRow for a missing instruction or a wrong value.
    """
    if not isinstance(fields.get("instruction"), str):
        raise UnusableRow("no instruction")
    own = _text(fields, "dataset", dataset)
    # Most rows have few of the other fields.
    more = {name: read(fields, name) for name, read in _READERS.items() if fields.get(name) is not None}
    if more.get("languages") and len(more["languages"]) != 1 + len(more.get("instructions", ())):
        raise _bad("languages")
    return Record(
        id=_id(fields, own, images, target),
        dataset=own,
        target=target,
        instruction=_text(fields, "instruction", ""),
        licence=_text(fields, "licence", "") or licence,
        images=tuple(images),
        # names of files need not be text in UTF-8
        origin=_text(fields, "origin", origin.encode("utf-8", "backslashreplace").decode()),
        **more,
    )


def content_key(images: Iterable[Picture], target: Picture, instruction: str, native: str = "") -> str:
    """A digest of the content of a sample. native: its id in the dataset, or ''."""
    content = [*((picture.role, picture.digest) for picture in images), ("target", target.digest), instruction, native]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def roles_of(given: Any, count: int) -> tuple[Role, ...]:
    """The roles of `count` pictures; by default a source followed by references. Raises UnusableRow for wrong roles."""
    if given is None:
        return tuple("reference" if number else "source" for number in range(count))
    if not isinstance(given, list | tuple) or len(given) != count or not all(role in ROLES for role in given):
        raise UnusableRow("bad value of 'input_roles'")
    return tuple(given)


def _id(fields: Mapping[str, Any], dataset: str, images: Sequence[Picture], target: Picture) -> str:
    given = fields.get("id")
    if given is None or isinstance(given, int):
        native = "" if given is None else str(given)
    else:
        native = _text(fields, "id", "")
    if _ID.fullmatch(native):
        return native
    return record_id(dataset, content_key(images, target, fields["instruction"], native))


def _text(fields: Mapping[str, Any], name: str, default: str) -> str:
    value = _optional(fields, name)
    return default if value is None else value


def _optional(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not _is_text(value):
        raise _bad(name)
    return value


def _texts(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = fields.get(name)
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(_is_text(item) for item in value):
        raise _bad(name)
    return tuple(value)


def _is_text(value: Any) -> bool:
    # JSON may contain half of a surrogate pair, which cannot be stored as UTF-8.
    return isinstance(value, str) and (value.isascii() or not re.search(r"[\ud800-\udfff]", value))


def _digest(fields: Mapping[str, Any], name: str) -> str | None:
    """An id or the digest of a root picture, in hexadecimal digits."""
    value = _optional(fields, name)
    if value is not None and not _DIGESTS[name].fullmatch(value):
        raise _bad(name)
    return value


def _turn(fields: Mapping[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    raise _bad(name)


def _operation(fields: Mapping[str, Any], name: str) -> Operation:
    value = fields.get(name) or "none"
    if value not in OPERATIONS:
        raise _bad(name)
    return cast(Operation, value)


def _quality(fields: Mapping[str, Any], name: str) -> dict[str, float]:
    value = fields.get(name) or {}
    try:
        items = value.items() if isinstance(value, Mapping) else [(item["name"], item["value"]) for item in value]
        # null is no score. Infinity and NaN are texts, as JSON has no numbers for them (`finite_or_text`).
        found = {key: float(score) for key, score in items if score is not None}
    except (TypeError, KeyError, ValueError, OverflowError):
        raise _bad(name) from None
    if not all(map(_is_text, found)):
        raise _bad(name)
    return found


def _tags(fields: Mapping[str, Any], name: str) -> tuple[int, ...] | None:
    """Tags from a list of names or from the paper's format "Scope: ...; Type: ..."."""
    value = fields.get(name)
    if value is None:
        return None
    try:
        if isinstance(value, str):
            return TaskDescriptor.parse(value).indices
        if isinstance(value, list | tuple) and all(isinstance(tag, str) for tag in value):
            return TaskDescriptor.from_tags(value).indices
    except VocabularyError:
        raise UnusableRow("unknown tag, or one given twice") from None
    raise _bad(name)


def _provenance(fields: Mapping[str, Any], name: str) -> TagProvenance | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, Mapping) or not isinstance(value.get("annotator"), str):
        raise _bad(name)
    seed = value.get("seed") or 0
    keys = ("annotator", "model", "rules_version", "status")
    texts = {key: value[key] for key in keys if value.get(key) is not None}
    fits = isinstance(seed, int) and not isinstance(seed, bool) and -(2**63) <= seed < 2**63
    if not fits or not all(_is_text(text) for text in texts.values()):
        raise _bad(name)
    return TagProvenance(seed=seed, **texts)


_READERS: Mapping[str, Callable[[Mapping[str, Any], str], Any]] = {
    "instructions": _texts,
    "languages": _texts,
    "turn": _turn,
    **dict.fromkeys(TEXTS, _optional),
    "native_task": _optional,
    "quality": _quality,
    "root": _digest,
    "parent": _digest,
    "operation": _operation,
    "tags": _tags,
    "tag_provenance": _provenance,
}
"""How a field that need not be there is read from the fields, by its name."""


def _bad(name: str) -> UnusableRow:
    return UnusableRow(f"bad value of {name!r}")


def finite_or_text(value: float) -> float | str:
    """The score as a JSON value: infinity and NaN become texts, which `from_fields` reads back."""
    return value if math.isfinite(value) else repr(value)
