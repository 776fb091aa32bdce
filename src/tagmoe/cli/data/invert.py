"""`tagmoe data invert`: exchange source and target where that gives a valid record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tagmoe.cli.data.asking import AskOptions, asked_data, asked_lines
from tagmoe.cli.data.named_numbers import named_numbers
from tagmoe.cli.options import AsJson, takes
from tagmoe.cli.output import log, print_result
from tagmoe.cli.progress import count_bar
from tagmoe.errors import UsageError

if TYPE_CHECKING:
    from tagmoe.annotation.ask.texts import InverseAsker
    from tagmoe.data.inverse.invert import Outcome


@takes(AskOptions)
def invert(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Folder or object-store address of a store.")],
    quality: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=CUT", help="Lowest score of the source that a record must have; may be given for several."
        ),
    ] = None,
    share: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Largest share of inverses among a task's records.")
    ] = 0.3,
    maps: Annotated[bool, typer.Option("--maps", help="Also add: draw the map that a picture was made from.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and write nothing.")] = False,
    as_json: AsJson = False,
    *,
    options: AskOptions,
) -> None:
    """Add inverse records: what was added is removed, a style becomes a photograph; TagWorld by its oracle.

    Records whose inverse can be judged only from the pictures wait for a model; with --endpoint, or the --model of a
    folder, it is asked for their instructions. After a kill, the same command resumes. When it is done, running it
    again adds nothing.
    Example: tagmoe data invert data/omniedit --quality o_score=7 --dry-run
    """
    cuts = named_numbers(quality or (), "--quality", "give each score once as NAME=NUMBER, such as o_score=7")
    asks = bool(options.endpoint or options.model)
    unused = [] if asks else options.given()
    if unused:
        raise UsageError(f"The option {unused[0]} is for a model; give --endpoint too, or drop it.")
    if asks and dry_run:
        raise UsageError("A dry run asks no model; drop --dry-run, or --endpoint and --model.")
    options.check()
    ask = options.vlm() if asks else None
    from tagmoe.data.inverse.invert import Rules, waiting_rows
    from tagmoe.data.inverse.invert import invert as run
    from tagmoe.data.store.store import Store

    opened = Store.open(store)
    rules = Rules(cuts, share, maps)
    asked = None
    if ask is not None:
        from tagmoe.annotation.ask.texts import InversePlan

        plan = InversePlan(only=waiting_rows(opened, rules), **options.plan)
        asked = options.ask(opened, partial(_of_model, ask, options.pixels), plan, "asking")
    with count_bar("inverting") as progress:
        outcome = run(opened, rules, dry_run=dry_run, progress=progress)
    if outcome.unchecked:
        log(
            f"{outcome.unchecked} of these were made from records that are not checked; 'tagmoe data validate' before "
            "this command keeps unsound ones out."
        )
    data = {
        "store": store,
        "dry_run": dry_run,
        "made": outcome.made.total(),
        "already": outcome.already,
        "made_by_task": dict(outcome.made.most_common()),
        "waiting": dict(outcome.waiting.most_common()),
        "refused": dict(outcome.refused.most_common()),
        "unchecked": outcome.unchecked,
        "asked": None if asked is None else asked_data(asked),
    }
    lines = [] if asked is None else asked_lines(store, asked, "asked for an inverse instruction", "")
    print_result(data, "\n".join([*lines, _text(outcome, dry_run)]), as_json=as_json)
    if asked is not None and asked.asked["failed"]:
        raise typer.Exit(1)


def _of_model(ask: Callable[[], Any], pixels: int) -> InverseAsker:
    from tagmoe.annotation.ask.texts import InverseAsker

    return InverseAsker(ask(), pixels=pixels)


def _text(outcome: Outcome, dry_run: bool) -> str:
    def part(title: str, counts: Counter[str]) -> list[str]:
        rows = [f"  {count:>10,}  {reason}" for reason, count in counts.most_common()]
        return [f"{title}: {counts.total():,}", *rows]

    lines = part("inverses that would be made" if dry_run else "inverses made", outcome.made)
    lines += [f"made before: {outcome.already:,}"]
    lines += part("waiting for a VLM", outcome.waiting)
    return "\n".join(lines + part("without an inverse", outcome.refused))
