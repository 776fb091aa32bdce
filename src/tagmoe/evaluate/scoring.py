"""Score the outputs of a run: each metric keeps a line for each output, so that a kill loses at most one case.

A line names the picture that was scored and the version of the metric; an output or a metric that has changed since is
scored again. A case without an output has no line: `tagmoe.evaluate.comparison` counts it by its status.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import nan
from typing import Any

from tagmoe.config.part import Part
from tagmoe.errors import DataError, ImageError, ResultError
from tagmoe.evaluate.answers.answer import FAILURES, RAISED, reason_raised
from tagmoe.evaluate.benchmarks.cases import Case, Prepared
from tagmoe.evaluate.metrics.learned import Learned
from tagmoe.evaluate.metrics.metric import FAULTS, Lack, Measure, Metric, NoValue, Pair, Value, lacking
from tagmoe.evaluate.packed_rows import PackedRows, RowsInOrder
from tagmoe.evaluate.run_folder import (
    SCORES,
    Answer,
    Kept,
    Lines,
    Run,
    by_case,
    in_order,
    merge_shards,
    packed_by_case,
    read_rows,
    scores_name,
    shard_name,
)
from tagmoe.files.atomic import write_whole
from tagmoe.files.json_files import read_object
from tagmoe.sentences import reason_of


class Lacking(Part):
    """Why there is no value."""

    status: Lack
    reason: str


class Score(Kept):
    """The values of one metric for one output. pixels: the output that was scored. resized: the pictures to whose size
    the output was resized. basis: of a learned metric, the digest of what its values rest on."""

    pixels: str
    version: int
    basis: str = ""
    values: dict[str, float]
    lacking: dict[str, Lacking]
    resized: tuple[str, ...] = ()

    @property
    def rank(self) -> int:
        """A newer version counts more; of one version, a score that did not fail."""
        return 2 * self.version + (not any(reason.status == "failed" for reason in self.lacking.values()))

    def is_of(self, measures: Sequence[Measure]) -> bool:
        """Whether it has exactly these values, each of them possible. A file may have been changed by hand."""
        names = [*self.values, *self.lacking]
        if len(names) != len(measures):
            return False
        return all(
            measure.name in self.lacking or measure.holds(self.values.get(measure.name, nan)) for measure in measures
        )


@dataclass(frozen=True)
class Unscored:
    """A case that could not be scored. status: of its answer, `not generated`, or `unreadable` for a damaged output."""

    id: str
    status: str
    reason: str


@dataclass(frozen=True)
class Scored:
    """What a command scored. scores: by metric, in the order of the cases. new: how many lines it wrote."""

    scores: Mapping[str, Sequence[Score]]
    unscored: tuple[Unscored, ...]
    new: int

    @property
    def counts(self) -> dict[str, int]:
        """Cases without a score by status."""
        return dict(Counter(one.status for one in self.unscored))

    @cached_property
    def failed(self) -> list[Unscored]:
        """What makes the command exit with 1: unscored cases but for inapplicable ones, and metrics that failed."""
        broken = [
            Unscored(score.id, f"{name} {reason.status.replace('_', ' ')}", reason.reason)
            for name, scores in self.scores.items()
            for score in scores
            for reason in score.lacking.values()
            if reason.status in FAULTS
        ]
        return [one for one in self.unscored if one.status != "inapplicable"] + list(dict.fromkeys(broken))

    @cached_property
    def resized(self) -> int:
        """Outputs that were resized to be compared."""
        return len({score.case for scores in self.scores.values() for score in scores if score.resized})

    @cached_property
    def digest(self) -> str:
        """A digest of all values: `digest_of` of {name: [row]}, a row at a time."""
        found = hashlib.sha256(b"{")
        for place, name in enumerate(sorted(self.scores)):
            found.update(f"{', ' if place else ''}{_plain(name)}: [".encode())
            for number, row in enumerate(self.scores[name]):
                found.update((", " if number else "").encode() + _plain(row.model_dump()).encode())
            found.update(b"]")
        found.update(b"}")
        return found.hexdigest()


def score(
    prepared: Prepared,
    run: Run,
    metrics: Sequence[Metric],
    *,
    tasks: Sequence[str] | None = None,
    limit: int | None = None,
    shard: tuple[int, int] = (1, 1),
    on_cases: Callable[[int], None] | None = None,
) -> Scored:
    """Score the outputs of these cases (paper sec. 4.2); `tasks`, `limit` and `shard` are as of `generate`.

    Raises UsageError for unknown tasks, DataError where nothing can be written.
    """
    chosen = [case for _, case in prepared.chosen(tasks, limit)[shard[0] - 1 :: shard[1]]]
    folder = run.folder / SCORES
    files: dict[str, Lines] = {}
    unscored: list[Unscored] = []
    new = 0
    try:
        kept: dict[str, PackedRows[Score]] = {}
        own: dict[str, PackedRows[Score]] = {}
        for metric in metrics:
            name = scores_name(metric.name)
            file = shard_name(name, shard)
            if shard == (1, 1):
                merge_shards(folder, name, Score, prepared, lambda row: _is_of(row, run))
            files[metric.name] = Lines(folder / f"{file}.jsonl")
            kept[metric.name] = packed_by_case(Score, _current(run, name))
            own[metric.name] = kept[metric.name] if file == name else packed_by_case(Score, _current(run, file))
        at_once = max((metric.batch for metric in metrics if isinstance(metric, Learned)), default=1)
        for start in range(0, len(chosen), at_once):
            waiting: list[_Waiting] = []
            for case in chosen[start : start + at_once]:
                answer = run.answers.get(case.key)
                if answer is None or answer.file is None:
                    unscored.append(_without_output(case, answer))
                    continue
                if not (run.folder / answer.file).is_file():
                    unscored.append(Unscored(case.id, "unreadable", f"{answer.file!r} is gone; generate it again"))
                    continue
                asked = [
                    metric for metric in metrics if not _is_current(kept[metric.name].get(case.key), answer, metric)
                ]
                try:
                    if asked:
                        # One for all metrics, so that source and target are decoded once.
                        waiting.append(_Waiting(answer, Pair(case, run.picture(answer), prepared), asked))
                    if answer.status in FAILURES:
                        # It has a picture and is scored, and is listed all the same.
                        unscored.append(Unscored(case.id, answer.status, answer.reason))
                except ImageError as error:
                    unscored.append(Unscored(case.id, "unreadable", str(error)))
                    for metric in metrics:
                        kept[metric.name].pop(case.key, None)
                        own[metric.name].pop(case.key, None)
            for metric in metrics:
                for row in _scores(metric, [one for one in waiting if metric in one.asked]):
                    files[metric.name].add(row)
                    kept[metric.name][row.case] = own[metric.name][row.case] = row
                    new += 1
            if on_cases is not None:
                for done in range(start + 1, min(start + at_once, len(chosen)) + 1):
                    on_cases(done)
    except BaseException:
        for lines in files.values():
            lines.close()
        raise
    for name, lines in files.items():
        lines.finish(in_order(own[name], prepared))
    for metric in metrics:
        if isinstance(metric, Learned):
            write_whole(folder / f"{scores_name(metric.name)}.json", json.dumps(metric.about(), indent=1) + "\n")
    found_scores = {name: RowsInOrder(rows, [c.key for c in chosen if c.key in rows]) for name, rows in kept.items()}
    return Scored(found_scores, tuple(unscored), new)


def _plain(value: Any) -> str:
    """As `digest_of` writes it."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def read_basis(run: Run, name: str) -> dict[str, Any]:
    """What the values of a learned metric or of a judge rest on, as plain data; empty where nothing is written.

    Raises DataError for a file that cannot be read.
    """
    file = run.folder / SCORES / f"{scores_name(name)}.json"
    return read_object(file) if file.is_file() else {}


