"""Inverse records: source and target are exchanged, so that a real picture becomes the target of a synthetic edit.

HQ-Edit (`inverse_edit`), ImgEdit, Paint-by-Inpaint (adding, made by removing) and NHR-Edit have published such records.
The rules: the forward edit must be good; no inverse of an inverse; one inverse a parent; a limited share of each task;
no instruction that is uncertain. A record whose inverse needs a look at the pictures waits for the text of a VLM in the
column `inverse_text`, and is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from tagmoe.data.inverse.tagworld import inverse_of
from tagmoe.data.inverse.text import map_of, photograph_of, removal_of
from tagmoe.data.sources.importing import BATCH_BYTES, BATCH_ROWS
from tagmoe.data.sources.native_tasks import Edit, edit_of
from tagmoe.data.sources.source import Licence
from tagmoe.data.store.known_ids import KnownIds
from tagmoe.data.store.record import PARTIAL, Picture, Record, record_id
from tagmoe.data.store.store import Store
from tagmoe.errors import ImageError
from tagmoe.tags import TAGS

TAGWORLD = "tagworld"
MAX_SHARE = 0.3
"""Default for the largest share of inverses among the records of a task and their inverses."""
WEIGHT: dict[Edit, float] = {"style": 0.5}
"""Factors of the share by task. Inverses of style edits all say "turn this into a photograph", so half are enough."""
SCAN_ROWS = 8192
LOADED_ROWS = 32
"""Records whose pictures are in memory at once."""

NEVER: dict[Edit, str] = {
    "generate": "text-to-image has no source",
    "restore": "lossy: the damage cannot be told from the picture",
    "try-on": "try-on: the person's own clothes are not known",
    "subject": "subject: both directions are in the source already",
    "style reference": "style reference: the reference does not follow from the picture",
    "several": "several edits in one",
}
"""Tasks without an inverse, and why."""
WAITING: dict[Edit, str] = {
    "remove": "remove: what comes back, and where, must be described",
    "replace": "replace: what was there must be described",
    "attribute": "attribute: what was there must be described",
    "background": "background: the source must be described",
    "light": "light: the source must be described",
    "pose": "pose: the source must be described",
    "viewpoint": "viewpoint: the source must be described",
    "move": "move: the place must be described",
    "text": "text: what was written must be read",
}
"""Tasks whose inverse instruction needs a look at the pictures, and why."""
TEXTS = "inverse_text"
"""The column with the instructions that a VLM wrote for records that wait (`tagmoe.annotation.ask.texts`)."""
OPPOSITE: dict[Edit | None, str] = {"add": "remove", "remove": "add"}
"""Native tasks of inverses whose task is another one."""
UNKNOWN = "the source names no task that is known"
OVER_SHARE = "over the share of inverses"
PICTURES = "not exactly one picture to edit"


@dataclass
class Outcome:
    """Counts of records.

    made: new inverses by "add -> remove". waiting: records that wait for a VLM, by reason. refused: records without an
    inverse, by reason. already: parents that had an inverse before. unchecked: parents of new inverses that were not
    validated.
    """

    made: Counter[str] = field(default_factory=Counter)
    waiting: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    already: int = 0
    unchecked: int = 0


class Waits(NamedTuple):
    """A record that waits for a VLM, and why."""

    reason: str


class Refused(NamedTuple):
    """A record that gets no inverse, and why."""

    reason: str


class Inverse(NamedTuple):
    """The native task, the instruction and further wordings of an inverse."""

    task: str
    instruction: str
    further: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rules:
    """Which records get an inverse.

    cuts: lowest quality score by name; a record must have at least one of them and reach all it has. share: as
    MAX_SHARE. maps: whether a record that makes a picture from a map gets "draw the depth map of this picture".
    """

    cuts: Mapping[str, float] = field(default_factory=dict)
    share: float = MAX_SHARE
    maps: bool = False


def invert(
    store: Store,
    rules: Rules,
    *,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Append the inverses that the store does not have yet. dry_run: only count them.

    Whether a record gets an inverse depends only on the record and the share. So the next run completes a killed one,
    and another run adds nothing. Raises DataError when the store cannot be written.
    """
    if dry_run:
        return _Run(store, rules, write=False).run(progress)
    with store.writing():
        return _Run(store, rules, write=True).run(progress)


def waiting_rows(store: Store, rules: Rules) -> np.ndarray:
    """(rows,) of bool: the records that wait for a VLM, and those whose text it wrote already."""
    return _Run(store, rules, write=False).waits()


def inverse_id(dataset: str, parent: str) -> str:
    """The id of a record's one inverse."""
    return record_id(dataset, parent, "", "inverse")


