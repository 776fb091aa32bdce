"""Progress bars on stderr, in bytes or in units of work. Without a terminal there is no bar."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from tagmoe.files.resumable import Progress


def byte_bar(title: str) -> AbstractContextManager[Progress | None]:
    """Yields the callback of `tagmoe.files.resumable.write_folder`, or None when stderr is no terminal."""
    return _passing_bar(title, "DownloadColumn", "TransferSpeedColumn", "TimeRemainingColumn")


def count_bar(title: str) -> AbstractContextManager[Progress | None]:
    """Yields a callback (rows done, total; a total of 0 is unknown), or None when stderr is no terminal."""
    return _passing_bar(title, "MofNCompleteColumn", "rows", "TimeElapsedColumn", "TimeRemainingColumn")


def step_bar(title: str) -> AbstractContextManager[Progress | None]:
    """Yields a callback (denoising steps done, total), or None when stderr is no terminal."""
    return _passing_bar(title, "MofNCompleteColumn", "steps", "TimeElapsedColumn", "TimeRemainingColumn")


@contextmanager
def _passing_bar(title: str, *columns: str) -> Iterator[Progress | None]:
    """A bar that disappears at its end. columns: words, and names of classes of rich.progress (slow to import)."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich import progress
    from rich.console import Console

    made = [getattr(progress, name)() if hasattr(progress, name) else progress.TextColumn(name) for name in columns]
    first = (progress.TextColumn(title), progress.BarColumn())
    with progress.Progress(*first, *made, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)


@contextmanager
def lasting_bar(title: str, total: int) -> Iterator[Callable[..., None]]:
    """Yields a callback (done, total) that moves a bar, which stays, on a terminal. Elsewhere nothing is shown."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(title, total=total)
        yield lambda done, of=total: progress.update(bar, completed=done, total=of)
