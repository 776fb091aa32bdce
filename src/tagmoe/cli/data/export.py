"""`tagmoe data export`: write a store as files in common formats."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tagmoe.cli.options import AsJson, Force
from tagmoe.cli.output import check_output_folder, new_folder, print_result
from tagmoe.cli.progress import count_bar
from tagmoe.files.resumable import size_text
from tagmoe.sentences import counted


class Format(StrEnum):
    """The formats of tagmoe.data.export, as an enumeration for the argument parser."""

    jsonl = "jsonl"
    parquet = "parquet"
    webdataset = "webdataset"


def export(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Store to read.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    kind: Annotated[
        Format, typer.Option("--format", help="JSONL and pictures, Hugging Face Parquet, or WebDataset tar.")
    ] = Format.jsonl,
    where: Annotated[
        str | None, typer.Option(metavar="SQL", help="Export only rows that match, as \"dataset = 'ultraedit'\".")
    ] = None,
    with_quarantine: Annotated[
        bool, typer.Option("--with-quarantine", help="Export records in quarantine, too; a column says why.")
    ] = False,
    shard_mb: Annotated[float, typer.Option(min=0.001, max=1e6, help="MB of pictures in one file.")] = 512.0,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write the records of a store as files, with a separate set for each split; completely or not at all.

    Wordings, annotations and findings are written, too. Records in quarantine are left out.

    Example: tagmoe data export my/store --format parquet --out my/parquet
    """
    from tagmoe.data.export import FILES
    from tagmoe.data.export import export as write
    from tagmoe.data.store.store import Store

    check_output_folder(out, force=force, ours=FILES)
    opened = Store.open(store)
    started = time.perf_counter()
    with new_folder(out) as partial, count_bar(f"export {kind.value}") as progress:
        done = write(
            opened,
            partial,
            kind.value,
            where=where,
            quarantined=with_quarantine,
            shard_bytes=int(shard_mb * 2**20),
            progress=progress,
        )
    seconds = time.perf_counter() - started
    about = [
        f"{counted(done.records, 'record')}, {counted(done.files, 'file')}, {size_text(done.bytes)}, in {seconds:.1f} s"
    ]
    if done.left_out:
        about.append(f"left out: {counted(done.left_out, 'record')} in quarantine; --with-quarantine exports them")
    print_result(
        {"output": str(out), "format": kind.value, **vars(done), "seconds": round(seconds, 3)},
        str(out),
        as_json=as_json,
        about=about,
    )
