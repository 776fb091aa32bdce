"""`tagmoe data invert`: exchange source and target where that gives a valid record."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from tagmoe.cli.data.named_numbers import named_numbers
from tagmoe.cli.options import AsJson
from tagmoe.cli.output import log, print_result
from tagmoe.cli.progress import count_bar

if TYPE_CHECKING:
    from tagmoe.data.inverse.invert import Outcome


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
) -> None:
    """Add inverse records: what was added is removed, a style becomes a photograph; TagWorld by its oracle.

    Records whose inverse can be judged only from the pictures are counted as waiting for a VLM. After a kill, the same
    command resumes. When it is done, running it again adds nothing.
    Example: tagmoe data invert data/omniedit --quality o_score=7 --dry-run
    """
    cuts = named_numbers(quality or (), "--quality", "give each score once as NAME=NUMBER, such as o_score=7")
    from tagmoe.data.inverse.invert import Rules
    from tagmoe.data.inverse.invert import invert as run
    from tagmoe.data.store.store import Store

    opened = Store.open(store)
    with count_bar("inverting") as progress:
        outcome = run(opened, Rules(cuts, share, maps), dry_run=dry_run, progress=progress)
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
    }
    print_result(data, _text(outcome, dry_run), as_json=as_json)


def _text(outcome: Outcome, dry_run: bool) -> str:
    def part(title: str, counts: Counter[str]) -> list[str]:
        rows = [f"  {count:>10,}  {reason}" for reason, count in counts.most_common()]
        return [f"{title}: {counts.total():,}", *rows]

    lines = part("inverses that would be made" if dry_run else "inverses made", outcome.made)
    lines += [f"made before: {outcome.already:,}"]
    lines += part("waiting for a VLM", outcome.waiting)
    return "\n".join(lines + part("without an inverse", outcome.refused))
