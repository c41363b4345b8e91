"""What is dropped without a word, or is the parent's after a fork, ends as what is left; stubborn plugins are named."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.mem import MemDriver, Reply, context_of, names, until

from downhaul import Batch, BufferWriter, Context, Download, FileWriter, Plugin, PluginError, Result, hookimpl
from downhaul import _cancelling as cancelling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from downhaul import Payload, Transfer

HANGS, QUICK = "mem://home/hangs", "mem://home/quick"
DATA = bytes(300_000)


@pytest.fixture
def driver() -> MemDriver:
    """A driver with a file that never ends, and one that does."""
    driver = MemDriver()
    driver.site(HANGS, Reply(DATA, hang="body"))
    driver.site(QUICK, Reply(DATA))
    return driver


def eventually(condition: Callable[[], object]) -> None:
    """Wait until *condition* holds."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.002)


async def soon(condition: Callable[[], object]) -> None:
    """Wait until *condition* holds, which threads bring about."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


class Jobs:
    """An iterable of jobs that are held in two places, so that only closing it ends it."""

    def __init__(self, target: Path, url: str = HANGS, first: str = QUICK) -> None:
        self._target, self._url, self._first = target, url, first
        self.closed = False

    def __iter__(self) -> Iterator[Download]:
        try:
            for number in range(100):
                yield Download(self._url if number else self._first, FileWriter(self._target / str(number)))
        finally:
            self.closed = True


def nothing_left(driver: MemDriver, context: Context, target: Path) -> bool:
    """Tell whether no job is at work any more."""
    return (
        (driver.live, context.connections_in_use) == (0, 0)
        and not [name for name in names(target) if name.endswith(".part")]
    )  # fmt: skip


# --- dropped ----------------------------------------------------------------------------------------------------


def test_a_batch_that_is_dropped_ends(driver: MemDriver, tmp_path: Path) -> None:
    """``del batch`` of a batch that was entered and not left cancels its jobs, and closes the iterable."""
    jobs = Jobs(tmp_path)
    with context_of(driver) as context:
        batch = Batch(jobs, concurrency=5, backlog=8, context=context).__enter__()
        next(batch())
        eventually(lambda: driver.live == 5)
        del batch
        eventually(lambda: nothing_left(driver, context, tmp_path))
        assert jobs.closed
        assert names(tmp_path) == ["0"]
        assert Download(QUICK, BufferWriter(), context=context)().size == len(DATA)


def test_plans_keep_a_batch(driver: MemDriver, tmp_path: Path) -> None:
    """A batch of which only the plans are held goes on, and ends when they are dropped."""
    with context_of(driver) as context:
        downloads = [Download(QUICK, FileWriter(tmp_path / str(number))) for number in range(20)]
        plans = Batch(downloads, backlog=3, context=context).__enter__()()
        gc.collect()
        assert len(list(plans)) == 20


def test_a_stream_that_is_dropped_ends(driver: MemDriver, tmp_path: Path) -> None:
    """A stream that was entered and not left gives its slot and its file back when it is dropped."""
    with context_of(driver) as context:
        stream = Download(HANGS, FileWriter(tmp_path / "f"), context=context).stream(hold_back=1024).__enter__()
        assert next(stream)
        assert context.connections_in_use == 1
        del stream
        eventually(lambda: nothing_left(driver, context, tmp_path))
        assert names(tmp_path) == []


async def test_a_stream_that_is_dropped_ends_async(driver: MemDriver, tmp_path: Path) -> None:
    """The same on a running loop."""
    async with context_of(driver) as context:
        stream = await Download(HANGS, FileWriter(tmp_path / "f"), context=context).stream(hold_back=1024).__aenter__()
        assert await anext(stream)
        assert context.connections_in_use == 1
        del stream
        await until(lambda: nothing_left(driver, context, tmp_path))


@pytest.mark.parametrize("bridged", [False, True])
async def test_a_batch_that_is_dropped_ends_async(bridged: bool, driver: MemDriver, tmp_path: Path) -> None:
    """The same of an asynchronous batch: no task is destroyed while it is pending."""
    messages: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, about: messages.append(about))
    jobs = Jobs(tmp_path)
    async with contextlib.AsyncExitStack() as stack:
        context = context_of(driver)
        if bridged:
            stack.enter_context(context)
        else:
            await stack.enter_async_context(context)
        batch = await Batch(jobs, concurrency=5, backlog=8, context=context).__aenter__()
        await anext(batch())
        await soon(lambda: driver.live == 5)
        del batch
        gc.collect()
        await soon(lambda: jobs.closed and nothing_left(driver, context, tmp_path))
        gc.collect()
        assert asyncio.all_tasks() == {asyncio.current_task()}
    assert messages == []


def test_the_loop_that_consumed_is_closed(driver: MemDriver, tmp_path: Path) -> None:
    """A loop that is closed in the midst of a batch leaves no job at work in a context of another loop."""
    jobs = Jobs(tmp_path)
    with context_of(driver) as context:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)  # of the task that is destroyed, asyncio tells

        async def consume() -> None:
            batch = await Batch(jobs, concurrency=5, backlog=8, context=context).__aenter__()
            async for _ in batch():
                pass

        task = loop.create_task(consume())
        eventually(lambda: (loop.call_soon(loop.stop), loop.run_forever(), driver.live == 5)[-1])
        loop.close()
        with contextlib.suppress(RuntimeError):
            task.get_coro().close()
        del task
        gc.collect()
        eventually(lambda: nothing_left(driver, context, tmp_path))
        assert Download(QUICK, BufferWriter(), context=context)().size == len(DATA)


@pytest.mark.parametrize("when", range(8))
def test_the_context_is_closed_while_a_batch_is_left(when: int, driver: MemDriver, tmp_path: Path) -> None:
    """Closing the context in another thread while a batch is being left disturbs neither."""
    context = context_of(driver)
    with Batch(Jobs(tmp_path), concurrency=5, backlog=8, context=context) as batch:
        next(batch())
        closer = threading.Timer(when / 2000, context.close)
        closer.start()
        if when % 2:
            time.sleep(when / 2000)
    closer.join()
    assert nothing_left(driver, context, tmp_path)


async def test_a_bound_context_that_is_closed_first(driver: MemDriver, tmp_path: Path) -> None:
    """Jobs of a context of their own end with the batch, also where the context of the batch was closed before."""
    with context_of(driver) as other:
        downloads = [Download(HANGS, FileWriter(tmp_path / str(number)), context=other) for number in range(5)]
        home = context_of(driver)
        await home.__aenter__()
        async with Batch(downloads, context=home) as batch:
            waiting = asyncio.ensure_future(anext(batch()))
            await soon(lambda: driver.live == 5)
            await home.__aexit__(None, None, None)
            waiting.cancel()
            await asyncio.wait([waiting])
        assert nothing_left(driver, other, tmp_path)


# --- one slot ---------------------------------------------------------------------------------------------------


class Asking(Plugin):
    """Asks for a shared value inside of what the driver opened."""

    def __init__(self) -> None:
        self.known = False

    @hookimpl
    async def prepare(self, transfer: Transfer) -> None:
        if self.known:
            await self._value(transfer)

    @hookimpl(wrapper=True)
    def fetch(self, transfer: Transfer) -> Any:
        return self._open(transfer, (yield))

    @contextlib.asynccontextmanager
    async def _open(self, transfer: Transfer, answer: Any) -> AsyncIterator[Payload]:
        async with answer as payload:
            await self._value(transfer)
            yield payload

    async def _value(self, transfer: Transfer) -> int:
        async def factory() -> int:
            writer = BufferWriter()
            return (await transfer.nested(self, QUICK, writer).run()).size

        return await transfer.context.once(self, "value", factory)


@pytest.mark.parametrize("known", [False, True])
async def test_a_shared_value_inside_of_an_answer(known: bool, driver: MemDriver) -> None:
    """`once` inside of what a driver opened is refused, not a deadlock, unless the value is there already."""
    plugin = Asking()
    plugin.known = known
    async with context_of(driver, plugin, connections=1) as context, asyncio.timeout(20):
        download = Download("mem://home/other", BufferWriter(), context=context)
        driver.site("mem://home/other", Reply(DATA))
        if known:
            assert (await download.run()).size == len(DATA)
        else:
            with pytest.raises(PluginError, match=r"context\.once was called inside of what a driver opened"):
                await download.run()


async def test_a_flight_of_another_download_inside_of_an_answer(driver: MemDriver) -> None:
    """A value that another download is making is not waited for inside of an answer: it may need the very slot."""
    plugin, gate = Asking(), asyncio.Event()
    async with context_of(driver, connections=1) as context, asyncio.timeout(20):
        making = asyncio.create_task(context.once(plugin, "value", gate.wait))
        await asyncio.sleep(0)
        with pytest.raises(PluginError, match=r"context\.once"):
            await Download(QUICK, BufferWriter(), context=context, plugins=[plugin]).run()
        gate.set()
        assert await making


# --- cancellations that are swallowed ---------------------------------------------------------------------------


class Swallows(Plugin):
    """Keeps a cancellation to itself, and goes on."""

    def __init__(self, hook: str) -> None:
        self.hook, self.reached = hook, asyncio.Event()

    async def act(self, hook: str) -> None:
        if hook == self.hook:
            self.reached.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    @hookimpl
    async def prepare(self, transfer: Transfer) -> None:
        await self.act("prepare")

    @hookimpl(wrapper=True)
    def fetch(self, transfer: Transfer) -> Any:
        return self._open((yield))

    @contextlib.asynccontextmanager
    async def _open(self, answer: Any) -> AsyncIterator[Payload]:
        await self.act("open")
        async with answer as payload:
            yield payload
            await self.act("leave")

    @hookimpl
    async def validate(self, transfer: Transfer) -> None:
        await self.act("validate")


@pytest.mark.parametrize("hook", ["prepare", "open", "leave", "validate"])
async def test_a_cancellation_that_a_plugin_swallows(hook: str, driver: MemDriver, tmp_path: Path) -> None:
    """A download whose plugin keeps the cancellation to itself and returns is cancelled all the same."""
    plugin = Swallows(hook)
    async with context_of(driver, plugin) as context:
        task = asyncio.create_task(Download(QUICK, FileWriter(tmp_path / "f"), context=context).run())
        await plugin.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert nothing_left(driver, context, tmp_path)
    assert names(tmp_path) == []


async def test_a_cancellation_of_before_is_none_of_the_download(driver: MemDriver) -> None:
    """A task that was cancelled, and downloads something for its clean-up, can."""

    async def work() -> Result | None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            async with context_of(driver, Swallows("")) as context:
                return await Download(QUICK, BufferWriter(), context=context).run()
        return None

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    result = await task
    assert result is not None
    assert result.size == len(DATA)


class Stubborn(Plugin):
    """Does not end, however often it is cancelled, until it is let go."""

    def __init__(self, where: str) -> None:
        self.where, self.reached, self.go = where, threading.Event(), threading.Event()

    async def act(self, where: str) -> None:
        while where == self.where and not self.go.is_set():
            self.reached.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.005)

    @hookimpl
    async def prepare(self, transfer: Transfer) -> None:
        await self.act("prepare")

    @hookimpl(wrapper=True)
    def fetch(self, transfer: Transfer) -> Any:
        return self._open((yield))

    @contextlib.asynccontextmanager
    async def _open(self, answer: Any) -> AsyncIterator[Payload]:
        async with answer as payload:
            await self.act("open")
            yield payload


@pytest.mark.parametrize(("where", "named"), [("prepare", "Stubborn.prepare"), ("open", "Stubborn._open")])
@pytest.mark.parametrize("leave", ["batch", "stream", "context", "call"])
def test_who_does_not_let_a_download_end_is_named(
    where: str, named: str, leave: str, driver: MemDriver, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    """What is left waits for a plugin that ignores its cancellation, and says for whom, again and again."""
    monkeypatch.setattr(cancelling, "PATIENCE", 0.02)
    caplog.set_level(logging.WARNING)
    plugin = Stubborn(where)
    context = context_of(driver, plugin)
    download = Download(QUICK, BufferWriter(), context=context)
    ended = threading.Event()

    def run() -> None:
        if leave == "batch":
            with Batch([download], context=context) as batch:
                batch().__next__.__self__._pull()  # type: ignore[attr-defined]
                assert plugin.reached.wait(20)
        elif leave == "stream":
            with contextlib.suppress(RuntimeError), download.stream():
                pass
        elif leave == "context":
            assert plugin.reached.wait(20)
            context.close()
        else:
            with contextlib.suppress(RuntimeError):
                download()
        ended.set()

    threads = [threading.Thread(target=run)]
    if leave == "context":
        threads.append(threading.Thread(target=lambda: contextlib.suppress(RuntimeError).__enter__() or _run(download)))
    for thread in threads:
        thread.start()
    assert plugin.reached.wait(20)
    if leave in {"stream", "call"}:
        closer = threading.Thread(target=context.close)
        closer.start()
        threads.append(closer)
    eventually(lambda: len(caplog.messages) >= 2)
    assert not ended.is_set()
    assert all("still waited for" in message and named in message for message in caplog.messages)
    plugin.go.set()
    for thread in threads:
        thread.join(20)
    assert ended.is_set()
    context.close()


def _run(download: Download) -> None:
    with contextlib.suppress(RuntimeError):
        download()
