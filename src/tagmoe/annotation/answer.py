"""The answer of an annotator for one record, and its column in a store.

Every annotator has its own column, `annotation_NAME`, so that annotators can be compared. Training reads the column
`tags`, the canonical tags, which are set from the answers of one annotator. CANONICAL names them like an annotator.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import pyarrow as pa

from tagmoe.data.store.record import PARTIAL, TagProvenance
from tagmoe.data.store.store import Store
from tagmoe.errors import UsageError
from tagmoe.sentences import counted
from tagmoe.tags import TAGS
from tagmoe.vlm.question import STATUSES, Status

PREFIX = "annotation_"
CANONICAL = "tags"
"""The name under which `read_annotations` reads the columns `tags` and `tag_provenance`."""
ANNOTATION = pa.struct(
    [
        ("tags", pa.list_(pa.int8())),
        ("probabilities", pa.list_(pa.float32())),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("raw", pa.string()),
        ("key", pa.string()),
        ("model", pa.string()),
        ("rules_version", pa.string()),
    ]
)


@dataclass(frozen=True)
class Annotation:
    """The answer of an annotator for one record.

    tags: ascending indices of the vocabulary, None unless the status is ok (tags that break rules of the vocabulary are
    ok). probabilities: of each of the 18 tags, or None. reason: one sentence why the status is not ok, else usually
    empty. raw: the unparsed answer. key: digest of everything that the answer depends on; if it changes, the row is
    asked again. by_server: whether it is a server's word, which may be about its account and not about the row. notes:
    as in `Answer`. Neither of these two is kept in the column.
    """

    status: Status
    tags: tuple[int, ...] | None = None
    probabilities: tuple[float, ...] | None = None
    reason: str = ""
    raw: str = ""
    key: str = ""
    model: str = ""
    rules_version: str = ""
    by_server: bool = field(default=False, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise UsageError(f"The status of an annotation is {self.status!r}; it is one of {', '.join(STATUSES)}.")
        if (self.tags is None) == (self.status == "ok"):
            raise UsageError(f"An annotation with the status {self.status!r} has the tags {self.tags!r}.")
        if self.probabilities is not None and len(self.probabilities) != len(TAGS):
            raise UsageError(
                f"An annotation has {counted(self.probabilities, 'probability', 'probabilities')}; there are "
                f"{counted(TAGS, 'tag')}."
            )

    def to_row(self) -> dict[str, Any]:
        """The annotation as a value of ANNOTATION."""
        row = {name: getattr(self, name) for name in ANNOTATION.names}
        return row | {"tags": None if self.tags is None else sorted(self.tags)}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Annotation:
        """The annotation of a value of ANNOTATION."""
        lists = {name: None if row[name] is None else tuple(row[name]) for name in ("tags", "probabilities")}
        return cls(**{**row, **lists})


def column_of(annotator: str) -> str:
    """The column of this annotator. Raises UsageError for an invalid name."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,47}", annotator) or annotator == CANONICAL:
        raise UsageError(
            f"The annotator's name is {annotator!r}; use up to 48 of a-z, 0-9, - and _, not {CANONICAL!r}."
        )
    return PREFIX + annotator


def take_tags(values: dict[str, Any], found: Annotation, name: str, seed: int, *, replace_tags: bool = False) -> bool:
    """Set the canonical tags of a row (`tags`, `tag_provenance`) from an ok answer; returns whether they were set.

    This is done if the row has no tags, partial tags, or tags that this annotator gave before. values: the row.
    replace_tags: also replace tags that others gave.
    """
    given = values["tag_provenance"] or {}
    ours = values["tags"] is None or given.get("status") == PARTIAL or given.get("annotator") == name
    if found.status != "ok" or not (ours or replace_tags):
        return False
    provenance = TagProvenance(name, found.model, found.rules_version, seed)
    values["tags"], values["tag_provenance"] = sorted(found.tags or ()), vars(provenance)
    return True


def annotators(store: Store) -> list[str]:
    """Names of all annotators with a column in the store."""
    return sorted(name.removeprefix(PREFIX) for name in store.columns if name.startswith(PREFIX))


def read_annotations(store: Store, annotator: str) -> Iterator[Annotation | None]:
    """The answer of an annotator for each row, in order; None for a row that was not asked, or has partial tags.

    Raises UsageError when the store has no such annotator.
    """
    if annotator == CANONICAL:
        yield from map(_canonical, read_rows(store, ("tags", "tag_provenance")))
        return
    column = column_of(annotator)
    if column not in store.columns:
        known = ", ".join([CANONICAL, *annotators(store)])
        raise UsageError(f"The store {store.uri!r} has no annotator {annotator!r}; it has {known}.")
    for row in read_rows(store, (column,)):
        yield None if row[column] is None else Annotation.from_row(row[column])


def read_rows(store: Store, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Each row of a store, in order, as the values of these columns."""
    for batch in store.scan(columns, rows=8192):
        yield from batch.to_pylist()


def first_rows(store: Store) -> dict[int, int]:
    """The number of the first row of each fragment."""
    numbers = store.fragments()
    ends = accumulate(map(store.fragment_rows, numbers), initial=0)
    return dict(zip(numbers, ends, strict=False))


def _canonical(row: Mapping[str, Any]) -> Annotation | None:
    given = row["tag_provenance"] or {}
    # Partial tags were copied from the parent of an inverse, so they are no answer for this row.
    if row["tags"] is None or given.get("status") == PARTIAL:
        return None
    return Annotation(
        "ok",
        tags=tuple(row["tags"]),
        model=given.get("model", ""),
        rules_version=given.get("rules_version", ""),
    )
