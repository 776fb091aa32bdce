"""`tagmoe data import`: fill a store from a source."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tagmoe.cli.options import AsJson
from tagmoe.cli.output import print_result
from tagmoe.cli.progress import count_bar
from tagmoe.data.sources.registry import KINDS, open_source
from tagmoe.errors import UsageError
from tagmoe.files.resumable import size_text
from tagmoe.sentences import counted


def import_(
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"Kind of source: {', '.join(KINDS)}.")],
    places: Annotated[
        list[str], typer.Argument(metavar="[PATH] STORE", help="Files to read, if the kind has any; store to fill.")
    ],
    name: Annotated[str | None, typer.Option(help="Name of the data set, where rows have none.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence (SPDX name) of rows that state none.")] = None,
    accept_licence: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Accept a licence that restricts use, or 'none'.")
    ] = None,
    benchmark: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="Benchmark folder, or list of SHA-256, whose pictures are not imported."),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="FIELD=COLUMN", help="Column of a Parquet file for a field; may be repeated."),
    ] = None,
    instruction: Annotated[str | None, typer.Option(help="Instruction of pairs that have no text file.")] = None,
    count: Annotated[
        int | None, typer.Option(min=1, max=10**9, help="Samples to make, for kinds that generate them.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**62, help="Seed of generated samples.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Another option of this kind.")
    ] = None,
    batch_rows: Annotated[int, typer.Option(min=1, max=10**6, help="Records written at once.")] = 1024,
    batch_mb: Annotated[float, typer.Option(min=0.001, max=1e5, help="MB of pictures written at once.")] = 256.0,
    as_json: AsJson = False,
) -> None:
    """Fill a store with a data set; the same command goes on after a kill, and adds nothing twice.

    Example: tagmoe data import jsonl my/edits.jsonl my/store --licence CC-BY-4.0
    """
    path, target = _places(kind, places)
    options: dict[str, Any] = {
        **_assigned(settings, "--set"),
        **{
            key: value
            for key, value in (
                ("name", name),
                ("licence", licence),
                ("instruction", instruction),
                ("count", count),
                ("seed", seed),
                ("map", _assigned(columns, "--map")),
            )
            if value not in (None, {})
        },
    }
    from tagmoe.data.sources.benchmark_pictures import benchmark_pictures
    from tagmoe.data.sources.importing import check_licence, import_source
    from tagmoe.data.store.store import Store

    # Check everything first, so that a refused import leaves no empty store.
    source = open_source(kind, path, options)
    accepted = accept_licence or []
    if source.licence.name == "none" and "none" not in accepted and "licence" in KINDS[kind].options:
        raise UsageError(
            f"No licence is known of {str(path)!r}; name it with --licence NAME, or if there is none and you may use "
            "the data, add --accept-licence none."
        )
    check_licence(source, accepted)
    refused = frozenset().union(*map(benchmark_pictures, benchmark or ()))
    store = Store.open_or_create(target)
    started = time.perf_counter()
    with count_bar(f"import {kind}") as progress:
        found = import_source(
            store,
            source,
            accepted_licences=accepted,
            refused_pictures=refused,
            batch_rows=batch_rows,
            batch_bytes=int(batch_mb * 2**20),
            progress=progress,
        )
    seconds = time.perf_counter() - started
    skipped = sum(found.skipped.values())
    about = []
    if found.already:
        about.append("this source had been imported before; nothing was added")
    elif found.resumed:
        about.append(f"went on after row {found.resumed:,} of an earlier import")
    about.append(
        f"{counted(found.accepted, 'record')} of {counted(found.rows, 'row')}, {size_text(found.bytes)} of pictures, "
        f"in {seconds:.1f} s"
    )
    if skipped:
        reasons = sorted(found.skipped.items(), key=lambda item: (-item[1], item[0]))
        about.append(f"{skipped:,} skipped: " + ", ".join(f"{number:,} {reason}" for reason, number in reasons))
    data = {"store": target, "source": source.name, "licence": source.licence.name, **vars(found)}
    print_result(data | {"records": len(store), "seconds": round(seconds, 3)}, target, as_json=as_json, about=about)


def _assigned(given: Sequence[str] | None, option: str) -> dict[str, str]:
    """{name: value} of repeated NAME=VALUE options. Raises UsageError without =, and for a name that is given twice."""
    found: dict[str, str] = {}
    for text in given or ():
        key, equals, value = text.partition("=")
        if not equals or not key or not value:
            raise UsageError(f"{option} {text!r} is not understood; write {option} NAME=VALUE.")
        if key in found:
            raise UsageError(f"{option} gives {key!r} twice; give it once.")
        found[key] = value
    return found


def _places(kind: str, places: Sequence[str]) -> tuple[Path | None, str]:
    if kind not in KINDS:
        raise UsageError(f"There is no kind of source {kind!r}; choose one of {', '.join(KINDS)}.")
    wanted = "PATH STORE" if KINDS[kind].needs_path else "STORE"
    if len(places) != len(wanted.split()):
        raise UsageError(f"{kind!r} takes {wanted}, not {' '.join(places)!r}; see 'tagmoe data import --help'.")
    return (Path(places[0]) if KINDS[kind].needs_path else None), places[-1]
