"""A context between threads: closed by one while others use it, from its own threads, and where a loop runs."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import faulthandler
import gc
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import pytest
from tests.core.forms import FORMS, plans_of, wait_until
from tests.mem import MemDriver, Reply, context_of, names

import downhaul
from downhaul import (
    Batch,
    BufferWriter,
    Context,
    Download,
    FileWriter,
    NotFound,
    Plugin,
    Validation,
    Writer,
    hookimpl,
)
from downhaul._loops import Call
from downhaul.plugins import BearerToken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from downhaul import Stream, Transfer

URL = "mem://home/file"
DATA = b"the bytes of the file"


@pytest.fixture(autouse=True)
def hang_guard() -> Iterator[None]:
    """A hang shows where every thread stands."""
    faulthandler.dump_traceback_later(60, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def driver() -> MemDriver:
    """A driver with a file, a large one, and one that never comes to its end."""
    driver = MemDriver()
    driver.site(URL, Reply(DATA))
    driver.site("mem://home/large", Reply(bytes(8 << 20), block=1 << 20))
    driver.site("mem://home/hangs", Reply(DATA, hang="body"))
    return driver


def job(context: Context, **options: Any) -> Download:
    """Return a download of the file."""
    return Download(URL, BufferWriter(), context=context, **options)


class Closing(Writer, Validation):
    """Closes the context from wherever bytes are written or checked."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.position = 0
        self.threads: set[str] = set()

    def open(self, transfer: object) -> Closing:
        return self

    check: Any = lambda self: self

    def write(self, block: object) -> None:
        self.threads.add(threading.current_thread().name)
        self.context.close()

    update = write

    def discard(self) -> None:
        """Nothing was kept."""

    commit = finish = discard


@pytest.mark.parametrize("how", ["provider", "writer", "validation"])
def test_a_context_is_not_closed_from_its_own_threads(how: str, driver: MemDriver) -> None:
    """What runs on a thread of the context and closes it gets an error: it would wait for itself for ever."""
    with Context(drivers={"mem": driver}, retries=0) as context:
        closing = Closing(context)
        options: dict[str, Any] = {
            "provider": {"plugins": [BearerToken(lambda: context.close() or "token")]},
            "writer": {},
            "validation": {"validations": [closing]},
        }[how]
        writer = closing if how == "writer" else BufferWriter()
        with pytest.raises(Exception, match="a hook cannot close the context that it runs in"):
            Download("mem://home/large", writer, context=context, **options)()
        assert all(name.startswith("downhaul_") for name in closing.threads)  # a pool's, not the loop's
        assert job(context)().size == len(DATA)


def test_whoever_closes_waits() -> None:
    """A second thread that closes a context returns when it is closed, not when the first has begun."""
    closing, go_on, log = threading.Event(), threading.Event(), []

    class Slow(MemDriver):
        async def aclose(self) -> None:
            closing.set()
            await asyncio.to_thread(go_on.wait, 30)
            log.append("closed")

    driver = Slow()
    driver.site(URL, Reply(DATA))
    context = Context(drivers={"mem": driver})
    job(context)()
    with ThreadPoolExecutor() as pool:
        first = pool.submit(context.close)
        assert closing.wait(30)
        second = pool.submit(lambda: (context.close(), log.append("second")))
        try:
            with pytest.raises(RuntimeError, match="this context is closed"):
                job(context)()
            assert not second.done()
        finally:
            go_on.set()
        first.result(30)
        second.result(30)
    assert log == ["closed", "second"]


@pytest.mark.parametrize("what", ["batch", "stream", "async batch", "async stream"])
def test_leaving_against_close(what: str, driver: MemDriver) -> None:
    """Who leaves a batch or a stream while another thread closes its context has left it: that is no error."""
    context = Context()

    def enter() -> Any:
        return Batch([job(context)], context=context) if "batch" in what else job(context).stream()

    async def visit(start: threading.Barrier) -> None:
        async with enter():
            start.wait(30)

    def leave(start: threading.Barrier) -> None:
        if "async" in what:
            asyncio.run(visit(start))
            return
        with enter():
            start.wait(30)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(60):
            context, start = Context(drivers={"mem": driver}), threading.Barrier(5)
            leaving = [pool.submit(leave, start) for _ in range(4)]
            start.wait(30)
            context.close()
            for each in leaving:
                each.result(30)
            assert driver.live == 0


def call(context: Context) -> None:
    """Run a download in this thread."""
    job(context)()


def batch(context: Context) -> None:
    """Consume a batch."""
    with Batch((job(context) for _ in range(5)), context=context) as batch:
        for plan in batch():
            plan.result()


def stream(context: Context) -> None:
    """Read a stream."""
    with job(context).stream() as stream:
        assert b"".join(stream) == DATA


def bridge(context: Context) -> None:
    """Await a download on a loop of this thread."""
    asyncio.run(job(context).run())


async def abatch(context: Context) -> None:
    """Consume a batch on a loop."""
    async with Batch((job(context) for _ in range(5)), context=context) as batch:
        async for plan in batch():
            plan.result()


