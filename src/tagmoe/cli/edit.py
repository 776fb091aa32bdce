"""`tagmoe edit`: change pictures by an instruction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tagmoe.cli.draw import DrawOptions, draw
from tagmoe.cli.options import Out, Prompt, Size, takes


@takes(DrawOptions)
def edit(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE", help="One or several pictures; example:scene and example:person are in the package."
        ),
    ],
    prompt: Prompt,
    out: Out,
    options: DrawOptions,
    size: Size = "match",
) -> None:
    """Edit one or several pictures by an instruction.

    Example: tagmoe edit scene.png -p "make the circle red" -o out.png
    """
    draw(images, prompt, out, size, options)
