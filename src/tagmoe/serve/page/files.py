"""The files of the page: one private folder, gone when the process ends, and uploads whose names nobody chose.

Gradio keeps what a browser uploads, and what it shows, in files. Its own route for uploads puts the client's file name
into a path, so ours stands before it: a picture is checked as one of the API is, and lies as a PNG without metadata
under the digest of its bytes.
"""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from tagmoe.pictures import load_image, png_of
from tagmoe.serve.api import Server
from tagmoe.serve.body import read_files
from tagmoe.serve.refusal import Refusal

SHOWN = "/gradio_api/file="
_EXACT = frozenset(
    (
        "/",
        "/config",
        "/theme.css",
        "/favicon.ico",
        "/manifest.json",
        "/gradio_api/app_id",
        "/gradio_api/cancel",
        "/gradio_api/info",
        "/gradio_api/queue/data",
        "/gradio_api/queue/join",
        "/gradio_api/reset",
        "/gradio_api/startup-events",
        "/gradio_api/theme.css",
        "/gradio_api/upload",
        "/gradio_api/upload_progress",
    )
)
_UNDER = ("/assets/", "/static/", "/svelte/", "/gradio_api/heartbeat/")


@cache
def folder() -> Path:
    """The one folder of this process. Only its user can read it."""
    made = Path(tempfile.mkdtemp(prefix="tagmoe-page-")).resolve()
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def belongs(path: str) -> bool:
    """Whether a path is one that the page needs. Gradio has more, such as a proxy and files of other sites."""
    if path.startswith(SHOWN):
        parts = Path(path.removeprefix(SHOWN)).parts
        return ".." not in parts and parts[: len(folder().parts)] == folder().parts
    return path in _EXACT or path.startswith(_UNDER)


async def upload(server: Server, request: Request, known: set[Any]) -> Response:
    """Keep the pictures of a form; the answer is their paths, as Gradio's is. known: files that Gradio shall delete."""
    try:
        paths = [await server.aside(_keep, server, data) for data in await read_files(request, server.limits)]
    except Refusal as refusal:
        return PlainTextResponse(str(refusal), refusal.status)
    known.update(paths)
    return JSONResponse(paths)


def _keep(server: Server, data: bytes) -> str:
    encoded = png_of(server.picture(data, "image", load_image))
    file = folder() / hashlib.sha256(encoded).hexdigest() / "picture.png"
    file.parent.mkdir(mode=0o700, exist_ok=True)
    file.write_bytes(encoded)
    return str(file)
