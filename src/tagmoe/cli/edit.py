"""`tagmoe edit`: change pictures by an instruction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tagmoe.cli.draw import DrawOptions, draw
from tagmoe.cli.options import DrawPrompt, Out, Size, takes


@takes(DrawOptions)
def edit(
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGE",
            help="A picture, or several that make one result; example:scene and example:person are in the package, and "
            "- is stdin. Of a folder, each picture gets a result.",
        ),
    ] = None,
    *,
    prompt: DrawPrompt = None,
    out: Out,
    options: DrawOptions,
    size: Size = "match",
    each: Annotated[bool, typer.Option("--each", help="Make a result of each IMAGE, in the folder -o.")] = False,
    mask: Annotated[
        Path | None,
        typer.Option("--mask", help="Picture that is white where the edit may be; the rest of the first IMAGE stays."),
    ] = None,
) -> None:
    """Edit a picture, or several into one or each by itself, by an instruction.

    Example: tagmoe edit scene.png -p "make the circle red" -o out.png
    """
    draw(images or [], prompt, out, size, options, edits=True, each=each, mask=mask)
