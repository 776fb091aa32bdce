"""What the verbs share that ask a model about the rows of a store: their options, the run, and its report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tagmoe.cli.options import MOST_PROCESSES, MOST_ROWS, Engine, EngineName, RayAddress
from tagmoe.cli.progress import count_bar
from tagmoe.cli.vlm_options import Concurrency, Endpoints, Pixels, ServedModel, Timeout, need_vlm_extra, open_vlm
from tagmoe.sentences import counted

if TYPE_CHECKING:
    from tagmoe.annotation.ask.asker import Asker
    from tagmoe.annotation.ask.plan import AskPlan
    from tagmoe.annotation.ask.store import Outcome
    from tagmoe.data.store.store import Store
    from tagmoe.vlm.question import VLM

REASONS_SHOWN = 5


class RetryName(StrEnum):
    """Values of --retry. Rows with the status "failed" are always asked again, so it is not among them."""

    invalid = "invalid"
    refused = "refused"


@dataclass
class AskOptions:
    """Options of a run over the rows of a store."""

    endpoint: Endpoints = None
    model: ServedModel = None
    retry: Annotated[
        list[RetryName] | None, typer.Option(help="Also ask rows of this status again; may be repeated.")
    ] = None
    limit: Annotated[int | None, typer.Option(min=1, max=MOST_ROWS, help="Most rows to ask in this run.")] = None
    engine: Engine = EngineName.local
    workers: Annotated[int, typer.Option(min=1, max=MOST_PROCESSES, help="Processes; one is enough for a server.")] = 1
    address: RayAddress = None
    concurrency: Concurrency = 16
    timeout: Timeout = 120
    pixels: Pixels = 1024 * 1024

    def given(self, *names: str) -> list[str]:
        """The options among these (or all) that have another value than by default, as they are typed."""
        plain = AskOptions()
        return [
            f"--{field.name}"
            for field in fields(self)
            if (not names or field.name in names) and getattr(self, field.name) != getattr(plain, field.name)
        ]

    def vlm(self) -> Callable[[], VLM]:
        """Opens the model, in each process. Raises MissingError without the extra."""
        need_vlm_extra()
        return partial(open_vlm, self.endpoint or [], self.model, concurrency=self.concurrency, timeout=self.timeout)

    @property
    def plan(self) -> dict[str, Any]:
        """The fields of a plan that these options set."""
        return {
            "retry": frozenset(item.value for item in self.retry or ()),
            # Twice as many as the server gets at once, so that the next question is ready when an answer comes.
            "in_flight": 2 * self.concurrency,
        }

    def check(self) -> None:
        """Raise UsageError for an engine that cannot be."""
        from tagmoe.data.store.engine import check_engine

        check_engine(self.engine.value, self.workers, self.address)

    def ask(self, store: Store, make: Callable[[], Asker[Any]], plan: AskPlan[Any], title: str) -> Outcome:
        """Ask for the rows of a store, with a bar."""
        from tagmoe.annotation.ask.store import annotate_store

        with count_bar(title) as progress:
            return annotate_store(
                store,
                make,
                plan,
                engine=self.engine.value,
                workers=self.workers,
                address=self.address,
                limit=self.limit,
                progress=progress,
            )


def asked_data(result: Outcome) -> dict[str, Any]:
    """What a run did, for --json."""
    return {
        "rows": sum(result.asked.values()),
        "statuses": dict(sorted(result.asked.items())),
        "reasons": [
            {"status": status, "reason": reason, "rows": count}
            for (status, reason), count in result.reasons.most_common(20)
        ],
        "notes": dict(sorted(result.notes.items())),
        "from_earlier_runs": result.known,
        "left": result.left,
    }


def asked_lines(store: str, result: Outcome, done: str, taken: str) -> list[str]:
    """The same in lines. done: what rows are now. taken: a sentence without its full stop on the rows that were set."""
    rows = sum(result.asked.values())
    by_status = ", ".join(f"{count:,} {status}" for status, count in sorted(result.asked.items()))
    lines = [f"{store}: {counted(rows, 'row')} {done}" + (f" ({by_status})" if rows else "")]
    if result.known:
        lines.append(f"{counted(result.known, 'answer')} found from a run that was stopped")
    left = f"left: {counted(result.left, 'row')}"
    lines.append(f"{taken}; {left}" if taken else left)
    for (status, reason), count in result.reasons.most_common(REASONS_SHOWN):
        lines.append(f"{count:>8,}  {status}: {reason[:160]}")
    return lines + [f"{count:>8,}  {note}" for note, count in result.notes.most_common(REASONS_SHOWN)]
