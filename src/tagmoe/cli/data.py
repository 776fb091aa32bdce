"""`tagmoe data`: import, look at, check, enlarge, encode and export a store of training data."""

from __future__ import annotations

import typer

from tagmoe.cli.data_encode import encode

app = typer.Typer()


@app.callback(invoke_without_command=True)
def data(ctx: typer.Context) -> None:
    """Fill, look at, check, enlarge, encode and export a store of training data."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


app.command()(encode)