def judged(row: Mapping[str, Any], rules: Rules) -> Inverse | Waits | Refused | None:
    """The inverse of a record, or why it has none, from its columns; None if the pictures must be read (TagWorld)."""
    edit = edit_of(row["dataset"], row["native_task"])
    if edit in NEVER:
        return Refused(NEVER[edit])
    if row.get("quarantine"):
        return Refused("in quarantine")
    if not Licence.named(row["licence"]).derivatives:
        return Refused("the licence allows no derivatives")
    if rules.cuts:
        scores = {item["name"]: item["value"] for item in row["quality"] or ()}
        named = [(scores[name], cut) for name, cut in rules.cuts.items() if name in scores]
        if not named or any(score < cut for score, cut in named):
            return Refused("quality below the cut" if named else "no quality score of these names")
    if row["dataset"] == TAGWORLD:
        return Refused(PICTURES) if edit == "control map" else Waits(UNKNOWN) if edit is None else None
    return text_of(edit, row, rules)


def text_of(edit: Edit | None, row: Mapping[str, Any], rules: Rules) -> Inverse | Waits | Refused:
    """The inverse of a record of this task by template, or why no template is certain."""
    match edit:
        case None:
            return Waits(UNKNOWN)
        case "add":
            found = [removal_of(text) for text in (row["instruction"], *(row["instructions"] or ()))]
            texts = tuple(dict.fromkeys(text for text in found if text is not None))
            uncertain = Waits("add: what was added is not certain from the words")
            return Inverse("remove", texts[0], texts[1:]) if texts else uncertain
        case "style":
            text = photograph_of(row["caption_source"])
            return Waits("style: the source is no photograph") if text is None else Inverse("style", text)
        case "control map" if not rules.maps:
            return Refused("control map: only with --maps")
        case "control map":
            drawn = map_of(row["native_task"])
            return Waits("control map: of an unknown kind") if drawn is None else Inverse(*drawn)
    return Waits(WAITING[edit])


def inverted(parent: Record, inverse: Inverse) -> Record | None:
    """The record with source and target exchanged; None unless it has exactly one source or reference.

    Masks stay, as the edit is at the same place. Scope and type tags are copied, as the inverse edits the same thing in
    the same place. Preservation tags are left open, and the status of the tags is PARTIAL. Quality scores are those of
    the forward edit, and are not copied.
    """
    pictures = parent.inputs
    if len(pictures) != 1 or pictures[0].role not in ("source", "reference"):
        return None
    kept = (image for image in parent.images if image.role != "rejected")
    images = tuple(image if image.role == "mask" else replace(parent.target, role="source") for image in kept)
    given = parent.tag_provenance
    known = parent.tags is not None and given is not None and given.status == "ok" and pictures[0].role == "source"
    return Record(
        id=inverse_id(parent.dataset, parent.id),
        dataset=parent.dataset,
        target=replace(pictures[0], role="source"),
        instruction=inverse.instruction,
        instructions=inverse.further,
        licence=parent.licence,
        images=images,
        caption_source=parent.caption_target,
        caption_target=parent.caption_source,
        native_task=inverse.task,
        origin=parent.origin,
        root=parent.root,
        parent=parent.id,
        operation="inverse",
        tags=tuple(tag for tag in parent.tags or () if TAGS[tag].tier in ("scope", "type")) if known else None,
        tag_provenance=replace(given, status=PARTIAL) if known and given is not None else None,
    )


class _Candidate(NamedTuple):
    row: int
    edit: Edit | None
    inverse: Inverse | None
    checked: bool


