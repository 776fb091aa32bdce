"""`tagmoe generate`: pictures from text alone."""

from __future__ import annotations

from typing import Annotated

import typer

from tagmoe.cli.draw import DrawOptions, draw
from tagmoe.cli.options import DrawPrompt, Out, takes


@takes(DrawOptions)
def generate(
    *,
    prompt: DrawPrompt = None,
    out: Out,
    options: DrawOptions,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT of the output; by default the model's own.")] = None,
) -> None:
    """Generate a picture from text.

    Example: tagmoe generate -p "a red circle at the top left" -o out.png
    """
    draw([], prompt, out, size or "match", options, edits=False)
