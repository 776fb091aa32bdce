"""Shards of a run or of its scores, worked on by several processes or machines: the `work` of an engine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tagmoe.cli.eval.options import names_of
from tagmoe.cli.options import MOST_PROCESSES, Engine, EngineName, RayAddress
from tagmoe.cli.output import stdout_to_stderr
from tagmoe.errors import TagMoEError, UsageError

if TYPE_CHECKING:
    from tagmoe.cli.eval.editors import EditorOptions
    from tagmoe.cli.eval.metrics import MetricOptions
    from tagmoe.evaluate.benchmarks.cases import Prepared
    from tagmoe.evaluate.generation import Generated


@dataclass(frozen=True)
class WorkerOptions:
    """Where a command works."""

    engine: Engine = EngineName.local
    workers: Annotated[
        int, typer.Option(min=1, max=MOST_PROCESSES, help="Processes, each with a shard and its own editor.")
    ] = 1
    address: RayAddress = None

    @property
    def is_one_process(self) -> bool:
        """Whether the command works by itself."""
        return self.engine is EngineName.local and self.workers == 1

    def check_workers(self, shard: tuple[int, int]) -> None:
        """Raises UsageError for options that cannot be, MissingError where Ray is not installed."""
        from tagmoe.data.store.engine import check_engine

        check_engine(self.engine.value, self.workers, self.address)
        if not self.is_one_process and shard != (1, 1):
            raise UsageError("--shard is given, and workers make shards of their own; give one of them.")

    def run(self, work: Callable[[int], tuple[int, int]], on_cases: Callable[[int], None]) -> int:
        """Do all shards; returns the new rows of all. work: gets the number of a shard, gives (cases, new rows).

        on_cases: called with the number of finished cases. Raises TagMoEError with the reason of the first shard that
        failed, after the others are done.
        """
        from tagmoe.data.store.engine import run

        cases = new = 0
        errors: list[str] = []
        shards = run(
            range(1, self.workers + 1), work, engine=self.engine.value, workers=self.workers, address=self.address
        )
        with closing(shards):
            for done in shards:
                if done.error is not None:
                    errors.append(done.error)
                    continue
                cases, new = cases + done.value[0], new + done.value[1]
                on_cases(cases)
        if errors:
            raise TagMoEError(f"{len(errors)} of {self.workers} shards failed; the first: {errors[0]}")
        return new


@dataclass(frozen=True)
class GenerateShard:
    """Makes the outputs of shard n of `shards`."""

    bench: Path
    out: Path
    editor: EditorOptions
    tasks: str | None
    limit: int | None
    shards: int
    command: str
    date: str

    def __call__(self, number: int) -> tuple[int, int]:
        """(cases, new outputs) of a shard."""
        made = self.make((number, self.shards))
        return len(made.answers), made.new

    def make(self, shard: tuple[int, int], on_cases: Callable[[int], None] | None = None) -> Generated:
        """What the run holds of a shard afterwards."""
        from tagmoe.evaluate.benchmarks.cases import read_prepared

        prepared = read_prepared(self.bench)
        # An editor is code of others, and may print: stdout is for the result.
        with stdout_to_stderr():
            return self._make(prepared, shard, on_cases)

    def _make(self, prepared: Prepared, shard: tuple[int, int], on_cases: Callable[[int], None] | None) -> Generated:
        from tagmoe.evaluate.generation import generate
        from tagmoe.evaluate.run_folder import RunFacts

        answers = self.editor.open(prepared)
        batch, threads = self.editor.calls
        facts = RunFacts.of(
            prepared,
            answers,
            self.editor.seed,
            versions=self.editor.versions(),
            command=self.command,
            date=self.date,
        )
        return generate(
            prepared,
            answers,
            facts,
            self.out,
            tasks=names_of(self.tasks),
            limit=self.limit,
            shard=shard,
            batch=batch,
            threads=threads,
            on_cases=on_cases,
        )


@dataclass(frozen=True)
class ScoreShard:
    """Scores shard n of `shards` of a run."""

    bench: Path
    run: Path
    metrics: MetricOptions
    tasks: str | None
    limit: int | None
    shards: int

    def __call__(self, number: int) -> tuple[int, int]:
        """(cases, new rows) of a shard."""
        from tagmoe.evaluate.benchmarks.cases import read_prepared
        from tagmoe.evaluate.run_folder import read_run
        from tagmoe.evaluate.scoring import score

        prepared = read_prepared(self.bench)
        names = names_of(self.tasks)
        found = score(
            prepared,
            read_run(self.run, prepared),
            self.metrics.make(prepared),
            tasks=names,
            limit=self.limit,
            shard=(number, self.shards),
        )
        return len(prepared.chosen(names, self.limit)[number - 1 :: self.shards]), found.new
