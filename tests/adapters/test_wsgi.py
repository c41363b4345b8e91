"""WSGI: what the contract says, under the server of the standard library, and what is its own."""

from __future__ import annotations

import io
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.adapters.contract import RelayContract, Site, on_another_loop, remote_and_handle
from tests.adapters.wire import CUT, DATA, PATIENCE, TAG, Client, Remote
from tests.fronts.wsgi import Quiet, running, serve
from tests.mem import MemDriver, Reply, context_of
from tests.servers.http import http_server

from downhaul import Download, DownloadError
from downhaul.adapters._sockets import reach
from downhaul.adapters.wsgi import relay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from wsgiref.types import StartResponse, WSGIEnvironment

    App = Callable[[WSGIEnvironment, StartResponse, Download], Iterable[bytes]]

URL = "mem://host/file"
ALONE = """
import sys
from wsgiref.simple_server import make_server
from downhaul import Download
from downhaul.adapters.wsgi import relay

def app(environ, start_response):
    return relay(environ, start_response, Download(sys.argv[1] + environ["PATH_INFO"]))

with make_server("127.0.0.1", 0, app) as server:
    print(server.server_port, flush=True)
    server.serve_forever()
"""
FORKED = """
import io, os, sys
from downhaul import Download
from downhaul.adapters.wsgi import relay

def ask(path):
    environ = {"REQUEST_METHOD": "GET", "wsgi.input": io.BytesIO()}
    return relay(environ, lambda status, fields: print(status, flush=True), Download(sys.argv[1] + path))

stalled = ask("/stalled")
next(stalled)
child = os.fork()
if not child:
    print(sum(map(len, ask("/file"))), flush=True)
    os._exit(0)
os.waitpid(child, 0)
stalled.close()
"""
FORKS = ("-W", "ignore:This process:DeprecationWarning")  # Python 3.12 advises against what is tested here


class WsgirefContract(RelayContract):
    """The contract, as far as a server can keep it that closes the connection after each answer."""

    def test_connection_serves_again(self, site: Site) -> None:
        """Answers of each kind end where they should: what has no content ends with its head."""
        head = site.get("/file", method="HEAD")
        assert (head.fields["Content-Length"], head.end) == (str(len(DATA)), "complete")
        assert "Content-Length" not in site.get("/unsized", method="HEAD").fields
        assert "Content-Length" not in site.get("/file", f"If-None-Match: {TAG}").fields
        assert site.get("/missing", method="HEAD").status == 404

    def test_unsized(self, site: Site) -> None:
        """A file of unknown size ends with the connection."""
        got = site.get("/unsized")
        assert (got.status, got.body, got.end) == (200, DATA, "closed")
        assert "Content-Length" not in got.fields


class TestWsgiref(WsgirefContract):
    serve = staticmethod(serve)


class TestOtherLoop(WsgirefContract):
    """The same with a context on a loop that runs in another thread."""

    test_context_closes = None  # type: ignore[assignment]

    serve = staticmethod(on_another_loop(serve))


