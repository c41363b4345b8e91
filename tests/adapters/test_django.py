"""Django: what the contract says, under WSGI and under ASGI, and what is its own."""

from __future__ import annotations

import asyncio
import io
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.adapters.contract import FREED, RelayContract, Site, on_another_loop, remote_and_handle
from tests.adapters.test_wsgi import WsgirefContract, helpers, soon
from tests.adapters.wire import CUT, DATA, TAG, Client
from tests.fronts import asgi, wsgi
from tests.fronts.django import asgi_app, aview, serve, serve_asgi, view, wsgi_app

from downhaul import StreamBroken

from django.core.handlers.asgi import ASGIRequest  # isort: skip - the front configures Django
from django.core.servers.basehttp import WSGIRequestHandler  # isort: skip
from django.http import HttpResponse  # isort: skip
from django.middleware.gzip import GZipMiddleware  # isort: skip
from django.middleware.http import ConditionalGetMiddleware  # isort: skip
from django.test import RequestFactory  # isort: skip

from downhaul.adapters.django import arelay, relay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from downhaul import Download


class AsgiContract(RelayContract):
    """The contract, as far as uvicorn lets it be kept: an answer that broke off ends with a closed connection."""

    @pytest.mark.parametrize("wish", ["close", "keep-alive"])
    def test_unsized_in_http_1_0(self, site: Site, wish: str) -> None:
        """To a client without chunks a file of unknown size is refused."""
        got = site.get("/unsized", f"Connection: {wish}", version="1.0")
        assert got.status == 502
        assert site.is_freed()

    @pytest.mark.parametrize(("path", "version"), [("/cut", "1.1"), ("/cut-unsized", "1.1"), ("/cut", "1.0")])
    def test_break_is_a_reset(self, site: Site, path: str, version: str) -> None:
        """A download that breaks half-way ends before its length is reached, or without a last chunk."""
        got = site.get(path, version=version)
        assert (got.status, got.end) == (200, "closed")
        assert got.body == DATA[: len(got.body)]
        assert len(got.body) < CUT

    @pytest.mark.parametrize("path", ["/stalled", "/stalled-unsized"])
    def test_server_stops(self, path: str) -> None:
        """A server that stops in the middle of an answer does not end that well, and lets the remote go."""
        with remote_and_handle() as (remote, script, handle):
            with self.serve(handle) as base:
                client = Client(base)
                client.ask(path)
                client.read_some()
            with client:
                assert client.read().end in {"closed", "reset"}
            assert Site(base, remote, script).is_freed()

    def test_context_closes(self) -> None:
        """A context that is closed in the middle of an answer breaks it off; later there is none to ask."""
        with remote_and_handle() as (remote, script, handle), self.serve(handle) as base:
            with Client(base) as client:
                client.ask("/stalled-unsized")
                client.read_some()
                handle("/").context.close()
                assert client.read().end == "closed"
            assert Site(base, remote, script).get("/file").status == 500


class TestWsgi(WsgirefContract):
    serve = staticmethod(serve)


class TestAsgi(AsgiContract):
    serve = staticmethod(serve_asgi)


class TestCoroutineUnderWsgi(WsgirefContract):
    """A view that is a coroutine function, in a loop that ends with it."""

    @staticmethod
    @contextmanager
    def serve(handle: Callable[[str], Download], **options: Any) -> Iterator[str]:
        with wsgi.running(wsgi_app(aview(handle, **options))) as base:
            yield base


class TestFunctionUnderAsgi(AsgiContract):
    """A view that is a plain function, in a thread of Django's."""

    @staticmethod
    @contextmanager
    def serve(handle: Callable[[str], Download], **options: Any) -> Iterator[str]:
        with asgi.serving(asgi_app(view(handle, **options)), lifespan="off") as base:
            yield base


class TestOtherLoop(AsgiContract):
    """A context on a loop of another thread."""

    test_context_closes = None  # type: ignore[assignment]

    serve = staticmethod(on_another_loop(serve_asgi))


class TestRunserver(RelayContract):
    """Django's own server, which keeps connections for further requests."""

    class Handler(wsgi.Quiet, WSGIRequestHandler):
        wbufsize = 0  # it counts on that

    @classmethod
    @contextmanager
    def serve(cls, handle: Callable[[str], Download], **options: Any) -> Iterator[str]:
        with wsgi.running(wsgi_app(view(handle, **options)), cls.Handler) as base:
            yield base

    def test_unsized(self, site: Site) -> None:
        """A file of unknown size ends with the connection."""
        got = site.get("/unsized")
        assert (got.status, got.body, got.end) == (200, DATA, "closed")

    def test_connection_serves_again(self, site: Site) -> None:
        """Answers of each kind end where they should: the connection is good for the next request."""
        with Client(site.base) as client:
            assert client.get("/file", method="HEAD").fields["Content-Length"] == str(len(DATA))
            assert client.get("/file").body == DATA
            assert client.get("/missing").status == 404
            assert client.get("/file", "Range: bytes=1000-1999").body == DATA[1000:2000]
            assert client.get("/file", "Connection: close").body == DATA


# --- middleware -------------------------------------------------------------------------------------------------------


@contextmanager
def site_of(answer: Callable[[Any, Download], Any], *, asynchronous: bool = False) -> Iterator[Site]:
    """Run a remote, a context, and a server with the view *answer*, which gets a download for each request."""
    with remote_and_handle() as (remote, script, handle):
        if asynchronous:

            async def made(request: Any) -> Any:
                return await answer(request, handle(request.path))

            serving = asgi.serving(asgi_app(made), lifespan="off")
        else:
            serving = wsgi.running(wsgi_app(lambda request: answer(request, handle(request.path))))
        with serving as base:
            yield Site(base, remote, script)


