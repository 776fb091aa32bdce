"""`tagmoe data`: import, compose, look at, check, enlarge, annotate, rewrite, encode, export and clean a store."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import typer

from tagmoe.cli.data.agree import agree
from tagmoe.cli.data.annotate import annotate
from tagmoe.cli.data.clean import clean
from tagmoe.cli.data.compose import compose
from tagmoe.cli.data.encode import encode
from tagmoe.cli.data.export import export
from tagmoe.cli.data.importing import import_
from tagmoe.cli.data.invert import invert
from tagmoe.cli.data.refine import refine
from tagmoe.cli.data.rewrite import rewrite
from tagmoe.cli.data.stats import stats
from tagmoe.cli.data.synthesize import synthesize
from tagmoe.cli.data.validate import validate
from tagmoe.cli.data.video import video
from tagmoe.cli.data.view import view
from tagmoe.cli.verbs import PlainGroup
from tagmoe.extras import require

app = typer.Typer(cls=PlainGroup, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def data(ctx: typer.Context) -> None:
    """Fill, compose, look at, check, enlarge, make, annotate, rewrite, encode, export and clean a store."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def _of_store(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb; it begins by checking that the extra of all stores is installed."""

    @wraps(verb)
    def run(**given: Any) -> None:
        require("data", "lance", "pyarrow", purpose="A store of data")
        verb(**given)

    return run


app.command("import")(_of_store(import_))
for _verb in (
    compose, export, stats, view, validate, invert, annotate, rewrite, agree, refine, synthesize, video, encode, clean,
):  # fmt: skip
    app.command()(_of_store(_verb))
