"""The web application: pages, assets, the API, the stream, and the gate in front of all of them."""

import asyncio
import hashlib
import mimetypes
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from importlib import resources
from importlib.resources.abc import Traversable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from fedloom_server.dashboard import prometheus
from fedloom_server.dashboard.access import Access
from fedloom_server.dashboard.api import Api
from fedloom_server.dashboard.catalog import Catalog
from fedloom_server.dashboard.endpoints import ROOT, endpoints
from fedloom_server.dashboard.gate import Gate
from fedloom_server.dashboard.login import Login
from fedloom_server.dashboard.openapi import document
from fedloom_server.dashboard.tail import STREAMS, Stream, Tail

HTML = "text/html; charset=utf-8"
Handler = Callable[[Request], Awaitable[Response]]
PAGES = (
    "/", "/login", "/runs/{run}", "/runs/{run}/clients", "/runs/{run}/clients/{client}",
    "/fleet", "/models", "/compare", "/alerts",
)  # fmt: skip


def make_app(
    catalog: Catalog,
    access: Access,
    tail: Tail,
    *,
    hosts: frozenset[str],
    secure: bool = False,
    read_only: bool = False,
) -> ASGIApp:
    """The dashboard of a catalog's runs, which `tail` follows, as an ASGI application."""
    table = endpoints(Api(catalog, read_only=read_only), Login(access, secure, read_only))
    described = document(table)
    assets = dict(_files(resources.files("fedloom_server.dashboard").joinpath("static"), ""))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        following = asyncio.create_task(tail.follow())
        yield
        following.cancel()
        tail.close()

    def metrics(request: Request) -> Response:
        return Response(prometheus.exposition(catalog), media_type=prometheus.MEDIA)

    routes = [
        *(endpoint.route() for endpoint in table),
        Route(f"{ROOT}/openapi.json", lambda request: JSONResponse(described)),
        Route(f"{ROOT}/stream", _streamer(tail)),
        Route("/metrics", metrics),
        Route("/healthz", lambda request: JSONResponse({"ok": True})),
        *_asset_routes(assets),
    ]
    handlers = {404: _absent(assets["index.html"]), 500: _broken}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    return Gate(app, access, hosts, secure, read_only)


def _streamer(tail: Tail) -> Handler:
    async def stream(request: Request) -> Response:
        if len(tail.streams) >= STREAMS:
            return JSONResponse({"error": "too many open streams"}, 503, {"retry-after": "10"})
        one = Stream()

        async def frames() -> AsyncIterator[str]:
            tail.streams.add(one)
            try:
                async for frame in one.frames():
                    yield frame
            finally:
                tail.streams.discard(one)

        return StreamingResponse(
            frames(), media_type="text/event-stream", headers={"cache-control": "no-store"}
        )

    return stream


def _asset_routes(assets: Mapping[str, bytes]) -> list[Route]:
    """The package's files: what is not among them does not exist, whatever a path says."""
    routes = [Route(path, _sender(assets["index.html"], HTML)) for path in PAGES]
    routes.append(Route("/favicon.svg", _sender(assets["favicon.svg"], "image/svg+xml")))
    for name, content in assets.items():
        kind = mimetypes.guess_type(name)[0] or "text/plain"
        media = "text/javascript" if name.endswith(".js") else kind
        routes.append(Route(f"/static/{name}", _sender(content, media)))
    return routes


def _files(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files(entry, f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", entry.read_bytes()


def _sender(content: bytes, media: str) -> Handler:
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'

    async def send(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"etag": tag})
        return Response(content, media_type=media, headers={"etag": tag})

    return send


def _absent(page: bytes) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(request: Request, error: Exception) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return Response(page, 404, media_type=HTML)
        return JSONResponse({"error": "there is nothing here"}, 404)

    return answer


async def _broken(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the dashboard made a mistake; its own output tells more"}, 500)
