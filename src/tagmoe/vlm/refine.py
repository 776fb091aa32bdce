"""The paper's loop over its rule set (3.2): a new version is tried on a gold set, and adopted only where nothing falls.

Only what the new rules change is asked: an answer whose key is the same under both is taken as it is. A killed run
finds its answers again in `answers.jsonl`. The store changes in one case alone: when the version is adopted, its
answers take the place of the annotator's on the rows that were tried.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from tagmoe.data.record import Record
from tagmoe.data.store import Store
from tagmoe.errors import DataError, UsageError
from tagmoe.resumable import write_whole
from tagmoe.vlm.agreement import ABSENT, as_bits
from tagmoe.vlm.annotation import ANNOTATION, Annotation, annotators, column_of, read_annotations
from tagmoe.vlm.bootstrap import RootBootstrap
from tagmoe.vlm.gold import Change, Comparison, GoldSet, compare

ANSWERS = "answers.jsonl"
NOTE = "refine."
CHUNK = 16
"""Records whose pictures are in memory at once."""


@dataclass(frozen=True)
class Version:
    """A version of the rules, and who annotates by it.

    name: the version in the rules; digest: of their content; keys: of records, equal where nothing that the answer
    depends on differs; ask: the annotations of records, in their order.
    """

    name: str
    digest: str
    keys: Callable[[Sequence[Record]], Sequence[str]]
    ask: Callable[[Sequence[Record]], Sequence[Annotation]]


@dataclass(frozen=True)
class Decision:
    """What was decided, and why not where it was refused. asked, reused: answers of the new version; file: the record
    of the decision."""

    adopted: bool
    reasons: tuple[str, ...]
    comparison: Comparison
    asked: int
    reused: int
    changed: int
    file: Path


class Answers:
    """Answers by their keys, in a file to which every answer is added as it comes; a half line at its end is left."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, Annotation] = {}
        for line in _whole_lines(file):
            try:
                given = Annotation.from_row(json.loads(line))
            except (ValueError, TypeError, KeyError, UsageError):
                raise DataError(f"The file {str(file)!r} has a damaged line; move it away to ask all again.") from None
            self._known[given.key] = given

    def __getitem__(self, key: str) -> Annotation:
        return self._known[key]

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def know(self, given: Annotation) -> None:
        """Take in an answer that is kept elsewhere."""
        self._known.setdefault(given.key, given)

    def add(self, given: Sequence[Annotation]) -> None:
        """Keep new answers. Raises DataError where nothing can be written."""
        try:
            with self._file.open("a", encoding="utf-8") as out:
                out.writelines(json.dumps(one.to_row()) + "\n" for one in given)
        except OSError as error:
            raise DataError(f"Nothing can be written to {str(self._file)!r} ({error.strerror}).") from error
        self._known |= {one.key: one for one in given}


