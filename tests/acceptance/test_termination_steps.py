"""Cancelled at the n-th step of the event loop, for all n of a short run: nothing is left behind, whatever n is."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import random
import signal
import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.acceptance.leaks import Watch, asynchronous
from tests.acceptance.use_cases import importer
from tests.mem import MemDriver, Reply
from tests.servers.ftp import FtpServer
from tests.servers.http import head, http_server

from downhaul import Batch, BufferWriter, Context, Download, FileWriter, Retries
from downhaul.plugins import BearerToken, MirrorList

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from tests.servers.http import Exchange, HttpServer

STRIDE = 3
_chance = random.Random(5)
SMALL: Final = _chance.randbytes(20_000)
LARGE: Final = _chance.randbytes(1_600_000)  # hashed and written by a thread
TAG: Final = ("ETag", '"v1"')


class Stop(Exception):
    """What a sibling task raises."""


class SteppingLoop(asyncio.SelectorEventLoop):
    """Counts its steps, and does something just before one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.plan: dict[int, Callable[[], object]] = {}
        self.steps = 0
        self.complaints: list[Any] = []
        self.set_exception_handler(lambda _, about: self.complaints.append(about))

    def begin(self, plan: dict[int, Callable[[], object]]) -> None:
        """Count from here on, and call what *plan* has for a step."""
        self.steps, self.plan = 0, plan

    def _run_once(self) -> None:
        self.steps += 1
        act = self.plan.pop(self.steps, None)
        if act is not None:
            act()
        super()._run_once()  # type: ignore[misc]


class World:
    """A server of each kind, and a list of errands that differ from run to run."""

    def __init__(self, http: HttpServer, ftp: FtpServer, target: Path) -> None:
        self.http, self.ftp, self.target = http, ftp, target
        self.driver = MemDriver()
        self.driver.site("mem://home/large", Reply(LARGE, block=256 * 1024))
        self.driver.site("mem://home/small", Reply(SMALL, block=5000))

    def context(self) -> Context:
        """Return a context with all drivers."""
        return Context(drivers={"mem": self.driver}, plugins=[Retries(base=0)])

    def errands(self, run: int) -> Iterator[Download]:
        """Yield downloads: a retry, a redirect, a mirror list and a token, a resume, FTP, memory, a large one."""
        url, target = self.http.url, self.target

        values = iter(["stale", "fresh"])

        async def provider() -> str:
            await asyncio.sleep(0)
            return next(values)

        prefix = url(f"/secret/{run}/")
        mirrors = MirrorList(url(f"/mirrors/{run}"), replaces=prefix)
        tokens = BearerToken(provider, within=url("/"))
        yield self._job(url(f"/flaky/{run}"), "flaky", SMALL)
        yield self._job("mem://home/large", "large", LARGE)
        yield self._job(url("/redirect"), "redirected", SMALL)
        yield self._job(prefix + "file", "secret", SMALL, plugins=[mirrors, tokens])
        yield self._job(url(f"/cut/{run}"), "cut", SMALL)
        yield self._job(self.ftp.url("small"), "ftp", SMALL)
        yield Download("mem://home/small", FileWriter(target / "memory"))

    def _job(self, url: str, name: str, content: bytes, **options: Any) -> Download:
        digests = {"sha256": hashlib.sha256(content).hexdigest()}
        return Download(url, FileWriter(self.target / name), digests=digests, **options)

    def check_published(self) -> int:
        """Hold that what is published is whole; take it away, and return how many files there were."""
        published = list(self.target.iterdir())
        for path in published:
            assert path.read_bytes() == (LARGE if path.name == "large" else SMALL), path
            path.unlink()
        return len(published)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """The servers."""
    turns: Counter[str] = Counter()

    async def script(exchange: Exchange) -> None:
        path = exchange.target
        turns[path] += 1
        if path.startswith("/flaky") and turns[path] == 1:
            await exchange.respond(503, b"later")
        elif path == "/redirect":
            await exchange.respond(302, headers=[("Location", "/file")])
        elif path.startswith("/mirrors"):
            base = f"http://{exchange.header('Host')}"
            await exchange.respond(200, f"{base}/none/\n{base}/ok/\n".encode())
        elif path.startswith("/none"):
            await exchange.respond(404)
        elif path.startswith("/ok") and exchange.header("Authorization") != "Bearer fresh":
            turns["denied"] += 1
            await exchange.respond(401)
        elif path.startswith("/cut") and turns[path] == 1:
            await exchange.send(head(200, [("Content-Length", str(len(SMALL))), TAG, ("Accept-Ranges", "bytes")]))
            await exchange.send(SMALL[:8000])
            await exchange.reset()
        elif (wanted := exchange.header("Range")) is not None:
            first = int(wanted.removeprefix("bytes=").rstrip("-"))
            part = ("Content-Range", f"bytes {first}-{len(SMALL) - 1}/{len(SMALL)}")
            await exchange.respond(206, SMALL[first:], [part, TAG])
        else:
            await exchange.respond(200, SMALL, [TAG])

    target = tmp_path / "target"
    target.mkdir()
    with http_server(script) as http, FtpServer({"small": SMALL}) as ftp:
        yield World(http, ftp, target)


