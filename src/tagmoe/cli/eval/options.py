"""Options that the verbs of `tagmoe eval` share, and how they list what failed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tagmoe.cli.options import MOST_ROWS
from tagmoe.cli.output import log
from tagmoe.errors import UsageError

SHOWN = 20
Bench = Annotated[Path, typer.Argument(metavar="BENCH", help="Folder that `tagmoe eval prepare` wrote.")]
Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that `tagmoe eval generate` wrote.")]
Tasks = Annotated[str | None, typer.Option(help="Tasks, separated by commas; by default all.")]
Limit = Annotated[int | None, typer.Option(min=1, max=MOST_ROWS, help="Only the first cases of each task.")]
Shard = Annotated[
    str, typer.Option(metavar="N/OF", help="Every OF-th case from the N-th on; shards may run at the same time.")
]


def names_of(text: str | None) -> list[str] | None:
    """The names in a list with commas."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def shard_of(text: str) -> tuple[int, int]:
    """2/4 as (2, 4). Raises UsageError for anything else."""
    found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text, flags=re.ASCII)
    number, of = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= of:
        raise UsageError(f"--shard is {text!r}; give its number and how many there are, such as 2/4.")
    return number, of


def log_failures(failures: Sequence[tuple[str, str, str]]) -> None:
    """The first of (id, status, reason), a line each."""
    for name, status, reason in failures[:SHOWN]:
        log(f"  {name}: {status}{f' ({reason})' if reason else ''}")
    if len(failures) > SHOWN:
        log(f"  and {len(failures) - SHOWN:,} more; --json lists all.")
