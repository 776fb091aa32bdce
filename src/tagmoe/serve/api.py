"""The routes of the images server, in OpenAI's protocol."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from fastapi import FastAPI
from PIL.Image import Image
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from tagmoe import __version__
from tagmoe.errors import ImageError, UsageError
from tagmoe.pictures import load_hole_mask, load_image, read_header
from tagmoe.sentences import reason_of
from tagmoe.serve.answers import QUALITIES, encoded, entry, event, settings, usage
from tagmoe.serve.asked import Asked, read_fields
from tagmoe.serve.body import Body, from_data_address, read_body
from tagmoe.serve.fetch import fetch
from tagmoe.serve.following import follow, preview_steps
from tagmoe.serve.guard import Guard, Keys, Page
from tagmoe.serve.limits import Limits
from tagmoe.serve.metrics import Metrics
from tagmoe.serve.openapi import EDIT, GENERATE, answers_of
from tagmoe.serve.painter import Facts, Scene, check_pixels
from tagmoe.serve.prompts import Prompts, with_reason
from tagmoe.serve.refusal import Refusal, late
from tagmoe.serve.work import Engine, Painter, Work

logger = logging.getLogger(__name__)
T = TypeVar("T")


class ScenePainter(Painter, Protocol):
    """A painter that also checks requests: `tagmoe.serve.painter.PipelinePainter`."""

    name: str
    loras: tuple[str, ...]

    @property
    def facts(self) -> Facts:
        """What a page should know of the model."""
        ...

    def check(self, asked: Asked, pictures: Sequence[Image], mask: Image | None, prompt: str) -> Scene:
        """The request as a scene. Raises Refusal."""
        ...


@dataclass
class Server:
    """What the routes share. fetches: http and https addresses of pictures are fetched.

    started: when, in seconds of the Unix epoch, for the list of models.
    """

    painter: ScenePainter
    prompts: Prompts
    limits: Limits
    engine: Engine
    metrics: Metrics
    fetches: bool
    pool: ThreadPoolExecutor
    fetching: ThreadPoolExecutor
    started: int

    async def aside(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do what takes milliseconds beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, work, *arguments)

    async def answer(self, request: Request, *, edits: bool) -> Response:
        """Draw what a request asks for. Raises Refusal."""
        self.engine.take()
        held = 1
        try:
            async with asyncio.timeout(self.limits.seconds):
                body = await read_body(request, self.limits, edits=edits)
                asked = read_fields(body.fields, self.limits, edits=edits)
                # Before anything is fetched, decoded or rewritten.
                self.engine.take(asked.n - 1)
                held = asked.n
                scene = await self._prepared(body, asked)
                first = secrets.randbelow(2**31) if asked.seed is None else asked.seed
                works = [Work(scene.key, scene, first + number) for number in range(asked.n)]
                if asked.stream:
                    stream = _Stream(self, asked, scene, works, edits=edits)
                    held = 0
                    return stream
                return await self._drawn(request, asked, scene, works)
        except TimeoutError:
            raise late() from None
        finally:
            self.engine.leave(held)

    async def _prepared(self, body: Body, asked: Asked) -> Scene:
        await self._fetch(body)
        pictures, mask = await self.aside(self.decoded, body)
        rewriting = await self.prompts.rewritten(asked.prompt, pictures)
        prompt = asked.prompt if rewriting is None else rewriting.text
        try:
            return await self.aside(self.painter.check, asked, pictures, mask, prompt)
        except Refusal as refusal:
            raise with_reason(refusal, rewriting) from None

    async def _fetch(self, body: Body) -> None:
        """Put the bytes of http and https addresses in their places. Raises Refusal."""
        loop = asyncio.get_running_loop()

        async def fetched(given: bytes | str, name: str) -> bytes | str:
            if isinstance(given, bytes) or not given[:8].lower().startswith(("http://", "https://")):
                return given
            if not self.fetches:
                raise Refusal(
                    f"{name} is a URL, and this server fetches none; send the picture itself.", name, code="no_fetching"
                )
            # In threads of their own: a slow site must not keep others' pictures from being decoded.
            return await loop.run_in_executor(self.fetching, fetch, given, self.limits.body, name)

        body.pictures = [await fetched(given, "image") for given in body.pictures]
        body.mask = None if body.mask is None else await fetched(body.mask, "mask")

    def decoded(self, body: Body) -> tuple[list[Image], Image | None]:
        """The pictures and the mask of a body whose addresses are fetched. Raises Refusal."""
        pictures = [self.picture(given, "image", load_image) for given in body.pictures]
        mask = None if body.mask is None else self.picture(body.mask, "mask", load_hole_mask)
        return pictures, mask

    def picture(self, given: bytes | str, name: str, load: Callable[[bytes], Image]) -> Image:
        """A picture within the limits. name: the field that holds it. Raises Refusal."""
        if isinstance(given, str):
            if not given[:5].lower().startswith("data:"):
                raise Refusal(f"{name} is a text and no picture; send a file or a data: address.", name)
            given = from_data_address(given, name)
        try:
            header = read_header(given)
            check_pixels((header.width, header.height), self.limits.pixels, name)
            return load(given)
        except ImageError as error:
            raise Refusal(f"{name} cannot be used: {reason_of(error)}.", name, code="invalid_image") from None

    async def _drawn(self, request: Request, asked: Asked, scene: Scene, works: list[Work]) -> Response:
        self.engine.submit(works)
        leaving = asyncio.create_task(_left(request))
        waiting = asyncio.gather(*(asyncio.wrap_future(work.answer) for work in works))
        try:
            either: list[asyncio.Future[Any]] = [leaving, waiting]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                self.metrics.left.inc()
                return Response(status_code=499)
            drawn = waiting.result()
            entries = [
                await self.aside(entry, asked, scene, one, work.seed, self.painter.name)
                for one, work in zip(drawn, works, strict=True)
            ]
        except UsageError as error:
            raise Refusal(str(error)) from None
        finally:
            leaving.cancel()
            waiting.cancel()
            self.engine.cancel(works)
        content = {
            "created": int(time.time()),
            **settings(asked, drawn[0].image.size),
            "data": entries,
            "usage": usage(scene, len(works)),
        }
        return JSONResponse(content)


class _Stream(StreamingResponse):
    """The events of a request. Its places in the queue are given back when the answer ends, however it ends."""

    def __init__(self, server: Server, asked: Asked, scene: Scene, works: list[Work], *, edits: bool) -> None:
        self._server, self._asked, self._scene, self._works = server, asked, scene, works
        self._kind = "image_edit" if edits else "image_generation"
        self._done = False
        super().__init__(self._events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._server.engine.cancel(self._works)
            self._server.engine.leave(len(self._works))
            if not self._done:
                self._server.metrics.left.inc()

    async def _events(self) -> AsyncIterator[bytes]:
        server, asked, scene, works = self._server, self._asked, self._scene, self._works
        shown = dict.fromkeys(works, 0)
        quality = asked.quality if asked.quality in QUALITIES else "auto"
        try:
            async with asyncio.timeout(server.limits.seconds):
                async for came in follow(server.engine, works, preview_steps(asked.previews, scene.steps)):
                    work, fields = came.work, {"created_at": int(time.time()), "quality": quality}
                    if came.preview is not None:
                        fields |= settings(asked, came.preview.size)
                        fields |= {"b64_json": await server.aside(encoded, came.preview, asked)}
                        fields |= {"partial_image_index": shown[work]}
                        shown[work] += 1
                        yield event(f"{self._kind}.partial_image", fields)
                        continue
                    drawn = work.answer.result()
                    fields |= settings(asked, drawn.image.size)
                    fields |= await server.aside(entry, asked, scene, drawn, work.seed, server.painter.name)
                    fields |= {"usage": usage(scene, 1)}
                    yield event(f"{self._kind}.completed", fields)
        except TimeoutError:
            yield event("error", late().body())
        except UsageError as error:
            yield event("error", Refusal(str(error)).body())
        except Exception:
            logger.exception("A stream could not be finished.")
            yield event("error", _internal().body())
        self._done = True


async def _left(request: Request) -> None:
    """Return when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _internal() -> Refusal:
    return Refusal("The server failed; its log says why.", status=500, kind="server_error", code="internal_error")


