"""ASGI: uvicorn and Starlette over real sockets, with a context in its own thread and on the server's loop."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import BackgroundTasks, FastAPI
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import StreamingResponse
from tests.adapters.contract import Site
from tests.adapters.wire import CUT, DATA, KIB, LARGE, MIB, TAG, Client, Remote
from tests.core.forms import wait_until
from tests.fronts.asgi import app, serve, serving
from tests.mem import MemDriver, Reply, context_of, until
from tests.servers.http import http_server

from downhaul import Context, Download, StreamBroken, User
from downhaul.adapters._answers import marks_end
from downhaul.adapters.asgi import Relay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.requests import Request
    from starlette.responses import Response

FORMS = ("thread", "loop")


@contextmanager
def running(
    form: str, *, middleware: tuple[Middleware, ...] = (), http: str = "auto", **relayed: Any
) -> Iterator[tuple[Site, Context]]:
    """Run a remote, a context of one of the forms, and a server of the application between them."""
    script, context = Remote(), Context()

    @asynccontextmanager
    async def entered(_: object) -> AsyncIterator[None]:
        async with context:
            yield

    def handle(path: str) -> Download:
        return Download(remote.url(path), context=context, retries=0)

    lifespan, here = (entered, nullcontext()) if form == "loop" else (None, context)
    application = app(handle, relayed=relayed, middleware=middleware, lifespan=lifespan)
    with http_server(script) as remote, here, serving(application, http=http) as base:
        yield Site(base, remote, script), context


@pytest.fixture(params=FORMS)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Give a running server."""
    with running(request.param) as (site, _):
        yield site


