"""Judge the outputs of a run: each answer is kept as it came, and the scores are made from what is kept.

RUN/judged/JUDGE.jsonl     `Judgement`: the raw answers about each output
RUN/scores/JUDGE.jsonl     the values, as of any other metric; RUN/scores/JUDGE.json what they rest on
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from tagmoe.errors import ImageError, UsageError
from tagmoe.evaluate.asking import CaseAsker, counting
from tagmoe.evaluate.benchmarks.cases import Case, Prepared, digest_of
from tagmoe.evaluate.judging.judge import Compared, Judge, Reply
from tagmoe.evaluate.metrics.metric import NoValue, Pair, Value, lacking
from tagmoe.evaluate.run_folder import SCORES, Kept, Lines, Run, by_case, in_order, read_rows
from tagmoe.evaluate.scoring import Lacking, Score
from tagmoe.files.atomic import write_whole
from tagmoe.vlm.question import Status

JUDGED = "judged"
AGAIN: tuple[Status, ...] = ("failed",)
"""Cases of such an answer are asked again by the next command."""


class Judgement(Kept):
    """The answers of a judge about an output. pixels, other: digests of the outputs. basis: of what they rest on."""

    pixels: str
    other: str = ""
    basis: str
    replies: tuple[Reply, ...]

    @property
    def status(self) -> Status:
        """The status of the first answer that is not ok."""
        return next((reply.status for reply in self.replies if reply.status != "ok"), "ok")

    @property
    def rank(self) -> int:
        """An answer counts more than none."""
        return int(self.status not in AGAIN)


@dataclass(frozen=True)
class Judged:
    """What a command judged. asked: cases that were asked now, by status. known: answers of before.
    notes: what was mended in the answers, and how often. rows: the judgements by the key of the case.
    without_output: cases of which the run has no picture."""

    scores: tuple[Score, ...]
    asked: Mapping[str, int]
    known: int
    not_applicable: int
    without_output: int
    notes: Mapping[str, int]
    rows: Mapping[str, Judgement]
    failed: tuple[tuple[str, str, str], ...]


def judge_run(
    prepared: Prepared,
    run: Run,
    judge: Judge,
    *,
    against: Run | None = None,
    tasks: Sequence[str] | None = None,
    limit: int | None = None,
    in_flight: int = 64,
    out: Path | None = None,
    on_cases: Callable[[int], None] | None = None,
) -> Judged:
    """Ask the judge about these outputs; what is known already is not asked again.

    against: the run that a judge that compares prefers or not. out: the folder of answers and scores, if not the run's:
    the judge of a calibration may be a bad one, whose scores must not come into a report. Raises UsageError for a judge
    that compares without `against`, and for it with another judge. Raises DataError when the server takes no more
    questions; the answers so far are kept.
    """
    if judge.description.compares != (against is not None):
        raise UsageError(
            f"The judge {judge.name!r} compares two editors; give the other run."
            if against is None
            else f"The judge {judge.name!r} does not compare; leave the other run out."
        )
    work = _Work(prepared, run, judge, against, out or run.folder)
    chosen = [case for _, case in prepared.chosen(tasks, limit)]
    return asyncio.run(work.run(chosen, in_flight, on_cases or (lambda done: None)))


class _Work:
    """The judging of one run."""

    def __init__(self, prepared: Prepared, run: Run, judge: Judge, against: Run | None, out: Path) -> None:
        self._prepared, self._run, self._judge, self._against = prepared, run, judge, against
        self._out = out
        self._about = judge.basis(None if against is None else against.facts.key)
        self._basis = digest_of(self._about)[:16]
        self._asker = CaseAsker(judge.vlm)
        self._broken: list[tuple[str, str, str]] = []

    async def run(self, chosen: Sequence[Case], in_flight: int, on_cases: Callable[[int], None]) -> Judged:
        """All of it."""
        judge, run, folder = self._judge, self._run, self._out / JUDGED
        file = Lines(folder / f"{judge.name}.jsonl")
        try:
            rows = by_case(row for row in read_rows(folder, judge.name, Judgement) if self._is_current(row))
            waiting = [case for case in chosen if self._wants(case) and not _is_answered(rows.get(case.key))]
            known = sum(case.key in rows for case in chosen) - sum(case.key in rows for case in waiting)
            progress = counting(len(chosen) - len(waiting), on_cases)
            asked = await self._asker.keep_each(waiting, in_flight, self._ask, file, rows, progress)
        except BaseException:
            file.close()
            raise
        file.finish(in_order(rows, self._prepared))
        scores = self._scores(rows)
        return Judged(
            scores=tuple(scores[case.key] for case in chosen if case.key in scores),
            asked=asked,
            known=known,
            not_applicable=sum(judge.why_not(case) is not None for case in chosen),
            without_output=sum(self._picture_of(run, case) is None for case in chosen),
            notes=Counter(note for row in rows.values() for reply in row.replies for note in reply.notes),
            rows=rows,
            failed=(*self._broken, *_faults(chosen, scores)),
        )

    async def _ask(self, case: Case, keep: Callable[[Judgement, Status], None]) -> None:
        try:
            pair = await asyncio.to_thread(self._pair, case)
            begun = self._asker.begin(lambda: self._judge.questions(pair)[0].question)
            replies = await self._judge.ask(pair)
        except ImageError as error:
            self._broken.append((case.id, "unreadable", str(error)))
            return
        answers = [self._run.answers[case.key], *([self._against.answers[case.key]] if self._against else [])]
        pixels, other = [*(answer.pixels or "" for answer in answers), ""][:2]
        row = Judgement(
            id=case.id, case=case.key, pixels=pixels, other=other, basis=self._basis, replies=tuple(replies)
        )
        reason = next((reply.reason for reply in replies if reply.status != "ok"), "")
        await self._asker.weigh(row.status, reason, begun, lambda: keep(row, row.status))

    def _pair(self, case: Case) -> Compared:
        output = self._run.picture(self._run.answers[case.key])
        other: Image.Image | None = None
        if self._against is not None:
            other = self._against.picture(self._against.answers[case.key])
        return Compared(Pair(case, output, self._prepared), other)

    def _wants(self, case: Case) -> bool:
        runs = [self._run, *([self._against] if self._against is not None else [])]
        return self._judge.why_not(case) is None and all(self._picture_of(run, case) for run in runs)

    def _picture_of(self, run: Run, case: Case) -> str | None:
        answer = run.answers.get(case.key)
        return None if answer is None else answer.file

    def _is_current(self, row: Judgement) -> bool:
        answer = self._run.answers.get(row.case)
        other = self._against.answers.get(row.case) if self._against is not None else None
        return (
            answer is not None
            and (row.basis, row.pixels) == (self._basis, answer.pixels)
            and row.other == ((other.pixels or "") if other is not None else "")
        )

    def _scores(self, rows: Mapping[str, Judgement]) -> dict[str, Score]:
        """The values of all judgements, and of cases that the judge is not for; they are written as well."""
        judge, found = self._judge, {}
        for case in self._prepared.cases:
            answer, reason = self._run.answers.get(case.key), judge.why_not(case)
            if answer is None or answer.file is None or (reason is None and case.key not in rows):
                continue
            values = (
                lacking(judge.measures, "not_applicable", reason)
                if reason is not None
                else judge.values(rows[case.key].replies)
            )
            found[case.key] = _score(case, answer.pixels or "", self._basis, values)
        folder = self._out / SCORES
        Lines(folder / f"{judge.name}.jsonl").finish(in_order(found, self._prepared))
        about = {**self._about, "measures": [asdict(measure) for measure in judge.measures]}
        write_whole(folder / f"{judge.name}.json", json.dumps(about, indent=1) + "\n")
        return found


def _is_answered(row: Judgement | None) -> bool:
    return row is not None and row.status not in AGAIN


def _score(case: Case, pixels: str, basis: str, values: Mapping[str, Value]) -> Score:
    return Score(
        id=case.id,
        case=case.key,
        pixels=pixels,
        version=1,
        basis=basis,
        values={name: value for name, value in values.items() if not isinstance(value, NoValue)},
        lacking={
            name: Lacking(status=value.status, reason=value.reason)
            for name, value in values.items()
            if isinstance(value, NoValue)
        },
    )


def _faults(chosen: Sequence[Case], scores: Mapping[str, Score]) -> Iterator[tuple[str, str, str]]:
    """(id, status, reason) of the cases that should have a value and have none."""
    for case in chosen:
        score = scores.get(case.key)
        reasons = [] if score is None else [one for one in score.lacking.values() if one.status != "not_applicable"]
        if reasons:
            yield case.id, reasons[0].status, reasons[0].reason
