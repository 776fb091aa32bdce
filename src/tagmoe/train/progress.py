"""How far a stage is: a bar on a terminal, and elsewhere a line every so often."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tagmoe.report.numbers import seconds

EVERY = 30.0
"""Seconds between two lines."""

Show = Callable[[int, Mapping[str, float], float], None]
"""(step, numbers of the step, learning rate)"""


@contextmanager
def shown(console: Console, stage: str, step: int, steps: int) -> Iterator[Show]:
    """Yields a function that is to be called after every step. step: the steps done before, of `steps`."""
    if not console.is_terminal:
        yield _lines(console, stage, step, steps)
        return
    columns = (
        TextColumn(stage),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[terms]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(stage, total=steps, completed=step, terms="")
        yield lambda done, report, _: progress.update(bar, completed=done, terms=_terms(report))


def _lines(console: Console, stage: str, first: int, steps: int) -> Show:
    started = told = time.monotonic()

    def show(step: int, report: Mapping[str, float], learning_rate: float) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told < EVERY or step == steps:
            return
        told = now
        speed = (step - first) / max(now - started, 1e-9)
        # Not wrapped: a line of a log is one line.
        console.print(
            f"{stage}: step {step} of {steps}, {_terms(report)}, learning rate {learning_rate:.2g}, "
            f"{speed:.3g} steps/s, {seconds((steps - step) / speed)} left",
            soft_wrap=True,
            highlight=False,
        )

    return show


def _terms(report: Mapping[str, float]) -> str:
    return " ".join(
        f"{name} {value:.4f}"
        for name, value in report.items()
        if name not in ("seconds", "grad_norm") and "/" not in name
    )
