"""`tagmoe study plan`: decide all before the first answer, and freeze it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from tagmoe.cli.options import MOST_CASES, AsJson, FixedSeed, Force
from tagmoe.cli.output import check_output_folder, log, print_result, write_folder
from tagmoe.errors import UsageError
from tagmoe.sentences import counted


def plan(
    methods: Annotated[
        list[str],
        typer.Argument(
            metavar="METHOD...",
            help="Runs of `tagmoe eval generate`, or folders of pictures by id: NAME=FOLDER.",
        ),
    ],
    cases: Annotated[
        Path,
        typer.Option(
            help="Folder that `tagmoe eval prepare` wrote, or a file of JSON lines: id, instruction, source, stratum."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the study to write.")],
    count: Annotated[
        int | None, typer.Option(min=1, max=MOST_CASES, help="Cases, as many of each stratum; by default all.")
    ] = None,
    people: Annotated[int, typer.Option(min=1, max=10_000, help="People to ask.")] = 65,
    ratings: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="Answer sets of each case; by default as many as there are methods."),
    ] = None,
    ours: Annotated[
        str | None, typer.Option(help="Method that the others are tested against; by default the first.")
    ] = None,
    language: Annotated[
        list[str] | None,
        typer.Option(help="Language of the page: en, de or a YAML file; may be given several times. By default en."),
    ] = None,
    check_every: Annotated[
        int, typer.Option(min=0, max=1000, help="Pages of a person for which there is one attention check; 0: none.")
    ] = 10,
    repeat_every: Annotated[
        int, typer.Option(min=0, max=1000, help="Pages of a person for which one is asked again; 0: none.")
    ] = 10,
    power: Annotated[
        bool, typer.Option("--power", help="Simulate which difference this plan, and others near it, would show.")
    ] = False,
    seed: FixedSeed = 0,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Choose cases, allot them to people in balanced order, and freeze the plan under a digest.

    Example: tagmoe study plan ours=run-a base=run-b --cases bench --count 50 --people 65 --out study
    """
    from tagmoe.study.manifest import ANSWERS, MANIFEST, TEXTS
    from tagmoe.study.plan import Design, write_plan
    from tagmoe.study.plan import plan as make
    from tagmoe.study.power import look_around

    # A folder that holds answers is never replaced: they could not be given again.
    if (out / ANSWERS).exists():
        raise UsageError(f"{str(out)!r} holds answers already; give the name of a new folder.")
    check_output_folder(out, force=force, ours=(MANIFEST, TEXTS))
    design = Design(people, ratings, count, check_every, repeat_every, seed)
    manifest = make(cases, methods, out, design, languages=language or ["en"], ours=ours)
    if power:
        manifest = manifest.model_copy(update={"power": look_around(manifest, say=log)})
    frozen = write_folder(out, partial(write_plan, manifest))
    sizes = sorted({len(sheet) for sheet in frozen.sheets})
    log(
        f"{counted(frozen.cases, 'case')}, {counted(frozen.methods, 'method')}, {counted(people, 'person', 'people')}: "
        f"{counted(frozen.sets, 'answer set')}, {sizes[0]} to {sizes[-1]} pages a person"
    )
    if frozen.left_out:
        first = frozen.left_out[0]
        log(f"{counted(frozen.left_out, 'case')} left out for all methods, such as {first.id}: {first.reason}")
    twins = sum(case.twins > 0 for case in frozen.cases)
    if twins:
        log(f"In {counted(twins, 'case')} two methods gave the same picture; a choice between them is chance.")
    data = {
        "study": str(out),
        "digest": frozen.digest,
        "cases": len(frozen.cases),
        "methods": frozen.names,
        "people": people,
        "sets": frozen.sets,
        "left_out": [one.model_dump() for one in frozen.left_out],
        "twins": twins,
        "power": frozen.power,
    }
    print_result(data, str(out), as_json=as_json)