def test_everything_against_close(driver: MemDriver) -> None:
    """Whatever races with two threads that close its context gets its result or a RuntimeError, and nothing hangs."""
    ways: list[Callable[[Context], None]] = [call, batch, stream, bridge, lambda context: asyncio.run(abatch(context))]
    said = set()
    for turn in range(60):
        context, start = Context(drivers={"mem": driver}), threading.Barrier(2 * len(ways) + 2)

        def work(way: Callable[[Context], None]) -> str:
            start.wait(30)  # noqa: B023
            try:
                way(context)  # noqa: B023
            except RuntimeError as reason:
                return str(reason)
            return "done"

        def close(after: int) -> None:
            start.wait(30)  # noqa: B023
            for _ in range(after):
                call_anyway(context)  # noqa: B023
            context.close()  # noqa: B023
            assert context._thread is None or context._thread.loop.is_closed()  # noqa: B023

        with ThreadPoolExecutor(2 * len(ways) + 2) as pool:
            closing = [pool.submit(close, turn % 5), pool.submit(close, turn % 5)]
            works = [pool.submit(work, way) for way in ways * 2]
            said |= {each.result(30) for each in works}
            for each in closing:
                each.result(30)
        assert (driver.live, context.connections_in_use) == (0, 0)
    assert "done" in said
    assert all(reason == "done" or "closed" in reason for reason in said), said
    assert len(said) > 1


tenant: contextvars.ContextVar[object] = contextvars.ContextVar("tenant", default=None)


