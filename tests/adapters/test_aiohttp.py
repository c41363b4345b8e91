"""aiohttp.web: what the contract says, also with a context on the server's loop, and what is its own."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from tests.adapters.contract import RelayContract, Site, remote_and_handle
from tests.adapters.wire import DATA, Client, Remote
from tests.fronts.aiohttp import running, serve
from tests.servers.http import http_server

from downhaul import Context, Download, DownloadError
from downhaul.adapters.aiohttp import relay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MORE_THAN_IS_READ = 100  # requests


class TestAiohttp(RelayContract):
    serve = staticmethod(serve)


class TestOneLoop(RelayContract):
    """The same with a context that the application enters on its loop, and leaves when it stops."""

    test_context_closes = None  # type: ignore[assignment]

    @staticmethod
    @contextmanager
    def serve(handle: Callable[[str], Download], **options: Any) -> Iterator[str]:
        context = Context()

        async def entered(app: web.Application) -> AsyncIterator[None]:
            async with context:
                yield

        async def answer(request: web.Request) -> web.StreamResponse:
            download = handle(request.path)
            download.context = context
            return await relay(request, download, **options)

        with running(_app(answer, entered)) as base:
            yield base


@pytest.fixture
def site() -> Iterator[Site]:
    """Give a running server."""
    with remote_and_handle() as (remote, script, handle), serve(handle) as base:
        yield Site(base, remote, script)


def test_hang_up_after_many_requests(site: Site) -> None:
    """A client that sent more requests than are read is noticed too when it hangs up."""
    with Client(site.base) as client:
        for _ in range(MORE_THAN_IS_READ):
            client.ask("/stalled")
        assert client.read_head()[0] == 200
        client.read_until_quiet()
    assert site.is_freed()


def test_half_close_is_a_reset(site: Site) -> None:
    """A client that ends its half of the connection is gone for aiohttp, and sees no clean end of what it has."""
    with Client(site.base) as client:
        client.ask("/stalled-unsized", version="1.0")
        client.read_some()
        client.half_close()
        assert client.read().end == "reset"
    assert site.is_freed()


def test_error_reaches_the_application() -> None:
    """What breaks an answer is raised: a middleware sees it, but can make no other end of it."""
    seen = []

    @web.middleware
    async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except DownloadError as error:
            seen.append(error)
            return web.Response(text="never mind")

    with remote_and_handle() as (_, _, handle):

        async def answer(request: web.Request) -> web.StreamResponse:
            return await relay(request, handle(request.path))

        with running(_app(answer, middlewares=[watch])) as base, Client(base) as client:
            got = client.get("/cut-unsized", version="1.0")
    assert (got.body, got.end) == (DATA[: len(got.body)], "reset")
    assert len(seen) == 1


def test_client_that_left_is_told_apart() -> None:
    """A handler sees by the status that the client hung up; nobody else does."""
    statuses = []
    with remote_and_handle() as (remote, script, handle):

        async def answer(request: web.Request) -> web.StreamResponse:
            response = await relay(request, handle(request.path))
            statuses.append(response.status)
            return response

        with running(_app(answer)) as base:
            with Client(base) as client:
                client.ask("/stalled")
                client.read_some()
            assert Site(base, remote, script).is_freed()
    assert statuses == [499]


async def test_local_socket_knows_no_reset(tmp_path: Path) -> None:
    """Over a local socket an HTTP/1.0 client would take a lost connection for the end: no file of unknown size."""
    path = str(tmp_path / "socket")
    with http_server(Remote()) as remote:
        async with Context() as context:

            async def answer(request: web.Request) -> web.StreamResponse:
                return await relay(request, Download(remote.url(request.path), context=context))

            runner = web.AppRunner(_app(answer), access_log=None)
            await runner.setup()
            await web.UnixSite(runner, path).start()

            def ask(target: str, version: str) -> tuple[int, bytes]:
                with Client.at(path) as client:
                    got = client.get(target, version=version)
                return got.status, got.body

            assert (await asyncio.to_thread(ask, "/unsized", "1.0"))[0] == 502
            assert await asyncio.to_thread(ask, "/unsized", "1.1") == (200, DATA)
            assert await asyncio.to_thread(ask, "/file", "1.0") == (200, DATA)
            await runner.cleanup()


def _app(answer: Handler, *contexts: Any, **options: Any) -> web.Application:
    app = web.Application(**options)
    app.router.add_route("*", "/{path:.*}", answer)
    app.cleanup_ctx.extend(contexts)
    return app
