"""`tagmoe data`: import, look at, check, enlarge, encode and export a store of training data."""

from __future__ import annotations

import typer

from tagmoe.cli.data_validate import validate

app = typer.Typer(help="Fill, look at, check, enlarge, encode and export a store of training data.")
app.command()(validate)
