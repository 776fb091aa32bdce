"""`tagmoe data clean`: old versions of a store, and what only they use."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from tagmoe.cli.options import AsJson
from tagmoe.cli.output import print_result
from tagmoe.extras import require


def clean(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Store to clean.")],
    older_than: Annotated[
        float, typer.Option(metavar="DAYS", min=0, help="Versions that are older go; those that a run names too.")
    ] = 14,
    as_json: AsJson = False,
) -> None:
    """Remove old versions of a store, columns that were dropped or made again, and leftovers of killed workers.

    Example: tagmoe data clean my/store --older-than 30
    """
    require("data", "lance", "pyarrow", purpose="A store of data")
    from tagmoe.data.store.store import Store

    opened = Store.open(store)
    with opened.writing():
        done = opened.clean(timedelta(days=older_than))
    text = f"{store}: {done.versions:,} old versions and {done.files:,} files removed, {done.bytes / 1e6:,.1f} MB"
    print_result(
        {"store": store, "versions": done.versions, "files": done.files, "bytes": done.bytes}, text, as_json=as_json
    )
