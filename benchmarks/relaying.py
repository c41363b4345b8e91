"""A server that relays files, in a process of its own.

``python -m benchmarks.relaying SERVER UPSTREAM [SHA256]`` prints its base URL, and runs until its input ends. It
answers ``/path`` with what the base URL *UPSTREAM* has there; with a *SHA256*, that of ``/file`` is validated.
"""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from downhaul import Context, Download

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractContextManager

    from aiohttp import web
    from starlette.requests import Request

FILE: Final = "/file"
_PASSED_ON: Final = frozenset({b"content-length", b"content-type", b"etag", b"last-modified"})


@dataclass(frozen=True, slots=True)
class Upstream:
    """What is relayed."""

    base: str
    sha256: str | None

    def downloads(self, context: Context) -> Callable[[str], Download]:
        """Return what makes the download of a path, in *context*."""

        def handle(path: str) -> Download:
            digests = {"sha256": self.sha256} if self.sha256 is not None and path == FILE else {}
            return Download(self.base + path, digests=digests, context=context)

        return handle


@contextmanager
def asgi(upstream: Upstream) -> Iterator[str]:
    """Run uvicorn with Starlette; the context works on the loop of the server."""
    from tests.fronts import asgi as front

    context = Context()

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        async with context:
            yield

    with front.serving(front.app(upstream.downloads(context), lifespan=lifespan)) as base:
        yield base


def behind(front: str) -> Callable[[Upstream], AbstractContextManager[str]]:
    """Return what runs the server of a *front*; the context works on a loop of its own, as one that nobody enters."""

    @contextmanager
    def serve(upstream: Upstream) -> Iterator[str]:
        module = import_module(f"tests.fronts.{front}")
        with Context() as context, module.serve(upstream.downloads(context)) as base:
            yield base

    return serve


@contextmanager
def aiohttp(upstream: Upstream) -> Iterator[str]:
    """Run aiohttp.web; the context works on the loop of the server."""
    from aiohttp import web
    from tests.fronts import aiohttp as front

    from downhaul.adapters.aiohttp import relay

    context = Context()
    handle = upstream.downloads(context)

    async def lifetime(_: web.Application) -> AsyncIterator[None]:
        async with context:
            yield

    async def answer(request: web.Request) -> web.StreamResponse:
        return await relay(request, handle(request.path))

    app = web.Application()
    app.cleanup_ctx.append(lifetime)
    app.router.add_get("/{path:.*}", answer)
    with front.running(app) as base:
        yield base


@contextmanager
def plain_httpx(upstream: Upstream) -> Iterator[str]:
    """Run uvicorn with Starlette, and a relay by httpx that verifies nothing."""
    import httpx
    from starlette.applications import Starlette
    from starlette.routing import Route
    from tests.fronts import asgi as front

    client = httpx.AsyncClient(trust_env=False)

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        async with client:
            yield

    async def endpoint(request: Request) -> Any:
        async def answer(_scope: Any, _receive: Any, send: Any) -> None:
            async with client.stream("GET", upstream.base + request.url.path) as response:
                headers = [(name.lower(), value) for name, value in response.headers.raw]
                passed_on = [(name, value) for name, value in headers if name in _PASSED_ON]
                await send({"type": "http.response.start", "status": response.status_code, "headers": passed_on})
                async for block in response.aiter_raw():
                    await send({"type": "http.response.body", "body": block, "more_body": True})
            await send({"type": "http.response.body"})

        return answer

    with front.serving(Starlette(routes=[Route("/{path:path}", endpoint)], lifespan=lifespan)) as base:
        yield base


ADAPTERS: Final[dict[str, Callable[[Upstream], AbstractContextManager[str]]]] = {
    "asgi": asgi,
    "asgi, another loop": behind("asgi"),
    "aiohttp": aiohttp,
    "twisted": behind("twisted"),
    "wsgi": behind("wsgi"),
    "django": behind("django"),
}
PLAIN: Final = "plain httpx"


def main() -> None:
    """Run one server."""
    name, base, *sha256 = sys.argv[1:]
    serve = plain_httpx if name == PLAIN else ADAPTERS[name]
    with serve(Upstream(base, sha256[0] if sha256 else None)) as own:
        print(own, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