def refine(
    store: Store,
    gold: GoldSet,
    old: Version,
    new: Version,
    *,
    annotator: str,
    gold_name: str,
    folder: Path,
    bootstrap: RootBootstrap | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Decision:
    """Try `new` against `old` on the gold set, decide, and write the decision into `folder`.

    annotator: whose column is read for answers and, where the version is adopted, filled with the new ones.
    Raises UsageError when the two are no two versions; DataError when rows could not be asked: then nothing is decided.
    """
    if old.digest == new.digest:
        raise UsageError(f"Both rule sets are the same (version {new.name!r}); change the new one and its version.")
    if old.name == new.name:
        raise UsageError(f"Both rule sets have the version {new.name!r}, but differ; raise the version of the new one.")
    answers = Answers(folder / ANSWERS)
    if annotator in annotators(store):
        wanted = set(gold.rows)
        for row, given in enumerate(read_annotations(store, annotator)):
            if given is not None and row in wanted and given.status != "failed":
                answers.know(given)
    total = 2 * len(gold.rows)
    before, _ = _annotated(store, gold, old, answers, progress, 0, total)
    after, asked = _annotated(store, gold, new, answers, progress, len(gold.rows), total)
    comparison = compare(gold, _sets(before), _sets(after), bootstrap)
    reasons = comparison.reasons
    changed = sum(a.key != b.key for a, b in zip(before, after, strict=True))
    now = datetime.now(UTC)
    file = folder / f"decision-{now:%Y%m%dT%H%M%S}-{new.name}.json"
    record = {
        "date": now.isoformat(timespec="seconds"),
        "decision": "refused" if reasons else "adopted",
        "reasons": reasons,
        "store": store.uri.rsplit("/", 1)[-1],
        "annotator": annotator,
        "gold": gold_name,
        "model": next((one.model for one in after if one.model), ""),
        "old": {"version": old.name, "digest": old.digest, "statuses": _statuses(before)},
        "new": {"version": new.name, "digest": new.digest, "statuses": _statuses(after)},
        "rows": len(gold.rows),
        "rows_of_another_key": changed,
        "asked": asked,
        **_as_data(comparison),
    }
    write_whole(file, json.dumps(record, indent=1, allow_nan=False) + "\n")
    if not reasons:
        _adopt(store, annotator, gold.rows, after, {"version": new.name, "digest": new.digest, "decision": file.name})
    return Decision(not reasons, reasons, comparison, asked, len(gold.rows) - asked, changed, file)


def _annotated(
    store: Store,
    gold: GoldSet,
    version: Version,
    answers: Answers,
    progress: Callable[[int, int], None] | None,
    done: int,
    total: int,
) -> tuple[list[Annotation], int]:
    """The annotations of all rows, in their order, and how many were asked now."""
    found: list[Annotation] = []
    asked = 0
    failed: list[str] = []
    for start in range(0, len(gold.rows), CHUNK):
        records = store.records(gold.rows[start : start + CHUNK])
        keys = version.keys(records)
        missing = [i for i, key in enumerate(keys) if key not in answers]
        if missing:
            given = version.ask([records[i] for i in missing])
            answers.add([one for one in given if one.status != "failed"])
            failed += [one.reason for one in given if one.status == "failed"]
            asked += len(given)
        found += [answers[key] for key in keys if key in answers]
        if progress is not None:
            progress(done + start + len(records), total)
    if failed:
        reason = failed[0].rstrip(".")
        raise DataError(
            f"{len(failed)} of {len(gold.rows)} rows could not be asked ({reason[:200]}); nothing was decided, and the "
            "same command asks only these again."
        )
    return found, asked


def _adopt(
    store: Store, annotator: str, rows: Sequence[int], answers: Sequence[Annotation], note: Mapping[str, Any]
) -> None:
    """Put the answers into the annotator's column, fragment by fragment: killed, the same command does the rest."""
    column = column_of(annotator)
    new = dict(zip(rows, answers, strict=True))
    with store.writing():
        store.declare([pa.field(column, ANNOTATION)])
        start = 0
        for number in store.fragments():
            count = store.fragment_rows(number)
            if any(start <= row < start + count for row in new):
                have = [row[column] for batch in store.fragment(number, [column]) for row in batch.to_pylist()]
                values = [new[start + i].to_row() if start + i in new else have[i] for i in range(count)]
                store.fill(number, pa.table({column: pa.array(values, ANNOTATION)}))
            start += count
        store.set_note(NOTE + annotator, note)


def _sets(answers: Sequence[Annotation]) -> list[int]:
    return [ABSENT if one.tags is None else as_bits(one.tags) for one in answers]


def _statuses(answers: Sequence[Annotation]) -> dict[str, int]:
    return {status: sum(one.status == status for one in answers) for status in sorted({one.status for one in answers})}


def _as_data(comparison: Comparison) -> dict[str, Any]:
    def change(one: Change) -> dict[str, Any]:
        return {"before": one.before, "after": one.after, "difference": asdict(one.difference)}

    return {
        "gold_rows": comparison.rows,
        "inverse_pairs": comparison.pairs,
        "micro_f1": change(comparison.micro_f1),
        "macro_f1": change(comparison.macro_f1),
        "inverse_consistency": change(comparison.inverse),
        "f1_by_tag": {tag: {"before": f1[0], "after": f1[1]} for tag, f1 in comparison.tags.items()},
    }


def _whole_lines(file: Path) -> Iterator[str]:
    if not file.exists():
        return
    text = file.read_text(encoding="utf-8", errors="replace")
    cut = text.rfind("\n") + 1
    if cut < len(text):
        # a run was killed in the middle of a line
        write_whole(file, text[:cut])
    yield from text[:cut].splitlines()
