"""`tagmoe study serve`: show the page to people, and keep their answers."""

from __future__ import annotations

from typing import Annotated

import typer

from tagmoe.cli.output import log
from tagmoe.cli.study.options import Study
from tagmoe.extras import require
from tagmoe.sentences import counted


def serve(
    study: Study,
    host: Annotated[
        str, typer.Option(help="Address to listen at; any but this machine's own is reached by others.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen at; 0: any that is free.")] = 8000,
    simulated: Annotated[
        bool,
        typer.Option("--simulated", help="Try it out: keep the answers apart, marked as simulated."),
    ] = False,
    drain: Annotated[
        float, typer.Option(min=1, max=86_400, help="Seconds to finish what runs, after SIGTERM or Ctrl-C.")
    ] = 10.0,
) -> None:
    """Serve the page of a study, on this machine only by default; each person has a link, and resumes by it.

    Example: tagmoe study serve study --port 8000
    """
    require("serve", purpose="The page of a study")
    from tagmoe.serve.guard import is_local
    from tagmoe.serve.server import address_of, listen
    from tagmoe.serve.server import serve as run
    from tagmoe.study.build import read_key
    from tagmoe.study.manifest import ANSWERS, LINKS, SIMULATED, read_manifest
    from tagmoe.study.server import make_app
    from tagmoe.study.store import Store

    manifest = read_manifest(study)
    key = read_key(study, manifest)
    place = listen(host, port)
    store = Store(study / (SIMULATED if simulated else ANSWERS), manifest.digest, simulated)
    try:
        app = make_app(manifest, key, store, study, is_public=not is_local(host))
        said = f"The study is at {address_of(place)}/ for {counted(key.tokens, 'link')}; they are in {study / LINKS}"
        run(app, place, drain=drain, started=lambda: log(said))
    finally:
        store.close()
