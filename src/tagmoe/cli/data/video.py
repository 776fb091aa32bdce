"""`tagmoe data video`: pairs of frames from videos."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tagmoe.cli.assigned import assigned
from tagmoe.cli.data.asking import AskOptions, asked_data, asked_lines
from tagmoe.cli.options import AsJson, FixedSeed, Force, takes
from tagmoe.cli.output import check_output_file, log, print_result, write_text
from tagmoe.cli.progress import byte_bar
from tagmoe.errors import UsageError
from tagmoe.extras import require
from tagmoe.report.printable import one_line
from tagmoe.sentences import counted

if TYPE_CHECKING:
    from tagmoe.factory.video.asking import WordsAsker
    from tagmoe.factory.video.run import Outcome

MOST_SECONDS = 600
MOST_MINUTES = 24 * 60


@takes(AskOptions)
def video(
    files: Annotated[list[Path], typer.Argument(metavar="FILES...", help="Videos; of a folder, the videos below it.")],
    store: Annotated[str, typer.Argument(metavar="STORE", help="Folder or object-store address of the store to fill.")],
    every: Annotated[
        float, typer.Option(min=0.25, max=MOST_SECONDS, help="Seconds between the first frames of pairs.")
    ] = 2.0,
    shortest: Annotated[
        float, typer.Option(min=0.25, max=MOST_SECONDS, help="Least seconds between the frames.")
    ] = 0.5,
    longest: Annotated[float, typer.Option(min=0.25, max=60, help="Most seconds between the frames.")] = 6.0,
    seed: FixedSeed = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--check", metavar="NAME=VALUE", help="Limit of a filter, or on or off; may be repeated."),
    ] = None,
    frame_pixels: Annotated[
        int, typer.Option(min=64 * 64, max=16 * 10**6, help="Most pixels of a frame; larger ones are scaled down.")
    ] = 1024 * 1024,
    minutes: Annotated[
        float, typer.Option(min=0.01, max=MOST_MINUTES, help="Most minutes of a video that are read.")
    ] = 240.0,
    name: Annotated[str, typer.Option(help="Name of the data set.")] = "video",
    licence: Annotated[str, typer.Option(help="Licence (SPDX name) of the videos.")] = "LicenseRef-unstated",
    accept_licence: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Accept a licence that restricts use, or 'none'.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Page to write (.html), with pairs.")] = None,
    force: Force = False,
    as_json: AsJson = False,
    *,
    options: AskOptions,
) -> None:
    """Fill a store with pairs of frames: the camera moved, or the subject did; each pair in both directions.

    With --endpoint a vision-language model writes the instructions of both. Without it the pairs wait, and the same
    command with --endpoint asks for them. After a kill, the same command resumes. A file that cannot be read is named,
    the rest goes on, and the exit code is 1.
    Example: tagmoe data video clips pairs --check blur=0.45 --out pairs.html
    """
    asks = bool(options.endpoint or options.model)
    unused = [] if asks else options.given()
    if unused:
        raise UsageError(f"The option {unused[0]} is for a model; give --endpoint too, or drop it.")
    options.check()
    if out is not None:
        check_output_file(out, force=force, extensions=(".html",), kind="page")
    require("video", "av", "cv2", purpose="Reading videos")
    ask = options.vlm() if asks else None
    if ask is not None and not Path((options.endpoint or [options.model or ""])[0]).expanduser().is_dir():
        # A server that does not answer is said before hours of videos are read.
        asyncio.run(ask().close())
    from tagmoe.data.sources.importing import check_licence
    from tagmoe.data.store.store import Store
    from tagmoe.factory.video.asking import take_words
    from tagmoe.factory.video.checks import Limits
    from tagmoe.factory.video.pairs import Sampling
    from tagmoe.factory.video.reading import ReadLimits
    from tagmoe.factory.video.run import Settings, files_of, read_videos

    chosen = Settings(
        Sampling(seed, every, shortest, longest),
        Limits.of(assigned(settings, "--check")),
        ReadLimits(frame_pixels, minutes),
        name,
        licence,
    )
    check_licence(chosen, accept_licence or [])
    found = files_of(files)
    opened = Store.open_or_create(store)
    started = time.perf_counter()
    with byte_bar("reading videos") as progress:
        outcome = read_videos(opened, found, chosen, progress=progress, log=log)
    seconds = time.perf_counter() - started
    asked = None
    if ask is not None:
        from tagmoe.factory.video.asking import WordsPlan, rows_to_ask

        plan = WordsPlan(only=rows_to_ask(opened), **options.plan)
        asked = options.ask(opened, partial(_of_model, ask, options.pixels), plan, "asking")
    words = take_words(opened)
    if out is not None:
        from tagmoe.factory.video.page import render

        write_text(render(outcome, chosen.checks, words), out)
        log(f"what was kept and dropped, with pictures: {out}")
    data = {
        "store": store,
        "files": [_file_data(one) for one in outcome.files],
        "failed": len(outcome.failed),
        "pairs": outcome.pairs,
        "kept": outcome.kept.total(),
        "kinds": dict(sorted(outcome.kept.items())),
        "dropped": dict(outcome.dropped.most_common()),
        "added": outcome.added,
        "records": len(opened),
        "words": dict(words.most_common()),
        "limits": dict(chosen.checks.limits),
        "seconds": round(seconds, 3),
        "asked": None if asked is None else asked_data(asked),
    }
    lines = [] if asked is None else asked_lines(store, asked, "asked for its words", "")
    print_result(data, "\n".join([*_lines(outcome, words, seconds), *lines]), as_json=as_json)
    if outcome.failed or (asked is not None and asked.asked["failed"]):
        raise typer.Exit(1)


def _of_model(ask: Callable[[], Any], pixels: int) -> WordsAsker:
    from tagmoe.factory.video.asking import WordsAsker

    return WordsAsker(ask(), pixels=pixels)


def _file_data(one: Any) -> dict[str, Any]:
    return {
        "name": one.name,
        "reason": one.reason or None,
        "already": one.already,
        "frames": one.frames,
        "seconds": one.seconds,
        "shots": one.shots,
        "pairs": one.pairs,
        "kept": one.kept.total(),
        "whole": one.is_whole and not one.reason,
    }


def _lines(outcome: Outcome, words: Counter[str], seconds: float) -> list[str]:
    from tagmoe.factory.video.checks import FILTERS

    minutes = sum(one.seconds for one in outcome.files) / 60
    read = [one for one in outcome.files if not one.reason]
    lines = [
        f"{counted(read, 'video')} of {minutes:.1f} minutes, {counted(sum(one.shots for one in read), 'shot')}, "
        f"in {seconds:.1f} s; {counted(outcome.pairs, 'pair')} drawn"
    ]
    already = sum(one.already for one in outcome.files)
    if already:
        lines.append(f"{counted(already, 'video')} had been read before")
    short = [one for one in read if not one.is_whole]
    lines += [f"{one_line(one.name)}: only the first minutes were read" for one in short[:5]]
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(outcome.kept.items()))
    lines.append(f"kept: {counted(outcome.kept.total(), 'pair')}" + (f" ({kinds})" if kinds else ""))
    lines += [f"{count:>10,}  {name}: {FILTERS[name].about}" for name, count in outcome.dropped.most_common()]
    lines.append(
        f"added: {counted(outcome.added, 'record')}; with words: {words['worded']:,}, waiting: {words['waiting']:,}"
    )
    lines += [f"{count:>10,}  {reason}" for reason, count in words.most_common() if reason not in ("worded", "waiting")]
    return lines
