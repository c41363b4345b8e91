"""Threads of all kinds on real sockets: those of web servers, those that end early, and many that begin at once."""

from __future__ import annotations

import contextvars
import hashlib
import http.client
import logging
import os
import socketserver
import subprocess
import sys
import threading
import wsgiref.simple_server
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.acceptance.files import counted_files
from tests.acceptance.use_cases import importer
from tests.core.forms import wait_until
from tests.mem import names
from tests.servers.http import head, http_server

import downhaul
from downhaul import Batch, BufferWriter, Context, DownloadError, FileWriter, NotFound, Plugin, hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from tests.acceptance.files import Files
    from tests.servers.http import Exchange

    from downhaul import Result, Transfer

    App = Callable[[dict[str, Any], Any], Iterable[bytes]]

ROOT = Path(__file__).parents[2]
CLIENTS = 50
PATIENCE = 60


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    """Files of a real nginx."""
    with counted_files(tmp_path_factory.mktemp("upstream"), CLIENTS) as files:
        yield files


class ThreadedServer(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    """A thread for each request, as in many a development server."""

    daemon_threads = False  # their end is waited for when the server is closed
    request_queue_size = CLIENTS


class QuietHandler(wsgiref.simple_server.WSGIRequestHandler):
    """Writes no log."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def web_server(app: App) -> Iterator[int]:
    """Serve *app* with a thread for each request; yield the port."""
    with wsgiref.simple_server.make_server("127.0.0.1", 0, app, ThreadedServer, QuietHandler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def get(port: int, path: str) -> tuple[int, bytes]:
    """Ask the web server for *path*."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def whole(context: Context, base: str) -> App:
    """Return an app that downloads what it is asked for, then answers."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        writer = BufferWriter()
        try:
            context.download(base + environ["PATH_INFO"], writer, attachment=environ["PATH_INFO"])()
        except NotFound as error:
            start_response("404 Not Found", [])
            return [str(error.attachment).encode()]
        start_response("200 OK", [])
        return [writer.content()]

    return app


def streamed(context: Context, base: str) -> App:
    """Return an app that passes on what it is asked for as it comes."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            with context.download(base + environ["PATH_INFO"], attachment=environ["PATH_INFO"]).stream() as stream:
                start_response("200 OK", [("Content-Length", stream.headers["Content-Length"])])
                yield from stream
        except NotFound as error:
            start_response("404 Not Found", [])
            yield str(error.attachment).encode()

    return app


@importer(8)
@pytest.mark.parametrize("make", [whole, streamed])
def test_a_threaded_web_server_shares_a_context(make: Callable[[Context, str], App], upstream: Files) -> None:
    """Fifty requests at once download through one context in threads of the web server; afterwards nothing is left."""
    threads, descriptors = set(threading.enumerate()), open_files()
    paths = [f"/{name}" for name in upstream.names[:-1]] + ["/missing"]
    with Context(connections=8) as context, web_server(make(context, upstream.server.url("/")[:-1])) as port:
        start = threading.Barrier(CLIENTS)

        def client(path: str) -> tuple[int, bytes]:
            start.wait(PATIENCE)
            return get(port, path)

        with ThreadPoolExecutor(CLIENTS) as clients:
            answers = list(clients.map(client, paths))
        wait_until(lambda: context.connections_in_use == 0)
    for (name, _, digests), (status, content) in zip(upstream.rows[:-1], answers, strict=False):
        assert (status, hashlib.sha256(content).hexdigest()) == (200, digests["sha256"]), name
    assert answers[-1] == (404, b"/missing")
    upstream.check_connections(most=8, requests=CLIENTS)
    assert set(threading.enumerate()) == threads
    wait_until(lambda: open_files() == descriptors)


def open_files() -> int:
    """Return how many files and sockets this process has open, or 0 where the system does not tell."""
    place = Path("/proc/self/fd")
    return len(list(place.iterdir())) if place.exists() else 0


DJANGO = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from urllib.request import ProxyHandler, build_opener
import django
from django.conf import settings
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path
import downhaul

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], DATABASES={})
django.setup()
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application

