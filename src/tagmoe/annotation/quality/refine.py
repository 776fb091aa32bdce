"""Refine the rule set as in the paper (3.2): try a new version on a gold set, and adopt it if no figure falls.

A row is asked only if its key differs under the new rules; otherwise the old answer is reused. A killed run finds its
answers in `answers.jsonl`. The store changes only if the version is adopted: then the new answers replace those of the
annotator on the rows that were tried.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from tagmoe.annotation.answer import (
    ANNOTATION,
    Annotation,
    annotators,
    column_of,
    first_rows,
    read_annotations,
    take_tags,
)
from tagmoe.annotation.ask.annotators import Annotator
from tagmoe.annotation.ask.asker import row_key
from tagmoe.annotation.ask.doubts import Doubts
from tagmoe.annotation.quality.agreement import ABSENT, as_bits
from tagmoe.annotation.quality.gold import Change, Comparison, GoldSet, compare
from tagmoe.annotation.quality.propose import Mistake, next_version, proposal_question, worst_tags
from tagmoe.annotation.rules.rule_set import RuleSet
from tagmoe.data.store.record import PROVENANCE, SCHEMA, Record
from tagmoe.data.store.store import Store
from tagmoe.errors import DataError, UsageError
from tagmoe.files.atomic import write_whole
from tagmoe.intervals import Bootstrap
from tagmoe.sentences import counted
from tagmoe.tags import index
from tagmoe.vlm.question import Question

ANSWERS = "answers.jsonl"
NOTE = "refine."
CHUNK = 64
"""Number of records whose pictures are in memory at once."""


@dataclass(frozen=True)
class Version:
    """A version of the rules, with the annotator that uses it.

    name: the version in the rules. digest: of their content. keys: gives the key of each record, a digest of everything
    that its answer depends on. ask: asks for records, and calls back with each annotation as it comes. seed: of the
    annotator's sampling.
    """

    name: str
    digest: str
    keys: Callable[[Sequence[Record]], Sequence[str]]
    ask: Callable[[Sequence[Record], Callable[[Annotation], None]], None]
    seed: int = 0

    @classmethod
    def of(cls, annotator: Annotator, rules: RuleSet, runner: asyncio.Runner) -> Version:
        """The version of an annotator that uses these rules; it is asked in the event loop of `runner`."""

        async def one(record: Record, doubts: Doubts, keep: Callable[[Annotation], None]) -> None:
            before = doubts.count
            found = await annotator.annotate(record)
            await doubts.weigh(found, before, partial(keep, found))

        async def together(records: Sequence[Record], keep: Callable[[Annotation], None]) -> None:
            doubts = Doubts(annotator.control)
            await asyncio.gather(*(one(record, doubts, keep) for record in records))
            await doubts.settle()

        return cls(
            name=rules.version,
            digest=rules.digest,
            keys=lambda records: [row_key(record, annotator.settings) for record in records],
            ask=lambda records, keep: runner.run(together(records, keep)),
            seed=annotator.seed,
        )


@dataclass(frozen=True)
class Decision:
    """The decision about a new version.

    reasons: why it was refused, or empty. asked, reused: answers of the new version. file: the record of the
    decision.
    """

    adopted: bool
    reasons: tuple[str, ...]
    comparison: Comparison
    asked: int
    reused: int
    file: Path


class Answers(dict[str, Annotation]):
    """Answers by key, with a file to which each new answer is appended. A half line from a kill is cut off."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file
        for line in _whole_lines(file):
            try:
                given = Annotation.from_row(json.loads(line))
            except (ValueError, TypeError, KeyError, UsageError):
                raise DataError(f"The file {str(file)!r} has a damaged line; move it away to ask all again.") from None
            self[given.key] = given

    def add(self, given: Annotation) -> None:
        """Add a new answer and save it. Raises DataError when the file cannot be written."""
        try:
            with self._file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(given.to_row()) + "\n")
        except OSError as error:
            raise DataError(f"Nothing can be written to {str(self._file)!r} ({error.strerror}).") from error
        self[given.key] = given


def refine(
    store: Store,
    gold: GoldSet,
    old: Version,
    new: Version,
    *,
    annotator: str,
    gold_name: str,
    folder: Path,
    bootstrap: Bootstrap | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Decision:
    """Compare `new` with `old` on the gold set, decide, and write the decision into `folder`.

    annotator: the column that is read for answers, and gets the new answers if the version is adopted. gold_name: name
    of the gold annotator, for the record of the decision. Raises UsageError if the two versions are the same. Raises
    DataError if rows could not be asked; then nothing is decided.
    """
    if old.digest == new.digest:
        raise UsageError(f"Both rule sets are the same (version {new.name!r}); change the new one and its version.")
    if old.name == new.name:
        raise UsageError(f"Both rule sets have the version {new.name!r}, but differ; raise the version of the new one.")
    answers = _known(store, gold, annotator, folder)
    total = 2 * len(gold.rows)
    before, _ = _annotated(store, gold, old, answers, progress, 0, total)
    after, asked = _annotated(store, gold, new, answers, progress, len(gold.rows), total)
    comparison = compare(gold, _sets(before), _sets(after), bootstrap)
    reasons = comparison.reasons
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
        "rows_of_another_key": sum(a.key != b.key for a, b in zip(before, after, strict=True)),
        "asked": asked,
        **_as_data(comparison),
    }
    write_whole(file, json.dumps(record, indent=1, allow_nan=False) + "\n")
    if not reasons:
        note = {"version": new.name, "digest": new.digest, "decision": file.name}
        _adopt(store, annotator, new.seed, gold.rows, after, note)
    return Decision(not reasons, reasons, comparison, asked, len(gold.rows) - asked, file)


