"""`tagmoe data import`: fill a store from a source."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tagmoe.cli.assigned import assigned
from tagmoe.cli.options import AsJson
from tagmoe.cli.output import print_result
from tagmoe.cli.progress import count_bar
from tagmoe.data.sources.registry import KINDS, open_source
from tagmoe.errors import UsageError
from tagmoe.files.resumable import size_text
from tagmoe.sentences import counted

if TYPE_CHECKING:
    from tagmoe.data.sources.importing import Imported


SHOWN_ROWS = 1000
"""Most skipped rows in --json; the file beside the store has all of them."""
SHOWN_PLACES = 3


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
    benchmark_distance: Annotated[
        float,
        typer.Option(
            min=0.0, max=0.5, help="Share of hash bits by which a picture may differ from one of a benchmark; 0: bytes."
        ),
    ] = 0.22,
    columns: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="FIELD=COLUMN", help="Column that a field is read from; may be repeated."),
    ] = None,
    constants: Annotated[
        list[str] | None,
        typer.Option("--constant", metavar="FIELD=VALUE", help="Value of a field for all rows; may be repeated."),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Folder or tar of the pictures, if not beside the rows.")
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
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Replace records whose rows have changed since their import.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fill a store with a data set; the same command goes on after a kill, and adds nothing twice.

    Run again after the end, it takes in rows that were skipped and can be read now. Exits with 1 if no row came in.

    Example: tagmoe data import jsonl my/edits.jsonl my/store --licence CC-BY-4.0
    """
    path, target = _places(kind, places)
    options: dict[str, Any] = {
        **assigned(settings, "--set"),
        **{
            key: value
            for key, value in (
                ("name", name),
                ("licence", licence),
                ("instruction", instruction),
                ("count", count),
                ("seed", seed),
                ("map", assigned(columns, "--map")),
                ("constants", assigned(constants, "--constant")),
                ("root", root),
            )
            if value not in (None, {})
        },
    }
    from tagmoe.data.sources.benchmark_pictures import BenchmarkPictures, benchmark_pictures
    from tagmoe.data.sources.importing import KNOWN, check_licence, import_source
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
    refused = BenchmarkPictures.union(
        [benchmark_pictures(place, looks=benchmark_distance > 0) for place in benchmark or ()], benchmark_distance
    )
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
            refresh=refresh,
            progress=progress,
        )
    seconds = time.perf_counter() - started
    about = []
    if found.already:
        about.append("this source had been imported before; nothing was added")
    elif found.resumed:
        about.append(f"went on after row {found.resumed:,} of an earlier import")
    about.append(
        f"{counted(found.accepted, 'record')} of {counted(found.rows, 'row')}, {size_text(found.bytes)} of pictures, "
        f"in {seconds:.1f} s"
    )
    unused, ignored = dict(getattr(source, "unused", {})), list(getattr(source, "ignored", ()))
    about += [*_changes(found), *_skipped(found)]
    if unused:
        about.append("columns not read: " + ", ".join(f"{key} ({number:,})" for key, number in sorted(unused.items())))
    if ignored:
        about.append(f"files not read: {_some(ignored)}")
    data = {"store": target, "source": source.name, "licence": source.licence.name, **vars(found)}
    data |= {"unused_columns": unused, "ignored_files": ignored}
    data["skipped_rows"] = [item._asdict() for item in found.skipped_rows[:SHOWN_ROWS]]
    print_result(data | {"records": len(store), "seconds": round(seconds, 3)}, target, as_json=as_json, about=about)
    if found.rows and not found.accepted and set(found.skipped) - {KNOWN}:
        raise typer.Exit(1)


def _changes(found: Imported) -> list[str]:
    lines = []
    if found.replaced:
        lines.append(
            f"replaced: {counted(found.replaced, 'record')}, as their rows have changed; check and encode the store "
            "again"
        )
    if found.changed:
        lines.append(
            f"changed since their import: {counted(found.changed, 'row')} ({_some(found.changed)}); add --refresh to "
            "replace their records"
        )
    return lines


def _skipped(found: Imported) -> list[str]:
    """How many rows gave no record, and where the first ones of each reason are."""
    if not found.skipped:
        return []
    places: dict[str, list[str]] = {}
    for item in found.skipped_rows:
        places.setdefault(item.reason, []).append(item.origin)
    reasons = sorted(found.skipped.items(), key=lambda item: (-item[1], item[0]))
    lines = [
        f"{sum(found.skipped.values()):,} skipped: " + ", ".join(f"{number:,} {reason}" for reason, number in reasons)
    ]
    lines += [f"  {reason}: {_some(places[reason])}" for reason, _ in reasons if reason in places]
    if found.skipped_file:
        lines.append(f"  all of them: {found.skipped_file}; the same command takes in what can be read by then")
    return lines


def _some(places: Sequence[str]) -> str:
    more = len(places) - SHOWN_PLACES
    return ", ".join(places[:SHOWN_PLACES]) + (f" and {more:,} more" if more > 0 else "")


def _places(kind: str, places: Sequence[str]) -> tuple[Path | None, str]:
    if kind not in KINDS:
        raise UsageError(f"There is no kind of source {kind!r}; choose one of {', '.join(KINDS)}.")
    wanted = "PATH STORE" if KINDS[kind].needs_path else "STORE"
    if len(places) != len(wanted.split()):
        raise UsageError(f"{kind!r} takes {wanted}, not {' '.join(places)!r}; see 'tagmoe data import --help'.")
    return (Path(places[0]) if KINDS[kind].needs_path else None), places[-1]