upstream, number = sys.argv[1], int(sys.argv[2])
context = downhaul.Context(connections=8)

def whole(request, name):
    writer = downhaul.BufferWriter()
    context.download(upstream + name, writer)()
    return HttpResponse(writer.content())

def streamed(request, name):
    def blocks():
        with context.download(upstream + name).stream() as stream:
            yield from stream
    return StreamingHttpResponse(blocks())

urlpatterns = [path("whole/<name>", whole), path("streamed/<name>", streamed)]
WSGIRequestHandler.log_message = lambda *_: None
before = threading.active_count()
with context, ThreadedWSGIServer(("127.0.0.1", 0), WSGIRequestHandler) as server:
    server.daemon_threads = False
    server.set_app(get_wsgi_application())
    threading.Thread(target=server.serve_forever, args=(0.05,)).start()
    opener = build_opener(ProxyHandler({}))
    def get(way):
        return opener.open(f"http://127.0.0.1:{server.server_port}/{way}").read()
    names = [f"file-{each:03}" for each in range(number)]
    with ThreadPoolExecutor(number) as clients:
        wholes = list(clients.map(get, [f"whole/{name}" for name in names]))
        streams = list(clients.map(get, [f"streamed/{name}" for name in names]))
    server.shutdown()
print(wholes == streams, sum(map(len, wholes)), context.connections_in_use)
"""


@importer(8, "sync")
def test_django_views_share_a_context(upstream: Files) -> None:
    """Views of a threaded Django server download through one context, whole and streamed."""
    assert run(DJANGO, upstream.server.url("/"), "30") == f"True {sizes(upstream, 30)} 0\n"


DEFAULT = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
import downhaul

start = threading.Barrier(32)
def first(number):
    start.wait(60)
    return downhaul.download(f"{sys.argv[1]}file-{number:03}", f"file-{number}").size

with ThreadPoolExecutor(32) as pool:
    print(sum(pool.map(first, range(32))))
print([thread.name for thread in threading.enumerate()].count("downhaul"))
"""


@importer(8, "sync")
def test_the_default_context_is_made_once(upstream: Files, tmp_path: Path) -> None:
    """Thirty-two threads whose first downloads come at once have one default context, with one thread."""
    upstream.log.write_bytes(b"")
    assert run(DEFAULT, upstream.server.url("/"), directory=tmp_path) == f"{sizes(upstream, 32)}\n1\n"
    upstream.check_connections(most=20, requests=32)
    assert len(names(tmp_path)) == 32


DAEMONS = """
import sys, threading
from downhaul import *

begun = threading.Semaphore(0)
class Begun(Plugin):
    @hookimpl
    async def validate(self, transfer): begun.release()

def busy(number):
    while True:
        with Context(plugins=[Begun()]) as context:
            for context in (None, context):
                Download(sys.argv[1] + "file-000", FileWriter(f"file-{number}"), context=context, plugins=[Begun()])()

def endless(number):
    try: busy(number)
    except RuntimeError: pass  # the interpreter ends: contexts are closed, threads are not to be had

for number in range(8): threading.Thread(target=endless, args=(number,), daemon=True).start()
for _ in range(40): assert begun.acquire(timeout=60)
"""


@importer(8, "sync")
def test_daemon_threads_at_the_end_of_the_interpreter(upstream: Files, tmp_path: Path) -> None:
    """The interpreter ends in peace, and leaves no temporary file, while daemon threads download."""
    for _ in range(3):
        assert run(DAEMONS, upstream.server.url("/"), directory=tmp_path) == ""
    assert names(tmp_path) == sorted(f"file-{number}" for number in range(8))