class Tenants(Plugin):
    """Notes what each hook sees of a context variable."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, object, object]] = []

    def note(self, hook: str, transfer: Transfer) -> None:
        self.seen.append((hook, transfer.download.attachment, tenant.get()))

    @hookimpl
    async def prepare(self, transfer: Transfer) -> None:
        self.note("prepare", transfer)

    @hookimpl
    def fetch(self, transfer: Transfer) -> None:
        self.note("fetch", transfer)

    @hookimpl
    async def validate(self, transfer: Transfer) -> None:
        self.note("validate", transfer)

    @hookimpl
    async def error(self, transfer: Transfer) -> None:
        self.note("error", transfer)

    @hookimpl
    def done(self, transfer: Transfer) -> None:
        self.note("done", transfer)


@pytest.mark.parametrize("form", [*FORMS, "threads"])
def test_hooks_see_the_context_variables_of_their_own_job(form: str, driver: MemDriver) -> None:
    """What was set when a job was handed over (a trace, a tenant) is what its hooks see, and not that of another."""
    tenants = Tenants()
    context = context_of(driver, tenants, retries=0)
    urls = {number: URL if number % 3 else "mem://home/gone" for number in range(30)}

    def jobs() -> Iterator[Download]:
        for number, url in urls.items():
            tenant.set(number)
            yield Download(url, BufferWriter(), attachment=number)

    def alone(number: int) -> None:
        tenant.set(number)
        with contextlib.suppress(NotFound):
            Download(urls[number], BufferWriter(), attachment=number, context=context)()

    with context:
        if form == "threads":
            with ThreadPoolExecutor(10) as pool:
                list(pool.map(alone, urls))
        else:
            plans_of(form, jobs(), concurrency=3, context=context)
    assert len(tenants.seen) == 30 * 4
    assert [each for each in tenants.seen if each[1] != each[2]] == []


def call_anyway(context: Context) -> None:
    """Run a download, if the context still takes one."""
    try:
        job(context)()
    except RuntimeError as reason:
        assert "closed" in str(reason)  # noqa: PT017


def test_an_exception_leaves_nobody_waiting(driver: MemDriver, tmp_path: Path) -> None:
    """A `with` of a context that an exception ends tells all threads that wait for it, and leaves no file."""
    context = Context(drivers={"mem": driver})

    def hang(number: int) -> None:
        Download("mem://home/hangs", FileWriter(tmp_path / str(number)), context=context)()

    def consume() -> None:
        jobs = (Download("mem://home/hangs", BufferWriter()) for _ in range(3))
        with Batch(jobs, context=context) as batch:
            next(batch()).result()

    with ThreadPoolExecutor(9) as pool:
        with pytest.raises(KeyError), context:
            waiting = [*(pool.submit(hang, number) for number in range(8)), pool.submit(consume)]
            while driver.live < 11:
                assert not any(each.done() for each in waiting)
            raise KeyError
        for each in waiting:
            with pytest.raises(RuntimeError, match="closed"):
                each.result(30)
    assert (driver.live, names(tmp_path)) == (0, [])


@pytest.mark.parametrize("form", FORMS)
def test_two_consumers_of_one_stream(form: str, driver: MemDriver) -> None:
    """Of two that ask one stream for a block at the same time, the second is told so; no byte goes to both, or none."""
    driver.site("mem://home/hangs", Reply(bytes(300_000), hang="body"))

    def read(stream: Stream) -> object:
        try:
            return sum(map(len, stream)) if form == "sync" else asyncio.run(count(stream))
        except RuntimeError as reason:
            return str(reason)

    async def count(stream: Stream) -> int:
        return sum([len(block) async for block in stream])

    with ThreadPoolExecutor(4) as pool, Context(drivers={"mem": driver}) as context:
        download = Download("mem://home/hangs", context=context)
        with download.stream() as stream:
            readers = [pool.submit(read, stream) for _ in range(4)]
            wait_until(lambda: sum(each.done() for each in readers) == 3)
            [last] = wait(readers, 0).not_done
        said = [each.result(30) for each in readers if each is not last]
        assert {str(each).partition(":")[0] for each in said} == {
            "two consumers ask one stream for a block at the same time"
        }
        assert str(last.result(30)).startswith("the stream was left")


def test_an_interrupt_when_a_stream_has_just_been_opened(driver: MemDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ctrl-C between the opening of a stream and the return of its `with` leaves nothing open."""
    waiting = Call.wait

    def interrupted(self: Call[Any]) -> None:
        monkeypatch.undo()
        waiting(self)
        raise KeyboardInterrupt

    with Context(drivers={"mem": driver}) as context:
        stream = Download("mem://home/large", context=context).stream()
        monkeypatch.setattr(Call, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stream.__enter__()
        assert (driver.live, context.connections_in_use) == (0, 0)
        assert job(context)().size == len(DATA)


async def test_a_cancellation_when_a_stream_has_just_been_opened(
    driver: MemDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same of a cancellation, where the stream is opened on another loop."""
    arriving = Call.arrive

    async def cancelled(self: Call[Any]) -> None:
        monkeypatch.undo()
        await arriving(self)
        raise asyncio.CancelledError

    with Context(drivers={"mem": driver}) as context:
        stream = Download("mem://home/large", context=context).stream()
        monkeypatch.setattr(Call, "arrive", cancelled)
        with pytest.raises(asyncio.CancelledError):
            await stream.__aenter__()
        assert (driver.live, context.connections_in_use) == (0, 0)


def test_a_stream_goes_from_thread_to_thread(driver: MemDriver) -> None:
    """A stream that one thread entered is read by others, one after the other, and left by another one."""
    with Context(drivers={"mem": driver}) as context, Download("mem://home/large", context=context).stream() as stream:
        blocks: list[bytes] = []
        while sum(map(len, blocks)) < 8 << 20:
            thread = threading.Thread(target=lambda: blocks.append(next(stream)))
            thread.start()
            thread.join(30)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(next, stream, None).result(30) is None
            pool.submit(stream.__exit__).result(30)
        assert stream.result().size == 8 << 20
    assert driver.live == 0


def test_one_download_in_many_threads(driver: MemDriver, tmp_path: Path) -> None:
    """One description may be run by many threads at once: each run is its own, and the file is whole at any time."""
    with Context(drivers={"mem": driver}) as context, ThreadPoolExecutor(8) as pool:
        download = Download("mem://home/large", FileWriter(tmp_path / "file"), digests=["sha256"], context=context)
        results = [pool.submit(download) for _ in range(16)]
        assert len({each.result(60).digests["sha256"] for each in results}) == 1
    assert (tmp_path / "file").stat().st_size == 8 << 20
    assert names(tmp_path) == ["file"]


def test_where_no_thread_is_to_be_had(driver: MemDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A context that cannot have its thread leaves no loop behind, and works once it can."""

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    context = Context(drivers={"mem": driver})
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            job(context)()
    gc.collect()  # an open loop would complain
    with context:
        assert job(context)().size == len(DATA)


async def test_each_synchronous_call_says_what_to_do_on_a_loop(driver: MemDriver, tmp_path: Path) -> None:
    """Where a loop runs, each synchronous call is refused with the words that replace it; nothing is asked for."""

    def enter(what: Any) -> None:
        with what:
            pass

    with Context(drivers={"mem": driver}) as context:
        for call, instead in (
            (lambda: job(context)(), "await download.run()"),
            (lambda: enter(Batch([], context=context)), "async with Batch(…) as batch"),
            (lambda: enter(job(context).stream()), "async with download.stream()"),
            (
                lambda: downhaul.download(URL, tmp_path / "file", context=context),
                "await Download(url, FileWriter(path)).run()",
            ),
        ):
            with pytest.raises(RuntimeError) as raised:
                call()
            assert str(raised.value) == f"an event loop runs in this thread, and waiting would stop it; use `{instead}`"
    assert driver.log == []
    assert names(tmp_path) == []


async def test_a_context_may_be_closed_where_a_loop_runs(driver: MemDriver, tmp_path: Path) -> None:
    """`close()` needs nothing of the loop that runs where it is called: what that awaits in the context is told."""
    context = Context(drivers={"mem": driver})
    waiting = asyncio.create_task(Download("mem://home/hangs", FileWriter(tmp_path / "f"), context=context).run())
    while not driver.live:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    context.close()
    assert (driver.live, names(tmp_path)) == (0, [])
    with pytest.raises(RuntimeError, match="the context was closed while it was at work"):
        await waiting