def make_app(
    painter: ScenePainter,
    *,
    prompts: Prompts | None = None,
    limits: Limits | None = None,
    keys: Sequence[str] = (),
    fetches: bool = False,
    page: bool = False,
) -> FastAPI:
    """The application. keys: bearer keys; none: it answers its own machine only. page: also the web page, by Gradio."""
    limits, prompts = limits or Limits(), prompts or Prompts()
    metrics = Metrics(lambda: engine.places)
    engine = Engine(painter, limits, on_batch=metrics.drawn)
    pool, fetching = ThreadPoolExecutor(2, "pictures"), ThreadPoolExecutor(8, "fetches")
    server = Server(painter, prompts, limits, engine, metrics, fetches, pool, fetching, int(time.time()))

    beside: Page | None = None
    if page:
        from tagmoe.serve.page.page import make_page

        beside = make_page(server)

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        try:
            async with contextlib.AsyncExitStack() as stack:
                if beside is not None:
                    await stack.enter_async_context(beside.app.router.lifespan_context(beside.app))
                yield
        finally:
            await asyncio.to_thread(engine.close)
            for threads in (server.pool, server.fetching):
                threads.shutdown(wait=False, cancel_futures=True)
            await prompts.close()

    app = FastAPI(
        title="tagmoe images server",
        version=__version__,
        lifespan=life,
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.server = server
    app.add_middleware(Guard, keys=Keys(keys), metrics=metrics, model=painter.name, limits=limits, page=beside)

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> JSONResponse:
        return JSONResponse(refusal.body(), refusal.status, headers=refusal.headers)

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> Response:
        metrics.left.inc()
        return Response(status_code=499)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        refusal = Refusal(
            f"{error.detail}: {request.method} {request.url.path[:100]}",
            status=error.status_code,
            code="unknown_url" if error.status_code == 404 else None,
        )
        return JSONResponse(refusal.body(), error.status_code, headers=error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(_internal().body(), 500)

    images = {"response_model": None, "responses": answers_of("images")}

    @app.post("/v1/images/generations", openapi_extra=GENERATE, **images)
    async def generate(request: Request) -> Response:
        """Draw pictures from text."""
        return await server.answer(request, edits=False)

    @app.post("/v1/images/edits", openapi_extra=EDIT, **images)
    async def edit(request: Request) -> Response:
        """Edit a picture, or make one from several, by an instruction."""
        return await server.answer(request, edits=True)

    @app.get("/v1/models", response_model=None, responses=answers_of("models"))
    async def models() -> dict[str, Any]:
        """The one model of this server, and its LoRAs in an extra field."""
        model = {"id": painter.name, "object": "model", "created": server.started, "owned_by": "tagmoe"}
        return {"object": "list", "data": [model | {"loras": list(painter.loras)}]}

    @app.get("/health", response_model=None, responses=answers_of("health"))
    async def health() -> dict[str, str]:
        """Whether the server runs."""
        return {"status": "ok"}

    @app.get("/metrics", response_model=None, responses=answers_of("metrics"))
    async def counted() -> Response:
        """What was counted, for Prometheus."""
        text, kind = metrics.text()
        return Response(text, headers={"Content-Type": kind})

    return app
