"""Ask for the outputs of a benchmark's cases, and keep each as soon as it is there.

A kill loses at most the batch in work. A case that has an output is never asked again; one that failed is. A case that
failed has no picture and never gets a placeholder: its status says why.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tagmoe.editor import in_batches
from tagmoe.errors import DataError, ImageError, TagMoEError
from tagmoe.evaluate.answers.answer import (
    FAILURES,
    RAISED,
    Answers,
    NoMoreAnswers,
    NoPicture,
    Output,
    ReadyFile,
    reason_raised,
)
from tagmoe.evaluate.benchmarks.cases import Case, Prepared, digest_of
from tagmoe.evaluate.run_folder import (
    ANSWERS,
    OUTPUTS,
    Answer,
    Lines,
    RunFacts,
    by_case,
    claim_run,
    digest_of_pixels,
    in_order,
    merge_shards,
    read_rows,
    remove_unfinished,
    shard_name,
)
from tagmoe.files.atomic import write_whole
from tagmoe.pictures import load_image, png_of, read_header
from tagmoe.report.printable import printable
from tagmoe.sentences import counted, reason_of

DARKEST = 4
"""A picture none of whose values is above this is black. [ours]"""


@dataclass(frozen=True)
class Generated:
    """What a run holds of the cases that were asked for, in their order. new: how many were asked now."""

    answers: tuple[Answer, ...]
    new: int

    @property
    def counts(self) -> dict[str, int]:
        """How many cases there are of each status."""
        return dict(Counter(answer.status for answer in self.answers))

    @property
    def failures(self) -> list[Answer]:
        """The cases that make the command exit with 1."""
        return [answer for answer in self.answers if answer.status in FAILURES]

    @property
    def digest(self) -> str:
        """A digest of the results without the times; equal for equal outputs, however often the run was killed."""
        return digest_of([[a.id, a.case, a.status, a.reason, a.pixels] for a in self.answers])


def generate(
    prepared: Prepared,
    answers: Answers,
    facts: RunFacts,
    folder: Path,
    *,
    tasks: Sequence[str] | None = None,
    limit: int | None = None,
    shard: tuple[int, int] = (1, 1),
    batch: int = 8,
    threads: int = 1,
    on_cases: Callable[[int], None] | None = None,
) -> Generated:
    """Fill the folder of a run; one that is there already goes on.

    tasks, limit: only these tasks, the first cases of each. shard: (n, of N), every N-th case from the n-th on; shards
    may run at the same time in one folder, and a command without one joins their files. batch: cases of one call.
    threads: calls at the same time. on_cases: called with the number of finished ones.
    The seed of a case is the run's seed and its position among all cases, so that it depends on none of these.

    Raises UsageError for unknown tasks and a folder of another run, DataError where nothing can be written, and the
    editor's NoMoreAnswers.
    """
    chosen = prepared.chosen(tasks, limit)[shard[0] - 1 :: shard[1]]
    claim_run(folder, facts)
    if shard == (1, 1):
        merge_shards(folder, ANSWERS, Answer, prepared)
    lines = Lines(folder / f"{shard_name(ANSWERS, shard)}.jsonl")
    try:
        kept = by_case(read_rows(folder, ANSWERS, Answer))
        own = by_case(read_rows(folder, shard_name(ANSWERS, shard), Answer))
        waiting = [(place, case) for place, case in chosen if not _is_done(folder, kept.get(case.key))]
        names = {case.key for _, case in waiting}
        remove_unfinished(folder / OUTPUTS, lambda name: name.partition(".")[0] in names)
        done = len(chosen) - len(waiting)
        if on_cases is not None:
            on_cases(done)

        def ask(places: list[int]) -> list[Answer]:
            return _answers(answers, [waiting[place] for place in places], facts.seed, folder)

        references = [answers.pictures_of(case) for _, case in waiting]
        for places, found in in_batches(references, ask, batch=batch, threads=threads):
            for answer in found:
                lines.add(answer)
                own[answer.case] = kept[answer.case] = answer
            done += len(places)
            if on_cases is not None:
                on_cases(done)
    except BaseException:
        lines.close()
        raise
    lines.finish(in_order(own, prepared))
    return Generated(tuple(kept[case.key] for _, case in chosen), len(waiting))


def collect(
    prepared: Prepared, folder: Path, *, tasks: Sequence[str] | None = None, limit: int | None = None
) -> Generated:
    """What a run holds of these cases, after the files of its shards became one file. It asks for nothing.

    Raises UsageError while a shard is being written.
    """
    kept = merge_shards(folder, ANSWERS, Answer, prepared)
    return Generated(tuple(kept[case.key] for _, case in prepared.chosen(tasks, limit) if case.key in kept), 0)


def _is_done(folder: Path, answer: Answer | None) -> bool:
    """Whether a case need not be asked: it has an output whose file is there, or can have none."""
    if answer is None:
        return False
    if answer.file is None:
        return answer.status == "inapplicable"
    return (folder / answer.file).is_file()


def _answers(answers: Answers, asked: Sequence[tuple[int, Case]], seed: int, folder: Path) -> list[Answer]:
    """The answers of a batch. When the call fails, each case is asked by itself, so that one does not fail others."""
    started = time.perf_counter()
    try:
        # An editor may give an iterator, which makes the pictures now.
        outputs: Sequence[Output] = list(answers(asked, [seed + position for position, _ in asked]))
        if len(outputs) != len(asked):
            raise TagMoEError(
                f"The editor gave {counted(outputs, 'picture')} for {counted(asked, 'case')}; it should give a list of "
                "one for each."
            )
    except NoMoreAnswers:
        raise
    except RAISED as error:
        if len(asked) > 1:
            return [answer for one in asked for answer in _answers(answers, [one], seed, folder)]
        outputs = [NoPicture("failed", reason_raised(error))]
    seconds = (time.perf_counter() - started) / len(asked)
    return [
        _kept(case, output, seconds, folder, answers.gives_black)
        for (_, case), output in zip(asked, outputs, strict=True)
    ]


def _kept(case: Case, output: Output, seconds: float, folder: Path, gives_black: bool) -> Answer:
    """The answer, after its picture was written."""
    seconds = round(seconds, 4)
    if isinstance(output, NoPicture):
        return Answer(id=case.id, case=case.key, status=output.status, reason=output.reason, seconds=seconds)
    try:
        if isinstance(output, ReadyFile):
            picture, data, ending = load_image(output.data), output.data, read_header(output.data).extension
        else:
            picture = load_image(output)
            data, ending = png_of(picture), "png"
    except RAISED as error:
        # What an editor gives may be any object; one that cannot even be looked at is no reason to stop.
        why = str(error) if isinstance(error, ImageError) else reason_raised(error)
        return Answer(id=case.id, case=case.key, status="unreadable", reason=printable(why), seconds=seconds)
    name = f"{OUTPUTS}/{case.key}.{ending}"
    try:
        (folder / OUTPUTS).mkdir(exist_ok=True)
        write_whole(folder / name, data)
    except OSError as error:
        raise DataError(f"The disk takes no more in {str(folder / OUTPUTS)!r} ({reason_of(error)}).") from None
    is_black = not gives_black and int(np.asarray(picture).max()) <= DARKEST
    return Answer(
        id=case.id,
        case=case.key,
        status="black" if is_black else "ok",
        reason="every pixel is black" if is_black else "",
        file=name,
        pixels=digest_of_pixels(picture),
        width=picture.width,
        height=picture.height,
        seconds=seconds,
    )
