"""The attachment of a download: the very object, in whatever becomes of it, and nowhere once that is dropped."""

from __future__ import annotations

import asyncio
import gc
import pickle
import socket
import sys
import threading
import time
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from tests.acceptance.use_cases import importer
from tests.servers.http import http_server

from downhaul import (
    Batch,
    BufferWriter,
    ConnectError,
    Context,
    DigestMismatch,
    DigestValidation,
    Download,
    DownloadError,
    FileWriter,
    NotFound,
    Plugin,
    PluginError,
    PolicyError,
    PreparationError,
    Retries,
    SourcesExhausted,
    Timeout,
    TimeoutExceeded,
    Truncated,
    UnsupportedScheme,
    WriteError,
    hookimpl,
)
from downhaul.plugins import MirrorList

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.servers.http import Exchange, HttpServer

WRONG = DigestValidation("sha256", "0" * 64)


class Row:
    """What an importer hangs on a download; it can be watched, and cannot be pickled."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


@dataclass(frozen=True)
class Broken(Plugin):
    """A plugin with a bug."""

    @hookimpl
    async def prepare(self, transfer: Any) -> None:
        raise KeyError("oops")


async def site(exchange: Exchange) -> None:
    """Answer by the path."""
    host = f"http://{exchange.header('Host')}"
    if exchange.target.startswith("/gone"):
        await exchange.respond(404)
    elif exchange.target.startswith("/cut"):
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        await exchange.cut()
    elif exchange.target == "/stalled":
        await exchange.stall()
    elif exchange.target == "/mirrors":
        await exchange.respond(200, f"{host}/gone/\n{host}/cut/\n".encode())
    else:
        await exchange.respond(200, b"content")


@pytest.fixture(scope="module")
def server() -> Iterator[HttpServer]:
    """Run the server of all tests here."""
    with http_server(site) as server:
        yield server


@dataclass
class Failure:
    """A way to fail."""

    error: type[DownloadError]
    path: str = "/file"
    options: dict[str, Any] = field(default_factory=dict)
    needs_first: str = ""

    def job(self, server: HttpServer, attachment: object) -> Download:
        """Return a download that fails this way."""
        options, url = {"retries": 0, "writer": BufferWriter(), **self.options}, server.url(self.path)
        if self.error is ConnectError:
            with socket.socket() as sock:
                sock.bind(("127.0.0.1", 0))  # not listening, and closed
                url = f"http://127.0.0.1:{sock.getsockname()[1]}/"
        if self.needs_first:
            options["plugins"] = [MirrorList(server.url(self.needs_first), replaces=server.url("/"))]
        if self.error is UnsupportedScheme:
            url = "gopher://host/file"
        return Download(url, attachment=attachment, **options)


FAILURES = {
    "validation": Failure(DigestMismatch, options={"validations": [WRONG]}),
    "validation, in rounds": Failure(
        DigestMismatch, options={"validations": [WRONG], "retries": 2, "plugins": [Retries(base=0)]}
    ),
    "status": Failure(NotFound, "/gone"),
    "connect": Failure(ConnectError),
    "truncated": Failure(Truncated, "/cut"),
    "time": Failure(TimeoutExceeded, "/stalled", {"timeout": Timeout(total=0.2)}),
    "write": Failure(WriteError, options={"writer": FileWriter("/nonexistent/file")}),
    "policy": Failure(PolicyError, options={"max_size": 1}),
    "plugin": Failure(PluginError, options={"plugins": [Broken()]}),
    "scheme": Failure(UnsupportedScheme),
    "several sources": Failure(SourcesExhausted, needs_first="/mirrors"),
    "nested": Failure(PreparationError, needs_first="/gone"),
}


@pytest.fixture
def context() -> Iterator[Context]:
    """Give a context with a thread of its own."""
    with Context() as context:
        yield context


@pytest.fixture
async def here() -> AsyncIterator[Context]:
    """Give a context on the running loop."""
    async with Context() as context:
        yield context


@importer(7)
@pytest.mark.parametrize("kind", FAILURES)
def test_failures(kind: str, server: HttpServer, context: Context) -> None:
    """However it fails, the error has the very object; of a batch too."""
    job = FAILURES[kind].job(server, attachment := Row())
    with pytest.raises(FAILURES[kind].error) as caught:
        job.clone(context=context)()
    assert caught.value.attachment is attachment
    with Batch([job], context=context) as batch:
        (plan,) = batch()
        with pytest.raises(FAILURES[kind].error) as caught:
            plan.result()
    assert caught.value.attachment is plan.error.attachment is plan.download.attachment is attachment


@importer(7)
@pytest.mark.parametrize("kind", FAILURES)
async def test_failures_with_asyncio(kind: str, server: HttpServer, here: Context) -> None:
    """The same on a loop."""
    job = FAILURES[kind].job(server, attachment := Row())
    with pytest.raises(FAILURES[kind].error) as caught:
        await job.clone(context=here).run()
    assert caught.value.attachment is attachment
    async with Batch([job], context=here) as batch:
        (plan,) = [plan async for plan in batch()]
    with pytest.raises(FAILURES[kind].error) as caught:
        plan.result()
    assert caught.value.attachment is plan.error.attachment is plan.download.attachment is attachment


@importer(7)
def test_what_is_needed_first_has_none(server: HttpServer, context: Context) -> None:
    """The attachment is that of the download: the failed mirror list, which another may need as well, has none."""
    job = FAILURES["nested"].job(server, attachment := Row())
    with pytest.raises(PreparationError) as caught:
        job.clone(context=context)()
    assert caught.value.attachment is attachment
    assert caught.value.cause is not None
    assert caught.value.cause.attachment is None


@importer(7)
def test_each_waiter_for_one_list_gets_its_own(server: HttpServer, context: Context) -> None:
    """Many downloads that wait for one list which fails: each error has its own attachment."""
    rows = [Row() for _ in range(20)]
    with Batch((FAILURES["nested"].job(server, row) for row in rows), context=context) as batch:
        errors = [plan.error for plan in batch()]
    assert {id(error.attachment) for error in errors if isinstance(error, PreparationError)} == set(map(id, rows))


@importer(7)
def test_a_clone(server: HttpServer, context: Context) -> None:
    """A clone has the attachment of what it was cloned from, the very object, unless it is given another one."""
    download = Download(server.url("/file"), BufferWriter(), attachment=(attachment := Row()), context=context)
    assert download.clone(url=server.url("/other"))().attachment is attachment
    assert download.clone(attachment="another")().attachment == "another"
    assert download.clone(attachment=None)().attachment is None


@importer(7)
def test_a_closed_context(server: HttpServer) -> None:
    """A job that was cancelled because its context was closed has no error of its own: the plan has its download."""
    with Context() as context, Batch([], context=context) as batch:
        assert list(batch()) == []
    with Batch([Download(server.url("/file"), BufferWriter(), context=context, attachment=7)]) as batch:
        (plan,) = batch()
    assert isinstance(plan.error, RuntimeError)
    assert plan.download.attachment == 7


@importer(7)
@pytest.mark.parametrize("kind", FAILURES)
def test_pickles(kind: str, server: HttpServer, context: Context) -> None:
    """A pickled error has an equal attachment; one that cannot be pickled is dropped, and a note tells so."""
    with pytest.raises(DownloadError) as caught:
        FAILURES[kind].job(server, {"id": 7}).clone(context=context)()
    back = pickle.loads(pickle.dumps(caught.value))
    assert (type(back), str(back), back.attachment) == (type(caught.value), str(caught.value), {"id": 7})
    before = getattr(caught.value, "__notes__", [])
    caught.value.attachment = Row()
    back = pickle.loads(pickle.dumps(caught.value))
    assert (type(back), str(back), back.attachment) == (type(caught.value), str(caught.value), None)
    assert back.__notes__ == [*before, "its attachment, a Row, cannot be pickled and was left behind"]
    assert getattr(caught.value, "__notes__", []) == before, "the error itself has lost nothing"


def _released() -> None:
    """Run the collector where Python 3.13 and the libraries leave circles of their own after a lost connection."""
    if sys.version_info >= (3, 12):
        gc.collect()


def _dead(*watched: weakref.ref[Row]) -> bool:
    """Wait until none is alive: a thread may have to let go of it first. The collector runs in newer Pythons only."""
    end = time.monotonic() + 10
    _released()
    while any(each() is not None for each in watched) and time.monotonic() < end:
        time.sleep(0.005)
    return all(each() is None for each in watched)


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Let nothing be freed but by its last reference."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@importer(7)
@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("kind", [None, *FAILURES])
def test_nothing_keeps_it(kind: str | None, server: HttpServer, context: Context) -> None:
    """Once result, error and plan are dropped nothing keeps the attachment, no circle either."""
    failure = FAILURES.get(kind or "", Failure(DownloadError))

    def one() -> weakref.ref[Row]:
        attachment = Row()
        try:
            result = failure.job(server, attachment).clone(context=context)()
            assert result.attachment is attachment
        except DownloadError as error:
            assert error.attachment is attachment  # noqa: PT017
        return weakref.ref(attachment)

    def two() -> weakref.ref[Row]:
        attachment = Row()
        with Batch(iter([failure.job(server, attachment)]), context=context) as batch:
            for plan in batch():
                try:
                    assert plan.result().attachment is attachment
                except DownloadError as error:
                    assert error.attachment is attachment  # noqa: PT017
        return weakref.ref(attachment)

    assert _dead(one())
    assert _dead(two())


@importer(7)
@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("kind", [None, *FAILURES])
async def test_nothing_keeps_it_with_asyncio(kind: str | None, server: HttpServer, here: Context) -> None:
    """The same on a loop."""
    failure = FAILURES.get(kind or "", Failure(DownloadError))

    async def one() -> weakref.ref[Row]:
        attachment = Row()
        try:
            await failure.job(server, attachment).clone(context=here).run()
        except DownloadError as error:
            assert error.attachment is attachment  # noqa: PT017
        return weakref.ref(attachment)

    async def two() -> weakref.ref[Row]:
        attachment = Row()
        async with Batch(iter([failure.job(server, attachment)]), context=here) as batch:
            async for plan in batch():
                try:
                    plan.result()
                except DownloadError as error:
                    assert error.attachment is attachment  # noqa: PT017
        return weakref.ref(attachment)

    for work in (one, two):
        watched = await work()
        for _ in range(100):
            _released()
            if watched() is None:
                break
            await asyncio.sleep(0.005)
        assert watched() is None


@importer(7)
@pytest.mark.usefixtures("uncollected")
def test_errors_that_are_kept_hold_their_attachment_only(server: HttpServer, context: Context) -> None:
    """Who collects errors keeps what is in them: not the plans, and not what the downloads wrote to."""
    writers: list[weakref.ref[BufferWriter]] = []

    def jobs() -> Iterator[Download]:
        for _ in range(5):
            writer = BufferWriter()
            writers.append(weakref.ref(writer))
            yield Download(server.url("/gone"), writer, retries=0, attachment=Row())

    with Batch(jobs(), context=context) as batch:
        errors = [plan.error for plan in batch()]
    assert all(isinstance(error, NotFound) for error in errors)
    end = time.monotonic() + 10
    while any(each() is not None for each in writers) and time.monotonic() < end:
        time.sleep(0.005)
    assert [each() for each in writers] == [None] * 5