# --- what is cancelled ------------------------------------------------------------------------------------------


async def by_batch(world: World, context: Context, watch: Watch, run: int) -> None:
    """Run the errands as a batch, from an async generator."""
    errands = watch.closing(asynchronous(watch.closing(world.errands(run))))
    async with Batch(errands, concurrency=4, backlog=6, context=context) as batch:
        async for plan in batch():
            plan.result()


async def by_run(world: World, context: Context, watch: Watch, run: int) -> None:
    """Run one errand after the other."""
    for download in world.errands(run):
        download.context = context
        await download.run()


async def by_stream(world: World, context: Context, watch: Watch, run: int) -> None:
    """Stream one errand after the other, teeing to its file."""
    for download in world.errands(run):
        download.context = context
        async with download.stream(hold_back=4096) as stream:
            async for _ in stream:
                pass


# --- how --------------------------------------------------------------------------------------------------------


def once(loop: SteppingLoop, work: asyncio.Task[None], n: int) -> dict[int, Callable[[], object]]:
    """Cancel at the n-th step."""
    return {n: work.cancel}


def twice(loop: SteppingLoop, work: asyncio.Task[None], n: int) -> dict[int, Callable[[], object]]:
    """Cancel at the n-th step, and again a little later."""
    return {n: work.cancel, n + 1 + n % 4: work.cancel}


def by_a_sibling(loop: SteppingLoop, work: asyncio.Task[None], n: int) -> dict[int, Callable[[], object]]:
    """Let a sibling in a TaskGroup fail at the n-th step."""

    def fail() -> None:
        for task in asyncio.all_tasks(loop):
            if isinstance(failure := getattr(task, "failure", None), asyncio.Future) and not failure.done():
                failure.set_exception(Stop())

    return {n: fail}


async def _with_a_sibling(work: Coroutine[Any, Any, None]) -> None:
    failure = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:

        async def sibling() -> None:
            await failure

        other = group.create_task(sibling())
        asyncio.current_task().failure = failure  # type: ignore[union-attr]
        try:
            await work
        finally:
            other.cancel()


@contextmanager
def stepping(world: World, bound: bool) -> Iterator[tuple[SteppingLoop, Context, Watch]]:
    """Give a loop, a context on it or with a loop of its own, and a watch over both, which finds nothing at the end."""
    servers = {"http": world.http.port, "ftp": world.ftp.port}
    watch = Watch(world.target, servers=servers)
    loop = SteppingLoop()
    context = watch.using(world.context())
    try:
        if bound:
            loop.run_until_complete(context.__aenter__())
        # Once undisturbed: what is imported and kept from now on is no leak.
        loop.run_until_complete(Download(world.http.url("/file"), BufferWriter(), context=context).run())
        yield loop, context, watch
        loop.run_until_complete(Download(world.ftp.url("small"), BufferWriter(), context=context).run())
        if bound:
            loop.run_until_complete(context.__aexit__(None, None, None))
        else:
            context.close()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
    gc.collect()
    watch.check()
    assert loop.complaints == []