def propose_rules(
    store: Store,
    gold: GoldSet,
    rules: RuleSet,
    version: Version,
    ask: Callable[[Question], dict[str, str]],
    *,
    annotator: str,
    folder: Path,
    tags: int = 3,
    progress: Callable[[int, int], None] | None = None,
) -> RuleSet:
    """The rules with new guidance, from `ask`, for the tags with the lowest F1.

    tags: number of tags to get new guidance. Raises UsageError when no tag is wrong in any row, and DataError when rows
    could not be asked.
    """
    answers = _known(store, gold, annotator, folder)
    sets = _sets(_annotated(store, gold, version, answers, progress, 0, len(gold.rows))[0])
    f1_by_tag = {tag: before for tag, (before, _) in compare(gold, sets, sets).tags.items()}
    worst = worst_tags(f1_by_tag, tags)
    if not worst:
        raise UsageError(f"The rules {rules.version!r} give the gold tags in all rows; there is nothing to propose.")
    wrong = [
        (row, given, wanted)
        for row, given, wanted in zip(gold.rows, sets, gold.sets, strict=True)
        if wanted != ABSENT and given != wanted
    ]
    words = store.take([row for row, _, _ in wrong], ["instruction"])["instruction"].to_pylist()
    mistakes: dict[str, list[Mistake]] = {name: [] for name in worst}
    for text, (_, given, wanted) in zip(words, wrong, strict=True):
        for name in worst:
            bit = 1 << index(name)
            if (max(given, 0) ^ wanted) & bit:
                mistakes[name].append(Mistake(text, bool(wanted & bit)))
    guidance = ask(proposal_question({name: rules.guidance[name] for name in worst}, f1_by_tag, mistakes))
    return rules.with_guidance(guidance, next_version(rules.version))


def _known(store: Store, gold: GoldSet, annotator: str, folder: Path) -> Answers:
    """The answers of earlier runs and of the annotator's column."""
    answers = Answers(folder / ANSWERS)
    if annotator in annotators(store):
        wanted = set(gold.rows)
        for row, given in enumerate(read_annotations(store, annotator)):
            if given is not None and row in wanted and given.status != "failed":
                answers.setdefault(given.key, given)
    return answers


def _annotated(
    store: Store,
    gold: GoldSet,
    version: Version,
    answers: Answers,
    progress: Callable[[int, int], None] | None,
    done: int,
    total: int,
) -> tuple[list[Annotation], int]:
    """The annotations of all rows, in order, and the number of rows that were asked now."""
    found: list[Annotation] = []
    asked = 0
    failed: list[str] = []

    def keep(given: Annotation) -> None:
        if given.status == "failed":
            failed.append(given.reason)
        else:
            answers.add(given)

    for start in range(0, len(gold.rows), CHUNK):
        records = store.records(gold.rows[start : start + CHUNK])
        keys = version.keys(records)
        # Records of equal content have the same key, and are asked once.
        missing = list({key: i for i, key in enumerate(keys) if key not in answers}.values())
        if missing:
            version.ask([records[i] for i in missing], keep)
            asked += len(missing)
        found += [answers[key] for key in keys if key in answers]
        if progress is not None:
            progress(done + start + len(records), total)
    if failed:
        reason = failed[0].rstrip(".")
        raise DataError(
            f"{len(failed)} of {counted(gold.rows, 'row')} could not be asked ({reason[:200]}); nothing was decided, "
            "and the "
            "same command asks only these again."
        )
    return found, asked


def _adopt(
    store: Store,
    annotator: str,
    seed: int,
    rows: Sequence[int],
    answers: Sequence[Annotation],
    note: Mapping[str, Any],
) -> None:
    """Write the answers into the annotator's column, fragment by fragment. After a kill, the same command resumes."""
    column = column_of(annotator)
    new = dict(zip(rows, answers, strict=True))
    kinds = {column: ANNOTATION, "tags": SCHEMA.field("tags").type, "tag_provenance": PROVENANCE}
    with store.writing():
        store.declare([pa.field(column, ANNOTATION)])
        for number, start in first_rows(store).items():
            touched = [row for row in range(start, start + store.fragment_rows(number)) if row in new]
            if touched:
                values = [row for batch in store.fragment(number, list(kinds)) for row in batch.to_pylist()]
                for row in touched:
                    values[row - start][column] = new[row].to_row()
                    take_tags(values[row - start], new[row], annotator, seed)
                store.fill(
                    number,
                    pa.table({name: pa.array([row[name] for row in values], kind) for name, kind in kinds.items()}),
                )
        store.set_note(NOTE + annotator, note)


def _sets(answers: Sequence[Annotation]) -> list[int]:
    return [ABSENT if one.tags is None else as_bits(one.tags) for one in answers]


def _statuses(answers: Sequence[Annotation]) -> dict[str, int]:
    return {status: sum(one.status == status for one in answers) for status in sorted({one.status for one in answers})}


def _as_data(comparison: Comparison) -> dict[str, Any]:
    def change(one: Change) -> dict[str, Any]:
        return {"before": one.before, "after": one.after, "difference": one.difference.as_data()}

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
        # A kill left half a line at the end: cut it off.
        write_whole(file, text[:cut])
    yield from text[:cut].splitlines()