def run(program: str, *arguments: str, directory: Path = ROOT) -> str:
    """Run *program* to its end, without a complaint; return what it prints."""
    sources = [str(Path(downhaul.__path__[0]).parent), *(str(ROOT / f"drivers/{each}/src") for each in ("http", "ftp"))]
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        cwd=directory, env={**os.environ, "PYTHONPATH": os.pathsep.join(sources), "PYTHONFAULTHANDLER": "1"},
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def sizes(files: Files, number: int) -> int:
    """Return the sum of the sizes of the first *number* of *files*."""
    return sum((files.log.parent / "public" / name).stat().st_size for name in files.names[:number])


async def stalls(exchange: Exchange) -> None:
    """Send the beginning of a file, and no more."""
    await exchange.send(head(200, [("Content-Length", "3000000")]), bytes(2_000_000))
    await exchange.stall()


def in_a_thread(work: Callable[[], object]) -> object:
    """Do *work* in a thread that ends with it; return what it returns or how it failed."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        return done.exception(PATIENCE) or done.result()


@importer(8)
def test_made_here_used_there_closed_elsewhere(tmp_path: Path) -> None:
    """A context that one thread made and eight use is closed by another one while they download: all end, no file."""
    with http_server(stalls) as server:
        context = in_a_thread(Context)
        assert isinstance(context, Context)

        def use(number: int) -> Result:
            return context.download(server.url(), FileWriter(tmp_path / str(number)))()

        with ThreadPoolExecutor(8) as users:
            uses = [users.submit(use, number) for number in range(8)]
            server.wait_until(lambda server: server.open == 8)
            in_a_thread(context.close)
            for each in uses:
                with pytest.raises(RuntimeError, match="the context was closed while it was at work"):
                    each.result(PATIENCE)
        server.wait_until(lambda server: not server.open)
    assert names(tmp_path) == []


@importer(8)
def test_threads_that_end_while_their_downloads_run(tmp_path: Path) -> None:
    """A thread that ends without leaving its batch and its stream leaves them to the context, which ends them."""
    with http_server(stalls) as server, Context() as context:

        def begin() -> list[object]:
            jobs = (context.download(server.url(), FileWriter(tmp_path / str(number))) for number in range(3))
            batch = Batch(jobs, backlog=3, context=context).__enter__()
            consumer = threading.Thread(target=consume, args=(batch,))
            consumer.start()
            return [consumer, batch, context.download(server.url(), FileWriter(tmp_path / "s")).stream().__enter__()]

        def consume(batch: Batch) -> None:
            told.extend(type(plan.error) for plan in batch())

        told: list[object] = []
        begun = in_a_thread(begin)
        assert isinstance(begun, list), begun
        server.wait_until(lambda server: server.open == 4)
        assert context.connections_in_use == 4
        context.close()
        server.wait_until(lambda server: not server.open)
        assert names(tmp_path) == []
        begun[0].join(PATIENCE)
        assert told == [RuntimeError] * 3


request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="none")


class RequestId(logging.Filter):
    """Adds the id of the request to every record, as structured loggers do."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


class Audit(Plugin):
    """Logs how each download ends."""

    log = logging.getLogger("test.audit")

    @hookimpl
    def done(self, transfer: Transfer, outcome: Result | DownloadError | None) -> None:
        self.log.warning("%s", transfer.download.attachment)


@importer(8)
def test_hooks_see_who_asked(upstream: Files, caplog: pytest.LogCaptureFixture) -> None:
    """In a web server, what a plugin and downhaul itself log bears the id of the request that they work for."""
    mark, lines = RequestId(), []
    caplog.handler.addFilter(mark)
    with Context(plugins=[Audit()], retries=0) as context:
        inner = whole(context, upstream.server.url("/")[:-1])

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            request_id.set(environ["PATH_INFO"])
            return inner(environ, start_response)

        with web_server(app) as port, ThreadPoolExecutor(CLIENTS) as clients:
            list(clients.map(lambda name: get(port, f"/{name}"), upstream.names))
    caplog.handler.removeFilter(mark)
    lines = [(record.getMessage(), record.request_id) for record in caplog.records if record.name == "test.audit"]
    assert sorted(lines) == [(f"/{name}", f"/{name}") for name in upstream.names]
    upstream.log.write_bytes(b"")
