"""`tagmoe data rewrite`: a better wording of each instruction, which training reads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tagmoe.cli.data.asking import AskOptions, asked_data, asked_lines
from tagmoe.cli.options import AsJson, takes
from tagmoe.cli.output import log, print_result

if TYPE_CHECKING:
    from tagmoe.annotation.ask.texts import RewriteAsker


@takes(AskOptions)
def rewrite(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Store whose instructions are rewritten.")],
    replace_given: Annotated[
        bool, typer.Option("--replace", help="Also replace rewritten instructions that came with the source.")
    ] = False,
    as_json: AsJson = False,
    *,
    options: AskOptions,
) -> None:
    """Fill the rewritten instructions by a model; killed, the same command goes on and asks nothing twice.

    The prompt and the checks are those of `tagmoe rewrite`. An instruction that is clear as it is stays as it is. Set
    data.rewritten_share to train on them. Example: tagmoe data rewrite my/store --endpoint URL --model NAME
    """
    options.check()
    ask = options.vlm()
    from tagmoe.annotation.ask.texts import RewritePlan, rows_to_rewrite
    from tagmoe.data.encode import INDICATOR
    from tagmoe.data.store.store import Store

    opened = Store.open(store)
    only = rows_to_rewrite(opened, replace_given=replace_given)
    result = options.ask(
        opened, partial(_of_model, ask, options.pixels), RewritePlan(only=only, **options.plan), "rewrite"
    )
    kept = len(only) - int(only.sum())
    if result.tagged and INDICATOR in opened.columns:
        log(f"the store is encoded with the wordings of before; run 'tagmoe data encode {store} --again'.")
    data = {"store": store, **asked_data(result), "rewritten": result.tagged, "from_elsewhere": kept}
    taken = f"{result.tagged:,} rewritten instructions set, {kept:,} from elsewhere kept"
    print_result(data, "\n".join(asked_lines(store, result, "asked", taken)), as_json=as_json)
    if result.asked["failed"]:
        raise typer.Exit(1)


def _of_model(ask: Callable[[], Any], pixels: int) -> RewriteAsker:
    from tagmoe.annotation.ask.texts import RewriteAsker

    return RewriteAsker(ask(), pixels=pixels)
