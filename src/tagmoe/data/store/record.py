"""One sample of editing or generation, and its columns in a store.

The pictures are an ordered list with roles, so that a record can have any number of references. Tags have columns of
their own, with their provenance, so that an annotator sets them without rewriting pictures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import pyarrow as pa

from tagmoe.errors import UsageError
from tagmoe.pictures import read_header
from tagmoe.tags import TAGS

Role = Literal["source", "reference", "garment", "person", "mask", "control", "rejected"]
"""source: the picture to edit; reference: subject, style or structure to follow; control: a map (depth, edges, pose) to
follow; mask: white where the edit is; rejected: a worse result than the target, for learning from preferences."""
NO_INPUTS: tuple[Role, ...] = ("mask", "rejected")
"""Roles of pictures that an editor is not given."""
ROLES: tuple[Role, ...] = get_args(Role)
Operation = Literal["none", "inverse", "compose", "video"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
VALIDATION_SHARE = 0.01
"""Share of root pictures whose records are in the split "validation"."""
PARTIAL = "partial"
"""Status of tags with scope and type only; the preservation tags are not known yet."""


@dataclass(frozen=True)
class Picture:
    """An encoded picture (PNG, JPEG or WebP bytes, as the source had them) with its size in pixels."""

    data: bytes = field(repr=False)
    width: int
    height: int
    role: Role = "source"

    @classmethod
    def of(cls, data: bytes, role: Role = "source") -> Picture:
        """The picture in these bytes, with its upright size from the header; no pixel is decoded.

        Raises ImageError for empty or unreadable bytes, and for more than 64 megapixels. The message is a short fixed
        text, which serves as the reason for skipping the row (`Row.skipped`).
        """
        header = read_header(data)
        return cls(data, header.width, header.height, role)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the bytes, computed once."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class TagProvenance:
    """Who gave the tags. status: ok, invalid, refused, failed or PARTIAL; rules_version: of the rule set, or ''."""

    annotator: str
    model: str = ""
    rules_version: str = ""
    seed: int = 0
    status: str = "ok"


@dataclass(frozen=True)
class Record:
    """One sample.

    id: of `record_id`. root: digest of the picture that this record and its inverses come from; `split_of` uses it.
    images: the inputs in order, none for text-to-image. target: the picture that the editor must make; its role is not
    stored. instructions: further wordings of the instruction. languages: of the instruction and then of each further
    wording ("en", "zh"; '' if not known), or empty. turn: number of the edit, from 1, among those of one conversation,
    which have one root. quality: scores that the source gives, by name. tags:
    indices of the vocabulary, None if not annotated. origin: file and row, or address, that the record came from.
    """

    id: str
    dataset: str
    target: Picture
    instruction: str
    licence: str
    images: tuple[Picture, ...] = ()
    instructions: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    turn: int | None = None
    instruction_rewritten: str | None = None
    caption_source: str | None = None
    caption_target: str | None = None
    native_task: str = ""
    quality: Mapping[str, float] = field(default_factory=dict)
    origin: str = ""
    root: str = ""
    parent: str | None = None
    operation: Operation = "none"
    tags: tuple[int, ...] | None = None
    tag_provenance: TagProvenance | None = None

    def __post_init__(self) -> None:
        if not self.root:
            first = next((picture for picture in self.images if picture.role not in NO_INPUTS), self.target)
            object.__setattr__(self, "root", first.digest)
        wrong = [index for index in self.tags or () if not 0 <= index < len(TAGS)]
        if wrong:
            raise UsageError(f"The record {self.id!r} has the tag {wrong[0]}; tags are numbers from 0 to 17.")

    @property
    def nbytes(self) -> int:
        """Bytes of all its pictures."""
        return sum(len(picture.data) for picture in (*self.images, self.target))

    @property
    def inputs(self) -> tuple[Picture, ...]:
        """The pictures that an editor is given."""
        return tuple(picture for picture in self.images if picture.role not in NO_INPUTS)

    @property
    def split(self) -> str:
        """train or validation."""
        return split_of(self.root)


def record_id(dataset: str, key: str, view: str = "", operation: Operation = "none") -> str:
    """An id of 32 hexadecimal digits. The same sample gets the same id in every store and every import."""
    return hashlib.sha256(json.dumps([dataset, key, view, operation]).encode()).hexdigest()[:32]


def split_of(root: str) -> str:
    """train or validation, by the root picture, so that a record and its inverse are in the same split."""
    return "validation" if int(root[:8], 16) < VALIDATION_SHARE * 2**32 else "train"


PICTURE = pa.struct([("role", pa.string()), ("data", pa.large_binary()), ("width", pa.int32()), ("height", pa.int32())])
PROVENANCE = pa.struct(
    [
        ("annotator", pa.string()),
        ("model", pa.string()),
        ("rules_version", pa.string()),
        ("seed", pa.int64()),
        ("status", pa.string()),
    ]
)
QUALITY = pa.list_(pa.struct([("name", pa.string()), ("value", pa.float64())]))
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("native_task", pa.string(), nullable=False),
        pa.field("licence", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("root", pa.string(), nullable=False),
        pa.field("parent", pa.string()),
        pa.field("operation", pa.string(), nullable=False),
        pa.field("instruction", pa.string(), nullable=False),
        pa.field("instructions", pa.list_(pa.string())),
        pa.field("instruction_rewritten", pa.string()),
        pa.field("caption_source", pa.string()),
        pa.field("caption_target", pa.string()),
        pa.field("quality", QUALITY),
        pa.field("tags", pa.list_(pa.int8())),
        pa.field("tag_provenance", PROVENANCE),
        pa.field("images", pa.list_(PICTURE)),
        pa.field("target", PICTURE),
        pa.field("languages", pa.list_(pa.string())),
        pa.field("turn", pa.int32()),
    ]
)
"""The columns of every store; annotating, validating and encoding add others."""


def to_row(record: Record) -> dict[str, Any]:
    """The record as a row of SCHEMA."""
    given = record.tag_provenance
    return {
        "id": record.id,
        "dataset": record.dataset,
        "split": record.split,
        "native_task": record.native_task,
        "licence": record.licence,
        "origin": record.origin,
        "root": record.root,
        "parent": record.parent,
        "operation": record.operation,
        "instruction": record.instruction,
        "instructions": list(record.instructions),
        "languages": list(record.languages),
        "turn": record.turn,
        "instruction_rewritten": record.instruction_rewritten,
        "caption_source": record.caption_source,
        "caption_target": record.caption_target,
        "quality": [{"name": name, "value": value} for name, value in sorted(record.quality.items())],
        "tags": None if record.tags is None else sorted(record.tags),
        "tag_provenance": None if given is None else vars(given),
        "images": [_picture_row(picture) for picture in record.images],
        "target": _picture_row(record.target) | {"role": "target"},
    }


def as_table(records: Iterable[Record]) -> pa.Table:
    """The records as a table of SCHEMA."""
    return pa.Table.from_pylist([to_row(record) for record in records], schema=SCHEMA)


def from_row(row: Mapping[str, Any]) -> Record:
    """The record of a row with the columns of SCHEMA; stores of older versions lack the newest ones."""
    given = row["tag_provenance"]
    return Record(
        id=row["id"],
        dataset=row["dataset"],
        native_task=row["native_task"],
        licence=row["licence"],
        origin=row["origin"],
        root=row["root"],
        parent=row["parent"],
        operation=row["operation"],
        instruction=row["instruction"],
        instructions=tuple(row["instructions"] or ()),
        languages=tuple(row.get("languages") or ()),
        turn=row.get("turn"),
        instruction_rewritten=row["instruction_rewritten"],
        caption_source=row["caption_source"],
        caption_target=row["caption_target"],
        quality={item["name"]: item["value"] for item in row["quality"] or ()},
        tags=None if row["tags"] is None else tuple(row["tags"]),
        tag_provenance=None if given is None else TagProvenance(**given),
        images=tuple(_picture(item) for item in row["images"] or ()),
        target=_picture(row["target"] | {"role": "source"}),
    )


def _picture_row(picture: Picture) -> dict[str, Any]:
    return {"role": picture.role, "data": picture.data, "width": picture.width, "height": picture.height}


def _picture(row: Mapping[str, Any]) -> Picture:
    return Picture(data=row["data"], width=row["width"], height=row["height"], role=row["role"])