def judges_of(run: Run) -> dict[str, tuple[Measure, ...]]:
    """The judges that the outputs were scored by, with their measures, which stand beside the scores.

    Raises DataError for a file that is none of this version.
    """
    found = {}
    for file in sorted((run.folder / SCORES).glob("*.json")):
        basis = read_basis(run, file.stem)
        if "judge" in basis:
            try:
                found[file.stem] = tuple(Measure(**measure) for measure in basis["measures"])
            except (KeyError, TypeError) as error:
                raise DataError(
                    f"{str(file)!r} is not one of this version ({reason_of(error)}); judge again."
                ) from None
    return found


def read_scores(run: Run, names: Sequence[str]) -> dict[str, dict[str, Score]]:
    """The scores of a run by metric and by the key of the case, but for those of outputs that have changed since."""
    found: dict[str, dict[str, Score]] = {}
    for name in names:
        current = by_case(_current(run, scores_name(name)))
        if current:
            found[name] = current
    return found


def _current(run: Run, name: str) -> Iterator[Score]:
    """The rows of a metric, or of a shard's file, that are of the outputs as they are now."""
    return (row for row in read_rows(run.folder / SCORES, name, Score) if _is_of(row, run))


def _is_of(row: Score, run: Run) -> bool:
    return row.case in run.answers and row.pixels == run.answers[row.case].pixels