def _cancelled_at(world: World, way: Any, how: Any, bound: bool, stride: int) -> None:
    finished = cancelled = published = 0
    n = 1
    with stepping(world, bound) as (loop, context, watch):
        while finished < 2:
            work = way(world, context, watch, n)
            task = loop.create_task(_with_a_sibling(work) if how is by_a_sibling else work)
            loop.begin(how(loop, task, n))
            loop.run_until_complete(asyncio.wait((task,), timeout=20))
            assert task.done(), f"it hangs when it is cancelled at step {n}"
            ended = task.cancelled() or isinstance(task.exception(), ExceptionGroup)
            assert ended or task.exception() is None, task.exception()
            loop.begin({})
            loop.run_until_complete(watch.acheck_work())
            assert loop.complaints == [], n
            cancelled += ended
            finished += not ended
            published += world.check_published()
            watch.forget()
            n += stride
    assert cancelled > (30 if bound else 10) // stride, "it was cancelled in the midst of things, often"
    assert published


WAYS = [by_batch, by_run, by_stream]
HOW = [once, twice, by_a_sibling]


@importer(12, "asyncio")
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("way", WAYS)
def test_cancelled_at_many_steps(way: Any, how: Any, world: World) -> None:
    """At some of the steps: no task, socket, file or slot is left, no generator open, and the context works on."""
    _cancelled_at(world, way, how, bound=True, stride=STRIDE if way is by_batch else 3 * STRIDE)


@pytest.mark.large
@importer(12, "asyncio")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("bound", [True, False], ids=["bound", "bridged"])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("way", WAYS)
def test_cancelled_at_every_step(way: Any, how: Any, bound: bool, world: World) -> None:
    """The same at every step, also where the context has a loop of its own."""
    _cancelled_at(world, way, how, bound, stride=1)


# --- Ctrl-C at a step of the context's loop ---------------------------------------------------------------------


def sync_batch(world: World, context: Context, watch: Watch, run: int) -> None:
    """Run the errands as a batch, from a generator."""
    with Batch(watch.closing(world.errands(run)), concurrency=4, backlog=6, context=context) as batch:
        for plan in batch():
            plan.result()


def sync_calls(world: World, context: Context, watch: Watch, run: int) -> None:
    """Call one errand after the other."""
    for download in world.errands(run):
        download.context = context
        download()


def sync_streams(world: World, context: Context, watch: Watch, run: int) -> None:
    """Stream one errand after the other, teeing to its file."""
    for download in world.errands(run):
        download.context = context
        with download.stream(hold_back=4096) as stream:
            for _ in stream:
                pass


def _interrupt() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def _interrupted_at(world: World, way: Any, again: bool, stride: int) -> None:
    finished = interrupted = published = 0
    n = 1
    watch = Watch(world.target, servers={"http": world.http.port, "ftp": world.ftp.port})
    loop = SteppingLoop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", lambda: loop)
        context = watch.using(world.context())
        Download(world.http.url("/file"), BufferWriter(), context=context)()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with context:
            while finished < 2:
                ended = False
                try:
                    plan = {n: _interrupt, **({n + 1 + n % 4: _interrupt} if again else {})}
                    loop.call_soon_threadsafe(loop.begin, plan)
                    way(world, context, watch, n)
                    loop.begin({})
                    time.sleep(0.001)  # a signal on its way arrives
                except KeyboardInterrupt:
                    ended = True
                    loop.begin({})
                gc.collect()
                watch.check_work()
                interrupted += ended
                finished += not ended
                published += world.check_published()
                watch.forget()
                assert Download(world.ftp.url("small"), BufferWriter(), context=context)().size == len(SMALL)
                n += stride
    finally:
        signal.signal(signal.SIGINT, before)
    watch.check()
    assert loop.complaints == []
    assert interrupted > 30 // stride, "it was interrupted in the midst of things, often"
    assert published


SYNC_WAYS = [sync_batch, sync_calls, sync_streams]
AGAIN = pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])


@importer(12)
@AGAIN
@pytest.mark.parametrize("way", SYNC_WAYS)
def test_interrupted_at_many_steps(way: Any, again: bool, world: World) -> None:
    """Ctrl-C at some of the steps of the context's loop: nothing is left, and the context works on."""
    _interrupted_at(world, way, again, stride=2 * STRIDE if way is sync_batch else 4 * STRIDE)


@pytest.mark.large
@importer(12)
@pytest.mark.timeout(600)
@AGAIN
@pytest.mark.parametrize("way", SYNC_WAYS)
def test_interrupted_at_every_step(way: Any, again: bool, world: World) -> None:
    """The same at every step."""
    _interrupted_at(world, way, again, stride=1)
