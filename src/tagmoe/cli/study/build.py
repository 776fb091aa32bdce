"""`tagmoe study build`: the page and its blinded pictures."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tagmoe.cli.options import AsJson, Force
from tagmoe.cli.output import log, print_result
from tagmoe.cli.progress import lasting_bar
from tagmoe.cli.study.options import Study
from tagmoe.errors import TagMoEError, UsageError
from tagmoe.sentences import counted, reason_of


def build(
    study: Study,
    side: Annotated[int, typer.Option(min=64, max=4096, help="Longest side of a picture, in pixels.")] = 768,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write the static page, the pictures under random names, the key to them, and a link for each person.

    Example: tagmoe study build study
    """
    from tagmoe.study.build import PICTURES
    from tagmoe.study.build import build as make
    from tagmoe.study.manifest import ANSWERS, KEY, LINKS, PUBLIC, read_manifest

    manifest = read_manifest(study)
    if (study / ANSWERS).exists():
        raise UsageError(f"{str(study)!r} holds answers already, which belong to the links that were sent.")
    if (study / KEY).exists() and not force:
        raise UsageError(f"{str(study)!r} is built already; add --force to make new pictures and links.")
    try:
        new = Path(tempfile.mkdtemp(prefix=".build.", dir=study))
    except OSError as error:
        raise TagMoEError(f"Nothing can be written in {str(study)!r} ({reason_of(error)}).") from None
    try:
        with lasting_bar("building", len(manifest.cases)) as done:
            key = make(study, manifest, new, side=side, done=done)
        # The key comes last: without it nothing is built.
        (study / KEY).unlink(missing_ok=True)
        shutil.rmtree(study / PUBLIC, ignore_errors=True)
        for name in (PUBLIC, LINKS, KEY):
            (new / name).replace(study / name)
    except OSError as error:
        raise TagMoEError(f"The study {str(study)!r} cannot be built ({reason_of(error)}).") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
    pictures = sum(name != "" for case in key.names for name in case)
    log(f"{counted(pictures, 'picture')}, {counted(key.tokens, 'link')} in {study / LINKS}; keep {KEY} to yourself")
    told = {name: number for name, number in key.reframed.items() if number}
    if told:
        listed = ", ".join(f"{name} {number}" for name, number in told.items())
        log(f"Outputs of another shape than the page shows were fitted, which may tell the method: {listed}.")
    data = {"study": str(study), "pictures": pictures, "links": str(study / LINKS), "reframed": key.reframed}
    print_result({**data, "folder": str(study / PUBLIC / PICTURES)}, str(study / LINKS), as_json=as_json)
