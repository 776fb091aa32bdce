"""What each field of a record is read from: columns that the user names, constants, or the fields of an export.

A picture is bytes, {bytes, path} as `datasets.Image` stores it, base64 (also as a data: URL), or the path of a file in
the place of the source. A column is named by its key, or by a path of keys and numbers ("data.0.image").
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

from tagmoe.data.sources.files import picture
from tagmoe.data.sources.places import Place
from tagmoe.data.store.fields import FIELDS, UnusableRow, roles_of
from tagmoe.data.store.record import ROLES, Picture, Role
from tagmoe.errors import UsageError

OWN_PICTURES = ("input_images", "input_roles", "output_image")
OPTIONAL: tuple[Role, ...] = ("reference", "garment", "person", "mask", "control", "rejected")
"""Roles of pictures that a row may lack. The source of an edit is not among them."""
FIRST = "(first picture)"
"""Key of the picture that all turns of a conversation come from, in values that a source makes of one row."""
_PREFIXES = ("quality.", "instruction.")
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{64,}={0,2}\s*")


class FieldMap:
    """How values become the fields and the pictures of a record.

    given: column by field, where a field is one of FIELDS, `instruction.LANGUAGE`, `quality.NAME`, `target`, a role, or
    `input_images`: none or several, a source followed by references.
    Without it the columns are those of an export. constants: value by field, for all rows. unused: how often each
    column was there and was not read.
    """

    def __init__(self, given: Mapping[str, str] | None = None, constants: Mapping[str, str] | None = None) -> None:
        """Raises UsageError for names that are nothing of a record, and without an instruction or a target."""
        self.given, self.constants = dict(given or {}), dict(constants or {})
        self.unused: Counter[str] = Counter()
        _check(self.given, self.constants)
        self._used = {column.split(".")[0] for column in self.columns}.union(self.columns)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read: first those that must be there."""
        if self.given:
            return tuple(dict.fromkeys(self.given.values()))
        return tuple(dict.fromkeys(("instruction", "output_image", *FIELDS, *OWN_PICTURES)))

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns without which no row is a record."""
        if not self.given:
            return tuple(name for name in ("instruction", "output_image") if name not in self.constants)
        return tuple(
            dict.fromkeys(
                column
                for field, column in self.given.items()
                if field in ("instruction", "target", "source") or field.startswith("instruction.")
            )
        )

    @cached_property
    def picture_columns(self) -> tuple[str, ...]:
        """The columns of pictures."""
        if not self.given:
            return ("input_images", "output_image")
        found = (*ROLES, "target", "input_images")
        return tuple(column for field, column in self.given.items() if field in found)

    def count(self, values: Iterable[str]) -> None:
        """Count the columns of a row that are not read."""
        if more := [name for name in values if name not in self._used]:
            self.unused.update(more)

    def files(self, values: Mapping[str, Any], place: Place) -> Iterator[str]:
        """The files that the pictures of a row are read from."""
        for value in self._picture_values(values):
            for item in value if isinstance(value, list | tuple) else (value,):
                name = item.get("path") if isinstance(item, Mapping) and item.get("bytes") is None else item
                if isinstance(name, str) and _is_path(name) and (file := place.file(name)) is not None:
                    yield file

    def read(self, values: Mapping[str, Any], place: Place) -> tuple[Mapping[str, Any], list[Picture], Picture]:
        """Fields for `from_fields`, the input pictures, and the target. Raises UnusableRow."""
        fields, images, target = (self._mapped if self.given else _own)(values, place)
        more: dict[str, Any] = dict(self.constants)
        if values.get(FIRST) is not None:
            more["root"] = hashlib.sha256(bytes_of(values[FIRST], place)).hexdigest()
        return {**fields, **more}, images, target

    def _picture_values(self, values: Mapping[str, Any]) -> Iterator[Any]:
        for column in self.picture_columns:
            yield value_at(values, column)

    def _mapped(self, values: Mapping[str, Any], place: Place) -> tuple[Mapping[str, Any], list[Picture], Picture]:
        fields: dict[str, Any] = {}
        wordings: list[tuple[str, Any]] = []
        images: list[Picture] = []
        for field, column in self.given.items():
            value = value_at(values, column)
            if field == "target":
                continue
            if field in ROLES:
                images += pictures_in(value, cast(Role, field), place)
            elif field == "input_images":
                items = value if isinstance(value, list | tuple) else [value]
                given = [item for item in items if item not in (None, "", b"")]
                images += [
                    picture(bytes_of(item, place), role)
                    for item, role in zip(given, roles_of(None, len(given)), strict=True)
                ]
            elif field == "instruction" or field.startswith("instruction."):
                wordings.append((field.partition(".")[2], value))
            elif field.startswith("quality."):
                fields.setdefault("quality", {})[field.removeprefix("quality.")] = value
            else:
                fields[field] = value
        fields |= instructions_of(wordings, fields.get("instructions"))
        found = pictures_in(value_at(values, self.given["target"]), "source", place, what="target")
        if len(found) != 1:
            raise UnusableRow("several target pictures")
        return fields, images, found[0]


def _own(values: Mapping[str, Any], place: Place) -> tuple[Mapping[str, Any], list[Picture], Picture]:
    """The pictures from the columns that an export writes."""
    given = values.get("input_images")
    found = [] if given is None else given
    if not isinstance(found, list | tuple):
        raise UnusableRow("bad value of 'input_images'")
    roles = roles_of(values.get("input_roles"), len(found))
    if values.get("output_image") is None:
        raise UnusableRow("no target picture")
    target = picture(bytes_of(values["output_image"], place))
    images = [picture(bytes_of(item, place), role) for item, role in zip(found, roles, strict=True)]
    if not isinstance(values.get("instruction"), str):
        wordings = instructions_of([("", values.get("instruction"))], values.get("instructions"))
        return {**values, **wordings}, images, target
    return values, images, target


def instructions_of(wordings: Sequence[tuple[str, Any]], more: Any = None) -> dict[str, Any]:
    """The fields instruction, instructions and languages of (language, value) pairs; language is '' if not known.

    A value is a text, a list of texts, a text by language, or None.
    """
    texts: list[tuple[str, str]] = []
    for language, value in wordings:
        if isinstance(value, str):
            items = [(language, value)]
        elif isinstance(value, Mapping):
            items = [(str(name), text) for name, text in value.items()]
        elif isinstance(value, list | tuple):
            items = [(language, text) for text in value]
        else:
            items = [(language, value)]
        texts += [(name, text.strip()) for name, text in items if isinstance(text, str) and text.strip()]
    others = more if isinstance(more, list | tuple) else (more,)
    texts += [("", text.strip()) for text in others if isinstance(text, str) and text.strip()]
    texts = list(dict.fromkeys(texts))
    if not texts:
        return {"instruction": None}
    first, *further = texts
    found: dict[str, Any] = {"instruction": first[1], "instructions": [text for _, text in further]}
    if any(language for language, _ in texts):
        found["languages"] = [language for language, _ in texts]
    return found


def pictures_in(value: Any, role: Role, place: Place, *, what: str | None = None) -> list[Picture]:
    """The pictures of a value: one, or a list of them. An optional role may have none. Raises UnusableRow."""
    items = value if isinstance(value, list | tuple) else [value]
    given = [item for item in items if item not in (None, "", b"")]
    if not given:
        if role in OPTIONAL:
            return []
        raise UnusableRow(f"no {what or role} picture")
    return [picture(bytes_of(item, place), role) for item in given]


def bytes_of(value: Any, place: Place) -> bytes:
    """The encoded picture in a value. Raises UnusableRow."""
    if not isinstance(value, str) and isinstance(value, Mapping):
        value = _of_struct(value, place)
    if isinstance(value, str) and value:
        return place.read(value) if _is_path(value) else _of_text(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise UnusableRow("bad value of a picture")


def _of_struct(value: Mapping[str, Any], place: Place) -> Any:
    """The bytes of {bytes, path}, or the path where there are none."""
    if value.get("bytes") is not None:
        return value["bytes"]
    if not isinstance(value.get("path"), str):
        raise UnusableRow("row without its picture")
    file = place.file(value["path"])
    if file is None or not os.path.exists(file):
        raise UnusableRow("picture that is only named in the file")
    return value["path"]


def _of_text(text: str) -> bytes:
    """The picture in base64, also as a data: URL."""
    if "://" in text[:32]:
        raise UnusableRow("URL of a picture, and nothing is fetched")
    try:
        head, comma, code = text.partition(",") if text.startswith("data:") else ("", "", text)
        if comma and not head.endswith(";base64"):
            raise UnusableRow("data: URL that is not base64")
        return base64.b64decode("".join(code.split()), validate=True)
    except (binascii.Error, ValueError):
        raise UnusableRow("bad base64 of a picture") from None


def value_at(values: Mapping[str, Any], column: str) -> Any:
    """The value of a column, or at a path of keys and numbers; None where there is none."""
    if column in values:
        return values[column]
    found: Any = values
    for part in column.split("."):
        if isinstance(found, Mapping):
            found = found.get(part)
        elif isinstance(found, list | tuple) and re.fullmatch(r"-?\d+", part) and -len(found) <= int(part) < len(found):
            found = found[int(part)]
        else:
            return None
    return found


def _is_path(text: str) -> bool:
    """Whether a text is the path of a file, and not a picture in base64 or a URL."""
    if text.startswith("data:") or "://" in text[:32]:
        return False
    return len(text) <= 4096 and not (len(text) >= 64 and "." not in text and _BASE64.fullmatch(text))


def _check(given: Mapping[str, str], constants: Mapping[str, str]) -> None:
    allowed = (*FIELDS, *ROLES, "target", "input_images")
    for option, names in (("--map", given), ("--constant", constants)):
        usable = FIELDS if option == "--constant" else allowed
        for name in names:
            prefixed = option == "--map" and any(
                name.startswith(prefix) and len(name) > len(prefix) for prefix in _PREFIXES
            )
            if name not in usable and not prefixed:
                raise UsageError(
                    f"{option} {name}=... names nothing of a record; use "
                    + ("quality.NAME, instruction.LANGUAGE or " if option == "--map" else "")
                    + f"{', '.join(usable)}."
                )
    both = [name for name in given if name in constants]
    if both:
        raise UsageError(f"--map and --constant both say what {both[0]!r} is; give one of them.")
    if given:
        has_text = "instruction" in constants or any(
            name == "instruction" or name.startswith("instruction.") for name in given
        )
        for needed, there in (("instruction", has_text), ("target", "target" in given)):
            if not there:
                raise UsageError(f"--map says nothing of the {needed}; add --map {needed}=COLUMN.")
