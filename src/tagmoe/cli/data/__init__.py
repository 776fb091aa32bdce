"""`tagmoe data`: import, look at, check, enlarge, annotate, encode, export and clean a store of training data."""

from __future__ import annotations

import typer

from tagmoe.cli.data.agree import agree
from tagmoe.cli.data.annotate import annotate
from tagmoe.cli.data.clean import clean
from tagmoe.cli.data.encode import encode
from tagmoe.cli.data.export import export
from tagmoe.cli.data.importing import import_
from tagmoe.cli.data.invert import invert
from tagmoe.cli.data.refine import refine
from tagmoe.cli.data.stats import stats
from tagmoe.cli.data.validate import validate
from tagmoe.cli.data.view import view
from tagmoe.cli.verbs import PlainGroup

app = typer.Typer(cls=PlainGroup, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def data(ctx: typer.Context) -> None:
    """Fill, look at, check, enlarge, annotate, encode, export and clean a store of training data."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


app.command("import")(import_)
app.command()(export)
app.command()(stats)
app.command()(view)
app.command()(validate)
app.command()(invert)
app.command()(annotate)
app.command()(agree)
app.command()(refine)
app.command()(encode)
app.command()(clean)
