"""`tagmoe data clean`: remove old versions of a store, and files that only they use."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from tagmoe.cli.options import AsJson
from tagmoe.cli.output import print_result
from tagmoe.sentences import counted


def clean(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Store to clean.")],
    older_than: Annotated[
        float,
        typer.Option(
            metavar="DAYS", min=0, max=36_500, help="Remove versions older than this, even those that a run uses."
        ),
    ] = 14,
    as_json: AsJson = False,
) -> None:
    """Remove old versions of a store, columns that were dropped or replaced, and leftovers of killed workers.

    Example: tagmoe data clean my/store --older-than 30
    """
    from tagmoe.data.store.store import Store

    opened = Store.open(store)
    with opened.writing():
        done = opened.clean(timedelta(days=older_than))
    removed = f"{counted(done.versions, 'old version')} and {counted(done.files, 'file')} removed"
    text = f"{store}: {removed}, {done.bytes / 1e6:,.1f} MB"
    print_result(
        {"store": store, "versions": done.versions, "files": done.files, "bytes": done.bytes}, text, as_json=as_json
    )