class _Run:
    """One pass over the rows that the store had at the start; inverses are appended after them."""

    def __init__(self, store: Store, rules: Rules, *, write: bool) -> None:
        self._store, self._rules, self._write = store, rules, write
        self._rows = len(store)
        # once a VLM was asked, the records that wait are those that it will be asked again
        self._asked = TEXTS in store.columns
        self._known = KnownIds(store)
        self._outcome = Outcome()
        self._buffer: list[Record] = []
        self._bytes = 0
        self._waiting_ids: set[str] = set()
        ratio = rules.share / (1 - rules.share)
        self._forward, self._used = self._counts()
        self._ratio = {edit: ratio * (WEIGHT.get(edit, 1.0) if edit else 1.0) for edit in self._forward}

    def run(self, progress: Callable[[int, int], None] | None) -> Outcome:
        candidates: list[_Candidate] = []
        done = 0
        for batch in self._scan():
            have = self._inverted(batch)
            for number, row in enumerate(batch, start=done):
                candidate = self._candidate(number, row, have)
                candidates += [] if candidate is None else [candidate]
                if len(candidates) == LOADED_ROWS:
                    self._make(candidates)
                    candidates = []
            done += len(batch)
            if progress is not None:
                progress(done, self._rows)
        self._make(candidates)
        self._flush()
        return self._outcome

    def waits(self) -> np.ndarray:
        found = np.zeros(self._rows, dtype=bool)
        done = 0
        for batch in self._scan():
            have = self._inverted(batch)
            for number, row in enumerate(batch, start=done):
                child, edit = inverse_id(row["dataset"], row["id"]), edit_of(row["dataset"], row["native_task"])
                if row["operation"] != "inverse" and child not in have and self._in_share(child, edit):
                    found[number] = isinstance(judged(row, self._rules), Waits)
            done += len(batch)
        return found

    def _in_share(self, child: str, edit: Edit | None) -> bool:
        """Whether the id of an inverse is among those that the share of its task lets in."""
        return int(child[:8], 16) < self._ratio[edit] * 2**32

    def _scan(self) -> Iterator[list[dict[str, Any]]]:
        names = ["id", "dataset", "native_task", "licence", "operation", "instruction", "instructions"]
        names += ["caption_source", "quality", *({"quarantine", TEXTS} & {*self._store.columns})]
        for batch in self._store.scan(names, rows=SCAN_ROWS):
            yield batch.to_pylist()

    def _inverted(self, batch: Sequence[Mapping[str, Any]]) -> set[str]:
        """Ids of the inverses of these records that are in the store."""
        return self._known.among([inverse_id(row["dataset"], row["id"]) for row in batch])

    def _counts(self) -> tuple[Counter[Edit | None], Counter[Edit | None]]:
        """By task: records that are no inverses, and how many of them have an inverse."""
        forward: Counter[Edit | None] = Counter()
        used: Counter[Edit | None] = Counter()
        for batch in self._scan():
            have = self._inverted(batch)
            for row in batch:
                edit = edit_of(row["dataset"], row["native_task"])
                if row["operation"] != "inverse":
                    forward[edit] += 1
                    used[edit] += inverse_id(row["dataset"], row["id"]) in have
        return forward, used

    def _candidate(self, number: int, row: Mapping[str, Any], have: set[str]) -> _Candidate | None:
        child = inverse_id(row["dataset"], row["id"])
        if row["operation"] == "inverse":
            self._outcome.refused["an inverse itself"] += 1
        elif child in have:
            self._outcome.already += 1
        else:
            said = judged(row, self._rules)
            edit = edit_of(row["dataset"], row["native_task"])
            if isinstance(said, Waits) and row.get(TEXTS) is not None:
                said = _written(said, edit, row)
            if isinstance(said, Refused):
                self._outcome.refused[said.reason] += 1
            elif isinstance(said, Waits) and (not self._asked or self._in_share(child, edit)):
                self._outcome.waiting[said.reason] += 1
            elif isinstance(said, Waits) or not self._in_share(child, edit):
                self._outcome.refused[OVER_SHARE] += 1
            else:
                return _Candidate(number, edit, said, row.get("quarantine") is not None)
        return None

    def _make(self, candidates: list[_Candidate]) -> None:
        parents = self._store.records([item.row for item in candidates])
        have = self._known.among([inverse_id(parent.dataset, parent.id) for parent in parents])
        for candidate, parent in zip(candidates, parents, strict=True):
            edit, inverse = candidate.edit, candidate.inverse
            # This happens only if two records have the same id.
            if inverse_id(parent.dataset, parent.id) in have | self._waiting_ids:
                self._outcome.already += 1
                continue
            if inverse is None:
                said = _of_tagworld(parent)
                if not isinstance(said, Inverse):
                    counter = self._outcome.waiting if isinstance(said, Waits) else self._outcome.refused
                    counter[said.reason] += 1
                    continue
                inverse = said
            record = inverted(parent, inverse)
            if record is None:
                self._outcome.refused[PICTURES] += 1
            elif self._used[edit] + 1 > self._ratio[edit] * self._forward[edit]:
                self._outcome.refused[OVER_SHARE] += 1
            else:
                self._used[edit] += 1
                self._outcome.made[f"{parent.native_task or 'unknown'} -> {record.native_task or 'unknown'}"] += 1
                self._outcome.unchecked += not candidate.checked
                self._keep(record)

    def _keep(self, record: Record) -> None:
        self._waiting_ids.add(record.id)
        if self._write:
            self._buffer.append(record)
            self._bytes += record.nbytes
        if len(self._waiting_ids) >= BATCH_ROWS or self._bytes >= BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._buffer:
            self._store.append(self._buffer)
            self._known.add([record.id for record in self._buffer])
        self._buffer, self._bytes, self._waiting_ids = [], 0, set()


def _written(waits: Waits, edit: Edit | None, row: Mapping[str, Any]) -> Inverse | Waits | Refused:
    """The inverse of a record that waits, by the text that a VLM wrote; or why there is none."""
    given = row[TEXTS]
    match given["status"]:
        case "ok":
            return Inverse(OPPOSITE.get(edit, row["native_task"]), given["text"])
        case "failed":
            return waits
        case _ if given["reason"] == PICTURES:
            return Refused(PICTURES)
    return Refused(f"the VLM wrote no text that can be used: {given['status']}")


def _of_tagworld(parent: Record) -> Inverse | Waits | Refused:
    source: Picture | None = next((image for image in parent.images if image.role == "source"), None)
    if source is None:
        return Refused(PICTURES)
    try:
        said = inverse_of(parent.native_task, source, parent.target, int(parent.id[:16], 16))
    except ImageError:
        return Refused("a picture is damaged")
    return Refused(said) if isinstance(said, str) else Inverse(*said)
