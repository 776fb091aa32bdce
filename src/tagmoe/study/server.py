"""The server of the page: who asks is known by a token, and is told nothing of methods.

The token stands behind the # of the link, so that no log holds it; the page sends it as a bearer key. What a client
gets: the page, its texts, pictures under random names, and its own state.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from tagmoe import __version__
from tagmoe.serve.body import read_body
from tagmoe.serve.guard import foreign
from tagmoe.serve.limits import Limits
from tagmoe.serve.refusal import Refusal
from tagmoe.study.build import PAGE, PICTURES, SCRIPT, STYLE, TEXTS, Key
from tagmoe.study.manifest import PUBLIC, Manifest
from tagmoe.study.store import Conflict, Full, PageAnswer, PersonState, Store, Withdrawn

logger = logging.getLogger(__name__)
LIMITS = Limits(body=16_384, body_seconds=10)
FILES = {
    "/": (PAGE, "text/html; charset=utf-8"),
    f"/{STYLE}": (STYLE, "text/css; charset=utf-8"),
    f"/{SCRIPT}": (SCRIPT, "text/javascript; charset=utf-8"),
    f"/{TEXTS}": (TEXTS, "application/json"),
}
CONTENT_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
CONTENT_POLICY += "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", CONTENT_POLICY.encode()),
)
MOST_MS = 7 * 24 * 3600 * 1000
EXPERTISE = ("", "low", "some", "high")
SCREENS = ("small", "large")


class _Guard:
    """Refuse pages of other sites, and other machines where the server listens on this one; add what answers have."""

    def __init__(self, app: Any, is_public: bool) -> None:
        self._app, self._is_public = app, is_public

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *HEADERS]}
            await send(message)

        refusal = foreign(Headers(scope=scope), is_public=self._is_public)
        if refusal is None:
            await self._app(scope, receive, answer)
        else:
            await JSONResponse(refusal.body(), refusal.status)(scope, receive, answer)


@dataclass
class StudyServer:
    """What the routes share."""

    manifest: Manifest
    key: Key
    store: Store
    public: Path

    def __post_init__(self) -> None:
        # Looked up by digest: the time of a look-up then says nothing about how much of a token is right.
        self._people = {_digest(token): number for number, token in enumerate(self.key.tokens)}
        self._names = {name for case in self.key.names for name in case if name}

    def person(self, request: Request) -> int:
        """The number of the person who asks. Raises Refusal for a token that was never issued."""
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        number = self._people.get(_digest(token.strip()))
        if number is None or kind.lower() != "bearer":
            raise Refusal(
                "This link was never issued; open the link that you were sent.", status=404, code="unknown_token"
            )
        return number

    def shown(self, person: int, state: PersonState) -> dict[str, Any]:
        """What the page of a person needs to know."""
        sheet = self.manifest.sheets[person]
        is_done = state.answered >= len(sheet)
        on = state.consented and not state.withdrawn
        return {
            "consented": state.consented,
            "withdrawn": state.withdrawn,
            "answered": state.answered,
            "pages": len(sheet),
            "finished": is_done and on,
            "simulated": self.store.simulated,
            "page": self._page(person, state.answered) if on and not is_done else None,
            # Fetched ahead, so that the next page shows at once.
            "soon": self._pictures(person, state.answered + 1) if on and state.answered + 1 < len(sheet) else [],
        }

    def _page(self, person: int, number: int) -> dict[str, Any]:
        trial = self.manifest.sheets[person][number]
        case = self.manifest.cases[trial.case]
        source, *pictures = self._pictures(person, number)
        return {"number": number, "instruction": case.instruction, "source": source, "pictures": pictures}

    def _pictures(self, person: int, number: int) -> list[str]:
        trial = self.manifest.sheets[person][number]
        names = self.key.names
        return [names[trial.case][0], *(names[case][1 + method] for case, method in trial.shown())]

    def picture(self, name: str) -> bytes:
        """A picture by its random name. Raises Refusal."""
        if name not in self._names:
            raise Refusal("There is no such picture.", status=404, code="unknown_picture")
        return (self.public / PICTURES / f"{name}.png").read_bytes()

    def page_answer(self, person: int, fields: Mapping[str, Any]) -> PageAnswer:
        """The fields of a body as an answer. Raises Refusal for what no page sends."""
        sheet = self.manifest.sheets[person]
        number = _whole(fields, "number", len(sheet) - 1)
        choices = fields.get("choices")
        criteria = self.manifest.criteria
        if not isinstance(choices, dict) or set(choices) != set(criteria):
            raise Refusal(f"choices must name {', '.join(criteria)}.", "choices")
        most = len(self.manifest.methods) - 1
        attempt = fields.get("attempt")
        if not isinstance(attempt, str) or not 8 <= len(attempt) <= 64 or not attempt.isalnum():
            raise Refusal("attempt must be 8 to 64 letters and digits.", "attempt")
        return PageAnswer(
            number=number,
            attempt=attempt,
            choices={name: _whole(choices, name, most) for name in criteria},
            # A clock of a browser may say anything: it is kept within bounds, and never a reason to lose an answer.
            shown_ms=_clamped(fields.get("shown_ms")),
            zooms=_clamped(fields.get("zooms"), 10_000),
            changes=_clamped(fields.get("changes"), 10_000),
            language=_one_of(fields, "language", tuple(self.manifest.languages)),
        )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _whole(fields: Mapping[str, Any], name: str, most: int) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise Refusal(f"{name} must be a whole number from 0 to {most}.", name)
    return value


def _clamped(value: Any, most: int = MOST_MS) -> int:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    return round(min(max(value, 0), most)) if is_number else 0


def _one_of(fields: Mapping[str, Any], name: str, allowed: tuple[str, ...]) -> str:
    value = fields.get(name)
    if value not in allowed:
        raise Refusal(f"{name} must be one of {', '.join(map(repr, allowed))}.", name)
    return str(value)


def _refused(error: Exception) -> NoReturn:
    """Raise the Refusal of an error of the store."""
    if isinstance(error, Withdrawn):
        raise Refusal("You have withdrawn, so no more answers are kept.", status=410, code="withdrawn") from None
    if isinstance(error, Conflict):
        raise Refusal("This page was answered already; that answer stands.", status=409, code="other_tab") from None
    logger.error("An answer could not be kept: %s.", error)
    raise Refusal(
        "The server could not keep the answer because its disk is full; send it again later.",
        status=507,
        kind="server_error",
        code="disk_full",
    ) from None


def make_app(manifest: Manifest, key: Key, store: Store, study: Path, *, is_public: bool = False) -> FastAPI:
    """The application of the user study (paper sec. 4.6). is_public: it listens where other machines reach it."""
    server = StudyServer(manifest, key, store, study / PUBLIC)
    app = FastAPI(
        title="tagmoe study",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.server = server
    app.add_middleware(_Guard, is_public=is_public)

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> JSONResponse:
        return JSONResponse(refusal.body(), refusal.status, headers=refusal.headers)

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        refusal = Refusal(f"{error.detail}: {request.method} {request.url.path[:100]}", status=error.status_code)
        return JSONResponse(refusal.body(), error.status_code)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        refusal = Refusal("The server failed; its log says why.", status=500, kind="server_error", code="failed")
        return JSONResponse(refusal.body(), 500)

    files = {path: ((study / PUBLIC / name).read_bytes(), kind) for path, (name, kind) in FILES.items()}

    async def file(request: Request) -> Response:
        data, kind = files[request.url.path]
        return Response(data, media_type=kind, headers={"Cache-Control": "no-cache"})

    for path in files:
        app.add_route(path, file)

    @app.get(f"/{PICTURES}/{{name}}.png")
    async def picture(name: str) -> Response:
        return Response(
            server.picture(name), media_type="image/png", headers={"Cache-Control": "private, max-age=86400, immutable"}
        )

    async def answered(person: int, future: Any) -> JSONResponse:
        try:
            state = await asyncio.wrap_future(future)
        except (Withdrawn, Conflict, Full) as error:
            _refused(error)
        return JSONResponse(server.shown(person, state), headers={"Cache-Control": "no-store"})

    @app.get("/api/state")
    async def state(request: Request) -> JSONResponse:
        person = server.person(request)
        return await answered(person, store.state(person))

    @app.post("/api/consent")
    async def consent(request: Request) -> JSONResponse:
        person = server.person(request)
        fields = (await read_body(request, LIMITS, edits=False)).fields
        language = _one_of(fields, "language", tuple(manifest.languages))
        expertise, screen = _one_of(fields, "expertise", EXPERTISE), _one_of(fields, "screen", SCREENS)
        return await answered(person, store.consent(person, language, expertise, screen))

    @app.post("/api/answer")
    async def answer(request: Request) -> JSONResponse:
        person = server.person(request)
        fields = (await read_body(request, LIMITS, edits=False)).fields
        return await answered(person, store.answer(person, server.page_answer(person, fields)))

    @app.post("/api/withdraw")
    async def withdraw(request: Request) -> JSONResponse:
        person = server.person(request)
        gone = await answered(person, store.withdraw(person))
        await asyncio.wrap_future(store.forget())
        return gone

    return app