@contextmanager
def site_of(app: App, handler: type[Quiet] = Quiet) -> Iterator[Site]:
    """Run a remote, a context, and *app*, which gets a download for each request."""
    with remote_and_handle() as (remote, script, handle):

        def made(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            return app(environ, start_response, handle(environ["PATH_INFO"]))

        with running(made, handler) as base:
            yield Site(base, remote, script)


@contextmanager
def mem(**reply: Any) -> Iterator[Download]:
    """Give a download of a file in memory, whose driver must be free in the end."""
    driver = MemDriver()
    driver.site(URL, Reply(**reply))
    with context_of(driver) as context:
        yield Download(URL, context=context, retries=0)
        assert driver.live == 0


def called(download: Download, **environ: Any) -> tuple[str, dict[str, str], Any]:
    """Call the adapter as a server does; return status, fields and blocks."""
    told: list[Any] = []
    blocks = relay({"REQUEST_METHOD": "GET", **environ}, lambda *head: told.extend(head), download)
    return told[0], dict(told[1]), blocks


def soon(condition: Callable[[], object]) -> bool:
    """Tell whether *condition* comes true."""
    until = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def helpers() -> int:
    """Return how many threads the adapter has."""
    return sum(thread.name == "downhaul-adapters" for thread in threading.enumerate())


# --- hang-ups -------------------------------------------------------------------------------------------------------


def test_half_close_is_a_reset() -> None:
    """A client that ends its half of the connection is taken for gone, and sees no clean end of what it has."""
    with site_of(relay) as site:
        with Client(site.base) as client:
            client.ask("/stalled-unsized")
            client.read_some()
            client.half_close()
            assert client.read().end == "reset"
        assert site.is_freed()


def test_more_requests_are_no_hang_up() -> None:
    """A client that sends more than the server reads has not left."""
    with site_of(relay) as site, Client(site.base) as client:
        client.ask("/file")
        for _ in range(10):
            client.ask("/file")
        assert client.read().body == DATA


def test_one_thread_while_there_is_work() -> None:
    """The adapter has one thread, however many requests, and none when the last is done."""
    with site_of(relay) as site:
        clients = [Client(site.base) for _ in range(5)]
        for client in clients:
            client.ask("/stalled")
            client.read_some()
        assert helpers() == 1
        for client in clients:
            client.hang_up()
        assert site.is_freed()
        assert soon(lambda: helpers() == 0)
        assert site.get("/file").body == DATA


def test_server_is_told_of_breaks_alone() -> None:
    """A break is raised in the server, and logged there; of a client that left, nobody is told."""
    errors = io.StringIO()

    class Heard(Quiet):
        def get_stderr(self) -> io.StringIO:
            return errors

    with site_of(relay, Heard) as site:
        for path in ("/silent", "/stalled"):
            with Client(site.base) as client:
                client.ask(path)
                site.remote.wait_until(lambda remote, path=path: remote.requests[-1:] and remote.open == 1)
                if path == "/stalled":
                    client.read_some()
            assert site.is_freed()
        site.get("/cut")
    assert errors.getvalue().count("Traceback") == 1
    assert "StreamBroken: nobody continues the stream" in errors.getvalue()


def test_hang_up_is_told_the_server_as_such() -> None:
    """A server that waits for a block of which the client will get nothing is told what it would learn by sending."""
    with connected() as (server, client), mem(data=DATA, hang="body") as download:
        blocks = called(download, **{"wsgi.input": server})[2]
        assert next(blocks)
        client.close()
        with pytest.raises(ConnectionResetError, match="the client has hung up"):
            list(blocks)


# --- ends -----------------------------------------------------------------------------------------------------------


def test_killed_server_resets() -> None:
    """A server that is killed in the middle of a file of unknown size resets its connections."""
    with http_server(Remote()) as remote:
        command = [sys.executable, "-c", ALONE, remote.url("")]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
            try:
                address = ("127.0.0.1", int(process.stdout.readline()))
                with socket.create_connection(address) as client:
                    client.sendall(b"GET /stalled-unsized HTTP/1.0\r\n\r\n")
                    received = b""
                    while not received.partition(b"\r\n\r\n")[2]:
                        received += client.recv(65536)
                    process.send_signal(signal.SIGKILL)
                    with pytest.raises(ConnectionResetError):
                        while client.recv(65536):
                            pass
            finally:
                process.kill()


@pytest.mark.parametrize("path", ["/unsized", "/stalled-unsized"])
def test_closed_early_is_a_reset(path: str) -> None:
    """Middleware that leaves the answer after some blocks does not end it well."""

    def impatient(environ: WSGIEnvironment, start_response: StartResponse, download: Download) -> Iterator[bytes]:
        with closing(relay(environ, start_response, download)) as blocks:
            yield next(blocks)

    with site_of(impatient) as site:
        assert site.get(path).end == "reset"
        assert site.is_freed()


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("closes", [False, True])
def test_replaced_answer(begun: bool, closes: bool) -> None:
    """Middleware may send an answer of its own instead, unless it has begun the other, and the upstream is freed."""

    def replacing(environ: WSGIEnvironment, start_response: StartResponse, download: Download) -> list[bytes]:
        blocks = relay(environ, lambda *_: None, download)
        if begun:
            next(blocks)
        if closes:
            blocks.close()
        del blocks
        start_response("200 OK", [("Content-Length", "5")])
        return [b"other"]

    with site_of(replacing) as site:
        with Client(site.base) as client:
            client.ask("/stalled")
            if not (begun and closes):
                assert client.read().body == b"other"
        assert site.is_freed()
        assert soon(lambda: helpers() == 0)


def test_next_request_is_unaffected() -> None:
    """After answers that broke off, and clients that left, others get theirs; no descriptor is left."""
    with site_of(relay) as site:

        def round_of_all() -> None:
            assert site.get("/cut").end == site.get("/cut-unsized").end == "reset"
            assert site.get("/file").body == site.get("/unsized").body == DATA
            assert site.get("/file", method="HEAD").status == 200
            with Client(site.base) as client:
                client.ask("/stalled")
                client.read_some()
            site.remote.wait_until(lambda remote: remote.open <= 1)

        def descriptors() -> int:
            return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

        round_of_all()
        assert soon(lambda: helpers() == 0)
        before = descriptors()
        for _ in range(10):
            round_of_all()
        assert soon(lambda: descriptors() <= before)


# --- what a server lets us do ---------------------------------------------------------------------------------------


def unreachable(environ: WSGIEnvironment, start_response: StartResponse, download: Download) -> Iterable[bytes]:
    """Relay as under a server whose socket cannot be reached."""
    return relay({**environ, "wsgi.input": io.BytesIO()}, start_response, download)


def test_unreachable_socket() -> None:
    """Where a connection cannot be reset, a file of unknown size is refused, and one that breaks has too few bytes."""
    with site_of(unreachable) as site:
        refused = site.get("/unsized")
        assert refused.status == 502
        assert b"HTTP/1.0 cannot tell the end" in refused.body
        assert site.get("/file").body == DATA
        cut = site.get("/cut")
        assert (cut.status, cut.end) == (200, "closed")
        assert len(cut.body) < CUT


@pytest.mark.parametrize(
    ("software", "protocol", "status"),
    [
        ("gunicorn/23.0.0", "HTTP/1.1", "200 OK"),
        ("waitress", "HTTP/1.1", "200 OK"),
        ("waitress", "HTTP/1.0", "502 Bad Gateway"),
        ("other/1.0", "HTTP/1.1", "502 Bad Gateway"),
    ],
)
def test_servers_that_send_chunks(software: str, protocol: str, status: str) -> None:
    """Where the server is known to mark the end, a file of unknown size needs no socket; its break is raised."""
    about = {"SERVER_SOFTWARE": software, "SERVER_PROTOCOL": protocol}
    with mem(data=DATA, size=False) as download:
        told, _, blocks = called(download, **about)
        assert told == status
        if status == "200 OK":
            assert b"".join(blocks) == DATA
    if status == "200 OK":
        with mem(data=DATA, size=False, cut=CUT) as download, pytest.raises(DownloadError):
            b"".join(called(download, **about)[2])


def test_iterator_has_ended() -> None:
    """After its end the iterator yields nothing more, and may be closed again."""
    with mem(data=DATA) as download:
        _, fields, blocks = called(download)
        assert b"".join(blocks) == DATA
        assert next(blocks, None) is None
        blocks.close()
        blocks.close()
        assert fields["Content-Length"] == str(len(DATA))


def test_connection_is_brittle_in_the_middle_only() -> None:
    """Until the answer has come to its end, closing the connection would reset it; then no longer."""

    def lingers(sock: socket.socket) -> tuple[int, ...]:
        return struct.unpack("ii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))

    with connected() as (server, _), mem(data=DATA) as download:
        blocks = called(download, **{"wsgi.input": server})[2]
        assert lingers(server)[0] == 0
        assert next(blocks)
        assert lingers(server) == (1, 0)
        list(blocks)
        assert lingers(server)[0] == 0


def test_start_response_fails() -> None:
    """A server that does not take the head frees the upstream."""

    def refuse(*_: object) -> Any:
        raise AssertionError("no such field")

    with mem(data=DATA, hang="body") as download:
        with pytest.raises(AssertionError, match="no such field"):
            relay({"REQUEST_METHOD": "GET"}, refuse, download)
        assert soon(lambda: helpers() == 0)


def test_hop_by_hop_fields_stay_away() -> None:
    """What the server says itself about its connection is left to it: WSGI forbids the application to do so."""
    with mem(data=DATA, headers=(("Trailers", "x"), ("X-Own", "y"))) as download:
        _, fields, blocks = called(download)
        blocks.close()
    assert "X-Own" in fields
    assert "Trailers" not in fields


def test_options() -> None:
    """Options that cannot be meant are told to who gives them."""
    with mem(data=DATA) as download:
        with pytest.raises(ValueError, match="hold_back=… is a number of bytes"):
            relay({"REQUEST_METHOD": "GET"}, lambda *_: None, download, hold_back=0)
        with pytest.raises(TypeError, match="unheard_of"):
            relay({"REQUEST_METHOD": "GET"}, lambda *_: None, download, unheard_of=1)


def test_warning_once(caplog: pytest.LogCaptureFixture) -> None:
    """An answer that breaks off is logged once."""
    with mem(data=DATA, cut=CUT) as download, pytest.raises(DownloadError):
        b"".join(called(download)[2])
    assert [record.getMessage().split(":")[2] for record in caplog.records if record.name == "downhaul.adapters"] == [
        " broke off"
    ]


def test_child_of_a_fork() -> None:
    """After a fork in the middle of a request, the child answers requests of its own."""
    with http_server(Remote()) as remote:
        command = [sys.executable, "-W", "error", *FORKS, "-c", FORKED, remote.url("")]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (ended.stdout.split("\n"), ended.stderr) == (["200 OK", "200 OK", str(len(DATA)), ""], "")


# --- the socket below a server --------------------------------------------------------------------------------------


@contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give both ends of a TCP connection, the server's first."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as server,
    ):
        yield server, client


@pytest.mark.parametrize("key", ["gunicorn.socket", "werkzeug.socket", "wsgi.input"])
def test_reset(key: str) -> None:
    """A connection is reset wherever it was found, and the server may go on with what it has."""
    with connected() as (server, client):
        connection = reach({key: server})
        server.sendall(b"some")
        assert client.recv(10) == b"some"
        connection.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(10)
        with pytest.raises(BrokenPipeError):
            server.sendall(b"more")
        server.shutdown(socket.SHUT_WR)
        connection.reset()


def test_armed_and_disarmed() -> None:
    """A connection that is armed is reset by whatever closes it; once it is disarmed, it ends well."""
    with connected() as (server, client):
        connection = reach({"wsgi.input": server})
        connection.arm()
        server.sendall(b"some")
        connection.disarm()
        server.close()
        assert client.recv(10) == b"some"
        assert client.recv(10) == b""
    with connected() as (server, client):
        reach({"wsgi.input": server}).arm()
        server.close()
        with pytest.raises(ConnectionResetError):
            client.recv(10)


def test_another_connection_is_safe() -> None:
    """A descriptor that is another connection's by now is let alone."""
    with connected() as (server, _), connected() as (other, client):
        connection = reach({"wsgi.input": server})
        os.dup2(other.fileno(), server.fileno())
        connection.arm()
        connection.reset()
        server.close()
        other.sendall(b"still there")
        other.close()
        assert client.recv(20) == b"still there"
        assert client.recv(20) == b""
        connection.reset()  # of a descriptor that is closed


def test_default_timeout_changes_nothing() -> None:
    """The server's socket goes on blocking, whatever is the default for new ones."""
    with connected() as (server, _):
        socket.setdefaulttimeout(5)
        try:
            connection = reach({"wsgi.input": server})
            connection.arm()
            assert os.get_blocking(server.fileno())
        finally:
            socket.setdefaulttimeout(None)


def test_nothing_to_reach(tmp_path: Path) -> None:
    """What is no TCP connection is not taken for one."""
    closed = socket.socket()
    closed.close()
    one, other = socket.socketpair()
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with one, other, udp, (tmp_path / "file").open("wb") as file:
        for each in (None, object(), io.BytesIO(), closed, one, udp, file):
            assert reach({"wsgi.input": each}) is None
    assert reach({}) is None
