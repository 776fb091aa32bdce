"""`tagmoe data compose`: fill a store with pairs composed of cut-outs and photographic grounds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from tagmoe.cli.options import AsJson
from tagmoe.cli.output import print_result
from tagmoe.cli.progress import count_bar
from tagmoe.files.resumable import size_text
from tagmoe.photoworld import HELD_OUT, TASKS, PhotoWorld, task_names
from tagmoe.photoworld.sample import LARGEST_SIDE, SMALLEST_SIDE, Split
from tagmoe.sentences import counted


def compose(
    grounds: Annotated[Path, typer.Argument(metavar="GROUNDS", help="Folder of photographs to stand things on.")],
    cutouts: Annotated[
        Path,
        typer.Argument(
            metavar="CUTOUTS", help="Folder of cut-outs with alpha; NAME.txt beside NAME.png says what it is."
        ),
    ],
    out: Annotated[str, typer.Option("--out", "-o", metavar="STORE", help="Store to fill.")],
    count: Annotated[int, typer.Option(min=1, max=10**9, help="Pairs to compose; inverse edits come on top.")],
    size: Annotated[
        int, typer.Option(min=SMALLEST_SIDE, max=LARGEST_SIDE, help="Side of the pictures, a multiple of 8.")
    ] = 128,
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="Seed of the pairs.")] = 0,
    tasks: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help=f"Tasks, by default all: {', '.join(TASKS)}.")
    ] = None,
    inverses: Annotated[
        bool, typer.Option("--inverses/--no-inverses", help="Also write the edit back, where there is one.")
    ] = True,
    held_out: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Share of objects and grounds that training never sees.")
    ] = HELD_OUT,
    split: Annotated[
        Split,
        typer.Option(
            help="train: pairs to train on, every hundredth of held-out objects and grounds, as validation. test: "
            "held-out ones alone."
        ),
    ] = "train",
    licence: Annotated[str, typer.Option(help="Licence (SPDX name) of the pictures.")] = "LicenseRef-unstated",
    accept_licence: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Accept a licence that restricts use, or 'none'.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compose pairs of your cut-outs on your photographs, with exact masks, targets, tags and inverse edits.

    The same command goes on after a kill, and adds nothing twice. Objects and grounds are divided by split, and
    look-alikes stay together. These are real pixels, but composed scenes.

    Example: tagmoe data compose photographs products -o my/store --count 10000 --size 128
    """
    names = None if tasks is None else task_names(tuple(tasks.split(",")))
    from tagmoe.data.sources.importing import check_licence, import_source
    from tagmoe.data.sources.photoworld import PhotoWorldSource
    from tagmoe.data.store.store import Store

    with count_bar("read pictures") as progress:
        world = PhotoWorld(grounds, cutouts, size=size, held_out=held_out, progress=progress)
    source = PhotoWorldSource(
        world,
        (grounds, cutouts),
        count,
        seed=seed,
        tasks=names,
        split=split,
        inverses=inverses,
        licence=licence,
    )
    check_licence(source, accept_licence or [])
    store = Store.open_or_create(out)
    started = time.perf_counter()
    with count_bar("compose") as progress:
        found = import_source(store, source, accepted_licences=accept_licence or [], progress=progress)
    seconds = time.perf_counter() - started
    roots = {name: {"cutouts": len(part.cutouts), "grounds": len(part.grounds)} for name, part in world.roots.items()}
    about = []
    if found.already:
        about.append("these pairs had been composed before; nothing was added")
    elif found.resumed:
        about.append(f"went on after pair {found.resumed:,} of an earlier call")
    about += [
        f"{name}: {counted(n['cutouts'], 'cut-out')} on {counted(n['grounds'], 'ground')}" for name, n in roots.items()
    ]
    about.append(
        f"{counted(found.accepted, 'record')} of {counted(found.rows, 'pair')}, {size_text(found.bytes)} of pictures, "
        f"in {seconds:.1f} s"
    )
    data: dict[str, Any] = {"store": out, "pairs": found.rows, "added": found.added, "accepted": found.accepted}
    data |= {"skipped": dict(found.skipped), "resumed": found.resumed, "already": found.already, "bytes": found.bytes}
    data |= {"roots": roots, "records": len(store), "seconds": round(seconds, 3)}
    print_result(data, out, as_json=as_json, about=about)