def _without_output(case: Case, answer: Answer | None) -> Unscored:
    if answer is None:
        return Unscored(case.id, "not generated", "tagmoe eval generate has not asked for it")
    return Unscored(case.id, answer.status, answer.reason)


def _is_current(score: Score | None, answer: Answer, metric: Metric) -> bool:
    """Whether a score is of this output and this metric as it is now, and did not fail."""
    if score is None or score.pixels != answer.pixels or score.version != metric.version:
        return False
    if score.basis != basis_key(metric) or not score.is_of(metric.measures):
        return False
    return not any(reason.status == "failed" for reason in score.lacking.values())


def basis_key(metric: Metric) -> str:
    """The digest of what a learned metric's values rest on; empty for one without weights."""
    return metric.key if isinstance(metric, Learned) else ""


@dataclass(frozen=True)
class _Waiting:
    """An output that some metrics are to score."""

    answer: Answer
    pair: Pair
    asked: Sequence[Metric]


def _scores(metric: Metric, waiting: Sequence[_Waiting]) -> Iterator[Score]:
    """The score of each of these outputs by a metric."""
    for one in waiting:
        one.pair.resized.clear()
    if isinstance(metric, Learned):
        together = metric.many([one.pair for one in waiting])
        for one, given in zip(waiting, together, strict=True):
            yield _row(metric, one, given)
        return
    for one in waiting:
        try:
            given = metric(one.pair)
        except RAISED as error:
            given = lacking(metric.measures, "failed", reason_raised(error))
        yield _row(metric, one, given)


def _checked(value: Value, measure: Measure) -> Value:
    """A value as a plain number, or why it is none: nothing else may come into a mean."""
    if isinstance(value, NoValue):
        return value
    number = float(value)
    return number if measure.holds(number) else NoValue("failed", f"the value is {number:g}, not {measure.range}")


@lru_cache(maxsize=1024)
def _lacking(status: Lack, reason: str) -> Lacking:
    """One object for the many cases that lack a value for one reason."""
    return Lacking(status=status, reason=reason)


def _row(metric: Metric, one: _Waiting, given: Mapping[str, Value]) -> Score:
    try:
        wrong = sorted(given.keys() ^ {measure.name for measure in metric.measures})
        if wrong:
            raise ResultError(f"it gave no value {wrong[0]!r}, or gave it and has no such measure")
        values = {measure.name: _checked(given[measure.name], measure) for measure in metric.measures}
    except RAISED as error:
        values = lacking(metric.measures, "failed", reason_raised(error))
    return Score(
        id=one.pair.case.id,
        case=one.pair.case.key,
        pixels=one.answer.pixels or "",
        version=metric.version,
        basis=basis_key(metric),
        values={name: value for name, value in values.items() if not isinstance(value, NoValue)},
        lacking={
            name: _lacking(value.status, value.reason) for name, value in values.items() if isinstance(value, NoValue)
        },
        resized=tuple(sorted(one.pair.resized)),
    )
