"""Options that the verbs of `tagmoe study` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Study = Annotated[Path, typer.Argument(metavar="STUDY", help="Folder that `tagmoe study plan` wrote.")]