@pytest.mark.parametrize(("asynchronous", "end"), [(False, "reset"), (True, "closed")])
def test_break_behind_gzip(asynchronous: bool, end: str) -> None:
    """Middleware that takes the length away does not make a clean end of an answer that broke off."""

    def squeezed(request: Any, download: Download) -> Any:
        return GZipMiddleware(lambda request: relay(request, download))(request)

    async def asqueezed(request: Any, download: Download) -> Any:
        async def answer(request: Any) -> Any:
            return await arelay(request, download)

        return await GZipMiddleware(answer)(request)

    with site_of(asqueezed if asynchronous else squeezed, asynchronous=asynchronous) as site:
        for path in ("/cut", "/cut-unsized"):
            got = site.get(path, "Accept-Encoding: gzip")
            assert (got.status, got.fields["Content-Encoding"], got.end) == (200, "gzip", end)
        assert site.is_freed()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_replaced_response(asynchronous: bool) -> None:
    """A response that is forgotten by whoever replaced it frees its upstream."""

    def replaced(request: Any, download: Download) -> Any:
        relay(request, download)
        return HttpResponse("other")

    async def areplaced(request: Any, download: Download) -> Any:
        await arelay(request, download)
        return HttpResponse("other")

    with site_of(areplaced if asynchronous else replaced, asynchronous=asynchronous) as site:
        assert site.get("/stalled", version="1.0").body == b"other"
        assert site.is_freed()
        assert soon(lambda: helpers() == 0)


def test_conditions_are_answered_once() -> None:
    """Django's middleware for conditional requests finds them answered."""

    def answer(request: Any, download: Download) -> Any:
        return ConditionalGetMiddleware(lambda request: relay(request, download))(request)

    with site_of(answer) as site:
        got = site.get("/file", f"If-None-Match: {TAG}")
        assert (got.status, got.fields["ETag"]) == (304, TAG)
        assert site.get("/file", 'If-None-Match: "other"').body == DATA


# --- responses --------------------------------------------------------------------------------------------------------


def test_response_says_what_the_source_said() -> None:
    """The fields are those of the file: no Content-Type where the source told none, a length where it is known."""
    with remote_and_handle() as (_, _, handle):
        response = relay(RequestFactory().get("/file"), handle("/file"))
        assert (response.status_code, response.streaming) == (200, True)
        assert dict(response.items()) == {
            "ETag": TAG,
            "Content-Length": str(len(DATA)),
            "Accept-Ranges": "bytes",
        }
        assert response.getvalue() == DATA
        response.close()


def test_refusal_is_a_plain_response() -> None:
    """What is refused is no stream: middleware may read and change it."""
    with remote_and_handle() as (_, _, handle):
        response = relay(RequestFactory().get("/missing"), handle("/missing"))
        assert (response.status_code, response.streaming) == (404, False)
        assert response.content == b"Not delivered: NotFound.\n"
        assert response["Content-Type"] == "text/plain; charset=utf-8"


def test_unreachable_socket() -> None:
    """Where the connection cannot be reset, a file of unknown size is refused; a break is raised in the server."""
    with remote_and_handle() as (_, _, handle):
        request = RequestFactory().get("/", **{"wsgi.input": io.BytesIO()})
        response = relay(request, handle("/unsized"))
        assert (response.status_code, b"HTTP/1.0 cannot tell the end" in response.content) == (502, True)
        response = relay(request, handle("/cut"))
        with pytest.raises(StreamBroken):
            response.getvalue()
        response.close()


async def test_coroutine_without_asgi() -> None:
    """Where a request did not come by ASGI, a coroutine gets the response that such a server can send."""
    with remote_and_handle() as (_, _, handle):
        response = await arelay(RequestFactory().get("/file"), handle("/file"))
        assert (response.status_code, response.is_async) == (200, False)
        response.close()
        assert soon(lambda: helpers() == 0)


async def test_cancelled_wait_for_a_block() -> None:
    """Who is cancelled while waiting for a block leaves the answer at once, also if nobody closes the response."""
    with remote_and_handle() as (remote, _, handle):
        scope = {"type": "http", "method": "GET", "path": "/stalled", "headers": [], "http_version": "1.1"}
        request = ASGIRequest(scope, io.BytesIO())
        response = await arelay(request, handle("/stalled"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                async for _ in response:
                    pass
        await remote.until(lambda remote: remote.open == 0, FREED)
        response.close()
        request.close()


@pytest.mark.parametrize("served", [serve, serve_asgi])
def test_warning_once(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    """An answer that breaks off is logged once, by the adapter."""
    with remote_and_handle() as (_, _, handle), served(handle) as base, Client(base) as client:
        client.get("/cut")
    told = [record.getMessage() for record in caplog.records if record.name == "downhaul.adapters"]
    assert len(told) == 1
    assert "/cut: broke off: StreamBroken" in told[0]


@pytest.mark.parametrize("served", [serve, serve_asgi])
def test_hang_up_is_no_error(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Of a client that left, no error is logged, neither before nor after the head."""
    with remote_and_handle() as (remote, script, handle), served(handle) as base:
        site = Site(base, remote, script)
        for path in ("/silent", "/stalled"):
            with Client(base) as client:
                client.ask(path)
                remote.wait_until(lambda remote, path=path: remote.requests[-1:] and remote.open == 1)
                if path == "/stalled":
                    client.read_some()
            assert site.is_freed()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    assert not [thread for thread in threading.enumerate() if thread.name == "downhaul-adapters"]