class PassedOn(BaseHTTPMiddleware):
    """Runs the application in a task of its own, and sends what that sent."""

    async def dispatch(self, request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["X-Passed-On"] = "yes"
        return response


class WrappedAgain(BaseHTTPMiddleware):
    """Makes a response of its own of the blocks that come."""

    async def dispatch(self, request: Request, call_next: Any) -> Response:
        response = await call_next(request)
        return StreamingResponse(response.body_iterator, response.status_code, dict(response.headers))


MIDDLEWARE = {
    "none": (),
    "tasks": (Middleware(PassedOn),),
    "nested tasks": (Middleware(PassedOn), Middleware(PassedOn)),
    "wrapped again": (Middleware(WrappedAgain),),
    "gzip": (Middleware(GZipMiddleware),),
    "gzip around tasks": (Middleware(GZipMiddleware), Middleware(PassedOn)),
    "gzip in tasks": (Middleware(PassedOn), Middleware(GZipMiddleware)),
}


# --- good answers -----------------------------------------------------------------------------------------------------


def test_the_front_serves() -> None:
    """The front relays every path, with the options of the adapter."""
    script = Remote()
    with http_server(script) as remote, Context() as context:

        def handle(path: str) -> Download:
            return Download(remote.url(path), context=context, retries=0)

        with serve(handle, hold_back=MIB) as base:
            site = Site(base, remote, script)
            assert site.get("/file").body == DATA
            assert site.get("/cut").status == 502


def test_the_whole_file(site: Site) -> None:
    """A GET gets the file, its length and its entity tag, and one Date: the server's."""
    got = site.get("/file")
    assert (got.status, got.body, got.end) == (200, DATA, "complete")
    assert (got.fields["Content-Length"], got.fields["ETag"]) == (str(len(DATA)), TAG)
    assert got.fields["Date"].count("GMT") == 1


def test_a_connection_serves_again(site: Site) -> None:
    """Answers of each kind end where they should: the connection is good for the next request."""
    with Client(site.base) as client:
        head = client.get("/file", method="HEAD")
        assert (head.status, head.fields["Content-Length"], head.fields["ETag"]) == (200, str(len(DATA)), TAG)
        assert client.get("/file", f"If-None-Match: {TAG}").status == 304
        part = client.get("/file", "Range: bytes=1000-1999")
        assert (part.status, part.body) == (206, DATA[1000:2000])
        assert part.fields["Content-Range"] == f"bytes 1000-1999/{len(DATA)}"
        assert client.get("/file", "Range: bytes=9999999-").status == 416
        assert client.get("/file", "Content-Length: 0", method="POST").status == 405
        assert client.get("/missing", method="HEAD").status == 404
        missing = client.get("/missing")
        assert (missing.status, missing.body) == (404, b"Not delivered: NotFound.\n")
        assert client.get("/unsized").body == DATA
        assert client.get("/file").body == DATA


def test_a_file_of_unknown_size(site: Site) -> None:
    """It ends with the last chunk."""
    got = site.get("/unsized")
    assert (got.status, got.body, got.end) == (200, DATA, "complete")
    assert "Content-Length" not in got.fields


def test_http_1_0_gets_what_has_a_length(site: Site) -> None:
    """Without chunks, and without a way to reset a connection, a file of unknown size is refused, and why is told."""
    refused = site.get("/unsized", version="1.0")
    assert refused.status == 502
    assert b"HTTP/1.0 cannot tell the end" in refused.body
    assert site.is_freed()
    assert site.get("/file", version="1.0").body == DATA


@pytest.mark.parametrize("name", MIDDLEWARE)
@pytest.mark.parametrize("form", FORMS)
def test_middleware_passes_answers_on(form: str, name: str) -> None:
    """What is good comes through completely."""
    with running(form, middleware=MIDDLEWARE[name]) as (site, _):
        for path in ("/file", "/unsized"):
            got = site.get(path)
            assert (got.status, got.body, got.end) == (200, DATA, "complete")
        assert site.get("/missing").status == 404


# --- answers that break off -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("http", ["httptools", "h11"])
@pytest.mark.parametrize("name", MIDDLEWARE)
@pytest.mark.parametrize("form", FORMS)
def test_a_break_is_no_end(form: str, name: str, http: str) -> None:
    """The connection is closed before the length is reached, or the last chunk was sent, whatever stands between."""
    with running(form, middleware=MIDDLEWARE[name], http=http) as (site, _):
        for path in ("/cut", "/cut-unsized"):
            for fields in ((), ("Accept-Encoding: gzip",)):
                got = site.get(path, *fields)
                assert (got.status, got.end) == (200, "closed")
                if "Content-Encoding" not in got.fields:
                    assert got.body == DATA[: len(got.body)]
                    assert len(got.body) < CUT


def test_what_breaks_while_all_is_held_back_is_a_status() -> None:
    """Then nothing was sent, so there is a proper answer."""
    with running("thread", hold_back=MIB) as (site, _):
        got = site.get("/cut")
    assert (got.status, got.end) == (502, "complete")


def test_the_error_is_raised() -> None:
    """Whatever is around the relay sees why it broke off."""
    seen: list[BaseException] = []

    class Watch:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        async def __call__(self, *arguments: Any) -> None:
            try:
                await self.inner(*arguments)
            except Exception as error:
                seen.append(error)
                raise

    with running("loop", middleware=(Middleware(Watch),)) as (site, _):
        assert site.get("/cut-unsized").end == "closed"
    assert [type(each) for each in seen] == [StreamBroken]


@pytest.mark.parametrize("name", MIDDLEWARE)
def test_a_context_that_closes_is_no_end(name: str) -> None:
    """What is no failure of the download ends no answer cleanly either; later there is nobody to ask."""
    with running("thread", middleware=MIDDLEWARE[name]) as (site, context):
        with Client(site.base) as client:
            client.ask("/stalled-unsized")
            client.read_some()
            context.close()
            assert client.read().end == "closed"
        assert site.get("/file").status == 500


@pytest.mark.parametrize("form", FORMS)
def test_a_server_that_stops_is_no_end(form: str) -> None:
    """An answer that is cut by the end of the server is not complete, and the remote is let go."""
    with running(form) as (site, _), Client(site.base) as client:
        client.ask("/stalled-unsized")
        client.read_some()
        remote = site.remote
    assert remote.open == 0


# --- clients ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MIDDLEWARE)
@pytest.mark.parametrize("form", FORMS)
def test_a_client_that_hangs_up_frees_the_remote(form: str, name: str) -> None:
    """It is let go within a second, though no block comes that could not be sent, or no answer yet."""
    with running(form, middleware=MIDDLEWARE[name]) as (site, context):
        for path in ("/stalled", "/stalled-unsized", "/silent"):
            before = len(site.remote.requests)
            with Client(site.base) as client:
                client.ask(path)
                site.remote.wait_until(lambda remote, before=before: len(remote.requests) > before)  # type: ignore[misc]
                if path != "/silent":
                    client.read_some()
            assert site.is_freed()
        wait_until(lambda: context.connections_in_use == 0)


def test_a_client_that_does_not_read_may_hang_up(site: Site) -> None:
    """It frees the remote, though the server had to wait for it."""
    with Client(site.base, buffer=64 * KIB) as client:
        client.ask("/large")
        assert site.script.held.wait(20)
    assert site.is_freed()


@pytest.mark.parametrize(("form", "name"), [("thread", "none"), ("loop", "nested tasks")])
def test_a_slow_client_holds_the_remote_back(form: str, name: str) -> None:
    """A client that does not read makes the remote wait, and gets everything once it reads."""
    with running(form, middleware=MIDDLEWARE[name]) as (site, _), Client(site.base, buffer=64 * KIB) as client:
        client.ask("/large")
        assert site.script.held.wait(20)
        assert site.script.sent < 12 * MIB  # what the kernel keeps for three connections
        got = client.read()
        assert (len(got.body), got.end) == (LARGE, "complete")


# --- the protocol -----------------------------------------------------------------------------------------------------

SCOPE = {"type": "http", "method": "GET", "http_version": "1.1", "headers": []}


class Server:
    """A server in memory: it tells of a client that has hung up when it is told so."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.hung_up = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)


@pytest.fixture
def driver() -> MemDriver:
    """Give a driver with a file that stalls."""
    driver = MemDriver()
    driver.site("mem://host/file", Reply(DATA, cut=CUT, hang="body"))
    driver.site("mem://host/cut", Reply(DATA, cut=CUT))
    return driver


async def test_a_client_that_has_gone_is_no_error(driver: MemDriver) -> None:
    """The application returns, without having ended the answer; nothing is left of it, not even a cancellation."""
    server = Server()
    async with context_of(driver) as context:
        work = asyncio.create_task(
            Relay(Download("mem://host/file", context=context))(SCOPE, server.receive, server.send)
        )
        await until(lambda: len(server.sent) > 1)
        server.hung_up.set()
        await work
        assert (driver.live, work.cancelling()) == (0, 0)
    assert all(each["type"] == "http.response.start" or each["more_body"] for each in server.sent)


async def test_a_cancellation_is_passed_on(driver: MemDriver) -> None:
    """Who cancels the application has it cancelled, also where the client hangs up at that moment."""
    for hangs_up in (False, True):
        server = Server()
        async with context_of(driver) as context:
            relay = Relay(Download("mem://host/file", context=context))
            work = asyncio.create_task(relay(SCOPE, server.receive, server.send))
            await until(lambda server=server: len(server.sent) > 1)  # type: ignore[misc]
            if hangs_up:
                server.hung_up.set()
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
            assert driver.live == 0


async def test_an_answer_that_broke_off_is_not_ended(driver: MemDriver) -> None:
    """The error is raised, and nothing was sent that could be taken for the end."""
    server = Server()
    async with context_of(driver) as context:
        with pytest.raises(StreamBroken):
            await Relay(Download("mem://host/cut", context=context, retries=0))(SCOPE, server.receive, server.send)
    assert all(each["type"] == "http.response.start" or each["more_body"] for each in server.sent)


async def test_a_server_that_tells_nothing_does_no_harm(driver: MemDriver) -> None:
    """Where asking for a hang-up fails, the answer is sent all the same."""
    server = Server()

    async def receive() -> Any:
        raise RuntimeError("already received")

    driver.site("mem://host/good", Reply(DATA))
    async with context_of(driver) as context:
        await Relay(Download("mem://host/good", context=context))(SCOPE, receive, server.send)
    assert b"".join(each.get("body", b"") for each in server.sent) == DATA
    assert [each.get("more_body", False) for each in server.sent][-1] is False


async def test_other_scopes_are_refused(driver: MemDriver) -> None:
    """A websocket cannot be answered with a file."""
    server = Server()
    with pytest.raises(ValueError, match="not websocket"):
        await Relay(Download("mem://host/file"))({"type": "websocket"}, server.receive, server.send)


def test_options_are_checked_where_they_are_given() -> None:
    """Not with the first request."""
    with pytest.raises(ValueError, match="hold_back"):
        Relay(Download("mem://host/file"), hold_back=0)
    with pytest.raises(TypeError, match="holdback"):
        Relay(Download("mem://host/file"), holdback=1)  # type: ignore[call-arg]


# --- other frameworks -------------------------------------------------------------------------------------------------


def test_fastapi_returns_it_like_any_response() -> None:
    """FastAPI does not make JSON of it, which would show credentials; what it adds in the background is done."""
    application, done = FastAPI(), []

    @application.get("/{path:path}")
    async def endpoint(path: str, background: BackgroundTasks) -> Any:
        background.add_task(done.append, path)
        return Relay(Download(remote.url(f"/{path}"), user=User("elmer", "secret"), context=context, retries=0))

    with http_server(Remote()) as remote, Context() as context, serving(application) as base, Client(base) as client:
        got = client.get("/file")
        assert (got.status, got.body, got.end) == (200, DATA, "complete")
        wait_until(lambda: done == ["file"])


def test_what_is_no_download_is_refused() -> None:
    """A URL in the place of a download is a TypeError at once."""
    with pytest.raises(TypeError, match="a Download is relayed, not str"):
        Relay("https://host/file")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("version", "marked"), [("1", False), ("1.0", False), (None, False), ("1.1", True), ("2", True)]
)
def test_versions_as_servers_write_them(version: str | None, marked: bool) -> None:
    """Some servers call HTTP/1.0 "1": what is not known to mark the end of an answer does not."""
    assert marks_end({"http_version": version}) == marked
