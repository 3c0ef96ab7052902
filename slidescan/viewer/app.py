"""The server as an ASGI application: its addresses, and the threads that answer them."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from slidescan.errors import SlidescanError
from slidescan.tools.hardware import cores
from slidescan.viewer.guard import Guard, refused
from slidescan.viewer.maps import MapAnswers
from slidescan.viewer.slides import SlideAnswers
from slidescan.viewer.state import State

STATIC = Path(__file__).with_name("static")
"""The page, which `npm run build` makes of page/ and which a wheel contains."""

NOT_BUILT = (
    "the viewer's page is not built in this checkout; run: npm ci && npm run build, in "
    f"{STATIC.with_name('page')}"
)

GONE = 499
"""The browser no longer wants the answer, as nginx logs it."""

Answer = Callable[[Request], Response]
Endpoint = Callable[[Request], Awaitable[Response]]


def make_app(state: State, host: str = "127.0.0.1", token: str | None = None) -> Guard:
    """The viewer of the slides and maps of `state`.

    `host` is the name that the server listens on. With a `token`, whoever asks must know it.
    """
    slides, maps = SlideAnswers(state), MapAnswers(state)
    # Decoding keeps a processor busy, so further threads would only make each picture later. What
    # takes long has its own, so that pictures do not wait for it.
    quick, slow = (_in_threads(count) for count in (cores() + 1, 2))
    slide, map_ = "/api/slides/{slide}", "/api/maps/{map}"
    place = "{level:int}/{column:int}_{row:int}"
    routes: list[BaseRoute] = [
        Route("/", _file("index.html")),
        Route("/licences", _file("licences.txt")),
        Route("/api/slides", quick(slides.slides)),
        Route(slide, quick(slides.slide)),
        Route(f"{slide}/tiles/{place}.jpg", quick(slides.tile)),
        Route(f"{slide}/thumbnail.jpg", quick(slides.thumbnail)),
        Route(f"{slide}/annotations/{{annotation}}", slow(slides.annotations)),
        Route(map_, quick(maps.map)),
        Route(f"{map_}/tiles/{place}", quick(maps.tile)),
        Route(f"{map_}/cell", quick(maps.cell)),
        Route(f"{map_}/events", maps.events),
        Route(f"{map_}/histogram", slow(maps.histogram)),
        Route(f"{map_}/patch", slow(maps.patch)),
        Route(f"{map_}/regions", slow(maps.regions)),
        Route(f"{map_}/tissue", slow(maps.tissue)),
    ]
    if STATIC.is_dir():
        routes.append(Mount("/static", StaticFiles(directory=STATIC)))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        state.close()

    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={
            HTTPException: _refuse,
            SlidescanError: _refuse_unreadable,
            Exception: _refuse_failed,
        },
    )
    return Guard(app, host, token)


def _in_threads(count: int) -> Callable[[Answer], Endpoint]:
    """Answer in threads, `count` at a time; what nobody waits for any more is not begun."""
    limiter, free = anyio.CapacityLimiter(count), anyio.CapacityLimiter(math.inf)

    def decorate(answer: Answer) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            async with limiter:
                if await request.is_disconnected():
                    return Response(status_code=GONE)
                return await anyio.to_thread.run_sync(answer, request, limiter=free)

        return endpoint

    return decorate


def _file(name: str) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        path = STATIC / name
        if not path.is_file():
            return refused(503, NOT_BUILT)
        return FileResponse(path, headers={"cache-control": "no-cache"})

    return endpoint


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = error.detail if error.status_code != 404 else error.detail.replace("Not Found", "")
    return refused(error.status_code, known or "there is no such address")


async def _refuse_unreadable(request: Request, error: Exception) -> Response:
    """A damaged tile, a slide that has moved, a missing model: the rest of the page works."""
    return refused(503, str(error))


async def _refuse_failed(request: Request, error: Exception) -> Response:
    return refused(500, f"the viewer failed ({type(error).__name__}); its terminal says where")
