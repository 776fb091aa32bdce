"""How far a stage is: a bar on a terminal, and elsewhere a line every so often."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tagmoe.report.numbers import percent, seconds, short_count

EVERY = 30.0
"""Seconds between two lines."""
HEIGHTS = (
    "\N{LOWER ONE EIGHTH BLOCK}\N{LOWER ONE QUARTER BLOCK}\N{LOWER THREE EIGHTHS BLOCK}\N{LOWER HALF BLOCK}"
    "\N{LOWER FIVE EIGHTHS BLOCK}\N{LOWER THREE QUARTERS BLOCK}\N{LOWER SEVEN EIGHTHS BLOCK}\N{FULL BLOCK}"
)
NOT_TERMS = frozenset({"seconds", "grad_norm", "learning_rate", "samples", "tokens", "utilisation", "skipped"})


@dataclass(frozen=True)
class Pace:
    """What a step did, over all ranks, and in how many seconds. utilisation: share of the processor's peak."""

    seconds: float
    samples: int
    tokens: int
    utilisation: float | None

    @property
    def rates(self) -> dict[str, float]:
        """By second."""
        if self.seconds <= 0:
            return {}
        return {"samples/s": self.samples / self.seconds, "tokens/s": self.tokens / self.seconds}

    def __str__(self) -> str:
        rates = self.rates
        said = (
            [f"{rates['samples/s']:.3g} samples/s", f"{short_count(round(rates['tokens/s']))} tokens/s"]
            if rates
            else []
        )
        return ", ".join([*said, *([] if self.utilisation is None else [f"{percent(self.utilisation)} of the peak"])])


Loads = Sequence[Sequence[float]]
Show = Callable[[int, Mapping[str, float], Pace | None, Loads], None]
"""(step, numbers of the step, its pace, the newest load by layer and expert)"""


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

        def show(done: int, report: Mapping[str, float], pace: Pace | None, loads: Loads) -> None:
            parts = [_terms(report), "" if pace is None else str(pace), load_bar(loads)]
            progress.update(bar, completed=done, terms="  ".join(part for part in parts if part))

        yield show


def load_bar(loads: Loads) -> str:
    """The load of the most uneven layer, a block for each expert: full is all of its tokens. "" without mixtures."""
    if not loads:
        return ""
    most = max(loads, key=max)
    return "load " + "".join(HEIGHTS[min(len(HEIGHTS) - 1, int(share * len(HEIGHTS)))] for share in most)


def _lines(console: Console, stage: str, first: int, steps: int) -> Show:
    started = told = time.monotonic()

    def show(step: int, report: Mapping[str, float], pace: Pace | None, loads: Loads) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told < EVERY or step == steps:
            return
        told = now
        speed = (step - first) / max(now - started, 1e-9)
        parts = [
            f"step {step} of {steps}",
            _terms(report),
            f"learning rate {report['learning_rate']:.2g}",
            f"{speed:.3g} steps/s",
            *([str(pace)] if pace is not None and str(pace) else []),
            *([f"load {percent(min(map(min, loads)))} to {percent(max(map(max, loads)))}"] if loads else []),
            f"{seconds((steps - step) / speed)} left",
        ]
        # Not wrapped: a line of a log is one line.
        console.print(f"{stage}: {', '.join(parts)}", soft_wrap=True, highlight=False)

    return show


def _terms(report: Mapping[str, float]) -> str:
    return " ".join(
        f"{name} {value:.4f}" for name, value in report.items() if name not in NOT_TERMS and "/" not in name
    )
